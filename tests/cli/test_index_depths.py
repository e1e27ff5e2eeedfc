"""How closely `index check` looks, and what `index rebuild` says about packages that it has to leave out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.support.command_line import Ended, binpkg
from tests.support.golden import GOLDEN
from tests.support.made_layouts import Layout, Package, node

UNCHECKED = "--no-check-signature"


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    made = tmp_path / "mirror"
    shutil.copytree(GOLDEN / "v3-unsigned", made)
    return made


def manifest_of(mirror: Path, name: str) -> Path:
    (found,) = (mirror / "v3/manifests/spec" / name).glob("*.json")
    return found


def blob_of(mirror: Path, name: str, number: int) -> Path:
    digest = json.loads(manifest_of(mirror, name).read_text())["data"][number]["checksum"]
    return mirror / "blobs/sha256" / digest[:2] / digest


def layer_of(mirror: Path, name: str) -> Path:
    data = json.loads(manifest_of(mirror, name).read_text())["data"]
    return blob_of(mirror, name, next(n for n, each in enumerate(data) if "install" in each["mediaType"]))


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def checked(mirror: Path, *depth: str) -> Ended:
    return binpkg("index", "check", f"file://{mirror}", UNCHECKED, *depth)


def test_a_sound_mirror_is_true_at_every_depth(mirror: Path) -> None:
    for depth in ("--names", "--manifests", "--content"):
        ended = checked(mirror, depth)
        assert (ended.code, ended.err) == (0, "")
        assert "index true" in ended.out


def test_a_flipped_byte_is_seen_where_all_content_is_read(mirror: Path) -> None:
    flipped(layer_of(mirror, "greetcfg"))
    assert checked(mirror, "--names").code == 0
    assert checked(mirror, "--manifests").code == 0
    ended = checked(mirror, "--content")
    assert ended.code == 10
    assert "damaged: v3/manifests/spec/greetcfg/" in ended.out
    assert "sha256:" in ended.out


@pytest.mark.parametrize("depth", ["", "--manifests", "--content"])
def test_a_layer_that_is_gone_or_cut_is_seen_without_reading_any(mirror: Path, depth: str) -> None:
    layer = layer_of(mirror, "greetcfg")
    data = layer.read_bytes()
    layer.chmod(0o644)
    layer.write_bytes(data[:-1])
    ended = checked(mirror, *filter(None, [depth]))
    assert ended.code == 10
    assert f"is not there with its size of {len(data)} bytes" in ended.out
    layer.unlink()
    ended = binpkg("index", "check", f"file://{mirror}", UNCHECKED, "--json", *filter(None, [depth]))
    assert ended.code == 10
    assert len(ended.json["damaged"]) == len(ended.json["reasons"]) == 1


def test_unsigned_packages_are_no_damage_unless_signatures_are_asked_for(mirror: Path) -> None:
    assert binpkg("index", "check", f"file://{mirror}").code == 0
    flipped(layer_of(mirror, "greetcfg"))
    assert binpkg("index", "check", f"file://{mirror}", "--content").code == 10


def test_three_depths_are_not_asked_for_at_once(mirror: Path) -> None:
    ended = checked(mirror, "--names", "--content")
    assert ended.code == 2
    assert "choose one of them" in ended.err


def test_a_rebuild_that_leaves_out_a_package_without_its_layer_exits_with_1(mirror: Path) -> None:
    layer_of(mirror, "greetcfg").unlink()
    ended = binpkg("index", "rebuild", f"file://{mirror}", UNCHECKED)
    assert ended.code == 1
    assert "damaged: v3/manifests/spec/greetcfg/" in ended.out
    assert "greetcfg" not in binpkg("find", "--from", f"file://{mirror}", UNCHECKED).out


def test_a_rebuild_that_drops_a_listed_package_names_it(mirror: Path) -> None:
    manifest = manifest_of(mirror, "greetcfg")
    package_hash = manifest.name.removesuffix(".spec.manifest.json").rpartition("-")[2]
    manifest.unlink()
    ended = binpkg("index", "rebuild", f"file://{mirror}", UNCHECKED)
    assert ended.code == 1
    assert f"listed, and not there: {package_hash}" in ended.out
    assert binpkg("index", "rebuild", f"file://{mirror}", UNCHECKED).code == 0


def test_a_layer_that_a_layout_lost_is_seen_in_each_image_above_it(tmp_path: Path) -> None:
    cache = Layout(tmp_path / "layout")
    package = Package(node("good", "1.0"))
    cache.add(package)
    cache.index([package])
    assert binpkg("index", "check", cache.name).code == 0
    blobs = sorted((tmp_path / "layout/blobs/sha256").iterdir(), key=lambda path: path.read_bytes()[:2] != b"\x1f\x8b")
    flipped(blobs[0])
    assert binpkg("index", "check", cache.name).code == 0
    assert binpkg("index", "check", cache.name, "--content").code == 10
    blobs[0].unlink()
    ended = binpkg("index", "check", cache.name)
    assert ended.code == 10
    assert "damaged: good-1.0-" in ended.out


def test_check_thorough_reads_all_bytes(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "app").mkdir(parents=True)
    (tree / "app/data").write_bytes(bytes(range(256)) * 8)
    (tree / "packages.toml").write_text(
        '[[package]]\nname = "app"\nversion = "1"\nprefix = "app"\n'
        'arch = { platform = "linux", os = "debian12", target = "x86_64" }\n'
    )
    cache = f"file://{tmp_path}/m"
    assert binpkg("push", cache, "--store", tree, "--unsigned").code == 0
    words = ("check", "--on", cache, "--store", tree, UNCHECKED)
    assert binpkg(*words, "--thorough").code == 0
    flipped(layer_of(tmp_path / "m", "app"))
    assert binpkg(*words).code == 0
    assert binpkg(*words, "--thorough").code == 1
