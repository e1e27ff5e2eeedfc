"""Objects in a directory: mirrors under `file://`."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import BinaryIO, Final

from oci_binpkg.disk import (
    NOT_REGULAR_HINT,
    FileTooLargeError,
    NotRegularError,
    disk_refusal,
    make_folder,
    open_file,
    read_descriptor,
    remove_leftovers,
    replacing,
)
from oci_binpkg.errors import ContentError, NotFoundError
from oci_binpkg.file_lock import Patience, locked
from oci_binpkg.model.content import Blob
from oci_binpkg.objects.protocol import MAX_DOCUMENT_BYTES, Object, checked_path, chunks
from oci_binpkg.times import SYSTEM_TIME, Time

_HIDDEN: Final = "."
_LOCK_SUFFIX: Final = ".lock"
_HINTS: Final = {
    errno.ENOSPC: "free some space, or name a mirror on another disk",
    errno.EDQUOT: "your quota is used up: remove something, or name a mirror on another disk",
    errno.EACCES: "check the permissions of the mirror",
    errno.EROFS: "the file system is read-only: name another directory",
    errno.ENOTDIR: "a file stands where a folder of the mirror belongs: remove it, or name another directory",
    errno.EEXIST: "a file stands where a folder of the mirror belongs: remove it, or name another directory",
    errno.ENOLCK: "the file system does not lock files: name a mirror on another one",
}


class FileObjects:
    """Files below `root`, which need not exist: the first write creates it.

    A file is written under a hidden name, synced and renamed. A conditional write holds a `flock` of a hidden file
    beside the object, so that of several writers on one machine (or one file system with locks) none is lost. The
    version of a file is the digest of its bytes. Hidden files are not objects. The first write into a folder also
    removes what writers that were killed have left there. A conditional write waits
    for others with `patience`. `go_on` is called before a file is opened, and raises when the caller has cancelled.
    """

    def __init__(
        self,
        root: str,
        *,
        time: Time = SYSTEM_TIME,
        patience: Patience | None = None,
        go_on: Callable[[], None] = lambda: None,
    ) -> None:
        self._root = os.path.abspath(root)
        self._go_on = go_on
        self._time = time
        self._patience = patience
        self._swept: set[str] = set()
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """`file://` and the path."""
        return f"file://{self._root}"

    def read(self, path: str, *, known_etag: str = "", limit: int = MAX_DOCUMENT_BYTES) -> Object | None:
        """Read a file; None if its version is `known_etag`. Raises `NotFoundError`, or `ContentError` above `limit`."""
        full = self._path(path)
        with self.open(path) as stream, _mapped("read", full):
            try:
                data = read_descriptor(stream.fileno(), limit, full)
            except FileTooLargeError:
                raise ContentError(f"{full} is larger than {limit} bytes") from None
        etag = hashlib.sha256(data).hexdigest()
        return None if etag == known_etag else Object(data, etag)

    @contextmanager
    def open(self, path: str) -> Iterator[BinaryIO]:
        """Open a file. Raises `NotFoundError`, `LocalDiskError`."""
        self._go_on()
        full = self._path(path)
        with _mapped("open", full), self._present(path):
            try:
                stream = open_file(full)
            except NotRegularError:
                raise ContentError(f"{full} is not a file", hint="remove it and write the object again") from None
        with stream:
            yield stream

    def size(self, path: str) -> int:
        """Return a file's size in bytes. Raises `NotFoundError`."""
        full = self._path(path)
        with _mapped("look at", full), self._present(path):
            found = os.stat(full)
        if not stat.S_ISREG(found.st_mode):
            raise NotFoundError(f"{full} is not a file")
        return found.st_size

    def write(self, path: str, content: Blob | bytes, *, if_match: str | None = None) -> bool:
        """Write a file, whole or not at all. Returns False if it is not the version `if_match`."""
        full = self._path(path)
        directory = os.path.dirname(full)
        with _mapped("create", directory):
            make_folder(directory)
        self._sweep(directory)
        if if_match is None:
            _replace(full, content)
            return True
        with self._locked(full):
            if self._version(path) != if_match:
                return False
            _replace(full, content)
        return True

    def list(self, prefix: str) -> Iterator[str]:
        """Iterate over the files below a directory, sorted."""
        start = self._path(prefix.rstrip("/")) if prefix.strip("/") else self._root
        found = []
        for directory, folders, files in os.walk(start, onerror=_refuse):
            folders[:] = [folder for folder in folders if not folder.startswith(_HIDDEN)]
            base = os.path.relpath(directory, self._root)
            found += [os.path.normpath(os.path.join(base, file)) for file in files if not file.startswith(_HIDDEN)]
        return iter(sorted(found))

    def remove(self, path: str) -> None:
        """Remove a file. Raises `NotFoundError`."""
        full = self._path(path)
        with _mapped("remove", full), self._present(path):
            os.unlink(full)

    def _sweep(self, directory: str) -> None:
        if directory not in self._swept:
            self._swept.add(directory)
            remove_leftovers(directory, self._time.now())

    def _path(self, path: str) -> str:
        return os.path.join(self._root, checked_path(path))

    def _version(self, path: str) -> str:
        try:
            found = self.read(path)
        except NotFoundError:
            return ""
        return found.etag if found else ""

    @contextmanager
    def _present(self, path: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, NotADirectoryError):
            raise NotFoundError(f"{self.name} does not hold {path}") from None

    @contextmanager
    def _locked(self, full: str) -> Iterator[None]:
        directory, name = os.path.split(full)
        lock = os.path.join(directory, f"{_HIDDEN}{name}{_LOCK_SUFFIX}")
        with self._lock, ExitStack() as held:
            with _mapped("lock", lock):
                held.enter_context(locked(lock, self._patience))
            yield


def _replace(full: str, content: Blob | bytes) -> None:
    with replacing(full, failing=partial(_mapped, "write", full)) as write:
        for chunk in chunks(content):
            write(chunk)


def _refuse(error: OSError) -> None:
    """Raise for a directory that cannot be listed; one that is absent, or gone meanwhile, holds nothing."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        with _mapped("list", str(error.filename)):
            raise error


@contextmanager
def _mapped(action: str, path: str) -> Iterator[None]:
    try:
        yield
    except NotRegularError as error:
        raise disk_refusal(f"cannot {action} {path}", error, hint=NOT_REGULAR_HINT) from error
    except OSError as error:
        raise disk_refusal(f"cannot {action} {path}", error, hint=_HINTS.get(error.errno or 0, "")) from error
