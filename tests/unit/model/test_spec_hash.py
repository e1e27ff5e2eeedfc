"""A hash names the contents of a node: nothing else may stand under it."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from oci_binpkg.errors import ContentError
from oci_binpkg.installs.packages_toml import PrefixInstalls
from oci_binpkg.model import spec_document
from oci_binpkg.model.spec_document import NodeReader, parse_node, parse_spec_document
from oci_binpkg.model.spec_hash import HashState, judge_hash
from tests.support.golden import GOLDEN, LAYOUT, read_blob, unpack_store
from tests.support.made_layouts import hashed, lying, node, spack_hash, unverified


def golden_nodes(tmp_path: Path) -> list[tuple[dict[str, Any], int]]:
    """Every node in the golden data that is at hand as JSON, with its format."""
    store = unpack_store(tmp_path)
    found: list[tuple[dict[str, Any], int]] = []
    records = json.loads((store / ".spack-db/index.json").read_bytes())["database"]["installs"]
    found += [(record["spec"], 5) for record in records.values()]
    for path in (GOLDEN / "specs").glob("*.json"):
        document = json.loads(path.read_bytes())
        if "spec" in document:
            found += [(n, document["spec"]["_meta"]["version"]) for n in document["spec"]["nodes"]]
        else:
            installs = document["database"]["installs"]
            found += [({**record["spec"], "hash": key}, 4) for key, record in installs.items()]
    for entry in json.loads((LAYOUT / "index.json").read_bytes())["manifests"]:
        config = json.loads(read_blob(json.loads(read_blob(entry["digest"]))["config"]["digest"]))
        if "spec" in config:
            found += [(n, config["spec"]["_meta"]["version"]) for n in config["spec"]["nodes"]]
    return found


def test_every_hash_in_the_golden_data_is_that_of_its_node(tmp_path: Path) -> None:
    nodes = golden_nodes(tmp_path)
    assert len(nodes) > 40
    assert {form for _, form in nodes} == {4, 5}
    assert {judge_hash(n, form) for n, form in nodes} == {HashState.VERIFIED}


def test_a_packages_file_gives_hashes_that_hold(tmp_path: Path) -> None:
    for name in ("lib", "app"):
        (tmp_path / name).mkdir()
    arch = '[defaults]\narch = { platform = "linux", os = "debian12", target = "x86_64" }\n'
    packages = (
        '[[package]]\nname="lib"\nversion="1"\nprefix="lib"\n[[package]]\nname="app"\nversion="2"\nprefix="app"\n'
    )
    (tmp_path / "packages.toml").write_text(arch + packages + 'depends=["lib"]\n')
    specs = [record.spec for record in PrefixInstalls(str(tmp_path)).records()]
    assert [spec.hash_state for spec in specs] == [HashState.VERIFIED] * 2
    for spec in specs:
        assert judge_hash({**spec.node, "version": "99"}, 5) is HashState.WRONG


@pytest.mark.parametrize(
    "members",
    [
        {"version": "99.0"},
        {"name": "other"},
        {"namespace": "mine"},
        {"arch": {"platform": "linux", "platform_os": "debian12", "target": "zen4"}},
        {"parameters": {"hardened": True}},
        {"dependencies": []},
        {"external": {"path": "/evil", "module": None, "extra_attributes": {}}},
        {"package_hash": "q" * 52 + "===="},
        {"unknown": 1},
    ],
    ids=lambda members: next(iter(members)),
)
def test_a_node_under_the_hash_of_another_is_refused(members: dict[str, Any]) -> None:
    made = node(needs=[node("lib")])
    assert judge_hash(made, 5) is HashState.VERIFIED
    lie = lying(made, **members)
    assert judge_hash(lie, 5) is HashState.WRONG
    document = {"spec": {"_meta": {"version": 5}, "nodes": [lie, node("lib")]}}
    with pytest.raises(ContentError, match="claims the hash"):
        parse_spec_document(document, "package")


def test_a_lie_about_a_dependency_spoils_the_document() -> None:
    lib = node("lib")
    made = node(needs=[lib])
    document = {"spec": {"_meta": {"version": 5}, "nodes": [made, lying(lib, version="9")]}}
    with pytest.raises(ContentError, match=r"lib@9.*claims the hash"):
        parse_spec_document(document, "package")


def test_a_spliced_package_keeps_the_end_of_the_hash_it_was_built_under() -> None:
    built = node()
    spliced = {**node(needs=[node("other")]), "build_spec": {"name": "tool", "hash": built["hash"]}}
    own = spack_hash(spliced)
    spliced["hash"] = own[:-7] + built["hash"][-7:]
    assert judge_hash(spliced, 5) is HashState.VERIFIED
    assert judge_hash({**spliced, "hash": own}, 5) is HashState.WRONG
    assert judge_hash({**spliced, "version": "2"}, 5) is HashState.WRONG


@pytest.mark.parametrize(
    ("made", "form"),
    [
        (node(), 1),
        (node(), 2),
        (unverified(node(), "z" * 32), 5),
        (hashed(node(annotations={"original_specfile_version": 4})) | {"hash": "z" * 32}, 5),
    ],
    ids=["format 1", "format 2", "without package_hash", "converted"],
)
def test_where_no_rule_is_known_a_hash_counts_as_unverified(made: dict[str, Any], form: int) -> None:
    made = {**made, "hash": "z" * 32}
    assert judge_hash(made, form) is HashState.UNKNOWN
    assert parse_node(made, form, "node").hash_state is HashState.UNKNOWN


def document_of(*nodes: dict[str, Any]) -> dict[str, Any]:
    return {"spec": {"_meta": {"version": 5}, "nodes": list(nodes)}}


@pytest.mark.parametrize(
    "members", [{"version": "9"}, {"parameters": {"x": 1}}, {"unknown": None}, {"namespace": "mine"}], ids=repr
)
def test_a_node_that_was_seen_before_is_not_believed_under_its_hash_with_other_contents(
    members: dict[str, Any],
) -> None:
    reader = NodeReader()
    made = node()
    first = parse_spec_document(document_of(made), "first", reader).root
    assert parse_spec_document(document_of(dict(made)), "again", reader).root is first
    with pytest.raises(ContentError, match="claims the hash"):
        parse_spec_document(document_of(lying(made, **members)), "then", reader)
    unknown = unverified(made, "z" * 32)
    for version in ("1", "2"):
        root = parse_spec_document(document_of({**unknown, "version": version}), "unknown", reader).root
        assert root.version == version


def test_what_is_remembered_of_nodes_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spec_document, "_MOST_REMEMBERED", 100)
    reader = NodeReader()
    large = hashed({**node(), "annotations": {"original_specfile_version": 5, "x": "y" * 100_000}})
    assert (
        parse_spec_document(document_of(large), "a", reader).root
        is not parse_spec_document(document_of(dict(large)), "b", reader).root
    )
    tracemalloc.start()
    for number in range(1000):
        parse_spec_document(document_of(node(version=str(number), annotations={"x": "y" * 7000})), "many", reader)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 3 * 1024 * 1024
