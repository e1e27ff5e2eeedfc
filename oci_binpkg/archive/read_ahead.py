"""Steps of reading a layer that run side by side, handing chunks on: receiving, decompressing, hashing, writing.

All of them give up the interpreter's lock while they work, so a large layer keeps several cores busy. Most layers are
small, and several are dealt with at the same time anyway: no thread is started before some MiB have passed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Final

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
