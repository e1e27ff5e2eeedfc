"""What `[trust]`, names and flags together ask of signatures, as a user meets it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest

from oci_binpkg.store.referrers import iter_signatures
from tests.support.command_line import binpkg
from tests.support.engine_socket import engine_socket
from tests.support.signed_caches import (
    home,
    index_at,
    is_signed,
    manifest_at,
    package_at,
    put_manifest,
    ran,
    store_of,
    tree,
    trust,
)
from tests.support.spack_trees import Sketch, spack_tree
from tests.support.stranger import EVIL, inside, place

__all__ = ["home", "tree"]  # fixtures


@pytest.fixture
def configure(tmp_path, monkeypatch):
    """Write the configuration file."""
    path = tmp_path / "config.toml"
    monkeypatch.setenv("OCI_BINPKG_CONFIG", str(path))

    def write(text: str) -> Path:
        path.write_text(text)
        return path

    write("")
    return write


@pytest.fixture
def key(home, tmp_path):
    made = home.make("alice")
    trust(home, made, tmp_path)
    return made


@pytest.fixture
def layout(tmp_path):
    return f"oci-layout:{tmp_path}/l"


@pytest.fixture
def engine(monkeypatch):
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, engine_socket(Path(folder)) as found:
        monkeypatch.setenv("CONTAINER_HOST", found.address)
        yield found


# ---- flags below the policy


@pytest.mark.parametrize("verb", ["install", "show", "find", "download", "save-specs", "copy", "check", "inspect"])
def test_a_flag_takes_back_what_a_name_says_and_not_what_the_section_says(verb, tree, layout, configure, tmp_path):
    ran("push", layout, "--store", tree.root, "--update-index")
    words = {
        "install": ["install", "app", "--from", "lab", "--store", tmp_path / "i"],
        "show": ["show", "app", "--from", "lab"],
        "find": ["find", "app", "--from", "lab"],
        "download": ["download", "app", "--from", "lab", tmp_path / "d"],
        "save-specs": ["save-specs", "app", "--from", "lab", "--output-dir", tmp_path / "s"],
        "copy": ["copy", "lab", f"oci-layout:{tmp_path}/copy"],
        "check": ["check", "--store", tree.root, "--on", "lab"],
        "inspect": ["inspect", "lab"],
    }[verb]
    name = f'[caches.lab]\nurl = "{layout}"\nsigned = true\n'
    configure(name)
    assert binpkg(*words).code in (14, 1)
    assert binpkg(*words, "--no-check-signature").code == 0
    path = configure(name + "[trust.scopes.lab]\nrule = 'require-signature'\n")
    ended = binpkg(*words, "--no-check-signature")
    assert ended.code == 2
    assert f"{layout} has to be signed, says {path}: trust.scopes.'lab'" in ended.err
    assert "leave out --no-check-signature" in ended.err
    assert 'rule = "accept-unsigned"' in ended.err
    assert not ended.out
    configure(name.replace("signed = true", "") + "[trust]\ndefault = 'accept-unsigned'\n")
    assert binpkg(*words).code == 0
    words = [f"{word}2" if word == f"oci-layout:{tmp_path}/copy" else word for word in words]
    assert binpkg(*words, "--check-signature").code in (14, 1)


def test_writing_without_a_signature_is_refused_where_the_section_asks_for_one(tree, layout, configure, key, home):
    configure(f'[trust.scopes."{layout}"]\nrule = "require-signature"\n')
    home.make("bob")  # of two keys none is taken by itself
    for words in (["push", layout], ["image", layout, "app", "--tag", "t"], ["push", layout, "--tag", "t"]):
        ended = binpkg(*words, "--store", tree.root)
        assert ended.code == 2
        assert "add --key KEY" in ended.err
        ended = binpkg(*words, "--store", tree.root, "--unsigned")
        assert ended.code == 2
        assert "leave out --unsigned" in ended.err
        ran(*words, "--store", tree.root, "--key", key)
    ran("install", "app", "--from", layout, "--store", f"{tree.root}-i")


# ---- keys


def test_a_key_that_is_trusted_for_one_cache_signs_nothing_elsewhere(tree, configure, key, home, tmp_path):
    other = home.make("bob")
    trust(home, other, tmp_path)
    mine, theirs = f"file://{tmp_path}/mine", f"oci-layout:{tmp_path}/theirs"
    for cache, signer in ((mine, key), (theirs, other)):
        ran("push", cache, "--store", tree.root, "--key", signer, "--update-index")
    scopes = '[trust.scopes."{}"]\nkeys = ["{}"]\n'.format
    configure(scopes(mine, key) + scopes(theirs, other))
    for cache in (mine, theirs):
        ran("show", "app", "--from", cache)
    configure(scopes(mine, other) + scopes(theirs, key))
    for cache, signer in ((mine, key), (theirs, other)):
        ended = binpkg("show", "app", "--from", cache)
        assert ended.code == 14
        assert signer in ended.err
    # a key that one scope has for itself counts nowhere else, one that no scope names counts everywhere
    configure(scopes(f"file://{tmp_path}/elsewhere", key))
    assert binpkg("show", "app", "--from", mine).code == 14
    ran("show", "app", "--from", theirs, "--check-signature")
    configure(scopes(f"file://{tmp_path}/elsewhere", key) + f'[trust]\nkeys = ["{key}"]\n')
    ran("show", "app", "--from", mine)
    assert binpkg("show", "app", "--from", theirs, "--check-signature").code == 14


def test_nothing_is_signed_with_a_key_that_does_not_count_there(tree, layout, configure, key, home, tmp_path):
    other = home.make("bob")
    push = ["push", layout, "--store", tree.root, "--key"]
    for said in (f'[trust.scopes."{layout}"]', "[trust]", f'[trust.scopes."{layout}2"]'):
        named = other if said.endswith('2"]') else key
        configure(f'{said}\nkeys = ["{named}"]\n')
        ended = binpkg(*push, "bob@example.org")
        assert ended.code == 2
        assert "the key bob@example.org: signatures by it do not count for " in ended.err
        assert not (tmp_path / "l").exists()
    ran(*push, key)


def test_the_index_is_signed_by_a_key_that_counts_for_the_cache(tree, layout, configure, key, home, tmp_path):
    other = home.make("bob")
    trust(home, other, tmp_path)
    ran("push", layout, "--store", tree.root, "--key", key, "--update-index")
    ran("index", "check", layout, "--check-signature")
    configure(f'[trust.scopes."{layout}"]\nkeys = ["{other}"]\n')
    assert binpkg("index", "check", layout, "--check-signature").code == 14
    assert binpkg("find", "--from", layout).code == 14


# ---- images


def test_the_image_that_an_engine_runs_is_signed_with_the_packages(tree, layout, configure, key, engine, tmp_path):
    configure(f'[caches.lab]\nurl = "{layout}"\nsigned = true\n')
    ran("push", "lab", "--store", tree.root, "--key", key, "--tag", "prod")
    ran("image", "lab", "app", "--store", tree.root, "--key", key, "--tag", "made")
    for tag in ("prod", "made"):
        assert is_signed(layout, tag)
        ran("inspect", f"lab:{tag}")
        ran("install-image", f"lab:{tag}", "--store", tmp_path / tag)
        assert binpkg("load", f"lab:{tag}", "--engine", "podman").code in (0, 12)
    assert [path.rpartition("/")[2] for _, path, _ in engine.taken if "load" in path]


def test_an_image_that_is_pushed_again_keeps_its_signature_and_gets_that_of_another_key(
    tree, layout, key, home, tmp_path
):
    def signatures() -> int:
        with store_of(layout) as store:
            return len(list(iter_signatures(store, store.resolve("prod"))))

    push = ["push", layout, "--store", tree.root, "--tag", "prod", "--key"]
    for _ in range(3):
        ran(*push, key)
        assert signatures() == 1
    other = home.make("bob")
    for _ in range(2):
        ran(*push, other)
        assert signatures() == 2
    ran("push", layout, "--store", tree.root, "--tag", "other", "--key", key)
    assert signatures() == 3  # the same image under another tag is another statement
    ran("push", layout, "--store", tree.root, "--tag", "other", "--key", key)
    assert signatures() == 3


def test_an_index_over_platforms_is_signed_and_its_images_with_it(layout, configure, key, tmp_path):
    sketches = [
        Sketch("app", "2.0", files={"bin/a": b"a"}),
        Sketch("arm", "1.0", files={"bin/b": b"b"}, target="aarch64"),
    ]
    tree = spack_tree(tmp_path / "two", sketches)
    configure(f'[caches.lab]\nurl = "{layout}"\nsigned = true\n')
    ran("push", "lab", "--store", tree.root, "--key", key, "--tag", "prod")
    assert "manifests" in json.loads(manifest_at(layout, "prod"))
    assert is_signed(layout, "prod")
    assert len(ran("inspect", "lab:prod", "--json").json) == 2
    ran("install-image", "lab:prod", "--store", tmp_path / "i")
    put_manifest(layout, "prod", manifest_at(layout, package_at(layout, "app")))
    for words in (["inspect", "lab:prod"], ["install-image", "lab:prod", "--store", tmp_path / "j"]):
        assert binpkg(*words).code == 14


def test_a_signed_package_under_the_tag_of_an_image_is_not_that_image(tree, layout, configure, key, engine, tmp_path):
    configure(f'[caches.lab]\nurl = "{layout}"\nsigned = true\n')
    ran("push", "lab", "--store", tree.root, "--key", key, "--tag", "prod")
    put_manifest(layout, "prod", manifest_at(layout, package_at(layout, "zlib")))
    assert is_signed(layout, "prod")
    for words in (
        ["load", "lab:prod", "--engine", "podman"],
        ["install-image", "lab:prod", "--store", tmp_path / "i"],
        ["push", f"oci-layout:{tmp_path}/o", "--store", tree.root, "--base-image", f"{layout}:prod"],
    ):
        ended = binpkg(*words)
        assert ended.code == 14, ended.err
        assert "the signature is for zlib-1.3" in ended.err
    assert not engine.taken


def test_an_image_is_not_installed_without_a_package_that_somebody_replaced(tree, layout, configure, key, tmp_path):
    """The image itself is as it was signed; one of its packages is not, and is not left out without a word."""
    configure(f'[caches.lab]\nurl = "{layout}"\nsigned = true\n')
    ran("push", "lab", "--store", tree.root, "--key", key, "--tag", "prod")
    where = package_at(layout, "app")
    put_manifest(layout, where, manifest_at(layout, where) + b"\n")
    ended = binpkg("install-image", "lab:prod", "--store", tmp_path / "i")
    assert ended.code == 14
    assert "app-2.0" in ended.err
    assert not inside(tmp_path / "i")


def test_an_image_by_its_digest_is_checked_too(home, configure, tmp_path, engine):
    with place("layout", tmp_path, home, moved=False) as found:
        configure(f'[caches.lab]\nurl = "{found.address}"\nsigned = true\n')
        with store_of(found.address) as store:
            digest = store.resolve("prod").digest
        for cache in ("lab", found.address):
            if cache != "lab":
                ended = binpkg("load", f"{cache}@{digest}", "--engine", "podman")
                assert ended.code == 14
                assert str(digest) in ended.err
            ended = binpkg("install-image", f"{found.address}@{digest}", "--store", tmp_path / "i")
            assert ended.code == 14
        assert not engine.taken
        assert EVIL not in inside(tmp_path / "i")


# ---- what is written for others


@pytest.mark.parametrize("address", ["oci-layout:{}/c", "file://{}/c"])
def test_signing_an_index_vouches_for_no_package_that_nobody_signed(address, tree, key, tmp_path):
    """Nobody said that the cache is signed; whoever signs its index looks all the same."""
    cache = address.format(tmp_path)
    ran("push", cache, "zlib", "--store", tree.root, "--key", key)
    ran("push", cache, "app", "--only", "package", "--store", tree.root, "--unsigned")
    for action in ("update", "rebuild"):
        ended = binpkg("index", action, cache, "--key", key, "--json")
        assert ended.code == {"update": 0, "rebuild": 1}[action], (
            ended.err
        )  # a rebuild that leaves packages out says so
        assert is_signed(cache, index_at(cache))
        assert [each for each in ended.json["damaged"] if "app-2.0" in each]
        assert "app" not in ran("find", "--from", cache, "--no-check-signature").out
    ran("index", "rebuild", cache, "--key", key, "--no-check-signature")
    assert "app" in ran("find", "--from", cache, "--no-check-signature").out


def test_push_with_a_key_signs_what_was_there_unsigned(tree, layout, key):
    ran("push", layout, "--store", tree.root)
    again = ran("push", layout, "--store", tree.root, "--key", key)
    assert "2 pushed, 0 skipped" in again.err
    assert "does not count as there" in again.err
    assert "0 pushed, 2 skipped" in ran("push", layout, "--store", tree.root, "--key", key).err
    ran("show", "app", "--from", layout, "--check-signature")


def test_a_copy_brings_the_signatures_and_is_under_its_own_rule(tree, layout, configure, key, tmp_path):
    target = f"oci-layout:{tmp_path}/copy"
    configure(f'[caches.lab]\nurl = "{layout}"\nsigned = true\n')
    ran("push", "lab", "--store", tree.root, "--key", key, "--update-index", "--tag", "prod")
    ran("copy", "lab", target)
    for tag in (package_at(target, "app"), "prod"):
        assert is_signed(target, tag)
    ran("show", "app", "--from", target, "--check-signature")
    # an unsigned package of the same name in a signed target does not count as there
    second = f"oci-layout:{tmp_path}/second"
    ran("push", second, "--store", tree.root)
    configure(f'[caches.lab]\nurl = "{layout}"\nsigned = true\n[trust.scopes."{second}"]\nrule = "require-signature"\n')
    assert binpkg("copy", "lab", second).code == 2
    copied = ran("copy", "lab", second, "--key", key)
    assert "3 copied, 0 there already" in copied.err
    ran("install", "app", "--from", second, "--store", tmp_path / "i")
    assert "0 copied, 3 there already" in ran("copy", "lab", second, "--key", key).err


# ---- what is kept


def test_what_an_unsigned_index_said_is_forgotten_once_the_cache_has_to_be_signed(tree, layout, configure, key):
    ran("push", layout, "--store", tree.root, "--update-index")
    name = f'[caches.lab]\nurl = "{layout}"\n'
    configure(name)
    assert "app@2.0" in ran("search", "app").out
    configure(name + "signed = true\n")
    ended = binpkg("search", "app")
    assert ended.code == 14
    assert not ended.out
    for words in (["search", "app", "--offline"], ["search", "app"]):
        ended = binpkg(*words)
        assert "app@2.0" not in ended.out
    ran("push", "lab", "--store", tree.root, "--key", key)
    ran("index", "rebuild", "lab", "--key", key)
    assert "app@2.0" in ran("search", "app", "--ttl", "0").out


def test_a_name_that_a_scope_means_is_not_removed(layout, configure):
    path = configure(f'[caches.lab]\nurl = "{layout}"\n[trust.scopes.lab]\nrule = "require-signature"\n')
    before = path.read_text()
    ended = binpkg("mirror", "remove", "lab")
    assert ended.code == 2
    assert "trust.scopes" in ended.err
    assert path.read_text() == before
    ran("mirror", "set", "lab", "--url", f"{layout}2")
    assert "trust.scopes.lab" in path.read_text()
