"""Layers and images as values, and the composition of package layers into a runnable image. Pure.

Source: OCI image-spec 1.1 (config.md, annotations.md), and the configuration keys of Spack's OCI build caches.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

from oci_binpkg.errors import ContentError, UsageError
from oci_binpkg.model.content import (
    DOCKER_CONFIG,
    DOCKER_LAYER_GZIP,
    DOCKER_LAYER_ZSTD,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    Blob,
    Descriptor,
    Digest,
    Platform,
)
from oci_binpkg.model.documents import canonical_json, list_of, parse_json
from oci_binpkg.model.inherited import inherited_members, newest, oci_descriptor
from oci_binpkg.model.manifest import ImageConfig, Manifest, manifest_type_of
from oci_binpkg.model.run_environment import (
    ENVIRONMENT_KEY,
    Action,
    EnvironmentChange,
    RunEnvironment,
    environment_document,
)

DEFAULT_PATH: Final = "/bin:/usr/bin"
"""Of images without a base, as Spack writes it."""
ENGINE_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""What engines take where an image names no PATH."""
LAYOUT_VERSION: Final = 3
MAX_ENGINE_LAYERS: Final = 125
"""Docker refuses images of 126 layers or more ("max depth exceeded")."""
MISSING_KEY: Final = "io.oci-binpkg.missing"
"""Annotation and label of an image that lacks the layers of some dependencies; the value names them."""
UNKNOWN_DIFF_ID: Final = Digest("sha256", "0" * 64)
"""The diff_id of a layer whose tar is not hashed yet: URL mirrors record the digest of the compressed bytes only."""
BASE_LAYER: Final = "base image"
"""The history entry for a layer of a base image without a history."""
PACKAGES_KEY: Final = "io.oci-binpkg.packages"
"""Annotation of a merged layer: a JSON list of the packages in it and where they lie."""
_HASH: Final = re.compile(r"[a-z2-7]{32}", re.ASCII)
BASE_NAME: Final = "org.opencontainers.image.base.name"
BASE_DIGEST: Final = "org.opencontainers.image.base.digest"
_SYSTEM_AT_THE_END: Final = frozenset({"MANPATH", "INFOPATH"})
"""Variables whose empty element stands for what the system has; without one, its pages are not found any more."""
TITLE: Final = "org.opencontainers.image.title"
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
    """The layer of one package; `created` is an RFC 3339 time that is a property of the package, or "".

    One without a hash holds no package, but what packages need: sbang.
    """

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
class Body:
    """Where the files of a package lie in a merged layer: bytes of the compressed layer.

    `digest` and `size` are those of the package's own layer; no digest if that layer does not follow from those bytes.
    """

    hash: str
    offset: int
    length: int
    digest: Digest | None = None
    size: int = 0


@dataclass(frozen=True, slots=True)
class SharedLayer:
    """A layer that several packages share, in their order in it, and where each of them lies there."""

    layer: Layer
    packages: tuple[PackageLayer, ...]
    bodies: tuple[Body, ...]

    @property
    def created(self) -> str:
        """The newest of the packages' times."""
        return newest(package.created for package in self.packages)

    def described(self) -> SharedLayer:
        """Return the same with an annotation that tells where the packages lie."""
        blob = self.layer.blob
        text = json.dumps(bodies_json(self.bodies), separators=(",", ":"))
        descriptor = replace(blob.descriptor, annotations={PACKAGES_KEY: text})
        return replace(self, layer=replace(self.layer, blob=replace(blob, descriptor=descriptor)))


@dataclass(frozen=True, slots=True)
class RestoringLayer:
    """A layer that gives directories of the base back what layers below it have changed."""

    layer: Layer
    created: str = ""


def bodies_json(bodies: Iterable[Body]) -> list[list[Any]]:
    """Return the JSON list that `parse_bodies` reads."""
    return [
        [each.hash, each.offset, each.length, *([str(each.digest), each.size] if each.digest else [])]
        for each in bodies
    ]


def parse_bodies(items: Sequence[Any], what: str) -> tuple[Body, ...]:
    """Parse `[hash, offset, length]` or `[hash, offset, length, digest, size]`, each once. Raises `ContentError`."""
    found: dict[str, Body] = {}
    for item in items:
        match item:
            case [str(key), int(offset), int(length), *rest] if (
                _HASH.fullmatch(key) and key not in found and offset >= 0 and length > 0 and _is_layer(rest)
            ):
                found[key] = Body(key, offset, length, *([Digest.parse(rest[0]), rest[1]] if rest else []))
            case _:
                raise ContentError(f"{what}: no list of packages and where they lie")
    return tuple(found.values())


def _is_layer(rest: Sequence[Any]) -> bool:
    match rest:
        case []:
            return True
        case [str(), int(size)]:
            return size > 0
        case _:
            return False


def bodies_of(descriptor: Descriptor, what: str) -> tuple[Body, ...]:
    """Return where packages lie in a layer, from the annotation of a merged one; nothing for others.

    Raises `ContentError`.
    """
    text = descriptor.annotations.get(PACKAGES_KEY)
    if text is None:
        return ()
    document = parse_json(b'{"packages":%b}' % text.encode(), what)
    found = parse_bodies(list_of(document, "packages", what), what)
    if any(each.offset + each.length > descriptor.size for each in found):
        raise ContentError(f"{what}: packages lie outside of the layer")
    return found


@dataclass(frozen=True, slots=True)
class BaseImage:
    """An image to stack packages on, for one platform; its layers can be opened.

    `name` is the full reference it was found under, "" if that means nothing elsewhere; `digest` is its manifest's.
    """

    manifest: Manifest
    config: ImageConfig
    layers: tuple[Layer, ...]
    name: str = ""
    digest: Digest | None = None

    @property
    def labels(self) -> dict[str, str]:
        """What an image records of its base: the pair of annotations that the OCI image-spec names."""
        found = {BASE_NAME: self.name, BASE_DIGEST: str(self.digest or "")}
        return {key: value for key, value in found.items() if value}


@dataclass(frozen=True, slots=True)
class Runtime:
    """How a container of the image starts, and what its manifest says. None or "" leaves what the base image says.

    As in Dockerfiles, setting an entrypoint drops the base's command.
    """

    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    env: tuple[tuple[str, str], ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    workdir: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PackageSpec:
    """What makes an image installable: the spec document (`{"_meta": ..., "nodes": ...}`) and its description.

    `environment` is what the package itself adds to the environment of what uses it.
    """

    document: Mapping[str, Any]
    description: str
    environment: RunEnvironment = ()


Unit = PackageLayer | SharedLayer | RestoringLayer
"""What has a layer of an image above its base."""
_Stacked = TypeVar("_Stacked", bound=Unit)


@dataclass(frozen=True, slots=True)
class Image:
    """An image: the exact bytes of manifest and config, and its layers, bottom first."""

    manifest: Blob
    config: Blob
    layers: tuple[Layer, ...]


def compose(
    packages: Sequence[Unit],
    platform: Platform,
    *,
    base: BaseImage | None = None,
    environment: Iterable[EnvironmentChange] = (),
    runtime: Runtime | None = None,
    spec: PackageSpec | None = None,
    missing: Sequence[str] = (),
    created: str = "",
    oci: bool = False,
) -> Image:
    """Stack package layers, dependencies first, on a base image; what the base has already is not stacked again.

    With `spec`, the last package is the subject: the configuration carries its spec document and the checksum of its
    layer, and the image can be installed from. `missing` names dependencies whose layers are absent: a mark.
    `created` (RFC 3339) takes the place of the newest of base and packages. A base with Docker's media types makes an
    image with Docker's, unless `oci` or what it holds (annotations, zstd) wants OCI's: the bytes stay the same.
    Raises `UsageError` for an image of nothing.
    """
    if not packages and base is None:
        raise UsageError("an image needs at least one layer", hint="name a package, or a base image")
    runtime = _marked(runtime or Runtime(), missing)
    packages = not_in_base(base, packages, keep_last=spec is not None)
    docker = base is not None and _is_docker(base, packages) and not (oci or runtime.annotations)
    if base is not None and docker:
        # a Docker manifest has no annotations
        runtime = replace(runtime, labels={**base.labels, **runtime.labels})
    packages = [replace(package, layer=_in_family(package.layer, docker=docker)) for package in packages]
    below = base.layers if base else ()
    layers = (*(each if docker else _in_oci(each) for each in below), *(package.layer for package in packages))
    document = _config(packages, layers, platform, base=base, environment=environment, runtime=runtime, spec=spec)
    if created:
        document["created"] = created
    config = Blob.from_bytes(
        canonical_json(document),
        DOCKER_CONFIG if docker else OCI_CONFIG,
    )
    manifest = Manifest(
        DOCKER_MANIFEST if docker else OCI_MANIFEST,
        config.descriptor,
        (
            *(layer.blob.descriptor for layer in layers[: len(below)]),
            *(package.layer.blob.descriptor if docker else _titled(package) for package in packages),
        ),
        {}
        if docker
        else {**(base.labels if base else {}), **_annotations(packages, spec, missing), **runtime.annotations},
    )
    return Image(Blob.from_bytes(manifest.to_bytes(), manifest.media_type), config, layers)


def _titled(package: Unit) -> Descriptor:
    """Return the descriptor of a layer with the name that its archive has as a file, for `oras pull`."""
    descriptor = package.layer.blob.descriptor
    if isinstance(package, PackageLayer):
        name = f"{package.name}-{package.version}-{package.hash}"
    else:
        name = f"{'packages' if isinstance(package, SharedLayer) else 'directories'}-{descriptor.digest.short}"
    ending = "zst" if descriptor.media_type == OCI_LAYER_ZSTD else "gz"
    return replace(descriptor, annotations={**descriptor.annotations, TITLE: f"{name}.tar.{ending}"})


def environment_of(
    base: Sequence[str] | None, changes: Iterable[EnvironmentChange], settings: Iterable[tuple[str, str]]
) -> list[str]:
    """Return the `Env` list: the base's variables in their order, then new ones by name; each path once.

    What is empty between colons stays: it stands for what the system has. `base` is None for images without a base.
    """
    variables = dict(item.partition("=")[::2] for item in base or ())
    if not variables.get("PATH"):
        variables["PATH"] = DEFAULT_PATH if base is None else ENGINE_PATH
    for change in changes:
        if change.action is Action.UNSET:
            variables.pop(change.variable, None)
        elif change.action is Action.SET:
            variables[change.variable] = change.value
        else:
            known = variables.get(change.variable, "")
            unset = not known and (base is None or change.variable not in _SYSTEM_AT_THE_END)
            old = [] if unset else [path for path in known.split(":") if path != change.value]
            parts = [change.value, *old] if change.action is Action.PREPEND else [*old, change.value]
            variables[change.variable] = ":".join(parts)
    variables.update(settings)
    first = [name for item in base or ["PATH="] if (name := item.partition("=")[0]) in variables]
    ordered = [*dict.fromkeys(first), *sorted(name for name in variables if name not in first)]
    return [f"{name}={variables[name]}" for name in ordered]


def _config(
    packages: Sequence[Unit],
    layers: Sequence[Layer],
    platform: Platform,
    *,
    base: BaseImage | None,
    environment: Iterable[EnvironmentChange],
    runtime: Runtime,
    spec: PackageSpec | None,
) -> dict[str, Any]:
    document: dict[str, Any] = {"architecture": platform.architecture, "os": platform.os}
    inherited: Mapping[str, Any] = {}
    if base is not None:
        document = inherited_members(base.config.document)
        inherited = document.get("config") or {}
    elif platform.variant:
        document["variant"] = platform.variant
    if created := newest((document.get("created"), *(package.created for package in packages))):
        document["created"] = created
    document["rootfs"] = {"type": "layers", "diff_ids": [str(layer.diff_id) for layer in layers]}
    env = environment_of(base.config.env if base else None, environment, runtime.env)
    document["config"] = _started(inherited, runtime, env)
    document["history"] = [*_base_history(base), *(_history(package) for package in packages)]
    if spec is not None:
        document.update(_package_keys(_subject(packages), spec))
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
    own = {ENVIRONMENT_KEY: environment_document(spec.environment)} if spec.environment else {}
    return {
        **own,
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


def _history(package: Unit) -> dict[str, str]:
    if isinstance(package, RestoringLayer):
        return {"created_by": "oci-binpkg: directories as the base image has them"}
    if isinstance(package, SharedLayer):
        names = " ".join(f"{each.name}@{each.version}" for each in package.packages)
        hashes = " ".join(f"/{each.hash}" for each in package.packages)
        entry = {"created_by": f"oci-binpkg {names}", "comment": f"packages {hashes}"}
    elif package.hash:
        entry = {"created_by": f"oci-binpkg {package.name}@{package.version}", "comment": f"package /{package.hash}"}
    else:
        entry = {"created_by": f"oci-binpkg {package.name}"}
    return {"created": package.created, **entry} if package.created else entry


def _marked(runtime: Runtime, missing: Sequence[str]) -> Runtime:
    if not missing:
        return runtime
    return replace(runtime, labels={**runtime.labels, MISSING_KEY: " ".join(missing)})


def _subject(packages: Sequence[Unit]) -> PackageLayer:
    """Return the package that an image is about: its own layer is the last one, which is where it is read."""
    last = packages[-1]
    if not isinstance(last, PackageLayer):
        raise TypeError("the subject of an image has a layer of its own")
    return last


def _annotations(packages: Sequence[Unit], spec: PackageSpec | None, missing: Sequence[str]) -> dict[str, str]:
    annotations = {}
    if spec is not None:
        subject = _subject(packages)
        annotations = {_DESCRIPTION: spec.description, TITLE: subject.name, _VERSION: subject.version}
    if missing:
        annotations[MISSING_KEY] = " ".join(missing)
    return annotations


def _is_docker(base: BaseImage, packages: Sequence[Unit]) -> bool:
    """Return whether an image has Docker's media types: its base has them, and they can name all layers."""
    layers = (*base.layers, *(package.layer for package in packages))
    zstd = any(each.blob.descriptor.media_type in (OCI_LAYER_ZSTD, DOCKER_LAYER_ZSTD) for each in layers)
    return manifest_type_of(base.manifest.media_type) == DOCKER_MANIFEST and not zstd


def not_in_base(base: BaseImage | None, packages: Sequence[_Stacked], *, keep_last: bool) -> list[_Stacked]:
    """Leave out packages whose layers the base has; the subject of a package's image stays the last layer."""
    there = {layer.diff_id for layer in base.layers} if base else set()
    last = packages[-1] if packages and keep_last else None
    return [
        package
        for package in packages
        if package is last or isinstance(package, RestoringLayer) or package.layer.diff_id not in there
    ]


def _in_oci(layer: Layer) -> Layer:
    return replace(layer, blob=replace(layer.blob, descriptor=oci_descriptor(layer.blob.descriptor)))


def _in_family(layer: Layer, *, docker: bool) -> Layer:
    """Give the same bytes the media type of the family: Docker's types are never mixed with OCI's."""
    descriptor = layer.blob.descriptor
    if not docker:
        return _in_oci(layer)
    media_type = DOCKER_LAYER_GZIP if descriptor.media_type == OCI_LAYER_GZIP else descriptor.media_type
    return replace(layer, blob=replace(layer.blob, descriptor=replace(descriptor, media_type=media_type)))
