"""Queries over the catalog: each becomes statements over its tables, and no spec is read again.

What SQL cannot judge - versions, variants, architectures - is judged here, once for each value that occurs among the
packages in question. Dependencies are followed from the packages upwards that fit the dependency, or downwards from the
packages in question if these are few.
"""
# ruff: noqa: S608 - statements are made of constants only, values are bound

from __future__ import annotations

import difflib
import heapq
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from oci_binpkg.index.catalog import DEPRECATED, Catalog
from oci_binpkg.index.catalog_database import Kind
from oci_binpkg.model.constraint import Constraint, Needed
from oci_binpkg.model.query import Query, ordered
from oci_binpkg.model.spec import Spec, SpecGraph

_ANY: Final = "*"
_NEAR: Final = 3
_LOOKED_AT: Final = 100
_FEW: Final = 1000
_MANY: Final = 1000
_HELD_BY: Final = (
    "(SELECT group_concat(c.name) FROM holdings h JOIN caches c ON c.id = h.cache"
    " WHERE h.package = p.id AND h.in_cache)"
)
_HELD: Final = (
    "EXISTS (SELECT 1 FROM holdings h JOIN caches c ON c.id = h.cache"
    " WHERE h.package = p.id AND h.in_cache AND c.name = ?)"
)
_MARKED: Final = f"EXISTS (SELECT 1 FROM holdings h WHERE h.package = p.id AND h.in_cache = {DEPRECATED})"
_LISTED: Final = "(SELECT value FROM json_each(?))"


@dataclass(frozen=True, slots=True)
class Match:
    """A package that a query found, and the names of the caches that have it. The spec has no dependencies.

    `is_deprecated`: one of the caches says that another package shall take its place.
    """

    spec: Spec
    caches: tuple[str, ...]
    is_deprecated: bool = False


@dataclass(frozen=True, slots=True)
class _Condition:
    """A part of a statement, and the values of its question marks."""

    text: str = "1"
    values: tuple[object, ...] = ()

    def __and__(self, other: _Condition) -> _Condition:
        if self.text == "1":
            return other
        return _Condition(f"{self.text} AND {other.text}", (*self.values, *other.values))


def search(catalog: Catalog, queries: Sequence[Query], *, family: str = "", cache: str = "") -> list[Match]:
    """Return the packages in any cache that match any query (all, without one), by name, version and hash.

    `family` is the only architecture to look at, as image manifests name it, `cache` the only cache; "" is all.
    """
    reader = _MatchReader(catalog)
    found: dict[str, Match] = {}
    for constraint in [query.constraint for query in queries] or [Constraint()]:
        found |= {match.spec.hash: match for match in reader.matches(constraint, family, cache)}
    return ordered(found.values(), lambda match: match.spec)


def near_names(catalog: Catalog, queries: Sequence[Query]) -> list[str]:
    """Return names in the catalog that are like those in the queries, the nearest first."""
    names = catalog.names()
    near: dict[str, None] = {}
    for name in dict.fromkeys(query.constraint.name for query in queries):
        if name not in ("", _ANY):
            pairs = _pairs(name)
            # comparing letter by letter takes long: only those that share most pairs of letters are
            likely = heapq.nlargest(_LOOKED_AT, names, key=lambda each: len(pairs & _pairs(each)))
            close = difflib.get_close_matches(name, likely, n=_NEAR, cutoff=0.5)
            close += [each for each in names if name in each or each in name][:_NEAR]
            near |= dict.fromkeys(each for each in close if each != name)
    return list(near)[: 2 * _NEAR]


class _MatchReader:
    """Reads packages that fit a constraint. What was parsed once is kept for the next."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._kinds = catalog.kinds()
        self._parameters: dict[int, Mapping[str, Any]] = {}
        self._virtuals: dict[int, frozenset[str]] | None = None

    def matches(self, constraint: Constraint, family: str, cache: str) -> list[Match]:
        """Return the packages that fit in a cache, "" for any."""
        name = "" if constraint.name == _ANY else constraint.name
        scope = _Condition("p.name = ?", (name,)) if name else _Condition()
        fits = scope & self._fitting(constraint, scope, family)
        if cache:
            fits &= _Condition(_HELD, (cache,))
        rows = self._catalog.select(
            f"SELECT p.hash, p.name, p.version, p.kind, p.parameters, {_HELD_BY} AS held, {_MARKED}"
            f" FROM packages p WHERE {fits.text} AND held IS NOT NULL",
            fits.values,
        )
        self._read_parameters(dict.fromkeys(row[4] for row in rows))
        return [self._match(row) for row in rows]

    def _match(self, row: Sequence[Any]) -> Match:
        package_hash, name, version, kind, parameters, held, marked = row
        known = self._kinds[kind]
        spec = Spec(
            name, version, package_hash, known.arch, known.namespace, self._parameters[parameters], (), known.compiler
        )
        return Match(spec, tuple(sorted(held.split(","))), bool(marked))

    def _fitting(self, constraint: Constraint, scope: _Condition, family: str = "") -> _Condition:
        """Return the condition for what a constraint says of a package `p` but its name.

        `scope` are the other conditions: only values that occur within them are looked at.
        """
        fits = _Condition()
        if constraint.hash:
            fits &= _prefix("p.hash", constraint.hash)
        general = replace(constraint, name="", hash="", versions=None, settings=(), direct=(), transitive=())
        if general != Constraint() or family:
            fits &= _among("p.kind", self._kinds_of(general, family))
        if constraint.versions is not None:
            found = self._distinct("version", scope & fits)
            fits &= _among("p.version", [each for each in found if each in constraint.versions])
        if constraint.settings:
            self._read_parameters(numbers := self._distinct("parameters", scope & fits))
            fits &= _among("p.parameters", [each for each in numbers if self._has(each, constraint)])
        for needed in constraint.direct:
            targets = self._targets(needed)
            compiled = [number for number, kind in self._kinds.items() if _is_compiled_by(kind, needed)]
            fits &= _Condition(
                f"(p.id IN (SELECT parent FROM edges WHERE target IN {_LISTED}) OR p.kind IN {_LISTED})",
                (json.dumps(targets), json.dumps(compiled)),
            )
        for needed in constraint.transitive:
            fits &= _among("p.id", self._above(self._targets(needed), scope & fits))
        return fits

    def _kinds_of(self, general: Constraint, family: str) -> list[int]:
        return [
            number
            for number, kind in self._kinds.items()
            if family in ("", kind.arch.go_architecture)
            and general.matches(Spec("", "", "", kind.arch, kind.namespace), SpecGraph())
        ]

    def _distinct(self, column: str, scope: _Condition) -> list[Any]:
        found = self._catalog.select(f"SELECT DISTINCT p.{column} FROM packages p WHERE {scope.text}", scope.values)
        return [row[0] for row in found]

    def _has(self, parameters: int, constraint: Constraint) -> bool:
        return all(setting.matches(self._parameters[parameters]) for setting in constraint.settings)

    def _read_parameters(self, numbers: Iterable[int]) -> None:
        unread = [number for number in numbers if number not in self._parameters]
        if unread:
            query = f"SELECT id, document FROM parameters WHERE id IN {_LISTED}"
            for number, text in self._catalog.select(query, (json.dumps(unread),)):
                self._parameters[number] = json.loads(text)

    def _targets(self, needed: Needed) -> list[int]:
        """Return the targets of dependencies that are what is needed, wherever they stand."""
        constraint = needed.constraint
        fits = _Condition()
        if needed.names:
            fits &= _Condition(
                f"(t.name IN {_LISTED} OR t.virtuals IN {_LISTED})",
                (json.dumps(needed.names), json.dumps(self._providing((constraint.name,)))),
            )
        if needed.virtuals:
            fits &= _among("t.virtuals", self._providing(needed.virtuals))
        if constraint.hash:
            fits &= _prefix("t.hash", constraint.hash)
        if not constraint.is_bare:
            within = f"p.hash IN (SELECT t.hash FROM targets t WHERE {fits.text})"
            child = self._fitting(constraint, _Condition(within, fits.values))
            fits &= _Condition(
                f"EXISTS (SELECT 1 FROM packages p WHERE p.hash = t.hash AND {child.text})",
                child.values,
            )
        found = self._catalog.select(f"SELECT t.id FROM targets t WHERE {fits.text}", fits.values)
        return [row[0] for row in found]

    def _providing(self, names: Sequence[str]) -> list[int]:
        if self._virtuals is None:
            found = self._catalog.select("SELECT id, names FROM virtuals")
            self._virtuals = {number: frozenset(json.loads(text)) for number, text in found}
        return [number for number, provided in self._virtuals.items() if provided.issuperset(names)]

    def _above(self, targets: Sequence[int], scope: _Condition) -> list[int]:
        """Return the packages that have one of the targets as a dependency, or that anything below them has.

        Those outside of `scope` may be left out.
        """
        if scope.text == "1":
            return self._upwards(targets, -1)
        above = self._upwards(targets, _MANY)
        if len(above) < _MANY:
            return above
        few = self._catalog.select(f"SELECT p.id FROM packages p WHERE {scope.text} LIMIT {_FEW}", scope.values)
        return self._upwards(targets, -1) if len(few) == _FEW else self._downwards([row[0] for row in few], targets)

    def _upwards(self, targets: Sequence[int], limit: int) -> list[int]:
        """Go from dependencies to what needs them; with a limit that is not negative only so many are returned."""
        found = self._catalog.select(
            "WITH RECURSIVE up(id) AS ("
            f" SELECT parent FROM (SELECT DISTINCT parent FROM edges WHERE target IN {_LISTED} LIMIT ?2)"
            " UNION SELECT e.parent FROM up JOIN packages p ON p.id = up.id"
            " JOIN targets t ON t.hash = p.hash JOIN edges e ON e.target = t.id"
            ") SELECT id FROM up LIMIT ?2",
            (json.dumps(targets), limit),
        )
        return [row[0] for row in found]

    def _downwards(self, packages: Sequence[int], targets: Sequence[int]) -> list[int]:
        """Go from packages to what they need, level by level, but not below one that has a target itself."""
        wanted = frozenset(targets)
        parents: dict[int, list[int]] = {}
        seen, level = set(packages), list(packages)
        fitting: list[int] = []
        while level:
            rows = self._catalog.select(
                "SELECT e.parent, e.target, p.id FROM edges e JOIN targets t ON t.id = e.target"
                f" LEFT JOIN packages p ON p.hash = t.hash WHERE e.parent IN {_LISTED}",
                (json.dumps(level),),
            )
            having = {parent for parent, target, _ in rows if target in wanted}
            fitting += having
            level = []
            for parent, _, child in rows:
                if child is not None and parent not in having:
                    parents.setdefault(child, []).append(parent)
                    if child not in seen:
                        seen.add(child)
                        level.append(child)
        above = dict.fromkeys(fitting)
        for package in fitting:  # grows on the way
            fresh = [each for each in parents.get(package, ()) if each not in above]
            above |= dict.fromkeys(fresh)
            fitting += fresh
        return list(above)


def _is_compiled_by(kind: Kind, needed: Needed) -> bool:
    return needed.is_compiler_of(Spec("", "", "", kind.arch, compiler=kind.compiler))


def _among(column: str, values: Sequence[object]) -> _Condition:
    return _Condition(f"{column} IN {_LISTED}", (json.dumps(values),))


def _prefix(column: str, start: str) -> _Condition:
    # "{" comes after "z", the last character of a hash
    return _Condition(f"({column} >= ? AND {column} < ?)", (start, start + "{"))


def _pairs(name: str) -> frozenset[str]:
    return frozenset(name[at : at + 2] for at in range(len(name) - 1)) | {name}
