"""The local disk, with others at work on it: paths that stay below their root, files that are what they should be.

Other users and other processes may put a link, a FIFO or a device where a file is expected, may foresee a name, or
change a directory between two looks at it. So a temporary file has a random name and is created only where nothing is;
what is read is opened without waiting and looked at once it is open; and a path below a root is walked by directory
descriptors, without following links.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import BinaryIO, Final, NoReturn

from oci_binpkg.errors import ContentError, Hint, LocalDiskError

TEMPORARY: Final = ".tmp-"
"""How the names of files begin that are being written."""

STALE_SECONDS: Final = 24 * 3600.0
"""Seconds after which an unchanged file has no writer; clocks of file servers may be hours off."""

CHECK_DISK: Final = "check the free space and the permissions there"
NOT_REGULAR_HINT: Final = "remove what stands there, or name another path"

_PUBLIC: Final = 0o666
_PRIVATE: Final = 0o600
_FOLDER: Final = 0o777
_PRIVATE_FOLDER: Final = 0o700
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_CHUNK: Final = 1024 * 1024
_BATCH: Final = 64
_MANY: Final = 64
_LONGEST_NAME: Final = 255
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_BELOW: Final = _DIRECTORY | os.O_NOFOLLOW
_CONTROLS: Final = frozenset(map(chr, (*range(0x20), *range(0x7F, 0xA0))))
_RENAME_EXCHANGE: Final = 2
_NO_EXCHANGE: Final = frozenset({errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP})
_KINDS: Final = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISLNK, "a symbolic link"),
)


class NotRegularError(OSError):
    """Something else stands where a regular file is expected; `strerror` says what it is."""

    def __init__(self, mode: int, path: str) -> None:
        if stat.S_ISDIR(mode):
            super().__init__(errno.EISDIR, os.strerror(errno.EISDIR), path)
        else:
            super().__init__(errno.EINVAL, f"is {kind_of(mode)}, not a regular file", path)


class FileTooLargeError(OSError):
    """A file holds more bytes than its reader takes."""

    def __init__(self, limit: int, path: str) -> None:
        super().__init__(errno.EFBIG, f"is larger than {limit} bytes", path)


def kind_of(mode: int) -> str:
    """Return what a mode of `stat` stands for, with its article."""
    return next((name for is_kind, name in _KINDS if is_kind(mode)), "a regular file")


# reading


def open_regular(path: str, *, follow: bool = True) -> int:
    """Open a regular file for reading and return its descriptor; never waits for a writer.

    A link in its place is followed unless `follow` is false. Raises `NotRegularError`, `OSError`.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.ENXIO:  # of a socket
            raise NotRegularError(stat.S_IFSOCK, path) from None
        if error.errno == errno.ELOOP and not follow:
            raise NotRegularError(stat.S_IFLNK, path) from None
        raise
    return kept_if_regular(descriptor, path)


def kept_if_regular(descriptor: int, path: str) -> int:
    """Return the descriptor of a regular file; close that of anything else. Raises `NotRegularError`."""
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise NotRegularError(mode, path)  # noqa: TRY301 - closed like all failures
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def open_file(path: str, *, follow: bool = True, buffering: int = -1) -> BinaryIO:
    """Open a regular file as `open` does. Raises `NotRegularError`, `OSError`."""
    # the file owns the descriptor from the start: with two owners an interrupt between them closes it twice
    return open(path, "rb", buffering, opener=lambda name, _flags: open_regular(name, follow=follow))


def read_regular(path: str, limit: int, *, follow: bool = True) -> bytes:
    """Return what a regular file holds; memory is taken for what is there, whatever `limit` is.

    Raises `NotRegularError`, `FileTooLargeError` above `limit` bytes, `OSError`.
    """
    descriptor = open_regular(path, follow=follow)
    try:
        return read_descriptor(descriptor, limit, path)
    finally:
        os.close(descriptor)


def read_descriptor(descriptor: int, limit: int, path: str) -> bytes:
    """Return the rest of an open file, of which `path` is for errors. Raises `FileTooLargeError`, `OSError`."""
    chunks = []
    left = limit + 1
    size = os.fstat(descriptor).st_size
    if size > limit:
        raise FileTooLargeError(limit, path)
    # a file that is as large as it says is read in one piece; a second call finds its end
    while left and (chunk := os.read(descriptor, min(max(size + 1, 4096), left))):
        chunks.append(chunk)
        left -= len(chunk)
        size = min(size, _CHUNK)
    if not left:
        raise FileTooLargeError(limit, path)
    return b"".join(chunks)


# writing


@contextmanager
def replacing(
    path: str, *, mode: int | None = None, failing: Callable[[], AbstractContextManager[None]] = nullcontext
) -> Iterator[Callable[[bytes], None]]:
    """Give a function that writes to a new file beside `path`, which takes its place if all goes well.

    Otherwise nothing stays. The file has `mode`, or that of the file it replaces, or what the umask allows. A link at
    `path` is replaced, not followed. From then on the file outlives a power cut. What the disk refuses, but nothing
    that the caller raises, is raised within `failing()`: `OSError`, and `NotRegularError` where a directory, device,
    FIFO or socket stands.
    """
    with failing():
        new = _Replacement.beside(path, mode)
    try:
        yield _writer(new.descriptor, failing)
        with failing():
            new.sync()
            new.put_in_place()
            os.fsync(new.folder)
    except BaseException:
        new.discard()
        raise
    finally:
        new.close()


def replace_file(path: str, data: bytes, *, mode: int | None = None) -> None:
    """Replace or create a file in one step, as `replacing` does. Raises `LocalDiskError`."""
    with replacing(path, mode=mode, failing=lambda: disk_errors(path, "written")) as write:
        write(data)


def move_file(source: str, path: str) -> None:
    """Let a file that is written take the name `path` in the same file system, to outlive a power cut there.

    Raises `OSError`.
    """
    with _descriptor(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC) as descriptor:
        os.fsync(descriptor)
    os.replace(source, path)
    sync_folder(os.path.dirname(path))


class Batch:
    """Replaces many files: they are written, then synced and renamed together, and each folder is synced once.

    One file after another takes several times as long. At most `_BATCH` files wait under temporary names.
    """

    def __init__(self) -> None:
        self._waiting: list[_Replacement] = []

    def replace(self, path: str, data: bytes, *, mode: int | None = None) -> None:
        """Write a file that takes the name `path` at the end of the batch at the latest. Raises `LocalDiskError`."""
        with disk_errors(path, "written"):
            new = _Replacement.beside(path, mode)
        self._waiting.append(new)
        _writer(new.descriptor, lambda: disk_errors(path, "written"))(data)
        if len(self._waiting) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        """Put in place all that waits. Raises `LocalDiskError`."""
        for new in self._waiting:
            _start_writing(new.descriptor)
        for new in self._waiting:
            with disk_errors(new.path, "written"):
                new.sync()
        folders: dict[str, _Replacement] = {}
        for new in self._waiting:
            with disk_errors(new.path, "written"):
                new.put_in_place()
            folders[os.path.dirname(new.path)] = new
        for new in folders.values():
            with disk_errors(new.path, "written"):
                os.fsync(new.folder)
        while self._waiting:
            self._waiting.pop().close()

    def discard(self) -> None:
        """Remove all that waits."""
        while self._waiting:
            new = self._waiting.pop()
            new.discard()
            new.close()


@contextmanager
def batch() -> Iterator[Batch]:
    """Give a batch; what it was given last is put in place at the end, or removed where the block fails."""
    files = Batch()
    try:
        yield files
        files.flush()
    except BaseException:
        files.discard()
        raise


@dataclass(frozen=True, slots=True)
class _Replacement:
    """A file under a temporary name in the folder where it belongs, and the mode it gets, None for that it has."""

    path: str
    temporary: str
    mode: int | None
    folder: int
    descriptor: int

    @classmethod
    def beside(cls, path: str, mode: int | None) -> _Replacement:
        """Create it. Raises `OSError`, `NotRegularError`."""
        directory, name = os.path.split(path)
        folder = os.open(directory or ".", _DIRECTORY)
        try:
            kept = _mode_of(name, folder, path) if mode is None else mode
            temporary, descriptor = new_file(folder, private=kept is not None)
        except BaseException:
            os.close(folder)
            raise
        return cls(path, temporary, kept, folder, descriptor)

    def sync(self) -> None:
        """Give it its mode, and wait until the disk holds it. Raises `OSError`."""
        if self.mode is not None:
            os.fchmod(self.descriptor, self.mode)
        os.fsync(self.descriptor)

    def put_in_place(self) -> None:
        """Give it its name. Raises `OSError`."""
        os.replace(self.temporary, os.path.basename(self.path), src_dir_fd=self.folder, dst_dir_fd=self.folder)

    def discard(self) -> None:
        """Remove it, unless it has its name by now."""
        with suppress(OSError):
            os.unlink(self.temporary, dir_fd=self.folder)

    def close(self) -> None:
        """Close the file and its folder."""
        os.close(self.descriptor)
        os.close(self.folder)


def sync_folder(path: str) -> None:
    """Let the names in a folder outlive a power cut. Raises `OSError`."""
    with _descriptor(path or ".", _DIRECTORY) as descriptor:
        os.fsync(descriptor)


def sync_tree(name: str, directory: int | None = None) -> None:
    """Let a directory with all below it outlive a power cut, by its path or its name in a directory. Raises `OSError`.

    Many files are synced together with all others of their file system, where the system can do that. Otherwise the
    system is first asked to write everything, and then waited for, file by file.
    """
    if _has_many(name, directory) and _sync_file_system(name, directory):
        return
    for each in (_start_writing, os.fsync):
        for _, _, files, within in os.fwalk(name, dir_fd=directory, onerror=_raise):
            for file in files:
                with suppress(_NoFileError), _regular_below(file, within) as descriptor:
                    each(descriptor)
            if each is os.fsync:
                os.fsync(within)


def _has_many(name: str, directory: int | None) -> bool:
    count = 0
    for _, _, files, _ in os.fwalk(name, dir_fd=directory, onerror=_raise):
        count += len(files)
        if count > _MANY:
            return True
    return False


def _sync_file_system(name: str, directory: int | None) -> bool:
    """Sync the file system that a directory is on; False where the system cannot. Raises `OSError`."""
    import ctypes  # noqa: PLC0415 - only large trees need it

    try:
        function = ctypes.CDLL(None, use_errno=True).syncfs
    except (OSError, AttributeError):
        return False
    descriptor = os.open(name, _BELOW, dir_fd=directory)
    try:
        code = 0 if function(descriptor) == 0 else ctypes.get_errno()
    finally:
        os.close(descriptor)
    if not code:
        return True
    if code == errno.ENOSYS:
        return False
    raise OSError(code, os.strerror(code), name)


class _NoFileError(Exception):
    """A link, or a device: it has no content of its own."""


@contextmanager
def _regular_below(name: str, directory: int) -> Iterator[int]:
    if not stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
        raise _NoFileError
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _descriptor(path: str, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _raise(error: OSError) -> NoReturn:
    raise error


def _start_writing(descriptor: int) -> None:
    """Ask the system to write a file now. What it does not know is no failure: a sync follows."""
    if hasattr(os, "posix_fadvise"):  # macOS has none
        with suppress(OSError):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def new_file(directory: int, *, private: bool = False) -> tuple[str, int]:
    """Create a file of a random name in a directory; return the name and a descriptor. Raises `OSError`."""
    name = f"{TEMPORARY}{os.urandom(16).hex()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return name, os.open(name, flags, _PRIVATE if private else _PUBLIC, dir_fd=directory)


def _writer(descriptor: int, failing: Callable[[], AbstractContextManager[None]]) -> Callable[[bytes], None]:
    def write(data: bytes) -> None:
        view = memoryview(data)
        with failing():
            while view:
                view = view[os.write(descriptor, view) :]

    return write


def _mode_of(name: str, within: int, path: str) -> int | None:
    """Return the mode of the file that is to be replaced, None without one. Raises `NotRegularError`."""
    try:
        found = os.stat(name, dir_fd=within, follow_symlinks=False)
        if stat.S_ISLNK(found.st_mode):
            found = os.stat(name, dir_fd=within)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        raise NotRegularError(found.st_mode, path)
    return stat.S_IMODE(found.st_mode)


def remove_leftovers(directory: str, now: float) -> None:
    """Remove temporary files from a directory that were last written a day before `now` (seconds since 1970).

    Never raises: what cannot be removed does no harm.
    """
    with suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.startswith(TEMPORARY):
                with suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode) and status.st_mtime < now - STALE_SECONDS:
                        os.unlink(entry.path)


@contextmanager
def disk_errors(path: str, what: str = "used", hint: str = CHECK_DISK) -> Iterator[None]:
    """Turn what the disk refuses into `LocalDiskError`: `path` cannot be `what`, and the reason."""
    try:
        yield
    except NotRegularError as error:
        raise disk_refusal(f"{path}: cannot be {what}", error, hint=NOT_REGULAR_HINT, path=path) from error
    except OSError as error:
        raise disk_refusal(f"{path}: cannot be {what}", error, hint=hint, path=path) from error


def disk_refusal(what: str, error: OSError, *, hint: str | Hint = "", path: str = "") -> LocalDiskError:
    """Return the error that what the disk refuses becomes: what could not be done, and the system's reason."""
    return LocalDiskError(f"{what}: {error.strerror or error}", hint=hint, path=path)


# folders of ours


def make_folder(path: str, mode: int = _FOLDER) -> None:
    """Create a folder where none is, with those above it that are missing; `mode` is the last one's.

    It outlives a power cut. Raises `OSError`.
    """
    if os.path.isdir(path or "."):
        return
    parent = os.path.dirname(path)
    if parent not in ("", path) and not os.path.lexists(parent):
        make_folder(parent)
    _make_one(path, mode)


def private_folder(path: str) -> None:
    """Create a folder that only its owner may enter, with the folders above it. Raises `OSError`."""
    if not os.path.isdir(path):
        parent = os.path.dirname(path)
        if parent and not os.path.lexists(parent):
            private_folder(parent)
        _make_one(path, _PRIVATE_FOLDER)


def _make_one(path: str, mode: int) -> None:
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        if not os.path.isdir(path):
            raise
        return  # another process made it
    # a folder that we may write to but not read cannot be opened, and some file systems sync no folders
    with suppress(OSError):
        sync_folder(os.path.dirname(path))


def foreign_writers(path: str, user: int) -> str:
    """Return why what is in a folder (or file) may be somebody else's, "" if only `user` and root may write there.

    A folder that is not there yet is ours to make. Raises `OSError`.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return ""
    if found.st_uid not in (user, 0):
        return f"belongs to the user {found.st_uid}"
    if found.st_mode & _OTHERS_WRITE:
        return f"may be written by other users (mode {stat.S_IMODE(found.st_mode):04o})"
    return ""


# paths below a root


@dataclass(frozen=True, slots=True)
class Root:
    """A directory that paths are to stay below: `path` as it was named, absolute; links in `path` are resolved once."""

    path: str
    real: str

    @classmethod
    def of(cls, path: str) -> Root:
        """Return the root at a path, which need not exist yet."""
        absolute = os.path.abspath(path)
        return cls(absolute, os.path.realpath(absolute))

    def below(self, path: str) -> PrefixPath:
        """Return an absolute path as one below this root. Raises `ContentError` if it is not, or is not normalised."""
        start = "/" if self.path == "/" else f"{self.path}/"
        if not path.startswith(start):
            raise ContentError(f"{path[:_LONGEST_NAME]!r} is not below {self.path}")
        return PrefixPath(self, tuple(path[len(start) :].split("/")))

    def holds(self, path: str) -> bool:
        """Return whether `below` accepts a path."""
        try:
            self.below(path)
        except ContentError:
            return False
        return True


@dataclass(frozen=True, slots=True)
class PrefixPath:
    """The path of a prefix below a root; it exists only if no component leads elsewhere.

    A component is neither empty nor `..`, begins with no dot, holds no slash and no control character, and is at most
    255 bytes long. Whatever is done to the path is done relative to the descriptor of its parent, which is reached from
    the root without following a link. Raises `ContentError` when it is made; its methods raise `LocalDiskError`.
    """

    root: Root
    parts: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise ContentError(f"a path below {self.root.path} is expected, not the directory itself")
        for part in self.parts:
            if reason := _flaw(part):
                raise ContentError(
                    f"{'/'.join(self.parts)[:_LONGEST_NAME]!r} names no directory below a tree: {reason}"
                )

    def __str__(self) -> str:
        return os.path.join(self.root.path, *self.parts)

    @property
    def name(self) -> str:
        """The last component."""
        return self.parts[-1]

    @contextmanager
    def parent(self, *, create: bool = False) -> Iterator[int]:
        """Give the descriptor of the directory that holds the path; with `create` it is made if it is absent."""
        with disk_errors(str(self), "reached"):
            if create:
                make_folder(self.root.real)
            descriptor = os.open(self.root.real, _DIRECTORY)
        try:
            for depth, part in enumerate(self.parts[:-1]):
                outer, descriptor = descriptor, self._enter(descriptor, part, depth, create=create)
                os.close(outer)
            yield descriptor
        finally:
            os.close(descriptor)

    def status(self) -> os.stat_result | None:
        """Return what `lstat` returns, None where nothing is."""
        try:
            with self.parent() as directory, disk_errors(str(self), "looked at"):
                return os.stat(self.name, dir_fd=directory, follow_symlinks=False)
        except LocalDiskError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise

    def is_directory(self) -> bool:
        """Return whether a directory is there that is reached without following a link."""
        try:
            found = self.status()
        except LocalDiskError:
            return False
        return found is not None and stat.S_ISDIR(found.st_mode)

    def _enter(self, directory: int, part: str, depth: int, *, create: bool) -> int:
        here = os.path.join(self.root.path, *self.parts[: depth + 1])
        with disk_errors(here, "entered"):
            if create:
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=directory)
                    os.fsync(directory)
            try:
                return os.open(part, _BELOW, dir_fd=directory)
            except OSError as error:
                if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                    raise
                found = os.stat(part, dir_fd=directory, follow_symlinks=False)
        raise LocalDiskError(
            f"{here} is {kind_of(found.st_mode)}: inside of a tree no link is followed",
            hint="put the directory itself there (a mount may stand in for the link)",
        )


def _flaw(part: str) -> str:
    """Return why a text is no component of a path below a root, "" if it is one."""
    if not part:
        return "a component is empty"
    if part.startswith("."):
        return "a component begins with a dot"
    if "/" in part:
        return "a component holds a slash"
    if not _CONTROLS.isdisjoint(part):
        return "a component holds a control character"
    try:
        length = len(os.fsencode(part))
    except UnicodeEncodeError:
        return "a component cannot be written as a file name"
    return f"a component is longer than {_LONGEST_NAME} bytes" if length > _LONGEST_NAME else ""


def exchange(name: str, directory: int, other: str, other_directory: int) -> bool:
    """Swap two names in one step, so that there is no moment without either; False where the system cannot.

    Names are relative to the descriptors. Raises `OSError`.
    """
    import ctypes  # noqa: PLC0415 - only who replaces a prefix needs it

    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    if function(directory, os.fsencode(name), other_directory, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NO_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), other)


def remove_tree(name: str, directory: int) -> None:
    """Remove a directory with all below it, or a file or link, by its name in a directory. No link is followed.

    Never raises: what cannot be removed stays.
    """
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return
    if stat.S_ISDIR(found.st_mode):
        shutil.rmtree(name, ignore_errors=True, dir_fd=directory)
    else:
        with suppress(OSError):
            os.unlink(name, dir_fd=directory)
