"""Writing the packages of an index into the catalog's tables.

What many rows say is written once and named by a number: kinds of packages, their parameters, and the targets of
dependencies, which most packages of an environment share.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from oci_binpkg.errors import ContentError
from oci_binpkg.index.catalog_rows import Edge, Kind, PackageRow, read_rows
from oci_binpkg.index.records import Notice, Records, refuse
from oci_binpkg.model.arch import Arch

_Key = TypeVar("_Key", bound=Hashable)
_PARENT_BITS: Final = 32


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
    wanted = {ids[each]: int(records.in_cache(each)) for each in records if each not in damaged}
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
