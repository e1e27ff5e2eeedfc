"""A prefix as a layer: tar, compression and both digests in one pass over the files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import BinaryIO, Final

from oci_binpkg.archive.codec import Codec, Readable, Sink, decompressor
from oci_binpkg.archive.distribution import Distribution
from oci_binpkg.archive.tarball import Classifier, TarSummary, write_tar
from oci_binpkg.errors import ContentError, LocalDiskError
from oci_binpkg.model.content import Digest

_CHUNK: Final = 1024 * 1024
MAX_UNCOMPRESSED: Final = 2**50


@dataclass(frozen=True, slots=True)
class PackedLayer:
    """A layer in the file `path`: digest and size of its bytes, and of the tar it holds."""

    path: str
    digest: Digest
    size: int
    diff_id: Digest
    uncompressed_size: int
    summary: TarSummary


def pack_layer(
    prefix: str,
    path: str,
    codec: Codec,
    *,
    distribution: Distribution,
    classifier: Classifier,
    threads: int = 1,
    archive_prefix: str = "",
    on_bytes: Callable[[int], None] | None = None,
) -> PackedLayer:
    """Pack the tree at `prefix` into the new file `path`; see `write_tar` for the other parameters.

    Reading, classifying and the digest of the tar run in this thread, compression in `threads` others. Memory use is a
    few MiB for each thread, whatever the size of files.

    Raises `PackError` for a tree that cannot be packed and `LocalDiskError` when `path` cannot be written. Then the
    file is removed.
    """
    with _new_file(path) as file:
        compressed = _Hashed(file.write)
        with codec.compressor(compressed.write, threads=threads) as compressor:
            tar = _Hashed(compressor.write)
            summary = write_tar(
                prefix,
                tar.write,
                distribution=distribution,
                classifier=classifier,
                archive_prefix=archive_prefix,
                on_bytes=on_bytes,
            )
    return PackedLayer(path, compressed.digest, compressed.size, tar.digest, tar.size, summary)


def diff_id_of(stream: Readable, what: str, *, media_type: str = "", limit: int = MAX_UNCOMPRESSED) -> Digest:
    """Return the digest of what `stream` holds uncompressed.

    Raises `ContentError` naming `what` for a damaged stream (see `decompressor`), or for more than `limit` bytes.
    """
    digest = hashlib.sha256()
    size = 0
    reader = decompressor(stream, what, media_type=media_type, several_frames=True)
    while chunk := reader.read(_CHUNK):
        digest.update(chunk)
        size += len(chunk)
        if size > limit:
            raise ContentError(f"{what}: the layer has more than {limit} bytes uncompressed")
    return Digest("sha256", digest.hexdigest())


class _Hashed:
    """Passes bytes on and knows the digest and the size of them all."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> None:
        self._sink(data)
        self._hash.update(data)
        self.size += len(data)

    @property
    def digest(self) -> Digest:
        return Digest("sha256", self._hash.hexdigest())


class _NewFile:
    """A file of ours whose failures are failures of the disk, not of the tree that is packed."""

    def __init__(self, path: str) -> None:
        self._path = path
        with self._writing():
            self._file: BinaryIO = open(path, "xb")  # noqa: SIM115 - closed by `close`

    def write(self, data: bytes) -> None:
        with self._writing():
            self._file.write(data)

    def close(self) -> None:
        with self._writing():
            self._file.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise LocalDiskError(
                f"{self._path}: cannot be written: {error.strerror or error}",
                hint="free some space, or choose another place for the layer cache",
            ) from error


@contextmanager
def _new_file(path: str) -> Iterator[_NewFile]:
    """Create a file; what goes wrong before the end removes it."""
    file = _NewFile(path)
    try:
        yield file
        file.close()
    except BaseException:
        with suppress(LocalDiskError):
            file.close()
        with suppress(OSError):
            os.unlink(path)
        raise
