"""Locks that Spack respects, and files that change in one step.

Spack locks byte ranges with `lockf` (POSIX record locks): the whole of `.spack-db/lock` for the database, one byte of
`.spack-db/prefix_lock` per prefix. Such locks belong to the process: closing any descriptor of the file drops all of
them, and a second lock in the same process always succeeds. So one `LockFile` serves all threads through one descriptor
and keeps its own account of who holds what.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from oci_binpkg.errors import InstallsError, LocalDiskError

_BASE32: Final = "abcdefghijklmnopqrstuvwxyz234567"
_OFFSET_BITS: Final = 63
_DIGIT_BITS: Final = 5
_HELD_BY_OTHERS: Final = frozenset({errno.EAGAIN, errno.EACCES})
_NOT_WRITABLE: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_FIRST_PAUSE: Final = 0.01
_LONGEST_PAUSE: Final = 0.5


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for a lock, in seconds, and the clock and sleep to do it with."""

    timeout: float = 120.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


class LockFile:
    """Byte-range locks in one file, shared by the threads of this process.

    Ranges are `(start, length)`, length 0 meaning to the end; two ranges in use are either equal or apart.
    """

    def __init__(self, path: str, patience: Patience | None = None) -> None:
        self._path = path
        self._patience = patience or Patience()
        self._mutex = threading.Lock()
        self._held: dict[tuple[int, int], int] = {}  # number of readers, or -1 for a writer
        self._descriptor: int | None = None

    @contextmanager
    def exclusive(self, start: int = 0, length: int = 0) -> Iterator[None]:
        """Hold a range alone. Raises `InstallsError` if it cannot be had in time, or not at all."""
        self._wait((start, length), exclusive=True)
        try:
            yield
        finally:
            self._release((start, length))

    @contextmanager
    def shared(self, start: int = 0, length: int = 0) -> Iterator[bool]:
        """Hold a range together with other readers; yields False where there is no lock file or no locking.

        A tree on read-only media has to be readable, and the files are replaced in one step anyway.
        """
        held = self._wait((start, length), exclusive=False)
        try:
            yield held
        finally:
            if held:
                self._release((start, length))

    def _wait(self, where: tuple[int, int], *, exclusive: bool) -> bool:
        patience = self._patience
        deadline = patience.clock() + patience.timeout
        pause = _FIRST_PAUSE
        while (outcome := self._attempt(where, exclusive=exclusive)) is None:
            remaining = deadline - patience.clock()
            if remaining <= 0:
                raise InstallsError(
                    f"{self._path}: another process has held this lock for {patience.timeout:g} seconds",
                    hint="wait for the other installation to end, or allow a longer time",
                )
            patience.sleep(min(pause, remaining))
            pause = min(2 * pause, _LONGEST_PAUSE)
        return outcome

    def _attempt(self, where: tuple[int, int], *, exclusive: bool) -> bool | None:
        """Return True if the range is ours now, None if others hold it, False if there is nothing to lock (readers)."""
        with self._mutex:
            holders = self._held.get(where, 0)
            if holders < 0 or (exclusive and holders):
                return None
            try:
                return self._lock(where, exclusive=exclusive)
            except OSError as error:
                self._close_if_idle()
                if not exclusive:
                    return False
                raise InstallsError(
                    f"{self._path}: cannot be locked: {error.strerror}",
                    hint="installing needs a tree that can be written, on a file system that has locks",
                ) from error

    def _lock(self, where: tuple[int, int], *, exclusive: bool) -> bool | None:
        if self._descriptor is None:
            self._descriptor = _open(self._path, create=exclusive)
        if not self._held.get(where):
            kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
            try:
                fcntl.lockf(self._descriptor, kind | fcntl.LOCK_NB, where[1], where[0])
            except OSError as error:
                if error.errno not in _HELD_BY_OTHERS:
                    raise
                self._close_if_idle()
                return None
        self._held[where] = -1 if exclusive else self._held.get(where, 0) + 1
        return True

    def _release(self, where: tuple[int, int]) -> None:
        with self._mutex:
            left = max(self._held.pop(where) - 1, 0)
            if left:
                self._held[where] = left
            elif self._descriptor is not None:
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN, where[1], where[0])
            self._close_if_idle()

    def _close_if_idle(self) -> None:
        if not self._held and self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _open(path: str, *, create: bool) -> int:
    """Open for writing if possible, since only then can a later lock be exclusive."""
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o666)
    except OSError as error:
        if create or error.errno not in _NOT_WRITABLE:
            raise
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def prefix_lock_offset(package_hash: str) -> int:
    """Return the byte of the prefix lock file that stands for a package: the first 63 bits of its base32 hash."""
    digits = -(-_OFFSET_BITS // _DIGIT_BITS)
    value = 0
    for character in package_hash[:digits].ljust(digits, "a"):
        value = value << _DIGIT_BITS | max(_BASE32.find(character), 0)
    return value >> (digits * _DIGIT_BITS - _OFFSET_BITS)


def replace_file(path: str, data: bytes) -> None:
    """Replace or create a file in one step, keeping its permissions; the caller has a lock. Raises `LocalDiskError`."""
    staged = f"{path}.{os.getpid()}.temp"
    try:
        with open(staged, "wb") as file:
            with suppress(FileNotFoundError):
                os.fchmod(file.fileno(), os.stat(path).st_mode & 0o7777)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(staged, path)
    except OSError as error:
        with suppress(OSError):
            os.unlink(staged)
        raise LocalDiskError(
            f"{path}: cannot be written: {error.strerror}", hint="check the free space and the permissions there"
        ) from error
