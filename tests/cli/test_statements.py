"""Signatures that are good and stand in the wrong place: for another package, repository, mirror or index."""

from __future__ import annotations

from pathlib import Path

import pytest

from oci_binpkg.signing.statement import PLACE_NOTATION, TAG_NOTATION
from oci_binpkg.store.copy import copy
from oci_binpkg.store.referrers import attach_signature, signatures
from tests.support.command_line import binpkg
from tests.support.signed_caches import (
    cache,
    home,
    index_at,
    is_mirror,
    package_at,
    ran,
    root_of,
    sign_manifest,
    store_of,
    tree,
    trust,
)

__all__ = ["cache", "home", "tree"]  # fixtures


@pytest.fixture
def key(home, tmp_path):
    """A trusted key."""
    made = home.make("alice")
    trust(home, made, tmp_path)
    return made


@pytest.fixture
def configured(tmp_path, monkeypatch):
    """Write the configuration."""

    def write(text):
        (tmp_path / "config.toml").write_text(text)
        monkeypatch.setenv("OCI_BINPKG_CONFIG", str(tmp_path / "config.toml"))

    return write


def move(source, target, place):
    """Put a manifest with its signatures from one repository into another, as somebody may who can write to both."""
    with store_of(source) as theirs, store_of(target) as ours:
        copy(theirs, ours, place)
        for each in signatures(theirs, theirs.resolve(place)):
            attach_signature(ours, ours.resolve(place), each, pause=lambda _: None)


def named(cache):
    """How signatures name a registry on this machine."""
    return cache.replace("127.0.0.1", "localhost")


def look(cache, package="zlib"):
    return binpkg("show", package, "--from", cache, "--check-signature")


@pytest.mark.covers("B35")
@pytest.mark.parametrize("cache", ["registry", "registry without a list of referrers"], indirect=True)
def test_a_package_that_was_signed_for_another_repository(cache, tree, key, tmp_path, configured):
    other = cache.replace("/apps", "/tested")
    ran("push", cache, "--store", tree.root, "--key", key)
    move(cache, other, package_at(cache, "zlib"))
    ran("index", "rebuild", other)
    ended = look(other)
    assert ended.code == 14, ended.err
    assert f"the signature is for {named(cache)}, not for {other}" in ended.err
    assert "origins" in ended.err
    refused = binpkg("install", "zlib", "--from", other, "--check-signature", "--store", tmp_path / "i")
    assert refused.code == 14
    assert not list((tmp_path / "i").glob("linux*"))

    configured(f'[caches.copy]\nurl = "{other}"\norigins = ["{cache}"]\n')
    ran("show", "zlib", "--from", "copy", "--check-signature")
    configured(f'[caches.copy]\nurl = "{other}"\norigins = ["oci://elsewhere.example/apps"]\n')
    assert look("copy").code == 14


@pytest.mark.covers("B35")
@pytest.mark.parametrize("cache", ["registry"], indirect=True)
def test_an_index_that_was_signed_for_another_repository(cache, tree, key):
    other = cache.replace("/apps", "/tested")
    ran("push", cache, "--store", tree.root, "--key", key, "--update-index")
    move(cache, other, index_at(cache))
    ended = binpkg("find", "--from", other, "--check-signature")
    assert ended.code == 14, ended.err
    assert f"the signature is for {named(cache)}" in ended.err


@pytest.mark.covers("B35")
def test_a_signature_that_states_another_package(cache, tree, key, home):
    ran("push", cache, "zlib", "--store", tree.root, "--unsigned", "--update-index")
    options = ("--sig-notation", f"{TAG_NOTATION}=app-2.0-x.spack")
    sign_manifest(
        cache,
        package_at(cache, "zlib"),
        lambda data: home.clear(data, key, *options),
        lambda data: home.detached(data, key, *options),
    )
    ended = look(cache)
    assert ended.code == 14, ended.err
    assert "the signature is for app-2.0-x.spack, not for zlib-1.3-" in ended.err


@pytest.mark.covers("B35")
@pytest.mark.parametrize("cache", ["mirror"], indirect=True)
def test_the_index_of_a_view_in_place_of_the_whole_one(cache, tree, key):
    ran("push", cache, "--store", tree.root, "--key", key, "--update-index")
    ran("index", "update", cache, "zlib", "--view", "small", "--key", key)
    root = root_of(cache)
    (root / index_at(cache)).write_bytes((root / index_at(cache, "small")).read_bytes())
    ended = binpkg("find", "--from", cache, "--check-signature")
    assert ended.code == 14, ended.err
    assert "the signature is for index.spack/small, not for" in ended.err


@pytest.mark.parametrize("cache", ["mirror"], indirect=True)
def test_a_mirror_is_called_by_the_address_that_it_is_read_from(cache, tree, key, configured, tmp_path):
    configured(f'[caches.lab]\nfetch = "https://mirror.example/apps"\npush = "{cache}"\n')
    ran("push", "lab", "--store", tree.root, "--key", key)
    ran("index", "rebuild", cache, "--key", key)
    ended = look(cache)
    assert ended.code == 0
    assert ended.err.count("signed for https://mirror.example/apps") == 1
    configured(f'[caches.copy]\nurl = "{cache}"\norigins = ["https://mirror.example/apps"]\n')
    assert "signed for" not in ran("show", "zlib", "--from", "copy").err
    configured(f'[caches.copy]\nurl = "{cache}"\norigins = ["https://mirror.example/other"]\n')
    ended = look("copy")
    assert ended.code == 14
    assert "the signature is for https://mirror.example/apps" in ended.err


@pytest.mark.parametrize("cache", ["mirror", "layout"], indirect=True)
def test_no_path_of_this_machine_is_published_in_a_signature(cache, tree, key, home, tmp_path):
    ran("push", cache, "--store", tree.root, "--key", key, "--update-index")
    moved = Path(f"{tmp_path}/moved")
    place = root_of(cache) if is_mirror(cache) else Path(cache.removeprefix("oci-layout:"))
    place.rename(moved)
    for path in moved.rglob("*"):
        if path.is_file():
            assert PLACE_NOTATION.encode() not in path.read_bytes()
    ended = look(f"file://{moved}" if is_mirror(cache) else f"oci-layout:{moved}")
    assert (ended.code, ended.err) == (0, "")


@pytest.mark.parametrize("value", ['"oci://a/b"', "[1]", '["apps"]', "[[]]"])
def test_origins_are_a_list_of_addresses(configured, value):
    configured(f'[caches.copy]\nurl = "oci://registry.example/apps"\norigins = {value}\n')
    ended = binpkg("mirror", "list")
    assert ended.code == 2
    assert "origins" in ended.err
