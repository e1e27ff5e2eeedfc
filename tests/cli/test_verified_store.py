"""A tree remembers what was verified of each package that came from a cache, and says so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from oci_binpkg.installs import verifications
from oci_binpkg.installs.verifications import FILE
from tests.support.command_line import binpkg
from tests.support.signed_caches import cache, home, ran, tree, trust

__all__ = ["cache", "home", "tree"]  # fixtures

some_kinds = pytest.mark.parametrize("cache", ["mirror", "registry"], indirect=True)


@pytest.fixture
def key(home, tmp_path):
    """A trusted key."""
    made = home.make("alice")
    trust(home, made, tmp_path)
    return made


@pytest.fixture
def store(tmp_path):
    return tmp_path / "i"


def found(store):
    return {each["name"]: each["verified"] for each in ran("find", "--store", store, "--json").json}


@some_kinds
def test_what_was_signed_is_remembered_with_its_key_time_and_place(cache, tree, key, store):
    ran("push", cache, "--store", tree.root, "--key", key, "--update-index")
    ran("install", "app", "--from", cache, "--check-signature", "--store", store)
    shown = ran("show", "zlib", "--from", cache, "--check-signature", "--json").json
    known = found(store)
    assert set(known) == {"app", "zlib"}
    zlib = known["zlib"]
    assert (zlib["signed_by"], zlib["unsigned_because"]) == (key, None)
    assert (zlib["manifest"], zlib["layer"]) == (shown["digest"], shown["layer"])
    assert zlib["cache"] in cache
    assert zlib["signed_at"] <= zlib["verified_at"] + 1
    assert zlib["spec_hash"] in {"verified", "unverified"}
    lines = ran("find", "--store", store, "--long").lines
    assert lines[0].split() == ["hash", "package", "state", "signed", "by", "signed", "on", "spec", "hash", "from"]
    assert [key in line for line in lines] == [False, True, True]
    assert f"signed by {key}; from " in ran("verify-store", store, "zlib").out
    assert ran("verify-store", store, "zlib", "--json").json[0]["verified"] == zlib


@some_kinds
def test_what_was_not_signed_is_remembered_as_that(cache, tree, store):
    ran("push", cache, "--store", tree.root, "--unsigned", "--update-index")
    ran("install", "zlib", "--from", cache, "--no-check-signature", "--store", store)
    zlib = found(store)["zlib"]
    assert (zlib["signed_by"], zlib["signed_at"]) == (None, None)
    assert zlib["unsigned_because"] == "signatures were not asked for"
    assert "signatures were not asked for" in ran("find", "--store", store, "--long").out
    assert "not signed: signatures were not asked for; from " in ran("verify-store", store).out


def test_what_spack_built_is_its_owners_own(tree):
    assert found(tree.root) == {"app": None, "zlib": None}
    assert "this tree" in ran("find", "--store", tree.root, "--long").lines[1]
    assert binpkg("verify-store", tree.root, "--json").json[0]["verified"] is None  # its files have no record


@pytest.mark.parametrize("cache", ["registry"], indirect=True)
def test_a_new_install_replaces_what_is_remembered_and_an_uninstall_removes_it(cache, tree, key, store):
    ran("push", cache, "--store", tree.root, "--update-index")
    ran("install", "zlib", "--from", cache, "--store", store)
    ran("push", cache, "--store", tree.root, "--key", key, "--force")
    assert found(store)["zlib"]["signed_by"] is None
    ran("install", "zlib", "--from", cache, "--check-signature", "--store", store, "--force")
    assert found(store)["zlib"]["signed_by"] == key
    ran("install", "zlib", "--from", cache, "--store", store, "--force")
    assert found(store)["zlib"]["signed_by"] is None
    ran("uninstall", "zlib", "--store", store)
    assert Path(store, FILE).read_bytes() == b""


@some_kinds
def test_a_package_that_is_pushed_again_is_the_same_bytes(cache, tree, store, tmp_path):
    ran("push", cache, "--store", tree.root, "--unsigned", "--update-index")
    ran("install", "app", "--from", cache, "--no-check-signature", "--store", store)
    again = f"oci-layout:{tmp_path}/again"
    ran("push", again, "--store", store, "app", "--update-index")
    for name in ("app", "zlib"):
        layers = {
            ran("show", name, "--from", each, "--no-check-signature", "--json").json["layer"] for each in (cache, again)
        }
        assert len(layers) == 1


@pytest.mark.parametrize("cache", ["layout"], indirect=True)
def test_installs_at_the_same_time_lose_nothing(cache, tree, store):
    ran("push", cache, "--store", tree.root, "--update-index")
    command = [sys.executable, "-m", "oci_binpkg", "install", "--from", cache, "--store", store]
    running = [
        subprocess.Popen([*command, name], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        for name in ("app", "zlib", "app", "zlib")
    ]
    assert [each.wait(timeout=120) for each in running] == [0] * 4
    assert {name: each is not None for name, each in found(store).items()} == {"app": True, "zlib": True}


@pytest.mark.parametrize("cache", ["layout"], indirect=True)
def test_an_install_that_ends_before_its_database_is_written_leaves_nothing_that_looks_verified(
    cache, tree, key, store, monkeypatch
):
    """What was signed is replaced by what is not, and the process dies when the new prefix is in place."""
    ran("push", cache, "--store", tree.root, "--key", key, "--update-index")
    ran("install", "zlib", "--from", cache, "--check-signature", "--store", store)

    class Killed(BaseException):
        pass

    def die(*_arguments):
        raise Killed

    monkeypatch.setattr("oci_binpkg.installs.spack.encode_database", die)
    with pytest.raises(Killed):
        binpkg("install", "zlib", "--from", cache, "--store", store, "--force")
    monkeypatch.undo()
    zlib = found(store)["zlib"]
    assert zlib["signed_by"] is None
    assert "did not come to its end" in zlib["unsigned_because"]


@pytest.mark.parametrize("cache", ["layout"], indirect=True)
def test_spack_that_builds_the_package_anew_makes_it_its_own(cache, tree, store):
    ran("push", cache, "--store", tree.root, "--update-index")
    ran("install", "zlib", "--from", cache, "--store", store)
    database = store / ".spack-db" / "index.json"
    document = json.loads(database.read_text())
    for record in document["database"]["installs"].values():
        record["installation_time"] += 60.0
    database.write_text(json.dumps(document))
    assert found(store)["zlib"] is None


@pytest.mark.parametrize("cache", ["layout"], indirect=True)
def test_the_document_is_bounded(cache, tree, store, monkeypatch):
    ran("push", cache, "--store", tree.root, "--update-index")
    ran("install", "zlib", "--from", cache, "--store", store)
    monkeypatch.setattr(verifications, "MAX_BYTES", 100)
    assert "cannot be read" in found(store)["zlib"]["unsigned_because"]


def test_long_is_about_trees(tmp_path):
    for arguments in (["--from", f"oci-layout:{tmp_path}/x"], []):
        ended = binpkg("find", "--long", *arguments)
        assert ended.code == 2
        assert "--store" in ended.err
