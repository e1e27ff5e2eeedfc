"""Views: named indices over chosen packages of a mirror, beside the index over all of them.

A view is for those who want a part of a large mirror. What is chosen brings what it links to or runs, as in a copy, so
that whoever knows the view alone can install from it. Packages are chosen by what indices say of them, and entered as
they are themselves: what a view lists was read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from oci_binpkg.cache.protocol import BinaryCache
from oci_binpkg.errors import NotFoundError
from oci_binpkg.events import Observer, ignore
from oci_binpkg.index.document import EMPTY, IndexDocument, index_of
from oci_binpkg.index.search import IndexSearch
from oci_binpkg.model.query import Query
from oci_binpkg.ops.contents import packages_of
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
    index = index_or_empty(whole) if queries else EMPTY
    unlisted = tags.keys() - index.present() if queries else set()
    damaged: list[str] = []
    read = document_of(read_entries(whole, [tags[each] for each in sorted(unlisted)], damaged, observer))
    chosen = _chosen(index.merged(read), tags, queries)
    reports = []
    for name, view in views.items():
        listed = index_or_empty(view).present()
        lacking = [each for each in chosen if each not in listed]
        known, unsound = read.present(), list(damaged)
        unread = [tags[each] for each in lacking if each not in known]
        read = read.merged(document_of(read_entries(whole, unread, unsound, observer)))
        known = read.present()
        added = [each for each in lacking if each in known]
        written = bool(added) and view.merge_index(_part(read, added))
        reports.append(
            IndexReport(
                whole.name,
                len(listed) + len(added),
                tuple(sorted(added)),
                tuple(sorted(listed - tags.keys())),
                tuple(sorted(set(unsound))),
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
    unsound: list[str] = []
    read = document_of(read_entries(whole, tags.values(), unsound, observer))
    damaged, known = tuple(sorted(unsound)), read.present()
    chosen = [each for each in _chosen(read, tags, queries) if each in known]
    document = _part(read, chosen)
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
        listed = index.present()
        vanished = tuple(sorted(listed - tags.keys()))
        reports.append(IndexReport(whole.name, len(listed), vanished=vanished, signature=signature_of(view), view=name))
    return reports


def _chosen(index: IndexDocument, tags: Mapping[str, str], queries: Sequence[Query]) -> list[str]:
    """Return the hashes of what matches with all it links to or runs that is there; all, without a query.

    Raises `NoMatchError` for a query that nothing matches.
    """
    if not queries:
        return list(tags)
    with IndexSearch(index) as search:
        roots: dict[str, None] = {}
        for query in queries:
            found = [each for each in search.hashes([query]) if each in tags]
            roots |= dict.fromkeys(found or [search.one(query, among=tags).hash])
        return [key.hash for key in search.closure(list(roots)) if key.hash in tags]


def _part(index: IndexDocument, chosen: Sequence[str]) -> IndexDocument:
    """Return an index of some packages of another, and of all they depend on."""
    return index_of((spec, index.graph) for spec in index.specs(chosen))
