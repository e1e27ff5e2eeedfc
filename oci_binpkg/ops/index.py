"""The index of a cache: brought up to date, made anew, compared with what is there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import StrEnum
from threading import Lock
from typing import Any

from oci_binpkg.cache.protocol import CacheEntry, ReadableCache, WritableCache
from oci_binpkg.errors import BinpkgError, ContentError, Hint, KeyringError, NotFoundError, Step, TransferError
from oci_binpkg.events import Observer, Warned, ignore
from oci_binpkg.index.document import EMPTY, IndexDocument, index_of
from oci_binpkg.model.content import Blob, Digest
from oci_binpkg.model.query import Query
from oci_binpkg.ops.contents import packages_of
from oci_binpkg.parallel import in_turns
from oci_binpkg.signing.index_trust import NOT_SIGNED, IndexSignature


@dataclass(frozen=True, slots=True)
class IndexReport:
    """How an index compares with its cache, by hash: packages it lacks, and packages it names that are not there.

    `damaged` are tags or paths without a sound package, and a check gives `reasons` in their order. `written` is
    whether the index was changed, `signature` who signed it. `view` is the part of a mirror that it is over, "" for
    all; what a view lacks is left out on purpose.
    """

    cache: str
    packages: int
    unlisted: tuple[str, ...] = ()
    vanished: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()
    written: bool = False
    signature: IndexSignature = NOT_SIGNED
    view: str = ""
    reasons: tuple[str, ...] = ()

    @property
    def is_true(self) -> bool:
        """Whether the index lists exactly what is there."""
        return not (self.unlisted or self.vanished or self.damaged)

    @property
    def has_lost(self) -> bool:
        """Whether packages are damaged, or were listed and are gone."""
        return bool(self.vanished or self.damaged)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON document."""
        return {
            "cache": self.cache,
            "packages": self.packages,
            "unlisted": list(self.unlisted),
            "vanished": list(self.vanished),
            "damaged": list(self.damaged),
            **({"reasons": list(self.reasons)} if self.reasons else {}),
            "written": self.written,
            **self.signature.to_json(),
            **({"view": self.view} if self.view else {}),
        }


class Depth(StrEnum):
    """How closely a check looks: the names alone, each package's documents and the sizes of its blobs, all bytes."""

    NAMES = "names"
    MANIFESTS = "manifests"
    CONTENT = "content"


Indices = Mapping[str, WritableCache]
"""A cache, opened once for each index to change: by the name of a view, "" for the index of all packages."""


def update_indices(
    whole: ReadableCache, indices: Indices, queries: Sequence[Query] = (), observer: Observer = ignore
) -> list[IndexReport]:
    """Enter the chosen packages (all, without a query) that the indices lack. Only those are read.

    Raises `NoMatchError` for a query that nothing matches.
    """
    if not queries and not whole.hashes():
        return _emptied(whole, indices, observer, replace=False)
    # a query is asked of the index of all packages, which is the one to be updated where no view is named
    tags, index = _tags_and_index(whole) if queries or "" in indices else (packages_of(whole), EMPTY)
    unlisted = tags.keys() - index.present() if queries else set()
    damaged: list[str] = []
    read = document_of(read_entries(whole, [tags[each] for each in sorted(unlisted)], damaged, observer))
    chosen = _chosen(index.merged(read), tags, queries) if queries else list(tags)
    reports = []
    for name, cache in indices.items():
        listed = (index if name == "" else index_or_empty(cache)).present()
        lacking = [each for each in chosen if each not in listed]
        known, unsound = read.present(), list(damaged)
        unread = [tags[each] for each in sorted(lacking) if each not in known]
        read = read.merged(document_of(read_entries(whole, unread, unsound, observer)))
        known = read.present()
        added = [each for each in lacking if each in known]
        written = bool(added) and cache.merge_index(_part(read, added))
        reports.append(
            IndexReport(
                whole.name,
                len(listed) + len(added) if name else len(tags),
                tuple(sorted(added if name else lacking)),
                tuple(sorted(listed - tags.keys())),
                tuple(sorted(set(unsound))),
                written,
                signature_of(cache),
                name,
            )
        )
    return reports


def rebuild_indices(
    whole: ReadableCache, indices: Indices, queries: Sequence[Query] = (), observer: Observer = ignore
) -> list[IndexReport]:
    """Read every package, and make each index of exactly the chosen ones (all, without a query).

    Raises `ContentError`, and leaves all as they are, if no package can be read.
    """
    tags = packages_of(whole) if queries else whole.hashes()
    if not tags:
        return _emptied(whole, indices, observer, replace=True)
    listed = {name: old_hashes(cache, observer) for name, cache in indices.items()}
    unsound: list[str] = []
    # a package without its layer cannot be installed: where a look costs no request, it is not listed either
    faults = BlobFaults(whole, Depth.MANIFESTS) if whole.is_local else None
    read = document_of(read_entries(whole, tags.values(), unsound, observer, faults))
    known = read.present()
    if not known:
        raise ContentError(
            f"{whole.name}: none of its {len(tags)} packages could be read, so its index stays as it is",
            hint=Hint(Step.REBUILD_UNSIGNED),
        )
    chosen = [each for each in _chosen(read, tags, queries) if each in known]
    document = _part(read, chosen)
    reports = []
    for name, cache in indices.items():
        cache.merge_index(document, replace=True)
        reports.append(
            IndexReport(
                whole.name,
                len(chosen),
                tuple(sorted(set(chosen) - listed[name])),
                tuple(sorted(listed[name] - tags.keys())),
                tuple(sorted(unsound)),
                written=True,
                signature=signature_of(cache),
                view=name,
            )
        )
    return reports


def _emptied(whole: ReadableCache, indices: Indices, observer: Observer, *, replace: bool) -> list[IndexReport]:
    """Give a cache without packages an empty index, so that readers learn that from it and need no listing."""
    listed = {
        n: old_hashes(each, observer) if replace else index_or_empty(each).present() for n, each in indices.items()
    }
    observer(Warned(f"{whole.name} holds no packages: its index is empty"))
    reports = []
    for name, cache in indices.items():
        vanished = tuple(sorted(listed[name]))
        written = cache.merge_index(EMPTY, replace=replace)
        reports.append(IndexReport(whole.name, 0, (), vanished, (), written, signature_of(cache), name))
    return reports


def check_index(
    cache: ReadableCache,
    depth: Depth = Depth.NAMES,
    packages: ReadableCache | None = None,
    go_on: Callable[[], None] = lambda: None,
) -> IndexReport:
    """Compare the index with one listing of the cache, and look into its packages. Nothing is written.

    `packages` is the cache as its packages are read (None: as it is); `go_on` is called between pieces of content and
    may raise.
    """
    tags, index = _tags_and_index(cache)
    listed = index.present()
    unlisted, vanished = tuple(sorted(set(tags) - listed)), tuple(sorted(listed - set(tags)))
    report = IndexReport(cache.name, len(tags), unlisted, vanished, signature=signature_of(cache))
    return _with_damage(report, damaged_packages(packages or cache, tags.values(), depth, go_on))


def damaged_packages(
    cache: ReadableCache, tags: Iterable[str], depth: Depth, go_on: Callable[[], None] = lambda: None
) -> dict[str, str]:
    """Return the tags or paths without a sound package, in their order, each with the reason."""
    if depth is Depth.NAMES:
        return {}
    faults = BlobFaults(cache, depth, go_on)

    def look(tag: str) -> tuple[str, str]:
        go_on()
        try:
            return tag, faults.of_entry(cache.entry(tag))
        except (NotFoundError, ContentError) as error:
            return tag, error.message

    return {tag: reason for tag, reason in in_turns(look, sorted(tags)) if reason}


class BlobFaults:
    """What is wrong with the blobs of packages; each blob is looked at once, however many images share it."""

    def __init__(self, cache: ReadableCache, depth: Depth, go_on: Callable[[], None] = lambda: None) -> None:
        self._cache = cache
        self._depth = depth
        self._go_on = go_on
        self._known: dict[Digest, str] = {}
        self._lock = Lock()

    def of_entry(self, entry: CacheEntry) -> str:
        """Return the first fault of a package's blobs, "" if they are sound."""
        return next((fault for blob in self._cache.blobs(entry) if (fault := self._of(blob))), "")

    def _of(self, blob: Blob) -> str:
        digest = blob.descriptor.digest
        with self._lock:
            known = self._known.get(digest)
        if known is None:
            known = self._look(blob)
            with self._lock:
                self._known[digest] = known
        return known

    def _look(self, blob: Blob) -> str:
        descriptor = blob.descriptor
        try:
            if not self._cache.holds(descriptor):
                return f"{descriptor.digest} is not there with its size of {descriptor.size} bytes"
            if self._depth is Depth.CONTENT:
                for _ in blob.chunks(descriptor.size):
                    self._go_on()
        except (NotFoundError, ContentError) as error:
            return error.message
        return ""


def _with_damage(report: IndexReport, damaged: Mapping[str, str]) -> IndexReport:
    return replace(report, damaged=tuple(damaged), reasons=tuple(damaged.values()))


def signature_of(cache: ReadableCache) -> IndexSignature:
    """Return who signed the index of a cache; an absent index is unsigned.

    A failure to find out is reported in the same way: the change of the index does not fail for that.
    """
    try:
        return cache.index_signature()
    except NotFoundError:
        return NOT_SIGNED
    except (TransferError, KeyringError) as error:
        return IndexSignature(problem=error.message)


def old_hashes(cache: ReadableCache, observer: Observer = ignore) -> set[str]:
    """Return what the old index lists before it is rebuilt, whatever state it is in."""
    try:
        return set(index_or_empty(cache).present())
    except ContentError as error:
        observer(Warned(f"the old index is not used: {error.message}"))
        return set()


def _tags_and_index(cache: ReadableCache) -> tuple[Mapping[str, str], IndexDocument]:
    """Read both at once: the listing keeps the server busy, the index this machine."""
    with ThreadPoolExecutor(1) as lister:
        listing = lister.submit(packages_of, cache)
        try:
            index = index_or_empty(cache)
        except BinpkgError:
            listing.result()  # no packages at all is the better answer
            raise
        return listing.result(), index


def index_or_empty(cache: ReadableCache) -> IndexDocument:
    """Return the index of a cache, an empty one if the cache has no index."""
    try:
        return cache.read_index() or EMPTY
    except NotFoundError:
        return EMPTY


def document_of(entries: Iterable[CacheEntry]) -> IndexDocument:
    """Return an index of packages that are read one after the other; none of them is kept."""
    return index_of((entry.document.root, entry.document.graph) for entry in entries)


def read_entries(
    cache: ReadableCache,
    tags: Iterable[str],
    damaged: list[str],
    observer: Observer = ignore,
    faults: BlobFaults | None = None,
) -> Iterator[CacheEntry]:
    """Read packages at tags or paths; unsound ones are reported and join `damaged`."""

    def read(tag: str) -> CacheEntry | None:
        try:
            entry = cache.entry(tag)
        except (NotFoundError, ContentError) as error:
            fault = error.message
        else:
            if not (fault := faults.of_entry(entry) if faults else ""):
                return entry
        observer(Warned(f"{tag} is passed over: {fault}"))
        damaged.append(tag)
        return None

    return (entry for entry in in_turns(read, tags) if entry)


def check_views(
    whole: ReadableCache,
    views: Mapping[str, ReadableCache],
    depth: Depth = Depth.NAMES,
    packages: ReadableCache | None = None,
    go_on: Callable[[], None] = lambda: None,
) -> list[IndexReport]:
    """Look for packages that views name and that are damaged or gone. Raises `NotFoundError` without such a view."""
    tags = packages_of(whole)
    reports = []
    for name, view in views.items():
        try:
            index = view.read_index()
        except NotFoundError:
            raise NotFoundError(f"{whole.name} has no view {name!r}", hint=Hint(Step.MAKE_VIEW)) from None
        assert index is not None  # no digest was named
        listed = index.present()
        vanished = tuple(sorted(listed - tags.keys()))
        report = IndexReport(whole.name, len(listed), vanished=vanished, signature=signature_of(view), view=name)
        there = [tags[each] for each in listed if each in tags]
        reports.append(_with_damage(report, damaged_packages(packages or whole, there, depth, go_on)))
    return reports


def _chosen(index: IndexDocument, tags: Mapping[str, str], queries: Sequence[Query]) -> list[str]:
    """Return the hashes of what matches with all it links to or runs that is there; all, without a query.

    Raises `NoMatchError` for a query that nothing matches.
    """
    if not queries:
        return list(tags)
    from oci_binpkg.index.search import IndexSearch  # noqa: PLC0415 - it needs sqlite, most indices have no views

    with IndexSearch(index) as search:
        roots: dict[str, None] = {}
        for query in queries:
            found = [spec.hash for spec in search.matches(query) if spec.hash in tags]
            roots |= dict.fromkeys(found or [search.one(query, among=tags).hash])
        return [key.hash for key in search.closure(list(roots)) if key.hash in tags]


def _part(index: IndexDocument, chosen: Collection[str]) -> IndexDocument:
    """Return an index of some packages of another, and of all they depend on."""
    if index.present() == set(chosen):
        return index
    return index_of((spec, index.graph) for spec in index.specs(chosen))
