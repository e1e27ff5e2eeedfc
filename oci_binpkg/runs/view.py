"""Files as a program sees them: a folder of this machine, or several laid over each other as if they were `/`.

The checks see nothing but this, so that an image's layers can stand in for a disk.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, Protocol

from oci_binpkg.disk import disk_errors, open_regular

ReadAt = Callable[[int, int], bytes]
"""Reads from an offset so many bytes, fewer at the end of the file."""

_MOST_LINKS: Final = 40  # as Linux: path_resolution(7)


@dataclass(frozen=True, slots=True)
class FileStatus:
    """What is at a path. `mtime` is in whole seconds since 1970; files with one `identity` are the same file."""

    mode: int
    size: int
    mtime: int
    identity: tuple[int, int]

    @property
    def is_regular(self) -> bool:
        """Whether it is a regular file."""
        return stat.S_ISREG(self.mode)

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_link(self) -> bool:
        """Whether it is a symbolic link; only entries of a directory can be."""
        return stat.S_ISLNK(self.mode)

    @property
    def is_executable(self) -> bool:
        """Whether it is a regular file that somebody may execute."""
        return self.is_regular and bool(self.mode & 0o111)


class FileView(Protocol):
    """A file system. All paths are absolute, in the view's own terms."""

    def status(self, path: str) -> FileStatus | None:
        """Return what is at a path, through links; None if nothing is there or a link leads nowhere."""

    def resolve(self, path: str) -> str:
        """Return the path without links; where links run in circles, any path at which nothing is."""

    def target(self, path: str) -> str:
        """Return the text of a symbolic link. Raises `LocalDiskError`."""

    def entries(self, path: str) -> Iterator[tuple[str, FileStatus]]:
        """Yield the names in a directory with what they are, links not followed. Raises `LocalDiskError`."""

    def opened(self, path: str) -> AbstractContextManager[ReadAt]:
        """Open a regular file for reading, through links. Raises `LocalDiskError`."""


class FolderView:
    """Folders of this machine, the uppermost first: what a path means is decided by the first that has it.

    Without folders the view is this machine's own `/`. In others, absolute links lead to places in the view.
    """

    def __init__(self, *roots: str) -> None:
        self._roots = tuple(os.path.abspath(root) for root in roots)
        self._known: dict[str, str] = {}

    def status(self, path: str) -> FileStatus | None:
        """Return what is at a path, through links."""
        try:
            return _status(os.stat(self.place(path)))
        except (OSError, ValueError):
            return None

    def resolve(self, path: str) -> str:
        """Return the path without links."""
        if not self._roots:
            return os.path.realpath(path)
        return self._resolve(path, _MOST_LINKS) or path

    def target(self, path: str) -> str:
        """Return the text of a symbolic link."""
        with disk_errors(path, "read"):
            return os.readlink(self._entry(path))

    def entries(self, path: str) -> Iterator[tuple[str, FileStatus]]:
        """Yield the names in a directory, of all folders that have it."""
        places = [path]
        if self._roots:
            real = self.resolve(path)
            # where no folder has it, the error is that of the lowest
            places = [root + real for root in self._roots if os.path.isdir(root + real)] or [self._roots[-1] + real]
        seen = set[str]()
        for place in places:
            with disk_errors(path, "read"), os.scandir(place) as found:
                entries = [(entry.name, _status(entry.stat(follow_symlinks=False))) for entry in found]
            yield from (entry for entry in entries if entry[0] not in seen)
            seen.update(name for name, _ in entries)

    def opened(self, path: str) -> AbstractContextManager[ReadAt]:
        """Open a regular file for reading."""
        return _ViewedFile(self, path)

    def place(self, path: str) -> str:
        """Return where on this machine the file is that a path leads to. Raises `OSError`."""
        if not self._roots:
            return path
        real = self._resolve(path, _MOST_LINKS)
        if real is None:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        return self._upper(real)

    def _entry(self, path: str) -> str:
        """Return where on this machine a path is whose last part is not followed."""
        if not self._roots:
            return path
        folder, name = os.path.split(path)
        return self._upper(os.path.join(self._resolve(folder, _MOST_LINKS) or folder, name))

    def _upper(self, real: str) -> str:
        return next((root + real for root in self._roots if os.path.lexists(root + real)), self._roots[-1] + real)

    def _resolve(self, path: str, most: int) -> str | None:
        """Follow the links of a path inside the view; None where they run in circles."""
        if path in self._known:
            return self._known[path]
        done = "/"
        for part in path.split("/"):
            if part in {"", "."}:
                continue
            if part == "..":
                done = os.path.dirname(done)
                continue
            here = os.path.join(done, part)
            place = self._upper(here)
            if not os.path.islink(place):
                done = here
                continue
            followed = self._resolve(os.path.join(done, os.readlink(place)), most - 1) if most else None
            if followed is None:
                return None
            done = followed
        self._known[path] = done
        return done


class _ViewedFile:
    """An open file: a class because files are opened by the ten thousand, and generators take twice as long."""

    __slots__ = ("_descriptor", "_path", "_view")

    def __init__(self, view: FolderView, path: str) -> None:
        self._view, self._path, self._descriptor = view, path, -1

    def __enter__(self) -> ReadAt:
        try:
            descriptor = self._descriptor = open_regular(self._view.place(self._path))
        except OSError:
            with disk_errors(self._path, "read"):
                raise
        return lambda offset, size: os.pread(descriptor, size, offset)

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def _status(found: os.stat_result) -> FileStatus:
    return FileStatus(found.st_mode, found.st_size, int(found.st_mtime), (found.st_dev, found.st_ino))
