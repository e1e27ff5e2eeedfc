"""The index document of a cache: a database of specs, cut down to what a reader of a cache needs.

Source: Spack's `index.json` (database versions 6 to 8) as it stands in caches: `spec`, `ref_count`, `in_buildcache`.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

from oci_binpkg.errors import ContentError
from oci_binpkg.model.content import Digest
from oci_binpkg.model.documents import canonical_json, object_of, parse_json, text_of
from oci_binpkg.model.spec import Spec, SpecGraph, parse_node

VERSION_OF_FORMAT: Final = {5: "8", 4: "7", 3: "6", 2: "6", 1: "6"}
FORMAT_OF_VERSION: Final = {"8": 5, "7": 4, "6": 3}
MAX_INDEX_BYTES: Final = 1024 * 1024 * 1024


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Keep the cycle collector from going through millions of new objects, all of which stay: half of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@dataclass(frozen=True, slots=True)
class IndexBytes:
    """An index as it was read; `digest` is what the cache calls this state of it."""

    data: bytes
    digest: Digest


@dataclass(frozen=True, slots=True)
class IndexRecord:
    """A spec and whether its layer is in the cache. `raw` is the record as it was read, unknown members included."""

    spec: Spec
    in_cache: bool
    raw: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class IndexDocument:
    """All records of an index by hash. `digest` is that of the bytes it was read from."""

    version: str
    records: Mapping[str, IndexRecord]
    digest: Digest | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def graph(self) -> SpecGraph:
        """The specs of all records."""
        return SpecGraph(record.spec for record in self.records.values())

    def packages(self) -> Iterator[Spec]:
        """Iterate over the specs whose layers are in the cache."""
        return (record.spec for record in self.records.values() if record.in_cache)

    def merged(self, added: IndexDocument) -> IndexDocument:
        """Return this index with `added` merged in: nothing is dropped, a package once there stays there."""
        records = dict(self.records)
        for package_hash, record in added.records.items():
            known = records.get(package_hash)
            if known is None or (record.in_cache and not known.in_cache):
                records[package_hash] = (
                    record if known is None else IndexRecord(known.spec, in_cache=True, raw=known.raw)
                )
        return IndexDocument(max(self.version, added.version, key=int), records, None, self.extra)

    def to_bytes(self) -> bytes:
        """Encode compactly, reference counts recomputed over all records."""
        with _collector_paused():
            counts = Counter(dep.hash for record in self.records.values() for dep in record.spec.dependencies)
            installs = {
                package_hash: {
                    **record.raw,
                    "spec": record.spec.node,
                    "ref_count": counts[package_hash],
                    "in_buildcache": record.in_cache,
                }
                for package_hash, record in self.records.items()
            }
            return canonical_json({"database": {"version": self.version, "installs": installs, **self.extra}})


EMPTY: Final = IndexDocument("8", {})


class LastIndex:
    """The index of a cache as it was last parsed or written, so that the same one is not parsed again.

    `what` is how errors call it.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._index = EMPTY

    def of(self, digest: Digest, read: Callable[[], bytes]) -> IndexDocument:
        """Return the index that the cache knows by a digest; its bytes are read if it is another than the last."""
        index = self._index
        if index.digest != digest:
            index = self.keep(parse_index(read(), self._what), digest)
        return index

    def keep(self, index: IndexDocument, digest: Digest) -> IndexDocument:
        """Keep an index that the cache knows by a digest, and return it with that."""
        self._index = kept = replace(index, digest=digest)
        return kept


def index_of(packages: Iterable[tuple[Spec, SpecGraph]]) -> IndexDocument:
    """Return an index of packages that are in a cache, and of all they depend on (which need not be)."""
    records: dict[str, IndexRecord] = {}
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
    form = FORMAT_OF_VERSION.get(version)
    if form is None:
        raise ContentError(
            f"{what}: an index of version {version[:20]!r}; versions 6 to 8 are understood",
            hint="a newer oci-binpkg may read it",
        )
    records = {}
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
