"""Digests and descriptors hold for any input."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from oci_binpkg.errors import ContentError
from oci_binpkg.model.content import Blob, Descriptor, Digest, Platform
from oci_binpkg.model.manifest import parse_descriptor

digests = st.builds(
    lambda algorithm, data: Digest(algorithm, hashlib.new(algorithm, data).hexdigest()),
    st.sampled_from(["sha256", "sha512"]),
    st.binary(max_size=8),
)
texts = st.text(max_size=10)
platforms = st.builds(Platform, texts, texts, texts)
extra = st.dictionaries(st.sampled_from(["urls", "data", "artifactType", "x"]), st.one_of(texts, st.lists(texts)))
descriptors = st.builds(
    Descriptor, texts, digests, st.integers(0, 2**53), st.none() | platforms, st.dictionaries(texts, texts), extra
)


@given(digests)
def test_digests_are_read_as_they_are_written(digest: Digest) -> None:
    assert Digest.parse(str(digest)) == digest


@given(st.text(max_size=140) | st.from_regex(r"sha(256|512):[0-9a-fA-F./]{60,130}", fullmatch=True))
def test_whatever_parses_is_safe_in_a_path(text: str) -> None:
    try:
        digest = Digest.parse(text)
    except ContentError:
        return
    assert str(digest) == text
    assert set(digest.hex) <= set("0123456789abcdef")
    assert len(digest.hex) in {64, 128}


@given(st.binary(max_size=300))
def test_bytes_have_the_digest_that_others_compute(data: bytes) -> None:
    blob = Blob.from_bytes(data)
    assert blob.descriptor.digest.hex == hashlib.sha256(data).hexdigest()
    assert blob.read() == data


@given(descriptors)
def test_descriptors_are_read_as_they_are_written(descriptor: Descriptor) -> None:
    assert parse_descriptor(descriptor.to_json(), "x") == descriptor


@given(platforms, platforms)
def test_fitting_is_mutual(one: Platform, other: Platform) -> None:
    assert one.fits(other) == other.fits(one)
    assert one.fits(one)
