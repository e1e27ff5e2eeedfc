"""Push packages to a cache: each prefix becomes a layer, each package an image stacked on its dependencies' layers.

Packing, sending and publishing of different packages overlap. A package is published when the layers of all it needs
are confirmed; one failed package fails what depends on it (their images would lack it) and nothing else. One image of
several packages has a tag of its own.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from oci_binpkg.cache.protocol import KeepsImages, WritableCache
from oci_binpkg.cancel import Cancel
from oci_binpkg.errors import BinpkgError, Hint, PartialFailureError, Step
from oci_binpkg.events import BatchStarted, Observer, Warned, ignore
from oci_binpkg.index.document import index_of
from oci_binpkg.installs.protocol import InstallRecord, InstallTree
from oci_binpkg.log import Log
from oci_binpkg.model.content import OCI_INDEX, Blob, Descriptor, Platform
from oci_binpkg.model.image import Image, Runtime
from oci_binpkg.model.manifest import Index
from oci_binpkg.model.reference import PackageKey, check_image_tag
from oci_binpkg.model.spec import Spec, platform_of
from oci_binpkg.ops.completeness import unfinished
from oci_binpkg.ops.contents import packages_there
from oci_binpkg.ops.push_report import PackageResult, PushOutcome, PushReport, TaggedImage
from oci_binpkg.ops.schedule import PushSchedule
from oci_binpkg.ops.selection import Selection
from oci_binpkg.ops.stack import BaseImages, Composition, Packer, Stack, no_base, require_base

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


@dataclass(frozen=True, slots=True)
class PushPlan:
    """What a push does with each package: `todo` is pushed in this order, dependencies first.

    What is `there` keeps its place in the cache (by hash in `places`), what is `elsewhere` is in another cache, and the
    prefix of what is `gone` is not on the disk.
    """

    todo: tuple[InstallRecord, ...]
    there: tuple[InstallRecord, ...] = ()
    elsewhere: tuple[InstallRecord, ...] = ()
    gone: tuple[InstallRecord, ...] = ()
    places: Mapping[str, str] = field(default_factory=dict)

    def to_push(self) -> list[PackageResult]:
        """Return what a dry run reports of the packages to be pushed."""
        return [PackageResult(r.spec, PushOutcome.PLANNED, PackageKey.of(r.spec).tag) for r in self.todo]

    def left_out(self) -> list[PackageResult]:
        """Return what is reported of all others."""
        results = [PackageResult(record.spec, PushOutcome.GONE) for record in self.gone]
        results += [PackageResult(r.spec, PushOutcome.SKIPPED, self.places[r.spec.hash]) for r in self.there]
        return results + [PackageResult(record.spec, PushOutcome.ELSEWHERE) for record in self.elsewhere]

    def warn(self, observer: Observer) -> None:
        """Report the packages whose prefix is gone."""
        for record in self.gone:
            why = f"its prefix {record.prefix} is gone"
            if record.is_replaced:
                why = f"it is deprecated, and its prefix {record.prefix} is a link to that of its successor"
            observer(Warned(f"{record.spec.short} is left out: {why}"))


def plan(
    selection: Selection, present: Mapping[str, str], *, force: bool = False, elsewhere: Collection[str] = ()
) -> PushPlan:
    """Decide what becomes of each selected package; nothing is asked or done.

    `present` is hash and place of what the cache has; with `force` it is pushed again. `elsewhere` are hashes of what
    another cache has.
    """
    absent = [record for record in selection.wanted if force or record.spec.hash not in present]
    return PushPlan(
        todo=tuple(record for record in absent if record.spec.hash not in elsewhere),
        there=tuple(record for record in selection.wanted if not force and record.spec.hash in present),
        elsewhere=tuple(record for record in absent if record.spec.hash in elsewhere),
        gone=tuple(selection.gone),
        places=present,
    )


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
    composition: Composition | None = None,
) -> PushReport:
    """Push the selected packages that are not in the cache yet, and (if asked) put them all in its index."""
    options = options or PushOptions()
    present = packages_there(cache, (record.spec for record in selection.wanted), installs.graph, observer)
    again = unfinished(cache, selection.wanted, present, options.elsewhere)
    present = {each: place for each, place in present.items() if each not in again}
    planned = plan(selection, present, force=options.force, elsewhere=options.elsewhere)
    planned.warn(observer)
    _log_decisions(options, cache.name, planned)
    require_base(base, planned.todo, composition.max_layers if composition else 0)
    if planned.there and base is not no_base:
        text = f"{len(planned.there)} packages are there already and keep their images"
        observer(Warned(text, Hint(Step.BUILD_ANEW)))
    observer(BatchStarted(len(planned.todo), len(planned.there) + len(planned.elsewhere), cache.name))
    if options.dry_run:
        return PushReport(cache.name, (*planned.left_out(), *planned.to_push()))
    results = planned.left_out()
    stack = Stack(
        installs,
        cache,
        packer,
        present,
        base=base,
        observer=observer,
        cancel=cancel,
        composition=composition,
    )
    stack.prepare([*(record.spec for record in planned.todo), *(selection.roots if options.tag else ())])
    if cache.images is not None:
        stacked = {record.spec.hash for record in stack.closure(record.spec for record in planned.todo)}
        PushSchedule(stack, [r for r in planned.elsewhere if r.spec.hash in stacked], publish=False).run(options.jobs)
    if options.force:
        cache.mend()
    with cache.batch():
        results += PushSchedule(stack, planned.todo, publish=True).run(options.jobs)
    written = options.update_index and _update_index(installs, cache, results)
    image = None
    if options.tag and cache.images is not None and not any(result.error for result in results):
        needed = [r for r in stack.closure(selection.roots) if stack.is_present(r.spec.hash)]
        PushSchedule(stack, [], publish=False, needed=needed).run(options.jobs)
        image = tag_image(stack, cache.images, selection.roots, options.tag)
    return PushReport(cache.name, tuple(results), image, written)


def _log_decisions(options: PushOptions, name: str, planned: PushPlan) -> None:
    reason = "it is pushed in any case" if options.force else f"{name} does not have it"
    decided = [
        (planned.todo, f"pushed: {reason}"),
        (planned.there, f"skipped: {name} has it"),
        (planned.elsewhere, "skipped: another cache has it"),
    ]
    for records, why in decided:
        for record in records:
            _log.info("%s is %s", record.spec.short, why)


def push_image(
    installs: InstallTree,
    selection: Selection,
    cache: KeepsImages,
    packer: Packer,
    tag: str,
    *,
    base: BaseImages = no_base,
    runtime: Runtime | None = None,
    jobs: int = 2,
    dry_run: bool = False,
    observer: Observer = ignore,
    cancel: Cancel | None = None,
    composition: Composition | None = None,
) -> PushReport:
    """Push one image with the union of the closures of the roots, and tag it.

    Roots of several architectures become one image each, under an index. Layers of packages that the cache has already
    are used as they are. Raises `PartialFailureError` if a layer could not be had: nothing is tagged then.
    """
    check_image_tag(tag)
    present = packages_there(cache, (record.spec for record in selection.wanted), installs.graph, observer)
    planned = plan(selection, present)
    planned.warn(observer)
    require_base(base, selection.wanted, composition.max_layers if composition else 0)
    observer(BatchStarted(len(planned.todo), len(planned.there), cache.name))
    results = [PackageResult(record.spec, PushOutcome.GONE) for record in planned.gone]
    skipped = [PackageResult(r.spec, PushOutcome.SKIPPED, present[r.spec.hash]) for r in planned.there]
    if dry_run:
        results += [PackageResult(record.spec, PushOutcome.PLANNED) for record in planned.todo]
        return PushReport(cache.name, (*results, *skipped))
    stack = Stack(
        installs,
        cache,
        packer,
        present,
        base=base,
        observer=observer,
        cancel=cancel,
        composition=composition,
    )
    stack.prepare(selection.roots)
    results += PushSchedule(stack, planned.todo, publish=False, needed=planned.there).run(jobs)
    results += skipped
    failed = [result for result in results if result.error]
    if failed:
        first = failed[0].error
        raise PartialFailureError(
            f"{tag} is not tagged: {len(failed)} of its layers could not be pushed; {first.message if first else ''}",
            hint="mend that and run the command again: what was sent stays there",
        )
    return PushReport(cache.name, tuple(results), tag_image(stack, cache, selection.roots, tag, runtime=runtime))


def tag_image(
    stack: Stack, cache: KeepsImages, roots: Sequence[Spec], tag: str, *, runtime: Runtime | None = None
) -> TaggedImage:
    """Compose the image of `roots` from layers that are in the cache, and tag it."""
    by_platform: dict[Platform, list[Spec]] = {}
    for root in roots:
        by_platform.setdefault(platform_of(root), []).append(root)
    missing: list[str] = []
    images: dict[Platform, Image] = {}
    for platform, group in by_platform.items():
        records: Sequence[InstallRecord] = stack.closure(group)
        images[platform], lacking = stack.image(records, runtime=runtime)
        missing += lacking
    if len(images) == 1:
        (image,) = images.values()
        cache.publish_image(image, tag)
        manifest = image.manifest
    else:
        manifest = _publish_index(cache, images, tag)
    sizes = {layer.blob.descriptor.digest: layer.blob.descriptor.size for i in images.values() for layer in i.layers}
    return TaggedImage(
        tag,
        manifest.descriptor.digest,
        max(len(image.layers) for image in images.values()),
        sum(sizes.values()),
        tuple(missing),
        tuple(str(platform) for platform in images),
    )


def _publish_index(cache: KeepsImages, images: dict[Platform, Image], tag: str) -> Blob:
    entries = []
    for platform, image in images.items():
        cache.put_image(image)
        known = image.manifest.descriptor
        entries.append(Descriptor(known.media_type, known.digest, known.size, platform))
    index = Index(OCI_INDEX, tuple(entries))
    blob = Blob.from_bytes(index.to_bytes(), OCI_INDEX)
    cache.publish_manifest(blob, tag)
    return blob


def _update_index(installs: InstallTree, cache: WritableCache, results: Iterable[PackageResult]) -> bool:
    there = [r.spec for r in results if r.outcome in (PushOutcome.PUSHED, PushOutcome.SKIPPED)]
    if not there:
        return False
    try:
        return cache.merge_index(index_of((spec, installs.graph) for spec in there))
    except BinpkgError as error:
        raise error.within(f"the packages are in {cache.name}, but its index is not updated") from error
