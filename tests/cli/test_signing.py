"""Signed packages on the command line: on mirrors as Spack signs them, on registries and layouts beside the manifest."""

import gzip
import json
import subprocess

import pytest

from oci_binpkg.model.content import OCI_INDEX, OCI_MANIFEST, Blob, Descriptor, Digest
from oci_binpkg.model.manifest import Index, parse_manifest
from oci_binpkg.store.images import blob_of
from oci_binpkg.store.layout import LayoutStore
from oci_binpkg.store.referrers import SIGNATURE_ARTIFACT, fallback_tag
from tests.support.command_line import binpkg
from tests.support.signed_caches import (
    REGISTRIES,
    cache,
    home,
    package_at,
    ran,
    sign_manifest,
    store_of,
    tree,
    trust,
)

__all__ = ["cache", "home", "tree"]  # fixtures


def test_what_was_signed_is_believed_with_the_key_and_refused_without(home, tree, cache, tmp_path):
    key = home.make("alice")
    pushed = binpkg("push", cache, "--store", tree.root, "--key", key, "--update-index")
    assert pushed.code == 0, pushed.err
    install = ["install", "app", "--from", cache, "--check-signature", "--store"]
    refused = binpkg(*install, tmp_path / "a")
    assert refused.code == 14, refused.err
    assert key in refused.err
    assert not list((tmp_path / "a").glob("linux*/*"))
    (tmp_path / "alice.asc").write_bytes(home.public(key))
    assert binpkg("keys", "trust", tmp_path / "alice.asc").code == 0
    trusted = binpkg(*install, tmp_path / "b")
    assert trusted.code == 0, trusted.err
    assert binpkg("show", "app", "--from", cache, "--check-signature").code == 0
    binpkg("keys", "untrust", key)
    assert binpkg("show", "app", "--from", cache, "--check-signature").code == 14
    assert binpkg("show", "app", "--from", cache, "--no-check-signature").code == 0


def test_what_was_not_signed_is_refused_where_it_must_be(tree, cache, tmp_path):
    assert binpkg("push", cache, "--store", tree.root, "--unsigned", "--update-index").code == 0
    refused = binpkg("install", "app", "--from", cache, "--check-signature", "--store", tmp_path / "a")
    assert refused.code == 14
    assert "not signed" in refused.err
    usual = binpkg("show", "app", "--from", cache)
    assert usual.code == (14 if cache.startswith("file:") else 0)


def test_a_key_that_is_not_there_fails_before_anything_is_visible(home, tree, cache):
    ended = binpkg("push", cache, "--store", tree.root, "--key", "nobody@example.org")
    assert ended.code in {1, 15}, ended.err
    assert "nobody@example.org" in ended.err
    assert binpkg("find", "--from", cache, "--no-check-signature").code == 6


def test_other_content_under_a_signed_tag_is_refused(home, tree, tmp_path):
    """Another manifest under the tag of a signed package has no signature of its own."""
    key = home.make("alice")
    cache = f"oci-layout:{tmp_path}/cache"
    assert binpkg("push", cache, "--store", tree.root, "--key", key, "--update-index").code == 0
    (tmp_path / "alice.asc").write_bytes(home.public(key))
    binpkg("keys", "trust", tmp_path / "alice.asc")
    store = LayoutStore(f"{tmp_path}/cache")
    tags = {tag.split("-")[0]: tag for tag in store.tags() if tag.endswith(".spack")}
    from oci_binpkg.model.content import OCI_MANIFEST, Blob
    from oci_binpkg.store.images import blob_of

    manifest = json.loads(blob_of(store, store.resolve(tags["app"])).read())
    manifest["annotations"] = {"changed": "by somebody"}
    store.tag(Blob.from_bytes(json.dumps(manifest).encode(), OCI_MANIFEST), tags["app"])
    ended = binpkg("show", "app", "--from", cache, "--check-signature")
    assert ended.code == 14, ended.err
    assert binpkg("show", "zlib", "--from", cache, "--check-signature").code == 0


def test_keys_are_published_for_others_to_look_at(home, tmp_path):
    key = home.make("alice")
    mirror = f"file://{tmp_path}/m"
    ended = binpkg("keys", "publish", mirror, "--key", key)
    assert ended.code == 0, ended.err
    found = binpkg("keys", "fetch", mirror, "--json").json
    assert [(each["fingerprint"], each["trusted"]) for each in found] == [(key, False)]
    other = home.make("bob")
    assert binpkg("keys", "publish", mirror, "--key", other).code == 0
    assert {each["fingerprint"] for each in binpkg("keys", "fetch", mirror, "--json").json} == {key, other}
    assert "PRIVATE" not in "".join(path.read_text() for path in (tmp_path / "m").rglob("*") if path.is_file())


def test_gpg_agrees_with_the_clear_signed_manifests_we_write(home, tree, tmp_path):
    key = home.make("alice")
    mirror = tmp_path / "m"
    assert binpkg("push", f"file://{mirror}", "zlib", "--store", tree.root, "--key", key).code == 0
    (manifest,) = mirror.glob("v3/manifests/spec/zlib/*")
    text = home.gpg("--output", "-", "--decrypt", str(manifest))
    records = json.loads(text)["data"]
    (spec,) = (record for record in records if "spec" in record["mediaType"].split(".")[2])
    blob = mirror / "blobs" / "sha256" / spec["checksum"][:2] / spec["checksum"]
    assert json.loads(gzip.decompress(blob.read_bytes()))["spec"]["nodes"][0]["name"] == "zlib"
    assert (
        subprocess.run(
            ["gpg", "--homedir", home.path, "--verify", manifest], capture_output=True, check=False
        ).returncode
        == 0
    )


@pytest.mark.covers("B37")
def test_a_key_that_lies_beside_the_packages_is_not_trusted_for_that(tree, home, tmp_path):
    mirror = f"file://{tmp_path}/cache"
    key = home.make("mallory")
    ran("push", mirror, "--store", tree.root, "--key", key, "--update-index")
    ran("keys", "publish", mirror, "--key", key)
    assert [each["trusted"] for each in ran("keys", "fetch", mirror, "--json").json] == [False]
    ended = binpkg("install", "zlib", "--from", mirror, "--store", tmp_path / "i")
    assert ended.code == 14
    assert f"signed by the key {key}, which is not trusted" in ended.err


@pytest.mark.covers("B38")
@pytest.mark.parametrize("cache", ["layout", "registry"], indirect=True)
def test_a_good_signature_is_found_among_some_that_others_attached(cache, tree, home, tmp_path):
    key, mallory = home.make("alice"), home.make("mallory")
    trust(home, key, tmp_path)
    ran("push", cache, "zlib", "--store", tree.root, "--update-index")
    place = package_at(cache, "zlib")
    for number in range(4):
        sign_manifest(cache, place, bytes, lambda data, n=number: home.detached(data + bytes([n]), mallory))  # type: ignore[misc]
    assert binpkg("show", "zlib", "--from", cache, "--check-signature").code == 14
    sign_manifest(cache, place, bytes, lambda data: home.detached(data, key))
    ran("show", "zlib", "--from", cache, "--check-signature")


def listed_with(cache: str, subject: Descriptor, crowd: list[Descriptor]) -> None:
    """Let the list of what refers to a manifest have more entries: artifacts of others."""
    registry = REGISTRIES.get(cache.removeprefix("oci://").partition("/")[0])
    if registry is not None and not any(
        "/referrers/" in fault.path for fault in registry._faults if fault.status == 404
    ):
        more = [one.to_json() for one in crowd]

        def mutate(data: bytes) -> bytes:
            document = json.loads(data)
            document["manifests"] = more[:5_000] + document["manifests"] + more[5_000:]
            return json.dumps(document).encode()

        registry.fault("GET", "/referrers/", times=0, mutate=mutate)
        return
    if registry is not None:
        registry.profile.check_references = False
    with store_of(cache) as store:
        tag = fallback_tag(subject.digest)
        (ours,) = parse_manifest(blob_of(store, store.resolve(tag)).read(), tag, media_type=OCI_INDEX).manifests
        index = Index(OCI_INDEX, (*crowd[:5_000], ours, *crowd[5_000:]))
        store.tag(Blob.from_bytes(index.to_bytes(), OCI_INDEX), tag)


@pytest.mark.covers("B38")
@pytest.mark.parametrize("cache", ["layout", "registry", "registry without a list of referrers"], indirect=True)
def test_a_good_signature_is_found_among_ten_thousand_artifacts_of_others(cache, tree, home, tmp_path):
    key = home.make("alice")
    trust(home, key, tmp_path)
    ran("push", cache, "zlib", "--store", tree.root, "--key", key, "--update-index")
    place = package_at(cache, "zlib")
    with store_of(cache) as store:
        subject = store.resolve(place)
    crowd = [
        Descriptor(OCI_MANIFEST, Digest.of(b"%d" % number), 600, extra={"artifactType": SIGNATURE_ARTIFACT})
        for number in range(10_000)
    ]
    listed_with(cache, subject, crowd)
    registry = REGISTRIES.get(cache.removeprefix("oci://").partition("/")[0])
    before = len(registry.log) if registry else 0
    ran("download", f"zlib@=1.3/{tree.hashes['zlib']}", "--from", cache, "--check-signature", tmp_path / "files")
    assert not registry or len(registry.log) - before < 15
