"""Spec documents and their nodes: reading formats 1 to 5, and writing a document of nodes as they were read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Never

from oci_binpkg.errors import ContentError
from oci_binpkg.model.arch import parse_arch
from oci_binpkg.model.documents import integer_of, list_of, object_of, parse_json, text_of, texts_of
from oci_binpkg.model.identifiers import check_hash, check_name, check_value, check_version, is_path
from oci_binpkg.model.spec import FLAGS, NEWEST_FORMAT, Dependency, Spec, SpecGraph
from oci_binpkg.model.spec_hash import HashState, measured_hash

LAST_WITH_ALIASES: Final = 2
NEWEST_LAYOUT: Final = 3
_MOST_REMEMBERED: Final = 2048
_LARGEST_REMEMBERED: Final = 8 * 1024
_WORDS: Final = frozenset({"build", "link", "run", "test", "c", "cxx", "fortran", "libc"})
_MAX_INTEGER: Final = 2**63
_HASH_KEYS: Final = ("hash", "full_hash", "build_hash")
_FORMS: Final = {1: 1, 2: 3, 3: 3, 4: 4, 5: 4}  # format -> oldest whose nodes can stand beside it in a document


@dataclass(frozen=True, slots=True)
class SpecDocument:
    """A spec document: its format version, the package it is about, and all nodes."""

    version: int
    root: Spec
    graph: SpecGraph


class NodeReader:
    """Parses the nodes of documents, and remembers those that have the hash they claim.

    The documents of a cache share most of their nodes: a node that equals one of the same hash is that one, and is
    neither parsed nor hashed again. Thread-safe; what is remembered is bounded.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], Spec] = {}

    def read(self, node: Mapping[str, Any], version: int, what: str, where: str) -> Spec:
        """Return the spec of a node. Raises `ContentError` as `parse_node` (at `where`) and `refuse_wrong_hash`."""
        claimed = node.get("hash")
        known = self._known.get((claimed, version)) if isinstance(claimed, str) else None
        if known is not None and known.node == node:
            return known
        spec = parse_node(node, version, where)
        state, size = measured_hash(node, version)
        if state is HashState.WRONG:
            _refuse_hash(spec, what)
        if state is HashState.VERIFIED and size <= _LARGEST_REMEMBERED:
            if len(self._known) >= _MOST_REMEMBERED:
                self._known.clear()
            self._known[spec.hash, version] = spec
        return spec


def parse_spec_document(
    document: Mapping[str, Any] | bytes, what: str, nodes_of: NodeReader | None = None
) -> SpecDocument:
    """Parse a spec document of format 1 to 5, from bytes or from an object that has its `spec` member.

    `nodes_of` is the reader of other documents that this one may share nodes with.
    Raises `ContentError` with the field's path, naming a format that is newer than we know, and for a node that claims
    a hash that is not its own.
    """
    if isinstance(document, bytes):
        document = parse_json(document, what, fold_case=False)
    if isinstance(document.get("spec"), list):
        version, nodes = 1, [_named(entry, f"{what}.spec[{i}]") for i, entry in enumerate(document["spec"])]
    else:
        body = object_of(document, "spec", what)
        version = _format(object_of(body, "_meta", f"{what}.spec").get("version"), what)
        nodes = list_of(body, "nodes", f"{what}.spec")
    entries = {str(i): node for i, node in enumerate(nodes)}
    at = f"{what}.spec.nodes"
    reader = nodes_of or NodeReader()
    specs = [reader.read(object_of(entries, i, at), version, what, f"{at}.{i}") for i in entries]
    if not specs:
        raise ContentError(f"{what}: the spec document has no nodes")
    graph = SpecGraph(specs if version > LAST_WITH_ALIASES else _without_aliases(specs))
    graph.closure(graph.values(), types=None)
    return SpecDocument(version, graph[specs[0].hash], graph)


def check_layout(document: Mapping[str, Any], what: str) -> None:
    """Raise `ContentError` if what stands beside a spec says that its archive is made in a way that came later."""
    key = "buildcache_layout_version"
    layout = integer_of(document, key, what) if key in document else 0
    if layout > NEWEST_LAYOUT:
        raise ContentError(
            f"{what}: a package of layout {layout}; layouts up to {NEWEST_LAYOUT} are understood",
            hint="a newer oci-binpkg may read it; the other packages there can be used",
        )


def refuse_wrong_hash(spec: Spec, what: str) -> None:
    """Raise `ContentError` for a node that claims a hash that is not its own."""
    if spec.hash_state is HashState.WRONG:
        _refuse_hash(spec, what)


def _refuse_hash(spec: Spec, what: str) -> Never:
    raise ContentError(f"{what}: {spec.short} claims the hash {spec.hash}, which is not that of what it says")


def _without_aliases(specs: Sequence[Spec]) -> list[Spec]:
    aliases = {spec.node[key]: spec.hash for spec in specs for key in _HASH_KEYS if isinstance(spec.node.get(key), str)}
    return [_resolved(spec, aliases) for spec in specs]


def spec_document(root: Spec, graph: SpecGraph) -> dict[str, Any]:
    """Return the document `{"spec": {"_meta": …, "nodes": […]}}` of `root`: the root first, nodes as they were read.

    Raises `ContentError` if a node is missing, or if nodes come from formats that cannot stand in one document.
    """
    specs = graph.document_order(root)
    edges = [(spec, edge.name, edge.hash) for spec, edge in graph.missing(specs)]
    edges += [(spec, *spec.build_spec) for spec in specs if spec.build_spec and spec.build_spec[1] not in graph]
    if edges:
        spec, name, package_hash = edges[0]
        raise ContentError(
            f"{spec.short} depends on {name}/{package_hash[:7]}, which is not known here",
            hint="a spec document needs all dependencies: name the upstream tree or cache that has it",
        )
    version = max(spec.format_version for spec in specs)
    if len({_FORMS[spec.format_version] for spec in specs}) > 1:
        raise ContentError(f"{root.short}: its dependencies are described in spec formats that cannot be mixed")
    nodes = [dict(spec.node) for spec in specs]
    if version == 1:
        return {"spec": [{node.pop("name"): node} for node in nodes]}
    return {"spec": {"_meta": {"version": version}, "nodes": nodes}}


def parse_node(node: Mapping[str, Any], version: int, what: str) -> Spec:
    """Parse one node of a document or database whose spec format is `version` (1 to 5). Raises `ContentError`.

    The forms of dependencies are known by their shape, not by the version: `parameters`, or `type` before format 4.
    """
    external = object_of(node, "external", what, optional=True)
    namespace = _text_or_nothing(node, "namespace", what)
    return Spec(
        name=check_name(text_of(node, "name", what), f"{what}.name"),
        version=check_version(text_of(node, "version", what), f"{what}.version"),
        hash=_hash_of(node, what),
        arch=parse_arch(node.get("arch"), f"{what}.arch"),
        namespace=check_name(namespace, f"{what}.namespace") if namespace else "",
        parameters=_parameters(node, what),
        dependencies=edges_of(node, what),
        compiler=_compiler(node, what),
        external_path=_external_path(external, f"{what}.external"),
        build_spec=_build_spec(node, f"{what}.build_spec"),
        node=node,
        format_version=version,
    )


def _format(version: object, what: str) -> int:
    if type(version) is not int or version < 1:
        raise ContentError(f"{what}: the spec format {str(version)[:40]!r} is not a version number")
    if version > NEWEST_FORMAT:
        raise ContentError(
            f"{what}: a spec document of format {version}; formats 1 to {NEWEST_FORMAT} are understood",
            hint="a newer oci-binpkg may read it",
        )
    return version


def _named(entry: object, what: str) -> dict[str, Any]:
    """Turn `{NAME: {…}}` of format 1 into a node that has its name inside."""
    if not isinstance(entry, dict) or len(entry) != 1:
        raise ContentError(f"{what}: an object with one package name is expected")
    name = next(iter(entry))
    return {"name": name, **object_of(entry, name, what)}


def _resolved(spec: Spec, aliases: Mapping[str, str]) -> Spec:
    """Before format 3 an edge may name another hash of its node than the one that identifies it."""
    edges = tuple(replace(edge, hash=aliases.get(edge.hash, edge.hash)) for edge in spec.dependencies)
    return replace(spec, dependencies=edges)


def _parameters(node: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Return variants and flags: flags are lists of texts, variants truth values, texts, numbers or lists of these."""
    parameters = object_of(node, "parameters", what, optional=True)
    for name, value in parameters.items():
        at = f"{what}.parameters.{check_value(name, f'{what}.parameters')}"
        if name in FLAGS:
            for flag in texts_of(parameters, name, f"{what}.parameters"):
                check_value(flag, at)
        else:
            for each in value if isinstance(value, list) else (value,):
                _check_scalar(each, at)
    return parameters


def _check_scalar(value: object, what: str) -> None:
    if isinstance(value, str):
        check_value(value, what)
    elif isinstance(value, int) and -_MAX_INTEGER <= value < _MAX_INTEGER:  # truth values are numbers, too
        return
    elif value is not None and not isinstance(value, float):
        raise ContentError(f"{what}: a truth value, a text, a number or a list of these is expected")


def _external_path(external: Mapping[str, Any], what: str) -> str:
    path = _text_or_nothing(external, "path", what)
    if path and not is_path(path):
        raise ContentError(f"{what}.path: {path[:80]!r} is not an absolute, normalised path")
    return path


def _hash_of(holder: Mapping[str, Any], what: str) -> str:
    key = "hash" if "hash" in holder else next((key for key in _HASH_KEYS if key in holder), "hash")
    return check_hash(text_of(holder, key, what), f"{what}.{key}")


def _text_or_nothing(holder: Mapping[str, Any], key: str, what: str) -> str:
    return "" if holder.get(key) is None else text_of(holder, key, what)


def _build_spec(node: Mapping[str, Any], what: str) -> tuple[str, str] | None:
    build_spec = node.get("build_spec") and object_of(node, "build_spec", what)
    if not build_spec:
        return None
    return check_name(text_of(build_spec, "name", what), f"{what}.name"), _hash_of(build_spec, what)


def _compiler(node: Mapping[str, Any], what: str) -> tuple[str, str] | None:
    """Return the node's own compiler; a node that was converted to format 5 keeps it as an annotation, as text."""
    compiler = node.get("compiler") or object_of(node, "annotations", what, optional=True).get("compiler")
    if isinstance(compiler, str):
        name, _, version = compiler.partition("@")
        version = version.lstrip("=")
    elif isinstance(compiler, dict):
        name = text_of(compiler, "name", f"{what}.compiler")
        version = text_of(compiler, "version", f"{what}.compiler")
    else:
        return None
    check_name(name, f"{what}.compiler.name")
    return name, check_version(version, f"{what}.compiler.version") if version else ""


def edges_of(node: Mapping[str, Any], what: str) -> tuple[Dependency, ...]:
    """Return the edges of a node, in the form of whichever format they are. Raises `ContentError`."""
    at = f"{what}.dependencies"
    entries = node.get("dependencies")
    if isinstance(entries, dict):  # format 1
        edges = {name: {"name": name, **_old_edge(edge, f"{at}.{name}")} for name, edge in entries.items()}
    else:
        edges = {str(i): edge for i, edge in enumerate(list_of(node, "dependencies", what, optional=True))}
    return tuple(_dependency(object_of(edges, key, at), f"{at}.{key}") for key in edges)


def _old_edge(edge: object, what: str) -> dict[str, Any]:
    if isinstance(edge, str):
        return {"hash": edge, "type": ["build", "link"]}
    if isinstance(edge, list) and len(edge) == 2:  # noqa: PLR2004 - hash and types
        return {"hash": edge[0], "type": edge[1]}
    if not isinstance(edge, dict):
        raise ContentError(f"{what}: hash and types are expected")
    return edge


def _dependency(edge: Mapping[str, Any], what: str) -> Dependency:
    parameters = object_of(edge, "parameters", what, optional=True)
    types = texts_of(parameters, "deptypes", what) if "deptypes" in parameters else texts_of(edge, "type", what)
    virtuals = texts_of(parameters, "virtuals", what)
    for word in (*types, *virtuals):
        if word not in _WORDS:
            check_name(word, what)
    return Dependency(check_name(text_of(edge, "name", what), f"{what}.name"), _hash_of(edge, what), types, virtuals)
