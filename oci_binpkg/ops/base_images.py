"""Base images: read once for each platform, their layers copied lazily from where they are."""

from __future__ import annotations

from threading import Lock

from oci_binpkg.errors import BaseImageError, ContentError, NotFoundError, PlatformError, SignatureError
from oci_binpkg.model.content import Platform
from oci_binpkg.model.image import BaseImage, Layer
from oci_binpkg.store.images import blob_of, read_image
from oci_binpkg.store.protocol import Store


class BaseImages:
    """The base image `reference` of a store, for whichever platforms are asked for."""

    def __init__(self, store: Store, reference: str) -> None:
        self._store = store
        self._reference = reference
        self._lock = Lock()
        self._known: dict[Platform, BaseImage] = {}

    def __call__(self, platform: Platform) -> BaseImage | None:
        """Return the base image for a platform.

        Raises `BaseImageError` if it is absent or no image, `PlatformError` if it is not for that platform,
        `SignatureError` if it has to be signed and is not.
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
        return BaseImage(image.manifest, image.config, layers)
