"""The index of a cache as bytes, and its records with their nodes still as bytes.

A catalog keeps nodes and seldom looks into them, so that nothing is made of them here: no specs, no dictionaries. The
strict reading is left to whoever takes a node out of the catalog.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from oci_binpkg.cache.index import FORMAT_OF_VERSION
from oci_binpkg.errors import ContentError
from oci_binpkg.model.arch import Arch
from oci_binpkg.model.content import Digest


@dataclass(frozen=True, slots=True)
class IndexBytes:
    """An index as it was read; `digest` is what the cache calls this state of it."""

    data: bytes
    digest: Digest


IndexReader = Callable[[str, Digest | None], IndexBytes | None]
"""Reads the index of a configured cache by its name; None if its digest is still the one given.

Raises `NotFoundError` if the cache has none.
"""


@dataclass(frozen=True, slots=True)
class PackageRow:
    """What the catalog can search for, and the node's JSON as it stands in the index.

    `family` is the architecture in the names of image manifests: `amd64`.
    """

    hash: str
    name: str
    version: str
    platform: str
    os: str
    target: str
    family: str
    node: memoryview


class _Record(msgspec.Struct, gc=False):
    spec: msgspec.Raw
    in_buildcache: Any = None


class _Database(msgspec.Struct):
    version: str
    installs: dict[str, _Record]


class _Document(msgspec.Struct):
    database: _Database


class _Target(msgspec.Struct, gc=False):
    name: str
    parents: tuple[str, ...] | None = None


class _Arch(msgspec.Struct, gc=False):
    platform: str
    platform_os: str
    target: _Target | str


class _Head(msgspec.Struct, gc=False):
    name: str
    version: str
    arch: _Arch | str
    hash: str | None = None
    full_hash: str | None = None
    build_hash: str | None = None


_INDEX: Final = msgspec.json.Decoder(_Document)
_NODE: Final = msgspec.json.Decoder(_Head)


@dataclass(frozen=True, slots=True)
class RawIndex:
    """An index taken apart into its records only. `form` is the spec format of the nodes."""

    what: str
    form: int
    records: dict[str, _Record]

    def in_cache(self) -> dict[str, bool]:
        """Return all hashes, each with whether its package is in the cache or only a dependency of one."""
        return {package_hash: record.in_buildcache is True for package_hash, record in self.records.items()}

    def rows(self, wanted: Iterable[str]) -> Iterator[PackageRow]:
        """Yield the rows of these hashes, in their order. Raises `ContentError` naming the record that is wrong."""
        families: dict[tuple[str, ...], str] = {}
        for package_hash in wanted:
            record = self.records[package_hash]
            head = self._head(package_hash, record)
            platform, system, target, parents = _arch_of(head.arch)
            family = families.get((target, *parents))
            if family is None:
                family = Arch(platform, system, target, parents).go_architecture
                families[target, *parents] = family
            node = memoryview(record.spec)
            yield PackageRow(package_hash, head.name, head.version, platform, system, target, family, node)

    def _head(self, package_hash: str, record: _Record) -> _Head:
        where = f"{self.what}.installs.{package_hash[:64]}"
        try:
            head = _NODE.decode(record.spec)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ContentError(f"{where}.spec: {str(error)[:200]}") from None
        found = head.hash or head.full_hash or head.build_hash
        if found != package_hash:
            raise ContentError(f"{where}: holds the spec of {str(found)[:64]}")
        return head


def parse_raw_index(data: bytes, what: str) -> RawIndex:
    """Take an index apart. `data` must stay unchanged as long as its nodes are used.

    Raises `ContentError`, also for a version that is not understood.
    """
    try:
        database = _INDEX.decode(data).database
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ContentError(f"{what}: {str(error)[:200]}") from None
    form = FORMAT_OF_VERSION.get(database.version)
    if form is None:
        raise ContentError(
            f"{what}: an index of version {database.version[:20]!r}; versions 6 to 8 are understood",
            hint="a newer oci-binpkg may read it",
        )
    return RawIndex(what, form, database.installs)


def _arch_of(arch: _Arch | str) -> tuple[str, str, str, tuple[str, ...]]:
    if isinstance(arch, str):
        platform, _, rest = arch.partition("-")
        system, _, target = rest.rpartition("-")
        return platform, system, target, ()
    if isinstance(arch.target, str):
        return arch.platform, arch.platform_os, arch.target, ()
    return arch.platform, arch.platform_os, arch.target.name, arch.target.parents or ()
