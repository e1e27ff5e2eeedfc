"""Spack trees: what Spack wrote is read, what is written Spack would read, what is broken is explained."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from oci_binpkg.errors import InstallsError, LocalDiskError
from oci_binpkg.installs.database import empty_document, encode_database, parse_database
from oci_binpkg.installs.spack import SpackInstalls
from oci_binpkg.installs.transaction import Addition
from oci_binpkg.model.query import Query, one
from oci_binpkg.model.spec import Spec, SpecGraph
from oci_binpkg.model.spec_document import parse_spec_document, spec_document
from tests.support.spack_trees import GOLDEN, GOLDEN_ROOT, Sketch, golden_tree, graph_of, spack_tree

SKETCHES = [
    Sketch("gcc", "12.2.0", external="/usr"),
    Sketch("cmake", "3.27", explicit=False),
    Sketch("zlib", "1.3", files={"lib/libz.so": b"z"}, depends=[("gcc", ("build",)), ("cmake", ("build",))]),
    Sketch("app", "2.0", files={"bin/app": "#!/bin/sh\nexec {zlib}/bin/x\n", "lib": "-> {zlib}/lib"}, depends=["zlib"]),
]


def add(installs: SpackInstalls, spec: Spec, graph: SpecGraph, **more: Any) -> None:
    addition = Addition(spec, graph, **more)
    with installs.changing() as change:
        change.enter(addition, change.with_added(addition))


def forget(installs: SpackInstalls, package_hash: str) -> None:
    with installs.changing() as change:
        change.remove(package_hash)


def databases() -> list[Path]:
    return [
        GOLDEN / "specs" / "store-index.v7.json",
        *[GOLDEN / name / "build_cache" / "index.json" for name in ("v2-signed", "v2-unsigned")],
        *[
            path
            for path in sorted(GOLDEN.rglob("blobs/**/*"))
            if path.is_file() and path.read_bytes()[:12] == b'{"database":'
        ],
    ]


@pytest.mark.parametrize("path", databases(), ids=lambda path: f"{path.relative_to(GOLDEN).parts[0]}-{path.name[:8]}")
def test_golden_databases_are_read_and_written_to_the_byte(path: Path) -> None:
    database = parse_database(path.read_bytes(), "golden")
    assert encode_database(database.document) == path.read_bytes()
    assert {"greet", "greetlib", "greetcfg"} <= {record.spec.name for record in database.records.values()}
    assert database.graph.missing() == ()


def test_the_golden_store(tmp_path: Path) -> None:
    tree = golden_tree(tmp_path)
    installs = tree.installs(spack_prefix="/opt/spack")
    data = (tree.root / ".spack-db" / "index.json").read_bytes()
    assert encode_database(parse_database(data, "x").document) == data
    assert (installs.version, len(installs.records())) == ("8", 9)
    assert installs.spack_prefix == "/opt/spack"
    assert installs.sbang_path == f"{tree.root}/bin/sbang"
    greet = one(Query.parse("greet@2.0"), installs.graph.values(), installs.graph)
    record = installs.record(greet.hash)
    assert record is not None
    assert record.prefix == f"{GOLDEN_ROOT}/linux-x86_64/greet-2.0-{greet.hash}"
    assert (record.installed, record.explicit, record.ref_count, record.deprecated_for) == (True, True, 0, "")
    assert record.installation_time == pytest.approx(1795346113.03, abs=0.01)
    gcc = next(record for record in installs.records() if record.spec.name == "gcc")
    assert (gcc.prefix, gcc.ref_count, gcc.spec.is_external) == ("/usr", 5, True)


def test_spec_files_in_prefixes_are_the_documents_of_the_database(tmp_path: Path) -> None:
    tree = golden_tree(tmp_path)
    graph = tree.installs().graph
    for path in tree.root.glob("linux-x86_64/*/.spack/spec.json"):
        document = parse_spec_document(path.read_bytes(), str(path))
        assert spec_document(graph[document.root.hash], graph) == json.loads(path.read_text())


@pytest.mark.parametrize(("version", "form"), [("6", 3), ("7", 4), ("8", 5)])
def test_all_versions(tmp_path: Path, version: str, form: int) -> None:
    tree = spack_tree(tmp_path, SKETCHES, version=version)
    assert tree.spec("app").format_version == form
    assert [spec.name for spec in tree.installs().graph.closure([tree.spec("app")])] == ["zlib", "app"]
    assert (tree.prefix("app") / "bin" / "app").read_text() == f"#!/bin/sh\nexec {tree.prefix('zlib')}/bin/x\n"
    assert os.readlink(tree.prefix("app") / "lib") == f"{tree.prefix('zlib')}/lib"


def change(tree_root: Path, key: str, **values: Any) -> None:
    index = tree_root / ".spack-db" / "index.json"
    document = json.loads(index.read_text())
    record = document["database"]["installs"][key]
    for name, value in values.items():
        record.pop(name, None)
        if value is not ...:
            record[name] = value
    index.write_text(json.dumps(document))


@pytest.mark.parametrize("path", [None, ..., "None"])
def test_externals_need_no_path(tmp_path: Path, path: object) -> None:
    tree = spack_tree(tmp_path, SKETCHES)
    change(tmp_path, tree.hashes["gcc"], path=path)
    assert tree.prefix("gcc") == Path("/usr")


def test_records_without_a_prefix_or_with_a_lost_one(tmp_path: Path) -> None:
    tree = spack_tree(tmp_path, SKETCHES)
    change(
        tmp_path,
        tree.hashes["zlib"],
        path=None,
        installed=...,
        ref_count=None,
        installation_time=None,
        explicit=...,
        deprecated_for="abc",
    )
    (tree.prefix("app") / "bin" / "app").unlink()
    app = tree.installs().record(tree.hashes["app"])
    zlib = tree.installs().record(tree.hashes["zlib"])
    assert app is not None
    assert zlib is not None
    assert (
        zlib.prefix,
        zlib.installed,
        zlib.is_present,
        zlib.ref_count,
        zlib.installation_time,
        zlib.deprecated_for,
    ) == ("", False, False, 0, 0.0, "abc")
    assert app.is_present
    os.rename(app.prefix, f"{app.prefix}.gone")
    assert not app.is_present


def test_prefixes_outside_the_root_are_trusted(tmp_path: Path) -> None:
    tree = spack_tree(tmp_path / "tree", SKETCHES)
    elsewhere = tmp_path / "elsewhere"
    tree.prefix("zlib").rename(elsewhere)
    change(tmp_path / "tree", tree.hashes["zlib"], path=str(elsewhere))
    record = tree.installs().record(tree.hashes["zlib"])
    assert record is not None
    assert record.is_present


def test_unknown_members_are_tolerated_and_kept(tmp_path: Path) -> None:
    tree = spack_tree(tmp_path, SKETCHES)
    change(tmp_path, tree.hashes["zlib"], colour="blue")
    installs = tree.installs()
    forget(installs, tree.hashes["app"])
    document = json.loads((tmp_path / ".spack-db" / "index.json").read_text())
    assert document["database"]["installs"][tree.hashes["zlib"]]["colour"] == "blue"


def test_old_nodes_are_known_by_their_key(tmp_path: Path) -> None:
    tree = spack_tree(tmp_path, [Sketch("zlib")], version="6")
    index = tmp_path / ".spack-db" / "index.json"
    document = json.loads(index.read_text())
    del document["database"]["installs"][tree.hashes["zlib"]]["spec"]["hash"]
    index.write_text(json.dumps(document))
    assert tree.spec("zlib").hash == tree.hashes["zlib"]


def test_upstream_trees_complete_the_graph(tmp_path: Path) -> None:
    upstream = spack_tree(tmp_path / "up", SKETCHES[:3])
    whole = spack_tree(tmp_path / "whole", SKETCHES)
    index = tmp_path / "whole" / ".spack-db" / "index.json"
    document = json.loads(index.read_text())
    document["database"]["installs"] = {
        k: r for k, r in document["database"]["installs"].items() if r["spec"]["name"] == "app"
    }
    index.write_text(json.dumps(document))
    alone = whole.installs()
    assert [edge.name for _, edge in alone.graph.missing()] == ["zlib"]
    both = whole.installs(upstreams=[str(tmp_path / "up")])
    assert both.graph.missing() == ()
    zlib = both.record(upstream.hashes["zlib"])
    assert zlib is not None
    assert zlib.prefix.startswith(str(tmp_path / "up"))


def test_a_tree_in_a_clone_tells_where_spack_is(tmp_path: Path) -> None:
    spack_tree(tmp_path / "spack" / "opt" / "spack", [])
    assert SpackInstalls(str(tmp_path / "spack" / "opt" / "spack")).spack_prefix == str(tmp_path / "spack")
    spack_tree(tmp_path / "store", [])
    assert SpackInstalls(str(tmp_path / "store")).spack_prefix == str(tmp_path / "store")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("clone", "clone/opt/spack"),
        ("clone/opt/spack/linux-x86_64", "clone/opt/spack"),
        ("clone/opt/spack/.spack-db", "clone/opt/spack"),
    ],
)
def test_a_near_miss_is_told_where_the_tree_is(tmp_path: Path, given: str, meant: str) -> None:
    spack_tree(tmp_path / "clone" / "opt" / "spack", SKETCHES)
    with pytest.raises(InstallsError, match="not a Spack install tree") as caught:
        SpackInstalls(str(tmp_path / given))
    assert caught.value.hint == f"a Spack install tree has .spack-db/index.json in it; did you mean {tmp_path / meant}?"


@pytest.mark.parametrize("name", ["nothing", "file"])
def test_no_tree_at_all(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InstallsError, match=f"{name}: not a Spack install tree") as caught:
        SpackInstalls(str(tmp_path / name))
    assert "did you mean" not in caught.value.hint


@pytest.mark.parametrize(
    ("content", "complaint", "hint"),
    [
        (b'{"database": {"version": "8", "inst', "index.json: not valid JSON", "spack reindex"),
        (b"[]", "a JSON object is expected", "spack reindex"),
        (b'{"database": []}', "database: an object is expected", "spack reindex"),
        (
            b'{"database": {"version": "9", "installs": {}}}',
            "a database of version '9'; versions 6 to 8",
            "a newer oci-binpkg",
        ),
        (
            b'{"database": {"version": "5", "installs": {}}}',
            "a database of version '5'; versions 6 to 8",
            "spack reindex",
        ),
        (b'{"database": {"version": "0.9.3", "installs": {}}}', "version '0.9.3'", "spack reindex"),
        (b'{"database": {"installs": {}}}', "version 'None'", "spack reindex"),
        (b'{"database": {"version": "8", "installs": []}}', "installs: an object", "spack reindex"),
        (b'{"database": {"version": "8", "installs": {"abc": 3}}}', "abc: a record is an object", "spack reindex"),
        (b'{"database": {"version": "8", "installs": {"abc": {}}}}', "abc.spec: an object", "spack reindex"),
        (
            b'{"database": {"version": "8", "installs": {"abc": {"spec": {"name": "x", "version": "1", "hash": "def", "arch": "a-b-c"}}}}}',
            "abc: the record holds the spec of def",
            "spack reindex",
        ),
    ],
)
def test_broken_databases_are_explained(tmp_path: Path, content: bytes, complaint: str, hint: str) -> None:
    (tmp_path / ".spack-db").mkdir()
    (tmp_path / ".spack-db" / "index.json").write_bytes(content)
    with pytest.raises(InstallsError) as caught:
        SpackInstalls(str(tmp_path))
    assert str(tmp_path) in caught.value.message
    assert complaint in caught.value.message
    assert hint in caught.value.hint


def test_an_index_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / ".spack-db" / "index.json").mkdir(parents=True)
    with pytest.raises(InstallsError, match=r"index\.json: cannot be read: Is a directory"):
        SpackInstalls(str(tmp_path))


def test_version_as_a_number_is_understood() -> None:
    assert parse_database(b'{"database": {"version": 8}}', "x").version == "8"


def counts(installs: SpackInstalls) -> dict[str, tuple[bool, bool, int]]:
    return {r.spec.name: (r.installed, r.explicit, r.ref_count) for r in installs.records()}


def test_packages_are_added_as_spack_does(tmp_path: Path) -> None:
    graph, specs = graph_of(SKETCHES)
    installs = SpackInstalls(str(tmp_path), create=True, new_verifier=lambda: "v1")
    prefix = installs.prefix_for(specs["zlib"])
    assert prefix == f"{tmp_path}/linux-x86_64/zlib-1.3-{specs['zlib'].hash}"
    os.makedirs(prefix)
    with installs.locked(specs["zlib"]):
        add(installs, specs["zlib"], graph, prefix=prefix, explicit=False, installation_time=5.0)
    assert counts(installs) == {"gcc": (False, False, 1), "cmake": (False, False, 1), "zlib": (True, False, 0)}
    add(installs, specs["app"], graph, prefix=installs.prefix_for(specs["app"]), explicit=True, installation_time=6.0)
    assert counts(installs) == {
        "gcc": (False, False, 1),
        "cmake": (False, False, 1),
        "zlib": (True, False, 1),
        "app": (True, True, 0),
    }
    assert (tmp_path / ".spack-db" / "index_verifier").read_text() == "v1"
    again = SpackInstalls(str(tmp_path))
    assert counts(again) == counts(installs)
    assert spec_document(specs["app"], again.graph) == spec_document(specs["app"], graph)
    record = again.record(specs["zlib"].hash)
    assert record is not None
    assert (record.prefix, record.is_present, record.installation_time) == (prefix, True, 5.0)


def test_adding_again_keeps_what_is_known(tmp_path: Path) -> None:
    tree = spack_tree(tmp_path, SKETCHES)
    installs = tree.installs()
    before = counts(installs)
    zlib = tree.spec("zlib")
    add(installs, zlib, installs.graph, prefix=installs.prefix_for(zlib), explicit=False, installation_time=9.0)
    assert counts(installs) == before


def test_changes_of_other_processes_are_not_lost(tmp_path: Path) -> None:
    graph, specs = graph_of(SKETCHES)
    first = SpackInstalls(str(tmp_path), create=True)
    second = SpackInstalls(str(tmp_path), create=True)
    add(first, specs["zlib"], graph, prefix="/a", explicit=True, installation_time=1.0)
    add(second, specs["app"], graph, prefix="/b", explicit=True, installation_time=1.0)
    assert counts(SpackInstalls(str(tmp_path)))["zlib"] == (True, True, 1)


def test_removal_keeps_what_others_need(tmp_path: Path) -> None:
    tree = spack_tree(tmp_path, SKETCHES)
    installs = tree.installs()
    forget(installs, tree.hashes["zlib"])
    assert counts(installs)["zlib"] == (False, True, 1)
    forget(installs, tree.hashes["app"])
    assert set(counts(installs)) == {"gcc", "cmake"}
    assert counts(installs)["cmake"] == (True, False, 0)
    forget(installs, "unknown")


def test_upstream_packages_get_no_record(tmp_path: Path) -> None:
    spack_tree(tmp_path / "up", SKETCHES[:3])
    graph, specs = graph_of(SKETCHES)
    installs = SpackInstalls(str(tmp_path / "own"), create=True, upstreams=[str(tmp_path / "up")])
    add(installs, specs["app"], graph, prefix="/x", explicit=True, installation_time=1.0)
    assert [record.spec.name for record in SpackInstalls(str(tmp_path / "own")).records()] == ["app"]
    assert installs.graph.missing() == ()


def test_old_packages_are_converted_for_a_new_tree(tmp_path: Path) -> None:
    graph, specs = graph_of([Sketch("zlib", compiler=("gcc", "12.2.0")), Sketch("app", depends=["zlib"])], form=3)
    installs = SpackInstalls(str(tmp_path), create=True)
    add(installs, specs["app"], graph, prefix="/x", explicit=True, installation_time=1.0)
    zlib, app = installs.graph[specs["zlib"].hash], installs.graph[specs["app"].hash]
    assert zlib.node["annotations"] == {"original_specfile_version": 3, "compiler": "gcc@=12.2.0"}
    assert "compiler" not in zlib.node
    assert zlib.compiler == ("gcc", "12.2.0")
    assert app.node["dependencies"] == [
        {"name": "zlib", "hash": zlib.hash, "parameters": {"deptypes": ["build", "link"], "virtuals": []}}
    ]


def test_old_packages_are_converted_for_a_tree_of_version_7(tmp_path: Path) -> None:
    tree = spack_tree(tmp_path, [], version="7")
    graph, specs = graph_of([Sketch("zlib", compiler=("gcc", "12.2.0"))], form=3)
    installs = tree.installs()
    add(installs, specs["zlib"], graph, prefix="/x", explicit=True, installation_time=1.0)
    assert installs.graph[specs["zlib"].hash].node["compiler"] == {"name": "gcc", "version": "12.2.0"}


def test_new_packages_do_not_fit_an_old_tree(tmp_path: Path) -> None:
    tree = spack_tree(tmp_path, [], version="7")
    graph, specs = graph_of([Sketch("zlib")])
    with pytest.raises(InstallsError, match="has a spec of format 5; this tree holds format 4"):
        add(tree.installs(), specs["zlib"], graph, prefix="/x", explicit=True, installation_time=1.0)


def test_a_tree_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    installs = SpackInstalls(str(tmp_path / "file"), create=True)
    with pytest.raises(LocalDiskError, match="cannot be made"):
        forget(installs, "x")


def test_git_versions_make_no_directories(tmp_path: Path) -> None:
    graph, specs = graph_of([Sketch("zlib", "git.fix/that=1.2")])
    prefix = SpackInstalls(str(tmp_path), create=True).prefix_for(specs["zlib"])
    assert os.path.dirname(prefix) == f"{tmp_path}/linux-x86_64"
    assert isinstance(graph, SpecGraph)


def test_empty_document_is_a_database() -> None:
    assert parse_database(encode_database(empty_document()), "x").records == {}
