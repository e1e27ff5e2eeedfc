"""Images of several packages, composed from layers that are in a cache, under a tag of their own."""

from __future__ import annotations

from collections.abc import Sequence

from oci_binpkg.cache.oci import OciCache
from oci_binpkg.installs.protocol import Record
from oci_binpkg.model.content import OCI_INDEX, Blob, Descriptor, Platform
from oci_binpkg.model.image import Image, Runtime
from oci_binpkg.model.manifest import Index
from oci_binpkg.model.spec import Spec
from oci_binpkg.ops.platforms import platform_of
from oci_binpkg.ops.report import TaggedImage
from oci_binpkg.ops.stack import Stack


def tag_image(
    stack: Stack, cache: OciCache, roots: Sequence[Spec], tag: str, *, runtime: Runtime | None = None
) -> TaggedImage:
    """Compose the image of `roots` from layers that are in the cache, and tag it."""
    by_platform: dict[Platform, list[Spec]] = {}
    for root in roots:
        by_platform.setdefault(platform_of(root), []).append(root)
    missing: list[str] = []
    images: dict[Platform, Image] = {}
    for platform, group in by_platform.items():
        records: Sequence[Record] = stack.closure(group)
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


def _publish_index(cache: OciCache, images: dict[Platform, Image], tag: str) -> Blob:
    entries = []
    for platform, image in images.items():
        cache.put_image(image)
        known = image.manifest.descriptor
        entries.append(Descriptor(known.media_type, known.digest, known.size, platform))
    index = Index(OCI_INDEX, tuple(entries))
    blob = Blob.from_bytes(index.to_bytes(), OCI_INDEX)
    cache.publish_manifest(blob, tag)
    return blob
