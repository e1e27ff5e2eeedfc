"""Blobs from a registry: resumed where they broke off, given out only as far as they can be trusted.

The last bytes of a blob are handed over when size and digest of the whole are known to be right, so a reader that
reaches the end has read the real thing.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Generator, Iterator
from contextlib import closing
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from oci_binpkg.errors import ContentError, NetworkError, ServerError
from oci_binpkg.model.content import Descriptor
from oci_binpkg.store.registry.api import Remote, content_length
from oci_binpkg.transport.http import Response

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CHUNK: Final = 256 * 1024
_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})", re.ASCII)
_LONGEST_PAUSE: Final = 30.0
_DAMAGED: Final = "the registry's copy is damaged, or something between alters it: push it again"


class Download:
    """One blob on its way. Iterate once for its chunks; `start` opens the connection, so that absence shows early.

    Raises `ContentError` when the content is wrong twice, `NetworkError` when it does not arrive or what was given out
    turns out to have been damaged on the way.
    """

    def __init__(self, remote: Remote, descriptor: Descriptor) -> None:
        self._remote = remote
        self._descriptor = descriptor
        self._operation = f"download {descriptor.digest} from {remote.name}"
        self._first: Response | None = None
        self._ranges = True
        self._given = 0
        self._seen = b""

    def start(self) -> None:
        """Send the first request. Raises `NotFoundError` and the other errors of the client."""
        self._first, _ = self._connect(0)

    def close(self) -> None:
        """Give back a connection that no iteration took over."""
        if self._first is not None:
            self._first.close()
            self._first = None

    def __iter__(self) -> Generator[bytes, None, None]:
        try:
            yield from self._pass()
        except ContentError as error:
            self._remote.warn(f"{error.message}; it is fetched once more")
            self._ranges = False
            yield from self._pass()

    def _pass(self) -> Generator[bytes, None, None]:
        """Fetch the blob from its first byte and give out what is still wanted, the last part only if all is right.

        What was given out cannot be taken back. A second pass that is right but begins otherwise proves that it was
        damaged.
        """
        digest, size, settings = self._descriptor.digest, self._descriptor.size, self._remote.settings
        hasher, position, held, damaged = self._hash(), 0, bytearray(), False
        with closing(self._transfer()) as chunks:
            for chunk in chunks:
                old = max(0, min(len(chunk), self._given - position))
                hasher.update(chunk[:old])
                damaged = damaged or (bool(old) and position + old == self._given and hasher.digest() != self._seen)
                position += len(chunk)
                new = chunk[old:]
                if not damaged and (size <= settings.held_back or position == size):
                    held += new
                    continue
                hasher.update(new)
                if new and not damaged:
                    self._given, self._seen = position, hasher.digest()
                    yield new
        hasher.update(held)
        if hasher.hexdigest() != digest.hex:
            raise ContentError(
                f"{self._operation}: the content does not have this digest",
                hint=_DAMAGED,
                operation=self._operation,
                digest=str(digest),
            )
        if damaged:
            raise NetworkError(
                f"{self._operation}: it was damaged on the way",
                hint="try again",
                operation=self._operation,
                digest=str(digest),
            )
        yield bytes(held)

    def _hash(self) -> hashlib._Hash:
        return hashlib.new(self._descriptor.digest.algorithm)

    def _transfer(self) -> Generator[bytes, None, None]:
        """Yield the blob's bytes from 0 to its size, resuming as long as that makes progress."""
        settings, size = self._remote.settings, self._descriptor.size
        position = failures = 0
        attempt = 1
        while True:
            before, reason = position, "the body ended early"
            response, skip = self._opened(position)
            with response:
                try:
                    for chunk in self._read(response, position - skip):
                        fresh = chunk[skip:]
                        skip -= len(chunk) - len(fresh)
                        if fresh:
                            position += len(fresh)
                            yield fresh
                except NetworkError as error:
                    reason = error.message
            if position == size:
                return
            failures = 0 if position - before >= settings.resume_progress else failures + 1
            if failures >= settings.backoff.resume_failures:
                raise NetworkError(
                    f"{self._operation}: broken off at byte {position} of {size} after {attempt} attempts ({reason})",
                    hint="try again: the network or the registry does not hold the connection",
                    operation=self._operation,
                    digest=str(self._descriptor.digest),
                )
            self._remote.wait(min(_LONGEST_PAUSE, 0.75 * 2 ** max(0, failures - 1)), reason, attempt)
            attempt += 1

    def _opened(self, position: int) -> tuple[Response, int]:
        first, self._first = self._first, None
        return (first, 0) if first is not None else self._connect(position)

    def _connect(self, position: int) -> tuple[Response, int]:
        """Return an answer and how many of its bytes to skip. Each attempt starts at the registry's own address."""
        last = self._descriptor.size - 1
        ranged = self._ranges and position > 0
        response = self._remote.send(
            "GET",
            self._remote.content_url(self._descriptor),
            self._operation,
            # closed, because some servers answer 416 to an open range
            headers={"Range": f"bytes={position}-{last}"} if ranged else {},
            accept=frozenset({416}) if ranged else frozenset(),
        )
        if response.status == HTTPStatus.OK:
            return response, position
        if ranged and response.status == HTTPStatus.PARTIAL_CONTENT and _exact(response, position, last):
            return response, 0
        status = response.status
        response.close()
        if not ranged:
            raise ServerError(
                f"{self._operation}: answered {status}", hint="check the address: this may be another kind of server"
            )
        self._ranges = False
        return self._connect(position)

    def _read(self, response: Response, start: int) -> Iterator[bytes]:
        """Yield what a response holds from byte `start` of the blob on. Raises `ContentError`, `NetworkError`."""
        left = self._descriptor.size - start
        length = content_length(response.headers)
        if length not in (None, left):
            raise ContentError(f"{self._operation}: {length} bytes are offered, {left} are wanted", hint=_DAMAGED)
        stream = response.stream
        # read1 hands over what has arrived: a read that waits for more would lose it when the connection breaks
        read = stream.read1 if isinstance(stream, io.BufferedReader) else stream.read
        while left:
            chunk = read(min(CHUNK, left))
            if not chunk:
                return
            left -= len(chunk)
            yield chunk
        if length is None and self._has_more(response):
            raise ContentError(f"{self._operation}: more than {self._descriptor.size} bytes are sent", hint=_DAMAGED)

    def _has_more(self, response: Response) -> bool:
        try:
            return bool(response.stream.read(1))
        except NetworkError:
            return False  # everything is here: how the connection ends does not matter


class DownloadStream(io.RawIOBase):
    """A download as a file to read from."""

    def __init__(self, download: Download) -> None:
        super().__init__()
        self._download = download
        self._chunks = download.__iter__()
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill `buffer` with what is at hand; 0 at the end, which is reached only if the content is right."""
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        target = memoryview(buffer).cast("B")
        count = min(len(target), len(self._rest))
        target[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def close(self) -> None:
        """Free the connection."""
        if not self.closed:
            self._chunks.close()
            self._download.close()
        super().close()


def _exact(response: Response, first: int, last: int) -> bool:
    """Whether a partial answer is exactly the part asked for: one Content-Range header, one part in the body."""
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    multipart = response.headers.get("Content-Type", "").lower().startswith("multipart/")
    return not multipart and match is not None and [int(n) for n in match.groups()] == [first, last, last + 1]
