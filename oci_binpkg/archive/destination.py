"""A new directory that is filled from an archive, and never anything outside of it.

Every name is opened relative to the descriptor of its directory, without following links, and created only where
nothing is yet. So neither a link in the archive nor somebody who exchanges a directory for a link meanwhile can lead
a write elsewhere. Until it is complete only its owner can enter the directory, and what goes wrong removes it.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from typing import Final, NoReturn

from oci_binpkg.archive.tar_reader import Member
from oci_binpkg.disk import disk_refusal
from oci_binpkg.errors import ContentError, LocalDiskError

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_BELOW: Final = _DIRECTORY | os.O_NOFOLLOW
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PRIVATE: Final = 0o700
_PRIVATE_FILE: Final = 0o600
_OPEN_TO_ALL: Final = 0o755
_PLAIN: Final = 0o644
_ANY_FOLDER: Final = 0o777
_ANY_FILE: Final = 0o666
_BLOCK: Final = 32 * 1024
_REPLACED: Final = frozenset((errno.ELOOP, errno.ENOTDIR, errno.ENOENT))
_SHOWN: Final = 200
_LONGEST: Final = 500


@contextmanager
def new_directory(path: str) -> Iterator[int]:
    """Create a directory and give its descriptor; an exception removes it with all that is in it.

    Below a directory that passes its group on (set-group-ID), the mode is what the umask or the directory's default
    access list leaves of 0777; else it is 0755 in the end.

    Raises `LocalDiskError` if `path` exists, or cannot be made.
    """
    parent_path, name = os.path.split(os.path.abspath(path))
    try:
        parent = os.open(parent_path, _DIRECTORY)
    except OSError as error:
        raise _disk_error(path, error) from error
    try:
        descriptor = _make_root(path, name, parent)
        try:
            yield descriptor
            if not _passes_group_on(descriptor):
                _open_to_all(descriptor, path)
        except BaseException:
            _remove(name, parent, os.fstat(descriptor))
            raise
        finally:
            os.close(descriptor)
    finally:
        os.close(parent)


def _make_root(path: str, name: str, parent: int) -> int:
    try:
        os.mkdir(name, _ANY_FOLDER if _passes_group_on(parent) else _PRIVATE, dir_fd=parent)
    except FileExistsError:
        raise LocalDiskError(f"{path}: exists already", hint="choose a path where nothing is") from None
    except OSError as error:
        raise _disk_error(path, error) from error
    try:
        return os.open(name, _BELOW, dir_fd=parent)
    except OSError as error:
        with suppress(OSError):
            os.rmdir(name, dir_fd=parent)
        raise _disk_error(path, error) from error


def _passes_group_on(directory: int) -> bool:
    """Return whether what is made in a directory gets its group: the way in which sites share a tree."""
    return bool(os.fstat(directory).st_mode & stat.S_ISGID)


def _open_to_all(root: int, path: str) -> None:
    try:
        os.fchmod(root, _OPEN_TO_ALL)
    except OSError as error:
        raise _disk_error(path, error) from error


def _remove(name: str, parent: int, made: os.stat_result) -> None:
    """Remove the directory, unless something else has its name now."""
    with suppress(OSError):
        if os.path.samestat(os.stat(name, dir_fd=parent, follow_symlinks=False), made):
            shutil.rmtree(name, ignore_errors=True, dir_fd=parent)


class Staging:
    """Creates members below the directory of the descriptor `root`; `path` and `what` are for errors.

    Modes are 0755, or 0644 for files that their owner cannot execute: no member gets more rights than that, and no
    directory can lock its owner out. In a tree that is shared by a group (the root has the set-group-ID bit) they are
    what the umask leaves of 0777 and 0666, and directories keep the bit. Members that are closed to others stay closed.
    Owner and times are those of anything created now. Long runs of zeros become holes.

    `close` gives the descriptors back. They are those of the directories from the root to the last member.
    """

    def __init__(self, root: int, path: str, what: str) -> None:
        self._root = root
        self._path = path
        self._what = what
        self._open: list[tuple[str, int]] = []
        self._current: str | None = ""
        self._directory = root
        self._shared = _passes_group_on(root)
        self.directories: dict[str, bool] = {}
        """Names of directories, and whether the archive has them as members: some are only implied."""
        self.files: dict[str, int] = {}
        """Names of regular files and their sizes, in archive order, hard links left out."""
        self.hard_links: dict[str, str] = {}
        """Names of hard links, and the names of the files they are linked to."""
        self.closed: dict[str, int] = {}
        """Names of files and directories that are closed to others, and the bits that they withhold."""
        self.links: set[str] = set()
        """Names of symbolic links."""

    def add(self, member: Member, content: Iterable[memoryview | bytes]) -> None:
        """Create a member; `content` is only read for a file.

        Raises `ContentError` for a name that is there already, for one below a link or file, and for a hard link to
        anything but a file of this archive. Raises `LocalDiskError` for what the file system refuses.
        """
        name = member.name
        if name in self.files or name in self.links or name in self.hard_links or self.directories.get(name):
            self._refuse(name, "appears twice")
        if member.closed:
            self.closed[name] = member.closed
        parent, _, leaf = name.rpartition("/")
        within = self._enter(parent)
        if member.kind == "file":
            self._file(member, leaf, within, content)
        elif member.kind == "directory":
            if name not in self.directories:
                self._make_directory(name, leaf, within)
            self.directories[name] = True
            if member.closed:
                self._close_to_others(member, leaf, within)
        elif member.kind == "symlink":
            with self._creating(name):
                os.symlink(member.target, leaf, dir_fd=within)
            self.links.add(name)
        else:
            self._hard_link(member, leaf, within)

    def close(self) -> None:
        """Close all directories but the root."""
        while self._open:
            os.close(self._open.pop()[1])
        self._current = None

    def lift(self, prefix: str) -> None:
        """Move what lies in the directory `prefix` up to the root, and remove `prefix` and its parents.

        Nothing else may be in the root.
        """
        within = self._enter(prefix)
        try:
            names = os.listdir(within)
            top = self._open[0][0]
            aside = next(name for number in count() if (name := f".{number}") not in names)
            os.rename(top, aside, src_dir_fd=self._root, dst_dir_fd=self._root)
            for name in names:
                os.rename(name, name, src_dir_fd=within, dst_dir_fd=self._root)
            for (_, parent), (name, _) in reversed(list(zip(self._open, self._open[1:], strict=False))):
                os.rmdir(name, dir_fd=parent)
            os.rmdir(aside, dir_fd=self._root)
        except OSError as error:
            raise _disk_error(self._path, error) from error

    def _close_to_others(self, member: Member, leaf: str, within: int) -> None:
        with self._creating(member.name):
            descriptor = os.open(leaf, _BELOW, dir_fd=within)
            try:
                _take_away(descriptor, member.closed)
            finally:
                os.close(descriptor)

    def _file(self, member: Member, leaf: str, within: int, content: Iterable[memoryview | bytes]) -> None:
        with self._creating(member.name):
            file = os.open(leaf, _NEW_FILE, self._new_mode(member), dir_fd=within)
        try:
            self.files[member.name] = member.size
            write = _write_with_holes if member.size >= 2 * _BLOCK else _write_all
            for piece in content:
                with self._creating(member.name):
                    write(file, piece)
            with self._creating(member.name):
                if write is _write_with_holes:
                    os.ftruncate(file, member.size)  # the last block may be a hole
                if not self._shared:
                    os.fchmod(file, (_OPEN_TO_ALL if member.executable else _PLAIN) & ~member.closed)
        except BaseException:
            os.close(file)
            raise
        with self._creating(member.name):
            os.close(file)  # where NFS says that the disk is full

    def _new_mode(self, member: Member) -> int:
        if not self._shared:
            return _PRIVATE_FILE
        return (_ANY_FOLDER if member.executable else _ANY_FILE) & ~member.closed

    def _hard_link(self, member: Member, leaf: str, within: int) -> None:
        first = self.hard_links.get(member.target, member.target)
        if first not in self.files:
            self._refuse(member.name, f"is a hard link to {member.target[:_SHOWN]!r}, which is no file before it")
        parent, _, source_leaf = first.rpartition("/")
        with self._borrowed(parent) as source, self._creating(member.name):
            os.link(source_leaf, leaf, src_dir_fd=source, dst_dir_fd=within, follow_symlinks=False)
        self.hard_links[member.name] = first

    @contextmanager
    def _borrowed(self, directory: str) -> Iterator[int]:
        """Open a directory that we made, besides those that are kept open."""
        with self._creating(directory):
            descriptor = os.dup(self._root)
        try:
            for name in directory.split("/") if directory else ():
                outer, descriptor = descriptor, self._open_directory(name, directory, descriptor)
                os.close(outer)
            yield descriptor
        finally:
            os.close(descriptor)

    def _enter(self, directory: str) -> int:
        """Return the descriptor of a directory, which is made if no member made it."""
        if directory == self._current:
            return self._directory
        self._current = None
        names = directory.split("/") if directory else []
        same = 0
        while same < min(len(names), len(self._open)) and self._open[same][0] == names[same]:
            same += 1
        while len(self._open) > same:
            os.close(self._open.pop()[1])
        descriptor = self._open[-1][1] if self._open else self._root
        for depth in range(same, len(names)):
            descriptor = self._enter_one("/".join(names[: depth + 1]), names[depth], descriptor)
            self._open.append((names[depth], descriptor))
        self._current, self._directory = directory, descriptor
        return descriptor

    def _enter_one(self, directory: str, leaf: str, within: int) -> int:
        if directory not in self.directories:
            if directory in self.files or directory in self.links or directory in self.hard_links:
                self._refuse(directory, "is a file or a link, and another member lies below it")
            self._make_directory(directory, leaf, within)
            self.directories[directory] = False
        return self._open_directory(leaf, directory, within)

    def _make_directory(self, name: str, leaf: str, within: int) -> None:
        with self._creating(name):
            if self._shared:  # a later chmod would lose the bit where the group is not one of the user's
                os.mkdir(leaf, _ANY_FOLDER, dir_fd=within)
                return
            os.mkdir(leaf, _PRIVATE, dir_fd=within)
            # whatever the umask is; the root stays closed to others until the end
            descriptor = os.open(leaf, _BELOW, dir_fd=within)
            try:
                os.fchmod(descriptor, _OPEN_TO_ALL)
            finally:
                os.close(descriptor)

    def _open_directory(self, leaf: str, directory: str, within: int) -> int:
        with self._creating(directory):
            return os.open(leaf, _BELOW, dir_fd=within)

    @contextmanager
    def _creating(self, name: str) -> Iterator[None]:
        """Say which member could not be created, and why."""
        try:
            yield
        except FileExistsError:
            self._refuse(name, "has a name that this file system takes for the same as that of another member")
        except OSError as error:
            path = f"{self._path}/{name}"
            if error.errno in _REPLACED:
                raise LocalDiskError(
                    f"{path}: a directory was replaced while it was written to",
                    hint="find out which program changes this directory, then try again",
                ) from error
            raise _disk_error(path, error) from error

    def _refuse(self, name: str, finding: str) -> NoReturn:
        raise ContentError(f"{self._what}: the member {name[:_SHOWN]!r} {finding}")


def _take_away(descriptor: int, bits: int) -> None:
    """Take rights away from what was just made; it has the set-group-ID bit if the kernel gave it."""
    os.fchmod(descriptor, stat.S_IMODE(os.fstat(descriptor).st_mode) & ~bits)


def _write_with_holes(file: int, piece: memoryview | bytes) -> None:
    """Write a piece of a file; of a block of zeros only the place is kept."""
    view = memoryview(piece)
    start = at = 0  # what lies between waits to be written at once
    while at < len(view):
        block = view[at : at + _BLOCK]
        end = at + len(block)
        if len(block) == _BLOCK and not (block[0] or block[-1]) and not _holds_anything(block):
            _write_all(file, view[start:at])
            os.lseek(file, _BLOCK, os.SEEK_CUR)
            start = end
        at = end
    _write_all(file, view[start:])


def _holds_anything(block: memoryview) -> bool:
    """Return whether a block holds another byte than zero."""
    return bool(bytes(block).strip(b"\0"))


def _write_all(file: int, piece: memoryview | bytes) -> None:
    left = memoryview(piece)
    while left:
        left = left[os.write(file, left) :]


def _disk_error(path: str, error: OSError) -> LocalDiskError:
    return disk_refusal(
        f"{path[:_LONGEST]}: cannot be written",
        error,
        hint="check the free space and the permissions there",
    )
