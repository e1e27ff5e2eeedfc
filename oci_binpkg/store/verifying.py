"""Reading content, checked against its descriptor on the way.

Source: OCI image-spec 1.1, descriptor.md ("Verification"): compare the size before hashing, and the digest before use.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Generator
from typing import BinaryIO, Never

from oci_binpkg.disk import disk_refusal
from oci_binpkg.errors import ContentError, DamagedError
from oci_binpkg.model.content import Blob, Descriptor

_CHUNK = 1024 * 1024


class VerifyingReader(io.BufferedIOBase, BinaryIO):
    """A readable stream that gives out its last byte only when size and digest are right.

    `read` returns as many bytes as asked for unless the end is near. It never reads more than one byte beyond the size
    that the descriptor promises. Raises `ContentError` naming the digest and `where` the bytes came from, and
    `LocalDiskError` for an `OSError` of `source`; its other errors pass unchanged. Closing this closes `source`.
    """

    def __init__(self, source: BinaryIO, descriptor: Descriptor, where: str) -> None:
        super().__init__()
        self._source = source
        self._descriptor = descriptor
        self._where = where
        self._hash = hashlib.new(descriptor.digest.algorithm)
        self._left = descriptor.size
        self._failure = ""
        self._verified = False

    @property
    def mode(self) -> str:
        """Always `rb`."""
        return "rb"

    @property
    def name(self) -> str:
        """The digest that is being read."""
        return str(self._descriptor.digest)

    def readable(self) -> bool:
        """Return True."""
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next `size` bytes, all that is left if negative or None, b"" at the verified end."""
        if self._failure:
            raise DamagedError(self._failure, digest=str(self._descriptor.digest))
        wanted = self._left if size is None or size < 0 else min(size, self._left)
        chunks = []
        while wanted:
            chunk = self._take(min(wanted, _CHUNK))
            if not chunk:
                self._fail(f"ends after {self._descriptor.size - self._left} of {self._descriptor.size} bytes")
            chunks.append(chunk)
            self._hash.update(chunk)
            wanted -= len(chunk)
            self._left -= len(chunk)
        if not self._left and not self._verified:
            self._finish()
        return b"".join(chunks)

    def read1(self, size: int = -1, /) -> bytes:
        """Like `read`, one chunk of at most 1 MiB."""
        return self.read(_CHUNK if size < 0 else min(size, _CHUNK))

    def close(self) -> None:
        """Close this and the source. Bytes that were not read stay unverified."""
        if not self.closed:
            self._source.close()
        super().close()

    def _take(self, size: int) -> bytes:
        try:
            return self._source.read(size)
        except OSError as error:
            raise disk_refusal(f"{self._where}: cannot read {self._descriptor.digest}", error) from error

    def _finish(self) -> None:
        if self._take(1):
            self._fail(f"goes on after the {self._descriptor.size} bytes that were promised")
        if self._hash.hexdigest() != self._descriptor.digest.hex:
            self._fail(f"has digest {self._descriptor.digest.algorithm}:{self._hash.hexdigest()}")
        self._verified = True

    def _fail(self, finding: str) -> Never:
        self._failure = f"{self._where}: the content of {self._descriptor.digest} {finding}"
        raise DamagedError(
            self._failure,
            hint="the source is damaged or was changed; get it from elsewhere",
            digest=str(self._descriptor.digest),
        )


def verified_chunks(blob: Blob, where: str) -> Generator[bytes, None, None]:
    """Open a blob and iterate over its bytes in pieces of at most 1 MiB, the last one only when all are right.

    Raises what opening and reading raise (an `OSError` becomes a `LocalDiskError`) and `ContentError`.
    """
    try:
        with blob.open() as stream:
            reader = VerifyingReader(stream, blob.descriptor, where)
            while chunk := reader.read(_CHUNK):
                yield chunk
    except OSError as error:
        name = f" ({error.filename})" if error.filename else ""
        raise disk_refusal(f"cannot open {blob.descriptor.digest}{name}", error) from error


def is_sound(blob: Blob, where: str) -> bool:
    """Read a blob to its end; return whether its bytes are those of its descriptor. Raises what cannot be read."""
    try:
        for _ in verified_chunks(blob, where):
            pass
    except ContentError:
        return False
    return True
