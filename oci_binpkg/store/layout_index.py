"""`index.json` of an image layout: what it lists and under which names, each entry as it stands.

A cache of 100,000 packages has 27 MB of it. Only the name of an entry is needed until it is asked for, so
entries stay text, also when they are written again: what others put into them is not touched. Of an entry in the form
that we and most tools write, what is kept is a third of its text, and makes just that text again.
"""

from __future__ import annotations

import heapq
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

import msgspec

from oci_binpkg.errors import ContentError
from oci_binpkg.model.content import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Descriptor, Digest
from oci_binpkg.model.documents import canonical_json, list_of, parse_json

REF_NAME: Final = "org.opencontainers.image.ref.name"
_FULL_NAME: Final = "io.containerd.image.name"
_OWN_TAGS: Final = ".spack"
_USUAL_TAG: Final = "latest"
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
_TYPES: Final = tuple(each.encode() for each in (OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST))
_USUAL_TEXT: Final = (
    b'{"mediaType":"%b","digest":"sha256:%b","size":%d,"annotations":{"org.opencontainers.image.ref.name":"%b"}}'
)
_USUAL: Final = re.compile(
    rb'\{"mediaType":"([a-z0-9.+/-]+)","digest":"sha256:([0-9a-f]{64})","size":(0|[1-9][0-9]{0,15})'
    rb',"annotations":\{"org\.opencontainers\.image\.ref\.name":"([ !#-\[\]-~]+)"\}\}'
)
_PACKED: Final = struct.Struct(">B32sQ")
_Kept = bytes
"""An entry: packed (its type's number, digest and size; the name is known), or its text, which begins with `{`."""


class LayoutIndex:
    """A value: each entry by its name, further ones of that name, those without a name, and other members."""

    def __init__(
        self,
        members: Mapping[str, bytes],
        first: dict[str, _Kept],
        further: Mapping[str, Sequence[_Kept]],
        nameless: list[bytes],
    ) -> None:
        self._members = members
        self._first = first
        self._further = further
        self._nameless = nameless

    @classmethod
    def empty(cls) -> LayoutIndex:
        """Return the index of a new layout."""
        members = {"schemaVersion": _SCHEMA_VERSION, "mediaType": OCI_INDEX, _MANIFESTS: []}
        return cls({key: _text(value) for key, value in members.items()}, {}, {}, [])

    @classmethod
    def parse(cls, data: bytes, path: str) -> LayoutIndex:
        """Parse the text. Raises `ContentError` naming `path`; mistakes in an entry show later."""
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
            members[_MANIFESTS] = _NOTHING
        except _NOT_JSON as error:
            raise ContentError(f"{path}: not valid JSON: {str(error)[:200]}") from None
        first: dict[str, _Kept] = {}
        further: dict[str, list[_Kept]] = {}
        nameless = []
        for text in entries:
            name, kept = _kept(text)
            if not name:
                nameless.append(kept)
            elif name in first:
                further.setdefault(name, []).append(kept)
            else:
                first[name] = kept
        return cls({key: bytes(value) for key, value in members.items()}, first, further, nameless)

    @property
    def names(self) -> Iterable[str]:
        """The names, each once, in no order."""
        return self._first.keys()

    @property
    def is_empty(self) -> bool:
        """Whether it lists nothing."""
        return not self._first and not self._nameless

    @property
    def offer(self) -> str:
        """The hint for a name that is absent: the names that are there."""
        shown = ", ".join(ascii(name[:140]) for name in heapq.nsmallest(_SHOWN, self._first))
        more = f" and {len(self._first) - _SHOWN} more" if len(self._first) > _SHOWN else ""
        return f"it has {shown}{more}" if shown else "it has no tags"

    def named(self, name: str) -> list[dict[str, Any]]:
        """Return the entries of a name, each manifest once."""
        entries = (_parsed(text) for text in self._texts(name))
        return list({str(entry.get("digest")): entry for entry in entries}.values())

    def alike(self, tag: str) -> list[dict[str, Any]]:
        """Return the entries that other tools call by a full name with this tag, each manifest once.

        podman writes `docker.io/library/debian:12` as the name, docker and buildx beside it; skopeo and umoci name
        none, which is the image that is meant by default if there is no other. Packages have no such names.
        """
        if tag.endswith(_OWN_TAGS):
            return []
        end = f":{tag}"
        texts = [text for name in self._first if name.endswith(end) for text in self._texts(name)]
        entries = [_parsed(text) for text in texts or self._nameless]
        if not texts:
            entries = [entry for entry in entries if _full_name(entry).endswith(end)] or (
                entries if tag == _USUAL_TAG and not self._first else []
            )
        return list({str(entry.get("digest")): entry for entry in entries}.values())

    def with_digest(self, digest: Digest) -> dict[str, Any] | None:
        """Return an entry of a manifest, or None."""
        wanted = str(digest)
        for text in self._entries():
            if wanted.encode() in text:
                entry = _parsed(text)
                if entry.get("digest") == wanted:
                    return entry
        return None

    def tagged(self, tags: Mapping[str, Descriptor]) -> LayoutIndex:
        """Return an index in which names stand for these manifests alone; itself, if that is so already."""
        changed = {tag: self._retagged(descriptor, tag) for tag, descriptor in tags.items()}
        if all(self._first.get(tag) == kept and tag not in self._further for tag, kept in changed.items()):
            return self
        further = {name: kept for name, kept in self._further.items() if name not in changed}
        return LayoutIndex(self._members, self._first | changed, further, self._nameless)

    def without(self, name: str) -> LayoutIndex | None:
        """Return an index without a name; None if there is no such name."""
        if name not in self._first:
            return None
        first = {each: kept for each, kept in self._first.items() if each != name}
        further = {each: kept for each, kept in self._further.items() if each != name}
        return LayoutIndex(self._members, first, further, self._nameless)

    def chunks(self) -> Iterator[bytes]:
        """Encode: entries by their names, those without one at the end, in the order in which they stood."""
        before = b"{"
        for key, value in self._members.items():
            yield b"%b%b:" % (before, canonical_json({key: 0})[1:-3])
            before = b","
            if key != _MANIFESTS:
                yield value
                continue
            yield b"["
            yield from _listed(self._entries())
            yield b"]"
        yield b"}"

    def _entries(self) -> Iterator[bytes]:
        for name in sorted(self._first):
            yield from self._texts(name)
        yield from self._nameless

    def _texts(self, name: str) -> Iterator[bytes]:
        if name in self._first:
            yield from (_unpacked(kept, name) for kept in (self._first[name], *self._further.get(name, ())))

    def _retagged(self, descriptor: Descriptor, tag: str) -> _Kept:
        """Return the entry of a tag: the present one if it names this manifest, else a new one."""
        named = {**descriptor.to_json(), "annotations": {**descriptor.annotations, REF_NAME: tag}}
        for text in self._texts(tag):
            entry = _parsed(text)
            if all(entry.get(key) == named[key] for key in ("mediaType", "digest", "size")):
                return _packed(text) or text
        text = _text(named)
        return _packed(text) or text


class _ManifestAnnotations(msgspec.Struct, gc=False):
    name: str = msgspec.field(default="", name=REF_NAME)


class _ManifestEntry(msgspec.Struct, gc=False):
    annotations: _ManifestAnnotations | None = None


_MEMBERS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ENTRIES: Final = msgspec.json.Decoder(list[msgspec.Raw])
_ENTRY: Final = msgspec.json.Decoder(_ManifestEntry)
_NOT_JSON: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


_NOTHING: Final = msgspec.Raw(b"[]")


def _kept(entry: msgspec.Raw) -> tuple[str, _Kept]:
    """Return the name of an entry, "" if it has none, and what is kept of it."""
    text = bytes(entry)
    try:
        found = _ENTRY.decode(text).annotations
    except _NOT_JSON:
        # of an unusual shape
        annotations = _parsed(text).get("annotations")
        name = annotations.get(REF_NAME) if isinstance(annotations, dict) else None
        return name if isinstance(name, str) else "", text
    name = found.name if found else ""
    return name, _packed(text) or text


def _packed(text: bytes) -> _Kept | None:
    """Pack an entry if it is of the usual form, so that `_unpacked` gives the same text."""
    usual = _USUAL.fullmatch(text)
    if usual is None or usual[1] not in _TYPES:
        return None
    return _PACKED.pack(_TYPES.index(usual[1]), bytes.fromhex(usual[2].decode()), int(usual[3]))


def _unpacked(kept: _Kept, name: str) -> bytes:
    if kept.startswith(b"{"):
        return kept
    number, digest, size = _PACKED.unpack(kept)
    return _USUAL_TEXT % (_TYPES[number], digest.hex().encode(), size, name.encode())


def _full_name(entry: Mapping[str, Any]) -> str:
    annotations = entry.get("annotations")
    name = annotations.get(_FULL_NAME) if isinstance(annotations, dict) else None
    return name if isinstance(name, str) else ""


def _parsed(entry: bytes) -> dict[str, Any]:
    return parse_json(entry, "an entry of index.json", fold_case=False)


def _text(value: object) -> bytes:
    return canonical_json({"": value})[4:-1]


def _listed(entries: Iterable[bytes]) -> Iterator[bytes]:
    """Put commas between entries; pieces of some size are yielded."""
    left = iter(entries)
    comma = b""
    while some := list(islice(left, _JOINED)):
        yield comma + b",".join(some)
        comma = b","
