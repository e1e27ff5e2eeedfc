"""Layers and images as values, and the composition of package layers into a runnable image. Pure.

Source: OCI image-spec 1.1 (config.md, annotations.md), and the configuration keys of Spack's OCI build caches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from oci_binpkg.errors import Hint, Step, UsageError
from oci_binpkg.model.content import (
    DOCKER_CONFIG,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    Blob,
    Digest,
    Platform,
)
from oci_binpkg.model.documents import canonical_json
from oci_binpkg.model.manifest import ImageConfig, Manifest, manifest_type_of

DEFAULT_PATH: Final = "/bin:/usr/bin"
LAYOUT_VERSION: Final = 3
MAX_ENGINE_LAYERS: Final = 126
"""Docker refuses images of 127 layers or more ("max depth exceeded")."""
MISSING_KEY: Final = "io.oci-binpkg.missing"
"""Annotation and label of an image that lacks the layers of some dependencies; the value names them."""
UNKNOWN_DIFF_ID: Final = Digest("sha256", "0" * 64)
"""The diff_id of a layer whose tar is not hashed yet: URL mirrors record the digest of the compressed bytes only."""
BASE_LAYER: Final = "base image"
"""The history entry for a layer of a base image without a history."""
_TITLE: Final = "org.opencontainers.image.title"
_VERSION: Final = "org.opencontainers.image.version"
_DESCRIPTION: Final = "org.opencontainers.image.description"


@dataclass(frozen=True, slots=True)
class Layer:
    """A compressed tar (its descriptor's digest) and the digest of the tar itself (`diff_id`)."""

    blob: Blob
    diff_id: Digest


def known_diff_id(layer: Layer) -> Digest | None:
    """Return a layer's diff_id, or None if it came from a mirror and is not computed yet."""
    return None if layer.diff_id == UNKNOWN_DIFF_ID else layer.diff_id


@dataclass(frozen=True, slots=True)
class PackageLayer:
    """The layer of one package; `created` is an RFC 3339 time that is a property of the package, or ""."""

    name: str
    version: str
    hash: str
    layer: Layer
    created: str = ""

    @property
    def title(self) -> str:
        """Name, version and short hash, for people."""
        return f"{self.name}@{self.version}/{self.hash[:7]}"


@dataclass(frozen=True, slots=True)
class BaseImage:
    """An image to stack packages on, for one platform; its layers can be opened."""

    manifest: Manifest
    config: ImageConfig
    layers: tuple[Layer, ...]


@dataclass(frozen=True, slots=True)
class Prepend:
    """Put `path` in front of the colon-separated environment variable `variable`."""

    variable: str
    path: str


@dataclass(frozen=True, slots=True)
class Runtime:
    """How a container of the image starts. None or "" leaves what the base image says.

    As in Dockerfiles, setting an entrypoint drops the base's command.
    """

    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    env: tuple[tuple[str, str], ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    workdir: str = ""


@dataclass(frozen=True, slots=True)
class PackageSpec:
    """What makes an image installable: the spec document (`{"_meta": ..., "nodes": ...}`) and its description."""

    document: Mapping[str, Any]
    description: str


@dataclass(frozen=True, slots=True)
class Image:
    """An image: the exact bytes of manifest and config, and its layers, bottom first."""

    manifest: Blob
    config: Blob
    layers: tuple[Layer, ...]


def compose(
    packages: Sequence[PackageLayer],
    platform: Platform,
    *,
    base: BaseImage | None = None,
    environment: Iterable[Prepend] = (),
    runtime: Runtime | None = None,
    spec: PackageSpec | None = None,
    missing: Sequence[str] = (),
) -> Image:
    """Stack package layers, dependencies first, on a base image.

    With `spec`, the last package is the subject: the configuration carries its spec document and the checksum of its
    layer, and the image can be installed from. `missing` names dependencies whose layers are absent: a mark.
    Raises `UsageError` if the layers cannot be combined (zstd layers on a base with Docker's media types).
    """
    if not packages and base is None:
        raise UsageError("an image needs at least one layer", hint="name a package, or a base image")
    docker = base is not None and manifest_type_of(base.manifest.media_type) == DOCKER_MANIFEST
    packages = [replace(package, layer=_in_family(package, docker=docker)) for package in packages]
    layers = (*(base.layers if base else ()), *(package.layer for package in packages))
    runtime = _marked(runtime or Runtime(), missing)
    document = _config(packages, layers, platform, base=base, environment=environment, runtime=runtime, spec=spec)
    config = Blob.from_bytes(
        canonical_json(document),
        DOCKER_CONFIG if docker else OCI_CONFIG,
    )
    manifest = Manifest(
        DOCKER_MANIFEST if docker else OCI_MANIFEST,
        config.descriptor,
        tuple(layer.blob.descriptor for layer in layers),
        {} if docker else _annotations(packages, spec, missing),
    )
    return Image(Blob.from_bytes(manifest.to_bytes(), manifest.media_type), config, layers)


def environment_of(base: Sequence[str], changes: Iterable[Prepend], settings: Iterable[tuple[str, str]]) -> list[str]:
    """Return the `Env` list: the base's variables in their order, then new ones by name; each path once."""
    variables = dict(item.partition("=")[::2] for item in base)
    variables.setdefault("PATH", DEFAULT_PATH)
    for change in changes:
        old = [path for path in variables.get(change.variable, "").split(":") if path and path != change.path]
        variables[change.variable] = ":".join([change.path, *old])
    variables.update(settings)
    first = [item.partition("=")[0] for item in base] or ["PATH"]
    ordered = [*dict.fromkeys(first), *sorted(name for name in variables if name not in first)]
    return [f"{name}={variables[name]}" for name in ordered]


def _config(
    packages: Sequence[PackageLayer],
    layers: Sequence[Layer],
    platform: Platform,
    *,
    base: BaseImage | None,
    environment: Iterable[Prepend],
    runtime: Runtime,
    spec: PackageSpec | None,
) -> dict[str, Any]:
    document: dict[str, Any] = {"architecture": platform.architecture, "os": platform.os}
    inherited: Mapping[str, Any] = {}
    if base is not None:
        document = dict(base.config.document)
        inherited = document.get("config") or {}
    if created := max((package.created for package in packages), default=""):
        document["created"] = created
    document["rootfs"] = {"type": "layers", "diff_ids": [str(layer.diff_id) for layer in layers]}
    env = environment_of(base.config.env if base else (), environment, runtime.env)
    document["config"] = _started(inherited, runtime, env)
    document["history"] = [*_base_history(base), *(_history(package) for package in packages)]
    if spec is not None:
        document.update(_package_keys(packages[-1], spec))
    return document


def _started(inherited: Mapping[str, Any], runtime: Runtime, env: list[str]) -> dict[str, Any]:
    started = {**inherited, "Env": env}
    if runtime.entrypoint is not None:
        started["Entrypoint"] = list(runtime.entrypoint)
        started.pop("Cmd", None)
    if runtime.cmd is not None:
        started["Cmd"] = list(runtime.cmd)
    if runtime.user:
        started["User"] = runtime.user
    if runtime.workdir:
        started["WorkingDir"] = runtime.workdir
    if runtime.labels:
        started["Labels"] = {**(inherited.get("Labels") or {}), **runtime.labels}
    return started


def _package_keys(package: PackageLayer, spec: PackageSpec) -> dict[str, Any]:
    descriptor = package.layer.blob.descriptor
    return {
        "spec": spec.document,
        "buildcache_layout_version": LAYOUT_VERSION,
        "binary_cache_checksum": {"hash_algorithm": descriptor.digest.algorithm, "hash": descriptor.digest.hex},
        "archive_size": descriptor.size,
        "archive_timestamp": package.created,
        "archive_compression": "zstd" if descriptor.media_type == OCI_LAYER_ZSTD else "gzip",
    }


def _base_history(base: BaseImage | None) -> list[Mapping[str, Any]]:
    if base is None:
        return []
    filled = sum(1 for entry in base.config.history if not entry.get("empty_layer"))
    if filled == len(base.layers):
        return list(base.config.history)
    # engines pair history and layers by position: a base without a history of its own still needs one entry a layer
    return [{"created_by": BASE_LAYER} for _ in base.layers]


def _history(package: PackageLayer) -> dict[str, str]:
    entry = {"created_by": f"oci-binpkg {package.name}@{package.version}", "comment": f"package /{package.hash}"}
    return {"created": package.created, **entry} if package.created else entry


def _marked(runtime: Runtime, missing: Sequence[str]) -> Runtime:
    if not missing:
        return runtime
    return replace(runtime, labels={**runtime.labels, MISSING_KEY: " ".join(missing)})


def _annotations(packages: Sequence[PackageLayer], spec: PackageSpec | None, missing: Sequence[str]) -> dict[str, str]:
    annotations = {}
    if spec is not None:
        annotations = {
            _DESCRIPTION: spec.description,
            _TITLE: packages[-1].name,
            _VERSION: packages[-1].version,
        }
    if missing:
        annotations[MISSING_KEY] = " ".join(missing)
    return annotations


def _in_family(package: PackageLayer, *, docker: bool) -> Layer:
    """Give the same bytes the media type of the family: Docker's types are never mixed with OCI's."""
    descriptor = package.layer.blob.descriptor
    if docker and descriptor.media_type == OCI_LAYER_ZSTD:
        raise UsageError(
            f"{package.title} is a zstd layer and the base image has Docker's media types, which know gzip only",
            hint=Hint(Step.GZIP_FOR_DOCKER),
        )
    wanted = {OCI_LAYER_GZIP: DOCKER_LAYER_GZIP} if docker else {DOCKER_LAYER_GZIP: OCI_LAYER_GZIP}
    media_type = wanted.get(descriptor.media_type, descriptor.media_type)
    blob = replace(package.layer.blob, descriptor=replace(descriptor, media_type=media_type))
    return replace(package.layer, blob=blob)
