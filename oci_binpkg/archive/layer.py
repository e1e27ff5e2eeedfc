"""A prefix as a layer: tar, compression and both digests in one pass over the files."""

from __future__ import annotations

import hashlib
import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Condition
from typing import BinaryIO, Final, cast

from oci_binpkg.archive.binary_distribution import Distribution
from oci_binpkg.archive.codec import Codec, Readable, Sink, decompressor
from oci_binpkg.archive.python_caches import PythonCaches
from oci_binpkg.archive.tar_writer import Classifier, TarSummary, write_tar
from oci_binpkg.disk import disk_refusal
from oci_binpkg.errors import ContentError
from oci_binpkg.model.content import Descriptor, Digest, Growing
from oci_binpkg.model.image import Body

FOLLOWED_FROM: Final = 4 * 1024 * 1024
"""A layer that has so many bytes is worth being sent before it is whole; a smaller one is made in a moment."""

Follow = Callable[[Growing], None]
"""Called with a layer that is being made and has become large; must return at once."""


class GrowingFile:
    """What is known of a new file while somebody writes it. Thread-safe.

    The writer says how far it is with `grew`, and at the end `finish` or `fail`. Readers come through `content` and
    wait for what is not there yet. The file may get another name meanwhile.
    """

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)
        self._condition = Condition()
        self._size = 0
        self._whole: Descriptor | None = None
        self._over = False

    @property
    def content(self) -> Growing:
        """The file as content to be sent."""
        return Growing(self._open, self._wait)

    def grew(self, size: int) -> None:
        """Say that the first `size` bytes are written."""
        with self._condition:
            self._size = size
            self._condition.notify_all()

    def finish(self, descriptor: Descriptor) -> None:
        """Say that the file is whole, and what it is."""
        self._end(descriptor)

    def fail(self) -> None:
        """Say that the file will never be whole, unless it is already."""
        self._end(None)

    def read(self, size: int, offset: int) -> bytes:
        """Return up to `size` bytes at `offset` as soon as there are some; b"" at the end. Raises `ContentError`."""
        with self._condition:
            self._condition.wait_for(lambda: self._over or self._size > offset)
            there = self._checked().size - offset if self._over else self._size - offset
        return os.pread(self._descriptor, min(size, there), offset) if there else b""

    def _end(self, descriptor: Descriptor | None) -> None:
        with self._condition:
            if not self._over:
                self._whole, self._over = descriptor, True
            self._condition.notify_all()

    @contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        yield cast("BinaryIO", _Follower(self))

    def _wait(self) -> Descriptor:
        with self._condition:
            self._condition.wait_for(lambda: self._over)
            return self._checked()

    def _checked(self) -> Descriptor:
        if self._whole is None:
            raise ContentError("what was being sent was not made to its end")
        return self._whole


class _Follower:
    """Reads a growing file once. Readers of content need `read` and `close` alone."""

    def __init__(self, file: GrowingFile) -> None:
        self._file = file
        self._offset = 0

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(size, self._offset)
        self._offset += len(data)
        return data

    def close(self) -> None:
        """Do nothing: the file is closed with its last reader."""


_CHUNK: Final = 1024 * 1024
MAX_UNCOMPRESSED: Final = 2**50


@dataclass(frozen=True, slots=True)
class LayerFile:
    """A layer in the file `path`: digest and size of its bytes, and of the tar it holds; `bodies` if it is merged."""

    path: str
    digest: Digest
    size: int
    diff_id: Digest
    uncompressed_size: int
    summary: TarSummary
    bodies: tuple[Body, ...] = ()


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
    follow: Follow | None = None,
    followed_from: int = FOLLOWED_FROM,
    caches: PythonCaches | None = None,
) -> LayerFile:
    """Pack the tree at `prefix` into the new file `path`; see `write_tar` for the other parameters.

    Once the file has `followed_from` bytes, `follow` is called, so that it can be sent while it grows.

    Reading, classifying and the digest of the tar run in this thread, compression in `threads` others. Memory use is a
    few MiB for each thread, whatever the size of files.

    Raises `PackError` for a tree that cannot be packed and `LocalDiskError` when `path` cannot be written. Then the
    file is removed.
    """
    with _new_file(path, follow, followed_from) as file:
        compressed = _Hashed(file.write)
        with codec.compressor(compressed.write, threads=threads) as compressor:
            tar = _Hashed(compressor.write, compressor.frame)
            summary = write_tar(
                prefix,
                tar.write,
                distribution=distribution,
                classifier=classifier,
                archive_prefix=archive_prefix,
                on_bytes=on_bytes,
                caches=caches,
                frame=tar.frame,
            )
        file.finish(Descriptor(codec.media_type("oci"), compressed.digest, compressed.size))
    return LayerFile(path, compressed.digest, compressed.size, tar.digest, tar.size, summary)


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

    def __init__(self, sink: Sink, frame: Sink | None = None) -> None:
        self._sink = sink
        self._frame = frame or sink
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes | bytearray) -> None:
        self._pass(data, self._sink)

    def frame(self, data: bytes | bytearray) -> None:
        self._pass(data, self._frame)

    def _pass(self, data: bytes | bytearray, sink: Sink) -> None:
        sink(data)
        self._hash.update(data)
        self.size += len(data)

    @property
    def digest(self) -> Digest:
        return Digest("sha256", self._hash.hexdigest())


class _NewFile:
    """The file of the layer: its failures are failures of the disk, not of the tree that is packed."""

    def __init__(self, path: str, follow: Follow | None, followed_from: int) -> None:
        self._path = path
        self._follow = follow
        self._followed_from = followed_from
        self._growing: GrowingFile | None = None
        self._size = 0
        with self._writing():
            self._file: BinaryIO = open(path, "xb")  # noqa: SIM115 - closed by `close`

    def write(self, data: bytes | bytearray) -> None:
        with self._writing():
            self._file.write(data)
            self._size += len(data)
            if self._follow is not None and self._size >= self._followed_from:
                self._grew(self._follow)

    def finish(self, descriptor: Descriptor) -> None:
        """Write what is left; it is the last that was to come."""
        with self._writing():
            self._file.close()
        if self._growing is not None:
            self._growing.finish(descriptor)

    def abandon(self) -> None:
        """Close the file and remove it."""
        if self._growing is not None:
            self._growing.fail()
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            os.unlink(self._path)

    def _grew(self, follow: Follow) -> None:
        self._file.flush()
        if self._growing is None:
            self._growing = GrowingFile(self._path)
            follow(self._growing.content)
        self._growing.grew(self._size)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise disk_refusal(
                f"{self._path}: cannot be written",
                error,
                hint="free some space, or choose another place for the layer cache",
            ) from error


@contextmanager
def _new_file(path: str, follow: Follow | None, followed_from: int) -> Iterator[_NewFile]:
    """Create a file; what goes wrong before the end removes it."""
    file = _NewFile(path, follow, followed_from)
    try:
        yield file
    except BaseException:
        file.abandon()
        raise
