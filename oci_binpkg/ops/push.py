"""Push packages to a cache: each prefix becomes a layer, each package an image stacked on its dependencies' layers.

Packing, sending and publishing of different packages overlap. A package is published when the layers of all it needs
are confirmed; one failed package fails what depends on it (their images would lack it) and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from oci_binpkg.cache.protocol import WritableCache
from oci_binpkg.cancel import Cancel
from oci_binpkg.errors import BinpkgError, Hint, Step
from oci_binpkg.events import BatchStarted, Observer, Warned, ignore
from oci_binpkg.index.document import index_of
from oci_binpkg.installs.protocol import InstallRecord, InstallTree
from oci_binpkg.log import Log
from oci_binpkg.model.reference import PackageKey
from oci_binpkg.ops.contents import packages_there
from oci_binpkg.ops.image import tag_image
from oci_binpkg.ops.push_report import PackageResult, PushOutcome, PushReport
from oci_binpkg.ops.schedule import PushSchedule
from oci_binpkg.ops.selection import Selection
from oci_binpkg.ops.stack import BaseImages, Packer, Stack, no_base, require_base

_log: Final = Log("push")


@dataclass(frozen=True, slots=True)
class PushOptions:
    """How to push. `jobs` packages are packed at a time; `tag` also tags one image of all roots.

    What is `elsewhere` (hashes) is not published; where others need it, their images have its layer all the same.
    """

    force: bool = False
    update_index: bool = False
    dry_run: bool = False
    tag: str = ""
    jobs: int = field(default_factory=lambda: os.cpu_count() or 1)
    elsewhere: frozenset[str] = frozenset()


def push(
    installs: InstallTree,
    selection: Selection,
    cache: WritableCache,
    packer: Packer,
    *,
    base: BaseImages = no_base,
    options: PushOptions | None = None,
    observer: Observer = ignore,
    cancel: Cancel | None = None,
) -> PushReport:
    """Push the selected packages that are not in the cache yet, and (if asked) put them all in its index."""
    options = options or PushOptions()
    present = packages_there(cache, (record.spec for record in selection.wanted), installs.graph, observer)
    absent = [record for record in selection.wanted if options.force or record.spec.hash not in present]
    todo = [record for record in absent if record.spec.hash not in options.elsewhere]
    left = [record for record in absent if record.spec.hash in options.elsewhere]
    there = [record for record in selection.wanted if not options.force and record.spec.hash in present]
    results = [PackageResult(record.spec, PushOutcome.GONE) for record in selection.gone]
    results += [PackageResult(record.spec, PushOutcome.SKIPPED, present[record.spec.hash]) for record in there]
    results += [PackageResult(record.spec, PushOutcome.ELSEWHERE) for record in left]
    for record in selection.gone:
        observer(Warned(f"{record.spec.short} is left out: its prefix {record.prefix} is gone"))
    _log_decisions(options, cache.name, todo, there, left)
    require_base(base, todo)
    if there and base is not no_base:
        observer(Warned(f"{len(there)} packages are there already and keep their images", Hint(Step.BUILD_ANEW)))
    observer(BatchStarted(len(todo), len(there) + len(left)))
    if options.dry_run:
        results += [PackageResult(r.spec, PushOutcome.PLANNED, PackageKey.of(r.spec).tag) for r in todo]
        return PushReport(cache.name, tuple(results))
    stack = Stack(installs, cache, packer, present, base=base, observer=observer, cancel=cancel)
    if cache.images is not None:
        stacked = {record.spec.hash for record in stack.closure(record.spec for record in todo)}
        PushSchedule(stack, [r for r in left if r.spec.hash in stacked], publish=False).run(options.jobs)
    with cache.batch():
        results += PushSchedule(stack, todo, publish=True).run(options.jobs)
    written = options.update_index and _update_index(installs, cache, results)
    image = None
    if options.tag and cache.images is not None and not any(result.error for result in results):
        needed = [r for r in stack.closure(selection.roots) if stack.is_present(r.spec.hash)]
        PushSchedule(stack, [], publish=False, needed=needed).run(options.jobs)
        image = tag_image(stack, cache.images, selection.roots, options.tag)
    return PushReport(cache.name, tuple(results), image, written)


def _log_decisions(
    options: PushOptions,
    name: str,
    todo: Iterable[InstallRecord],
    there: Iterable[InstallRecord],
    left: Iterable[InstallRecord],
) -> None:
    reason = "it is pushed in any case" if options.force else f"{name} does not have it"
    decided = [(todo, f"pushed: {reason}"), (there, f"skipped: {name} has it"), (left, "skipped: another cache has it")]
    for records, why in decided:
        for record in records:
            _log.info("%s is %s", record.spec.short, why)


def _update_index(installs: InstallTree, cache: WritableCache, results: Iterable[PackageResult]) -> bool:
    there = [r.spec for r in results if r.outcome in (PushOutcome.PUSHED, PushOutcome.SKIPPED)]
    if not there:
        return False
    try:
        return cache.merge_index(index_of((spec, installs.graph) for spec in there))
    except BinpkgError as error:
        raise error.within(f"the packages are in {cache.name}, but its index is not updated") from error
