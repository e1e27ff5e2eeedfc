"""Manifests, indexes and image configurations: parsed strictly, written canonically, never written again.

Source: OCI image-spec 1.1 (manifest.md, image-index.md, config.md) and Docker's image manifest v2 schema 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from oci_binpkg.errors import ContentError, PlatformError
from oci_binpkg.model.content import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    INDEX_TYPES,
    MANIFEST_TYPES,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Digest,
    Platform,
)
from oci_binpkg.model.documents import (
    all_text,
    canonical_json,
    integer_of,
    list_of,
    object_of,
    parse_json,
    text_of,
    texts_of,
)

MAX_MANIFEST_BYTES: Final = 16 * 1024 * 1024
MAX_DESCRIPTORS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Manifest:
    """An image manifest: config and layers, bottom first. `extra` keeps members we do not interpret."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Encode as Spack does: the same members in the same order, compact."""
        document: dict[str, Any] = {
            "mediaType": self.media_type,
            "schemaVersion": 2,
            "config": self.config.to_json(),
            "layers": [layer.to_json() for layer in self.layers],
            **self.extra,
        }
        if self.annotations:
            document["annotations"] = dict(self.annotations)
        return canonical_json(document)

    @property
    def references(self) -> tuple[Descriptor, ...]:
        """Everything that must be in a repository before this manifest."""
        return (*self.layers, self.config)


@dataclass(frozen=True, slots=True)
class Index:
    """A list of manifests, usually one per platform."""

    media_type: str
    manifests: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Encode canonically."""
        document: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": self.media_type,
            "manifests": [manifest.to_json() for manifest in self.manifests],
            **self.extra,
        }
        if self.annotations:
            document["annotations"] = dict(self.annotations)
        return canonical_json(document)

    def select(self, platform: Platform) -> Descriptor:
        """Return the manifest for a platform. Raises `PlatformError`, naming what there is, if there is none or a choice.

        Entries of unknown platform (build attestations) are passed over. An unset variant on either side matches any.
        """
        known = [m for m in self.manifests if m.platform is not None and m.platform.os not in ("", "unknown")]
        found = [m for m in known if m.platform and _fits(m.platform, platform)]
        if not found:
            offered = ", ".join(sorted({str(m.platform) for m in known})) or "none"
            raise PlatformError(f"no manifest for {platform}; offered: {offered}", hint="choose another image or tag")
        exact = [m for m in found if m.platform == platform] or found
        if len({m.digest for m in exact}) > 1:
            raise PlatformError(
                f"{len(exact)} manifests for {platform}: the index is ambiguous", hint="name one by its digest"
            )
        return exact[0]

    @property
    def references(self) -> tuple[Descriptor, ...]:
        """Everything that must be in a repository before this index."""
        return self.manifests


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """The parts of an image configuration that we interpret, and the whole document."""

    architecture: str
    os: str
    variant: str
    diff_ids: tuple[Digest, ...]
    history: tuple[Mapping[str, Any], ...]
    env: tuple[str, ...]
    labels: Mapping[str, str]
    document: Mapping[str, Any]

    @property
    def platform(self) -> Platform:
        """The platform the image is for."""
        return Platform(self.os, self.architecture, self.variant)


def parse_descriptor(value: object, what: str) -> Descriptor:
    """Parse one descriptor. Raises `ContentError` with the field's path."""
    if not isinstance(value, dict):
        raise ContentError(f"{what}: a descriptor is expected, not {type(value).__name__}")
    try:
        digest = Digest.parse(value.get("digest"))
    except ContentError as error:
        raise ContentError(f"{what}.digest: {error.message}") from None
    known = ("mediaType", "digest", "size", "platform", "annotations")
    return Descriptor(
        text_of(value, "mediaType", what),
        digest,
        integer_of(value, "size", what),
        _platform(value, what),
        _annotations(value, what),
        {key: item for key, item in value.items() if key not in known},
    )


def parse_manifest(data: bytes, what: str, *, media_type: str = "") -> Manifest | Index:
    """Parse a manifest or an index. `media_type` is what the descriptor or the Content-Type promised; "" promises nothing.

    Raises `ContentError` for documents that could be read in two ways.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise ContentError(f"{what}: a manifest of {len(data)} bytes; at most {MAX_MANIFEST_BYTES} are accepted")
    document = parse_json(data, what, fold_case=False)
    _refuse_case_variants(document, what)
    if document.get("schemaVersion") != 2 or isinstance(document.get("schemaVersion"), bool):  # noqa: PLR2004
        raise ContentError(f"{what}: schemaVersion {str(document.get('schemaVersion'))[:20]!r}; only 2 is understood")
    is_index = "manifests" in document
    if is_index and ("layers" in document or "config" in document):
        raise ContentError(f"{what}: both an index and an image manifest")
    declared = text_of(document, "mediaType", what, default=media_type or (OCI_INDEX if is_index else OCI_MANIFEST))
    promised = media_type if media_type in MANIFEST_TYPES else declared
    if declared != promised:
        raise ContentError(f"{what}: mediaType is {declared[:100]!r}, but {promised!r} was promised")
    if declared not in MANIFEST_TYPES or (declared in INDEX_TYPES) != is_index:
        raise ContentError(f"{what}: mediaType {declared[:100]!r} does not fit the document")
    return _index(document, declared, what) if is_index else _manifest(document, declared, what)


def parse_config(data: bytes, what: str) -> ImageConfig:
    """Parse an image configuration. Raises `ContentError`."""
    document = parse_json(data, what, fold_case=False)
    rootfs = object_of(document, "rootfs", what)
    if rootfs.get("type") != "layers":
        raise ContentError(f"{what}.rootfs.type: 'layers' is expected")
    diff_ids = tuple(Digest.parse(item) for item in list_of(rootfs, "diff_ids", f"{what}.rootfs"))
    history = list_of(document, "history", what, optional=True)
    if not all(isinstance(entry, dict) for entry in history):
        raise ContentError(f"{what}.history: objects are expected")
    runtime = object_of(document, "config", what, optional=True)
    labels = object_of(runtime, "Labels", f"{what}.config", optional=True)
    all_text(list(labels.values()), f"{what}.config.Labels")
    return ImageConfig(
        architecture=text_of(document, "architecture", what),
        os=text_of(document, "os", what),
        variant=text_of(document, "variant", what, default=""),
        diff_ids=diff_ids,
        history=tuple(history),
        env=texts_of(runtime, "Env", f"{what}.config"),
        labels=labels,
        document=document,
    )


def _manifest(document: Mapping[str, Any], media_type: str, what: str) -> Manifest:
    layers = list_of(document, "layers", what)
    _limit(layers, what)
    known = ("schemaVersion", "mediaType", "config", "layers", "annotations")
    return Manifest(
        media_type,
        parse_descriptor(document.get("config"), f"{what}.config"),
        tuple(parse_descriptor(layer, f"{what}.layers[{n}]") for n, layer in enumerate(layers)),
        _annotations(document, what),
        {key: value for key, value in document.items() if key not in known},
    )


def _index(document: Mapping[str, Any], media_type: str, what: str) -> Index:
    manifests = list_of(document, "manifests", what)
    _limit(manifests, what)
    known = ("schemaVersion", "mediaType", "manifests", "annotations")
    return Index(
        media_type,
        tuple(parse_descriptor(item, f"{what}.manifests[{n}]") for n, item in enumerate(manifests)),
        _annotations(document, what),
        {key: value for key, value in document.items() if key not in known},
    )


def _limit(items: list[Any], what: str) -> None:
    if len(items) > MAX_DESCRIPTORS:
        raise ContentError(f"{what}: {len(items)} descriptors; at most {MAX_DESCRIPTORS} are accepted")


def _refuse_case_variants(document: Mapping[str, Any], what: str) -> None:
    # Go reads `Layers` as `layers`: what we and an engine would read must be the same
    names = ("schemaVersion", "mediaType", "config", "layers", "manifests", "annotations", "subject", "artifactType")
    for key in document:
        for name in names:
            if key != name and key.lower() == name.lower():
                raise ContentError(f"{what}: the key {key!r} differs from {name!r} only in case")


def _annotations(document: Mapping[str, Any], what: str) -> dict[str, str]:
    annotations = object_of(document, "annotations", what, optional=True)
    all_text(list(annotations.values()), f"{what}.annotations")
    return annotations


def _platform(document: Mapping[str, Any], what: str) -> Platform | None:
    if document.get("platform") is None:
        return None
    value = object_of(document, "platform", what)
    where = f"{what}.platform"
    return Platform(
        text_of(value, "os", where, default=""),
        text_of(value, "architecture", where, default=""),
        text_of(value, "variant", where, default=""),
    )


def _fits(offered: Platform, wanted: Platform) -> bool:
    same = (offered.os, offered.architecture) == (wanted.os, wanted.architecture)
    return same and (not offered.variant or not wanted.variant or offered.variant == wanted.variant)


def manifest_type_of(base_media_type: str) -> str:
    """Return the image manifest type of the same family (Docker's types are never mixed with OCI's)."""
    return DOCKER_MANIFEST if base_media_type in (DOCKER_MANIFEST, DOCKER_LIST) else OCI_MANIFEST
