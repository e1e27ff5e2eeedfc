"""The index of a cache as bytes, and its records with what a query may ask of them.

Hundreds of thousands of nodes are read here, of which many are alike: what describes a package beside its name,
version and dependencies is parsed once for all nodes in which it stands with the same bytes. A node of an unusual
shape is left to the strict reader, which reads every shape or says what is wrong.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from oci_binpkg.cache.index import FORMAT_OF_VERSION, IndexBytes
from oci_binpkg.errors import ContentError
from oci_binpkg.model.arch import Arch
from oci_binpkg.model.content import Digest
from oci_binpkg.model.documents import parse_json
from oci_binpkg.model.spec import Spec, parse_node

_HASH: Final = re.compile(r"[a-z0-9]{1,64}", re.ASCII)
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*", re.ASCII)


IndexReader = Callable[[str, Digest | None], IndexBytes | None]
"""Reads the index of a configured cache by its name; None if its digest is still the one given.

Raises `NotFoundError` if the cache has none.
"""


@dataclass(frozen=True, slots=True)
class Kind:
    """What many packages have in common. `compiler` is name and version where it is an attribute of the package."""

    namespace: str
    arch: Arch
    compiler: tuple[str, str] | None


Edge = tuple[str, str, tuple[str, ...]]
"""A dependency: name, hash, and the virtual packages it provides."""


@dataclass(frozen=True, slots=True)
class PackageRow:
    """What a query may ask of a package. `parameters` is a JSON object; equal ones are the same text."""

    hash: str
    name: str
    version: str
    kind: Kind
    parameters: str
    edges: tuple[Edge, ...]


class _Record(msgspec.Struct, gc=False):
    spec: msgspec.Raw
    in_buildcache: Any = None


class _Database(msgspec.Struct):
    version: str
    installs: dict[str, _Record]


class _Document(msgspec.Struct):
    database: _Database


class _EdgeParameters(msgspec.Struct, gc=False):
    virtuals: tuple[str, ...] | None = None


class _Edge(msgspec.Struct, gc=False):
    name: str
    hash: str
    parameters: _EdgeParameters | None = None


class _Annotations(msgspec.Struct, gc=False):
    compiler: msgspec.Raw = msgspec.Raw()


class _Node(msgspec.Struct, gc=False):
    name: str
    version: str
    arch: msgspec.Raw
    hash: str
    namespace: str | None = None
    parameters: msgspec.Raw = msgspec.Raw()
    compiler: msgspec.Raw = msgspec.Raw()
    annotations: _Annotations | None = None
    dependencies: tuple[_Edge, ...] | None = None


_INDEX: Final = msgspec.json.Decoder(_Document)
_NODE: Final = msgspec.json.Decoder(_Node)
_PLAIN: Final = _EdgeParameters()


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
        reader = _NodeReader(self.form)
        for package_hash in wanted:
            where = f"{self.what}.installs.{package_hash[:64]}"
            row = reader.read(self.records[package_hash].spec, where)
            if row.hash != package_hash:
                raise ContentError(f"{where}: holds the spec of {row.hash[:64]}")
            yield row


@dataclass(slots=True)
class _NodeReader:
    """Reads nodes of one spec format, remembering what was parsed of those before."""

    form: int
    kinds: dict[tuple[bytes, ...], Kind] = field(default_factory=dict)
    parameters: dict[bytes, str] = field(default_factory=dict)

    def read(self, raw: msgspec.Raw, where: str) -> PackageRow:
        """Return the row of a node. Raises `ContentError`."""
        try:
            node = _NODE.decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return _row_of(self._strictly(raw, where))
        if not (_NAME.fullmatch(node.name) and _HASH.fullmatch(node.hash)):
            self._strictly(raw, where)
        compiled = node.annotations.compiler if node.annotations else b""
        key = (bytes(node.arch), (node.namespace or "").encode(), bytes(node.compiler), bytes(compiled))
        kind, parameters = self.kinds.get(key), self.parameters.get(bytes(node.parameters))
        if kind is None or parameters is None:
            row = _row_of(self._strictly(raw, where))
            self.kinds[key] = row.kind
            self.parameters[bytes(node.parameters)] = row.parameters
            return row
        edges = tuple([(e.name, e.hash, (e.parameters or _PLAIN).virtuals or ()) for e in node.dependencies or ()])
        return PackageRow(node.hash, node.name, node.version, kind, parameters, edges)

    def _strictly(self, raw: msgspec.Raw, where: str) -> Spec:
        return parse_node(parse_json(bytes(raw), f"{where}.spec", fold_case=False), self.form, f"{where}.spec")


def parse_raw_index(data: bytes, what: str) -> RawIndex:
    """Take an index apart. `data` must stay unchanged as long as its records are used.

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


def _row_of(spec: Spec) -> PackageRow:
    edges = tuple((edge.name, edge.hash, edge.virtuals) for edge in spec.dependencies)
    parameters = json.dumps(spec.parameters, separators=(",", ":"), ensure_ascii=False)
    kind = Kind(spec.namespace, spec.arch, spec.compiler)
    return PackageRow(spec.hash, spec.name, spec.version, kind, parameters, edges)
