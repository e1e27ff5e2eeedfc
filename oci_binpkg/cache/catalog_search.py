"""Queries over the catalog: only rows that can match are read, dependencies when a query asks for them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from oci_binpkg.cache.catalog import Catalog, CatalogRow, RowFilter
from oci_binpkg.errors import ContentError
from oci_binpkg.events import Observer, Warned, ignore
from oci_binpkg.model.constraint import Constraint
from oci_binpkg.model.documents import parse_json
from oci_binpkg.model.query import Query
from oci_binpkg.model.spec import Spec, SpecGraph, parse_node
from oci_binpkg.model.version import Version

_ANY: Final = "*"
_NEAR: Final = 3


@dataclass(frozen=True, slots=True)
class Match:
    """A package that a query found, and the names of the caches that have it."""

    spec: Spec
    caches: tuple[str, ...]


class CatalogGraph(SpecGraph):
    """The specs of a catalog, each read when it is first asked for. Iterates over those that were read."""

    __slots__ = ("_absent", "_catalog", "_observer")

    def __init__(self, catalog: Catalog, observer: Observer = ignore) -> None:
        super().__init__()
        self._catalog = catalog
        self._observer = observer
        self._absent: set[str] = set()

    def __getitem__(self, key: str) -> Spec:
        self._load((key,))
        return self._specs[key]

    def children(self, spec: Spec, types: Iterable[str] | None = None) -> list[Spec]:
        """Return the direct dependencies that the catalog knows."""
        self._load(edge.hash for edge in spec.dependencies)
        return super().children(spec, types)

    def _load(self, hashes: Iterable[str]) -> None:
        wanted = [each for each in dict.fromkeys(hashes) if each not in self._specs and each not in self._absent]
        if wanted:
            self._specs |= {spec.hash: spec for spec, _ in _parsed(self._catalog.nodes(wanted), self._observer)}
            self._absent.update(each for each in wanted if each not in self._specs)


def search(catalog: Catalog, queries: Sequence[Query], *, family: str = "", observer: Observer = ignore) -> list[Match]:
    """Return the packages in any cache that match any query (all, without one), by name, version and hash.

    `family` is the only architecture to look at, as image manifests name it; "" is all. A node that cannot be read is
    reported and passed over.
    """
    graph = CatalogGraph(catalog, observer)
    found: dict[str, Match] = {}
    for constraint in [query.constraint for query in queries] or [Constraint()]:
        for spec, caches in _parsed(catalog.rows(_filter(constraint, family)), observer):
            if constraint.matches(spec, graph):
                found[spec.hash] = Match(spec, caches)
    return sorted(found.values(), key=_order)


def near_names(catalog: Catalog, queries: Sequence[Query]) -> list[str]:
    """Return names in the catalog that are like those in the queries, the nearest first."""
    names = catalog.names()
    near: dict[str, None] = {}
    for name in dict.fromkeys(query.constraint.name for query in queries):
        if name not in ("", _ANY):
            close = difflib.get_close_matches(name, names, n=_NEAR, cutoff=0.5)
            close += [each for each in names if name in each or each in name][:_NEAR]
            near |= dict.fromkeys(each for each in close if each != name)
    return list(near)[: 2 * _NEAR]


def _filter(constraint: Constraint, family: str) -> RowFilter:
    name = "" if constraint.name == _ANY else constraint.name
    return RowFilter(name, constraint.hash, family, constraint.platform, constraint.os)


def _parsed(rows: Iterable[CatalogRow], observer: Observer) -> Iterator[tuple[Spec, tuple[str, ...]]]:
    for row in rows:
        what = f"the catalog's {row.hash}"
        try:
            spec = parse_node(parse_json(row.node, what, fold_case=False), row.form, what)
        except ContentError as error:
            observer(Warned(f"a package is passed over: {error.message}"))
            continue
        yield spec, row.caches


def _order(match: Match) -> tuple[str, Version, str]:
    return match.spec.name, Version.parse(match.spec.version), match.spec.hash
