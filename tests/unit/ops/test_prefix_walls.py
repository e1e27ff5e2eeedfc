"""Prefixes stay below their tree, whatever a spec or a record says: nothing else is written, replaced or removed."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oci_binpkg.archive.codec import Codec
from oci_binpkg.archive.layer_cache import LayerCache
from oci_binpkg.cache.oci import OciCache
from oci_binpkg.disk import PrefixPath
from oci_binpkg.errors import BinpkgError, ContentError, InstallsError, LocalDiskError, NoMatchError
from oci_binpkg.installs.spack import SpackInstalls
from oci_binpkg.installs.transaction import Addition, StagedPackage, commit, hidden, stage, sweep
from oci_binpkg.model.query import Query
from oci_binpkg.ops.install import Installed, InstallOptions, install
from oci_binpkg.ops.layer_packer import LayerPacker
from oci_binpkg.ops.push import PushOptions, push
from oci_binpkg.ops.selection import select
from oci_binpkg.ops.sources import Sources
from oci_binpkg.ops.upkeep import uninstall, verify_store
from oci_binpkg.times import Time
from tests.support.memory_store import MemoryStore
from tests.support.spack_trees import Sketch, Tree, graph_of, spack_tree

SKETCHES = [
    Sketch("zlib", "1.3", files={"lib/libz.so": b"z"}),
    Sketch("app", "2.0", files={"bin/app": "#!/bin/sh\necho {zlib}\n"}, depends=["zlib"]),
]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return spack_tree(tmp_path / "store", SKETCHES)


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    folder = tmp_path / "victim"
    folder.mkdir()
    (folder / "data").write_text("ten years")
    return folder


def snapshot(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*")}


def cache_of(tree: Tree, tmp_path: Path) -> OciCache:
    cache = OciCache(MemoryStore("cache"), pause=lambda _: None)
    installs = tree.installs()
    layers = LayerCache(str(tmp_path / "layers"), 2**30, time=Time(now=lambda: 0.0))
    push(
        installs,
        select(installs, []),
        cache,
        LayerPacker(installs, layers, Codec.parse("gzip")),
        options=PushOptions(update_index=True),
    )
    return cache


def installed(cache: OciCache, installs: SpackInstalls, query: str = "app", *, force: bool = False):
    return install(installs, Sources([cache], lambda _: None), [Query.parse(query)], InstallOptions(force=force))


def edit(tree: Tree, name: str, **members: object) -> None:
    """Change the record of a package by hand."""
    path = tree.root / ".spack-db" / "index.json"
    document = json.loads(path.read_text())
    document["database"]["installs"][tree.hashes[name]].update(members)
    path.write_text(json.dumps(document))


# what a spec says

FIELDS = [
    {"name": "../../victim"},
    {"name": "../x"},
    {"name": ".."},
    {"name": ".hidden"},
    {"name": "a/b"},
    {"name": "a\0b"},
    {"name": "a\nb"},
    {"name": "x" * 250},
    {"name": "a\x1b]0;b"},
    {"version": "1\x00"},
    {"version": "\x9b2J"},
    {"version": "1" * 300},
    {"hash": "../../victim"},
    {"hash": "a/../../../victim"},
    {"hash": "a\rb"},
    {"hash": "h" * 250},
]
ARCHES = [
    {"platform": "/victim/x"},
    {"platform": "../victim"},
    {"platform": ".spack-db/x"},
    {"platform": ".spack"},
    {"platform": "linux/../.."},
    {"target": "x/../../victim"},
    {"target": "/.."},
    {"target": "x86_64/"},
    {"target": "a\0"},
    {"target": "\ud800"},
]


@pytest.mark.parametrize("fields", [*FIELDS, *({"arch": fields} for fields in ARCHES)])
def test_fields_that_lead_elsewhere_make_no_prefix(tmp_path: Path, victim: Path, fields: dict[str, Any]) -> None:
    _, specs = graph_of(SKETCHES)
    good = specs["zlib"]
    arch = fields.pop("arch", None)
    spec = replace(good, **fields, arch=replace(good.arch, **arch)) if arch else replace(good, **fields)
    installs = SpackInstalls(str(tmp_path / "store"), create=True)
    before = snapshot(tmp_path)
    for ask in (installs.prefix_for, installs.place_for):
        with pytest.raises(ContentError, match="names no directory below a tree"):
            ask(spec)
    assert snapshot(tmp_path) == before


def test_versions_with_slashes_keep_the_name_that_spack_gives_them(tmp_path: Path) -> None:
    _, specs = graph_of(SKETCHES)
    spec = replace(specs["zlib"], version="git.feature/x=1.0")
    path = SpackInstalls(str(tmp_path), create=True).place_for(spec)
    assert str(path) == f"{tmp_path}/linux-x86_64/zlib-git.feature_x_1.0-{spec.hash}"


def test_one_node_that_makes_no_path_fails_alone_and_nothing_is_put_in_place(tmp_path: Path, victim: Path) -> None:
    graph, specs = graph_of(SKETCHES)
    hostile = replace(specs["zlib"], name="../../victim")
    installs = SpackInstalls(str(tmp_path / "store"), create=True)
    place = stage(specs["app"], installs.place_for(specs["app"]))
    os.mkdir(place.staged)
    changed = type(graph)([specs["app"], hostile])
    outcomes, stopped = commit(
        [StagedPackage(place, Addition(specs["app"], changed, place.final, True, 0.0), False)], installs
    )
    place.discard()
    assert outcomes == []
    assert isinstance(stopped, ContentError)
    assert (victim / "data").exists()
    assert SpackInstalls(str(tmp_path / "store"), create=True).records() == ()
    assert os.listdir(tmp_path / "store" / "linux-x86_64") == []


# what a record says

ELSEWHERE = [
    "{root}/../victim",
    "{root}/linux-x86_64/../../victim",
    "{root}//victim",
    "{root}/./linux-x86_64/x",
    "{root}",
    "{root}/",
    "{root}/.spack-db",
    "{root}/.spack-db/x",
    "{victim}",
    "{root}x/victim",
    "../victim",
    "victim",
    "/",
]


@pytest.mark.parametrize("path", ELSEWHERE)
def test_a_record_of_something_elsewhere_removes_nothing(tree: Tree, victim: Path, path: str, tmp_path: Path) -> None:
    edit(tree, "app", path=path.format(root=tree.root, victim=victim))
    before = snapshot(tmp_path)
    with pytest.raises(NoMatchError):
        uninstall(tree.installs(), [Query.parse("app")])
    assert snapshot(tmp_path) == before
    verified = {each.spec.name: each.unverifiable for each in verify_store(tree.installs())}
    assert "not below" in verified["app"]
    assert [record.spec.name for record in tree.installs().records()] == ["zlib", "app"]  # it can be read and listed


@pytest.mark.parametrize("state", [{"installed": True}, {"installed": False}])
@pytest.mark.parametrize(
    "path", ["{root}/../victim", "{victim}", "{root}/.spack-db", "{root}/linux-x86_64/../../victim"]
)
def test_an_install_goes_to_a_prefix_of_its_own(
    tree: Tree, victim: Path, path: str, state: dict[str, bool], tmp_path: Path
) -> None:
    cache = cache_of(tree, tmp_path)
    shutil.rmtree(tree.prefix("app"))
    edit(tree, "app", path=path.format(root=tree.root, victim=victim), **state)
    report = installed(cache, tree.installs(), force=True)
    assert report.exit_code == 0
    assert (victim / "data").read_text() == "ten years"
    assert sorted(os.listdir(victim)) == ["data"]
    assert tree.prefix("app") == tree.root / "linux-x86_64" / f"app-2.0-{tree.hashes['app']}"
    assert (tree.prefix("app") / "bin" / "app").exists()
    assert (tree.root / ".spack-db" / "index.json").is_file()


def test_other_projections_are_installed_removed_and_verified(tree: Tree, tmp_path: Path) -> None:
    cache = cache_of(tree, tmp_path)
    for path in ("app/2.0", "deep/er/than/usual/app", "flat-app"):
        place = tree.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        edit(tree, "app", path=str(place), installed=False)
        assert installed(cache, tree.installs()).by(Installed.INSTALLED)[0].prefix == str(place)
        assert (place / "bin" / "app").exists()
        assert all("below" not in each.unverifiable for each in verify_store(tree.installs()))
        uninstall(tree.installs(), [Query.parse("app")])
        assert not place.exists()
        edit_back(tree)


def edit_back(tree: Tree) -> None:
    """Record `app` again, as not installed."""
    fresh = spack_tree(tree.root.parent / "again", SKETCHES)
    shutil.copy(fresh.root / ".spack-db" / "index.json", tree.root / ".spack-db" / "index.json")
    edit(tree, "zlib", path=str(tree.root / "linux-x86_64" / f"zlib-1.3-{tree.hashes['zlib']}"))
    shutil.rmtree(fresh.root)


@pytest.mark.parametrize("path", ["linux-x86_64", "linux-x86_64/{zlib}", "linux-x86_64/{zlib}/lib"])
def test_a_record_around_or_inside_of_another_package_takes_nothing_away(tree: Tree, path: str) -> None:
    kept = tree.prefix("zlib")
    edit(tree, "app", path=f"{tree.root}/{path.format(zlib=kept.name)}")
    with pytest.raises(InstallsError, match="recorded in one place"):
        uninstall(tree.installs(), [Query.parse("app")])
    assert (kept / "lib" / "libz.so").exists()
    with pytest.raises(InstallsError, match="recorded in one place"):
        tree.installs().place_for(tree.spec("app"))


def test_prefixes_of_an_upstream_are_not_replaced(tree: Tree, tmp_path: Path) -> None:
    cache = cache_of(tree, tmp_path)
    stamp = tree.prefix("app") / "stamp"
    stamp.touch()
    own = SpackInstalls(str(tmp_path / "own"), create=True, upstreams=[str(tree.root)])
    report = installed(cache, own, force=True)
    assert report.exit_code == 0
    assert stamp.exists()
    assert own.record(tree.hashes["app"]).prefix.startswith(f"{tmp_path}/own/")
    with pytest.raises(NoMatchError):
        uninstall(own, [Query.parse("zlib")])
    assert tree.prefix("zlib").exists()


def test_externals_are_not_removed(tmp_path: Path, victim: Path) -> None:
    inside = tmp_path / "store" / "external"
    inside.mkdir(parents=True)
    for path in (victim, inside):
        tree = spack_tree(tmp_path / "store", [Sketch("gcc", "14", external=str(path))])
        with pytest.raises(NoMatchError):
            uninstall(tree.installs(), [Query.parse("gcc")])
        assert path.is_dir()


# links on the way


def test_a_linked_folder_inside_of_a_tree_is_not_followed(tree: Tree, victim: Path, tmp_path: Path) -> None:
    cache = cache_of(tree, tmp_path)
    outside = tmp_path / "outside"
    (tree.root / "linux-x86_64").rename(outside)
    (tree.root / "linux-x86_64").symlink_to(outside)
    before = snapshot(outside)
    with pytest.raises(LocalDiskError, match="linux-x86_64 is a symbolic link"):
        uninstall(tree.installs(), [Query.parse("app")])
    report = installed(cache, tree.installs(), force=True)
    assert "symbolic link" in report.by(Installed.FAILED)[0].error.message
    assert snapshot(outside) == before
    assert all("symbolic link" in each.unverifiable for each in verify_store(tree.installs()))


def test_a_linked_prefix_is_taken_away_and_not_what_it_leads_to(tree: Tree, victim: Path) -> None:
    prefix = tree.prefix("app")
    shutil.rmtree(prefix)
    prefix.symlink_to(victim)
    assert "is a symbolic link" in {each.spec.name: each.unverifiable for each in verify_store(tree.installs())}["app"]
    uninstall(tree.installs(), [Query.parse("app")])
    assert (victim / "data").exists()
    assert not prefix.is_symlink()


def test_a_forced_install_over_a_link_replaces_the_link(tree: Tree, victim: Path, tmp_path: Path) -> None:
    cache = cache_of(tree, tmp_path)
    prefix = tree.prefix("app")
    shutil.rmtree(prefix)
    prefix.symlink_to(victim)
    assert installed(cache, tree.installs(), force=True).exit_code == 0
    assert sorted(os.listdir(victim)) == ["data"]
    assert not prefix.is_symlink()
    assert (prefix / "bin" / "app").exists()


def test_a_tree_behind_a_link_is_one(tree: Tree, tmp_path: Path) -> None:
    cache = cache_of(tree, tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    installs = SpackInstalls(str(tmp_path / "link"), create=True)
    assert installed(cache, installs).exit_code == 0
    assert installs.record(tree.hashes["app"]).prefix.startswith(f"{tmp_path}/link/")
    uninstall(installs, [Query.parse("app")])
    assert not any("app" in name for name in os.listdir(tmp_path / "elsewhere" / "linux-x86_64"))


def test_a_linked_database_folder_is_not_written(tree: Tree, victim: Path) -> None:
    (tree.root / ".spack-db").rename(victim / "db")
    (tree.root / ".spack-db").symlink_to(victim / "db")
    before = (victim / "db" / "index.json").read_bytes()
    with pytest.raises(LocalDiskError, match=r"\.spack-db is a symbolic link"):
        uninstall(tree.installs(), [Query.parse("app")])
    assert (victim / "db" / "index.json").read_bytes() == before


def test_leavings_that_are_links_are_left_alone(tree: Tree, victim: Path) -> None:
    path = tree.installs().place_for(tree.spec("app"))
    link = tree.root / "linux-x86_64" / ".oci-binpkg-abc"
    link.symlink_to(victim)
    (tree.root / "linux-x86_64" / ".oci-binpkg-old").mkdir()
    sweep(path)
    assert (victim / "data").exists()
    assert not (tree.root / "linux-x86_64" / ".oci-binpkg-old").exists()


def test_what_was_hidden_comes_back_if_it_cannot_be_forgotten(tree: Tree) -> None:
    path = tree.installs().place_for(tree.spec("app"))

    def fail() -> None:
        with hidden(path):
            sweep(path)  # another install tidies up meanwhile
            raise BinpkgError("no room for the record")

    with pytest.raises(BinpkgError, match="no room"):
        fail()
    assert (tree.prefix("app") / "bin" / "app").exists()


def test_a_long_name_can_be_removed(tmp_path: Path) -> None:
    tree = spack_tree(tmp_path / "store", [Sketch("x" * 200, files={"a": "b"})])
    uninstall(tree.installs(), [Query.parse("x" * 200)])
    assert os.listdir(tmp_path / "store" / "linux-x86_64") == []


def test_a_place_is_a_prefix_path(tree: Tree) -> None:
    assert isinstance(tree.installs().place_for(tree.spec("app")), PrefixPath)
