"""Layers that came from a cache and were installed: kept, so that a push sends them on as they came."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from oci_binpkg.archive.binary_distribution import MAX_BYTES, MEMBER, Distribution, Relocations
from oci_binpkg.archive.layer import LayerFile
from oci_binpkg.archive.layer_cache import CachedLayer, LayerCache, tree_fingerprint
from oci_binpkg.archive.tar_writer import TarSummary
from oci_binpkg.disk import disk_refusal, read_regular
from oci_binpkg.errors import ContentError
from oci_binpkg.model.image import Layer

if TYPE_CHECKING:
    from oci_binpkg.archive.extract import Extracted


@dataclass(slots=True)
class Tee:
    """A stream that is kept in the new file `path` while it is read, as long as there is room for it.

    `kept` is the path, "" if the file could not be written: the reader of the stream does not need it.
    """

    stream: BinaryIO
    path: str
    _file: BinaryIO | None = None
    _failed: bool = False

    @property
    def kept(self) -> str:
        """Where the stream is kept, "" if it is not."""
        return "" if self._failed else self.path

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes, or all."""
        data = self.stream.read(size)
        if not self._failed:
            with self._giving_up():
                if self._file is None:
                    self._file = open(self.path, "xb")  # noqa: SIM115 - closed by close()
                self._file.write(data)
        return data

    def close(self) -> None:
        """Close the file; the stream is its owner's."""
        if self._file is not None:
            with self._giving_up():
                self._file.close()

    @contextmanager
    def _giving_up(self) -> Iterator[None]:
        """Remove the file if it cannot be written: the room is for the package itself."""
        try:
            yield
        except OSError:
            self._failed = True
            with suppress(OSError):
                os.unlink(self.path)
            if self._file is not None:
                with suppress(OSError):
                    self._file.close()
                self._file = None


def received(
    cache: LayerCache, package_hash: str, prefix: str, compression: str, fingerprint: str
) -> tuple[CachedLayer, Distribution] | None:
    """Return the layer that the files at `prefix` came from, and where it was made for.

    None if they have changed since; `fingerprint` is theirs.
    """
    found = cache.get(_key(package_hash, prefix, compression), fingerprint)
    if found is None:
        return None
    path = os.path.join(prefix, MEMBER)
    try:
        return found, Distribution.parse(read_regular(path, MAX_BYTES), path)
    except (OSError, ContentError):
        cache.release(found)
        return None


def keep(cache: LayerCache, layer: Layer, path: str, extracted: Extracted, *, package_hash: str, prefix: str) -> None:
    """Take a received layer, in the file `path`, into the layer cache, for the files that are at `prefix` now."""
    descriptor = layer.blob.descriptor
    lists = extracted.distribution
    relocations = Relocations(lists.relocate_binaries, lists.relocate_links, lists.relocate_textfiles)
    summary = TarSummary(extracted.members, len(extracted.files), extracted.bytes, (), relocations)

    def produce(new: str) -> LayerFile:
        try:
            shutil.move(path, new)
        except OSError as error:
            raise disk_refusal(
                f"layer cache: {new}",
                error,
                hint="free some space, or choose another place for the layer cache",
            ) from error
        size, digest = descriptor.size, descriptor.digest
        return LayerFile(new, digest, size, extracted.diff_id, extracted.uncompressed_size, summary)

    compression = "zstd" if descriptor.media_type.endswith("zstd") else "gzip"
    kept, _ = cache.build(_key(package_hash, prefix, compression), tree_fingerprint(prefix), produce)
    cache.release(kept)


def _key(package_hash: str, prefix: str, compression: str) -> str:
    """Return the key in the layer cache of a package's layer as it was received, whatever compressed it."""
    return hashlib.sha256(os.fsencode(f"received\0{package_hash}\0{prefix}\0{compression}")).hexdigest()
