"""Packages from caches that keep no images, as images: composed of what their layers tell of themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from oci_binpkg.archive.extract import survey_layer
from oci_binpkg.cache.protocol import BinaryCache, Entry, PackageKey
from oci_binpkg.errors import ContentError, NotFoundError
from oci_binpkg.model.content import OCI_LAYER_GZIP
from oci_binpkg.model.image import Image, Layer, PackageLayer, PackageSpec, Prepend, compose
from oci_binpkg.model.spec import Spec
from oci_binpkg.model.spec_document import spec_document
from oci_binpkg.ops.environment import FOLDERS, is_place_of
from oci_binpkg.ops.platforms import platform_of

_EPOCH = "1970-01-01T00:00:00+00:00"


@dataclass(frozen=True, slots=True)
class _Known:
    """A layer that is in the target, and what its package adds to an environment."""

    layer: Layer
    environment: tuple[Prepend, ...]


class ImageMaker:
    """Makes images of packages, whose dependencies must come before them, for a cache that keeps images."""

    def __init__(self, target: BinaryCache) -> None:
        self._target = target
        self._known: dict[str, _Known] = {}

    def with_image(self, entry: Entry) -> Entry:
        """Return the entry with an image of it stacked on what the target has of its dependencies.

        The layer is read once, to its end. Raises `ContentError`.
        """
        spec = entry.document.root
        with entry.layer.blob.open() as stream:
            found = survey_layer(
                stream, f"the layer of {spec.short}", media_type=entry.layer.blob.descriptor.media_type
            )
        blob = entry.layer.blob
        kind = blob.descriptor.media_type if "vnd.oci.image.layer" in blob.descriptor.media_type else OCI_LAYER_GZIP
        layer = Layer(replace(blob, descriptor=replace(blob.descriptor, media_type=kind)), found.diff_id)
        self._known[spec.hash] = _Known(layer, tuple(_contributions(found.prefix, found.directories)))
        return replace(entry, layer=layer, image=self._image(entry, spec))

    def _image(self, entry: Entry, spec: Spec) -> Image:
        packages, missing = [], []
        changes: list[Prepend] = []
        for needed in entry.document.graph.closure([spec]):
            known = self._find(needed)
            if known is None:
                missing.append(needed.short)
                continue
            packages.append(PackageLayer(needed.name, needed.version, needed.hash, known.layer, _EPOCH))
            changes += known.environment
        document = spec_document(spec, entry.document.graph)["spec"]
        return compose(
            packages,
            platform_of(spec),
            environment=changes,
            spec=PackageSpec(document, spec.describe()),
            missing=missing,
        )

    def _find(self, spec: Spec) -> _Known | None:
        if spec.hash not in self._known:
            try:
                entry = self._target.find(PackageKey.of(spec))
            except (NotFoundError, ContentError):
                return None
            prefix = entry.prefix if is_place_of(entry.prefix, spec) else ""
            self._known[spec.hash] = _Known(entry.layer, tuple(_own(entry.env, prefix)))
        return self._known[spec.hash]


def _contributions(prefix: str, directories: frozenset[str]) -> Iterator[Prepend]:
    for folder, variable in FOLDERS:
        if not folder or folder in directories:
            yield Prepend(variable, f"{prefix}/{folder}" if folder else prefix)


def _own(env: Sequence[str], prefix: str) -> Iterator[Prepend]:
    """Yield what the package at `prefix` contributes to the environment of its own image."""
    variables: Mapping[str, str] = dict(text.partition("=")[::2] for text in env)
    for folder, variable in FOLDERS:
        path = f"{prefix}/{folder}" if folder else prefix
        if prefix and path in variables.get(variable, "").split(":"):
            yield Prepend(variable, path)
