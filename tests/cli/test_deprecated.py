"""Packages that Spack has deprecated in a tree: marked, and taken only by who names their hash."""

from __future__ import annotations

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
