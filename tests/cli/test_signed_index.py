"""Signed indices on the command line, on mirrors, in layouts and in registries."""

import json

import pytest

from tests.support.command_line import binpkg
from tests.support.fake_registry import FakeRegistry, Profile
from tests.support.signed_caches import (
    blobs_named_by,
    cache,
    changed,
    damage,
    home,
    index_at,
    is_mirror,
    is_signed,
    manifest_at,
    package_at,
    put_manifest,
    ran,
    root_of,
    sign_manifest,
    tree,
    trust,
)

__all__ = ["cache", "home", "tree"]  # fixtures


def push(cache, tree, *more, key=""):
    return binpkg("push", cache, "--store", tree.root, "--update-index", *(("--key", key) if key else more))


def find(cache, *more):
    return binpkg("find", "--from", cache, "--check-signature", *more)


@pytest.fixture
def signed(cache, tree, home, tmp_path):
    """A cache whose index alice signed, whose key is trusted: its address and her key."""
    key = home.make("alice")
    trust(home, key, tmp_path)
    assert push(cache, tree, key=key).code == 0
    return cache, key


def require_signed_index(cache, tmp_path, monkeypatch):
    """Configure the cache under the name `lab`."""
    config = tmp_path / "config.toml"
    config.write_text(f'[caches.lab]\nurl = "{cache}"\nsigned_index = true\n')
    monkeypatch.setenv("OCI_BINPKG_CONFIG", str(config))


def refused(ended, *words):
    assert ended.code == 14, ended.err
    for word in words:
        assert word in ended.err
    assert not ended.out


def test_an_index_is_signed_by_who_signs_and_everybody_can_see_by_whom(signed):
    cache, key = signed
    assert is_signed(cache, index_at(cache))
    for more in ([], ["--check-signature"]):
        checked = ran("index", "check", cache, *more)
        assert checked.lines == [f"{checked.out.partition(': index')[0]}: index true, 2 packages, signed by {key}"]
    assert ran("index", "check", cache, "--json").json["signed_by"] == key
    assert find(cache).code == 0
    assert find(cache).err == ""


def test_an_index_by_somebody_else_is_refused_where_signatures_are_checked(signed):
    cache, key = signed
    ran("keys", "untrust", key)
    refused(find(cache), "the index of", f"signed by the key {key}, which is not trusted", "from its owner")
    assert find(cache, "--no-check-signature").code == 0
    refused(binpkg("index", "check", cache, "--check-signature"), key)
    if not is_mirror(cache):  # whose signatures are checked only when asked for
        told = ran("index", "check", cache)
        assert "signature not verified: the index of " in told.out
        assert key in told.out
        assert ran("index", "check", cache, "--json").json["signed_by"] is None


@pytest.mark.covers("B36")
def test_another_index_under_the_signature_is_refused(signed, home, tmp_path):
    """The signature moved to an index that its maker never saw."""
    cache, key = signed
    place = index_at(cache)
    good = manifest_at(cache, place)
    bad = changed(good, lambda document: document.update(extra="entered by somebody"))
    if is_mirror(cache):
        path = root_of(cache) / place
        stored = path.read_bytes()
        assert good in stored
        path.write_bytes(stored.replace(good, bad + b"\n"))
    else:
        signature = home.detached(good, key)
        put_manifest(cache, place, bad)
        sign_manifest(cache, place, lambda data: data, lambda data: signature)
    refused(find(cache), "the index of", "its content is not what was signed", "index rebuild")
    refused(binpkg("install", "app", "--from", cache, "--check-signature", "--store", tmp_path / "i"), "the index of")
    assert not list((tmp_path / "i").glob("linux*"))


@pytest.mark.covers("B36")
def test_another_document_in_place_of_the_signed_index_is_refused(signed):
    cache, _ = signed
    document = blobs_named_by(cache, index_at(cache))[-1]
    damage(cache, document.digest, lambda data: data.replace(b"zlib", b"evil"))
    ended = find(cache)
    assert ended.code == 10
    assert str(document.digest) in ended.err


def test_an_index_that_nobody_signed_is_read_unless_a_signed_one_is_asked_for(
    signed, tree, home, tmp_path, monkeypatch
):
    cache, key = signed
    put_manifest(cache, index_at(cache), changed(manifest_at(cache, index_at(cache)), lambda _: None) + b"\n")
    assert not is_signed(cache, index_at(cache))
    ended = find(cache)
    assert ended.code == 0
    assert ended.err == ""
    assert "not signed" in ran("index", "check", cache).out
    refused(binpkg("index", "check", cache, "--check-signature"), "not signed, and a signed index is asked for")
    require_signed_index(cache, tmp_path, monkeypatch)
    refused(binpkg("find", "--from", "lab"), "not signed, and a signed index is asked for", "index rebuild")
    refused(binpkg("index", "update", "lab", "--key", key), "not signed")
    assert binpkg("find", "--from", "lab", "--no-check-signature").code == 0
    assert "not signed" in binpkg("search", "app").err
    ran("index", "rebuild", "lab", "--key", key)
    assert "app" in ran("find", "--from", "lab").out
    for words in (["push", "lab", "--store", tree.root, "--update-index"], ["index", "rebuild", "lab"]):
        unsigned = binpkg(*words, *(["--unsigned"] if words[0] == "push" else []))
        assert unsigned.code == 2
        assert "--key" in unsigned.err
    assert f"signed by {key}" in ran("index", "check", "lab").out


def test_who_does_not_sign_leaves_an_index_without_a_signature(signed, home, tmp_path):
    cache, _ = signed
    ran("index", "rebuild", cache)
    assert not is_signed(cache, index_at(cache)) or not is_mirror(cache)
    again = ran("index", "check", cache, "--json").json
    # made of the same packages it is the same bytes, and on registries what was said of these still holds
    assert again["signed_by"] is None or not is_mirror(cache)
    assert again["problem"] is None


def test_a_signer_goes_on_with_her_own_index_though_she_trusts_no_key(cache, tree, home, tmp_path):
    key = home.make("alice")
    assert push(cache, tree, "zlib", key=key).code == 0
    ran("push", cache, "zlib", "--store", tree.root, "--key", key, "--update-index")
    more = push(cache, tree, key="alice@example.org")
    assert more.code == 0, more.err
    trust(home, key, tmp_path)
    assert f"2 packages, signed by {key}" in ran("index", "check", cache).out


def test_a_merge_signs_nothing_that_it_did_not_verify(signed, tree, home, tmp_path):
    cache, _ = signed
    other, place = home.make("mallory"), index_at(cache)
    before = changed(manifest_at(cache, place), lambda document: document.update(extra="by mallory"))
    put_manifest(cache, place, before)
    sign_manifest(cache, place, lambda data: home.clear(data, other), lambda data: home.detached(data, other))
    key = home.make("bob")
    trust(home, key, tmp_path)
    refused(
        binpkg("push", cache, "--store", tree.root, "--key", key, "--update-index", "--force"),
        f"by the key {other}",
        "index rebuild",
    )
    refused(binpkg("index", "update", cache, "--key", key, "--check-signature"), other)
    assert manifest_at(cache, place).strip() == before
    rebuilt = binpkg("index", "rebuild", cache, "--key", key)
    assert rebuilt.code == 0
    assert "the old index is not used" in rebuilt.err
    # on registries the bytes are those that alice signed, and both signatures hold
    assert "index true, 2 packages, signed by" in ran("index", "check", cache, "--check-signature").out


def test_an_index_that_nobody_vouched_for_stays_unsigned_until_it_is_made_anew(cache, tree, home, tmp_path):
    key = home.make("alice")
    trust(home, key, tmp_path)
    ran("push", cache, "zlib", "--store", tree.root, "--key", key)
    ran("index", "update", cache)
    more = push(cache, tree, key=key)
    assert more.code == 0
    assert "index rebuild CACHE --key KEY" in more.err
    assert "2 packages, not signed" in ran("index", "check", cache).out
    ran("index", "rebuild", cache, "--key", key)
    assert f"2 packages, signed by {key}" in ran("index", "check", cache).out


def test_an_old_index_in_place_of_a_newer_one_hides_packages_and_nothing_else(signed, tree, home, tmp_path):
    """What is not promised: the signature says who made an index, not that there is no newer one."""
    cache, key = signed
    old = ran("index", "check", cache).out
    assert f"signed by {key}" in old
    path = package_at(cache, "app")
    other = manifest_at(cache, path)
    put_manifest(cache, path, changed(other, lambda document: document.update(extra="by somebody")))
    # the index is as it was and good; what it names is judged by its own signature
    assert find(cache).code == 0
    refused(binpkg("install", "app", "--from", cache, "--check-signature", "--store", tmp_path / "i"), "app")


def test_spack_finds_the_index_in_the_signed_manifest(tmp_path, tree, home):
    from tests.unit.signing.test_sign import SPACKS_READER

    mirror = f"file://{tmp_path}/m"
    assert push(mirror, tree, key=home.make("alice")).code == 0
    stored = (tmp_path / "m" / index_at(mirror)).read_text()
    found = SPACKS_READER.search(stored)
    (record,) = json.loads(found[1])["data"]  # type: ignore[index]
    assert record["mediaType"] == "application/vnd.spack.db.v8+json"
    blob = tmp_path / "m" / "blobs" / "sha256" / record["checksum"][:2] / record["checksum"]
    assert len(json.loads(blob.read_bytes())["database"]["installs"]) == 2


def test_what_was_done_to_an_index_does_not_fail_because_its_signature_cannot_be_looked_at(tree, monkeypatch):
    monkeypatch.setenv("OCI_BINPKG_RETRIES", "0")
    with FakeRegistry(profile=Profile()) as registry:
        cache = f"oci://{registry.host}/apps"
        ran("push", cache, "--store", tree.root)
        registry.fault("GET", "/referrers/", times=10**6, status=403)
        updated = ran("index", "update", cache)
        assert "index written, 2 packages, signature not verified: " in updated.out
        assert ran("find", "--from", cache).code == 0
        assert binpkg("find", "--from", cache, "--check-signature").code == 23
