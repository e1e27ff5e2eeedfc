"""Keys that expire, are revoked or replaced after they signed: what still counts, and what to do where it does not."""

from __future__ import annotations

import pytest

from tests.support.command_line import binpkg
from tests.support.gpg_keys import BORN
from tests.support.signed_caches import cache, home, is_mirror, ran, tree, trust

__all__ = ["cache", "home", "tree"]  # fixtures

pytestmark = pytest.mark.parametrize("cache", ["mirror", "registry"], indirect=True)


@pytest.fixture
def expiring(home, tmp_path):
    """A key that is trusted and good, and a function after which it has expired."""
    key = home.make("alice", expires="1d", at=BORN)
    expired = home.public(key)
    home.gpg("--quick-set-expire", key, "0")
    trust(home, key, tmp_path)

    def expire():
        ran("keys", "untrust", key)
        (tmp_path / "expired.asc").write_bytes(expired)
        ran("keys", "trust", tmp_path / "expired.asc")

    return key, expire


@pytest.fixture
def store(tmp_path):
    return tmp_path / "i"


def install(cache, store, *arguments):
    return binpkg("install", *arguments, "--from", cache, "--check-signature", "--store", store)


def test_what_was_verified_here_while_the_key_was_good_stays_good(cache, tree, expiring, store, tmp_path):
    key, expire = expiring
    ran("push", cache, "--store", tree.root, "--key", key, "--update-index")
    assert install(cache, store, "zlib").code == 0
    expire()
    elsewhere = install(cache, tmp_path / "other", "zlib")
    assert elsewhere.code == 14, elsewhere.err
    assert "the key that signed it has expired" in elsewhere.err
    assert "by a key that is good" in elsewhere.err
    # an index that nobody vouches for any more is another matter
    assert "expired" in install(cache, store, "zlib", "--force").err
    exact = f"zlib@=1.3/{tree.hashes['zlib']}"
    again = install(cache, store, exact, "--force")
    assert again.code == 0, again.err
    assert ran("find", "--store", store, "--json").json[0]["verified"]["signed_by"] == key


def test_another_build_by_the_expired_key_is_refused_also_here(cache, tree, expiring, store):
    key, expire = expiring
    ran("push", cache, "zlib", "--store", tree.root, "--key", key)
    exact = f"zlib@=1.3/{tree.hashes['zlib']}"
    assert install(cache, store, exact).code == 0
    codec = [] if is_mirror(cache) else ["--compression", "gzip:1"]
    if is_mirror(cache):
        (tree.prefix("zlib") / "lib" / "more").write_bytes(b"more")
    ran("push", cache, "zlib", "--store", tree.root, "--key", key, "--force", *codec)
    expire()
    ended = install(cache, store, exact, "--force")
    assert ended.code == 14, ended.err
    assert "has expired" in ended.err


def test_a_revoked_key_refuses_also_what_was_verified_here(cache, tree, expiring, store, home, tmp_path):
    key, _expire = expiring
    ran("push", cache, "--store", tree.root, "--key", key, "--update-index")
    exact = f"zlib@=1.3/{tree.hashes['zlib']}"
    assert install(cache, store, exact).code == 0
    home.revoke(key)
    trust(home, key, tmp_path)
    ended = install(cache, store, exact, "--force")
    assert ended.code == 14
    assert "has been revoked" in ended.err
    built_on = install(cache, store, f"app@=2.0/{tree.hashes['app']}")
    assert built_on.code == 14


def test_what_needs_a_package_whose_key_expired_since_is_installed(cache, tree, expiring, store, home, tmp_path):
    key, expire = expiring
    new = home.make("bob")
    ran("push", cache, "zlib", "--store", tree.root, "--key", key)
    assert install(cache, store, f"zlib@=1.3/{tree.hashes['zlib']}").code == 0
    ran("push", cache, "app", "--only", "package", "--store", tree.root, "--key", new)
    expire()
    trust(home, new, tmp_path)
    ended = install(cache, store, f"app@=2.0/{tree.hashes['app']}")
    assert ended.code == 0, ended.err


def test_a_new_key_signs_what_the_old_one_signed(cache, tree, expiring, store, home, tmp_path):
    """Rotation: both are trusted for a while, and what is signed anew counts without the old one."""
    key, expire = expiring
    new = home.make("bob")
    trust(home, new, tmp_path)
    ran("push", cache, "--store", tree.root, "--key", key, "--update-index")
    ran("push", cache, "--store", tree.root, "--key", new, "--force", "--update-index")
    ran("index", "rebuild", cache, "--key", new)
    expire()
    ended = install(cache, store, "app")
    assert ended.code == 0, ended.err
    assert {one["verified"]["signed_by"] for one in ran("find", "--store", store, "--json").json} == {new}


def test_a_subkey_that_replaces_another_counts_once_the_key_is_taken_in_again(cache, tree, home, store, tmp_path):
    key = home.make("carol")
    trust(home, key, tmp_path)
    home.gpg("--quick-add-key", key, "ed25519", "sign", "0")
    ran("push", cache, "--store", tree.root, "--key", key, "--unsigned", "--update-index")
    ran("push", cache, "--store", tree.root, "--key", key, "--force")
    exact = f"zlib@=1.3/{tree.hashes['zlib']}"
    ended = install(cache, store, exact)
    assert ended.code == 14
    assert "not trusted" in ended.err
    trust(home, key, tmp_path)
    assert install(cache, store, exact).code == 0
