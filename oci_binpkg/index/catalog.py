"""The catalog: a local, queryable copy of the indices of all configured caches.

A package that several caches have is kept once. Dependencies are kept too, whether their layers are in a cache or not,
since queries ask for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from oci_binpkg.file_lock import Patience
from oci_binpkg.index.catalog_database import in_catalog, memory_database, open_database, writing
from oci_binpkg.index.catalog_rows import Kind
from oci_binpkg.index.catalog_writer import drop_orphans, read_kinds, replace_holdings
from oci_binpkg.index.records import Notice, Records, refuse
from oci_binpkg.model.content import Digest

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

    Without a path it is one of its own, in a temporary file that nobody else sees.

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
        """Whether an index of this cache was seen before and then another one in its place: it is an old one."""
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
