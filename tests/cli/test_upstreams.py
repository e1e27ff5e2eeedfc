"""Trees that build on others: dependencies from upstream trees, and what no database knows any more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import Ended, binpkg
from tests.support.spack_trees import Sketch, Tree, spack_tree

SKETCHES = (
    Sketch("zlib", files={"lib/libz.a": "z"}),
    Sketch("cmake", files={"bin/cmake": "c"}),
    Sketch("app", files={"etc/conf": "{zlib}/lib\n"}, depends=["zlib", ("cmake", ("build",))]),
)


def change(root: Path, names: set[str], *, keep: bool) -> None:
    """Keep only these packages in the database of a tree, or all others."""
    path = root / ".spack-db/index.json"
    document = json.loads(path.read_text())
    installs: dict[str, Any] = document["database"]["installs"]
    for key in [key for key, record in installs.items() if (record["spec"]["name"] in names) is not keep]:
        del installs[key]
    path.write_text(json.dumps(document))


@pytest.fixture
def upstream(tmp_path: Path) -> Tree:
    tree = spack_tree(tmp_path / "upstream", SKETCHES)
    change(tree.root, {"zlib"}, keep=True)
    return tree


@pytest.fixture
def tree(tmp_path: Path, upstream: Tree) -> Tree:
    """A tree whose `app` links to the upstream's zlib, and was built by a cmake that no database knows."""
    made = spack_tree(tmp_path / "tree", SKETCHES)
    conf = made.prefix("app") / "etc/conf"
    conf.write_text(f"{upstream.prefix('zlib')}/lib\n")
    change(made.root, {"app"}, keep=True)
    return made


def push(tree: Tree, cache: str, *more: object) -> Ended:
    ended = binpkg("push", cache, "app", "--store", tree.root, "--update-index", *more)
    assert ended.code == 0, ended.err
    return ended


def names(cache: str) -> list[str]:
    return sorted(each["name"] for each in binpkg("find", "--from", cache, "--json").json)


def configure(upstream: Tree) -> None:
    folder = Path.home() / ".spack"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "upstreams.yaml").write_text(f"upstreams:\n  site:\n    install_tree: {upstream.root}\n")


def test_dependencies_are_pushed_from_an_upstream_and_relocated(tree: Tree, upstream: Tree, tmp_path: Path) -> None:
    cache, store = f"oci-layout:{tmp_path}/cache", tmp_path / "store"
    push(tree, cache, "--upstream", upstream.root)
    assert names(cache) == ["app", "zlib"]
    assert binpkg("install", "app", "--from", cache, "--store", store).code == 0
    (conf,) = store.glob("*/app-*/etc/conf")
    assert conf.read_text().startswith(f"{store}/")
    assert Path(conf.read_text().strip()).is_dir()


def test_upstreams_of_spacks_configuration_count_as_well(tree: Tree, upstream: Tree, tmp_path: Path) -> None:
    configure(upstream)
    push(tree, f"oci-layout:{tmp_path}/cache")
    assert names(f"oci-layout:{tmp_path}/cache") == ["app", "zlib"]


def test_only_the_package_leaves_the_upstream_out(tree: Tree, upstream: Tree, tmp_path: Path) -> None:
    push(tree, f"oci-layout:{tmp_path}/cache", "--upstream", upstream.root, "--only", "package")
    assert names(f"oci-layout:{tmp_path}/cache") == ["app"]


def test_an_install_uses_what_an_upstream_has(tree: Tree, upstream: Tree, tmp_path: Path) -> None:
    cache, store = f"oci-layout:{tmp_path}/cache", tmp_path / "store"
    push(tree, cache, "--upstream", upstream.root)
    assert binpkg("install", "app", "--from", cache, "--store", store, "--upstream", upstream.root).code == 0
    assert not list(store.glob("*/zlib-*"))
    (conf,) = store.glob("*/app-*/etc/conf")
    assert conf.read_text() == f"{upstream.prefix('zlib')}/lib\n"


def test_a_build_dependency_that_no_database_knows_stops_no_push(tmp_path: Path) -> None:
    made = spack_tree(tmp_path / "alone", SKETCHES)
    change(made.root, {"cmake"}, keep=False)
    push(made, f"oci-layout:{tmp_path}/cache")
    assert names(f"oci-layout:{tmp_path}/cache") == ["app", "zlib"]


def test_a_tree_without_its_upstream_is_pushed_without_those_layers(tree: Tree, tmp_path: Path) -> None:
    push(tree, f"oci-layout:{tmp_path}/cache")
    assert names(f"oci-layout:{tmp_path}/cache") == ["app"]


def test_a_wrong_upstreams_yaml_is_named(tree: Tree, tmp_path: Path) -> None:
    folder = Path.home() / ".spack"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "upstreams.yaml").write_text("upstreams:\n  site: 7\n")
    ended = binpkg("push", f"oci-layout:{tmp_path}/cache", "app", "--store", tree.root)
    assert ended.code == 2
    assert "upstreams.site.install_tree must be a path" in ended.err


def test_an_image_takes_dependencies_from_an_upstream(tree: Tree, upstream: Tree, tmp_path: Path) -> None:
    words = ("image", f"oci-layout:{tmp_path}/cache", "app", "--store", tree.root, "--tag", "both")
    alone, both = binpkg(*words, "--json"), binpkg(*words, "--upstream", upstream.root, "--json")
    assert (alone.code, both.code) == (0, 0)
    assert (alone.json["image"]["layers"], both.json["image"]["layers"]) == (1, 2)
    assert ([each[:4] for each in alone.json["image"]["missing"]], both.json["image"]["missing"]) == (["zlib"], [])


def test_a_check_and_a_search_count_an_upstream_as_part_of_the_tree(tree: Tree, upstream: Tree, tmp_path: Path) -> None:
    cache = f"oci-layout:{tmp_path}/cache"
    push(tree, cache)
    for more, lacking, found in (((), [], ["app"]), (("--upstream", upstream.root), ["zlib"], ["app", "zlib"])):
        checked = binpkg("check", "--on", cache, "--store", tree.root, "--json", *more)
        (answer,) = checked.json
        assert [each["short_spec"].partition("@")[0] for each in answer["rebuildSpecs"]] == lacking
        assert checked.code == bool(lacking)
        listed = binpkg("find", "--store", tree.root, "--json", *more).json
        assert sorted(each["name"] for each in listed) == found
        assert [each.get("upstream", "") for each in listed if each["name"] == "zlib"] == [str(upstream.root)] * bool(
            more
        )
        assert not any("upstream" in each for each in listed if each["name"] == "app")


@pytest.mark.parametrize("more", [["--from", "oci-layout:nowhere"], []])
def test_an_upstream_without_a_tree_is_an_error(upstream: Tree, more: list[str]) -> None:
    ended = binpkg("find", "--upstream", upstream.root, *more)
    assert (ended.code, "--upstream is about an install tree" in ended.err) == (2, True)


def test_what_was_installed_in_an_upstream_alone_is_not_pushed_or_missed(tmp_path: Path) -> None:
    upstream = spack_tree(tmp_path / "upstream", [*SKETCHES, Sketch("editor", files={"bin/ed": "e"})])
    tree = spack_tree(tmp_path / "tree", SKETCHES)
    change(tree.root, {"app"}, keep=True)
    cache = f"oci-layout:{tmp_path}/cache"
    push_all = binpkg("push", cache, "--store", tree.root, "--upstream", upstream.root, "--update-index")
    assert push_all.code == 0, push_all.err
    assert names(cache) == ["app", "zlib"]
    assert binpkg("check", "--on", cache, "--store", tree.root, "--upstream", upstream.root).code == 0
    by_name = binpkg("check", "editor", "--on", cache, "--store", tree.root, "--upstream", upstream.root)
    assert (by_name.code, "editor" in by_name.out) == (1, True)


def test_a_tree_that_builds_on_two_upstreams(tmp_path: Path) -> None:
    trees = {name: spack_tree(tmp_path / name, SKETCHES) for name in ("one", "two", "tree")}
    change(trees["one"].root, {"cmake"}, keep=True)
    change(trees["two"].root, {"zlib"}, keep=True)
    change(trees["tree"].root, {"app"}, keep=True)
    cache = f"oci-layout:{tmp_path}/cache"
    push(trees["tree"], cache, "--upstream", trees["one"].root, "--upstream", trees["two"].root)
    assert names(cache) == ["app", "zlib"]
