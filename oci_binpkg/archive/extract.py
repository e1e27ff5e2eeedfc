"""A layer as a directory: the way back of `layer`.

A layer may come from anybody. It is read once, to its last byte, and the directory stays only if everything about it
was right: compression, digest, number of members, their names, and that they all lie below one prefix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Final

from oci_binpkg.archive.binary_distribution import MAX_BYTES, MEMBER, Distribution
from oci_binpkg.archive.block_search import common_part
from oci_binpkg.archive.codec import Readable
from oci_binpkg.archive.destination import Staging, new_directory
from oci_binpkg.archive.tar_input import DEFAULT_LIMITS, BoundedInput, Limits
from oci_binpkg.archive.tar_reader import Member, read_members
from oci_binpkg.errors import ContentError
from oci_binpkg.model.content import Digest

_SHOWN: Final = 200
_MOST_RECIPES: Final = 32
_LARGEST_RECIPE: Final = 256 * 1024
_BYTE_ORDER: Final = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True, slots=True)
class Extracted:
    """What came out of a layer. All paths but `prefix` are relative to the prefix, that is to the new directory.

    `prefix` is the absolute path that the archive records. (Archives from before layout version 2 record the last
    component only; then `distribution` knows the rest.) `members` counts the members, the parents of the prefix and
    the document included, as `TarSummary` does. `files` gives the sizes of regular files in archive order;
    `hard_links` the other names of those that have several. No file in `clean` mentions `looked_for`; texts that begin
    as UTF-16 does were not looked at. `closed` are the bits of a mode that files and directories withhold from others.
    """

    prefix: str
    distribution: Distribution
    diff_id: Digest
    uncompressed_size: int
    members: int
    files: Mapping[str, int]
    hard_links: Mapping[str, tuple[str, ...]]
    looked_for: bytes
    clean: frozenset[str]
    closed: Mapping[str, int] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """The bytes of all files, each counted once."""
        return sum(self.files.values())


def extract_layer(
    stream: Readable,
    destination: str,
    what: str,
    *,
    media_type: str = "",
    expected_prefix: str = "",
    diff_id: Digest | None = None,
    members: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
    on_bytes: Callable[[int], None] | None = None,
) -> Extracted:
    """Extract the layer in `stream` into the new directory `destination`, without the prefix that it records.

    `media_type` (if it names the compression), `expected_prefix` (an absolute path), `diff_id` and `members` are
    compared with what is found, if given. `stream` is read to its end and not closed. `on_bytes` gets the
    number of bytes of the tar that have come.

    Raises `ContentError` naming `what` for everything that is wrong with the layer, and `LocalDiskError` when
    `destination` exists or cannot be written. After these and after any other exception `destination` is gone.
    """
    algorithm = diff_id.algorithm if diff_id else "sha256"
    with (
        new_directory(destination) as root,
        BoundedInput(
            stream, what, media_type=media_type, limits=limits, algorithm=algorithm, on_bytes=on_bytes
        ) as source,
        closing(Staging(root, destination, what)) as staging,
    ):
        package = _Package(what, expected_prefix.strip("/"))
        for member in read_members(source, limits, what):
            package.add(member, source, staging)
        if diff_id and source.digest != diff_id:
            source.fail(f"has the diff_id {source.digest}, not {diff_id}")
        if members is not None and package.members != members:
            source.fail(f"has {package.members} members, not {members}")
        prefix = package.prefix(staging)
        document = f"{what}: {MEMBER}"
        distribution = Distribution.parse(package.document, document).confirmed(f"/{prefix}", document)
        staging.lift(prefix)
        return _extracted(prefix, distribution, source, package, staging)


class _Package:
    """Looks among the members for those that show where the prefix is.

    `begins` maps regular files, of those that are looked at, to the place where they begin in the tar.
    """

    def __init__(self, what: str, expected: str) -> None:
        self._what = what
        self._expected = expected
        self._document_name = ""
        self.document = b""
        self.members = 0
        self.begins: dict[str, int] = {}

    def add(self, member: Member, source: BoundedInput, staging: Staging) -> None:
        self.members += 1
        if self._expected and not _belongs(member.name, self._expected, is_directory=member.kind == "directory"):
            self._outside(member.name, self._expected)
        if member.kind == "file" and member.name.endswith(f"/{MEMBER}"):
            staging.add(member, [self._read_document(member, source)])
        else:
            if member.kind == "file" and not source.upcoming(2).startswith(_BYTE_ORDER):
                if not self.begins:
                    source.look_for(common_part(member.name))
                self.begins[member.name] = source.position
            staging.add(member, source.pieces(member.size))

    def _read_document(self, member: Member, source: BoundedInput) -> bytes:
        if member.size > MAX_BYTES:
            source.fail(f"has a document {MEMBER} of {member.size} bytes; at most {MAX_BYTES} are accepted")
        data = source.exactly(member.size)
        # the package's own has the shortest name; others may lie deeper, in a package that holds installations
        if not self._document_name or len(member.name) < len(self._document_name):
            self._document_name, self.document = member.name, data
        return data

    def prefix(self, staging: Staging) -> str:
        """Return the prefix, as the names of members have it. Raises `ContentError` unless all belong to it."""
        prefix = self._document_name.removesuffix(f"/{MEMBER}")
        if not prefix or (self._expected and prefix != self._expected):
            raise ContentError(
                f"{self._what}: the layer has no document {MEMBER} in its prefix", hint="it is not a layer of a package"
            )
        for names in (staging.files, staging.links, staging.hard_links, staging.directories):
            for name in names:
                if not _belongs(name, prefix, is_directory=names is staging.directories):
                    self._outside(name, prefix)
        return prefix

    def _outside(self, name: str, prefix: str) -> None:
        raise ContentError(f"{self._what}: the member {name[:_SHOWN]!r} is outside of the prefix {prefix[:_SHOWN]!r}")


def _belongs(name: str, prefix: str, *, is_directory: bool) -> bool:
    """Return whether a member is below the prefix, or one of its parents."""
    return name.startswith(f"{prefix}/") or (is_directory and f"{prefix}/".startswith(f"{name}/"))


def _extracted(
    prefix: str, distribution: Distribution, source: BoundedInput, package: _Package, staging: Staging
) -> Extracted:
    begin = len(prefix) + 1
    digest = source.digest  # all of the tar was looked through then
    clean = (name for name, at in package.begins.items() if source.search.is_clean(at, at + staging.files[name]))
    groups: dict[str, list[str]] = {}
    for name, first in staging.hard_links.items():
        groups.setdefault(first[begin:], []).append(name[begin:])
    return Extracted(
        f"/{prefix}",
        distribution,
        digest,
        source.size,
        package.members,
        {name[begin:]: size for name, size in staging.files.items()},
        {first: tuple(names) for first, names in groups.items()},
        source.search.wanted,
        frozenset(name[begin:] for name in clean),
        {name[begin:]: bits for name, bits in staging.closed.items() if name.startswith(f"{prefix}/")},
    )


@dataclass(frozen=True, slots=True)
class Survey:
    """The digest of the tar, the prefix it is made for (absolute), and the directories below that prefix.

    `recipes` are the recipes that Spack left in it: path relative to the prefix -> content.
    """

    diff_id: Digest
    prefix: str
    directories: frozenset[str]
    distribution: Distribution
    recipes: Mapping[str, bytes] = field(default_factory=dict)


def survey_layer(stream: Readable, what: str, *, media_type: str = "", limits: Limits = DEFAULT_LIMITS) -> Survey:
    """Read a layer to its end. Raises `ContentError` naming `what` for one that is damaged or no package's."""
    directories: list[str] = []
    recipes: dict[str, bytes] = {}
    document_name, document = "", b""
    with BoundedInput(stream, what, media_type=media_type, limits=limits) as source:
        for member in read_members(source, limits, what):
            wanted = member.kind == "file" and member.name.endswith(f"/{MEMBER}") and member.size <= MAX_BYTES
            if wanted and (not document_name or len(member.name) < len(document_name)):
                document_name, document = member.name, source.exactly(member.size)
            elif member.kind == "file" and _is_recipe(member.name, member.size) and len(recipes) < _MOST_RECIPES:
                recipes[member.name] = source.exactly(member.size)
            else:
                for _ in source.pieces(member.size):
                    pass
            if member.kind == "directory":
                directories.append(member.name.rstrip("/"))
        diff_id = source.digest
    if not document_name:
        raise ContentError(f"{what}: the layer has no document {MEMBER}", hint="it is not a layer of a package")
    prefix = document_name.removesuffix(f"/{MEMBER}")
    below = frozenset(name.removeprefix(f"{prefix}/") for name in directories if name.startswith(f"{prefix}/"))
    named = f"{what}: {MEMBER}"
    distribution = Distribution.parse(document, named).confirmed(f"/{prefix}", named)
    found = {name.removeprefix(f"{prefix}/"): data for name, data in recipes.items() if name.startswith(f"{prefix}/")}
    return Survey(diff_id, f"/{prefix}", below, distribution, found)


def _is_recipe(name: str, size: int) -> bool:
    return size <= _LARGEST_RECIPE and name.endswith("/package.py") and "/.spack/repos/" in name
