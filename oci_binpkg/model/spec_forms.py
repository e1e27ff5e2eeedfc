"""Nodes of older spec formats in the form of a newer one, as Spack converts them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from oci_binpkg.model.spec import NEWEST_FORMAT, Dependency, Spec

_OLD_EDGES: Final = 3  # formats up to this one write the types of a dependency as `type`


def has_edges_with(node: Mapping[str, Any], *keys: str) -> bool:
    """Return whether the edges of a node are a list of objects with these members.

    A document may say that it is of a format and have edges in the form of another one, which readers accept.
    """
    edges = node.get("dependencies") or []
    return isinstance(edges, list) and all(isinstance(edge, dict) and edge.keys() >= {*keys} for edge in edges)


def node_in(spec: Spec, form: int) -> dict[str, Any]:
    """Return the node of `spec` in spec format `form` (3 to 5), which is not older than its own.

    The hash stays that of the original format. From format 5 on the compiler is an annotation: readers of that format
    refuse a whole document for one node with a compiler of its own.
    """
    has_its_edges = has_edges_with(spec.node, "hash", "type") if form <= _OLD_EDGES else _has_new_edges(spec.node)
    is_newest = form >= NEWEST_FORMAT
    if spec.format_version == form and has_its_edges and not (is_newest and "compiler" in spec.node):
        return dict(spec.node)
    node = {key: value for key, value in spec.node.items() if key != "compiler"}
    if not has_its_edges:
        node["dependencies"] = [_edge_in(edge, form) for edge in spec.dependencies]
    if not is_newest and "compiler" in spec.node:
        node["compiler"] = spec.node["compiler"]
    if is_newest and (spec.format_version < form or "compiler" in spec.node):
        original = min(spec.format_version, NEWEST_FORMAT - 1)
        compiler = {"compiler": f"{spec.compiler[0]}@={spec.compiler[1]}"} if spec.compiler else {}
        node["annotations"] = {"original_specfile_version": original, **compiler}
    return node


def _has_new_edges(node: Mapping[str, Any]) -> bool:
    edges = node.get("dependencies") or []
    if not has_edges_with(node, "name", "hash", "parameters"):
        return False
    return all(isinstance(e["parameters"], dict) and e["parameters"].keys() >= {"deptypes", "virtuals"} for e in edges)


def _edge_in(edge: Dependency, form: int) -> dict[str, Any]:
    if form <= _OLD_EDGES:
        return {"name": edge.name, "hash": edge.hash, "type": [*edge.types]}
    parameters = {"deptypes": [*edge.types], "virtuals": [*edge.virtuals]}
    return {"name": edge.name, "hash": edge.hash, "parameters": parameters}
