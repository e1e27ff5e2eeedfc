"""The directories and links of a base image, from the headers of its layers: what layers above it must not change.

Sources: OCI image-spec 1.1, layer.md ("Whiteouts", "Opaque Whiteout"); POSIX.1-2017, pax, "ustar Interchange Format".
"""

from __future__ import annotations

import json
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from oci_binpkg.archive.codec import Readable, decompressed
from oci_binpkg.archive.merged_layer import end_of
from oci_binpkg.archive.tar_walk import TarBlocks, walk_tar
from oci_binpkg.archive.tar_writer import PARENT_MODE, header
from oci_binpkg.errors import ContentError

WHITEOUT: Final = ".wh."
OPAQUE: Final = ".wh..wh..opq"
_MOST_ENTRIES: Final = 500_000
_MOST_NAME_BYTES: Final = 64 * 1024 * 1024
_MOST_LINKS: Final = 40
_LOADER: Final = re.compile(r"ld(?:[-.0-9A-Za-z_]*)\.so(?:\.[0-9]+)*|ld-[0-9.]+\.so|libc\.so", re.ASCII)
"""The names of loaders: glibc's `ld-linux-x86-64.so.2`, `ld-2.31.so` and `ld64.so.2`, musl's `ld-musl-x86_64.so.1`.

musl's may be a link to its libc.so.
"""


class Attributes(NamedTuple):
    """What a header says of a directory."""

    mode: int
    uid: int
    gid: int
    mtime: int

    @property
    def is_usual(self) -> bool:
        """Whether a package layer says the same of a directory above its prefix, times aside."""
        return (self.mode, self.uid, self.gid) == (PARENT_MODE, 0, 0)


@dataclass(slots=True)
class Directories:
    """Directories and links by their path without a slash in front, and what a layer takes away from those below it."""

    directories: dict[str, Attributes] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    opaque: set[str] = field(default_factory=set)
    loaders: set[str] = field(default_factory=set)
    """The files that can be loaders of programs, by their names."""

    def put(self, upper: Directories) -> None:
        """Put what another layer says on top of this."""
        covered = upper.gone | upper.links.keys()
        self.directories = {
            path: each for path, each in self.directories.items() if not _is_lost(path, covered, upper.opaque)
        }
        self.links = {path: each for path, each in self.links.items() if not _is_lost(path, covered, upper.opaque)}
        self.loaders = {path for path in self.loaders if not _is_lost(path, covered, upper.opaque)} | upper.loaders
        for path, attributes in upper.directories.items():
            self.links.pop(path, None)
            self.directories[path] = attributes
        self.links |= upper.links

    def real(self, prefix: str) -> str:
        """Return where an absolute path really lies, with the links above it followed.

        Raises `ContentError` for links that lead around in a circle.
        """
        *above, last = prefix.strip("/").split("/")
        left, followed = list(reversed(above)), 0
        done: list[str] = []
        while left:
            part = left.pop()
            if part in ("", "."):
                continue
            if part == "..":
                done = done[:-1]
                continue
            target = self.links.get("/".join([*done, part]))
            if target is None:
                done.append(part)
                continue
            followed += 1
            if followed > _MOST_LINKS:
                raise ContentError(f"the links above {prefix[:200]!r} in the base image lead around in a circle")
            left += reversed(target.split("/"))
            done = [] if target.startswith("/") else done
        return "/" + "/".join([*done, last])

    def has_loader(self, path: str) -> bool:
        """Return whether there is a file at an absolute path, through links, that can be a loader."""
        for _ in range(_MOST_LINKS):
            real = self.real(path).strip("/")
            target = self.links.get(real)
            if target is None:
                return real in self.loaders
            path = target if target.startswith("/") else f"/{real.rpartition('/')[0]}/{target}"
        return False

    def changed_by(self, prefixes: Iterable[str]) -> dict[str, Attributes]:
        """Return the directories of which layers of packages at (real) prefixes say something else than this."""
        paths = {path for prefix in prefixes for path in above(prefix)}
        found = {path: self.directories[path] for path in paths if path in self.directories}
        return {path: found[path] for path in sorted(found) if not found[path].is_usual}

    def to_bytes(self) -> bytes:
        """Encode what `from_bytes` reads."""
        return zlib.compress(
            json.dumps([self.directories, self.links, *map(sorted, (self.gone, self.opaque, self.loaders))]).encode(), 1
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Directories:
        """Decode what this program wrote."""
        directories, links, *others = json.loads(zlib.decompress(data))
        return cls({path: Attributes(*each) for path, each in directories.items()}, links, *map(set, others))


def above(prefix: str) -> Iterator[str]:
    """Yield the directories above an absolute path, without the slash in front, from the root on."""
    parts = prefix.strip("/").split("/")
    for count in range(1, len(parts)):
        yield "/".join(parts[:count])


def _is_lost(path: str, covered: set[str], opaque: set[str]) -> bool:
    return path in covered or "" in opaque or any(each in covered or each in opaque for each in above(path))


def directories_of(stream: Readable, what: str) -> Directories:
    """Read the headers of a layer. Raises `ContentError` for anything but a tar, and for too many names."""
    found = Directories()
    count = size = 0
    for member in walk_tar(TarBlocks(decompressed(stream, what, several_frames=True), what)):
        parts = [part for part in member.name.split("/") if part not in ("", ".")]
        if not parts or ".." in parts or not _note(found, parts, member.info):
            continue
        count, size = count + 1, size + len(member.name) + len(member.info.linkname)
        if count > _MOST_ENTRIES or size > _MOST_NAME_BYTES:
            raise ContentError(f"{what} has too many directories and links")
    return found


def _note(found: Directories, parts: Sequence[str], info: tarfile.TarInfo) -> bool:
    """Note what a member says; return whether that matters here."""
    path, last = "/".join(parts), parts[-1]
    if last == OPAQUE:
        found.opaque.add("/".join(parts[:-1]))
    elif last.startswith(WHITEOUT):
        found.gone.add("/".join([*parts[:-1], last.removeprefix(WHITEOUT)]))
    elif info.isdir():
        found.links.pop(path, None)
        found.directories[path] = Attributes(info.mode & 0o7777, info.uid, info.gid, int(info.mtime))
    elif info.issym():
        found.directories.pop(path, None)
        found.links[path] = info.linkname
    elif _LOADER.fullmatch(last):
        found.loaders.add(path)
    else:
        return False
    return True


def restoring(found: Mapping[str, Attributes]) -> bytes:
    """Return the tar that says of directories what the base says of them."""
    data = directory_headers(found)
    return data + end_of(len(data))


def parents_as_in_base(prefix: str, found: Mapping[str, Attributes]) -> bytes:
    """Return the headers of the directories above a prefix: as packages have them, but for those that are `found`."""
    return b"".join(
        directory_headers({path: found[path]}) if path in found else header(path, tarfile.DIRTYPE, PARENT_MODE)
        for path in above(prefix)
    )


def directory_headers(found: Mapping[str, Attributes]) -> bytes:
    """Return the headers of directories, those above before those below."""
    return b"".join(_header(path, found[path]) for path in sorted(found, key=lambda path: path.split("/")))


def _header(path: str, attributes: Attributes) -> bytes:
    info = tarfile.TarInfo(path)
    info.type = tarfile.DIRTYPE
    info.mode, info.uid, info.gid, info.mtime = attributes
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
