"""Packages that Spack has deprecated in a tree: marked, and taken only by who names their hash."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from tests.support.command_line import binpkg
from tests.support.spack_trees import Sketch, Tree, spack_tree

SKETCHES = (Sketch("greetcfg", files={"f": "1"}), Sketch("greet", files={"f": "2"}, depends=["greetcfg"]))


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return spack_tree(tmp_path / "tree", SKETCHES)


def deprecate(tree: Tree, name: str) -> str:
    """Write into the record of a package that another one takes its place; return its hash."""
    path = Path(tree.root) / ".spack-db/index.json"
    document = json.loads(path.read_text())
    installs = document["database"]["installs"]
    (found,) = [key for key, record in installs.items() if record["spec"]["name"] == name]
    installs[found]["deprecated_for"] = next(key for key in installs if key != found)
    path.write_text(json.dumps(document))
    return found


def test_a_deprecated_package_is_marked(tree: Tree) -> None:
    found = deprecate(tree, "greetcfg")
    listed = {each["hash"]: each["state"] for each in binpkg("find", "--store", tree.root, "--json").json}
    assert listed.pop(found) == "deprecated"
    assert "deprecated" not in listed.values()


def test_a_deprecated_package_is_pushed_by_its_hash_alone(tree: Tree, tmp_path: Path) -> None:
    found = deprecate(tree, "greetcfg")
    words = ("push", f"oci-layout:{tmp_path}/cache", "--store", tree.root, "--dry-run")
    assert binpkg(*words, "greetcfg").code == 4
    assert binpkg(*words, f"/{found}").code == 0


def test_a_deprecated_package_goes_along_with_what_needs_it(tree: Tree, tmp_path: Path) -> None:
    deprecate(tree, "greetcfg")
    cache = f"oci-layout:{tmp_path}/cache"
    assert binpkg("push", cache, "greet", "--store", tree.root, "--update-index").code == 0
    assert "greetcfg" in binpkg("find", "--from", cache).out


def replace(tree: Tree, name: str, successor: str) -> Path:
    """Do what `spack deprecate` does: remove a package, leave a link to its successor; return the link."""
    found, new = tree.hashes[name], tree.hashes[successor]
    prefix, other = tree.prefix(name), tree.prefix(successor)
    specs = other / ".spack/deprecated"
    specs.mkdir(parents=True)
    (prefix / ".spack/spec.json").rename(specs / f"{found}_spec.json")
    shutil.rmtree(prefix)
    prefix.symlink_to(other)
    path = Path(tree.root) / ".spack-db/index.json"
    document = json.loads(path.read_text())
    record = document["database"]["installs"][found]
    record |= {"installed": False, "deprecated_for": new}
    path.write_text(json.dumps(document))
    return prefix


@pytest.fixture
def replaced(tmp_path: Path) -> tuple[Tree, Path]:
    old = Sketch("old", files={"f": "old"})
    sketches = (old, Sketch("new", files={"f": "new"}), Sketch("app", files={"a": "1"}, depends=["old"]))
    tree = spack_tree(tmp_path / "tree", sketches)
    assert binpkg("push", f"oci-layout:{tmp_path}/all", "--store", tree.root, "--update-index").code == 0
    store = tmp_path / "store"  # installed by us, so that there are records of the files
    ended = binpkg("install", "old", "new", "app", "--from", f"oci-layout:{tmp_path}/all", "--store", store)
    assert ended.code == 0, ended.err
    installed = Tree(store, tree.hashes)
    return installed, replace(installed, "old", "new")


@pytest.mark.covers("P25")
@pytest.mark.parametrize("query", ["app", "/old"])
def test_the_successors_files_are_not_pushed_under_the_old_hash(
    replaced: tuple[Tree, Path], query: str, tmp_path: Path
) -> None:
    tree, _ = replaced
    query = query.replace("/old", f"/{tree.hashes['old']}")
    ended = binpkg("push", f"oci-layout:{tmp_path}/cache", query, "new", "--store", tree.root, "--update-index")
    assert "it is deprecated, and its prefix" in ended.err
    listed = {each["name"] for each in binpkg("find", "--from", f"oci-layout:{tmp_path}/cache", "--json").json}
    assert listed == ({"app", "new"} if query == "app" else {"new"})


@pytest.mark.covers("P25")
def test_a_package_that_was_replaced_is_shown_with_its_successor(replaced: tuple[Tree, Path]) -> None:
    tree, _ = replaced
    (found,) = (each for each in binpkg("find", "--store", tree.root, "--json").json if each["name"] == "old")
    assert (found["state"], found["deprecated_for"]) == ("deprecated", tree.hashes["new"])
    assert "deprecated" in binpkg("find", "--store", tree.root).out


@pytest.mark.covers("P25")
def test_the_specs_that_a_successor_keeps_are_no_difference(replaced: tuple[Tree, Path]) -> None:
    tree, _ = replaced
    assert binpkg("verify-store", tree.root, "new").code == 0
    (tree.prefix("new") / ".spack/deprecated/evil").write_text("x")
    assert ".spack/deprecated/evil" in binpkg("verify-store", tree.root, "new").out


@pytest.mark.covers("P30")
def test_with_a_successor_goes_the_link_of_what_it_replaced(replaced: tuple[Tree, Path], tmp_path: Path) -> None:
    tree, link = replaced
    elsewhere = tmp_path / "mine"
    elsewhere.mkdir()
    assert binpkg("uninstall", "new", "--store", tree.root).code == 0
    assert not link.is_symlink()
    assert {each["name"]: each["state"] for each in binpkg("find", "--store", tree.root, "--json").json} == {
        "app": "explicit",
        "old": "gone",
    }


@pytest.mark.covers("P30")
def test_a_directory_at_the_prefix_of_what_was_replaced_stays(replaced: tuple[Tree, Path]) -> None:
    tree, link = replaced
    link.unlink()
    link.mkdir()
    assert binpkg("uninstall", "new", "--store", tree.root).code == 0
    assert link.is_dir()


@pytest.fixture
def cache(tree: Tree, tmp_path: Path) -> str:
    """A cache whose index says, as databases do, that greetcfg is deprecated."""
    found = f"oci-layout:{tmp_path}/cache"
    assert binpkg("push", found, "greet", "--store", tree.root, "--update-index").code == 0
    mark_in_index(tmp_path / "cache", tree.hashes["greetcfg"], tree.hashes["greet"])
    return found


def mark_in_index(layout: Path, package_hash: str, by: object) -> None:
    """Write another index that marks a package, and lead the tag of the index to it."""

    def stored(data: bytes) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (layout / "blobs/sha256" / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    tags = json.loads((layout / "index.json").read_text())
    (entry,) = [
        each for each in tags["manifests"] if each["annotations"]["org.opencontainers.image.ref.name"] == "index.spack"
    ]
    manifest = json.loads((layout / "blobs/sha256" / entry["digest"][7:]).read_text())
    (layer,) = manifest["layers"]
    index = json.loads((layout / "blobs/sha256" / layer["digest"][7:]).read_text())
    index["database"]["installs"][package_hash]["deprecated_for"] = by
    layer |= stored(json.dumps(index).encode())
    entry |= stored(json.dumps(manifest).encode())
    (layout / "index.json").write_text(json.dumps(tags))


def test_what_a_caches_index_marks_is_marked_everywhere(cache: str, tree: Tree) -> None:
    states = {each["name"]: each["state"] for each in binpkg("find", "--from", cache, "--json").json}
    assert states == {"greet": "cached", "greetcfg": "deprecated"}
    assert "deprecated" in binpkg("find", "greetcfg", "--from", cache).out
    assert binpkg("show", "greetcfg", "--from", cache, "--json").json["state"] == "deprecated"
    assert "deprecated" in binpkg("show", "greetcfg", "--from", cache).out
    assert "deprecated" not in binpkg("show", "greet", "--from", cache).out


def test_a_search_of_all_caches_marks_it(cache: str) -> None:
    assert binpkg("mirror", "add", "ours", cache).code == 0
    states = {each["name"]: each["state"] for each in binpkg("search", "--json", "--all-arch").json}
    assert states == {"greet": "cached", "greetcfg": "deprecated"}
    assert [line for line in binpkg("search", "--all-arch").out.splitlines() if "(deprecated)" in line]


@pytest.mark.parametrize("query", ["greetcfg", "greetcfg@1.0", "greetcfg@1:", "greetcfg arch=linux-debian12-x86_64"])
def test_a_deprecated_package_is_installed_by_its_hash_alone(
    cache: str, tree: Tree, tmp_path: Path, query: str
) -> None:
    words = ("--from", cache, "--store", tmp_path / "store", "--dry-run", "--arch", "any")
    refused = binpkg("install", query, *words)
    assert (refused.code, "is deprecated" in refused.err) == (4, True)
    found = tree.hashes["greetcfg"]
    assert f"/{found[:7]}" in refused.err
    for named in (f"/{found[:7]}", f"greetcfg/{found}", f"greetcfg@1.0/{found}"):
        assert binpkg("install", named, *words).code == 0


def test_what_needs_a_deprecated_package_brings_it(cache: str, tmp_path: Path) -> None:
    assert binpkg("install", "greet", "--from", cache, "--store", tmp_path / "store", "--arch", "any").code == 0
    assert list((tmp_path / "store").glob("*/greetcfg-*"))


@pytest.mark.parametrize("mark", [None, "", 7])
def test_other_marks_say_nothing(cache: str, tree: Tree, tmp_path: Path, mark: object) -> None:
    mark_in_index(tmp_path / "cache", tree.hashes["greetcfg"], mark)
    states = {each["state"] for each in binpkg("find", "--from", cache, "--json").json}
    assert states == {"cached"}


def test_an_update_of_the_index_keeps_the_mark(cache: str, tree: Tree) -> None:
    assert binpkg("index", "update", cache).code == 0
    states = {each["name"]: each["state"] for each in binpkg("find", "--from", cache, "--json").json}
    assert states["greetcfg"] == "deprecated"
