"""Packages that Spack has deprecated in a tree: marked, and taken only by who names their hash."""

from __future__ import annotations

import json
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
