"""A file in the place of another: readers see the old one or the new one, whole."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Final

from oci_binpkg.transport.leftovers import TEMPORARY

_PUBLIC: Final = 0o666
_PRIVATE: Final = 0o600


@contextmanager
def replacing(
    path: str, *, mode: int | None = None, failing: Callable[[], AbstractContextManager[None]] = nullcontext
) -> Iterator[Callable[[bytes], None]]:
    """Give a function that writes to a new file beside `path`, which takes its place if all goes well.

    Otherwise nothing stays. The file has `mode`, or what the umask allows. What the disk refuses, but nothing that the
    caller raises, is raised within `failing()`.
    """
    directory = os.path.dirname(path)
    temporary = os.path.join(directory, f"{TEMPORARY}{uuid.uuid4().hex}")
    with failing():
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        # not tempfile: its files are private
        descriptor = os.open(temporary, flags, _PUBLIC if mode is None else _PRIVATE)

    def write(data: bytes) -> None:
        view = memoryview(data)
        with failing():
            while view:
                view = view[os.write(descriptor, view) :]

    try:
        try:
            yield write
            with failing():
                if mode is not None:
                    os.fchmod(descriptor, mode)
                os.fsync(descriptor)
        except BaseException:
            with suppress(OSError):
                os.close(descriptor)
            raise
        with failing():
            os.close(descriptor)
            os.replace(temporary, path)
            _sync_directory(directory)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
