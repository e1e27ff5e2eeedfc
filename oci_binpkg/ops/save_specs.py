"""Write the specs of packages, so that a pipeline can hand exact packages on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from oci_binpkg.disk import Batch, batch, disk_errors, make_folder
from oci_binpkg.installs.protocol import InstallTree
from oci_binpkg.model.query import Query, matching
from oci_binpkg.model.spec import RUNTIME, Spec, SpecGraph
from oci_binpkg.model.spec_document import spec_document


@dataclass(frozen=True, slots=True)
class SavedSpec:
    """The spec document of one package: where it was written, and the query that means exactly this package."""

    spec: Spec
    path: str

    @property
    def query(self) -> str:
        """A query that needs no index."""
        return f"{self.spec.name}@={self.spec.version}/{self.spec.hash}"

    def to_json(self) -> dict[str, Any]:
        """Return the JSON document."""
        return {"query": self.query, "file": self.path}


def save_specs(specs: Iterable[tuple[Spec, SpecGraph]], folder: str) -> list[SavedSpec]:
    """Write `NAME-VERSION-HASH.spec.json` of each spec, with the specs around it. Raises `LocalDiskError`."""
    with batch() as files:
        return [_save(files, spec, graph, folder) for spec, graph in specs]


def specs_in(installs: InstallTree, queries: Sequence[Query], *, present: bool = False) -> list[Spec]:
    """Return the specs of a tree that match the queries, externals left out.

    Without a query those of the tree itself are meant, and what these link to or run in upstream trees.

    With `present` those whose prefix is gone are left out, too. Raises `NoMatchError` for a query that nothing matches.
    """
    records = [r for r in installs.records() if not r.spec.is_external and (r.is_present or not present)]
    specs = [record.spec for record in records]
    if not queries:
        own = [record.spec for record in records if not record.upstream]
        needed = {spec.hash for spec in installs.graph.reachable(own, RUNTIME)} if len(own) < len(specs) else set()
        return [r.spec for r in records if not r.upstream or r.spec.hash in needed]
    return matching(queries, specs, installs.graph)


def _save(files: Batch, spec: Spec, graph: SpecGraph, folder: str) -> SavedSpec:
    path = os.path.join(folder, f"{spec.name}-{spec.version}-{spec.hash}.spec.json".replace("/", "_"))
    text = json.dumps(spec_document(spec, graph), separators=(",", ":"))
    with disk_errors(path, "written"):
        make_folder(os.path.dirname(path))
    files.replace(path, text.encode())
    return SavedSpec(spec, path)
