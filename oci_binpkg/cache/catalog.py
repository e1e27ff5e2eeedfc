"""The catalog: a local, queryable copy of the indices of all configured caches.

A package that several caches have is kept once. Dependencies are kept too, whether their layers are in a cache or not,
since queries ask for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from oci_binpkg.cache.catalog_database import in_catalog, open_database, writing
from oci_binpkg.cache.catalog_reading import RawIndex
from oci_binpkg.model.content import Digest

_STATE: Final = "name, url, digest, has_index, checked, confirmed, error"
_HELD_BY: Final = (
    "(SELECT group_concat(c.name) FROM holdings h JOIN caches c ON c.id = h.cache"
    " WHERE h.package = p.id AND h.in_cache)"
)


@dataclass(frozen=True, slots=True)
class CacheState:
    """What is known of a cache. Times are seconds since 1970.

    `checked` is when it was last asked, `confirmed` when it last answered (None: never); `error` is why it did not
    answer when it was last asked, "" if it did. `digest` is that of the index whose entries the catalog has.
    """

    name: str
    url: str
    digest: Digest | None
    has_index: bool
    checked: float
    confirmed: float | None
    error: str = ""

    @property
    def is_stale(self) -> bool:
        """Whether its entries are older than the last time it was asked."""
        return bool(self.error)


@dataclass(frozen=True, slots=True)
class CatalogRow:
    """A node as it stands in an index, its spec format, and the names of the caches that have the package."""

    hash: str
    form: int
    node: bytes
    caches: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RowFilter:
    """Which packages to read; what is empty allows all. `hash` is a prefix, `family` is as in image manifests."""

    name: str = ""
    hash: str = ""
    family: str = ""
    platforms: Sequence[str] = ()
    systems: Sequence[str] = ()


class Catalog:
    """The catalog in one file. For one thread; any number of threads and processes may each have it open.

    All methods raise `LocalDiskError`, and `DamagedCatalogError` for a file that is not what was written.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._database = open_database(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()

    def states(self) -> dict[str, CacheState]:
        """Return what is known of each cache, by its name."""
        found = self._read(f"SELECT {_STATE} FROM caches ORDER BY id")  # noqa: S608 - a constant
        return {row[0]: _state_of(row) for row in found}

    def keep_only(self, caches: Mapping[str, str]) -> tuple[str, ...]:
        """Forget all caches but these, given as name -> URL; return the names of those that were forgotten."""
        dropped = tuple(state.name for state in self.states().values() if caches.get(state.name) != state.url)
        if dropped:
            with writing(self._database, self._path):
                for name in dropped:
                    self._database.execute(
                        "DELETE FROM holdings WHERE cache = (SELECT id FROM caches WHERE name = ?)", (name,)
                    )
                    self._database.execute("DELETE FROM caches WHERE name = ?", (name,))
                self._drop_orphans()
        return dropped

    def note_unchanged(self, name: str, url: str, now: float, digest: Digest) -> None:
        """Remember that the index is still the one that was read."""
        with writing(self._database, self._path):
            self._database.execute(
                "UPDATE caches SET checked = ?, confirmed = ?, error = '' WHERE name = ? AND url = ? AND digest = ?",
                (now, now, name, url, str(digest)),
            )

    def note_absent(self, name: str, url: str, now: float) -> None:
        """Remember that a cache has no index: nothing is known of what it holds."""
        with writing(self._database, self._path):
            cache = self._cache(name, url, now, confirmed=True)
            self._database.execute("UPDATE caches SET digest = NULL, has_index = 0 WHERE id = ?", (cache,))
            if self._database.execute("DELETE FROM holdings WHERE cache = ?", (cache,)).rowcount:
                self._drop_orphans()

    def note_failure(self, name: str, url: str, now: float, error: str) -> None:
        """Remember that a cache could not be read; the entries it had stay."""
        with writing(self._database, self._path):
            self._cache(name, url, now, error=error)

    def store(self, name: str, url: str, now: float, index: RawIndex, digest: Digest, *, known: Digest | None) -> bool:
        """Make the catalog's entries of a cache those of an index. Packages that are there are not written again.

        Returns False, with nothing changed, if another process has stored another index than `known` meanwhile.
        Raises `ContentError` for a record that cannot be read, with nothing changed.
        """
        with writing(self._database, self._path):
            before = self.states().get(name)
            if before is not None and before.url == url and before.digest != known:
                return False
            cache = self._cache(name, url, now, confirmed=True)
            self._database.execute("UPDATE caches SET digest = ?, has_index = 1 WHERE id = ?", (str(digest), cache))
            self._replace(cache, index)
        return True

    def rows(self, wanted: RowFilter) -> Iterator[CatalogRow]:
        """Yield the packages that are in a cache. With a name or hash only those rows are touched."""
        conditions, values = _conditions(wanted)
        where = " AND ".join([*conditions, "held IS NOT NULL"])
        query = f"SELECT p.hash, p.form, p.node, {_HELD_BY} AS held FROM packages p WHERE {where}"  # noqa: S608 - constants
        for package_hash, form, node, held in self._read(query, values):
            yield CatalogRow(package_hash, form, node, tuple(sorted(held.split(","))))

    def nodes(self, hashes: Sequence[str]) -> list[CatalogRow]:
        """Return those of the nodes that are known, whether their packages are in a cache or not."""
        marks = ",".join("?" * len(hashes))
        query = f"SELECT hash, form, node FROM packages WHERE hash IN ({marks})"  # noqa: S608 - only question marks
        return [CatalogRow(*row) for row in self._read(query, hashes)]

    def names(self) -> list[str]:
        """Return the names of all packages that are in a cache, sorted."""
        query = (
            "SELECT DISTINCT name FROM packages INDEXED BY packages_by_name"
            " WHERE id IN (SELECT package FROM holdings WHERE in_cache) ORDER BY name"
        )
        return [row[0] for row in self._read(query)]

    def _read(self, query: str, values: Sequence[object] = ()) -> Iterator[Any]:
        with in_catalog(self._path):
            yield from self._database.execute(query, values)

    def _cache(self, name: str, url: str, now: float, *, confirmed: bool = False, error: str = "") -> int:
        """Enter that a cache was asked; return its id. Under another URL it is another cache."""
        self._database.execute(
            "INSERT INTO caches (name, url, digest, has_index, checked, confirmed, error)"
            " VALUES (?1, ?2, NULL, 0, ?3, iif(?4, ?3, NULL), ?5) ON CONFLICT (name) DO UPDATE SET"
            " url = ?2, digest = iif(url = ?2, digest, NULL), checked = ?3, error = ?5,"
            " confirmed = iif(?4, ?3, iif(url = ?2, confirmed, NULL))",
            (name, url, now, confirmed, error),
        )
        return int(self._database.execute("SELECT id FROM caches WHERE name = ?", (name,)).fetchone()[0])

    def _replace(self, cache: int, index: RawIndex) -> None:
        execute, execute_many = self._database.execute, self._database.executemany
        ids: dict[str, int] = dict(execute("SELECT hash, id FROM packages"))
        held: dict[int, int] = dict(execute("SELECT package, in_cache FROM holdings WHERE cache = ?", (cache,)))
        # in the order of the hashes, in which the index over them is written quickest
        added = sorted(index.records.keys() - ids.keys())
        first = 1 + max(ids.values(), default=0)
        ids |= {package_hash: first + place for place, package_hash in enumerate(added)}
        execute_many(
            "INSERT INTO packages VALUES (?,?,?,?,?,?,?,?,?,?)",
            (
                (first + place, r.hash, r.name, r.version, r.platform, r.os, r.target, r.family, index.form, r.node)
                for place, r in enumerate(index.rows(added))
            ),
        )
        wanted = {ids[package_hash]: int(present) for package_hash, present in index.in_cache().items()}
        gone = held.keys() - wanted.keys()
        execute_many("DELETE FROM holdings WHERE package = ? AND cache = ?", ((package, cache) for package in gone))
        execute_many(
            "INSERT INTO holdings (package, cache, in_cache) VALUES (?, ?, ?)"
            " ON CONFLICT DO UPDATE SET in_cache = excluded.in_cache",
            ((package, cache, wanted[package]) for package in _differing(wanted, held)),
        )
        if gone:
            self._drop_orphans()

    def _drop_orphans(self) -> None:
        self._database.execute(
            "DELETE FROM packages WHERE id IN"
            " (SELECT id FROM packages INDEXED BY packages_by_name EXCEPT SELECT package FROM holdings)"
        )


def _differing(wanted: Mapping[int, int], held: Mapping[int, int]) -> Iterable[int]:
    return sorted(package for package, present in wanted.items() if held.get(package) != present)


def _conditions(wanted: RowFilter) -> tuple[list[str], list[str]]:
    conditions, values = [], []
    for column, value in (("name", wanted.name), ("family", wanted.family)):
        if value:
            conditions.append(f"p.{column} = ?")
            values.append(value)
    if wanted.hash:
        conditions.append("p.hash >= ? AND p.hash < ?")
        # "{" comes after "z", the last character of a hash
        values += [wanted.hash, wanted.hash + "{"]
    for column, allowed in (("platform", wanted.platforms), ("os", wanted.systems)):
        if allowed:
            conditions.append(f"p.{column} IN ({','.join('?' * len(allowed))})")
            values += allowed
    return conditions, values


def _state_of(row: Sequence[Any]) -> CacheState:
    name, url, digest, has_index, checked, confirmed, error = row
    return CacheState(name, url, Digest.parse(digest) if digest else None, bool(has_index), checked, confirmed, error)
