"""Manifests of mirrors: read strictly, written to the byte as Spack writes them."""

from __future__ import annotations

import gzip
import hashlib
import json

import pytest

from oci_binpkg.cache.mirror_manifest import (
    LAYOUT_BYTES,
    LAYOUT_PATH,
    BlobRecord,
    MirrorManifest,
    blob_path,
    compressed,
    decompressed,
    hash_of_path,
    index_path,
    inflated,
    package_path,
    parse_mirror_manifest,
)
from oci_binpkg.errors import ContentError, SignatureError
from oci_binpkg.model.content import Digest
from oci_binpkg.model.reference import PackageKey
from oci_binpkg.signing.clearsign import unsigned
from tests.support.golden import GOLDEN
from tests.support.mirrors import golden_manifests

RECORD = {
    "contentLength": 3,
    "mediaType": "text/plain",
    "compression": "none",
    "checksumAlgorithm": "sha256",
    "checksum": "0" * 64,
}


@pytest.mark.parametrize("mirror", ["v3-unsigned", "v3-padded"])
def test_golden_manifests_are_written_again_to_the_byte(mirror: str) -> None:
    manifests = golden_manifests(mirror)
    assert len(manifests) in (3, 5)
    for data in [*manifests.values(), (GOLDEN / mirror / index_path()).read_bytes()]:
        assert parse_mirror_manifest(data, "golden").to_bytes() == data


def test_signed_manifests_hold_the_same_bytes() -> None:
    plain = golden_manifests("v3-unsigned")
    for path, data in golden_manifests("v3-signed").items():
        assert unsigned(data, path, strip=True) == plain[path] + b"\n"
        with pytest.raises(SignatureError, match="is signed"):
            unsigned(data, path)
        assert unsigned(plain[path], path) == plain[path]


def test_a_signed_message_that_is_cut_off_is_refused_even_without_looking_at_the_signature() -> None:
    data = next(iter(golden_manifests("v3-signed").values()))
    with pytest.raises(SignatureError):
        unsigned(data[:-40], "cut", strip=True)


def test_the_layout_file_is_spacks() -> None:
    assert (GOLDEN / "v3-unsigned" / LAYOUT_PATH).read_bytes() == LAYOUT_BYTES


def test_paths_are_spacks() -> None:
    keys = {
        package_path(PackageKey("greet", "2.0", "6fytamqgzio2shuhlaie55hiv2m2stdw")),
        package_path(PackageKey("greetcfg", "0.9", "ta3meskhmqb6k5s7hjcdueztgdoc5pr4")),
    }
    assert keys <= set(golden_manifests("v3-unsigned"))
    for path in keys:
        assert (hash_of_path(path) or "") in path
    assert hash_of_path("v3/manifests/spec/readme.txt") is None
    assert index_path() == "v3/manifests/index/index.manifest.json"
    assert index_path("ci") == "v3/manifests/index/ci/index.manifest.json"
    assert blob_path(Digest("sha256", "ab" * 32)) == f"blobs/sha256/ab/{'ab' * 32}"


def test_characters_that_no_file_name_has_become_underscores() -> None:
    path = package_path(PackageKey("a", "git.x/y=1..0", "h" * 32))
    assert path == f"v3/manifests/spec/a/a-git.x_y_1..0-{'h' * 32}.spec.manifest.json"


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"version": 2, "data": []}, "version 2; 3 is understood"),
        ({"version": "3", "data": []}, "version: an integer"),
        ({"version": 3}, "data: a list"),
        ({"version": 3, "data": ["x"]}, r"data\[0\]: an object"),
        ({"version": 3, "data": [RECORD, RECORD | {"compression": "zip"}]}, r"data\[1\]: 'zip'"),
        ({"version": 3, "data": [RECORD | {"checksumAlgorithm": "md5"}]}, "'md5'"),
        ({"version": 3, "data": [RECORD | {"checksum": "../../x"}]}, "not a digest"),
        ({"version": 3, "data": [RECORD | {"checksum": 7}]}, "checksum: text"),
        ({"version": 3, "data": [RECORD | {"contentLength": -1}]}, "contentLength"),
        ({"version": 3, "data": [RECORD | {"mediaType": None}]}, "mediaType"),
    ],
)
def test_what_is_no_manifest_is_refused_with_the_field(document: dict[str, object], message: str) -> None:
    with pytest.raises(ContentError, match=message):
        parse_mirror_manifest(json.dumps(document).encode(), "it")


def test_a_record_is_found_by_its_type_and_must_be_alone() -> None:
    record = BlobRecord("text/plain", "none", Digest("sha256", "0" * 64), 3)
    assert MirrorManifest((record,)).record("text/", "it") == record
    assert record.descriptor("other").media_type == "other"
    for manifest in (MirrorManifest(()), MirrorManifest((record, record))):
        with pytest.raises(ContentError, match="where one is expected"):
            manifest.record("text/", "it")


def test_compression_has_a_fixed_header_and_is_undone_within_bounds() -> None:
    data = b"some document" * 1000
    small = compressed(data)
    assert small[:10] == bytes.fromhex("1f8b08000000000000ff")
    assert gzip.decompress(small) == data
    assert decompressed(small, "gzip", "it", len(data)) == data
    assert decompressed(data, "none", "it", len(data)) == data
    for damaged, message in (
        (small[:-1], "cut off"),
        (small + b"x", "cut off"),
        (b"no gzip", "not a gzip stream"),
        (small[:20] + b"\xff" * 20, "gzip stream"),
    ):
        with pytest.raises(ContentError, match=message):
            decompressed(damaged, "gzip", "it", len(data))
    with pytest.raises(ContentError, match="more than 100 bytes"):
        decompressed(small, "gzip", "it", 100)


@pytest.mark.parametrize("size", [1, 1000, 10**6])
def test_a_document_is_inflated_as_it_arrives(size: int) -> None:
    data = bytes(3_000_000) + b"end"
    small = gzip.compress(data)
    pieces = [small[start : start + size] for start in range(0, len(small), size)]
    assert b"".join(inflated(pieces, "gzip", "it", len(data))) == data
    for wrong in (pieces[:-1], [*pieces, b"more"], [small[:-1]], [small + b"more"]):
        with pytest.raises(ContentError, match="cut off, or something follows"):
            list(inflated(wrong, "gzip", "it", len(data)))
    with pytest.raises(ContentError, match="more than 2000000 bytes"):
        list(inflated(pieces, "gzip", "it", 2_000_000))


def test_a_document_grows_only_so_far() -> None:
    blanks = gzip.compress(b" " * (40 * 1024**2), mtime=0)
    with pytest.raises(ContentError, match=r"^it: grows more than 64-fold"):
        decompressed(blanks, "gzip", "it", 64 * 1024**2)
    many = json.dumps(
        [{"name": f"package-{number}", "hash": hashlib.sha256(b"%d" % number).hexdigest()} for number in range(300_000)]
    )
    assert decompressed(gzip.compress(many.encode(), mtime=0), "gzip", "it", 64 * 1024**2).decode() == many
