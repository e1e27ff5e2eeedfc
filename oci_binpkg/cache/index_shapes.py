"""The parts of an index as msgspec decodes them: only what is looked at, whatever else stands there."""

from __future__ import annotations

from typing import Any, Final

import msgspec


class _Edge(msgspec.Struct, gc=False):
    hash: str


class _Needs(msgspec.Struct, gc=False):
    dependencies: tuple[_Edge, ...] | None = None


class _RecordNeeds(msgspec.Struct, gc=False):
    spec: _Needs


class _Named(msgspec.Struct, gc=False):
    name: str
    hash: str


class _Outline(msgspec.Struct, gc=False):
    spec: _Named
    in_buildcache: Any = None


class _Mark(msgspec.Struct, gc=False):
    in_buildcache: Any = None


class _Record(msgspec.Struct, gc=False):
    spec: msgspec.Raw = msgspec.Raw(b"null")


TEXT: Final = msgspec.json.Decoder(str)
NEEDS: Final = msgspec.json.Decoder(_Needs)
RECORD_NEEDS: Final = msgspec.json.Decoder(_RecordNeeds)
OUTLINE: Final = msgspec.json.Decoder(_Outline)
MARK: Final = msgspec.json.Decoder(_Mark)
RECORD: Final = msgspec.json.Decoder(_Record)
PARTS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
NOT_JSON: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
NOTHING: Final = msgspec.Raw(b"null")
