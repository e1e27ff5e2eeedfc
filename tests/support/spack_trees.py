"""Small install trees for tests: a few sketches become real prefixes with a real database.

    tree = spack_tree(tmp_path / "store", [Sketch("zlib", "1.3", files={"lib/libz.so": b"z"}), Sketch("app", depends=["zlib"])])
    tree.installs()                      # the tree, opened
    tree.spec("app"), tree.prefix("app")

Hashes come from the content of the nodes, so they are the same in every run.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oci_binpkg.installs.spack import SpackInstalls
from oci_binpkg.model.spec import FLAGS, Spec, SpecGraph
from oci_binpkg.model.spec_document import parse_node, spec_document
from tests.support.golden import unpack_store

GOLDEN = Path(__file__).parents[2] / "fixtures" / "golden"
GOLDEN_ROOT = "/opt/golden/store"
_FORMATS = {"6": 3, "7": 4, "8": 5}


@dataclass(frozen=True)
class Sketch:
    """A package to be. `depends` holds names of earlier sketches, or (name, types); a file's content of type str that
    starts with `-> ` is a symbolic link. `{root}`, `{prefix}` and `{NAME}` (a dependency's prefix) in text files are filled in."""

    name: str
    version: str = "1.0"
    files: Mapping[str, bytes | str] = field(default_factory=dict)
    depends: Sequence[str | tuple[str, tuple[str, ...]]] = ()
    variants: Mapping[str, Any] = field(default_factory=dict)
    external: str = ""
    explicit: bool = True
    namespace: str = "lab"
    target: str | Mapping[str, Any] = "x86_64"
    compiler: tuple[str, str] | None = None
    virtuals: tuple[str, ...] = ()  # what it provides to those that depend on it


@dataclass(frozen=True)
class Tree:
    """A tree on disk and the names in it."""

    root: Path
    hashes: Mapping[str, str]

    def installs(self, **options: Any) -> SpackInstalls:
        return SpackInstalls(str(self.root), **options)

    def spec(self, name: str) -> Spec:
        return self.installs().graph[self.hashes[name]]

    def prefix(self, name: str) -> Path:
        record = self.installs().record(self.hashes[name])
        assert record is not None
        return Path(record.prefix)


def node_of(sketch: Sketch, dependencies: Iterable[Mapping[str, Any]] = (), *, form: int = 5) -> dict[str, Any]:
    """A node with the hash that Spack gives it. `dependencies` are edges as they stand in nodes."""
    node: dict[str, Any] = {
        "name": sketch.name,
        "version": sketch.version,
        "arch": {"platform": "linux", "platform_os": "debian12", "target": sketch.target},
        "namespace": sketch.namespace,
        "parameters": {**sketch.variants, **{flag: [] for flag in FLAGS if flag not in sketch.variants}},
    }
    if sketch.compiler:
        node["compiler"] = {"name": sketch.compiler[0], "version": sketch.compiler[1]}
    if sketch.external:
        node["external"] = {"path": sketch.external, "module": None, "extra_attributes": {}}
    if edges := sorted(dependencies, key=lambda edge: str(edge["name"])):
        node["dependencies"] = edges
    if form == 5:
        node["annotations"] = {"original_specfile_version": 5}
    content = json.dumps(node, separators=(",", ":")).encode()
    return {**node, "hash": base64.b32encode(hashlib.sha1(content).digest()).decode().lower()}


def nodes_of(sketches: Sequence[Sketch], *, form: int = 5) -> dict[str, dict[str, Any]]:
    """The nodes of sketches by name; a sketch only depends on earlier ones."""
    nodes: dict[str, dict[str, Any]] = {}
    provides = {sketch.name: sketch.virtuals for sketch in sketches}
    for sketch in sketches:
        edges = []
        for depend in sketch.depends:
            name, types = (depend, ("build", "link")) if isinstance(depend, str) else depend
            use = (
                {"type": list(types)}
                if form == 3
                else {"parameters": {"deptypes": list(types), "virtuals": list(provides[name])}}
            )
            edges.append({"name": name, "hash": nodes[name]["hash"], **use})
        nodes[sketch.name] = node_of(sketch, edges, form=form)
    return nodes


def graph_of(sketches: Sequence[Sketch], *, form: int = 5) -> tuple[SpecGraph, dict[str, Spec]]:
    """The graph of sketches, and the specs by name; nothing is written."""
    specs = {name: parse_node(node, form, name) for name, node in nodes_of(sketches, form=form).items()}
    return SpecGraph(specs.values()), specs


def spack_tree(root: Path, sketches: Sequence[Sketch], *, version: str = "8", installation_time: float = 1.7e9) -> Tree:
    """Write prefixes with their files and `.spack/spec.json`, and the database."""
    form = _FORMATS[version]
    nodes = nodes_of(sketches, form=form)
    graph = SpecGraph(parse_node(node, form, name) for name, node in nodes.items())
    prefixes = {
        s.name: s.external or str(root / f"linux-{_target(s)}" / f"{s.name}-{s.version}-{nodes[s.name]['hash']}")
        for s in sketches
    }
    used = [edge["hash"] for node in nodes.values() for edge in node.get("dependencies", ())]
    installs = {}
    for sketch in sketches:
        node, prefix = nodes[sketch.name], prefixes[sketch.name]
        if not sketch.external:
            _fill(Path(prefix), sketch.files, {**prefixes, "root": str(root), "prefix": prefix})
            (Path(prefix) / ".spack").mkdir(exist_ok=True)
            (Path(prefix) / ".spack" / "spec.json").write_text(json.dumps(spec_document(graph[node["hash"]], graph)))
        installs[node["hash"]] = {
            "spec": node,
            "ref_count": used.count(node["hash"]),
            "path": prefix,
            "installed": True,
            "explicit": sketch.explicit and not sketch.external,
            "installation_time": installation_time,
            "deprecated_for": None,
        }
    (root / ".spack-db").mkdir(parents=True, exist_ok=True)
    document = {"database": {"version": version, "installs": installs}}
    (root / ".spack-db" / "index.json").write_text(json.dumps(document, separators=(",", ":")))
    return Tree(root, {name: node["hash"] for name, node in nodes.items()})


def golden_tree(folder: Path) -> Tree:
    """Unpack the golden store below `folder`. Its database names prefixes below /opt/golden/store, as it was made."""
    unpack_store(folder)
    tree = Tree(folder / GOLDEN_ROOT.lstrip("/"), {})
    return Tree(
        tree.root, {record.spec.short.partition("/")[0]: record.spec.hash for record in tree.installs().records()}
    )


def _target(sketch: Sketch) -> str:
    return sketch.target if isinstance(sketch.target, str) else str(sketch.target["name"])


def _fill(prefix: Path, files: Mapping[str, bytes | str], names: Mapping[str, str]) -> None:
    prefix.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = prefix / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
            continue
        for key, value in names.items():
            content = content.replace(f"{{{key}}}", value)  # noqa: PLW2901
        if content.startswith("-> "):
            os.symlink(content[3:], path)
            continue
        path.write_text(content)
        path.chmod(0o755 if content.startswith("#!") else 0o644)
