"""Spliced packages: other dependencies took the place of those they were built with; the archive is that of the build.

Source: Spack's `Spec._splice_match` and `spack.rewiring`: the dependency of the same name replaces one, else that which
provides all virtual packages that it provided.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

from oci_binpkg.cache.protocol import CacheEntry
from oci_binpkg.model.reference import PackageKey
from oci_binpkg.model.spec import Spec, SpecGraph
from oci_binpkg.model.spec_document import SpecDocument, spec_document


def spliced(built: CacheEntry, spec: Spec, graph: SpecGraph) -> CacheEntry:
    """Return the entry of a spliced package, whose archive is that of `built`; `graph` has its dependencies."""
    nodes = {**dict(built.document.graph), **{each.hash: each for each in graph.breadth_first(spec, None)}}
    document = SpecDocument(max(spec.format_version, built.document.version), spec, SpecGraph(nodes.values()))
    return replace(built, key=PackageKey.of(spec), document=document)


def spec_file_of(document: SpecDocument) -> bytes:
    """Return the `.spack/spec.json` of a spliced package, as Spack writes it."""
    return json.dumps(spec_document(document.root, document.graph), separators=(",", ":")).encode("ascii")


def analogs(spec: Spec, graph: SpecGraph) -> Mapping[str, Spec]:
    """Return what took the place of the packages that a spliced package was built with, by their hashes."""
    if spec.build_spec is None:
        return {}
    now = (*graph.breadth_first(spec, ("run",)), *graph.breadth_first(spec, ("link",)))
    by_name = {each.name: each for each in now}
    built = graph.get(spec.build_spec[1])
    before = graph.breadth_first(built, None) if built is not None else tuple(graph.values())
    provided = _virtuals(graph, spec)
    found = {spec.build_spec[1]: spec}
    for old in before:
        if old.hash in found:
            continue
        new = by_name.get(old.name)
        if new is None and built is not None and (wanted := _virtuals(graph, built).get(old.hash)):
            new = next((each for each in now if wanted <= provided.get(each.hash, frozenset())), None)
        if new is not None:
            found[old.hash] = new
    return found


def _virtuals(graph: SpecGraph, root: Spec) -> dict[str, frozenset[str]]:
    """Return the virtual packages that each package provides to others below a root."""
    found: dict[str, frozenset[str]] = {}
    for spec in graph.breadth_first(root, None):
        for edge in spec.dependencies:
            found[edge.hash] = found.get(edge.hash, frozenset()).union(edge.virtuals)
    return found
