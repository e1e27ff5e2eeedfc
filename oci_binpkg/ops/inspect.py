"""Look into a cache or one of its images: packages, layers, sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from oci_binpkg.cache.protocol import KeepsImages
from oci_binpkg.errors import ContentError, Hint, NotFoundError, SignatureError, Step
from oci_binpkg.events import Observer, Warned, ignore
from oci_binpkg.model.content import Descriptor, Digest
from oci_binpkg.model.image import MISSING_KEY
from oci_binpkg.model.manifest import MAX_MANIFEST_BYTES, ImageConfig, Index, Manifest, parse_config
from oci_binpkg.model.reference import INDEX_TAG, hash_of_tag, is_package_tag
from oci_binpkg.ops.image_packages import manifest_at, package_tags
from oci_binpkg.parallel import in_turns
from oci_binpkg.store.images import blob_of
from oci_binpkg.store.referrers import is_list_of_referrers

_UNSIGNED: Final = "unsigned"
_SHOWN: Final = 200
"""Characters of a text that others wrote."""


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """One layer of an image; `package` names what it holds, as far as that is known."""

    descriptor: Descriptor
    diff_id: Digest
    package: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON document."""
        return {
            "digest": str(self.descriptor.digest),
            "diff_id": str(self.diff_id),
            "size": self.descriptor.size,
            "media_type": self.descriptor.media_type,
            "package": self.package,
        }


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """One image: its layers, bottom first, and how it starts. `package` is set if it is a package's own image."""

    name: str
    descriptor: Descriptor
    config: ImageConfig
    layers: tuple[LayerInfo, ...]
    package: str = ""

    @property
    def size(self) -> int:
        """Compressed bytes of all its layers."""
        return sum({layer.descriptor.digest: layer.descriptor.size for layer in self.layers}.values())

    @property
    def missing(self) -> str:
        """The dependencies whose layers it lacks, or ""."""
        return self.config.labels.get(MISSING_KEY, "")

    @property
    def started(self) -> dict[str, Any]:
        """The runtime part of the configuration."""
        return dict(self.config.document.get("config") or {})

    def to_json(self) -> dict[str, Any]:
        """Return the JSON document."""
        return {
            "name": self.name,
            "digest": str(self.descriptor.digest),
            "media_type": self.descriptor.media_type,
            "platform": str(self.config.platform),
            "size": self.size,
            "package": self.package,
            "missing": self.missing.split(),
            "layers": [layer.to_json() for layer in self.layers],
            "config": self.started,
        }


@dataclass(frozen=True, slots=True)
class TagInfo:
    """A tag of a cache: its kind, and the `size` of its own (last) layer.

    Kinds are `package`, `image`, `index`, `damaged`, `artifacts` (a list of what is attached to a manifest), and where
    signatures are asked for `unsigned` and `signatures`.
    """

    tag: str
    kind: str
    digest: Digest | None = None
    layers: int = 0
    size: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the JSON document."""
        digest = str(self.digest) if self.digest else None
        return {"tag": self.tag, "kind": self.kind, "digest": digest, "layers": self.layers, "size": self.size}


@dataclass(frozen=True, slots=True)
class CacheInfo:
    """All tags of a cache, and the bytes of all layers, each counted once."""

    name: str
    tags: tuple[TagInfo, ...]
    size: int

    @property
    def exit_code(self) -> int:
        """0, or the code of a missing signature if a package or an image has to be signed and is unsigned."""
        lacking = any(tag.kind == _UNSIGNED and tag.tag != INDEX_TAG for tag in self.tags)
        return SignatureError.exit_code if lacking else 0

    def to_json(self) -> dict[str, Any]:
        """Return the JSON document."""
        return {"name": self.name, "size": self.size, "tags": [tag.to_json() for tag in self.tags]}


def inspect_cache(cache: KeepsImages, observer: Observer = ignore) -> CacheInfo:
    """Read the manifest of every tag (one or two requests each).

    A damaged image, or an unsigned one where a signature is required, is reported and left out.
    """
    tags = sorted(cache.store.tags())
    if not tags:
        raise NotFoundError(
            f"{cache.name} has no tags: it is empty or does not exist", hint="check its name, or push to it"
        )
    sizes: dict[Digest, int] = {}

    def read(tag: str) -> TagInfo:
        if is_list_of_referrers(tag):
            return TagInfo(tag, "signatures" if cache.verifies else "artifacts")
        try:
            descriptor, manifest = manifest_at(cache, tag)
        except SignatureError as error:
            observer(Warned(error.message))
            return TagInfo(tag, _UNSIGNED)
        except (NotFoundError, ContentError) as error:
            observer(Warned(f"{tag}: {error.message}"))
            return TagInfo(tag, "damaged")
        layers = manifest.layers if isinstance(manifest, Manifest) else ()
        sizes.update({layer.digest: layer.size for layer in layers})
        kind = "index" if tag == INDEX_TAG else "package" if is_package_tag(tag) else "image"
        return TagInfo(tag, kind, descriptor.digest, len(layers), layers[-1].size if layers else 0)

    found = tuple(in_turns(read, tags))
    return CacheInfo(cache.name, found, sum(sizes.values()))


def inspect_image(cache: KeepsImages, reference: str) -> list[ImageInfo]:
    """Return the image under a tag or digest; one for each platform if it is an index."""
    descriptor, manifest = manifest_at(cache, reference)
    name = f"{cache.name}:{reference}"
    if isinstance(manifest, Manifest):
        return [_image(cache, name, descriptor, manifest)]
    images = []
    for child in manifest.manifests:
        _, inner = manifest_at(cache, str(child.digest))
        if isinstance(inner, Index):
            raise ContentError(f"{name}: an index inside an index")
        images.append(_image(cache, f"{name} ({child.platform})", child, inner))
    return images


def _image(cache: KeepsImages, name: str, descriptor: Descriptor, manifest: Manifest) -> ImageInfo:
    data = blob_of(cache.store, manifest.config).read(limit=MAX_MANIFEST_BYTES)
    if data == b"{}":
        raise ContentError(f"{name} is no image: its config is empty", hint=Hint(Step.FIND_IN_INDEX))
    config = parse_config(data, f"the config of {name}")
    if len(config.diff_ids) != len(manifest.layers):
        raise ContentError(f"{name}: {len(manifest.layers)} layers, but {len(config.diff_ids)} diff_ids")
    names = _names_by_history(config, len(manifest.layers))
    if not all(names):
        names = _names_by_prefix(cache, config, manifest, names)
    layers = tuple(
        LayerInfo(layer, diff_id, package)
        for layer, diff_id, package in zip(manifest.layers, config.diff_ids, names, strict=True)
    )
    described = manifest.annotations.get("org.opencontainers.image.description", "")
    return ImageInfo(name, descriptor, config, layers, described[:_SHOWN] if "spec" in config.document else "")


def _names_by_history(config: ImageConfig, layers: int) -> list[str]:
    filled = [str(entry.get("created_by", "")) for entry in config.history if not entry.get("empty_layer")]
    if len(filled) != layers:
        return [""] * layers
    return [text.removeprefix("oci-binpkg ")[:_SHOWN] for text in filled]


def _names_by_prefix(cache: KeepsImages, config: ImageConfig, manifest: Manifest, names: list[str]) -> list[str]:
    """Name layers of images without a history by the packages of this cache that have them."""
    tags = package_tags(cache, config)
    known = {digest: tag.removesuffix(f"-{hash_of_tag(tag)}.spack") for digest, (tag, _) in tags.items()}
    return [name or known.get(layer.digest, "") for name, layer in zip(names, manifest.layers, strict=True)]
