"""Digests, platforms, descriptors and blobs."""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oci_binpkg.errors import ContentError
from oci_binpkg.model.content import (
    OCI_INDEX,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    OCTET_STREAM,
    Blob,
    Descriptor,
    Digest,
    Platform,
    verify,
)
from tests.support.blobs import file_blob

HEX = hashlib.sha256(b"").hexdigest()


def test_digest_of_bytes() -> None:
    digest = Digest.of(b"")
    assert str(digest) == f"sha256:{HEX}"
    assert digest.short == HEX[:12]
    assert Digest.parse(str(digest)) == digest
    assert Digest.parse("sha512:" + "0" * 128).algorithm == "sha512"


@pytest.mark.covers("B07")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256",
        "sha256:",
        f"sha256:{HEX.upper()}",
        f"sha256:{HEX[1:]}",
        f"sha256:{HEX}0",
        f"sha256:{HEX}\n",
        f" sha256:{HEX}",
        f"SHA256:{HEX}",
        f"md5:{'0' * 32}",
        f"sha384:{'0' * 96}",
        f"sha512:{HEX}",
        "sha256:../../x",
        "sha256:" + "../" * 21 + "x",
        f"sha256:{HEX[:-1]}g",
        f"sha256:{HEX[:-1]}٣",
        f"sha256:{HEX}:{HEX}",
        "sha256:" + "a" * 2**20,
        None,
        7,
        ["sha256", HEX],
    ],
)
def test_what_is_no_digest_never_becomes_one(text: Any) -> None:
    with pytest.raises(ContentError, match=r"^not a digest: ") as caught:
        Digest.parse(text)
    assert len(caught.value.message) < 200


def test_platforms_have_names() -> None:
    assert str(Platform("linux", "arm64", "v8")) == "linux/arm64/v8"
    assert str(Platform("linux", "amd64")) == "linux/amd64"


@pytest.mark.parametrize(
    ("wanted", "best_first", "refused"),
    [
        ("arm", ["arm", "arm/v7", "arm/v6", "arm/v5", "arm/v8"], ["arm64"]),
        ("arm/v7", ["arm/v7", "arm", "arm/v6", "arm/v5"], ["arm/v8"]),
        ("arm/v6", ["arm/v6", "arm/v5"], ["arm", "arm/v7"]),
        ("amd64", ["amd64", "amd64/v1", "amd64/v2", "amd64/v4"], ["386"]),
        ("amd64/v3", ["amd64/v3", "amd64/v2", "amd64"], ["amd64/v4"]),
        ("arm64", ["arm64", "arm64/v8", "arm64/v8.2", "arm64/v9"], ["arm/v7"]),
        ("arm64/v8.2", ["arm64/v8.2", "arm64/v8.1", "arm64"], ["arm64/v8.10", "arm64/v9"]),
        ("ppc64le", ["ppc64le", "ppc64le/power9"], ["ppc64"]),
        ("ppc64le/power9", ["ppc64le/power9", "ppc64le"], ["ppc64le/power10"]),
    ],
)
def test_a_level_also_runs_what_lower_ones_run(wanted: str, best_first: list[str], refused: list[str]) -> None:
    def platform(text: str) -> Platform:
        return Platform("linux", *text.split("/"))

    distances = [platform(each).distance(platform(wanted)) for each in best_first]
    assert None not in distances
    assert distances == sorted(distances, key=lambda each: each or 0)
    assert not any(platform(each).fits(platform(wanted)) for each in refused)
    assert not Platform("windows", "arm").fits(Platform("linux", "arm"))


def test_descriptors_write_what_they_know_and_what_they_do_not() -> None:
    descriptor = Descriptor(
        OCI_MANIFEST, Digest.of(b""), 0, Platform("linux", "arm", "v7"), {"k": "v"}, {"urls": ["https://x"]}
    )
    assert list(descriptor.to_json().items()) == [
        ("mediaType", OCI_MANIFEST),
        ("digest", f"sha256:{HEX}"),
        ("size", 0),
        ("platform", {"os": "linux", "architecture": "arm", "variant": "v7"}),
        ("urls", ["https://x"]),
        ("annotations", {"k": "v"}),
    ]
    assert descriptor.is_manifest
    assert Descriptor(OCI_INDEX, Digest.of(b""), 0).is_manifest
    assert not Descriptor(OCI_LAYER_GZIP, Digest.of(b""), 0).is_manifest


def test_blobs_can_be_read_again_and_again(tmp_path: Path) -> None:
    blob = Blob.from_bytes(b"data")
    assert blob.read() == blob.read() == b"data"
    assert blob.descriptor.media_type == OCTET_STREAM
    (tmp_path / "file").write_bytes(b"data")
    assert file_blob(str(tmp_path / "file"), blob.descriptor).read() == b"data"
    moved = replace(blob, origin="https://reg.example/apps")
    assert (moved.origin, moved.descriptor) == ("https://reg.example/apps", blob.descriptor)


def test_a_blob_is_read_whole_from_a_stream_that_gives_little() -> None:
    class Dripping(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(size or 0, 2))

    blob = Blob(Blob.from_bytes(b"a long text").descriptor, lambda: Dripping(b"a long text"))
    assert blob.read() == b"a long text"


@pytest.mark.covers("B08")
@pytest.mark.parametrize("data", [b"", b"dat", b"data!", b"dada"])
def test_a_blob_that_is_not_what_it_says_is_refused(data: bytes) -> None:
    descriptor = Blob.from_bytes(b"data").descriptor
    with pytest.raises(ContentError, match=str(descriptor.digest)):
        Blob(descriptor, lambda: io.BytesIO(data)).read()
    with pytest.raises(ContentError, match=str(descriptor.digest)):
        verify(data, descriptor)


@pytest.mark.covers("B08", "R10")
def test_a_blob_larger_than_the_limit_is_not_opened() -> None:
    def fail() -> Any:
        raise AssertionError

    with pytest.raises(ContentError, match="at most 10 are read"):
        Blob(Descriptor("x/y", Digest.of(b""), 11), fail).read(limit=10)


def test_an_endless_stream_is_not_read_to_its_end() -> None:
    stream = io.BytesIO(b"x" * 1000)
    stream.close = lambda: None  # type: ignore[method-assign]
    with pytest.raises(ContentError):
        Blob(Blob.from_bytes(b"data").descriptor, lambda: stream).read()
    assert stream.tell() == 5


def test_other_digest_algorithms_verify() -> None:
    verify(b"data", Descriptor("x/y", Digest("sha512", hashlib.sha512(b"data").hexdigest()), 4))
