"""Content-addressed bytes: digests, platforms, descriptors, blobs and media types.

Source: OCI image-spec 1.1 (descriptor.md, media-types.md) and the Docker image manifest version 2, schema 2.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final

from oci_binpkg.errors import ContentError

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_LAYER_GZIP: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD: Final = "application/vnd.oci.image.layer.v1.tar+zstd"
OCI_LAYER_TAR: Final = "application/vnd.oci.image.layer.v1.tar"
OCI_FOREIGN_LAYER_GZIP: Final = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
OCI_EMPTY: Final = "application/vnd.oci.empty.v1+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER_TAR: Final = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_ZSTD: Final = "application/vnd.docker.image.rootfs.diff.tar.zstd"
DOCKER_LAYER_GZIP: Final = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_FOREIGN_LAYER: Final = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
OCTET_STREAM: Final = "application/octet-stream"

IMAGE_MANIFEST_TYPES: Final = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEX_TYPES: Final = frozenset({OCI_INDEX, DOCKER_LIST})
MANIFEST_TYPES: Final = IMAGE_MANIFEST_TYPES | INDEX_TYPES

_OCI_FOREIGN: Final = "application/vnd.oci.image.layer.nondistributable."
_ATTESTATION: Final = "vnd.docker.reference.type"
_CHUNK: Final = 256 * 1024
_HEX_LENGTH: Final = {"sha256": 64, "sha512": 128}
_HEX: Final = re.compile(r"[0-9a-f]+", re.ASCII)


def read_whole(stream: BinaryIO, limit: int) -> bytes:
    """Return what a stream holds, at most `limit` bytes; memory is taken for what there is, not for the limit.

    Python allocates as much as it asks a stream for, and a raw stream may return less than it is asked for.
    """
    chunks = []
    while limit > 0 and (chunk := stream.read(min(limit, _CHUNK))):
        chunks.append(chunk)
        limit -= len(chunk)
    return b"".join(chunks)


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """An algorithm (`sha256` or `sha512`) and lower-case hex digits; safe in paths and URLs once it exists.

    Raises `ContentError` for anything else (CVE-2024-3727: unvalidated digests became path traversal).
    """

    algorithm: str
    hex: str

    def __post_init__(self) -> None:
        length = _HEX_LENGTH.get(self.algorithm)
        if length is None or len(self.hex) != length or not _HEX.fullmatch(self.hex):
            raise ContentError(f"not a digest: {f'{self.algorithm}:{self.hex}'[:100]!r}")

    @classmethod
    def parse(cls, text: object) -> Digest:
        """Parse `algorithm:hex`."""
        if not isinstance(text, str):
            raise ContentError(f"not a digest: {str(text)[:100]!r}")
        algorithm, _, hexdigits = text.partition(":")
        return cls(algorithm, hexdigits)

    @classmethod
    def of(cls, data: bytes) -> Digest:
        """Return the sha256 digest of `data`."""
        return cls("sha256", hashlib.sha256(data).hexdigest())

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"

    @property
    def short(self) -> str:
        """The first twelve hex digits, for people."""
        return self.hex[:12]


_USUAL_VARIANTS: Final = {"amd64": "v1", "arm64": "v8", "arm": "v7"}
_LEVEL: Final = re.compile(r"v([0-9]{1,2})(?:\.([0-9]{1,2}))?", re.ASCII)
_FAR: Final = 1000.0


@dataclass(frozen=True, slots=True)
class Platform:
    """What a manifest runs on, in Go's names: `linux`, `amd64`, optional variant (`v8`)."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    def fits(self, wanted: Platform) -> bool:
        """Return whether content for this platform serves where `wanted` is asked for."""
        return self.distance(wanted) is not None

    def distance(self, wanted: Platform) -> float | None:
        """Return how far this is from what is `wanted`, 0 for the same; None if it does not serve.

        Variants are levels, each of which also runs what the lower ones run. Without one, amd64 is v1, arm64 is v8 and
        arm is v7, as containerd has it. Where no level is asked for, higher ones serve if there is nothing else.
        """
        if (self.os, self.architecture) != (wanted.os, wanted.architecture):
            return None
        if self.variant == wanted.variant:
            return 0
        own, asked = self._level, wanted._level
        if own is None or asked is None:
            return _FAR if not self.variant or not wanted.variant else None
        if own > asked:
            return None if wanted.variant else _FAR + own - asked
        return 1 + asked - own

    @property
    def _level(self) -> float | None:
        found = _LEVEL.fullmatch(self.variant or _USUAL_VARIANTS.get(self.architecture, ""))
        return int(found[1]) + int(found[2] or 0) / 100 if found else None

    def to_json(self) -> dict[str, str]:
        """Return the JSON object of the image specification."""
        document = {"os": self.os, "architecture": self.architecture}
        return document | {"variant": self.variant} if self.variant else document


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A typed pointer to content: media type, digest, size in bytes.

    `extra` holds members we do not interpret (`urls`, `data`, `artifactType`, ...), kept when written again.
    """

    media_type: str
    digest: Digest
    size: int
    platform: Platform | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_manifest(self) -> bool:
        """Whether this points to a manifest or an index, not to a plain blob."""
        return self.media_type in MANIFEST_TYPES

    @property
    def is_foreign(self) -> bool:
        """Whether this is a layer that no registry may pass on: its bytes lie where its `urls` say."""
        return self.media_type == DOCKER_FOREIGN_LAYER or self.media_type.startswith(_OCI_FOREIGN)

    @property
    def is_about_others(self) -> bool:
        """Whether this tells of another manifest, as an attestation or an index for lazy pulling does: no image."""
        return bool(self.extra.get("artifactType")) or _ATTESTATION in self.annotations

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of the image specification."""
        document: dict[str, Any] = {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size}
        if self.platform is not None:
            document["platform"] = self.platform.to_json()
        document.update(self.extra)
        if self.annotations:
            document["annotations"] = dict(self.annotations)
        return document


BlobOpener = Callable[[], AbstractContextManager[BinaryIO]]


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes known by their descriptor that can be opened again and again.

    `origin` is the address of the repository they are known to be in (`https://host:port/repository`), if any: a
    registry store uses it to mount the blob instead of receiving it.
    """

    descriptor: Descriptor
    open: BlobOpener
    origin: str = ""

    @classmethod
    def from_bytes(cls, data: bytes, media_type: str = OCTET_STREAM) -> Blob:
        """Wrap bytes in memory."""
        return cls(Descriptor(media_type, Digest.of(data), len(data)), lambda: io.BytesIO(data))

    def read(self, limit: int = 64 * 1024 * 1024) -> bytes:
        """Read a small blob whole. Raises `ContentError` above `limit` bytes or if size or digest do not match."""
        self._require_size(limit)
        with self.open() as stream:
            data = read_whole(stream, self.descriptor.size + 1)
        verify(data, self.descriptor)
        return data

    def chunks(self, limit: int) -> Iterator[bytes]:
        """Iterate over the pieces of a large blob of a store, which verifies what it gives out.

        Raises what that raises, and `ContentError` above `limit` bytes.
        """
        self._require_size(limit)
        with self.open() as stream:
            while chunk := stream.read(_CHUNK):
                yield chunk

    def _require_size(self, limit: int) -> None:
        if self.descriptor.size > limit:
            raise ContentError(
                f"{self.descriptor.digest} has {self.descriptor.size} bytes; at most {limit} are read here"
            )


@dataclass(frozen=True, slots=True)
class Growing:
    """Bytes that are still being made, and can be opened again and again like those of a blob.

    Reads wait for what is not there yet. `descriptor` waits for the end. Both raise `ContentError` if it never comes.
    """

    open: BlobOpener
    descriptor: Callable[[], Descriptor]


def verify(data: bytes, descriptor: Descriptor) -> None:
    """Raise `ContentError` unless `data` has the size and digest of `descriptor`."""
    if len(data) != descriptor.size:
        raise ContentError(f"{descriptor.digest}: {len(data)} bytes, but {descriptor.size} were promised")
    actual = hashlib.new(descriptor.digest.algorithm, data).hexdigest()
    if actual != descriptor.digest.hex:
        raise ContentError(f"{descriptor.digest}: the content has digest {descriptor.digest.algorithm}:{actual}")
