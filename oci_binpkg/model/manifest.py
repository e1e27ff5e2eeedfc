"""Manifests, indexes and image configurations: parsed strictly, written canonically, never re-encoded.

Source: OCI image-spec 1.1 (manifest.md, image-index.md, config.md) and Docker's image manifest v2 schema 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
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
    refuse_case_variants,
    text_of,
    texts_of,
)

MAX_MANIFEST_BYTES: Final = 16 * 1024 * 1024
MAX_DESCRIPTORS: Final = 10_000
MAX_LISTED: Final = 50_000
"""So many entries an index may have: lists of what refers to a manifest are indices that anybody may add to."""
_SCHEMA_VERSION: Final = 2
_SHOWN: Final = 20
_COMMON_KEYS: Final = ("schemaVersion", "mediaType", "annotations", "subject", "artifactType")
_MANIFEST_KEYS: Final = (*_COMMON_KEYS, "config", "layers", "manifests")
_DESCRIPTOR_KEYS: Final = ("mediaType", "digest", "size", "platform", "annotations", "urls", "data", "artifactType")
_PLATFORM_KEYS: Final = ("os", "architecture", "variant", "os.version", "os.features")
_CONFIG_KEYS: Final = ("architecture", "os", "variant", "rootfs", "history", "config", "created", "author")


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
            "schemaVersion": _SCHEMA_VERSION,
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
            "schemaVersion": _SCHEMA_VERSION,
            "mediaType": self.media_type,
            "manifests": [manifest.to_json() for manifest in self.manifests],
            **self.extra,
        }
        if self.annotations:
            document["annotations"] = dict(self.annotations)
        return canonical_json(document)

    def select(self, platform: Platform) -> Descriptor:
        """Return the manifest for a platform, the first of those that fit best, as docker and containerd do.

        Raises `PlatformError`, naming what there is, unless there is one. Entries that tell of others (attestations,
        artifacts) are passed over, and images for engines with special features if there is a plain one.
        """
        found = self._fitting(platform)
        if not found:
            known = [m for m in self.manifests if m.platform is not None and m.platform.os not in ("", "unknown")]
            offered = ", ".join(sorted({_printable(str(m.platform)) for m in known})[:_SHOWN]) or "none"
            raise PlatformError(f"no manifest for {platform}; offered: {offered}", hint="choose another image or tag")
        return found[0]

    def candidates(self, platform: Platform) -> tuple[Descriptor, ...]:
        """Return what may be the image for a platform, the best first; at the end what only its content tells of.

        Raises `PlatformError`, naming what there is, if there is nothing.
        """
        untold = [m for m in self.manifests if _is_image(m) and (m.platform is None or not m.platform.os)]
        found = self._fitting(platform) if untold else [self.select(platform), *self._fitting(platform)[1:]]
        return (*found, *untold)

    def _fitting(self, platform: Platform) -> list[Descriptor]:
        ranked = [
            ((bool(_features(entry)), distance), entry)
            for entry in self.manifests
            if _is_image(entry) and entry.platform and (distance := entry.platform.distance(platform)) is not None
        ]
        return [entry for _, entry in sorted(ranked, key=lambda item: item[0])]

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
    refuse_case_variants(value, _DESCRIPTOR_KEYS, what)
    digest = _digest(value.get("digest"), f"{what}.digest")
    platform = _platform(value, what)
    known = {"mediaType", "digest", "size", "annotations"}
    if platform is not None and platform.to_json() == value["platform"]:
        known.add("platform")  # one that holds more (`os.version`) is kept whole in `extra`
    return Descriptor(
        text_of(value, "mediaType", what),
        digest,
        integer_of(value, "size", what),
        platform,
        _annotations(value, what),
        {key: item for key, item in value.items() if key not in known},
    )


def parse_manifest(data: bytes, what: str, *, media_type: str = "") -> Manifest | Index:
    """Parse a manifest or an index.

    `media_type` is what the descriptor or the Content-Type promised; other types than a manifest's promise nothing.
    Raises `ContentError` for documents that could be read in two ways.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise ContentError(f"{what}: a manifest of {len(data)} bytes; at most {MAX_MANIFEST_BYTES} are accepted")
    document = parse_json(data, what, fold_case=False)
    refuse_case_variants(document, _MANIFEST_KEYS, what)
    version = document.get("schemaVersion")
    if type(version) is not int or version != _SCHEMA_VERSION:
        raise ContentError(f"{what}: schemaVersion {str(version)[:20]!r}; only {_SCHEMA_VERSION} is understood")
    is_index = "manifests" in document
    if is_index and ("layers" in document or "config" in document):
        raise ContentError(f"{what}: both an index and an image manifest")
    promised = media_type if media_type in MANIFEST_TYPES else ""
    declared = text_of(document, "mediaType", what, default=promised or (OCI_INDEX if is_index else OCI_MANIFEST))
    if promised and declared != promised:
        raise ContentError(f"{what}: mediaType is {declared[:100]!r}, but {promised!r} was promised")
    if declared not in MANIFEST_TYPES or (declared in INDEX_TYPES) != is_index:
        raise ContentError(f"{what}: mediaType {declared[:100]!r} does not fit the document")
    return _index(document, declared, what) if is_index else _manifest(document, declared, what)


def parse_listed(data: bytes, what: str) -> tuple[Descriptor, ...]:
    """Return the entries of an index that anybody may add to; those that are malformed do not hide the others.

    Raises `ContentError` for any other document.
    """
    document = parse_json(data, what, fold_case=False)
    entries = list_of(document, "manifests", what)
    found = []
    for number, entry in enumerate(entries[:MAX_LISTED]):
        with suppress(ContentError):
            found.append(parse_descriptor(entry, f"{what}.manifests[{number}]"))
    return tuple(found)


def parse_config(data: bytes, what: str) -> ImageConfig:
    """Parse an image configuration. Raises `ContentError`."""
    document = parse_json(data, what, fold_case=False)
    refuse_case_variants(document, _CONFIG_KEYS, what)
    rootfs = object_of(document, "rootfs", what)
    refuse_case_variants(rootfs, ("type", "diff_ids"), f"{what}.rootfs")
    if rootfs.get("type") != "layers":
        raise ContentError(f"{what}.rootfs.type: 'layers' is expected")
    items = list_of(rootfs, "diff_ids", f"{what}.rootfs", optional="diff_ids" in rootfs)
    _limit(items, f"{what}.rootfs")
    diff_ids = tuple(_digest(item, f"{what}.rootfs.diff_ids[{n}]") for n, item in enumerate(items))
    history = list_of(document, "history", what, optional=True)
    if not all(isinstance(entry, dict) for entry in history):
        raise ContentError(f"{what}.history: objects are expected")
    runtime = object_of(document, "config", what, optional=True)
    refuse_case_variants(runtime, ("Env", "Labels"), f"{what}.config")
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
    layers = list_of(document, "layers", what, optional="layers" in document)  # Go writes an empty list as null
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
    _limit(manifests, what, MAX_LISTED)
    known = ("schemaVersion", "mediaType", "manifests", "annotations")
    return Index(
        media_type,
        tuple(parse_descriptor(item, f"{what}.manifests[{n}]") for n, item in enumerate(manifests)),
        _annotations(document, what),
        {key: value for key, value in document.items() if key not in known},
    )


def _is_image(entry: Descriptor) -> bool:
    return entry.is_manifest and not entry.is_about_others


def _features(entry: Descriptor) -> object:
    """Return what an entry asks of an engine beyond the platform, as images for lazy pulling do."""
    platform = entry.extra.get("platform")
    return platform.get("os.features") if isinstance(platform, dict) else None


def _limit(items: list[Any], what: str, most: int = MAX_DESCRIPTORS) -> None:
    if len(items) > most:
        raise ContentError(f"{what}: {len(items)} entries; at most {most} are accepted")


def _annotations(document: Mapping[str, Any], what: str) -> dict[str, str]:
    annotations = object_of(document, "annotations", what, optional=True)
    all_text(list(annotations.values()), f"{what}.annotations")
    return annotations


def _digest(value: object, what: str) -> Digest:
    try:
        return Digest.parse(value)
    except ContentError as error:
        raise error.within(what) from error


def _platform(document: Mapping[str, Any], what: str) -> Platform | None:
    if document.get("platform") is None:
        return None
    value = object_of(document, "platform", what)
    where = f"{what}.platform"
    refuse_case_variants(value, _PLATFORM_KEYS, where)
    return Platform(
        text_of(value, "os", where, default=""),
        text_of(value, "architecture", where, default=""),
        text_of(value, "variant", where, default=""),
    )


def _printable(text: str) -> str:
    # somebody else's text, on its way to a terminal
    return text.encode("unicode_escape").decode("ascii")[:60]


def manifest_type_of(base_media_type: str) -> str:
    """Return the image manifest type of the same family (Docker's types are never mixed with OCI's)."""
    return DOCKER_MANIFEST if base_media_type in (DOCKER_MANIFEST, DOCKER_LIST) else OCI_MANIFEST
