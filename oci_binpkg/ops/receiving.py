"""Layers that came from a cache and were installed: kept, so that a push sends them on as they came."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from typing import BinaryIO

from oci_binpkg.archive.cacherecord import CachedLayer, tree_fingerprint
from oci_binpkg.archive.distribution import MAX_BYTES, MEMBER, Distribution, Relocations
from oci_binpkg.archive.extract import Extracted
from oci_binpkg.archive.layer import PackedLayer
from oci_binpkg.archive.layercache import LayerCache
from oci_binpkg.archive.tarball import TarSummary
from oci_binpkg.errors import ContentError
from oci_binpkg.model.image import Layer


@dataclass(slots=True)
class Tee:
    """A stream that is kept in the new file `path` while it is read."""

    stream: BinaryIO
    path: str
    _file: BinaryIO | None = None

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes, or all."""
        data = self.stream.read(size)
        if self._file is None:
            self._file = open(self.path, "xb")  # noqa: SIM115 - closed by close()
        self._file.write(data)
        return data

    def close(self) -> None:
        """Close the file; the stream is its owner's."""
        if self._file is not None:
            self._file.close()


def received(
    cache: LayerCache, package_hash: str, prefix: str, compression: str
) -> tuple[CachedLayer, Distribution] | None:
    """Return the layer that the files at `prefix` came from, if they are unchanged since, and where it was made for."""
    found = cache.get(_key(package_hash, prefix, compression), tree_fingerprint(prefix))
    if found is None:
        return None
    path = os.path.join(prefix, MEMBER)
    try:
        with open(path, "rb") as file:
            return found, Distribution.parse(file.read(MAX_BYTES), path)
    except (OSError, ContentError):
        cache.release(found)
        return None


def keep(cache: LayerCache, layer: Layer, path: str, extracted: Extracted, *, package_hash: str, prefix: str) -> None:
    """Take a received layer, in the file `path`, into the layer cache, for the files that are at `prefix` now."""
    descriptor = layer.blob.descriptor
    lists = extracted.distribution
    relocations = Relocations(lists.relocate_binaries, lists.relocate_links, lists.relocate_textfiles)
    summary = TarSummary(extracted.members, len(extracted.files), extracted.bytes, (), relocations)

    def produce(new: str) -> PackedLayer:
        shutil.move(path, new)
        size, digest = descriptor.size, descriptor.digest
        return PackedLayer(new, digest, size, extracted.diff_id, extracted.uncompressed_size, summary)

    compression = "zstd" if descriptor.media_type.endswith("zstd") else "gzip"
    kept, _ = cache.build(_key(package_hash, prefix, compression), tree_fingerprint(prefix), produce)
    cache.release(kept)


def _key(package_hash: str, prefix: str, compression: str) -> str:
    """Return the key in the layer cache of a package's layer as it was received, whoever compressed it."""
    return hashlib.sha256(os.fsencode(f"received\0{package_hash}\0{prefix}\0{compression}")).hexdigest()
