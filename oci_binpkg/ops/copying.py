"""Packages and images from one cache to another, byte for byte: nothing is packed again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from oci_binpkg.cache.index import index_of
from oci_binpkg.cache.oci import OciCache
from oci_binpkg.cache.protocol import PackageKey
from oci_binpkg.errors import BinpkgError
from oci_binpkg.events import BatchStarted, BytesSent, Event, Observer, PackageFinished, PackageStarted, ignore
from oci_binpkg.model.query import Query, select
from oci_binpkg.model.reference import INDEX_TAG, is_package_tag
from oci_binpkg.ops.find import contents
from oci_binpkg.store.copy import copy


@dataclass(frozen=True, slots=True)
class CopyReport:
    """The tags that were copied, those the target had already, and those that failed, each with the reason."""

    source: str
    target: str
    copied: tuple[str, ...]
    skipped: tuple[str, ...]
    failed: tuple[tuple[str, BinpkgError], ...] = ()
    index_written: bool = False

    @property
    def exit_code(self) -> int:
        """0; 1 if some failed; an error's own code if all did, for one reason."""
        own = {error.exit_code for _, error in self.failed}
        if self.failed and not self.copied and len(own) == 1:
            return own.pop()
        return 1 if self.failed else 0

    def to_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {
            "source": self.source,
            "target": self.target,
            "copied": list(self.copied),
            "skipped": list(self.skipped),
            "failed": {tag: error.message for tag, error in self.failed},
            "index_written": self.index_written,
        }


def copy_cache(
    source: OciCache, target: OciCache, queries: Sequence[Query] = (), *, observer: Observer = ignore
) -> CopyReport:
    """Copy all packages and images, or those packages that match a query with what they link to or run.

    What the target has under the same tag already is left alone. The target's index is brought up to date.
    """
    index = contents(source, observer)
    present = set(target.store.tags())
    if queries:
        roots = [spec for query in queries for spec in select(query, list(index.packages()), index.graph)]
        listed = {spec.hash for spec in index.packages()}
        wanted = [PackageKey.of(spec).tag for spec in index.graph.closure(roots) if spec.hash in listed]
    else:
        wanted = sorted(tag for tag in source.store.tags() if tag != INDEX_TAG)
    todo = [tag for tag in wanted if tag not in present]
    observer(BatchStarted(len(todo), len(wanted) - len(todo)))
    copied: list[str] = []
    failed: list[tuple[str, BinpkgError]] = []
    for tag in todo:
        observer(PackageStarted(tag, tag))
        try:
            copy(source.store, target.store, tag, observer=_under(tag, observer))
            copied.append(tag)
            observer(PackageFinished(tag, "copied"))
        except BinpkgError as error:
            failed.append((tag, error))
            observer(PackageFinished(tag, "failed", error.message))
    broken = {tag for tag, _ in failed}
    there = [s for s in index.packages() if (tag := PackageKey.of(s).tag) in wanted and tag not in broken]
    has_packages = any(is_package_tag(tag) for tag in (*copied, *wanted))
    written = bool(has_packages and there) and target.merge_index(index_of((spec, index.graph) for spec in there))
    skipped = tuple(tag for tag in wanted if tag in present)
    return CopyReport(source.name, target.name, tuple(copied), skipped, tuple(failed), written)


def _under(tag: str, observer: Observer) -> Observer:
    """Report bytes under the tag: a store knows digests alone."""

    def observe(event: Event) -> None:
        observer(BytesSent(tag, event.count) if isinstance(event, BytesSent) else event)

    return observe
