"""`index.json` of an image layout: what it lists and under which names, each entry as it stands.

A cache of 100,000 packages has 27 MB of it. Nobody needs more of an entry than its name until it is asked for, so
entries stay text, also when they are written again: what others put into them is not touched.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from oci_binpkg.errors import ContentError
from oci_binpkg.model.content import OCI_INDEX, Descriptor, Digest
from oci_binpkg.model.documents import canonical_json, list_of, parse_json

REF_NAME: Final = "org.opencontainers.image.ref.name"
_SCHEMA_VERSION: Final = 2
_SHOWN: Final = 5
_JOINED: Final = 1024
_MANIFESTS: Final = "manifests"
_PLAIN: Final = (
    rb'\{"mediaType":"[ !#-\[\]-~]*+","digest":"[ !#-\[\]-~]*+","size":(?:0|[1-9][0-9]{0,15}+)'
    rb'(?:,"annotations":\{"org\.opencontainers\.image\.ref\.name":"[ !#-\[\]-~]*+"\})?+\}'
)
"""An entry as most tools write it: nothing in it needs a strict look."""
_PLAIN_ENTRIES: Final = re.compile(rb"%b(?:,%b)*+" % (_PLAIN, _PLAIN))


class LayoutIndex:
    """A value: the text of each entry by name (several may have one), of those without a name, and other members."""

    def __init__(
        self,
        members: Mapping[str, msgspec.Raw],
        named: dict[str, tuple[msgspec.Raw, ...]],
        nameless: list[msgspec.Raw],
    ) -> None:
        self._members = members
        self._named = named
        self._nameless = nameless

    @classmethod
    def empty(cls) -> LayoutIndex:
        """Return the index of a new layout."""
        members = {"schemaVersion": _SCHEMA_VERSION, "mediaType": OCI_INDEX, _MANIFESTS: []}
        return cls({key: _raw(value) for key, value in members.items()}, {}, [])

    @classmethod
    def parse(cls, data: bytes, path: str) -> LayoutIndex:
        """Take the text apart. Raises `ContentError` naming `path`; what may be wrong with an entry shows later."""
        # All else is read strictly. An object in the place of another leaves right what was right, and wrong what was.
        rest = parse_json(_PLAIN_ENTRIES.sub(b"{}", data), path, fold_case=False)
        version = rest.get("schemaVersion")
        if type(version) is not int or version != _SCHEMA_VERSION:
            raise ContentError(f"{path}: schemaVersion {str(version)[:20]!r}; only {_SCHEMA_VERSION} is understood")
        if not all(isinstance(entry, dict) for entry in list_of(rest, _MANIFESTS, path)):
            raise ContentError(f"{path}.manifests: objects are expected")
        try:
            members = _MEMBERS.decode(data)
            entries = _ENTRIES.decode(members[_MANIFESTS])
        except _NOT_JSON as error:
            raise ContentError(f"{path}: not valid JSON: {str(error)[:200]}") from None
        members[_MANIFESTS] = msgspec.Raw(b"[]")
        named: dict[str, tuple[msgspec.Raw, ...]] = {}
        nameless = []
        for entry in entries:
            name = _name_of(entry)
            if name:
                named[name] = (*named.get(name, ()), entry)
            else:
                nameless.append(entry)
        return cls(members, named, nameless)

    @property
    def names(self) -> Iterable[str]:
        """The names, each once, in no order."""
        return self._named.keys()

    @property
    def is_empty(self) -> bool:
        """Whether it lists nothing."""
        return not self._named and not self._nameless

    @property
    def offer(self) -> str:
        """What to say to somebody who asked for a name that is not there."""
        shown = ", ".join(ascii(name[:140]) for name in heapq.nsmallest(_SHOWN, self._named))
        more = f" and {len(self._named) - _SHOWN} more" if len(self._named) > _SHOWN else ""
        return f"it has {shown}{more}" if shown else "it has no tags"

    def named(self, name: str) -> list[dict[str, Any]]:
        """Return the entries of a name, each manifest once."""
        entries = (_parsed(entry) for entry in self._named.get(name, ()))
        return list({str(entry.get("digest")): entry for entry in entries}.values())

    def with_digest(self, digest: Digest) -> dict[str, Any] | None:
        """Return an entry of a manifest, or None."""
        wanted = str(digest)
        for text in self._entries():
            if wanted.encode() in bytes(text):
                entry = _parsed(text)
                if entry.get("digest") == wanted:
                    return entry
        return None

    def tagged(self, tags: Mapping[str, Descriptor]) -> LayoutIndex:
        """Return an index in which names stand for these manifests alone; itself, if that is so already."""
        changed = {tag: _retagged(self._named.get(tag, ()), descriptor, tag) for tag, descriptor in tags.items()}
        if all(self._named.get(tag) == entries for tag, entries in changed.items()):
            return self
        return LayoutIndex(self._members, self._named | changed, self._nameless)

    def without(self, name: str) -> LayoutIndex | None:
        """Return an index without a name; None if there is no such name."""
        if name not in self._named:
            return None
        kept = {each: entries for each, entries in self._named.items() if each != name}
        return LayoutIndex(self._members, kept, self._nameless)

    def chunks(self) -> Iterator[bytes]:
        """Encode: entries by their names, those without one at the end, in the order in which they stood."""
        before = b"{"
        for key, value in self._members.items():
            yield b"%b%b:" % (before, canonical_json({key: 0})[1:-3])
            before = b","
            if key != _MANIFESTS:
                yield bytes(value)
                continue
            yield b"["
            yield from _listed(self._entries())
            yield b"]"
        yield b"}"

    def _entries(self) -> Iterator[msgspec.Raw]:
        for name in sorted(self._named):
            yield from self._named[name]
        yield from self._nameless


class _Annotations(msgspec.Struct, gc=False):
    name: str = msgspec.field(default="", name=REF_NAME)


class _Entry(msgspec.Struct, gc=False):
    annotations: _Annotations | None = None


_MEMBERS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ENTRIES: Final = msgspec.json.Decoder(list[msgspec.Raw])
_ENTRY: Final = msgspec.json.Decoder(_Entry)
_NOT_JSON: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def _name_of(entry: msgspec.Raw) -> str:
    try:
        found = _ENTRY.decode(entry).annotations
    except _NOT_JSON:
        # of an unusual shape
        annotations = _parsed(entry).get("annotations")
        name = annotations.get(REF_NAME) if isinstance(annotations, dict) else None
        return name if isinstance(name, str) else ""
    return found.name if found else ""


def _parsed(entry: msgspec.Raw) -> dict[str, Any]:
    return parse_json(bytes(entry), "an entry of index.json", fold_case=False)


def _raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(canonical_json({"": value})[4:-1])


def _retagged(entries: tuple[msgspec.Raw, ...], descriptor: Descriptor, tag: str) -> tuple[msgspec.Raw, ...]:
    """Return the one entry of a tag: that which is there, if it is of this manifest, else a new one."""
    named = {**descriptor.to_json(), "annotations": {**descriptor.annotations, REF_NAME: tag}}
    for text in entries:
        entry = _parsed(text)
        if all(entry.get(key) == named[key] for key in ("mediaType", "digest", "size")):
            return (text,)
    return (_raw(named),)


def _listed(entries: Iterable[msgspec.Raw]) -> Iterator[bytes]:
    """Put commas between entries; pieces of some size are yielded."""
    held: list[bytes] = []
    for number, entry in enumerate(entries):
        held.append(b",%b" % bytes(entry) if number else bytes(entry))
        if len(held) == _JOINED:
            yield b"".join(held)
            held.clear()
    yield b"".join(held)
