"""The records of an index with what a query may ask of them.

Hundreds of thousands of nodes are read here, of which many are alike: what describes a package beside its name,
version and dependencies is parsed once for all nodes in which it stands with the same bytes. A node of an unusual
shape is left to the strict reader, which reads every shape or says what is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import msgspec

from oci_binpkg.errors import ContentError
from oci_binpkg.index.document import IndexDocument
from oci_binpkg.index.records import Notice, Records, refuse
from oci_binpkg.model.arch import Arch
from oci_binpkg.model.content import Digest
from oci_binpkg.model.documents import parse_json
from oci_binpkg.model.identifiers import is_hash, is_name, is_version
from oci_binpkg.model.spec import Spec
from oci_binpkg.model.spec_document import parse_node

IndexReader = Callable[[str, Digest | None], IndexDocument | None]
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


class _EdgeParameters(msgspec.Struct, gc=False):
    virtuals: tuple[str, ...] | None = None


class _RowDependency(msgspec.Struct, gc=False):
    name: str
    hash: str
    parameters: _EdgeParameters | None = None


class _SpecAnnotations(msgspec.Struct, gc=False):
    compiler: msgspec.Raw = msgspec.Raw()


class _RowNode(msgspec.Struct, gc=False):
    name: str
    version: str
    arch: msgspec.Raw
    hash: str
    namespace: str | None = None
    parameters: msgspec.Raw = msgspec.Raw()
    compiler: msgspec.Raw = msgspec.Raw()
    annotations: _SpecAnnotations | None = None
    dependencies: tuple[_RowDependency, ...] | None = None


_NODE: Final = msgspec.json.Decoder(_RowNode)
_PLAIN: Final = _EdgeParameters()


def read_rows(records: Records, wanted: Iterable[str], notice: Notice = refuse) -> Iterator[PackageRow]:
    """Yield the rows of these hashes, in their order; a record that cannot be read goes to `notice` instead."""
    readers: dict[int, _RowReader] = {}
    for package_hash in wanted:
        node = records.node(package_hash)
        reader = readers.get(node.form) or readers.setdefault(node.form, _RowReader(node.form))
        try:
            row = reader.read(node.text, node.record)
            if row.hash != package_hash:
                raise ContentError(f"{node.record}: holds the spec of {row.hash[:64]}")  # noqa: TRY301
        except ContentError as error:
            notice(package_hash, error)
        else:
            yield row


@dataclass(slots=True)
class _RowReader:
    """Reads nodes of one spec format, remembering what was parsed of those before."""

    form: int
    kinds: dict[tuple[bytes, ...], Kind] = field(default_factory=dict)
    parameters: dict[bytes, str] = field(default_factory=dict)
    edges: set[Edge] = field(default_factory=set)

    def read(self, raw: bytes | msgspec.Raw, where: str) -> PackageRow:
        """Return the row of a node. Raises `ContentError`."""
        try:
            node = _NODE.decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return _row_of(self._strictly(raw, where))
        if not (is_name(node.name) and is_hash(node.hash) and is_version(node.version)):
            return _row_of(self._strictly(raw, where))
        compiled = node.annotations.compiler if node.annotations else b""
        key = (bytes(node.arch), (node.namespace or "").encode(), bytes(node.compiler), bytes(compiled))
        kind, parameters = self.kinds.get(key), self.parameters.get(bytes(node.parameters))
        if kind is None or parameters is None:
            row = _row_of(self._strictly(raw, where))
            self.kinds[key] = row.kind
            self.parameters[bytes(node.parameters)] = row.parameters
            return row
        edges = tuple([(e.name, e.hash, (e.parameters or _PLAIN).virtuals or ()) for e in node.dependencies or ()])
        for edge in edges:
            if edge not in self.edges:
                if not _is_sound(edge):
                    return _row_of(self._strictly(raw, where))
                self.edges.add(edge)
        return PackageRow(node.hash, node.name, node.version, kind, parameters, edges)

    def _strictly(self, raw: bytes | msgspec.Raw, where: str) -> Spec:
        return parse_node(parse_json(bytes(raw), f"{where}.spec", fold_case=False), self.form, f"{where}.spec")


def _is_sound(edge: Edge) -> bool:
    name, package_hash, virtuals = edge
    return is_name(name) and is_hash(package_hash) and all(map(is_name, virtuals))


def _row_of(spec: Spec) -> PackageRow:
    edges = tuple((edge.name, edge.hash, edge.virtuals) for edge in spec.dependencies)
    parameters = json.dumps(spec.parameters, separators=(",", ":"), ensure_ascii=False)
    kind = Kind(spec.namespace, spec.arch, spec.compiler)
    return PackageRow(spec.hash, spec.name, spec.version, kind, parameters, edges)
