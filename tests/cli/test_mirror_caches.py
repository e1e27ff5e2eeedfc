"""URL mirrors on the command line: every verb works on them as on registries, and signatures decide."""

import json
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.support.command_line import binpkg
from tests.support.golden import GOLDEN
from tests.support.spack_trees import Sketch, spack_tree

ANY = "--no-check-signature"
KEYS = {
    "v3-signed": "4736BEAE4D40A00FB336279E63CF01CA5202F806",
    "v2-signed": "DB65B17EF5666FE79B8C9A6AAEA9A0CC64B361DA",
}
MIRRORS = ["v3-signed", "v3-unsigned", "v3-padded", "v2-signed", "v2-unsigned"]


def address(name):
    return f"file://{GOLDEN / name}"


@pytest.fixture
def short():
    """A folder whose name is short enough for constants in the golden binaries."""
    with tempfile.TemporaryDirectory(prefix="i", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def tree(tmp_path):
    sketches = [
        Sketch("zlib", "1.3", files={"lib/z": b"z"}, explicit=False),
        Sketch("app", "2.0", files={"bin/app": "#!/bin/sh\necho {prefix}\n"}, depends=["zlib"]),
    ]
    return spack_tree(tmp_path / "store", sketches)


def packages(cache, *more):
    found = binpkg("find", "--from", cache, "--json", *more)
    assert found.code == 0, found.err
    return {(package["name"], package["version"], package["hash"]) for package in found.json}


def layers(cache):
    shown = {}
    for _, _, package_hash in packages(cache):
        ended = binpkg("show", f"/{package_hash}", "--from", cache, ANY, "--json")
        assert ended.code == 0, ended.err
        shown[package_hash] = (ended.json["layer"], ended.json["size"])
    return shown


@pytest.mark.parametrize("name", MIRRORS)
def test_golden_mirrors_are_found_shown_downloaded_and_installed(name, short):
    found = packages(address(name))
    assert len(found) == (3 if name == "v3-padded" else 5)
    shown = binpkg("show", "greet@2.1", "--from", address(name), ANY)
    assert shown.code == 0, shown.err
    fetched = binpkg("download", "greet@2.1", "--from", address(name), short / "files", ANY)
    assert fetched.code == 0, fetched.err
    assert len(list((short / "files").iterdir())) == 2
    ended = binpkg("install", "greet@2.1", "--from", address(name), "--store", short / "n", ANY, "--allow-missing")
    assert ended.code in (0, 13), ended.err  # layout 2 was built below a shorter root
    if ended.code == 0:
        assert binpkg("verify-store", short / "n").code == 0


@pytest.mark.parametrize("name", ["v3-signed", "v2-signed"])
def test_signed_mirrors_are_believed_when_their_key_is_trusted_and_not_before(name, short):
    install = ["install", "greetcfg", "--from", address(name), "--store", short / "n", "--allow-missing"]
    refused = binpkg(*install)
    assert refused.code == 14, refused.err
    assert KEYS[name] in refused.err + refused.out
    published = binpkg("keys", "fetch", address(name), "--json").json
    assert [(key["fingerprint"], key["trusted"]) for key in published] == [(KEYS[name], False)]
    assert binpkg("keys", "list", "--json").json == []
    assert binpkg("keys", "trust", KEYS[name], "--from", address(name)).code == 0
    assert KEYS[name] in binpkg("keys", "list").out
    assert binpkg(*install).code == 0
    assert binpkg("keys", "untrust", KEYS[name]).code == 0
    assert binpkg("show", "greetcfg", "--from", address(name)).code == 14


@pytest.mark.parametrize("name", ["v3-unsigned", "v2-unsigned"])
def test_unsigned_packages_are_refused_unless_that_is_said(name):
    refused = binpkg("show", "greetcfg", "--from", address(name))
    assert refused.code == 14
    assert "not signed" in refused.err
    assert binpkg("show", "greetcfg", "--from", address(name), ANY).code == 0


@pytest.mark.parametrize("name", [*MIRRORS, "oci-layout"])
def test_caches_are_copied_to_each_other_kind_and_back_with_the_same_layers(name, tmp_path):
    source = address(name) if name != "oci-layout" else f"oci-layout:{GOLDEN / name}"
    mirror, layout, back = f"file://{tmp_path}/m", f"oci-layout:{tmp_path}/l", f"file://{tmp_path}/b"
    for start, end in ((source, mirror), (mirror, layout), (layout, back)):
        ended = binpkg("copy", start, end, ANY, "--unsigned")
        assert ended.code == 0, ended.err
        assert binpkg("index", "check", end).code == 0
    assert layers(source) == layers(mirror) == layers(layout) == layers(back)
    again = binpkg("copy", source, back, ANY, "--unsigned", "--json").json
    assert again["copied"] == []


def test_a_copy_that_fails_says_what_to_do_next_once(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m/blobs").write_text("a file in the way")
    ended = binpkg("copy", address("v3-unsigned"), f"file://{tmp_path}/m", ANY, "--unsigned")
    assert ended.code == 11
    assert ended.err.count("5 failed\n  a file stands where a folder of the mirror belongs: remove it") == 1


def test_an_image_made_of_a_mirror_is_stacked_like_one_that_was_pushed(tmp_path):
    target = f"oci-layout:{tmp_path}/l"
    assert binpkg("copy", address("v3-unsigned"), target, ANY).code == 0
    tag = "greet-2.0-6fytamqgzio2shuhlaie55hiv2m2stdw.spack"
    (made,) = binpkg("inspect", f"{target}:{tag}", "--json").json
    (spack,) = binpkg("inspect", f"oci-layout:{GOLDEN / 'oci-layout'}:{tag}", "--json").json
    assert [layer["diff_id"] for layer in made["layers"]] == [layer["diff_id"] for layer in spack["layers"]]
    path = next(text for text in made["config"]["Env"] if text.startswith("PATH="))
    assert path.startswith("PATH=/opt/golden/store/linux-x86_64/greet-2.0-6fytamqgzio2shuhlaie55hiv2m2stdw/bin:")


def test_push_to_a_mirror_wants_to_be_told_of_signing(tree, tmp_path):
    mirror = f"file://{tmp_path}/m"
    refused = binpkg("push", mirror, "--store", tree.root)
    assert refused.code == 2
    assert "--key" in refused.err
    assert not (tmp_path / "m").exists()
    ended = binpkg("push", mirror, "--store", tree.root, "--unsigned", "--update-index")
    assert ended.code == 0, ended.err
    assert {name for name, _, _ in packages(mirror)} == {"app", "zlib"}
    assert "2 skipped" in binpkg("push", mirror, "--store", tree.root, "--unsigned").err
    installed = binpkg("install", "app", "--from", mirror, "--store", tmp_path / "n", ANY)
    assert installed.code == 0, installed.err
    assert binpkg("push", mirror, "--store", tree.root, "--unsigned", "--tag", "x").code == 2
    assert binpkg("inspect", mirror).code == 2


def test_a_mirror_may_be_wherever_fsspec_leads(tree, tmp_path):
    mirror = f"memory://{tmp_path.name}/apps"
    absent = binpkg("find", "--from", mirror)
    assert absent.code == 6, absent.err
    assert f"{mirror} holds no packages" in absent.err
    ended = binpkg("push", mirror, "--store", tree.root, "--unsigned", "--update-index")
    assert ended.code == 0, ended.err
    assert {name for name, _, _ in packages(mirror)} == {"app", "zlib"}
    installed = binpkg("install", "app", "--from", mirror, "--store", tmp_path / "n", ANY)
    assert installed.code == 0, installed.err
    assert binpkg("copy", mirror, f"file://{tmp_path}/copy", ANY, "--unsigned").code == 0
    assert layers(mirror) == layers(f"file://{tmp_path}/copy")


def test_what_another_cache_has_is_left_out_but_stacked(tree, tmp_path):
    site = f"file://{tmp_path}/site"
    assert binpkg("push", site, "zlib", "--store", tree.root, "--unsigned").code == 0
    mirror, layout = f"file://{tmp_path}/m", f"oci-layout:{tmp_path}/l"
    for cache in (mirror, layout):
        flags = ["--store", tree.root, "--unsigned", "--update-index", "--skip-present-in", site]
        planned = binpkg("push", cache, "app", *flags, "--dry-run", "--json")
        assert {(p["name"], p["outcome"]) for p in planned.json["packages"]} == {
            ("zlib", "elsewhere"),
            ("app", "planned"),
        }
        ended = binpkg("push", cache, "app", *flags)
        assert ended.code == 0, ended.err
        assert "1 pushed" in ended.err
        assert "1 left out (elsewhere)" in ended.err
        assert {name for name, _, _ in packages(cache)} == {"app"}
    tag = binpkg("show", "app", "--from", layout, "--json").json["tag"]
    assert len(binpkg("inspect", f"{layout}:{tag}", "--json").json[0]["layers"]) == 2
    nowhere = binpkg(
        "push", mirror, "app", "--store", tree.root, "--unsigned", "--skip-present-in", f"file://{tmp_path}/no"
    )
    assert nowhere.code == 0
    assert "empty or does not exist" in nowhere.err


def test_check_answers_for_several_kinds_of_caches(tree, tmp_path):
    mirror, layout = f"file://{tmp_path}/m", f"oci-layout:{tmp_path}/l"
    binpkg("push", mirror, "zlib", "--store", tree.root, "--unsigned")
    binpkg("push", layout, "--store", tree.root)
    ended = binpkg("check", "--store", tree.root, "--on", mirror, "--on", layout, "--json", "--thorough", ANY)
    assert ended.code == 1, ended.err
    lacking = {answer["mirrorUrl"]: [spec["short_spec"] for spec in answer["rebuildSpecs"]] for answer in ended.json}
    assert lacking[layout] == []
    assert [text.split("@")[0] for text in lacking[mirror]] == ["app"]


def test_a_swapped_blob_under_a_sound_manifest_is_refused(tmp_path, short):
    mirror = tmp_path / "m"
    shutil.copytree(GOLDEN / "v3-signed", mirror)
    assert binpkg("keys", "trust", KEYS["v3-signed"], "--from", f"file://{mirror}").code == 0
    (manifest,) = mirror.glob("v3/manifests/spec/greetcfg/*")
    text = manifest.read_text()
    records = json.loads(text[text.index("{") : text.rindex("}") + 1])["data"]
    for record in records:
        blob = mirror / "blobs" / "sha256" / record["checksum"][:2] / record["checksum"]
        good = blob.read_bytes()
        blob.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        ended = binpkg("install", "greetcfg", "--from", f"file://{mirror}", "--store", short / "n")
        assert ended.code == 10, ended.err
        assert not list(short.glob("n/*/greetcfg*"))
        blob.write_bytes(good)
    assert binpkg("install", "greetcfg", "--from", f"file://{mirror}", "--store", short / "n").code == 0


def test_a_changed_manifest_is_refused(tmp_path):
    mirror = tmp_path / "m"
    shutil.copytree(GOLDEN / "v3-signed", mirror)
    assert binpkg("keys", "trust", KEYS["v3-signed"], "--from", f"file://{mirror}").code == 0
    (manifest,) = mirror.glob("v3/manifests/spec/greetcfg/*")
    manifest.write_text(manifest.read_text().replace('"contentLength":', '"contentLength": ', 1))
    ended = binpkg("show", "greetcfg", "--from", f"file://{mirror}")
    assert ended.code == 14, ended.err


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["keys", "trust", "/nowhere.asc"], 11, "/nowhere.asc"),
        (["keys", "trust", "00", "--from", "file://{v3}"], 6, "no key 00"),
        (["keys", "untrust", "0" * 40], 6, "0" * 40),
        (["keys", "fetch", "oci-layout:/x"], 2, "no mirror"),
        (["keys", "fetch", "file:///nowhere"], 6, "/nowhere"),
        (["find", "--from", "file:///nowhere"], 6, "/nowhere"),
        (["find", "--from", "https://user:secret@host/x"], 2, "credentials"),
    ],
)
def test_what_is_wrong_is_said(arguments, code, text):
    ended = binpkg(*(word.format(v3=GOLDEN / "v3-signed") for word in arguments))
    assert ended.code == code, ended.err
    assert text in ended.err
    assert "secret" not in ended.err
