"""A package on its way into an install tree: unpacked beside its final prefix, made right there, then renamed.

Nothing is visible under the final name before it is whole. What a killed process leaves behind is a hidden directory
whose lock nobody holds; the next install removes it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from oci_binpkg.errors import BinpkgError, LocalDiskError
from oci_binpkg.installs.locking import prefix_lock_offset
from oci_binpkg.installs.spack import Addition, SpackInstalls
from oci_binpkg.model.spec import Spec

_STAGING: Final = ".oci-binpkg-"
_RENAME_EXCHANGE: Final = 2
_NO_EXCHANGE: Final = frozenset({errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP})


@dataclass(frozen=True, slots=True)
class Place:
    """Where one package goes: its final prefix, and a directory beside it that is ours alone (while `lock` is open)."""

    spec: Spec
    final: str
    holder: str
    lock: int

    @property
    def staged(self) -> str:
        """Where the package is made; it becomes the prefix."""
        return os.path.join(self.holder, "prefix")

    def discard(self) -> None:
        """Remove what is left: all that was staged, or the prefix that was replaced. Once."""
        shutil.rmtree(self.holder, ignore_errors=True)
        os.close(self.lock)


def stage(spec: Spec, final: str, *, swept: set[str] | None = None) -> Place:
    """Return a new place for a package whose prefix is to be `final`; to be discarded. Raises `LocalDiskError`.

    What killed processes left beside it is removed, unless its parent is in `swept`, to which it is added.
    """
    parent = os.path.dirname(final)
    with _disk(parent):
        os.makedirs(parent, exist_ok=True)
        if swept is None or parent not in swept:
            sweep(parent)
        if swept is not None:
            swept.add(parent)
        while True:
            holder = tempfile.mkdtemp(prefix=f"{_STAGING}{spec.hash[:7]}-", dir=parent)
            with suppress(FileNotFoundError):
                lock = os.open(holder, os.O_RDONLY | os.O_DIRECTORY)
                fcntl.flock(lock, fcntl.LOCK_EX)
                if os.path.isdir(holder):
                    return Place(spec, final, holder, lock)
                os.close(lock)
            # another install took it for a leaving before it was locked


@dataclass(frozen=True, slots=True)
class Staged:
    """A package that is ready to be put in place: what to record of it, and whether it may replace another."""

    place: Place
    addition: Addition
    replace: bool


def commit(staged: Sequence[Staged], installs: SpackInstalls) -> tuple[list[bool], BinpkgError | None]:
    """Put packages in place, dependencies first, and record them in one change of the database.

    Returns, for as many as were dealt with, whether each was put there (False: another process did so in the meantime),
    and what stopped the one after them. The record is written after the prefixes are there. What stood at a prefix
    without a record is replaced, and with `replace` what stood there with one; it goes when the place is discarded.
    Raises `InstallsError` and `LocalDiskError` when the record cannot be written.
    """
    outcomes: list[bool] = []
    stopped: BinpkgError | None = None
    with ExitStack() as locks:
        # one order for everybody: two installs that wait for each other would wait for ever
        for each in sorted(staged, key=lambda one: prefix_lock_offset(one.place.spec.hash)):
            locks.enter_context(installs.locked(each.place.spec))
        for each in staged:
            try:
                outcomes.append(_put(each, installs))
            except BinpkgError as error:
                stopped = error
                break
        added = [each.addition for each, was_put in zip(staged, outcomes, strict=False) if was_put]
        if added:
            installs.add_all(added)
    return outcomes, stopped


def take_away(prefix: str, forget: Callable[[], None]) -> None:
    """Remove a prefix: hidden first, then forgotten by `forget`, then deleted. Raises `LocalDiskError`."""
    hidden = os.path.join(os.path.dirname(prefix), f"{_STAGING}gone-{os.path.basename(prefix)}")
    with _disk(prefix):
        shutil.rmtree(hidden, ignore_errors=True)
        with suppress(FileNotFoundError):
            os.rename(prefix, hidden)
    try:
        forget()
    except BaseException:
        with suppress(OSError):
            os.rename(hidden, prefix)
        raise
    shutil.rmtree(hidden, ignore_errors=True)


def _put(staged: Staged, installs: SpackInstalls) -> bool:
    place = staged.place
    with _disk(place.final):
        if not os.path.lexists(place.final):
            os.rename(place.staged, place.final)
            return True
        installs.reload()
        record = installs.record(place.spec.hash)
        if record is not None and record.installed and record.is_present and not staged.replace:
            return False
        if not _exchange(place.staged, place.final):
            os.rename(place.final, os.path.join(place.holder, "old"))
            os.rename(place.staged, place.final)
    return True


def _exchange(first: str, second: str) -> bool:
    """Swap two names in one step, so that there is no moment without either; False where the system cannot."""
    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    here = -100  # AT_FDCWD
    if function(here, os.fsencode(first), here, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NO_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), second)


def sweep(parent: str) -> None:
    """Remove what killed processes left in a directory: directories of ours whose lock is free."""
    for name in os.listdir(parent):
        if name.startswith(_STAGING):
            path = os.path.join(parent, name)
            with suppress(OSError):
                descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path, ignore_errors=True)
                finally:
                    os.close(descriptor)


@contextmanager
def _disk(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LocalDiskError(
            f"{error.filename or path}: {error.strerror or error}", hint="check space and permissions there"
        ) from error
