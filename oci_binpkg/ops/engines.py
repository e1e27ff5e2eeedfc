"""Bring images from a cache into a container engine of this machine, and run them there."""

from __future__ import annotations

import json
import math
import os
import re
import stat
import struct
import tarfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, Literal

from oci_binpkg.disk import disk_refusal, read_regular
from oci_binpkg.errors import EngineError, Hint, NotFoundError, Step, UsageError
from oci_binpkg.model.arch import this_platform
from oci_binpkg.model.content import OCI_INDEX, OCI_LAYER_ZSTD, Blob, Descriptor, Digest
from oci_binpkg.model.image import Image
from oci_binpkg.model.reference import parse_image
from oci_binpkg.ops.run_options import RunOptions
from oci_binpkg.store.images import StoredImage, image_of, read_image
from oci_binpkg.store.protocol import Store
from oci_binpkg.store.verifying import verified_chunks

Kind = Literal["docker", "podman"]
DEFAULT_TIMEOUT: Final = 600.0
_NAME: Final = "io.containerd.image.name"
_REF_NAME: Final = "org.opencontainers.image.ref.name"
_BLOCK: Final = 512
_MOST_LOGINS: Final = 4 << 20
_NOT_ITS_PROTOCOL: Final = (LookupError, TypeError, ValueError, AttributeError, struct.error)
"""What the SDK raises where an answer has another shape than it expects."""


@dataclass(frozen=True, slots=True)
class ContainerEngine:
    """A running engine: its kind, the address it was reached at, and the client (`docker.APIClient`)."""

    kind: Kind
    address: str
    client: Any

    def __str__(self) -> str:
        return f"{self.kind} at {self.address}"


def connect(kind: Kind, candidates: Sequence[str], *, timeout: float = DEFAULT_TIMEOUT) -> ContainerEngine:
    """Connect to the first of `candidates` (`unix:///path`, a path, or `tcp://host:port`) where something listens.

    `timeout` (seconds) bounds the wait for each answer. Raises `EngineError` naming what was tried.
    """
    addresses = [f"unix://{c}" if c.startswith("/") else c for c in candidates]
    for address in addresses:
        if not address.startswith("unix://") or _is_socket(address.removeprefix("unix://")):
            return ContainerEngine(kind, address, _client(kind, address, timeout))
    raise EngineError(
        f"no {kind} engine: no socket at {', '.join(a.removeprefix('unix://') for a in addresses) or 'any place'}",
        hint=Hint(Step.START_ENGINE),
    )


def has_image(engine: ContainerEngine, name: str, config: Digest) -> str:
    """Return the id of the image called `name` if it is the one with this configuration, else ""."""
    from docker.errors import NotFound  # noqa: PLC0415 - as in `_client`

    with _refusals(engine, f"look up {name}"):
        try:
            found = _full_id(str(engine.client.inspect_image(str(parse_image(name)))["Id"]))
        except NotFound:
            return ""
    return found if found == str(config) else ""


def load(engine: ContainerEngine, image: Image, name: str) -> str:
    """Load an image under `name` (`repository[:tag]`) and return its id in the engine (`sha256:...`).

    Layers are streamed and verified on the way. Raises `UsageError` for a name with a digest, `EngineError` if the
    engine refuses the image or holds another one afterwards, and whatever reading the layers raises.
    """
    reference = parse_image(name)
    if reference.digest:
        raise UsageError(f"{name[:200]!r}: an image is loaded under a tag, not under a digest")
    tagged = str(reference)
    hint = _loading_hint(image)
    with _refusals(engine, f"load {tagged}", hint):
        for event in engine.client.load_image(_archive(image, tagged)):
            _raise_reported(engine, event, tagged, hint)
        found = _full_id(str(engine.client.inspect_image(tagged)["Id"]))
    config, manifest = str(image.config.descriptor.digest), str(image.manifest.descriptor.digest)
    # the containerd image store of newer Docker names images by manifest
    if found not in (config, manifest):
        raise EngineError(f"{engine} holds {found} as {tagged}, not the image that was loaded: {config}", hint=hint)
    return found


def run(
    engine: ContainerEngine,
    image: str,
    options: RunOptions,
    *,
    stdout: BinaryIO,
    stderr: BinaryIO,
    timeout: float | None = None,
) -> int:
    """Run a container of `image` (name or id), copy its output as it comes, remove it, and return its exit code.

    Without a network in the options the engine's default is used, or `none` if the engine has no network. Raises
    `EngineError`, also after `timeout` seconds.
    """
    client = engine.client
    with _refusals(engine, f"run {image}"):
        host = client.create_host_config(
            network_mode=options.network or _default_network(engine),
            ulimits=[{"Name": name, "Soft": value, "Hard": value} for name, value in options.limits.items()],
            binds=[f"{source}:{target}{':ro' if readonly else ''}" for source, target, readonly in options.bound()],
        )
        created = client.create_container(
            image,
            list(options.command) or None,
            environment=dict(options.environment),
            host_config=host,
            user=options.user or None,
            working_dir=options.workdir or None,
            entrypoint=None if options.entrypoint is None else [options.entrypoint],
        )
        identifier = str(created["Id"])
        try:
            return _follow(engine, identifier, stdout, stderr, timeout)
        finally:
            with _silently():
                client.remove_container(identifier, v=True, force=True)


def _follow(engine: ContainerEngine, container: str, stdout: BinaryIO, stderr: BinaryIO, timeout: float | None) -> int:
    client = engine.client
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        with _silently():
            client.kill(container)

    timer = threading.Timer(timeout or 0, expire)
    output = client.attach(container, stdout=True, stderr=True, stream=True, logs=False, demux=True)
    try:
        client.start(container)
        if timeout is not None:
            timer.start()
        for out, err in output:
            _forward(stdout, out)
            _forward(stderr, err)
        result = client.wait(container)
    finally:
        timer.cancel()
        output.close()
    if expired.is_set():
        raise EngineError(f"{engine}: the container did not end within {timeout} seconds and was killed")
    return int(result["StatusCode"])


def _forward(target: BinaryIO, data: bytes | None) -> None:
    try:
        if data:
            target.write(data)
            target.flush()
    except OSError as error:
        raise disk_refusal("cannot pass on the container's output", error) from error


def _default_network(engine: ContainerEngine) -> str | None:
    # dockerd --bridge=none has no default network and then cannot start a container
    if engine.kind == "docker" and not engine.client.networks(names=["bridge"]):
        return "none"
    return None


def _client(kind: Kind, address: str, timeout: float) -> Any:
    import docker  # noqa: PLC0415 - needed by those who use an engine only

    _look_at_logins()
    try:
        # "auto" asks the server, which also shows that it answers
        return docker.APIClient(base_url=address, version="auto", timeout=math.ceil(timeout))
    except (docker.errors.DockerException, OSError, *_NOT_ITS_PROTOCOL) as error:
        raise EngineError(
            f"{kind} at {address} does not answer: {_text(error)}", hint="is it running, and may you use its socket?"
        ) from error


def _look_at_logins() -> None:
    """Raise `EngineError` if the SDK would wait for its file of logins, or read it without end."""
    from docker.utils.config import find_config_file  # noqa: PLC0415 - as in `_client`

    path = str(find_config_file() or "")
    if path:
        try:
            with suppress(PermissionError):
                read_regular(path, _MOST_LOGINS)
        except OSError as error:
            raise EngineError(
                f"{path}: {error.strerror or error}", hint="docker keeps logins there; DOCKER_CONFIG names its folder"
            ) from None


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


@contextmanager
def _refusals(engine: ContainerEngine, action: str, hint: str = "") -> Iterator[None]:
    from docker.errors import DockerException  # noqa: PLC0415 - as in `_client`

    try:
        yield
    except (DockerException, OSError) as error:
        raise EngineError(f"{engine} did not {action}: {_text(error)}", hint=hint) from error
    except _NOT_ITS_PROTOCOL as error:
        raise EngineError(
            f"{engine} did not {action}: it answered with something that is not the engine's protocol",
            hint="what listens there may be another program",
        ) from error


@contextmanager
def _silently() -> Iterator[None]:
    from docker.errors import DockerException  # noqa: PLC0415 - as in `_client`

    with suppress(DockerException, OSError, *_NOT_ITS_PROTOCOL):
        yield


def _raise_reported(engine: ContainerEngine, event: Any, name: str, hint: str) -> None:
    # the engines answer 200 and report errors inside the stream; the SDK raises nothing
    if not isinstance(event, dict):
        raise EngineError(f"{engine}: an unexpected answer to loading {name}: {_printable(str(event))}")
    detail = event.get("errorDetail")
    message = event.get("error") or (detail.get("message") if isinstance(detail, dict) else detail)
    if message:
        raise EngineError(f"{engine} refused {name}: {_printable(str(message))}", hint=hint)


def _loading_hint(image: Image) -> str:
    if any(layer.blob.descriptor.media_type == OCI_LAYER_ZSTD for layer in image.layers):
        return "the image has zstd layers, which Docker reads from version 23 on; use gzip layers or a newer engine"
    return ""


def _full_id(identifier: str) -> str:
    return identifier if identifier.startswith("sha256:") else f"sha256:{identifier}"


def _text(error: Exception) -> str:
    return _printable(str(getattr(error, "explanation", None) or error))


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text).strip()[:300]


def _archive(image: Image, tagged: str) -> Iterator[bytes]:
    """Yield the bytes of a tar that engines load. Same image and name, same bytes."""
    blobs = {blob.descriptor.digest: blob for blob in (image.manifest, image.config, *(la.blob for la in image.layers))}
    for directory in ("blobs", *sorted({f"blobs/{digest.algorithm}" for digest in blobs})):
        yield _header(directory, 0, tarfile.DIRTYPE)
    for digest, blob in blobs.items():
        yield from _member(_path(digest), blob)
    documents = {
        "oci-layout": {"imageLayoutVersion": "1.0.0"},
        "index.json": _layout_index(image.manifest.descriptor, tagged),
        "manifest.json": _docker_manifest(image, tagged),
    }
    for path, document in documents.items():
        yield from _member(path, Blob.from_bytes(json.dumps(document, separators=(",", ":")).encode()))
    yield bytes(2 * _BLOCK)


def _layout_index(manifest: Descriptor, tagged: str) -> dict[str, Any]:
    names = {_NAME: tagged, _REF_NAME: tagged.rpartition(":")[2]}
    entry = Descriptor(manifest.media_type, manifest.digest, manifest.size, annotations=names)
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry.to_json()]}


def _docker_manifest(image: Image, tagged: str) -> list[dict[str, Any]]:
    layers = [_path(layer.blob.descriptor.digest) for layer in image.layers]
    return [{"Config": _path(image.config.descriptor.digest), "RepoTags": [tagged], "Layers": layers}]


def _path(digest: Digest) -> str:
    return f"blobs/{digest.algorithm}/{digest.hex}"


def _member(path: str, blob: Blob) -> Iterator[bytes]:
    size = blob.descriptor.size
    yield _header(path, size, tarfile.REGTYPE)
    yield from verified_chunks(blob, f"packing {path} for the engine")
    if size % _BLOCK:
        yield bytes(_BLOCK - size % _BLOCK)


def _header(path: str, size: int, kind: bytes) -> bytes:
    info = tarfile.TarInfo(path)
    info.type = kind
    info.size = size
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    # GNU: a layer may be larger than the 8 GiB that ustar can say
    return info.tobuf(tarfile.GNU_FORMAT)


@dataclass(frozen=True, slots=True)
class Loaded:
    """An image in an engine: the engine's kind, the image's name and its id there."""

    engine: str
    name: str
    image_id: str


def image_for_here(store: Store, reference: str) -> StoredImage:
    """Return the image under a tag or digest, for this machine. Raises `NotFoundError` naming the tags there are."""
    try:
        return read_image(store, reference, this_platform())
    except NotFoundError as error:
        tags = sorted(store.tags())
        offered = ", ".join(tags[:8]) + (", ..." if tags[8:] else "")
        raise error.within(hint=f"there is {offered}" if tags else error.hint) from error


def load_image(engine: ContainerEngine, store: Store, reference: str) -> Loaded:
    """Load the image under a tag or digest, for this machine's platform, unless the engine has it already.

    Raises `NotFoundError` naming the tags there are.
    """
    stored = image_for_here(store, reference)
    name = engine_name(store.name, reference)
    known = has_image(engine, name, stored.manifest.config.digest)
    return Loaded(engine.kind, name, known or load(engine, image_of(store, stored), name))


def run_image(
    engine: ContainerEngine,
    store: Store,
    reference: str,
    options: RunOptions,
    *,
    stdout: BinaryIO,
    stderr: BinaryIO,
) -> int:
    """Run a command in an image of a cache; return the command's exit code."""
    loaded = load_image(engine, store, reference)
    return run(engine, loaded.image_id, options, stdout=stdout, stderr=stderr)


def engine_name(store_name: str, reference: str) -> str:
    """Return the name an image has in an engine: as a pull would name it, or below `localhost/` for a layout."""
    if reference.startswith("sha256:"):
        reference = reference.removeprefix("sha256:")[:12]
    if not store_name.startswith("oci-layout:"):
        return f"{store_name}:{reference}"
    base = store_name.rstrip("/").rpartition("/")[2].removeprefix("oci-layout:").lower()
    words = re.findall(r"[a-z0-9]+", base)
    if not words:
        raise UsageError(f"{store_name}: an engine needs a name with letters or digits", hint="rename the folder")
    return f"localhost/{'-'.join(words)}:{reference}"
