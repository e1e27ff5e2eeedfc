"""The catalog: a local, queryable copy of the indices of all configured caches.

A package that several caches have is kept once. Dependencies are kept too, whether their layers are in a cache or not,
since queries ask for them.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar

from oci_binpkg.errors import ContentError
from oci_binpkg.file_lock import Patience
from oci_binpkg.index.catalog_database import (
    Edge,
    Kind,
    PackageRow,
    in_catalog,
    memory_database,
    open_database,
    read_rows,
    writing,
)
from oci_binpkg.index.records import Notice, Records, refuse
from oci_binpkg.model.arch import Arch
from oci_binpkg.model.content import Digest

_Key = TypeVar("_Key", bound=Hashable)
_PARENT_BITS: Final = 32
DEPRECATED: Final = 2
"""What `in_cache` is for a package in a cache that another one shall take the place of; 1 for others."""


@dataclass(slots=True)
class _Numbers(Generic[_Key]):
    """Numbers for values: those they have in a table already, and new ones for `added`."""

    known: dict[_Key, int]
    added: dict[_Key, int] = field(default_factory=dict)
    following: int = 0

    def __post_init__(self) -> None:
        self.following = 1 + max(self.known.values(), default=0)

    def of(self, key: _Key) -> int:
        """Return the number of a value."""
        number = self.known.get(key)
        if number is None:
            number = self.known[key] = self.added[key] = self.following
            self.following += 1
        return number


def replace_holdings(database: sqlite3.Connection, cache: int, records: Records, notice: Notice = refuse) -> bool:
    """Make the holdings of a cache those of an index; return whether any of the old ones went.

    Packages that are there are not written again. A record that cannot be read goes to `notice` and is left out.
    """
    damaged: set[str] = set()

    def leave_out(package_hash: str, error: ContentError) -> None:
        damaged.add(package_hash)
        notice(package_hash, error)

    ids: dict[str, int] = dict(database.execute("SELECT hash, id FROM packages"))
    held: dict[int, int] = dict(database.execute("SELECT package, in_cache FROM holdings WHERE cache = ?", (cache,)))
    # in the order of the hashes, in which the index over them is written quickest
    added = sorted(each for each in records if each not in ids)
    if added:
        first = 1 + max(ids.values(), default=0)
        ids |= {package_hash: first + place for place, package_hash in enumerate(added)}
        _add(database, read_rows(records, added, leave_out), ids)
    deprecated = records.deprecated
    wanted = {
        ids[each]: (DEPRECATED if each in deprecated else 1) if records.in_cache(each) else 0
        for each in records
        if each not in damaged
    }
    gone = held.keys() - wanted.keys()
    database.executemany("DELETE FROM holdings WHERE package = ? AND cache = ?", ((package, cache) for package in gone))
    database.executemany(
        "INSERT INTO holdings (package, cache, in_cache) VALUES (?, ?, ?)"
        " ON CONFLICT DO UPDATE SET in_cache = excluded.in_cache",
        ((package, cache, wanted[package]) for package in _differing(wanted, held)),
    )
    return bool(gone)


def drop_orphans(database: sqlite3.Connection) -> None:
    """Remove packages that no cache names, and what only they named."""
    gone = database.execute(
        "DELETE FROM packages WHERE id IN"
        " (SELECT id FROM packages INDEXED BY packages_by_name EXCEPT SELECT package FROM holdings)"
    ).rowcount
    if gone:
        database.execute("DELETE FROM edges WHERE parent NOT IN (SELECT id FROM packages)")
        database.execute("DELETE FROM targets WHERE id NOT IN (SELECT target FROM edges)")
        database.execute("DELETE FROM parameters WHERE id NOT IN (SELECT parameters FROM packages)")
        database.execute("DELETE FROM kinds WHERE id NOT IN (SELECT kind FROM packages)")


def read_kinds(database: sqlite3.Connection) -> dict[int, Kind]:
    """Return all kinds by their numbers."""
    found = database.execute("SELECT id, namespace, arch, compiler FROM kinds")
    return {number: Kind(namespace, _arch(arch), _compiler(compiler)) for number, namespace, arch, compiler in found}


def _add(database: sqlite3.Connection, found: Iterable[PackageRow], ids: Mapping[str, int]) -> None:
    kinds = _Numbers({kind: number for number, kind in read_kinds(database).items()})
    parameters = _Numbers(dict(database.execute("SELECT document, id FROM parameters")))
    virtuals = _Numbers(dict(database.execute("SELECT names, id FROM virtuals")))
    targets: _Numbers[tuple[str, str, int]] = _Numbers(
        {(name, package_hash, provided): number for number, package_hash, name, provided in _targets(database)}
    )
    provided: dict[tuple[str, ...], int] = {}
    edges: list[int] = []

    def target(edge: Edge) -> int:
        name, package_hash, names = edge
        number = provided.get(names)
        if number is None:
            number = provided[names] = virtuals.of(json.dumps(names))
        return targets.of((name, package_hash, number))

    def rows() -> Iterator[tuple[object, ...]]:
        for row in found:
            number = ids[row.hash]
            edges.extend([target(edge) << _PARENT_BITS | number for edge in row.edges])
            yield number, row.hash, row.name, row.version, kinds.of(row.kind), parameters.of(row.parameters)

    write = database.executemany
    write("INSERT INTO packages VALUES (?, ?, ?, ?, ?, ?)", rows())
    write("INSERT INTO kinds VALUES (?, ?, ?, ?, ?)", ((number, *_of(kind)) for kind, number in kinds.added.items()))
    write("INSERT INTO parameters VALUES (?, ?)", ((number, text) for text, number in parameters.added.items()))
    write("INSERT INTO virtuals VALUES (?, ?)", ((number, names) for names, number in virtuals.added.items()))
    write(
        "INSERT INTO targets VALUES (?, ?, ?, ?)",
        ((number, package_hash, name, given) for (name, package_hash, given), number in targets.added.items()),
    )
    edges.sort()  # in the table's order
    mask = (1 << _PARENT_BITS) - 1
    write("INSERT OR IGNORE INTO edges VALUES (?, ?)", ((edge >> _PARENT_BITS, edge & mask) for edge in edges))


def _targets(database: sqlite3.Connection) -> Iterable[tuple[int, str, str, int]]:
    return database.execute("SELECT id, hash, name, virtuals FROM targets")


def _of(kind: Kind) -> tuple[str, str, str, str]:
    arch = kind.arch
    text = json.dumps([arch.platform, arch.os, arch.target, *arch.parents])
    return kind.namespace, text, arch.go_architecture, json.dumps(kind.compiler) if kind.compiler else ""


def _arch(text: str) -> Arch:
    platform, system, target, *parents = json.loads(text)
    return Arch(platform, system, target, tuple(parents))


def _compiler(text: str) -> tuple[str, str] | None:
    if not text:
        return None
    name, version = json.loads(text)
    return name, version


def _differing(wanted: Mapping[int, int], held: Mapping[int, int]) -> Iterable[int]:
    return sorted(package for package, present in wanted.items() if held.get(package) != present)


_STATE: Final = "name, url, digest, has_index, checked, confirmed, error"


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


class Catalog:
    """The catalog in one file. For one thread; any number of threads and processes may each have it open.

    Without a path it is in a temporary file of its own.

    All methods raise `LocalDiskError`, and `DamagedCatalogError` for a file that is not what was written.
    """

    def __init__(self, path: str = "", *, copy_of: str = "", patience: Patience | None = None) -> None:
        """Open the catalog at `path`; or without one, with `copy_of` what the catalog there holds."""
        self._path = path
        self._patience = patience
        self._database = memory_database(copy_of) if copy_of else open_database(path, patience)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()

    def states(self) -> dict[str, CacheState]:
        """Return what is known of each cache, by its name."""
        found = self.select(f"SELECT {_STATE} FROM caches ORDER BY id")  # noqa: S608 - a constant
        return {row[0]: _state_of(row) for row in found}

    def keep_only(self, caches: Mapping[str, str]) -> tuple[str, ...]:
        """Forget all caches but these, given as name -> URL; return the names of those that were forgotten."""
        dropped = self._others(caches)
        if dropped:
            with writing(self._database, self._path, self._patience):
                dropped = self._others(caches)  # another process may have read one of them anew since
                for name in dropped:
                    self._database.execute(
                        "DELETE FROM holdings WHERE cache = (SELECT id FROM caches WHERE name = ?)", (name,)
                    )
                    self._database.execute(
                        "DELETE FROM replaced WHERE cache = (SELECT id FROM caches WHERE name = ?)", (name,)
                    )
                    self._database.execute("DELETE FROM caches WHERE name = ?", (name,))
                drop_orphans(self._database)
        return dropped

    def _others(self, caches: Mapping[str, str]) -> tuple[str, ...]:
        return tuple(state.name for state in self.states().values() if caches.get(state.name) != state.url)

    def note_unchanged(self, name: str, url: str, now: float, digest: Digest) -> None:
        """Remember that the index is still the one that was read."""
        with writing(self._database, self._path, self._patience):
            self._database.execute(
                "UPDATE caches SET checked = ?, confirmed = ?, error = '' WHERE name = ? AND url = ? AND digest = ?",
                (now, now, name, url, str(digest)),
            )

    def was_replaced(self, name: str, digest: Digest) -> bool:
        """Whether this index of the cache was seen before and replaced since: it is an old one."""
        query = "SELECT 1 FROM replaced WHERE digest = ? AND cache = (SELECT id FROM caches WHERE name = ?)"
        return bool(self.select(query, (str(digest), name)))

    def note_absent(self, name: str, url: str, now: float) -> None:
        """Remember that a cache has no index: nothing is known of what it holds."""
        with writing(self._database, self._path, self._patience):
            cache = self._cache(name, url, now, confirmed=True)
            self._database.execute("UPDATE caches SET digest = NULL, has_index = 0 WHERE id = ?", (cache,))
            if self._database.execute("DELETE FROM holdings WHERE cache = ?", (cache,)).rowcount:
                drop_orphans(self._database)

    def note_failure(self, name: str, url: str, now: float, error: str) -> None:
        """Remember that a cache could not be read; the entries it had stay."""
        with writing(self._database, self._path, self._patience):
            self._cache(name, url, now, error=error)

    def store(
        self,
        name: str,
        url: str,
        now: float,
        records: Records,
        digest: Digest,
        *,
        known: Digest | None,
        notice: Notice = refuse,
    ) -> bool:
        """Make the catalog's entries of a cache those of an index. Packages that are there are not written again.

        Returns False, with nothing changed, if another process has stored another index than `known` meanwhile.
        A record that cannot be read goes to `notice` and is left out; if that raises, nothing is changed.
        """
        with writing(self._database, self._path, self._patience):
            before = self.states().get(name)
            if before is not None and before.url == url and before.digest != known:
                return False
            cache = self._cache(name, url, now, confirmed=True)
            # what an old one that came back takes the place of is newer than it, and may come back in turn
            if before is not None and before.digest and not self.was_replaced(name, digest):
                self._database.execute("INSERT OR IGNORE INTO replaced VALUES (?, ?)", (cache, str(before.digest)))
            self._database.execute("UPDATE caches SET digest = ?, has_index = 1 WHERE id = ?", (str(digest), cache))
            if replace_holdings(self._database, cache, records, notice):
                drop_orphans(self._database)
        return True

    def select(self, query: str, values: Sequence[object] = ()) -> list[Any]:
        """Return what a statement selects: for searches, which know the tables."""
        with in_catalog(self._path):
            return self._database.execute(query, values).fetchall()

    def kinds(self) -> dict[int, Kind]:
        """Return what the packages have in common, by the numbers with which they name it."""
        with in_catalog(self._path):
            return read_kinds(self._database)

    def names(self) -> list[str]:
        """Return the names of all packages that are in a cache, sorted."""
        query = (
            "SELECT n.name FROM (SELECT DISTINCT name FROM packages) n WHERE EXISTS (SELECT 1 FROM packages p"
            " JOIN holdings h ON h.package = p.id WHERE p.name = n.name AND h.in_cache) ORDER BY n.name"
        )
        return [row[0] for row in self.select(query)]

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


def _state_of(row: Sequence[Any]) -> CacheState:
    name, url, digest, has_index, checked, confirmed, error = row
    return CacheState(name, url, Digest.parse(digest) if digest else None, bool(has_index), checked, confirmed, error)
