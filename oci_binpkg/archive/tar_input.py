"""The tar in a compressed layer, piece by piece: counted, hashed, and never more of it than is allowed.

A few bytes can be made to decompress to any number, so that everything that grows with the content is checked while it
grows: what is refused has cost at most the limit.

Receiving, decompressing, hashing and writing run side by side and hand chunks on. All of them give up the interpreter's
lock while they work, so a large layer keeps several cores busy. Most layers are small, and several are dealt with at
the same time anyway: no thread is started before some MiB have passed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from types import TracebackType
from typing import Final, NoReturn, Self

from oci_binpkg.archive.block_search import BlockSearch
from oci_binpkg.archive.codec import Readable, decompressed
from oci_binpkg.errors import ContentError
from oci_binpkg.model.content import Digest

WORTH_A_THREAD: Final = 4 * 1024 * 1024
_CHUNKS_AHEAD: Final = 6


class Ahead:
    """Takes chunks on a thread of its own, a few ahead of who asks for them. One thread asks.

    `take` returns the next chunk, b"" at the end.
    """

    def __init__(self, take: Callable[[], bytes]) -> None:
        self._take = take
        self._taken = 0
        self._pool: ThreadPoolExecutor | None = None
        self._running: Future[None] | None = None
        self._ready: SimpleQueue[bytes | None] = SimpleQueue()
        self._room: SimpleQueue[bool] = SimpleQueue()
        self._stopped = False

    def next(self) -> bytes:
        """Return the next chunk, b"" at the end. Raises what taking it raises."""
        if self._running is None:
            if self._taken < WORTH_A_THREAD:
                chunk = self._take()
                self._taken += len(chunk)
                return chunk
            self._running = self._begin()
        if self._stopped:
            return b""
        found = self._ready.get()
        if found is None:
            self._stopped = True
            self._running.result()
            return b""
        self._room.put(True)
        return found

    def close(self) -> None:
        """Stop; what is being taken is waited for."""
        self._stopped = True
        self._room.put(False)
        if self._pool is not None:
            self._pool.shutdown()

    def _begin(self) -> Future[None]:
        self._pool = ThreadPoolExecutor(1, "read-ahead")
        for _ in range(_CHUNKS_AHEAD):
            self._room.put(True)
        return self._pool.submit(self._run)

    def _run(self) -> None:
        try:
            while self._room.get() and not self._stopped and (chunk := self._take()):
                self._ready.put(chunk)
        finally:
            self._ready.put(None)


class HashBeside:
    """A hash that runs beside who feeds it, a few chunks behind; so does `also`, with the same chunks."""

    def __init__(self, algorithm: str, also: Callable[[bytes], None] | None = None) -> None:
        self._algorithm = algorithm
        self._hash = hashlib.new(algorithm)
        self._also = also
        self._pool: ThreadPoolExecutor | None = None
        self._running: Future[None] | None = None
        self._coming: SimpleQueue[bytes | None] = SimpleQueue()
        self._room: SimpleQueue[None] = SimpleQueue()
        self._taken = 0

    def update(self, data: bytes) -> None:
        """Take the next chunk."""
        if self._running is None:
            if self._taken < WORTH_A_THREAD:
                self._taken += len(data)
                self._take(data)
                return
            self._pool = ThreadPoolExecutor(1, "digest")
            for _ in range(_CHUNKS_AHEAD):
                self._room.put(None)
            self._running = self._pool.submit(self._run)
        self._room.get()
        self._coming.put(data)

    @property
    def digest(self) -> Digest:
        """The digest of all that was taken; nothing more is taken then."""
        self.close()
        return Digest(self._algorithm, self._hash.hexdigest())

    def close(self) -> None:
        """Stop, with all that was taken."""
        if self._pool is not None and self._running is not None:
            self._coming.put(None)
            self._pool.shutdown()
            self._running.result()

    def _run(self) -> None:
        while (data := self._coming.get()) is not None:
            self._take(data)
            self._room.put(None)

    def _take(self, data: bytes) -> None:
        self._hash.update(data)
        if self._also is not None:
            self._also(data)


_CHUNK: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of a layer is accepted.

    `total_bytes` bounds the tar; above `ratio_from` bytes of it, it may be `ratio` times as large as what it was
    decompressed from. deflate cannot exceed 1032, zstd can: no package comes near. `members` bounds the number of
    members; beyond `members_from` each must have brought `member_bytes` compressed bytes, because a file costs far more
    than its name. `name_bytes` bounds the names together (they are remembered). `depth` counts the components of a
    name, `path_bytes` and `component_bytes` are what Linux accepts, `header_bytes` bounds an extended header.
    """

    total_bytes: int = 64 * 1024**3
    ratio: int = 1000
    ratio_from: int = 100 * 1024**2
    members: int = 1_000_000
    members_from: int = 10_000
    member_bytes: int = 128
    name_bytes: int = 256 * 1024**2
    depth: int = 100
    path_bytes: int = 4096
    component_bytes: int = 255
    header_bytes: int = 1024**2


DEFAULT_LIMITS: Final = Limits()


class BoundedInput:
    """A tar to be read once from its begin to its end, as a context; leaving it stops the thread that hashes.

    Reading raises `ContentError` naming `what` for a damaged stream (see `decompressor`), for one that ends too early,
    and for one that exceeds `limits`. `on_bytes` gets the number of bytes of the tar that have come.
    """

    def __init__(
        self,
        stream: Readable,
        what: str,
        *,
        media_type: str = "",
        limits: Limits = DEFAULT_LIMITS,
        algorithm: str = "sha256",
        on_bytes: Callable[[int], None] | None = None,
    ) -> None:
        self._arriving = Ahead(partial(stream.read, _CHUNK))
        self._compressed = _Counted(self._arriving)
        self._what = what
        self._limits = limits
        chunks = decompressed(self._compressed, what, media_type=media_type)
        self._ahead = Ahead(partial(next, chunks, b""))
        self.search = BlockSearch()
        """Looks through the tar as soon as it knows for what."""
        self._hash = HashBeside(algorithm, self.search.update)
        self._on_bytes = on_bytes
        self._chunk = b""
        self._view = memoryview(b"")
        self._at = 0
        self.size = 0
        """Bytes of the tar that have come."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ahead.close()
        self._arriving.close()
        self._hash.close()

    @property
    def position(self) -> int:
        """How many bytes of the tar were taken."""
        return self.size - len(self._chunk) + self._at

    @property
    def arrived(self) -> int:
        """How many compressed bytes have come; some of them may not be looked at yet."""
        return self._compressed.count

    @property
    def digest(self) -> Digest:
        """The digest of all bytes that have come."""
        return self._hash.digest

    def upcoming(self, size: int) -> bytes:
        """Return the next `size` bytes without taking them, fewer if not all of them have come yet."""
        return self._chunk[self._at : self._at + size]

    def look_for(self, wanted: bytes) -> None:
        """Look for a string in all of the tar; not at all if more of it has gone by than can be looked at now."""
        if self.size == len(self._chunk):
            self.search.begin(wanted, self._chunk)

    def exactly(self, size: int) -> bytes:
        """Take `size` bytes."""
        end = self._at + size
        if end > len(self._chunk):
            return b"".join(self.pieces(size))
        data = self._chunk[self._at : end]
        self._at = end
        return data

    def pieces(self, size: int) -> Iterator[memoryview]:
        """Take `size` bytes in pieces as they come; a piece lives as long as it is held."""
        while size:
            if self._at == len(self._chunk) and not self._fill():
                self.fail("is cut short: its tar ends too early")
            piece = self._view[self._at : self._at + size]
            self._at += len(piece)
            size -= len(piece)
            yield piece

    def skip_to(self, position: int) -> None:
        """Take everything before `position`."""
        left = position - self.position
        if left <= len(self._chunk) - self._at:
            self._at += left
        else:
            for _ in self.pieces(left):
                pass

    def rest(self) -> Iterator[bytes]:
        """Take everything that is left."""
        yield self._chunk[self._at :]
        while self._fill():
            self._at = len(self._chunk)
            yield self._chunk

    def fail(self, finding: str) -> NoReturn:
        """Raise `ContentError` about the layer."""
        raise ContentError(f"{self._what}: the layer {finding}")

    def _fill(self) -> int:
        self._chunk = self._ahead.next()
        self._view = memoryview(self._chunk)
        self._at = 0
        if count := len(self._chunk):
            self.size += count
            self._check()
            self._hash.update(self._chunk)
            if self._on_bytes:
                self._on_bytes(count)
        return count

    def _check(self) -> None:
        limits = self._limits
        if self.size > limits.total_bytes:
            self.fail(f"has more than {limits.total_bytes} bytes uncompressed")
        if self.size > limits.ratio_from and self.size > limits.ratio * self._compressed.count:
            self.fail(f"grows more than {limits.ratio}-fold when it is decompressed")


class _Counted:
    """The compressed bytes as they arrive, counted."""

    def __init__(self, arriving: Ahead) -> None:
        self._arriving = arriving
        self.count = 0

    def read(self, _: int, /) -> bytes:
        """Return the next bytes, as many as came at once."""
        data = self._arriving.next()
        self.count += len(data)
        return data
