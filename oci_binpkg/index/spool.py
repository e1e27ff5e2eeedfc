"""Bytes that are too many for memory: in a temporary file without a name, which goes with its process."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from oci_binpkg.disk import disk_refusal
from oci_binpkg.model.content import Blob, Descriptor, Digest

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

IN_MEMORY: Final = 4 * 1024 * 1024
"""Bytes up to which no file is made."""
_CHUNK: Final = 256 * 1024
_HINT: Final = "the index of a large cache is kept there for a moment: make room, or set TMPDIR to another folder"


class Spool:
    """Bytes that are written once, and read at any place and by any thread afterwards."""

    def __init__(self, *, in_memory: int = IN_MEMORY) -> None:
        self._in_memory = in_memory
        self._held = bytearray()
        self._file: BinaryIO | None = None
        self.size = 0

    @classmethod
    def of(cls, data: bytes) -> Spool:
        """Return a spool with these bytes."""
        return cls.filled([data])

    @classmethod
    def filled(cls, pieces: Iterable[bytes]) -> Spool:
        """Return a spool with the bytes of all pieces. Raises `LocalDiskError`."""
        spool = cls()
        for piece in pieces:
            spool.write(piece)
        return spool

    @property
    def digest(self) -> Digest:
        """The digest of all that was written, which is read for it."""
        found = hashlib.sha256()
        with self._open() as stream:
            while chunk := stream.read(_CHUNK):
                found.update(chunk)
        return Digest("sha256", found.hexdigest())

    def write(self, data: bytes) -> None:
        """Append bytes. Raises `LocalDiskError`."""
        self.size += len(data)
        if self._file is None and self.size > self._in_memory:
            self._file = self._to_file()
        if self._file is None:
            self._held += data
        else:
            with _mapped():
                _write_all(self._file, data)

    def read(self, start: int, size: int) -> bytes:
        """Return the bytes from `start` on, fewer at the end. Raises `LocalDiskError`."""
        if self._file is None:
            return bytes(self._held[start : start + size])
        with _mapped():
            return os.pread(self._file.fileno(), size, start)

    def blob(self, media_type: str) -> Blob:
        """Return all that was written as a blob."""
        return Blob(Descriptor(media_type, self.digest, self.size), self._open)

    @contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        with io.BufferedReader(_SpoolReader(self), _CHUNK) as stream:
            yield cast("BinaryIO", stream)

    def _to_file(self) -> BinaryIO:
        with _mapped():
            # as old as the spool, whose end closes it
            file = cast("BinaryIO", tempfile.TemporaryFile(buffering=0))  # noqa: SIM115
            weakref.finalize(self, file.close)
            _write_all(file, self._held)
        self._held = bytearray()
        return file


class _SpoolReader(io.RawIOBase):
    """A spool from its start."""

    def __init__(self, spool: Spool) -> None:
        super().__init__()
        self._spool = spool
        self._position = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        target = memoryview(buffer).cast("B")
        data = self._spool.read(self._position, len(target))
        target[: len(data)] = data
        self._position += len(data)
        return len(data)


def _write_all(file: BinaryIO, data: bytes | bytearray) -> None:
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


@contextmanager
def _mapped() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = tempfile.tempdir or "temporary files"
        raise disk_refusal(where, error, hint=_HINT) from error
