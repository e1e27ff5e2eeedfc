"""A layer of any image as a directory: one of those that an overlay makes a root file system of.

Any builder may have made the layer, so more is understood than in a layer of a package; nothing of it is written
outside of the directory. What deletes (whiteouts) becomes what an overlay mount reads as deleted, where this kernel and
file system let an ordinary user write that, else it stays as it came.

Sources: OCI image specification 1.1, "Image Layer Filesystem Changeset"; Linux, Documentation/filesystems/overlayfs.
"""

from __future__ import annotations

import errno
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, NoReturn, Self, cast

from oci_binpkg.archive.codec import Readable
from oci_binpkg.archive.destination import new_directory
from oci_binpkg.archive.tar_input import DEFAULT_LIMITS, BoundedInput, Limits
from oci_binpkg.archive.tar_reader import WHITEOUT
from oci_binpkg.disk import disk_refusal
from oci_binpkg.errors import ContentError
from oci_binpkg.model.content import Digest

OPAQUE: Final = "user.overlay.opaque"
"""The attribute of a directory that hides those below it in the stack."""
OPAQUE_MARK: Final = ".wh..wh..opq"
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK: Final = 1024 * 1024
_PRIVATE: Final = 0o600
_PERMISSIONS: Final = 0o777
_STICKY: Final = 0o1777
_FOLDER: Final = 0o755
_SHOWN: Final = 200
_NOT_POSSIBLE: Final = frozenset((errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EACCES))
_HEADERS: Final = frozenset(
    (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
)


@dataclass(frozen=True, slots=True)
class UnpackedRoot:
    """What came out of a layer: bytes of all files, and whether an overlay mount can use the directory as it is."""

    size: int
    is_overlay: bool


def unpack_root_layer(
    stream: Readable,
    directory: str,
    what: str,
    *,
    media_type: str = "",
    diff_id: Digest | None = None,
    limits: Limits = DEFAULT_LIMITS,
    on_bytes: Callable[[int], None] | None = None,
) -> UnpackedRoot:
    """Unpack a layer into the new directory `directory`. `media_type` and `diff_id` are compared, if given.

    All belongs to the user; set-user-ID, devices and attributes are left out. Raises `ContentError` naming `what`, and
    `LocalDiskError`; `directory` is gone then.
    """
    algorithm = diff_id.algorithm if diff_id else "sha256"
    with (
        new_directory(directory) as root,
        BoundedInput(
            stream, what, media_type=media_type, limits=limits, algorithm=algorithm, on_bytes=on_bytes
        ) as source,
        _Tree(root, directory, what) as tree,
    ):
        unpacked = _Unpacking(tree, source, limits, what)
        unpacked.all()
        if diff_id and source.digest != diff_id:
            source.fail(f"has the diff_id {source.digest}, not {diff_id}")
        return UnpackedRoot(unpacked.size, tree.is_overlay)


class _Unpacking:
    """Reads the members and writes them; counts what they cost."""

    def __init__(self, tree: _Tree, source: BoundedInput, limits: Limits, what: str) -> None:
        self._tree = tree
        self._source = source
        self._limits = limits
        self._what = what
        self._members = self._names = 0
        self.size = 0

    def all(self) -> None:
        """Take all members, and what follows them."""
        stream = _ShortReads(self._source.rest())
        try:
            with tarfile.open(
                fileobj=cast("Any", stream), mode="r|", tarinfo=_checked_headers(self._limits, self._what)
            ) as tar:
                for member in tar:
                    tar.members.clear()  # type: ignore[attr-defined]  # all that were met would be kept
                    self._take(member, tar)
        except (tarfile.TarError, ValueError, OverflowError, EOFError, IndexError) as error:
            raise ContentError(
                f"{self._what}: the layer is not a tar that can be read: {type(error).__name__}"
            ) from None
        stream.drain()

    def _take(self, member: tarfile.TarInfo, tar: tarfile.TarFile) -> None:
        parts = self._parts(member.name)
        if not parts:
            return  # the root itself
        self._count(member)
        leaf = parts[-1]
        if leaf.startswith(WHITEOUT):
            self._tree.delete(parts)
        elif member.isdir():
            self._tree.directory(parts, member.mode)
        elif member.isfile():
            content = tar.extractfile(member)
            self._tree.file(parts, member, iter(lambda: content.read(_CHUNK) if content else b"", b""))
        elif member.issym():
            self._tree.link(parts, member.linkname)
        elif member.islnk():
            self._tree.hard_link(parts, self._parts(member.linkname))
        elif member.isfifo():
            self._tree.fifo(parts, member.mode)
        # devices: an ordinary user cannot make them, and a container gets its own

    def _parts(self, name: str) -> tuple[str, ...]:
        parts = tuple(part for part in name.split("/") if part not in ("", "."))
        if ".." in parts or "\0" in name or len(parts) > self._limits.depth:
            self._tree.refuse(name, "has a name that leads out of the layer, or too deep")
        return parts

    def _count(self, member: tarfile.TarInfo) -> None:
        limits, arrived = self._limits, self._source.arrived
        self._members += 1
        self._names += len(member.name) + len(member.linkname)
        if self._members > limits.members or self._names > limits.name_bytes:
            self._source.fail("has too many members, or too long names")
        if (further := self._members - limits.members_from) > 0 and further * limits.member_bytes > arrived:
            self._source.fail(f"has {self._members} members in {arrived} bytes")
        if member.isfile():
            self.size += member.size  # of a sparse file: as large as it becomes
        if self.size > limits.total_bytes or (self.size > limits.ratio_from and self.size > limits.ratio * arrived):
            self._source.fail("grows too much when it is unpacked")


class _ShortReads:
    """Chunks as a file that may be read beyond its end, as tarfile does."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._left = memoryview(b"")

    def read(self, size: int) -> bytes:
        """Return the next bytes, fewer than `size` at the end only."""
        parts = []
        while size > 0:
            if not self._left:
                chunk = next(self._chunks, None)
                if chunk is None:
                    break
                self._left = memoryview(chunk)
                continue
            parts.append(bytes(self._left[:size]))
            self._left = self._left[len(parts[-1]) :]
            size -= len(parts[-1])
        return b"".join(parts)

    def drain(self) -> None:
        """Take everything that is left."""
        for _ in self._chunks:
            pass


def _checked_headers(limits: Limits, what: str) -> type[tarfile.TarInfo]:
    """Return members whose extended headers are refused, before they are read, where they are too large."""

    class Checked(tarfile.TarInfo):
        @classmethod
        def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
            found = super().frombuf(buf, encoding, errors)
            if found.size < 0 or (found.type in _HEADERS and found.size > limits.header_bytes):
                raise ContentError(f"{what}: the layer has an extended header of {found.size} bytes")
            return found

    return Checked


class _Tree:
    """Writes below the descriptor `root`, never through a link; a later member takes the place of an earlier one."""

    def __init__(self, root: int, path: str, what: str) -> None:
        self._root = root
        self._path = path
        self._what = what
        self._open: list[tuple[str, int]] = []
        self.is_overlay = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            os.close(self._open.pop()[1])

    def directory(self, parts: tuple[str, ...], mode: int) -> None:
        """Make a directory, or give one that is there its mode."""
        within, leaf = self._parent(parts), parts[-1]
        with self._writing(parts) as _:
            descriptor = self._folder(leaf, within, parts)
            try:
                # the owner can always enter: an ordinary user could not remove it again
                os.fchmod(descriptor, (mode & _STICKY) | stat.S_IRWXU)
            finally:
                os.close(descriptor)

    def file(self, parts: tuple[str, ...], member: tarfile.TarInfo, content: Iterator[bytes]) -> None:
        """Write a file; blocks of zeros become holes."""
        within, leaf = self._parent(parts), parts[-1]
        with self._writing(parts):
            self._make_room(leaf, within, parts)
            file = os.open(leaf, _NEW, _PRIVATE, dir_fd=within)
        try:
            for chunk in content:
                with self._writing(parts):
                    if chunk.strip(b"\0"):
                        _write(file, chunk)
                    else:
                        os.lseek(file, len(chunk), os.SEEK_CUR)
            with self._writing(parts):
                os.ftruncate(file, os.lseek(file, 0, os.SEEK_CUR))
                os.fchmod(file, (member.mode & _PERMISSIONS) | stat.S_IRUSR)
                with suppress(OverflowError, ValueError, OSError):  # a time that this system cannot keep
                    os.utime(file, (member.mtime, member.mtime))
        finally:
            os.close(file)

    def link(self, parts: tuple[str, ...], target: str) -> None:
        """Make a symbolic link, wherever it leads: it is only followed inside a container."""
        within, leaf = self._parent(parts), parts[-1]
        with self._writing(parts):
            self._make_room(leaf, within, parts)
            os.symlink(target, leaf, dir_fd=within)

    def hard_link(self, parts: tuple[str, ...], target: tuple[str, ...]) -> None:
        """Give a file of this layer another name."""
        if not target:
            self.refuse("/".join(parts), "is a hard link to nothing")
        if parts == target:
            return
        source = os.dup(self._parent(target))
        try:
            within, leaf = self._parent(parts), parts[-1]
            with self._writing(parts):
                self._make_room(leaf, within, parts)
                os.link(target[-1], leaf, src_dir_fd=source, dst_dir_fd=within, follow_symlinks=False)
        finally:
            os.close(source)

    def fifo(self, parts: tuple[str, ...], mode: int) -> None:
        """Make a FIFO."""
        within, leaf = self._parent(parts), parts[-1]
        with self._writing(parts):
            self._make_room(leaf, within, parts)
            os.mkfifo(leaf, mode & _PERMISSIONS, dir_fd=within)

    def delete(self, parts: tuple[str, ...]) -> None:
        """Hide what layers below have under a name, or all that they have in a directory."""
        within, leaf = self._parent(parts), parts[-1]
        with self._writing(parts):
            if leaf == OPAQUE_MARK:
                self._hide_all(within)
            elif name := leaf.removeprefix(WHITEOUT):
                self._hide(name, within, parts)
            else:
                self.refuse("/".join(parts), "deletes nothing")

    def refuse(self, name: str, finding: str) -> NoReturn:
        """Raise `ContentError` about a member."""
        raise ContentError(f"{self._what}: the member {name[:_SHOWN]!r} {finding}")

    def _hide_all(self, within: int) -> None:
        try:
            os.setxattr(within, OPAQUE, b"y")
        except OSError as error:
            self._keep(OPAQUE_MARK, within, error)

    def _hide_below(self, leaf: str, within: int) -> None:
        directory = os.open(leaf, _DIRECTORY, dir_fd=within)
        try:
            self._hide_all(directory)
        finally:
            os.close(directory)

    def _hide(self, name: str, within: int, parts: tuple[str, ...]) -> None:
        with suppress(FileNotFoundError):
            found = os.stat(name, dir_fd=within, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):  # of this layer: it takes the place of one below, and shows nothing of it
                self._hide_below(name, within)
            return
        try:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=within)
        except OSError as error:
            self._keep(parts[-1], within, error)

    def _keep(self, mark: str, within: int, error: OSError) -> None:
        """Keep a mark as it came, where the kernel or the file system refuses its overlay form."""
        if error.errno not in _NOT_POSSIBLE:
            raise error
        self.is_overlay = False
        with suppress(FileExistsError):
            os.close(os.open(mark, _NEW, _PRIVATE, dir_fd=within))

    def _parent(self, parts: tuple[str, ...]) -> int:
        """Return the descriptor of the directory of a member, which is made if no member made it."""
        names = parts[:-1]
        same = 0
        while same < min(len(names), len(self._open)) and self._open[same][0] == names[same]:
            same += 1
        while len(self._open) > same:
            os.close(self._open.pop()[1])
        for depth in range(same, len(names)):
            within = self._open[-1][1] if self._open else self._root
            with self._writing(parts):
                self._open.append((names[depth], self._folder(names[depth], within, parts)))
        return self._open[-1][1] if self._open else self._root

    def _folder(self, leaf: str, within: int, parts: tuple[str, ...]) -> int:
        try:
            return os.open(leaf, _DIRECTORY, dir_fd=within)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            hides = stat.S_ISCHR(os.stat(leaf, dir_fd=within, follow_symlinks=False).st_mode)
            if leaf != parts[-1] and not hides:
                self.refuse("/".join(parts), f"lies below {leaf[:_SHOWN]!r}, which is not a directory in this layer")
            os.unlink(leaf, dir_fd=within)
            os.mkdir(leaf, _FOLDER, dir_fd=within)
            if hides:
                self._hide_below(leaf, within)
            return os.open(leaf, _DIRECTORY, dir_fd=within)
        os.mkdir(leaf, _FOLDER, dir_fd=within)
        return os.open(leaf, _DIRECTORY, dir_fd=within)

    def _make_room(self, leaf: str, within: int, parts: tuple[str, ...]) -> None:
        try:
            os.unlink(leaf, dir_fd=within)
        except FileNotFoundError:
            pass
        except (IsADirectoryError, PermissionError):
            self.refuse("/".join(parts), "has the name of a directory of this layer")

    def _writing(self, parts: tuple[str, ...]) -> _Writing:
        return _Writing(self, "/".join(parts), f"{self._path}/{'/'.join(parts)}")


class _Writing:
    """Says which member could not be written, and why."""

    def __init__(self, tree: _Tree, name: str, path: str) -> None:
        self._tree = tree
        self._name = name
        self._at = path

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, FileNotFoundError | UnicodeError):
            self._tree.refuse(self._name, "refers to a file that this layer does not have")
        if isinstance(error, OSError):
            raise disk_refusal(
                f"{self._at[:500]}: cannot be written", error, hint="check the free space and the permissions there"
            ) from error


def _write(file: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]
