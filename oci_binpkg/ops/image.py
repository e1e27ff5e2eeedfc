"""One image of several packages under a tag of its own."""

from __future__ import annotations

from collections.abc import Sequence

from oci_binpkg.cache.protocol import KeepsImages
from oci_binpkg.cancel import Cancel
from oci_binpkg.errors import PartialFailureError
from oci_binpkg.events import BatchStarted, Observer, Warned, ignore
from oci_binpkg.installs.protocol import InstallRecord, InstallTree
from oci_binpkg.model.content import OCI_INDEX, Blob, Descriptor, Platform
from oci_binpkg.model.image import Image, Runtime
from oci_binpkg.model.manifest import Index
from oci_binpkg.model.reference import check_tag
from oci_binpkg.model.spec import Spec, platform_of
from oci_binpkg.ops.contents import packages_there
from oci_binpkg.ops.push_report import PackageResult, PushOutcome, PushReport, TaggedImage
from oci_binpkg.ops.schedule import PushSchedule
from oci_binpkg.ops.selection import Selection
from oci_binpkg.ops.stack import BaseImages, Packer, Stack, no_base, require_base


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
) -> PushReport:
    """Push one image with the union of the closures of the roots, and tag it.

    Roots of several architectures become one image each, under an index. Layers of packages that the cache has already
    are used as they are. Raises `PartialFailureError` if a layer could not be had: nothing is tagged then.
    """
    check_tag(tag)
    present = packages_there(cache, (record.spec for record in selection.wanted), installs.graph, observer)
    results = [PackageResult(record.spec, PushOutcome.GONE) for record in selection.gone]
    for record in selection.gone:
        observer(Warned(f"{record.spec.short} is left out: its prefix {record.prefix} is gone"))
    todo = [record for record in selection.wanted if record.spec.hash not in present]
    there = [record for record in selection.wanted if record.spec.hash in present]
    require_base(base, selection.wanted)
    observer(BatchStarted(len(todo), len(there)))
    if dry_run:
        results += [PackageResult(record.spec, PushOutcome.PLANNED) for record in todo]
        results += [PackageResult(record.spec, PushOutcome.SKIPPED, present[record.spec.hash]) for record in there]
        return PushReport(cache.name, tuple(results))
    stack = Stack(installs, cache, packer, present, base=base, observer=observer, cancel=cancel)
    results += PushSchedule(stack, todo, publish=False, needed=there).run(jobs)
    results += [PackageResult(record.spec, PushOutcome.SKIPPED, present[record.spec.hash]) for record in there]
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
