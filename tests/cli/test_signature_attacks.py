"""What a user sees when somebody tampers with a signed cache: each case with its own message, on every kind of cache."""

import json

import pytest

from oci_binpkg.model.content import OCI_CONFIG, Blob
from oci_binpkg.model.manifest import parse_descriptor
from oci_binpkg.store.images import blob_of
from tests.support.command_line import binpkg
from tests.support.gpg_keys import BORN, PAST
from tests.support.signed_caches import (
    blobs_named_by,
    cache,
    changed,
    damage,
    home,
    is_mirror,
    is_signed,
    manifest_at,
    package_at,
    put_manifest,
    ran,
    root_of,
    sign_manifest,
    store_of,
    tree,
    trust,
)

__all__ = ["cache", "home", "tree"]  # fixtures

pytestmark = pytest.mark.parametrize("cache", ["mirror", "registry"], indirect=True)


@pytest.fixture
def key(home, tmp_path):
    """A trusted key."""
    made = home.make("alice")
    trust(home, made, tmp_path)
    return made


@pytest.fixture
def signed(cache, tree, key):
    """A cache with `app` and `zlib`, signed."""
    ran("push", cache, "--store", tree.root, "--key", key, "--update-index")
    return cache


@pytest.fixture
def refused(tmp_path):
    """Look at a package and install it: both must end with the same error, and leave nothing behind."""

    def look(cache, *words, code=14, package="zlib"):
        shown = binpkg("show", package, "--from", cache, "--check-signature")
        installed = binpkg("install", package, "--from", cache, "--check-signature", "--store", tmp_path / "i")
        for ended in [installed] if code == 10 else [shown, installed]:
            assert ended.code == code, ended.err
            for word in words:
                assert word in ended.err
        assert not list((tmp_path / "i").glob(f"linux*/{package}*"))

    return look


def resign(cache, home, key, *options, at="", package="zlib"):
    """Sign a package's manifest as somebody else would."""
    sign_manifest(
        cache,
        package_at(cache, package),
        lambda data: home.clear(data, key, *options, at=at),
        lambda data: home.detached(data, key, *options, at=at),
    )


@pytest.fixture
def unsigned(cache, tree):
    """A cache with `app` and `zlib`, as its owner pushed it before anybody signed."""
    ran("push", cache, "--store", tree.root, "--unsigned", "--update-index")
    return cache


# ---- B32: who signed, and how


@pytest.mark.covers("B32")
def test_a_package_without_a_signature(unsigned, refused):
    refused(unsigned, "zlib-1.3", "is not signed")


@pytest.mark.covers("B32", "B37")
def test_a_key_that_nobody_trusts(unsigned, home, refused):
    key = home.make("mallory")
    resign(unsigned, home, key)
    refused(unsigned, f"signed by the key {key}, which is not trusted", "from its owner")


@pytest.mark.covers("B32")
def test_a_key_that_has_expired(unsigned, home, tmp_path, refused):
    key = home.make("old", expires="1d", at=BORN)
    trust(home, key, tmp_path)
    resign(unsigned, home, key, at=PAST)
    refused(unsigned, "the key that signed it has expired")


@pytest.mark.covers("B32")
def test_a_key_that_was_revoked_later(signed, home, key, tmp_path, refused):
    home.revoke(key)
    trust(home, key, tmp_path)
    refused(signed, "has been revoked")


@pytest.mark.covers("B32")
def test_a_key_that_is_not_meant_for_signing_any_more(signed, home, key, tmp_path, refused):
    home.gpg("--command-fd", "0", "--edit-key", key, stdin=b"key 0\nchange-usage\nS\nQ\nsave\n", ok=False)
    trust(home, key, tmp_path)
    refused(signed, "a key that is not meant for signing data")


@pytest.mark.covers("B32")
def test_a_signature_that_has_expired(unsigned, home, tmp_path, refused):
    key = home.make("old", at=BORN)
    trust(home, key, tmp_path)
    resign(unsigned, home, key, "--default-sig-expire", "1d", at=PAST)
    refused(unsigned, "the signature has expired")


@pytest.mark.covers("B32")
def test_a_weak_hash(unsigned, home, key, refused):
    resign(unsigned, home, key, "--digest-algo", "SHA1")
    refused(unsigned, "SHA1")


@pytest.mark.covers("B32")
def test_two_signatures_in_one(unsigned, home, key, refused):
    resign(unsigned, home, key, "--local-user", home.make("mallory"))
    refused(unsigned, "more than one signature")


@pytest.mark.covers("B32", "B36")
def test_a_signature_over_other_bytes(unsigned, home, key, refused):
    place = package_at(unsigned, "zlib")
    clear = home.clear(changed(manifest_at(unsigned, place), lambda document: document.update(extra=1)), key)
    sign_manifest(
        unsigned,
        place,
        lambda data: clear.replace(b',\n"extra":1', b""),
        lambda data: home.detached(data + b"\n", key),
    )
    refused(unsigned, "its content is not what was signed")


# ---- B33, B34: what surrounds the signed


@pytest.mark.covers("B33", "B34")
@pytest.mark.parametrize(
    ("change", "clear", "beside"),
    [
        (lambda signed: b"evil\n" + signed, "text stands before the signed block", "signature"),
        (lambda signed: signed + b"evil\n", "signature", "signature"),
        (lambda signed: signed + signed, "more than one signed block", "signature"),
        (lambda signed: signed.replace(b"-----\n", b"-----\x0b\n", 1), "opening line", "signature"),
    ],
    ids=["before", "after", "twice", "look-alike"],
)
def test_something_around_the_signature(unsigned, home, key, refused, change, clear, beside):
    sign_manifest(
        unsigned,
        package_at(unsigned, "zlib"),
        lambda data: change(home.clear(data, key)),
        lambda data: change(home.detached(data, key)),
    )
    refused(unsigned, clear if is_mirror(unsigned) else beside)


@pytest.mark.covers("B34")
def test_an_ordinary_message_in_place_of_a_signature(unsigned, home, key, refused):
    def message(data):
        return home.gpg("--armor", "--local-user", key, "--output", "-", "--sign", stdin=data)

    sign_manifest(unsigned, package_at(unsigned, "zlib"), message, message)
    refused(unsigned, "an ordinary PGP message" if is_mirror(unsigned) else "signature")


# ---- B35, B36: what is signed


@pytest.mark.covers("B35")
def test_a_signed_package_in_place_of_another(signed, refused):
    other, place = package_at(signed, "app"), package_at(signed, "zlib")
    if is_mirror(signed):
        (root_of(signed) / place).write_bytes((root_of(signed) / other).read_bytes())
    else:
        put_manifest(signed, place, manifest_at(signed, other))
    assert is_signed(signed, place)
    refused(signed, "holds another package: app@2.0", code=10)


@pytest.mark.covers("B36")
@pytest.mark.parametrize("which", [0, 1])
def test_a_blob_that_was_swapped_under_a_good_signature(signed, refused, which):
    """The layer, and the spec on mirrors or the configuration elsewhere."""
    blob = blobs_named_by(signed, package_at(signed, "zlib"))[:: -1 if which else 1][0]
    damage(signed, blob.digest, lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    refused(signed, str(blob.digest), code=10)


@pytest.mark.covers("B36")
@pytest.mark.parametrize("keeps", [False, True], ids=["left off", "moved over"])
@pytest.mark.parametrize("what", ["extra layer", "other layer", "other config"])
def test_a_manifest_that_names_something_else(signed, home, key, refused, what, keeps):
    """All that is not signed is made to fit; the old signature is left off, or comes along."""
    place, other = package_at(signed, "zlib"), package_at(signed, "app")
    old = manifest_at(signed, place)
    bad = (_mirror_manifest if is_mirror(signed) else _image_manifest)(signed, place, other, what)
    assert json.loads(bad) != json.loads(old)
    if is_mirror(signed):
        path = root_of(signed) / place
        stored = path.read_bytes()
        assert old in stored
        path.write_bytes(stored.replace(old, bad + b"\n") if keeps else bad)
    else:
        put_manifest(signed, place, bad)
        assert binpkg("show", "zlib", "--from", signed).code == 0  # nothing else would tell
        if keeps:
            signature = home.detached(old, key)
            sign_manifest(signed, place, lambda data: data, lambda data: signature)
    refused(signed, "its content is not what was signed" if keeps else "is not signed")


def _mirror_manifest(mirror, place, other, what):
    theirs = json.loads(manifest_at(mirror, other))["data"]
    number = 1 if what == "other config" else 0  # the spec is what a configuration is elsewhere

    def change(document):
        if what == "extra layer":
            document["data"].append(theirs[0])
        else:
            document["data"][number] = theirs[number]

    return changed(manifest_at(mirror, place), change)


def _image_manifest(cache, place, other, what):
    document, theirs = (json.loads(manifest_at(cache, each)) for each in (place, other))
    with store_of(cache) as store:
        config, their_config = (
            json.loads(blob_of(store, parse_descriptor(each["config"], "config")).read()) for each in (document, theirs)
        )
        layer, diff_id = theirs["layers"][-1], their_config["rootfs"]["diff_ids"][-1]
        if what == "other config":
            config["config"]["Env"].append("LD_PRELOAD=/evil.so")
        elif what == "other layer":
            document["layers"][-1], config["rootfs"]["diff_ids"][-1] = layer, diff_id
            config["binary_cache_checksum"]["hash"] = layer["digest"].removeprefix("sha256:")
        else:
            document["layers"].insert(0, layer)
            config["rootfs"]["diff_ids"].insert(0, diff_id)
            config["history"].insert(0, {"created_by": "somebody"})
        blob = Blob.from_bytes(json.dumps(config).encode(), OCI_CONFIG)
        store.put(blob)
    document["config"] |= {"digest": str(blob.descriptor.digest), "size": blob.descriptor.size}
    return json.dumps(document).encode()


# ---- B38: size


@pytest.mark.covers("B38")
def test_a_signature_of_a_hundred_kilobytes(unsigned, home, key, refused):
    def long(signed):
        head, mark, tail = signed.partition(b"-----BEGIN PGP SIGNATURE-----\n\n")
        return head + mark + b"A" * 100_000 + tail

    sign_manifest(
        unsigned,
        package_at(unsigned, "zlib"),
        lambda data: long(home.clear(data, key)),
        lambda data: long(home.detached(data, key)),
    )
    refused(unsigned, "at most" if is_mirror(unsigned) else "is not signed")
