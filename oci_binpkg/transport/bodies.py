"""The bodies of requests: read a chunk at a time, while they are sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from oci_binpkg.errors import ContentError, LocalDiskError
from oci_binpkg.model.content import Blob, Growing

CHUNK: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class _UploadBody:
    """The body of an upload: a blob read in chunks, exactly as many bytes as were promised."""

    blob: Blob
    go_on: Callable[[], None]

    def __iter__(self) -> Iterator[bytes]:
        digest, left = self.blob.descriptor.digest, self.blob.descriptor.size
        try:
            with self.blob.open() as stream:
                while left:
                    self.go_on()
                    chunk = stream.read(min(CHUNK, left))
                    if not chunk:
                        raise ContentError(f"{digest}: the source ends {left} bytes before its promised size")
                    left -= len(chunk)
                    yield chunk
                if stream.read(1):
                    raise ContentError(f"{digest}: the source is longer than its promised size")
        except OSError as error:
            raise LocalDiskError(f"{digest} cannot be read while it is sent: {error.strerror or error}") from error


@dataclass(frozen=True, slots=True)
class _GrowingBody:
    """The body of an upload that is still being made: `requests` sends it in chunks, as they come."""

    content: Growing
    go_on: Callable[[], None]

    def __iter__(self) -> Iterator[bytes]:
        try:
            with self.content.open() as stream:
                while chunk := stream.read(CHUNK):
                    self.go_on()
                    yield chunk
        except OSError as error:
            raise LocalDiskError(f"a layer cannot be read while it is sent: {error.strerror or error}") from error


def streamed(
    body: Blob | Growing | bytes | None, go_on: Callable[[], None] = lambda: None
) -> Iterable[bytes] | bytes | None:
    """Return a body as `requests` takes it: bytes as they are, everything else in chunks, read while it is sent.

    `go_on` is called before each chunk and raises when the caller has cancelled.
    """
    if isinstance(body, Growing):
        return _GrowingBody(body, go_on)
    return _UploadBody(body, go_on) if isinstance(body, Blob) else body
