"""The golden install tree put where it was built, because its files know their own absolute paths."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO

ARCHIVE = Path(__file__).parents[3] / "fixtures" / "golden" / "store.tar.gz"
RECORDED_ROOT = Path("/opt/golden")
STORE = RECORDED_ROOT / "store"
_OURS = RECORDED_ROOT / ".made-by-oci-binpkg-tests"


class NotWritableError(RuntimeError):
    """The recorded prefix cannot be created here."""


@contextlib.contextmanager
def store_at_recorded_prefix(lock_directory: Path) -> Iterator[Path]:
    """The tree at /opt/golden/store, shared by all test processes and removed by the last of them if a test made it.

    Treat it as read-only. A tree that was there before is used as it is and left alone. Raises NotWritableError where it
    would have to be made and may not be.
    """
    lock_directory.mkdir(parents=True, exist_ok=True)
    with (lock_directory / "golden.lock").open("w") as lock:
        _take_part(lock)
        try:
            yield STORE
        finally:
            _leave(lock)


def _take_part(lock: IO[str]) -> None:
    while True:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _is_whole():
            _unpack()
        # Turning the lock into a shared one may let a process in that removes the tree: look again.
        fcntl.flock(lock, fcntl.LOCK_SH)
        if _is_whole():
            return


def _is_whole() -> bool:
    # The marker is written before and the database is unpacked last, so an interrupted run is seen and repeated.
    return (STORE / ".spack-db" / "index.json").exists()


def _unpack() -> None:
    if not os.access(_first_existing(RECORDED_ROOT), os.W_OK):
        message = f"{STORE} does not exist and {_first_existing(RECORDED_ROOT)} cannot be written"
        raise NotWritableError(message)
    if RECORDED_ROOT.exists() and not _OURS.exists() and any(RECORDED_ROOT.iterdir()):
        message = f"{RECORDED_ROOT} holds something else than a golden store"
        raise NotWritableError(message)
    RECORDED_ROOT.mkdir(parents=True, exist_ok=True)
    _OURS.touch()
    shutil.rmtree(STORE, ignore_errors=True)
    # Not tarfile: its `filter` is missing in the Python 3.11.2 of Debian 12, and without it newer versions complain.
    tar = ["tar", "--extract", "--gzip", "--file", str(ARCHIVE), "--directory=/"]
    database = "opt/golden/store/.spack-db"
    subprocess.run([*tar, f"--exclude={database}"], check=True)
    subprocess.run([*tar, f"{database}/index.json"], check=True)


def _first_existing(path: Path) -> Path:
    return next(parent for parent in (path, *path.parents) if parent.exists())


def _leave(lock: IO[str]) -> None:
    fcntl.flock(lock, fcntl.LOCK_UN)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return  # somebody still reads it and will remove it
    if _OURS.exists():
        shutil.rmtree(RECORDED_ROOT, ignore_errors=True)
