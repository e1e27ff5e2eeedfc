"""The index of a cache: brought up to date, made anew, compared with what is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from oci_binpkg.cache.index import EMPTY, IndexDocument, index_of
from oci_binpkg.cache.protocol import BinaryCache, Entry
from oci_binpkg.errors import BinpkgError, ContentError, NotFoundError
from oci_binpkg.events import Observer, Warned, ignore
from oci_binpkg.ops.find import READERS, packages_of


@dataclass(frozen=True, slots=True)
class IndexReport:
    """How an index compares with its cache, by hash: packages it lacks, and packages it names that are not there.

    `damaged` are tags that are no sound packages; `written` tells whether the index was changed.
    """

    cache: str
    packages: int
    unlisted: tuple[str, ...] = ()
    vanished: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()
    written: bool = False

    @property
    def is_true(self) -> bool:
        """Whether the index tells exactly what is there."""
        return not (self.unlisted or self.vanished or self.damaged)

    def to_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {
            "cache": self.cache,
            "packages": self.packages,
            "unlisted": list(self.unlisted),
            "vanished": list(self.vanished),
            "damaged": list(self.damaged),
            "written": self.written,
        }


def update_index(cache: BinaryCache, observer: Observer = ignore) -> IndexReport:
    """Enter the packages that the index lacks. Only those are read; what it names already is not."""
    tags, index = _tags_and_index(cache)
    listed = index.present()
    unlisted = tuple(sorted(set(tags) - listed))
    entries, damaged = _read(cache, [tags[each] for each in unlisted], observer)
    written = bool(entries) and cache.merge_index(_document(entries))
    return IndexReport(cache.name, len(tags), unlisted, tuple(sorted(listed - set(tags))), damaged, written)


def rebuild_index(cache: BinaryCache, observer: Observer = ignore) -> IndexReport:
    """Read every package and write the index anew; what is gone or damaged is left out and reported."""
    tags = packages_of(cache)
    try:
        index = _index(cache)
    except ContentError as error:
        observer(Warned(f"the old index is of no use: {error.message}"))
        index = EMPTY
    entries, damaged = _read(cache, list(tags.values()), observer)
    cache.merge_index(_document(entries), replace=True)
    listed = index.present()
    found = {entry.key.hash for entry in entries}
    return IndexReport(
        cache.name,
        len(entries),
        tuple(sorted(found - listed)),
        tuple(sorted(listed - set(tags))),
        damaged,
        written=True,
    )


def check_index(cache: BinaryCache) -> IndexReport:
    """Compare the index with one listing of the cache. Nothing is written."""
    tags, index = _tags_and_index(cache)
    listed = index.present()
    return IndexReport(cache.name, len(tags), tuple(sorted(set(tags) - listed)), tuple(sorted(listed - set(tags))))


def _tags_and_index(cache: BinaryCache) -> tuple[Mapping[str, str], IndexDocument]:
    """Ask for both at once: a listing keeps the other side busy, an index this one."""
    with ThreadPoolExecutor(1) as lister:
        listing = lister.submit(packages_of, cache)
        try:
            index = _index(cache)
        except BinpkgError:
            listing.result()  # no packages at all is the better answer
            raise
        return listing.result(), index


def _index(cache: BinaryCache) -> IndexDocument:
    try:
        found = cache.index_bytes()
    except NotFoundError:
        found = None
    return found.opened if found else EMPTY


def _document(entries: Sequence[Entry]) -> IndexDocument:
    return index_of((entry.document.root, entry.document.graph) for entry in entries)


def _read(cache: BinaryCache, tags: Sequence[str], observer: Observer) -> tuple[list[Entry], tuple[str, ...]]:
    damaged: list[str] = []

    def read(tag: str) -> Entry | None:
        try:
            return cache.entry(tag)
        except (NotFoundError, ContentError) as error:
            observer(Warned(f"{tag} is passed over: {error.message}"))
            damaged.append(tag)
            return None

    with ThreadPoolExecutor(READERS) as readers:
        entries = [entry for entry in readers.map(read, tags) if entry]
    return entries, tuple(sorted(damaged))
