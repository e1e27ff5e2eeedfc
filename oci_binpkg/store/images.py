"""Images in a store: one read with its configuration, and base images, read once for each platform."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Final, cast

from oci_binpkg.errors import BaseImageError, ContentError, NotFoundError, PlatformError, SignatureError
from oci_binpkg.model.content import DOCKER_CONFIG, OCI_CONFIG, Blob, Descriptor, Platform
from oci_binpkg.model.image import BaseImage, Image, Layer
from oci_binpkg.model.manifest import (
    MAX_MANIFEST_BYTES,
    ImageConfig,
    Index,
    Manifest,
    parse_config,
    parse_manifest,
)
from oci_binpkg.store.protocol import Store

MAX_DEPTH: Final = 3
"""Of indices in indices."""
_MOST_READ: Final = 64
"""So many entries of indices are looked at in search of an image: without a platform, only their content tells."""
_CONFIG_TYPES: Final = frozenset({OCI_CONFIG, DOCKER_CONFIG})
MAX_CONFIG_BYTES: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image for one platform as a store holds it: parsed, and the exact bytes."""

    descriptor: Descriptor
    manifest: Manifest
    config: ImageConfig
    manifest_bytes: bytes
    config_bytes: bytes


def blob_of(store: Store, descriptor: Descriptor) -> Blob:
    """Return content of a store as a blob; it is opened (and verified) when it is needed, again and again."""
    return Blob(descriptor, lambda: store.open(descriptor), store.address)


def read_image(store: Store, reference: str, platform: Platform | None = None) -> StoredImage:
    """Read manifest and configuration of an image, from an index the one for `platform`.

    Raises `NotFoundError`; `PlatformError` if the image is for another platform, or an index is met without one;
    `ContentError` if it is no image, or if the configuration does not describe as many layers as the manifest lists.
    """
    return _Search(store, reference, platform).find(store.resolve(reference), 0)


class _Search:
    """Looks for the image of one platform in an index and those below it, the best entry first."""

    def __init__(self, store: Store, reference: str, platform: Platform | None) -> None:
        self._store = store
        self._reference = reference
        self._platform = platform
        self._left = _MOST_READ

    def find(self, descriptor: Descriptor, depth: int) -> StoredImage:
        """Return the image that a manifest is, or that the index leads to."""
        data, manifest = read_manifest(self._store, descriptor)
        if isinstance(manifest, Manifest):
            if depth and manifest.config.media_type not in _CONFIG_TYPES:
                raise PlatformError(f"{self._store.name}: {descriptor.digest} is no image", hint="choose another image")
            return _with_config(self._store, descriptor, manifest, data, self._platform)
        if self._platform is None:
            raise PlatformError(
                f"{self._store.name}: {self._reference} is an index over platforms", hint="name a platform"
            )
        if depth == MAX_DEPTH:
            raise ContentError(f"{self._store.name}: {self._reference} is an index nested more than {MAX_DEPTH} deep")
        return self._first(manifest, manifest.candidates(self._platform), depth)

    def _first(self, index: Index, candidates: Sequence[Descriptor], depth: int) -> StoredImage:
        platform = cast("Platform", self._platform)
        failure: PlatformError | None = None
        for each in candidates:
            self._left -= 1
            if self._left < 0:
                break
            try:
                return self.find(each, depth + 1)
            except PlatformError as error:
                failure = failure or error
        index.select(platform)
        raise failure or PlatformError(f"{self._reference} has no image for {platform}", hint="choose another image")


def image_of(store: Store, stored: StoredImage) -> Image:
    """Return a stored image with layers that can be opened."""
    return Image(
        Blob.from_bytes(stored.manifest_bytes, stored.descriptor.media_type),
        Blob.from_bytes(stored.config_bytes, stored.manifest.config.media_type),
        tuple(
            Layer(blob_of(store, descriptor), diff_id)
            for descriptor, diff_id in zip(stored.manifest.layers, stored.config.diff_ids, strict=True)
        ),
    )


def _with_config(
    store: Store, descriptor: Descriptor, manifest: Manifest, data: bytes, platform: Platform | None
) -> StoredImage:
    what = f"{store.name}: the configuration {manifest.config.digest}"
    try:
        raw = blob_of(store, manifest.config).read(MAX_CONFIG_BYTES)
    except NotFoundError as error:
        # a manifest without its blobs is damage, not absence
        raise ContentError(f"{what} is not there: {error.message}", **error.fields) from error
    config = parse_config(raw, what)
    if len(config.diff_ids) != len(manifest.layers):
        raise ContentError(f"{what} describes {len(config.diff_ids)} layers, the manifest {len(manifest.layers)}")
    if platform is not None and not config.platform.fits(platform):
        raise PlatformError(
            f"{store.name}: the image {descriptor.digest} is for {config.platform}, not for {platform}",
            hint="choose another image or tag",
        )
    return StoredImage(descriptor, manifest, config, data, raw)


def read_manifest(store: Store, descriptor: Descriptor) -> tuple[bytes, Manifest | Index]:
    """Return a manifest or index: its exact bytes, and parsed. Raises `ContentError`."""
    data = blob_of(store, descriptor).read(MAX_MANIFEST_BYTES)
    return data, parse_manifest(data, f"{store.name}: {descriptor.digest}", media_type=descriptor.media_type)


class BaseImages:
    """The base image `reference` of a store, for any platform. Images made of it record its `name`, if it has one."""

    def __init__(self, store: Store, reference: str, name: str = "") -> None:
        self._store = store
        self._reference = reference
        self._name = name
        self._lock = Lock()
        self._known: dict[Platform, BaseImage] = {}

    def __call__(self, platform: Platform) -> BaseImage | None:
        """Return the base image for a platform.

        Raises `BaseImageError` if it is absent or no image, `PlatformError` if it is not for that platform,
        `SignatureError` if it has to be signed and is unsigned.
        """
        with self._lock:
            if platform not in self._known:
                self._known[platform] = self._read(platform)
            return self._known[platform]

    def _read(self, platform: Platform) -> BaseImage:
        name = f"{self._store.name}:{self._reference}"
        try:
            image = read_image(self._store, self._reference, platform)
        except NotFoundError as error:
            raise BaseImageError(
                f"base image {name}: {error.message}", hint="check its name and tag", **error.fields
            ) from error
        except PlatformError as error:
            raise error.within(f"base image {name}", hint="choose one for this architecture") from error
        except SignatureError as error:
            raise error.within(f"base image {name}") from error
        except ContentError as error:
            raise BaseImageError(
                f"base image {name} is unusable: {error.message}", hint=error.hint, **error.fields
            ) from error
        offered = image.config.platform
        if (offered.os, offered.architecture) != (platform.os, platform.architecture):
            raise PlatformError(
                f"base image {name} is for {offered}, the packages are for {platform}",
                hint="choose one for this architecture",
            )
        layers = tuple(
            Layer(blob_of(self._store, descriptor), diff_id)
            for descriptor, diff_id in zip(image.manifest.layers, image.config.diff_ids, strict=True)
        )
        return BaseImage(image.manifest, image.config, layers, self._name, image.descriptor.digest)
