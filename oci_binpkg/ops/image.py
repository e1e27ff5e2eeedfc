"""One image of several packages under a tag of its own."""

from __future__ import annotations

from oci_binpkg.cache.oci import OciCache
from oci_binpkg.errors import PartialFailureError
from oci_binpkg.events import BatchStarted, Observer, Warned, ignore
from oci_binpkg.installs.protocol import Installs
from oci_binpkg.model.image import Runtime
from oci_binpkg.model.reference import check_tag
from oci_binpkg.ops.presence import packages_there
from oci_binpkg.ops.report import Outcome, PackageResult, PushReport
from oci_binpkg.ops.schedule import Schedule
from oci_binpkg.ops.selection import Selection
from oci_binpkg.ops.stack import BaseImages, Packer, Stack, no_base, require_base
from oci_binpkg.ops.tagging import tag_image


def push_image(
    installs: Installs,
    selection: Selection,
    cache: OciCache,
    packer: Packer,
    tag: str,
    *,
    base: BaseImages = no_base,
    runtime: Runtime | None = None,
    jobs: int = 2,
    dry_run: bool = False,
    observer: Observer = ignore,
) -> PushReport:
    """Push one image with the union of the closures of the roots, and tag it.

    Roots of several architectures become one image each, under an index. Layers of packages that the cache has already
    are used as they are. Raises `PartialFailureError` if a layer could not be had: nothing is tagged then.
    """
    check_tag(tag)
    present = packages_there(cache, (record.spec for record in selection.wanted), installs.graph, observer)
    results = [PackageResult(record.spec, Outcome.GONE) for record in selection.gone]
    for record in selection.gone:
        observer(Warned(f"{record.spec.short} is left out: its prefix {record.prefix} is gone"))
    todo = [record for record in selection.wanted if record.spec.hash not in present]
    there = [record for record in selection.wanted if record.spec.hash in present]
    require_base(base, selection.wanted)
    observer(BatchStarted(len(todo), len(there)))
    if dry_run:
        results += [PackageResult(record.spec, Outcome.PLANNED) for record in todo]
        results += [PackageResult(record.spec, Outcome.SKIPPED, present[record.spec.hash]) for record in there]
        return PushReport(cache.name, tuple(results))
    stack = Stack(installs, cache, packer, present, base=base, observer=observer)
    results += Schedule(stack, todo, publish=False, needed=there).run(jobs)
    results += [PackageResult(record.spec, Outcome.SKIPPED, present[record.spec.hash]) for record in there]
    failed = [result for result in results if result.error]
    if failed:
        first = failed[0].error
        raise PartialFailureError(
            f"{tag} is not tagged: {len(failed)} of its layers could not be pushed; {first.message if first else ''}",
            hint="mend that and run the command again: what was sent stays there",
        )
    return PushReport(cache.name, tuple(results), tag_image(stack, cache, selection.roots, tag, runtime=runtime))
