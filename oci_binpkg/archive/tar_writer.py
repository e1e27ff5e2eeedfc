"""A prefix as a reproducible tar: the same tree gives the same bytes, at any time and for any user.

The form is that of Spack's build caches, to the byte: the parent directories of the prefix, then the prefix in
pre-order with the files of a directory before its subdirectories, each sorted by name; no owners and no times; modes
reduced to the executable bit; names that are no UTF-8 as bytes, in the way of pax (`hdrcharset=BINARY`); the second and
later names of an inode as hard links. The last member is the document `.spack/binary_distribution`, which lists what
has to be relocated after unpacking.

One thing is not as Spack has it: what is closed to others in a prefix that is open to them stays closed (0600, 0640,
and so on), because Spack would publish a private file as 0644.
"""

from __future__ import annotations

import errno
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final, NoReturn, Protocol

from oci_binpkg.archive.binary_distribution import MAX_BYTES, MEMBER, Distribution, Relocations
from oci_binpkg.archive.python_caches import PythonCaches, may_be_cache
from oci_binpkg.archive.tar_input import DEFAULT_LIMITS
from oci_binpkg.archive.tar_reader import WHITEOUT
from oci_binpkg.errors import PackError
from oci_binpkg.relocate.compiled_python import HEADER, is_cache

CHUNK: Final = 1024 * 1024
_OPEN_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_CHECKSUM_AT: Final = 148
_MAGIC_AT: Final = 257
_LARGEST_OCTAL: Final = 0o77777777777
PARENT_MODE: Final = 0o755
METADATA_DIR: Final = ".spack"
_OTHERS_MAY: Final = 0o055
_TO_GROUP: Final = 0o050
_TO_OTHERS: Final = 0o005
_LONGEST_SHOWN: Final = 300
_LEAVE_OUT: Final = "remove or rename it, then push again"
_CHANGED: Final = "let whatever writes to the prefix finish, then pack it again"


class FileScan(Protocol):
    """The scan of one file: takes all chunks in order, then says `binary`, `text` (that mentions a prefix) or else."""

    def feed(self, chunk: bytes, /) -> None:
        """Take the next bytes."""
        ...

    def finish(self) -> str:
        """Return the kind of the file."""
        ...


class Classifier(Protocol):
    """Knows which files and links a relocation has to touch."""

    def start(self) -> FileScan:
        """Begin with a new file."""
        ...

    def is_target(self, link: str, /) -> bool:
        """Return whether a link with this target is to be relocated."""
        ...


@dataclass(frozen=True, slots=True)
class TarSummary:
    """What went into a tar: how many members and regular files, the bytes of those files, and what did not.

    `skipped` holds the relative paths of devices, FIFOs and sockets, `weakened` those of files that lose set-user-ID,
    set-group-ID or capabilities. `relocations` is what the last member lists.
    """

    members: int
    files: int
    bytes: int
    skipped: tuple[str, ...]
    relocations: Relocations
    weakened: tuple[str, ...] = ()


Sink = Callable[[bytes], Any]


def write_tar(
    prefix: str,
    sink: Sink,
    *,
    distribution: Distribution,
    classifier: Classifier,
    archive_prefix: str = "",
    on_bytes: Callable[[int], None] | None = None,
    caches: PythonCaches | None = None,
    frame: Sink | None = None,
) -> TarSummary:
    """Write the tar of the tree at `prefix` to `sink`, and return what is in it.

    What stands before the prefix directory goes to `frame` in its place, and what follows the last member, each whole.

    The tar records `archive_prefix`, by default `prefix` itself. `distribution` gives the head of the last member; its
    lists of files come from `classifier`. `on_bytes` gets the number of bytes of files that were read. With `caches`,
    compiled Python is current in the layer; without, the tar is Spack's to the byte.

    Raises `PackError` naming the file that changed while it was read, cannot be read, or cannot be installed again.
    What `sink` raises passes unchanged.
    """
    root = _recorded_path(archive_prefix or prefix)
    writer = _Writer(sink, classifier, root, on_bytes or _unobserved, caches)
    writer.frame = frame or sink
    writer.add_parents()
    with _reading(prefix):
        writer.open_bits = os.stat(prefix).st_mode & _OTHERS_MAY
    for directory in walk(prefix, caches):
        writer.add_directory(directory.relative, directory.path)
        for entry in directory.others:
            writer.add(entry, directory.within(entry))
    return writer.finish(distribution)


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory of a tree: its path, its path relative to the prefix ("" for the prefix), and its sorted entries."""

    path: str
    relative: str
    directories: tuple[os.DirEntry[str], ...]
    others: tuple[os.DirEntry[str], ...]

    def within(self, entry: os.DirEntry[str]) -> str:
        """Return the path of an entry relative to the prefix."""
        return f"{self.relative}/{entry.name}" if self.relative else entry.name


def walk(prefix: str, caches: PythonCaches | None = None) -> Iterator[Directory]:
    """Iterate over a tree in the order of its tar, the document `binary_distribution` left out, and what `caches` says.

    Raises `PackError` for directories that cannot be read and names that no install takes back.
    """
    pending = [(prefix, "")]
    while pending:
        path, relative = pending.pop()
        with _reading(path), os.scandir(path) as found:
            entries = sorted(found, key=lambda entry: entry.name)
            if relative == METADATA_DIR:
                entries = [entry for entry in entries if f"{relative}/{entry.name}" != MEMBER]
            if caches is not None:
                entries = [entry for entry in entries if not _is_left_out(entry.name, relative, caches)]
            directories = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
        for entry in entries:
            if entry.name.startswith(WHITEOUT):
                raise PackError(
                    f"{_printable(entry.path)}: in an image, a name that begins with {WHITEOUT} deletes another file",
                    hint=_LEAVE_OUT,
                )
        below = set(directories)
        directory = Directory(path, relative, tuple(directories), tuple(e for e in entries if e not in below))
        yield directory
        pending.extend((entry.path, directory.within(entry)) for entry in reversed(directories))


def _is_left_out(name: str, relative: str, caches: PythonCaches) -> bool:
    return may_be_cache(name) and caches.left_out(f"{relative}/{name}" if relative else name)


class _Writer:
    """Writes members and remembers what the end of the archive needs."""

    def __init__(
        self,
        sink: Sink,
        classifier: Classifier,
        root: str,
        on_bytes: Callable[[int], None],
        caches: PythonCaches | None,
    ) -> None:
        self._sink = sink
        self.frame = sink
        self._classifier = classifier
        self._root = root
        self._on_bytes = on_bytes
        self._caches = caches
        self._first_names: dict[tuple[int, int], str] = {}
        self._members = self._files = self._bytes = self._written = 0
        self._name_bytes = 0
        self._skipped: list[str] = []
        self._weakened: list[str] = []
        self.open_bits = _OTHERS_MAY
        """What the prefix lets group and others do: what it keeps from them, its files need not."""
        self._found: dict[str, list[str]] = {"binary": [], "link": [], "text": []}

    def add_parents(self) -> None:
        above = [str(parent) for parent in reversed(PurePosixPath(self._root).parents) if parent.name]
        for path in above:
            self._check_limits(path, 0, "")
            self._members += 1
        if above:
            self._write(b"".join(header(path, tarfile.DIRTYPE, PARENT_MODE) for path in above), self.frame)

    def add_directory(self, relative: str, path: str) -> None:
        with _reading(path):
            mode = os.lstat(path).st_mode
        self._header(self._name(relative), tarfile.DIRTYPE, self._closed(0o755, mode))

    def add(self, entry: os.DirEntry[str], relative: str) -> None:
        with _reading(entry.path):
            status = entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            raise _changed(entry.path)
        if stat.S_ISLNK(status.st_mode):
            self._add_link(entry.path, relative)
        elif not stat.S_ISREG(status.st_mode):
            self._skipped.append(relative)
        else:
            self._add_file(entry.path, relative, status)

    def finish(self, distribution: Distribution) -> TarSummary:
        found = {kind: tuple(paths) for kind, paths in self._found.items()}
        relocations = Relocations(found["binary"], found["link"], found["text"])
        document = distribution.to_bytes(relocations)
        if len(document) > MAX_BYTES:
            size = f"of {len(document)} bytes; at most {MAX_BYTES} can be installed"
            self._refuse(self._name(MEMBER), f"would be a list of files to relocate {size}")
        self._header(self._name(MEMBER), tarfile.REGTYPE, 0o644, size=len(document))
        self._write(document)
        self._pad(len(document))
        # two empty blocks, and up to a whole record (POSIX.1-2017, pax, "ustar Interchange Format")
        end = 2 * tarfile.BLOCKSIZE
        self._write(bytes(end + -(self._written + end) % tarfile.RECORDSIZE), self.frame)
        return TarSummary(
            self._members, self._files, self._bytes, tuple(self._skipped), relocations, tuple(self._weakened)
        )

    def _add_link(self, path: str, relative: str) -> None:
        with _reading(path):
            target = os.readlink(path)
        if self._classifier.is_target(target) and not _is_metadata(relative):
            self._found["link"].append(relative)
        self._header(self._name(relative), tarfile.SYMTYPE, 0o755, target=target)

    def _add_file(self, path: str, relative: str, status: os.stat_result) -> None:
        name = self._name(relative)
        mode = self._closed(0o755 if status.st_mode & stat.S_IXUSR else 0o644, status.st_mode)
        if status.st_mode & (stat.S_ISUID | stat.S_ISGID) or (mode & stat.S_IXUSR and _has_capabilities(path)):
            self._weakened.append(relative)
        first = name
        if status.st_nlink > 1:
            first = self._first_names.setdefault((status.st_dev, status.st_ino), name)
        if first != name:
            self._header(name, tarfile.LNKTYPE, mode, target=first)
            return
        scan = None if _is_metadata(relative) else self._classifier.start()
        with _reading(path):
            descriptor = os.open(path, _OPEN_FLAGS)
        try:
            opened = os.fstat(descriptor)
            if _version(opened) != _version(status):
                raise _changed(path)
            self._header(name, tarfile.REGTYPE, mode, size=status.st_size)
            head = b""
            if self._caches is not None and is_cache(relative):
                head = self._caches.header(relative, os.pread(descriptor, HEADER, 0))
            self._copy(descriptor, path, status, scan, head)
        finally:
            os.close(descriptor)
        kind = scan.finish() if scan else ""
        if kind in self._found:
            self._found[kind].append(relative)
        self._files += 1
        self._bytes += status.st_size

    def _copy(self, descriptor: int, path: str, status: os.stat_result, scan: FileScan | None, head: bytes) -> None:
        """Copy a file; `head` takes the place of its first bytes."""
        left = status.st_size
        while left:
            with _reading(path):
                chunk = os.read(descriptor, min(CHUNK, left))
            if not chunk:
                raise _changed(path)
            if head:
                chunk, head = head + chunk[len(head) :], b""
            if scan:
                scan.feed(chunk)
            self._write(chunk)
            self._on_bytes(len(chunk))
            left -= len(chunk)
        if _version(os.fstat(descriptor)) != _version(status):
            raise _changed(path)
        self._pad(status.st_size)

    def _closed(self, plain: int, mode: int) -> int:
        """Return a mode of Spack's without what a file keeps from others, or from its group, too."""
        if not mode & stat.S_IRUSR or mode & _TO_OTHERS or not self.open_bits & _TO_OTHERS:
            return plain
        return plain & (0o770 if mode & _TO_GROUP or not self.open_bits & _TO_GROUP else 0o700)

    def _header(self, name: str, kind: bytes, mode: int, *, size: int = 0, target: str = "") -> None:
        self._check_limits(name, size, target if kind == tarfile.LNKTYPE else "")
        self._write(header(name, kind, mode, size=size, target=target))
        self._members += 1

    def _check_limits(self, name: str, size: int, target: str) -> None:
        """Raise `PackError` for what no install takes back."""
        limits, length = DEFAULT_LIMITS, len(os.fsencode(name))
        self._name_bytes += length + len(os.fsencode(target))
        if name.count("/") >= limits.depth:
            self._refuse(name, f"lies more than {limits.depth} directories deep, counted from the root")
        if length > limits.path_bytes:
            self._refuse(name, f"has a path of {length} bytes; at most {limits.path_bytes} can be installed")
        if self._members >= limits.members or self._name_bytes > limits.name_bytes:
            self._refuse(name, f"is one file too many: at most {limits.members} can be installed")
        if self._written + size > limits.total_bytes:
            self._refuse(name, f"makes the package larger than {limits.total_bytes} bytes, which can be installed")

    def _refuse(self, name: str, finding: str) -> NoReturn:
        raise PackError(f"/{_printable(name[:_LONGEST_SHOWN])}: {finding}", hint=_LEAVE_OUT)

    def _pad(self, size: int) -> None:
        self._write(bytes(-size % tarfile.BLOCKSIZE))

    def _write(self, data: bytes, sink: Sink | None = None) -> None:
        if data:
            (sink or self._sink)(data)
            self._written += len(data)

    def _name(self, relative: str) -> str:
        return f"{self._root}/{relative}" if relative else self._root


def header(name: str, kind: bytes, mode: int, *, size: int = 0, target: str = "") -> bytes:
    """Return the header of a member without owner and time, as `tarfile` writes it: with pax records if need be.

    What fits into a plain ustar header (POSIX.1-2017, pax, "ustar Interchange Format") is written here: the library
    takes five times as long, for every file.
    """
    stored = f"{name}/" if kind == tarfile.DIRTYPE else name
    plain = stored.isascii() and target.isascii() and size <= _LARGEST_OCTAL
    if not plain or len(stored) > tarfile.LENGTH_NAME or len(target) > tarfile.LENGTH_LINK:
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.size, info.linkname = kind, mode, size, target
        return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    block = b"%b%07o\0%b%011o\0%011o\0%b%b%b%b" % (
        stored.encode().ljust(tarfile.LENGTH_NAME, b"\0"),
        mode,
        b"0000000\0" * 2,
        size,
        0,
        b" " * 8,
        kind,
        target.encode().ljust(tarfile.LENGTH_LINK, b"\0"),
        b"ustar\x0000".ljust(tarfile.BLOCKSIZE - _MAGIC_AT, b"\0"),
    )
    return block[:_CHECKSUM_AT] + b"%06o\0" % sum(block) + block[_CHECKSUM_AT + 7 :]


def _recorded_path(prefix: str) -> str:
    """Return an absolute path as tar records it: without the leading slash."""
    parts = prefix.strip("/").split("/")
    if not prefix.startswith("/") or {"", ".", ".."} & set(parts):
        raise PackError(f"not an absolute path without `.` and `..`: {prefix[:200]!r}")
    try:
        prefix.encode("utf-8")
    except UnicodeEncodeError:
        hint = "move the tree: what is recorded of a package is JSON, which holds text alone"
        raise PackError(f"the prefix {_printable(prefix)} is not valid UTF-8", hint=hint) from None
    if any(part.startswith(WHITEOUT) for part in parts):
        raise PackError(
            f"{prefix}: in an image, a name that begins with {WHITEOUT} deletes another file", hint="move the tree"
        )
    return "/".join(parts)


def _has_capabilities(path: str) -> bool:
    """Return whether a file gives rights to whoever executes it; systems without such attributes have none."""
    try:
        return bool(os.getxattr(path, "security.capability", follow_symlinks=False))
    except (OSError, AttributeError):
        return False


def _is_metadata(relative: str) -> bool:
    # Spack's own records of the installation name its place; they are never relocated
    return relative.startswith(METADATA_DIR + "/")


def _version(status: os.stat_result) -> tuple[int, ...]:
    """Return what changes when a file is written to or replaced."""
    return status.st_dev, status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _changed(path: str) -> PackError:
    return PackError(f"{_printable(path)}: changed while it was packed", hint=_CHANGED)


@contextmanager
def _reading(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
            raise PackError(f"{_printable(path)}: not there, or replaced while it was packed", hint=_CHANGED) from None
        raise PackError(
            f"{_printable(path)}: cannot be read: {error.strerror or error}", hint="check its permissions and the disk"
        ) from error


def _printable(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _unobserved(_: int) -> None:
    """Report nothing."""
