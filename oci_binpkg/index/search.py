"""Queries over an index that is too large to look at every spec.

A query with a name or a hash is about few packages, which are looked at whole. Others that say nothing of dependencies
look at every package for a moment. What is left is answered by a catalog of this one index.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from typing import Any, Final, Self

from oci_binpkg.errors import ContentError
from oci_binpkg.index.catalog import Catalog
from oci_binpkg.index.catalog_database import read_rows
from oci_binpkg.index.catalog_search import search
from oci_binpkg.index.document import IndexDocument
from oci_binpkg.model.constraint import Constraint
from oci_binpkg.model.content import Digest
from oci_binpkg.model.query import Query, one, select
from oci_binpkg.model.reference import PackageKey
from oci_binpkg.model.spec import RUNTIME, Dependency, Spec, SpecGraph

_ANY: Final = ("", "*")
_FEW: Final = 1000
_NO_GRAPH: Final = SpecGraph()


class IndexSearch:
    """Finds packages that are in a cache by its index. For one thread; closed at the end of a `with` block."""

    def __init__(self, index: IndexDocument) -> None:
        self._index = index
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def matches(self, query: Query | None = None) -> Iterator[Spec]:
        """Iterate over the packages that match, by name, version and hash; all in any order, without a query.

        The specs have neither dependencies nor nodes. Records that cannot be read go to the index's `notice`.
        """
        if query is None:
            return self._all()
        if _is_about_few(query.constraint):
            return (_brief(spec) for spec in self._select(query))
        if _is_about_dependencies(query.constraint):
            return (match.spec for match in search(self._catalog, [query]))
        return iter(select(query, self._all(), _NO_GRAPH))

    def hashes(self, queries: Sequence[Query]) -> list[str]:
        """Return the hashes of the packages that match any query (all, without one), each once.

        Raises `NoMatchError` for a query that nothing matches.
        """
        if not queries:
            return list(self._index.records.present())
        found: dict[str, None] = {}
        for query in queries:
            found |= dict.fromkeys([spec.hash for spec in self.matches(query)] or [self.one(query).hash])
        return list(found)

    def one(self, query: Query, among: Container[str] | None = None) -> Spec:
        """Return the only package that matches, whole. Raises `NoMatchError`, `AmbiguousQueryError`.

        `among` are the hashes of those that count, if not all do.
        """
        graph, constraint = self._index.graph, query.constraint
        if _is_about_few(constraint):
            found: Iterable[Spec] = self._select(query)
            if not found and constraint.name not in _ANY:
                found = self._named(Constraint(constraint.name))  # which it may have been
        else:
            brief = list(self.matches(query))
            found = [graph[spec.hash] for spec in brief if spec.hash in graph] if len(brief) <= _FEW else brief
        if among is not None:
            found = [spec for spec in found if spec.hash in among]
        return one(query, found, graph, self.names)

    @property
    def deprecated(self) -> AbstractSet[str]:
        """The hashes of the packages that another one shall take the place of."""
        return self._index.records.deprecated

    @property
    def graph(self) -> SpecGraph:
        """The specs of the index, each read when it is asked for."""
        return self._index.graph

    def closure(self, roots: Sequence[str]) -> Iterator[PackageKey]:
        """Iterate over packages (given by hash) and what they link to or run, dependencies first."""
        graph = self.graph if len(roots) <= _FEW else self._outline()
        starts = [graph[each] for each in roots if each in graph]
        try:
            closure = graph.closure(starts)
        except ContentError as error:
            # each package says itself what it needs; only the order is lost
            self._index.notice("", error)
            closure = graph.reachable(starts, RUNTIME)
        return (PackageKey.of(spec) for spec in closure)

    def _outline(self) -> SpecGraph:
        """Return all specs without what does not matter for a closure; equal dependencies are one."""
        known: dict[Dependency, Dependency] = {}

        def outline(spec: Spec) -> Spec:
            edges = tuple(known.setdefault(edge, edge) for edge in spec.dependencies_of(RUNTIME))
            return replace(spec, dependencies=edges, parameters={}, node={"external": True} if spec.is_external else {})

        graph = self._index.graph
        return SpecGraph(outline(graph[each]) for each in self._index.records if each in graph)

    def _select(self, query: Query) -> list[Spec]:
        return select(query, self._named(query.constraint), self._index.graph)

    def _named(self, constraint: Constraint) -> Iterator[Spec]:
        """Iterate over the packages of a name whose hash begins as it should."""
        records, graph = self._index.records, self._index.graph
        for package_hash in records.present():
            named = constraint.name in (*_ANY, records.name(package_hash))
            if named and package_hash.startswith(constraint.hash) and package_hash in graph:
                yield graph[package_hash]

    def names(self) -> set[str]:
        """Return the names of all packages."""
        records = self._index.records
        return {records.name(package_hash) for package_hash in records.present()}

    def _all(self) -> Iterator[Spec]:
        parsed: dict[str, dict[str, Any]] = {}
        for row in read_rows(self._index.records, self._index.records.present(), self._index.notice):
            kind, parameters = row.kind, parsed.get(row.parameters)
            if parameters is None:
                parameters = parsed[row.parameters] = json.loads(row.parameters)
            yield Spec(row.name, row.version, row.hash, kind.arch, kind.namespace, parameters, (), kind.compiler)

    @cached_property
    def _catalog(self) -> Catalog:
        catalog = self._stack.enter_context(Catalog())
        digest = self._index.digest or Digest.of(b"")
        catalog.store("index", "", 0.0, self._index.records, digest, known=None, notice=self._index.notice)
        return catalog


def _is_about_few(constraint: Constraint) -> bool:
    return constraint.name not in _ANY or bool(constraint.hash)


def _is_about_dependencies(constraint: Constraint) -> bool:
    return bool(constraint.direct or constraint.transitive)


def _brief(spec: Spec) -> Spec:
    return replace(spec, dependencies=(), node={})
