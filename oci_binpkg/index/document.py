"""The index document of a cache: a database of specs, cut down to what a reader of a cache needs.

Source: Spack's `index.json` (database versions 6 to 8) as it stands in caches: `spec`, `ref_count`, `in_buildcache`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any, Final

from oci_binpkg.errors import REBUILD, ContentError, hinted
from oci_binpkg.index.records import (
    FORMAT_OF_VERSION,
    GatheredRecords,
    IndexRecord,
    LayeredRecords,
    Notice,
    Records,
    StoredRecords,
    refuse,
)
from oci_binpkg.index.spool import Spool
from oci_binpkg.model.content import Digest
from oci_binpkg.model.documents import canonical_json
from oci_binpkg.model.spec import Spec, SpecGraph

VERSION_OF_FORMAT: Final = {5: "8", 4: "7", 3: "6", 2: "6", 1: "6"}
MAX_INDEX_BYTES: Final = 1024 * 1024 * 1024
_KEPT_SPECS: Final = 2048
_WRITTEN_AT_ONCE: Final = 256 * 1024


class _Specs(Mapping[str, Spec]):
    """The specs of records, each read when it is asked for; a few thousand are kept.

    A record that cannot be read is reported to `notice` and, if that returns, is absent.
    """

    def __init__(self, records: Records, notice: Notice) -> None:
        self._records = records
        self._notice = notice
        self._read = lru_cache(_KEPT_SPECS)(self._spec)

    def _spec(self, package_hash: str) -> Spec | None:
        try:
            return self._records[package_hash].spec
        except ContentError as error:
            self._notice(package_hash, error)
            return None

    def __getitem__(self, package_hash: str) -> Spec:
        spec = self._read(package_hash)
        if spec is None:
            raise KeyError(package_hash)
        return spec

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, package_hash: object) -> bool:
        return isinstance(package_hash, str) and package_hash in self._records and self._read(package_hash) is not None


@dataclass(frozen=True)
class IndexDocument:
    """All records of an index by hash. `digest` is that of the bytes it was read from.

    `damaged` are the records that were left out when it was read, by hash. `notice` gets others that cannot be
    read, when they are asked for; by default it raises.
    """

    version: str
    records: Records
    digest: Digest | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    damaged: Mapping[str, ContentError] = field(default_factory=dict)
    notice: Notice = refuse

    @cached_property
    def graph(self) -> SpecGraph:
        """The specs of all records, each read when it is asked for."""
        return SpecGraph.over(_Specs(self.records, self.notice))

    def reporting(self, notice: Notice) -> IndexDocument:
        """Return this index with damaged records going to `notice`: at once those that were left out already."""
        for package_hash, error in self.damaged.items():
            notice(package_hash, error)
        return replace(self, notice=notice)

    def packages(self) -> Iterator[Spec]:
        """Iterate over the specs whose layers are in the cache."""
        return self.specs(self.records.present())

    def specs(self, hashes: Iterable[str]) -> Iterator[Spec]:
        """Iterate over the specs of these records; a damaged one goes to `notice` and is left out."""
        graph = self.graph
        return (graph[package_hash] for package_hash in hashes if package_hash in graph)

    def present(self) -> set[str]:
        """Return the hashes of the packages whose layers are in the cache."""
        return set(self.records.present())

    def holds(self, other: IndexDocument) -> bool:
        """Return whether all records of `other` are here, its packages as packages."""
        return all(each in self.records for each in other.records) and all(
            self.records.in_cache(each) for each in other.records.present()
        )

    def merged(self, added: IndexDocument) -> IndexDocument:
        """Return this index with `added` merged in: nothing is dropped, a package once there stays there."""
        records = LayeredRecords(self.records, added.records)
        return IndexDocument(max(self.version, added.version, key=int), records, None, self.extra, notice=self.notice)

    def without(self, package_hash: str) -> IndexDocument:
        """Return this index with a package no longer in the cache."""
        records = LayeredRecords(self.records, EMPTY.records, marks={package_hash: False})
        return replace(self, records=records, digest=None)

    def chunks(self) -> Iterator[bytes]:
        """Encode compactly, reference counts recomputed over all records; a piece for each record.

        Nodes of older formats than that of the index are converted, as Spack does: it refuses an index that mixes them.
        """
        counts = Counter(self.records.needs())
        form = FORMAT_OF_VERSION[self.version]
        yield b'{"database":{%b,"installs":{' % canonical_json({"version": self.version})[1:-1]
        comma = b""
        for package_hash, record in self.records.items():
            yield comma + _record_bytes(package_hash, record, counts[package_hash], form)
            comma = b","
        yield b"}%b}}" % _members(self.extra, before=b",")

    def to_bytes(self) -> bytes:
        """Return what is written, as a whole."""
        return b"".join(self.chunks())

    def to_spool(self) -> Spool:
        """Write it where it takes no memory. Raises `LocalDiskError`."""
        return Spool.filled(_joined(self.chunks()))


EMPTY: Final = IndexDocument("8", GatheredRecords())


class LastIndex:
    """The index of a cache as it was last read or written, so that the same one is not read again.

    `what` is how errors call it. A state of it has a digest, and `read` gets its bytes.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._index = EMPTY
        self._written: tuple[Digest, Spool] | None = None

    @hinted(REBUILD)
    def read(self, digest: Digest, read: Callable[[], Spool]) -> IndexDocument:
        """Return it, without records that are not of their hash. Raises `ContentError`."""
        if self._index.digest != digest:
            written = self._written
            self._index = EMPTY  # not two at once
            text = written[1] if written is not None and written[0] == digest else read()
            damaged: dict[str, ContentError] = {}
            index = read_index(text, self._what, damaged.__setitem__)
            self._index = replace(index, digest=digest, damaged=damaged)
        return self._index

    def keep(self, text: Spool, digest: Digest) -> None:
        """Keep what was written."""
        self._written = digest, text


def index_of(packages: Iterable[tuple[Spec, SpecGraph]]) -> IndexDocument:
    """Return an index of packages that are in a cache, and of all they depend on (which need not be)."""
    records = GatheredRecords()
    version = "6"
    for spec, graph in packages:
        for needed in graph.closure([spec], types=None, externals=True):
            if needed.hash not in records:
                records.add(needed, in_cache=False)
        records.add(spec, in_cache=True)
        version = max(version, VERSION_OF_FORMAT[spec.format_version], key=int)
    return IndexDocument(version, records)


def read_index(text: Spool, what: str, notice: Notice = refuse) -> IndexDocument:
    """Take an index apart into its records, which stay where they are until they are asked for.

    Raises `ContentError` for a text that is not an index, naming a version that is not understood. A record that is
    not one of its hash goes to `notice` and is left out; what else may be wrong with a node shows when its spec is
    asked for.
    """
    records = StoredRecords(text, what, notice)
    return IndexDocument(records.version, records, None, records.extra)


def _record_bytes(package_hash: str, record: IndexRecord, count: int, form: int) -> bytes:
    mark, rest = b"true" if record.in_cache else b"false", _members(record.raw, after=b",")
    # a key in an index that others wrote may need escapes
    plain = package_hash.isascii() and package_hash.isalnum()
    key = b'"%b"' % package_hash.encode() if plain else canonical_json({package_hash: 0})[1:-3]
    return b'%b:{%b"spec":%b,"ref_count":%d,"in_buildcache":%b}' % (key, rest, record.node_bytes(form), count, mark)


def _members(values: Mapping[str, Any], *, before: bytes = b"", after: bytes = b"") -> bytes:
    return before + canonical_json(values)[1:-1] + after if values else b""


def _joined(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Make pieces of some size of small ones."""
    held: list[bytes] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= _WRITTEN_AT_ONCE:
            yield b"".join(held)
            held, size = [], 0
    yield b"".join(held)
