"""Locks that Spack respects.

Spack locks byte ranges with `lockf` (POSIX record locks): the whole of `.spack-db/lock` for the database, one byte of
`.spack-db/prefix_lock` per prefix. Such locks belong to the process: closing any descriptor of the file drops all of
them, and a second lock in the same process always succeeds. Where the system has locks of the same kind that belong to
the descriptor, we take these: Spack sees no difference, and two trees opened in one process exclude each other, too.
One `LockFile` serves all threads through one descriptor and keeps its own account of what is held.

Readers take none: the database is replaced in one step, and a reader that sleeps would hold up all writers.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from oci_binpkg.disk import NOT_REGULAR_HINT, NotRegularError
from oci_binpkg.errors import InstallsError
from oci_binpkg.file_lock import Patience, open_lock

_BASE32: Final = "abcdefghijklmnopqrstuvwxyz234567"
_OFFSET_BITS: Final = 63
_DIGIT_BITS: Final = 5
_NEEDED: Final = "installing needs a tree that can be written, on a file system that has locks"
_OWNED_BY_DESCRIPTOR: Final = hasattr(fcntl, "F_OFD_SETLK") and sys.maxsize > 2**32  # the layout of `struct flock`
_HELD_BY_OTHERS: Final = frozenset({errno.EAGAIN, errno.EACCES})


class LockFile:
    """Byte-range locks in one file, shared by the threads of this process. Only changes take one.

    Ranges are `(start, length)`, length 0 meaning to the end; two ranges in use are either equal or apart.
    """

    def __init__(self, path: str, patience: Patience | None = None) -> None:
        self._path = path
        self._patience = patience or Patience()
        self._mutex = threading.Lock()
        self._held: set[tuple[int, int]] = set()
        self._descriptor: int | None = None

    @contextmanager
    def exclusive(self, start: int = 0, length: int = 0) -> Iterator[None]:
        """Hold a range alone. Raises `InstallsError` if others keep it too long, or where there are no locks."""
        where = (start, length)
        if self._patience.until(lambda: self._attempt(where), self._path) is None:
            raise InstallsError(
                f"{self._path}: another process has held this lock for {self._patience.timeout:g} seconds",
                hint="wait until the other installation has ended, or set a longer `lock_timeout`",
            )
        try:
            yield
        finally:
            self._release(where)

    def _attempt(self, where: tuple[int, int]) -> bool | None:
        """Return True if the range is ours now, None if others hold it."""
        with self._mutex:
            if where in self._held:
                return None
            try:
                return self._lock(where)
            except OSError as error:
                self._close_if_idle()
                hint = NOT_REGULAR_HINT if isinstance(error, NotRegularError) else _NEEDED
                raise InstallsError(f"{self._path}: cannot be locked: {error.strerror}", hint=hint) from error

    def _lock(self, where: tuple[int, int]) -> bool | None:
        if self._descriptor is None:
            self._descriptor = open_lock(self._path)
        try:
            _set(self._descriptor, fcntl.F_WRLCK, where)
        except OSError as error:
            if error.errno not in _HELD_BY_OTHERS:
                raise
            self._close_if_idle()
            return None
        self._held.add(where)
        return True

    def _release(self, where: tuple[int, int]) -> None:
        with self._mutex:
            self._held.discard(where)
            if self._descriptor is not None:
                _set(self._descriptor, fcntl.F_UNLCK, where)
            self._close_if_idle()

    def _close_if_idle(self) -> None:
        if not self._held and self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _set(descriptor: int, kind: int, where: tuple[int, int]) -> None:
    """Lock or unlock a range without waiting. Raises `OSError`."""
    if _OWNED_BY_DESCRIPTOR:
        request = struct.pack("hhqqi", kind, os.SEEK_SET, *where, 0)
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, request)
    else:
        flags = fcntl.LOCK_UN if kind == fcntl.F_UNLCK else fcntl.LOCK_EX | fcntl.LOCK_NB
        fcntl.lockf(descriptor, flags, where[1], where[0])


def prefix_lock_offset(package_hash: str) -> int:
    """Return the byte of the prefix lock file that stands for a package: the first 63 bits of its base32 hash."""
    digits = -(-_OFFSET_BITS // _DIGIT_BITS)
    value = 0
    for character in package_hash[:digits].ljust(digits, "a"):
        value = value << _DIGIT_BITS | max(_BASE32.find(character), 0)
    return value >> (digits * _DIGIT_BITS - _OFFSET_BITS)
