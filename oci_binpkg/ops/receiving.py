"""Layers that came from a cache and were installed where they were made: kept, so that a push sends the same bytes."""

from __future__ import annotations

import hashlib
import os
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, Final

import zstandard

from oci_binpkg.archive.cacherecord import CachedLayer, tree_fingerprint
from oci_binpkg.archive.distribution import Relocations
from oci_binpkg.archive.extract import Extracted
from oci_binpkg.archive.layer import PackedLayer
from oci_binpkg.archive.layercache import LayerCache
from oci_binpkg.archive.tarball import TarSummary
from oci_binpkg.model.image import Layer

_HEAD: Final = 256 * 1024
_TAR_HEAD: Final = 64 * 1024
_GZIP: Final = 31  # zlib's window bits for a gzip header


def received_key(package_hash: str, prefix: str, compression: str) -> str:
    """Return the key in the layer cache of a package's layer as it was received, whoever compressed it."""
    return hashlib.sha256(os.fsencode(f"received\0{package_hash}\0{prefix}\0{compression}")).hexdigest()


def received(cache: LayerCache, package_hash: str, prefix: str, compression: str) -> CachedLayer | None:
    """Return the layer that the files at `prefix` came from, if they are unchanged since."""
    return cache.get(received_key(package_hash, prefix, compression), tree_fingerprint(prefix))


@dataclass(slots=True)
class Tee:
    """A stream that is kept in the file `path` while it is read, if `wanted` says so of its first bytes."""

    stream: BinaryIO
    path: str
    wanted: Callable[[bytes], bool]
    _file: BinaryIO | None = None
    _head: bytes = b""
    _started: bool = False

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes, or all."""
        if not self._started:
            self._started = True
            self._head = self.stream.read(_HEAD)
            if self.wanted(self._head):
                self._file = open(self.path, "xb")  # noqa: SIM115 - closed by close()
        data = self._head if size < 0 else self._head[:size]
        self._head = self._head[len(data) :]
        if size < 0 or (not data and size):
            data += self.stream.read(size)
        if self._file is not None:
            self._file.write(data)
        return data

    def close(self) -> None:
        """Close the file; the stream is its owner's."""
        if self._file is not None:
            self._file.close()

    @property
    def kept(self) -> bool:
        """Whether the bytes are in the file."""
        return self._file is not None


def tee_for(stream: BinaryIO, path: str, final: str) -> Tee:
    """Return a tee that keeps a layer which seems to be made for the prefix `final`."""
    parts = [os.fsencode(part) for part in os.path.split(final.lstrip("/")) if part]

    def wanted(head: bytes) -> bool:
        tar = _beginning(head)
        return all(part in tar for part in parts)

    return Tee(stream, path, wanted)


def keep(cache: LayerCache, layer: Layer, tee: Tee, extracted: Extracted, *, package_hash: str, prefix: str) -> None:
    """Take a received layer into the layer cache, for the files that are at `prefix` now."""
    descriptor = layer.blob.descriptor
    lists = extracted.distribution
    relocations = Relocations(lists.relocate_binaries, lists.relocate_links, lists.relocate_textfiles)
    summary = TarSummary(extracted.members, len(extracted.files), extracted.bytes, (), relocations)

    def produce(path: str) -> PackedLayer:
        shutil.move(tee.path, path)
        size, digest = descriptor.size, descriptor.digest
        return PackedLayer(path, digest, size, layer.diff_id, extracted.uncompressed_size, summary)

    compression = "zstd" if descriptor.media_type.endswith("zstd") else "gzip"
    kept, _ = cache.build(received_key(package_hash, prefix, compression), tree_fingerprint(prefix), produce)
    cache.release(kept)


def _beginning(head: bytes) -> bytes:
    """Decompress as much as the first bytes of a layer hold."""
    try:
        if head.startswith(b"\x28\xb5\x2f\xfd"):
            return zstandard.ZstdDecompressor().decompressobj().decompress(head)
        return zlib.decompressobj(_GZIP).decompress(head, _TAR_HEAD)
    except (zlib.error, zstandard.ZstdError):
        return b""
