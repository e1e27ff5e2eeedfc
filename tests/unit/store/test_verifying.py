"""Bytes are checked while they are read."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oci_binpkg.errors import ContentError, LocalDiskError
from oci_binpkg.model.content import Blob
from oci_binpkg.store.verifying import VerifyingReader, verified_chunks
from tests.support.blobs import file_blob

DATA = b"0123456789"
DESCRIPTOR = Blob.from_bytes(DATA).descriptor


class Dripping(io.BytesIO):
    """Gives less than it is asked for, as sockets do."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(3, size) if size and size > 0 else size)


class Broken(io.BytesIO):
    def read(self, size: int | None = -1, /) -> bytes:
        raise OSError(5, "Input/output error")


@given(st.binary(max_size=200), st.lists(st.integers(-1, 50)))
def test_gives_out_the_same_bytes_in_any_pieces(data: bytes, sizes: list[int]) -> None:
    reader = VerifyingReader(Dripping(data), Blob.from_bytes(data).descriptor, "here")
    pieces = [reader.read(size) for size in sizes]
    assert b"".join(pieces) + reader.read() == data
    assert reader.read() == b""


@given(st.binary(max_size=60), st.binary(max_size=60), st.integers(1, 70))
def test_never_gives_out_all_of_other_bytes(wanted: bytes, actual: bytes, size: int) -> None:
    if wanted == actual:
        return
    reader = VerifyingReader(io.BytesIO(actual), Blob.from_bytes(wanted).descriptor, "here")
    received: list[bytes] = []
    with pytest.raises(ContentError):
        received.extend(iter(lambda: reader.read(size), b""))
    assert len(b"".join(received)) < max(1, len(wanted))
    with pytest.raises(ContentError):
        reader.read(1)


@pytest.mark.parametrize(
    ("data", "finding"),
    [
        (b"012345678", "ends after 9 of 10"),
        (DATA + b"x", "goes on after the 10"),
        (b"0123456780", "has digest sha256:"),
    ],
)
def test_says_what_is_wrong_with_which_content_and_where(data: bytes, finding: str) -> None:
    with pytest.raises(ContentError, match=finding) as caught:
        VerifyingReader(io.BytesIO(data), DESCRIPTOR, "reg.example/apps").read()
    assert str(DESCRIPTOR.digest) in caught.value.message
    assert caught.value.message.startswith("reg.example/apps: ")


def test_reads_no_more_of_an_endless_source_than_one_byte_too_many() -> None:
    source = io.BytesIO(DATA * 1000)
    reader = VerifyingReader(source, DESCRIPTOR, "here")
    with pytest.raises(ContentError):
        reader.read()
    assert source.tell() == 11


def test_is_a_stream_like_others() -> None:
    source = io.BytesIO(DATA)
    with VerifyingReader(source, DESCRIPTOR, "here") as reader:
        buffer = bytearray(4)
        assert reader.readable()
        assert not reader.writable()
        assert reader.mode == "rb"
        assert reader.name == str(DESCRIPTOR.digest)
        assert reader.readinto(buffer) == 4
        assert bytes(buffer) == b"0123"
        assert reader.read1(2) == b"45"
        assert reader.read1() == b"6789"
    assert source.closed
    reader.close()


def test_a_local_failure_to_read_is_no_wrong_content() -> None:
    with pytest.raises(LocalDiskError, match="Input/output error"):
        VerifyingReader(Broken(DATA), DESCRIPTOR, "disk").read()


def test_chunks_of_a_blob_that_cannot_be_opened() -> None:
    blob = file_blob("/nonexistent/file", DESCRIPTOR)
    with pytest.raises(LocalDiskError, match="/nonexistent/file"):
        list(verified_chunks(blob, "here"))


def test_chunks_of_a_blob() -> None:
    assert list(verified_chunks(Blob.from_bytes(DATA), "here")) == [DATA]
    assert list(verified_chunks(Blob.from_bytes(b""), "here")) == []
