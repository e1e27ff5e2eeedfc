"""The index document of a cache: a database of specs, cut down to what a reader of a cache needs.

Source: Spack's `index.json` (database versions 6 to 8) as it stands in caches: `spec`, `ref_count`, `in_buildcache`.
"""

from __future__ import annotations

import gc
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final, Protocol, TypeVar

import msgspec

from oci_binpkg.cache.damage import REBUILD, hinted
from oci_binpkg.errors import ContentError
from oci_binpkg.model.content import Digest
from oci_binpkg.model.documents import canonical_json, object_of, parse_json, text_of
from oci_binpkg.model.spec import Spec, SpecGraph, parse_node

VERSION_OF_FORMAT: Final = {5: "8", 4: "7", 3: "6", 2: "6", 1: "6"}
FORMAT_OF_VERSION: Final = {"8": 5, "7": 4, "6": 3}
_Value = TypeVar("_Value")
MAX_INDEX_BYTES: Final = 1024 * 1024 * 1024


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Keep the cycle collector from going through millions of new objects, all of which stay: half of the time.

    Afterwards they count as old, as if it had gone through them; else it would do so at the next occasion.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            if not gc.get_freeze_count():  # else somebody has objects frozen who wants them to stay so
                gc.freeze()
                gc.unfreeze()
            gc.enable()


class Record(Protocol):
    """A package in an index. Written again, what was read of it stands there as it was, unknown members included."""

    @property
    def spec(self) -> Spec:
        """Its spec. Raises `ContentError` if it was not read before and cannot be."""
        ...

    @property
    def in_cache(self) -> bool:
        """Whether its layer is in the cache, or it is only needed by one that is."""
        ...

    @property
    def raw(self) -> Mapping[str, Any]:
        """Members that are not known here."""
        ...

    @property
    def needs(self) -> Iterable[str]:
        """The hashes of its dependencies."""
        ...

    def node_bytes(self) -> bytes:
        """Return its node as it is written."""
        ...

    def marked(self, *, in_cache: bool) -> Record:
        """Return the record with another mark."""
        ...


@dataclass(frozen=True, slots=True)
class IndexRecord:
    """A record with its spec."""

    spec: Spec
    in_cache: bool
    raw: Mapping[str, Any] = field(default_factory=dict)

    @property
    def needs(self) -> Iterable[str]:
        """The hashes of its dependencies."""
        return [edge.hash for edge in self.spec.dependencies]

    def node_bytes(self) -> bytes:
        """Return its node as it is written."""
        return canonical_json(self.spec.node)

    def marked(self, *, in_cache: bool) -> IndexRecord:
        """Return the record with another mark."""
        return replace(self, in_cache=in_cache)


@dataclass(frozen=True, slots=True)
class OpenedRecord:
    """A record whose node was looked into, but not parsed: it is written again as it stands."""

    node: msgspec.Raw
    form: int
    where: str
    in_cache: bool
    needs: tuple[str, ...]
    raw: Mapping[str, Any]

    @property
    def spec(self) -> Spec:
        """The spec, parsed now. Raises `ContentError`."""
        return parse_node(parse_json(bytes(self.node), self.where, fold_case=False), self.form, self.where)

    def node_bytes(self) -> bytes:
        """Return its node as it is written."""
        return bytes(self.node)

    def marked(self, *, in_cache: bool) -> OpenedRecord:
        """Return the record with another mark."""
        return replace(self, in_cache=in_cache)


@dataclass(frozen=True, slots=True)
class IndexDocument:
    """All records of an index by hash. `digest` is that of the bytes it was read from."""

    version: str
    records: Mapping[str, Record]
    digest: Digest | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def graph(self) -> SpecGraph:
        """The specs of all records."""
        return SpecGraph(record.spec for record in self.records.values())

    def packages(self) -> Iterator[Spec]:
        """Iterate over the specs whose layers are in the cache."""
        return (record.spec for record in self.records.values() if record.in_cache)

    def present(self) -> set[str]:
        """Return the hashes of the packages whose layers are in the cache."""
        return {package_hash for package_hash, record in self.records.items() if record.in_cache}

    def holds(self, other: IndexDocument) -> bool:
        """Tell whether all records of `other` are here, its packages as packages."""
        return other.records.keys() <= self.records.keys() and other.present() <= self.present()

    def merged(self, added: IndexDocument) -> IndexDocument:
        """Return this index with `added` merged in: nothing is dropped, a package once there stays there."""
        records = dict(self.records)
        for package_hash, record in added.records.items():
            known = records.get(package_hash)
            if known is None or (record.in_cache and not known.in_cache):
                records[package_hash] = record if known is None else known.marked(in_cache=True)
        return IndexDocument(max(self.version, added.version, key=int), records, None, self.extra)

    def to_bytes(self) -> bytes:
        """Encode compactly, reference counts recomputed over all records."""
        with _collector_paused():
            counts = Counter(needed for record in self.records.values() for needed in record.needs)
            installs = b",".join(
                _record_bytes(package_hash, record, counts[package_hash])
                for package_hash, record in self.records.items()
            )
            version = canonical_json({"version": self.version})[1:-1]
            return b'{"database":{%b,"installs":{%b}%b}}' % (version, installs, _members(self.extra, before=b","))


EMPTY: Final = IndexDocument("8", {})


@dataclass(frozen=True)
class IndexBytes:
    """An index as it was read; `digest` is what the cache calls this state of it, `what` is how errors call it."""

    data: bytes
    digest: Digest
    what: str = "index"

    @cached_property
    @hinted(REBUILD)
    def opened(self) -> IndexDocument:
        """The index taken apart into records only. Raises `ContentError`; so may a record's spec."""
        return replace(open_index(self.data, self.what), digest=self.digest)


class LastIndex:
    """The index of a cache as it was last read or written, so that the same one is not read again.

    `what` is how errors call it. A state of it has a digest, and `read` gets its bytes.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._bytes: IndexBytes | None = None
        self._parsed = EMPTY
        self._written = EMPTY

    @hinted(REBUILD)
    def read(self, digest: Digest, read: Callable[[], bytes]) -> IndexBytes:
        """Return its bytes."""
        known = self._bytes
        if known is None or known.digest != digest:
            known = self._bytes = IndexBytes(read(), digest, self._what)
        return known

    def opened(self, digest: Digest, read: Callable[[], bytes]) -> IndexDocument:
        """Return it to be changed: its records are taken as they stand."""
        written = self._written
        return written if written.digest == digest else self.read(digest, read).opened

    @hinted(REBUILD)
    def parsed(self, digest: Digest, read: Callable[[], bytes]) -> IndexDocument:
        """Return it with all its specs."""
        index = self._parsed
        if index.digest != digest:
            known = self._bytes
            data = known.data if known is not None and known.digest == digest else read()
            index = self._parsed = replace(parse_index(data, self._what), digest=digest)
        return index

    def keep(self, index: IndexDocument, digest: Digest) -> None:
        """Keep what was written."""
        self._written = replace(index, digest=digest)


def index_of(packages: Iterable[tuple[Spec, SpecGraph]]) -> IndexDocument:
    """Return an index of packages that are in a cache, and of all they depend on (which need not be)."""
    records: dict[str, Record] = {}
    version = "6"
    for spec, graph in packages:
        for needed in graph.closure([spec], types=None, externals=True):
            records.setdefault(needed.hash, IndexRecord(needed, in_cache=False))
        records[spec.hash] = IndexRecord(spec, in_cache=True)
        version = max(version, VERSION_OF_FORMAT[spec.format_version], key=int)
    return IndexDocument(version, records)


def parse_index(data: bytes, what: str) -> IndexDocument:
    """Parse an index. Raises `ContentError` with the field's path, naming a version that is not understood."""
    with _collector_paused():
        return _parse(data, what)


def _parse(data: bytes, what: str) -> IndexDocument:
    database = object_of(parse_json(data, what, fold_case=False), "database", what)
    version = text_of(database, "version", f"{what}.database")
    form = _format(version, what)
    records: dict[str, Record] = {}
    for package_hash, raw in object_of(database, "installs", f"{what}.database").items():
        where = f"{what}.installs.{package_hash}"
        if not isinstance(raw, dict):
            raise ContentError(f"{where}: an object is expected")
        spec = parse_node(object_of(raw, "spec", where), form, where)
        if spec.hash != package_hash:
            raise ContentError(f"{where}: holds the spec of {spec.hash}")
        rest = {key: value for key, value in raw.items() if key not in ("spec", "ref_count", "in_buildcache")}
        records[package_hash] = IndexRecord(spec, raw.get("in_buildcache") is True, rest)
    extra = {key: value for key, value in database.items() if key not in ("version", "installs")}
    return IndexDocument(version, records, Digest.of(data), extra)


class _Edge(msgspec.Struct, gc=False):
    hash: str


class _Head(msgspec.Struct, gc=False):
    name: str
    version: str
    hash: str
    dependencies: tuple[_Edge, ...] | None = None


class _Top(msgspec.Struct):
    database: dict[str, msgspec.Raw]


_TOP: Final = msgspec.json.Decoder(_Top)
_TEXT: Final = msgspec.json.Decoder(str)
_INSTALLS: Final = msgspec.json.Decoder(dict[str, dict[str, msgspec.Raw]])
_HEAD: Final = msgspec.json.Decoder(_Head)
_NOTHING: Final = msgspec.Raw(b"null")


def open_index(data: bytes, what: str) -> IndexDocument:
    """Take an index apart into its records, whose nodes stay as they stand: a sixth of the time of `parse_index`.

    For whoever changes an index and does not need to know what its packages are. Raises `ContentError` for what is no
    index, and for a record that is none; what else may be wrong with a node shows when its spec is asked for.
    """
    with _collector_paused():
        database = _top(data, what).database
        version = _decoded(_TEXT, database.pop("version", _NOTHING), f"{what}.database.version")
        form = _format(version, what)
        installs = _decoded(_INSTALLS, database.pop("installs", _NOTHING), f"{what}.database.installs")
        records = {
            package_hash: _opened(package_hash, record, form, f"{what}.installs.{package_hash[:64]}")
            for package_hash, record in installs.items()
        }
        return IndexDocument(version, records, Digest.of(data), _values(database, what))


def _top(data: bytes, what: str) -> _Top:
    try:
        return _TOP.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        parse_json(data, what, fold_case=False)  # says what else may stand there, such as a web page
        raise ContentError(f"{what}: {str(error)[:200]}") from None


def _decoded(decoder: msgspec.json.Decoder[_Value], data: bytes | msgspec.Raw, where: str) -> _Value:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ContentError(f"{where}: {str(error)[:200]}") from None


def _opened(package_hash: str, record: dict[str, msgspec.Raw], form: int, where: str) -> Record:
    node = record.pop("spec", _NOTHING)
    in_cache = bytes(record.pop("in_buildcache", _NOTHING)) == b"true"
    record.pop("ref_count", None)
    raw = _values(record, where)
    try:
        head = _decoded(_HEAD, node, where)
        found, needs = head.hash, tuple([edge.hash for edge in head.dependencies or ()])
    except ContentError:
        # of an old or unusual shape, or wrong
        spec = parse_node(parse_json(bytes(node), where, fold_case=False), form, where)
        found, needs = spec.hash, tuple(edge.hash for edge in spec.dependencies)
    if found != package_hash:
        raise ContentError(f"{where}: holds the spec of {found[:64]}")
    return OpenedRecord(node, form, where, in_cache, needs, raw)


def _values(members: Mapping[str, msgspec.Raw], where: str) -> dict[str, Any]:
    text = b",".join(b"%b:%b" % (json.dumps(key).encode(), bytes(value)) for key, value in members.items())
    return parse_json(b"{%b}" % text, where, fold_case=False) if text else {}


def _format(version: str, what: str) -> int:
    form = FORMAT_OF_VERSION.get(version)
    if form is None:
        raise ContentError(
            f"{what}: an index of version {version[:20]!r}; versions 6 to 8 are understood",
            hint="a newer oci-binpkg may read it",
        )
    return form


def _record_bytes(package_hash: str, record: Record, count: int) -> bytes:
    key, mark = canonical_json({package_hash: 0})[1:-3], b"true" if record.in_cache else b"false"
    rest = _members(record.raw, after=b",")
    return b'%b:{%b"spec":%b,"ref_count":%d,"in_buildcache":%b}' % (key, rest, record.node_bytes(), count, mark)


def _members(values: Mapping[str, Any], *, before: bytes = b"", after: bytes = b"") -> bytes:
    return before + canonical_json(values)[1:-1] + after if values else b""
