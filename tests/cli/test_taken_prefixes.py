"""What stands at the prefix of a package without a record belongs to somebody: an install never removes it."""

import re
import shutil

import pytest

from tests.support.command_line import binpkg
from tests.support.spack_trees import Sketch, spack_tree

SKETCHES = [
    Sketch("zlib", "1.3", files={"lib/z": b"z"}, explicit=False),
    Sketch("app", "2.0", files={"bin/app": b"a"}, depends=["zlib"]),
]


@pytest.fixture
def site(tmp_path):
    tree = spack_tree(tmp_path / "store", SKETCHES)
    cache = f"oci-layout:{tmp_path / 'cache'}"
    assert binpkg("push", cache, "--store", tree.root, "--update-index").code == 0
    assert binpkg("install", "app", "--from", cache, "--store", tmp_path / "new").code == 0
    prefixes = {each["name"]: each["prefix"] for each in binpkg("find", "--store", tmp_path / "new", "--json").json}
    return cache, tmp_path / "new", {name: type(tmp_path)(prefix) for name, prefix in prefixes.items()}


def directory(prefix):
    prefix.mkdir()
    (prefix / "mine").write_text("mine")


def file(prefix):
    prefix.write_text("mine")


def link(prefix):
    directory(prefix.parent.parent / "elsewhere")
    prefix.symlink_to(prefix.parent.parent / "elsewhere")


def is_whole(path):
    return (path.read_text() if path.is_file() else (path / "mine").read_text()) == "mine"


@pytest.mark.parametrize("make", [directory, file, link])
@pytest.mark.parametrize("name", ["app", "zlib"])
def test_what_has_no_record_is_refused_and_set_aside_by_force(site, make, name):
    cache, new, prefixes = site
    assert binpkg("uninstall", "app", "zlib", "--store", new).code == 0
    prefix = prefixes[name]
    make(prefix)
    ended = binpkg("install", "app", "--from", cache, "--store", new)
    assert ended.code == {"app": 1, "zlib": 3}[name]  # zlib is installed before app fails
    assert str(prefix) in ended.err
    assert "--force" in ended.out + ended.err
    assert is_whole(prefix)
    ended = binpkg("install", "app", "--from", cache, "--store", new, "--force")
    assert ended.code == 0, ended.err
    (aside,) = (each for each in prefix.parent.iterdir() if ".replaced-" in each.name)
    assert re.fullmatch(re.escape(prefix.name) + r"\.replaced-\d{8}T\d{6}Z", aside.name)
    assert aside.name in ended.err
    assert is_whole(aside)
    assert not prefix.is_symlink()
    assert (prefix / ".spack").is_dir()
    assert binpkg("verify-store", new).code == 0


def test_a_recorded_prefix_that_is_gone_comes_back(site):
    cache, new, prefixes = site
    shutil.rmtree(prefixes["zlib"])
    assert binpkg("install", "app", "--from", cache, "--store", new).code == 0
    assert (prefixes["zlib"] / "lib" / "z").exists()


def test_a_package_with_a_record_is_replaced_by_force(site):
    cache, new, prefixes = site
    (prefixes["app"] / "mine").write_text("mine")
    assert binpkg("install", "app", "--from", cache, "--store", new, "--force").code == 0
    assert not (prefixes["app"] / "mine").exists()
    assert not [each for each in prefixes["app"].parent.iterdir() if ".replaced-" in each.name]
