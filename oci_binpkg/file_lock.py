"""Lock files: one process holds a lock; the others report what they wait for, and give up in the end."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

from oci_binpkg.disk import NotRegularError, kept_if_regular
from oci_binpkg.errors import LocalDiskError
from oci_binpkg.times import SYSTEM_TIME, Time

_T = TypeVar("_T")

LOCK_TIMEOUT: Final = 120.0
"""How many seconds a lock is waited for unless the settings say otherwise."""

NOTICE_SECONDS: Final = 5.0
"""The seconds of waiting for a lock after which the user hears of it."""

_PUBLIC: Final = 0o666
_FIRST_PAUSE: Final = 0.01
_LONGEST_PAUSE: Final = 0.5


def _ignore(_: str) -> None:
    """Report nothing."""


class LockTimeoutError(LocalDiskError):
    """Another process has kept a lock for too long."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for a lock, in seconds.

    `tell` is called once with the path of a lock that is waited for longer than `NOTICE_SECONDS`.
    """

    timeout: float = LOCK_TIMEOUT
    tell: Callable[[str], None] = _ignore
    time: Time = SYSTEM_TIME

    def until(self, attempt: Callable[[], _T | None], path: str) -> _T | None:
        """Return what `attempt` returns once that is not None; None when the time is over."""
        begun = self.time.clock()
        pause = _FIRST_PAUSE
        told = False
        while (outcome := attempt()) is None:
            waited = self.time.clock() - begun
            if waited >= self.timeout:
                return None
            if waited >= NOTICE_SECONDS and not told:
                told = True
                self.tell(path)
            self.time.sleep(min(pause, self.timeout - waited))
            pause = min(2 * pause, _LONGEST_PAUSE)
        return outcome


@contextmanager
def locked(path: str, patience: Patience | None = None, *, mode: int = _PUBLIC) -> Iterator[None]:
    """Hold a lock file alone, which is created if it is absent; threads exclude one another too.

    Raises `LockTimeoutError` where another process keeps it beyond the patience, `NotRegularError`, `OSError`.
    """
    patience = patience or Patience()
    descriptor = open_lock(path, mode=mode)
    try:
        # flock, not lockf: it belongs to the descriptor, so it also holds between two of one process
        if patience.until(lambda: _flocked(descriptor), path) is None:
            raise LockTimeoutError(
                f"{path}: another process has held this lock for {patience.timeout:g} seconds",
                hint="wait until it has ended, or set a longer `lock_timeout`",
                path=path,
            )
        yield
    finally:
        os.close(descriptor)


def open_lock(path: str, *, mode: int = _PUBLIC) -> int:
    """Open a lock file, never through a link; create it if it is absent. Raises `NotRegularError`, `OSError`."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    try:
        descriptor = os.open(path, flags, mode)
    except OSError as error:
        found = {errno.ENXIO: stat.S_IFSOCK, errno.ELOOP: stat.S_IFLNK, errno.EISDIR: stat.S_IFDIR}
        if error.errno in found:
            raise NotRegularError(found[error.errno], path) from None
        raise
    return kept_if_regular(descriptor, path)


def lock_folder(descriptor: int, *, shared: bool = False, wait: bool = True) -> None:
    """Lock an open folder until its descriptor is closed. Raises `OSError`, without `wait` also for a held lock."""
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    fcntl.flock(descriptor, kind if wait else kind | fcntl.LOCK_NB)


def _flocked(descriptor: int) -> bool | None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno != errno.EAGAIN:
            raise
        return None
    return True
