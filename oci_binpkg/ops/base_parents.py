"""Keeps a base image as it is: package layers also say something of the directories above their prefixes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from threading import Lock
from typing import Final

from oci_binpkg.archive.base_directories import Attributes, Directories, above, directories_of, parents_as_in_base
from oci_binpkg.archive.base_directories import restoring as restoring_tar
from oci_binpkg.archive.fitted_layer import moved, with_parents
from oci_binpkg.archive.layer import LayerFile
from oci_binpkg.archive.layer_cache import LayerCache
from oci_binpkg.archive.layer_frame import member
from oci_binpkg.errors import BaseImageError, ContentError
from oci_binpkg.events import Observer, Warned
from oci_binpkg.model.content import OCI_LAYER_GZIP, Blob, Digest
from oci_binpkg.model.image import BaseImage, Layer, PackageLayer

_SHOWN: Final = 3
_NO_OTHER: Final = "use a base image in which no link stands above the packages, or allow layers of their own"


@dataclass(frozen=True, slots=True)
class Fitted:
    """The layers of packages as they fit a base, and where they really are, by hash.

    `restoring` is a layer that gives directories back what they are in the base; None if there is nothing to restore.
    """

    packages: tuple[PackageLayer, ...]
    prefixes: Mapping[str, str]
    restoring: Layer | None = None


class BaseParents:
    """Fits the layers of packages to base images; `strict` refuses where that takes other layers than the cache has."""

    def __init__(self, cache: LayerCache, observer: Observer, *, strict: bool = False) -> None:
        self._cache = cache
        self._observer = observer
        self._strict = strict
        self._known: dict[tuple[Digest, ...], Directories | None] = {}
        self._said: set[str] = set()
        self._lock = Lock()

    def real(self, base: BaseImage, path: str) -> str:
        """Return where an absolute path lies on a base. Raises `ContentError`, `LocalDiskError`."""
        directories = self._directories(base)
        return directories.real(path) if directories else path

    def has_loader(self, base: BaseImage, path: str) -> bool:
        """Return whether a base has a loader at a path; a base that cannot be read may have it."""
        directories = self._directories(base)
        return directories is None or directories.has_loader(path)

    def fit(
        self,
        base: BaseImage,
        packages: Sequence[PackageLayer],
        prefixes: Mapping[str, str],
        others: Iterable[str] = (),
        *,
        subject: bool = False,
    ) -> Fitted:
        """Return the layers of an image; with `subject` the last one is that package's own, and stays the last.

        `others` are paths that further layers have.
        Raises `BaseImageError` if this is strict and a layer has to be another one; `ContentError`, `LocalDiskError`.
        """
        directories = self._directories(base)
        if directories is None or not packages:
            return Fitted(tuple(packages), prefixes)
        real = {each.hash: directories.real(prefixes[each.hash]) for each in packages}
        behind = [each for each in packages if real[each.hash] != prefixes[each.hash]]
        if behind:
            packages, real = self._behind_links(packages, behind, prefixes, real, subject=subject)
        changed = directories.changed_by([*real.values(), *others])
        own: set[str] = set()
        if subject and (found := {path: changed[path] for path in above(real[packages[-1].hash]) if path in changed}):
            own = set(found)
            packages = [*packages[:-1], self._as_in_base(packages[-1], real[packages[-1].hash], found)]
        left = {path: changed[path] for path in changed if path not in own}
        return Fitted(tuple(packages), {**prefixes, **real}, _restoring(left) if left else None)

    def _behind_links(
        self,
        packages: Sequence[PackageLayer],
        behind: Sequence[PackageLayer],
        prefixes: Mapping[str, str],
        real: dict[str, str],
        *,
        subject: bool,
    ) -> tuple[Sequence[PackageLayer], dict[str, str]]:
        """Put packages behind the links of a base; the image of a package cannot: its layer is the one of the cache."""
        first = behind[0]
        text = f"{prefixes[first.hash]} lies behind a link of the base image, in {real[first.hash]}"
        if self._strict:
            raise BaseImageError(f"{first.title}: {text}", hint=_NO_OTHER)
        if subject:
            self._say(f"{text}: images of single packages replace that link, those under a tag of their own do not")
            return packages, {each.hash: prefixes[each.hash] for each in packages}
        self._say(f"{text}: {len(behind)} packages have layers that are made for this base")
        moved_packages = [
            each
            if real[each.hash] == prefixes[each.hash]
            else self._fitted(each, real[each.hash], partial(moved, each.layer, prefixes[each.hash], real[each.hash]))
            for each in packages
        ]
        return moved_packages, real

    def _as_in_base(self, package: PackageLayer, prefix: str, found: Mapping[str, Attributes]) -> PackageLayer:
        if self._strict:
            paths = ", ".join(f"/{path}" for path in list(found)[:_SHOWN])
            raise BaseImageError(
                f"{package.title}: its layer changes {paths} of the base image",
                hint="use a base image that agrees, or allow layers of their own",
            )
        parents = parents_as_in_base(prefix, found)
        key = hashlib.sha256(parents).hexdigest()
        return self._fitted(package, key, partial(with_parents, package.layer, prefix, parents))

    def _fitted(self, package: PackageLayer, variant: str, write: Callable[[str, str], LayerFile]) -> PackageLayer:
        """Return a package with another layer, from the layer cache if it was made before."""
        text = f"fitted\n{package.layer.blob.descriptor.digest}\n{variant}"
        key = hashlib.sha256(text.encode()).hexdigest()
        cached, _ = self._cache.build(key, key, partial(write, f"the layer of {package.title}"))
        return replace(package, layer=self._cache.layer_of(cached, OCI_LAYER_GZIP))

    def _directories(self, base: BaseImage) -> Directories | None:
        """Return the directories of a base; None, with a warning, if they cannot be read."""
        key = tuple(layer.blob.descriptor.digest for layer in base.layers)
        with self._lock:
            if key not in self._known:
                found = Directories()
                try:
                    for layer in base.layers:
                        if not layer.blob.descriptor.is_foreign:
                            found.put(self._of_layer(layer))
                    self._known[key] = found
                except ContentError as error:
                    self._say(f"the directories of the base image are not known: {error.message}")
                    self._known[key] = None
            return self._known[key]

    def _of_layer(self, layer: Layer) -> Directories:
        def read() -> bytes:
            with layer.blob.open() as stream:
                return directories_of(stream, f"the layer {digest} of the base image").to_bytes()

        digest = layer.blob.descriptor.digest
        return Directories.from_bytes(self._cache.facts("surface", digest, read))

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._observer(Warned(text))


def _restoring(found: Mapping[str, Attributes]) -> Layer:
    tar = restoring_tar(found)
    return Layer(Blob.from_bytes(member(tar), OCI_LAYER_GZIP), Digest.of(tar))
