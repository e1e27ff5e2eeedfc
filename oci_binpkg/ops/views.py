"""Views: named indices over chosen packages of a mirror, beside the index over all of them.

A view is for those who want a part of a large mirror. What is chosen brings what it links to or runs, as in a copy, so
that whoever knows the view alone can install from it. Packages are chosen by what indices say of them, and entered as
they are themselves: what a view lists was read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from oci_binpkg.cache.index import IndexDocument
from oci_binpkg.cache.protocol import BinaryCache, Entry
from oci_binpkg.errors import NotFoundError
from oci_binpkg.events import Observer, ignore
from oci_binpkg.model.query import Query, one, select
from oci_binpkg.ops.find import packages_of
from oci_binpkg.ops.indexing import (
    IndexReport,
    document_of,
    index_or_empty,
    old_hashes,
    read_entries,
    signature_of,
)

Views = Mapping[str, BinaryCache]
"""The mirror, opened with each view's index in place of its own, by the view's name."""


def update_views(
    whole: BinaryCache, views: Views, queries: Sequence[Query] = (), observer: Observer = ignore
) -> list[IndexReport]:
    """Enter the chosen packages (all, without a query) that the views lack. Only those are read."""
    tags = packages_of(whole)
    index = index_or_empty(whole) if queries else document_of(())
    unlisted = tags.keys() - {spec.hash for spec in index.packages()} if queries else set()
    fresh, damaged = read_entries(whole, [tags[each] for each in sorted(unlisted)], observer)
    chosen = _chosen(index.merged(document_of(fresh)), tags, queries)
    read = {entry.key.hash: entry for entry in fresh}
    reports = []
    for name, view in views.items():
        listed = {spec.hash for spec in index_or_empty(view).packages()}
        lacking = [each for each in chosen if each not in listed]
        more, unsound = read_entries(whole, [tags[each] for each in lacking if each not in read], observer)
        read |= {entry.key.hash: entry for entry in more}
        entries = [read[each] for each in lacking if each in read]
        written = bool(entries) and view.merge_index(document_of(entries))
        reports.append(
            IndexReport(
                whole.name,
                len(listed) + len(entries),
                tuple(sorted(entry.key.hash for entry in entries)),
                tuple(sorted(listed - tags.keys())),
                tuple(sorted({*damaged, *unsound})),
                written,
                signature_of(view),
                name,
            )
        )
    return reports


def rebuild_views(
    whole: BinaryCache, views: Views, queries: Sequence[Query] = (), observer: Observer = ignore
) -> list[IndexReport]:
    """Read every package, and make each view of exactly the chosen ones (all, without a query)."""
    tags = packages_of(whole)
    entries, damaged = read_entries(whole, tags.values(), observer)
    read: dict[str, Entry] = {entry.key.hash: entry for entry in entries}
    chosen = [each for each in _chosen(document_of(entries), tags, queries) if each in read]
    document = document_of(read[each] for each in chosen)
    reports = []
    for name, view in views.items():
        listed = old_hashes(view, observer)
        view.merge_index(document, replace=True)
        added, vanished = tuple(sorted(set(chosen) - listed)), tuple(sorted(listed - tags.keys()))
        reports.append(
            IndexReport(
                whole.name, len(chosen), added, vanished, damaged, written=True, signature=signature_of(view), view=name
            )
        )
    return reports


def check_views(whole: BinaryCache, views: Views) -> list[IndexReport]:
    """Look for packages that views name and that are not there. Raises `NotFoundError` if there is no such view."""
    tags = packages_of(whole)
    reports = []
    for name, view in views.items():
        try:
            index = view.read_index()
        except NotFoundError:
            raise NotFoundError(
                f"{whole.name} has no view {name!r}", hint="`oci-binpkg index update --view` makes one"
            ) from None
        assert index is not None  # no digest was named
        listed = {spec.hash for spec in index.packages()}
        vanished = tuple(sorted(listed - tags.keys()))
        reports.append(IndexReport(whole.name, len(listed), vanished=vanished, signature=signature_of(view), view=name))
    return reports


def _chosen(index: IndexDocument, tags: Mapping[str, str], queries: Sequence[Query]) -> list[str]:
    """Return the hashes of what matches with all it links to or runs that is there; all, without a query.

    Raises `NoMatchError` for a query that nothing matches.
    """
    if not queries:
        return list(tags)
    graph = index.graph
    there = [spec for spec in index.packages() if spec.hash in tags]
    roots = [spec for query in queries for spec in select(query, there, graph) or [one(query, there, graph)]]
    return [spec.hash for spec in graph.closure(roots) if spec.hash in tags]
