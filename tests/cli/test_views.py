"""Views on the command line: named indices over a part of a mirror."""

import json

import pytest

from tests.support.command_line import binpkg
from tests.support.signed_caches import home, ran, trust
from tests.support.spack_trees import Sketch, spack_tree

__all__ = ["home"]  # a fixture

ANY = "--no-check-signature"


@pytest.fixture
def mirror(tmp_path):
    """A mirror with `app`, what it links to, and two others."""
    sketches = [
        Sketch("zlib", "1.3", files={"lib/z": b"z"}),
        Sketch("app", "2.0", files={"bin/a": b"a"}, depends=["zlib"]),
        Sketch("tool", "1.0", files={"bin/t": b"t"}),
        Sketch("gadget", "1.1", files={"bin/g": b"g"}),
    ]
    tree = spack_tree(tmp_path / "store", sketches)
    ran("push", f"file://{tmp_path}/m", "--store", tree.root, "--unsigned", "--update-index")
    return f"file://{tmp_path}/m"


@pytest.fixture
def viewed(mirror, tmp_path, monkeypatch):
    """What a view shows to who has configured it."""

    def look(view):
        config = tmp_path / "config.toml"
        config.write_text(f'[caches.lab]\nurl = "{mirror}"\nview = "{view}"\nsigned = false\n')
        monkeypatch.setenv("OCI_BINPKG_CONFIG", str(config))
        return sorted(f"{each['name']}@{each['version']}" for each in ran("find", "--from", "lab", "--json").json)

    return look


def test_a_view_grows_by_what_is_chosen_with_what_that_needs(mirror, viewed, tmp_path):
    made = ran("index", "update", mirror, "app", "--view", "stable", ANY)
    assert made.lines == [f"{mirror}: view stable written, 2 packages, not signed"]
    assert viewed("stable") == ["app@2.0", "zlib@1.3"]
    ran("index", "update", mirror, "gadget@1.1", "--view", "stable", ANY)
    assert viewed("stable") == ["app@2.0", "gadget@1.1", "zlib@1.3"]
    assert "unchanged" in ran("index", "update", mirror, "app", "--view", "stable", ANY).out
    # where Spack looks for it, and whole: the packages themselves are not copied
    manifest = json.loads((tmp_path / "m/v3/manifests/index/stable/index.manifest.json").read_bytes())
    assert [record["mediaType"] for record in manifest["data"]] == ["application/vnd.spack.db.v8+json"]
    assert len(binpkg("find", "--from", mirror, "--json").json) == 4
    installed = ran("install", "app", "--from", "lab", "--store", tmp_path / "i")
    assert "app" in installed.out + installed.err


def test_a_rebuilt_view_holds_exactly_what_is_chosen_now(mirror, viewed):
    ran("index", "update", mirror, "app", "tool", "gadget", "--view", "stable", ANY)
    assert viewed("stable") == ["app@2.0", "gadget@1.1", "tool@1.0", "zlib@1.3"]
    ran("index", "rebuild", mirror, "tool@1.0", "--view", "stable", ANY)
    assert viewed("stable") == ["tool@1.0"]
    ran("index", "rebuild", mirror, "--view", "stable", ANY)
    assert len(viewed("stable")) == 4


def test_several_views_are_written_at_once_and_the_whole_index_stays(mirror, viewed, tmp_path):
    before = (tmp_path / "m/v3/manifests/index/index.manifest.json").read_bytes()
    words = ["--view", "team/a", "--view", "team/b", ANY]
    reports = ran("index", "update", mirror, "zlib", *words, "--json").json
    assert [(each["view"], each["packages"], each["written"]) for each in reports] == [
        ("team/a", 1, True),
        ("team/b", 1, True),
    ]
    assert viewed("team/a") == viewed("team/b") == ["zlib@1.3"]
    assert ran("index", "rebuild", mirror, "tool", "gadget", *words).out.count("2 packages") == 2
    assert ran("index", "check", mirror, *words).out.count("index true") == 0
    assert ran("index", "check", mirror, *words).out.count(" true, 2 packages") == 2
    assert (tmp_path / "m/v3/manifests/index/index.manifest.json").read_bytes() == before


def test_packages_that_no_index_lists_are_chosen_too(mirror, viewed, tmp_path):
    (tmp_path / "m/v3/manifests/index/index.manifest.json").unlink()
    ran("index", "update", mirror, "app", "--view", "stable", ANY)
    assert viewed("stable") == ["app@2.0", "zlib@1.3"]


def test_a_view_lacks_packages_on_purpose_and_names_none_that_are_gone(mirror, tmp_path):
    ran("index", "update", mirror, "app", "--view", "stable", ANY)
    assert ran("index", "check", mirror, "--view", "stable").code == 0
    (gone,) = (tmp_path / "m/v3/manifests/spec/zlib").iterdir()
    gone.unlink()
    ended = binpkg("index", "check", mirror, "--view", "stable")
    assert ended.code == 10
    assert "listed, and not there" in ended.out
    absent = binpkg("index", "check", mirror, "--view", "other")
    assert absent.code == 6
    assert "no view 'other'" in absent.err


def test_only_packages_that_are_signed_get_into_a_view_that_is_checked(mirror, home, tmp_path):
    """The packages of this mirror are not signed, and mirrors are checked unless told otherwise."""
    ended = binpkg("index", "update", mirror, "app", "--view", "stable")
    assert "not signed" in ended.err


def test_a_view_is_signed_by_who_signs(mirror, home, tmp_path):
    key = home.make("alice")
    trust(home, key, tmp_path)
    ran("index", "rebuild", mirror, "app", "--view", "stable", "--key", key, ANY)
    checked = ran("index", "check", mirror, "--view", "stable", "--check-signature", "--json").json
    assert [each["signed_by"] for each in checked] == [key]
    ran("keys", "untrust", key)
    refused = binpkg("index", "check", mirror, "--view", "stable")
    assert refused.code == 14
    assert f"the view stable of {mirror}: signed by the key {key}, which is not trusted" in refused.err


def test_a_name_that_stands_for_a_view_means_that_view(mirror, viewed):
    ran("index", "update", mirror, "app", "--view", "stable", ANY)
    assert viewed("stable") == ["app@2.0", "zlib@1.3"]
    assert ran("index", "check", "lab").lines == [f"{mirror}: view stable true, 2 packages, not signed"]
    ran("index", "update", "lab", "tool")
    assert viewed("stable") == ["app@2.0", "tool@1.0", "zlib@1.3"]
    ran("index", "rebuild", "lab", "gadget", "--view", "other")
    assert viewed("stable") == ["app@2.0", "tool@1.0", "zlib@1.3"]
    assert viewed("other") == ["gadget@1.1"]


@pytest.mark.parametrize("view", ["..", "a/../b", "/a", "a/", "a//b", "", ".hidden", "a b", "x" * 300, "a\\b", "é"])
@pytest.mark.parametrize("action", ["update", "rebuild", "check"])
def test_what_cannot_be_the_name_of_a_view_is_refused(mirror, tmp_path, view, action):
    before = sorted(tmp_path.rglob("*"))
    ended = binpkg("index", action, mirror, "--view", view)
    assert ended.code == 2
    assert "not the name of a view" in ended.err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_name_of_a_view_in_the_configuration_is_checked(tmp_path, monkeypatch):
    config = tmp_path / "config.toml"
    config.write_text('[caches.lab]\nurl = "file:///m"\nview = "../x"\n')
    monkeypatch.setenv("OCI_BINPKG_CONFIG", str(config))
    ended = binpkg("find", "--from", "lab")
    assert ended.code == 2
    assert f"{config}: caches.lab.view: not the name of a view" in ended.err


@pytest.mark.parametrize("kind", ["oci-layout:{path}/l", "file://{golden}/v2-unsigned"])
def test_only_mirrors_of_the_present_layout_have_views(kind, tmp_path):
    from tests.support.golden import GOLDEN

    cache = kind.format(path=tmp_path, golden=GOLDEN)
    for action in ("update", "rebuild", "check"):
        ended = binpkg("index", action, cache, "--view", "stable")
        assert ended.code == 2
        assert "has no views" in ended.err


def test_what_cannot_be_meant_is_said(mirror):
    without = binpkg("index", "update", mirror, "app")
    assert without.code == 2
    assert "--view" in without.err
    nothing = binpkg("index", "update", mirror, "nothere", "--view", "stable")
    assert nothing.code == 4
    assert "nothere" in nothing.err
