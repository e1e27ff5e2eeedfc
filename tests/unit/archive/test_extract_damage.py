"""Layers that are cut, damaged, padded, too big or no layers at all: noticed, in bounded time and memory."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from oci_binpkg.archive.extract import extract_layer
from oci_binpkg.archive.tar_input import Limits
from oci_binpkg.errors import ContentError
from oci_binpkg.model.content import DOCKER_LAYER_GZIP, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, Digest
from tests.support.blobs import OCI_LAYER_TAR
from tests.support.hostile_archives import (
    END,
    GNU,
    Place,
    directory,
    document,
    file,
    gz,
    hard_link,
    header,
    package,
    parents,
    pax,
    record,
    symlink,
    within,
    zst,
)

MIB = 1024**2
SMALL = package(file(within("a"), b"text"), hard_link(within("b"), within("a")), symlink(within("c"), "a"), end=END)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.covers("B24", "B25", "B26")
@pytest.mark.parametrize("compress", [gz, zst], ids=["gzip", "zstd"])
def test_B24_every_truncation_is_noticed(place: Place, compress: Callable[[bytes], bytes]) -> None:
    layer = compress(SMALL)
    for length in range(len(layer)):
        place.refuse(layer[:length], "cut short|is damaged|too early")
    place.extract(layer)


@pytest.mark.covers("B24")
@pytest.mark.parametrize("compress", [gz, zst, bytes], ids=["gzip", "zstd", "plain"])
def test_B24_every_truncation_of_the_tar_is_noticed(place: Place, compress: Callable[[bytes], bytes]) -> None:
    lengths = {*range(0, len(SMALL), 512), *range(1, len(SMALL), 509), len(SMALL) - 1}
    for length in sorted(lengths):
        place.refuse(compress(SMALL[:length]), "is cut short")


@pytest.mark.covers("B24", "B13")
def test_B24_an_archive_that_ends_at_a_member_and_looks_complete(place: Place) -> None:
    cut = parents() + document() + END
    place.refuse(gz(cut), "has 4 members, not 7", members=7)
    place.refuse(gz(cut), "has the diff_id", diff_id=Digest.of(SMALL))
    place.extract(gz(cut), members=4, diff_id=Digest.of(cut))


@pytest.mark.covers("B24")
def test_B24_every_damaged_byte_of_a_header_is_noticed_or_harmless(place: Place) -> None:
    """A header's checksum is a sum: whatever one byte becomes, it is wrong (or the field says the same)."""
    at = len(parents())
    for offset in range(0, 512, 3):
        broken = bytearray(SMALL)
        broken[at + offset] ^= 0x01
        place.refuse(gz(bytes(broken)), "is damaged|not a tar of a kind")


@pytest.mark.covers("B24")
@pytest.mark.parametrize("end", [b"", bytes(511), bytes(512), bytes(1023)])
def test_B24_missing_end_blocks(place: Place, end: bytes) -> None:
    place.refuse(gz(package(end=end)), "its tar ends too early")


@pytest.mark.covers("B24")
def test_B24_early_empty_blocks(place: Place) -> None:
    for blocks in (bytes(512), bytes(1024)):
        place.refuse_members(file(within("a")), blocks, file(within("b")), reason="goes on after the end of its tar")


@pytest.mark.covers("B24")
@pytest.mark.parametrize("rest", [b"x", bytes(511) + b"\1", bytes(3 * MIB) + b"\1", SMALL, b"<html>"])
def test_B24_data_after_the_end(place: Place, rest: bytes) -> None:
    place.refuse(gz(SMALL + rest), "goes on after the end of its tar")


@pytest.mark.covers("B24")
def test_B24_records_of_any_size_may_fill_the_end(place: Place) -> None:
    place.extract(gz(SMALL + bytes(2 * MIB)))


@pytest.mark.covers("B24")
def test_B24_headers_without_checksum_magic_or_numbers(place: Place) -> None:
    place.refuse_members(header(within("a"), checksum=1), reason="is wrong")
    place.refuse_members(header(within("a"), magic=bytes(8)), reason="not a tar of a kind that is known")
    place.refuse_members(header(within("a"), size=b"0000000009\0\0"), reason="a size in its tar is not a number")
    place.refuse_members(header(within("a"), size=b"-0000000004\0"), reason="a size in its tar is not a number")
    place.refuse_members(header(within("a"), mode=b"0o755 \0\0"), reason="a mode in its tar is not a number")


@pytest.mark.covers("B25")
def test_B25_a_wrong_checksum_or_length_of_gzip(place: Place) -> None:
    layer = gz(SMALL)
    for at in (-1, -4, -5, -8):
        broken = bytearray(layer)
        broken[at] ^= 0x10
        place.refuse(bytes(broken), "is damaged")


@pytest.mark.covers("B25")
def test_B25_what_follows_gzip(place: Place) -> None:
    layer = gz(SMALL)
    place.refuse(layer + b"garbage", "goes on after the end of its gzip stream")
    place.refuse(layer + b"\0" * 512, "goes on after the end of its gzip stream")
    place.refuse(layer + gz(file("evil")), "goes on after the end of its tar")
    place.refuse(layer + b"\x1f\x8b", "cut short")


@pytest.mark.covers("B25")
def test_B25_several_members_of_gzip_are_one_layer(place: Place) -> None:
    layer = b"".join(gz(SMALL[at : at + 700]) for at in range(0, len(SMALL), 700))

    extracted = place.extract(layer, diff_id=Digest.of(SMALL), media_type=OCI_LAYER_GZIP)

    assert extracted.uncompressed_size == len(SMALL)
    assert (place.destination / "b").read_bytes() == b"text"


@pytest.mark.covers("B26")
def test_B26_frames_and_windows_of_zstd(place: Place) -> None:
    layer = zst(SMALL)
    skippable = b"\x50\x2a\x4d\x18\x04\0\0\0skip"
    place.refuse(layer + zst(b""), "not a single zstd frame")
    place.refuse(skippable + layer, "not a single zstd frame")
    place.refuse(layer + skippable, "not a single zstd frame")
    place.refuse(layer + b"x", "not a single zstd frame|goes on after")
    parameters = zstandard.ZstdCompressionParameters(window_log=28)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    place.refuse(stream.compress(SMALL) + stream.flush(), "268435456 bytes to decompress")
    broken = bytearray(layer)
    broken[-1] ^= 1
    place.refuse(bytes(broken), "is damaged")


@pytest.mark.covers("B26")
def test_B26_a_dictionary_that_we_do_not_have(place: Place) -> None:
    samples = [f"name-{number} value-{number * 7}".encode() * 20 for number in range(300)]
    dictionary = zstandard.train_dictionary(2048, samples)  # type: ignore[arg-type]
    layer = zstandard.ZstdCompressor(dict_data=dictionary).compress(SMALL)
    place.refuse(layer, "is damaged")


def bomb(size: int) -> bytes:
    """Return a package in zstd with a file of zeros, one MiB at a time."""
    stream = zstandard.ZstdCompressor(level=1).compressobj()
    out = [stream.compress(parents() + header(within("zeros"), size=size))]
    out += [stream.compress(bytes(MIB)) for _ in range(size // MIB)]
    out.append(stream.compress(document() + END))
    return b"".join(out) + stream.flush()


@pytest.mark.covers("B27")
def test_B27_a_bomb_is_stopped_by_its_ratio_without_using_memory(place: Place) -> None:
    layer = bomb(300 * MIB)
    assert len(layer) < 40_000
    came: list[int] = []
    tracemalloc.start()
    try:
        place.refuse(layer, "grows more than 1000-fold", on_bytes=came.append)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(came) <= 102 * MIB
    assert peak < 16 * MIB


@pytest.mark.covers("B27")
def test_B27_the_limit_of_bytes_holds_for_one_file_and_for_all(place: Place) -> None:
    limits = Limits(total_bytes=MIB)
    place.refuse_members(file(within("a"), bytes(2 * MIB)), reason="has 2097152 bytes; at most", limits=limits)
    many = (file(within(f"f{number}"), bytes(MIB // 4)) for number in range(5))
    place.refuse_members(*many, reason="more than 1048576 bytes uncompressed", limits=limits)
    place.refuse(gz(SMALL + bytes(2 * MIB)), "more than 1048576 bytes uncompressed", limits=limits)


@pytest.mark.covers("B27")
def test_B27_the_numbers_of_members_and_names_are_limited(place: Place) -> None:
    many = [file(within(f"empty-{number}"), b"") for number in range(500)]
    place.refuse_members(*many, reason="more than 400 members", limits=Limits(members=400))
    place.refuse_members(*many, reason="more than 5000 bytes of names", limits=Limits(name_bytes=5000))


@pytest.mark.covers("B27")
def test_B27_many_members_must_have_brought_bytes(place: Place) -> None:
    many = [file(within(f"empty-{number}"), b"") for number in range(500)]
    reason = "has [0-9]+ members in [0-9]+ bytes"
    place.refuse_members(*many, reason=reason, limits=Limits(members_from=300, member_bytes=1000))
    place.refuse(gz(package(*many, end=END)), reason, limits=Limits(members_from=300, member_bytes=100))


@pytest.mark.covers("B27")
def test_B27_directories_without_end(place: Place) -> None:
    name = within("/".join("d" * 2000))
    members = pax(record("path", name)), directory(name)
    place.refuse_members(*members, reason="directories deep")
    chain = []
    for depth in range(1, 120):
        name = within("/".join("d" * depth))
        chain += [pax(record("path", name)), directory(name)]
    place.refuse_members(*chain, reason="more than 100 directories deep")


@pytest.mark.covers("B27")
def test_B27_a_layer_within_a_layer_is_only_a_file(place: Place) -> None:
    inner = gz(SMALL)
    place.extract(gz(package(file(within("inner.tar.gz"), inner))))
    assert (place.destination / "inner.tar.gz").read_bytes() == inner


@pytest.mark.covers("B28")
@pytest.mark.parametrize(
    "size",
    [
        b"\xff" * 12,
        b"\xff" * 11 + b"\x00",
        b"\x80" + b"\xff" * 11,
        b"\x80\0\0\0\x7f" + b"\xff" * 7,
        b"\x81" + bytes(11),
        b"77777777777\0",
    ],
)
def test_B28_impossible_sizes(place: Place, size: bytes) -> None:
    reason = "impossible size|its tar ends too early"
    place.refuse_members(header(within("a"), size=size, magic=GNU), reason=reason)
    place.refuse_members(header("x", b"x", size=size), reason="impossible size|extended header of")


@pytest.mark.covers("B28")
@pytest.mark.parametrize("size", ["-1", "0x10", "1.0", "", "9" * 25, "18446744073709551616"])
def test_B28_impossible_sizes_in_extended_headers(place: Place, size: str) -> None:
    reason = "not a number|at most 68719476736"
    place.refuse_members(pax(record("size", size)), header(within("a")), reason=reason)


@pytest.mark.covers("B28")
def test_B28_a_size_beyond_the_end(place: Place) -> None:
    place.refuse(gz(parents() + header(within("a"), size=10 * MIB) + b"little"), "its tar ends too early")
    place.refuse(gz(parents() + pax(record("size", "9999999999")) + header(within("a"))), "its tar ends too early")


@pytest.mark.covers("B28")
def test_sizes_in_binary_and_in_extended_headers_are_read(place: Place) -> None:
    binary = header(within("a"), size=b"\x80" + (5).to_bytes(11, "big"), magic=GNU) + b"12345".ljust(512, b"\0")
    pax_size = pax(record("size", "3")) + header(within("b")) + b"123".ljust(512, b"\0")
    place.extract(gz(package(binary, pax_size)))
    assert (place.destination / "a").read_bytes() == b"12345"
    assert (place.destination / "b").read_bytes() == b"123"


@pytest.mark.covers("B30")
@pytest.mark.parametrize("media_type", [OCI_LAYER_GZIP, DOCKER_LAYER_GZIP, OCI_LAYER_ZSTD])
@pytest.mark.parametrize(
    "content",
    [
        b"<!DOCTYPE html><html>not found</html>",
        b"",
        lzma.compress(SMALL),
        bz2.compress(SMALL),
        b"7z\xbc\xaf\x27\x1c",
        SMALL,
    ],
    ids=["html", "empty", "xz", "bzip2", "7z", "tar"],
)
def test_B30_content_that_is_not_what_its_type_says(place: Place, content: bytes, media_type: str) -> None:
    place.refuse(content, "is not (gzip|zstd), although it is declared", media_type=media_type)


@pytest.mark.covers("B30")
@pytest.mark.parametrize("content", [b"<!DOCTYPE html><html>not found</html>", b"", b"x" * 4096, bytes(4096)])
def test_B30_content_that_is_no_archive(place: Place, content: bytes) -> None:
    reason = "cut short|is damaged|no document"
    place.refuse(content, reason)
    place.refuse(gz(content), reason, media_type=OCI_LAYER_GZIP)
    place.refuse(zst(content), reason, media_type=OCI_LAYER_ZSTD)


@pytest.mark.covers("B30")
def test_B30_type_and_magic_number_must_agree(place: Place) -> None:
    place.refuse(gz(SMALL), "is not zstd", media_type=OCI_LAYER_ZSTD)
    place.refuse(zst(SMALL), "is not gzip", media_type=OCI_LAYER_GZIP)
    place.refuse(gz(SMALL), "is not tar", media_type=OCI_LAYER_TAR)
    place.extract(SMALL, media_type=OCI_LAYER_TAR)


def test_a_document_that_cannot_be_understood(place: Place) -> None:
    for data in (b"{", b"- a", b"\xff", b"{relocate_links: [../../etc/passwd]}"):
        place.refuse(gz(parents() + document(data=data) + END), "binary_distribution")


def test_a_document_that_is_too_big_to_hold(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oci_binpkg.archive.extract.MAX_BYTES", 50)
    place.refuse(gz(SMALL), "at most 50 are accepted")


def test_a_document_that_is_a_link(place: Place) -> None:
    name = within(".spack/binary_distribution")
    place.refuse(gz(parents() + symlink(name, "/etc/passwd") + END), "no document")
    linked = parents() + file(within("a")) + hard_link(name, within("a")) + END
    place.refuse(gz(linked), "no document")


def means_the_same(layer: bytes) -> bool:
    """Tell whether other bytes say the same: a match may be found at several distances."""
    try:
        return gzip.decompress(layer) == SMALL
    except (OSError, EOFError, zlib.error):
        return False


def test_damage_anywhere_is_noticed(place: Place) -> None:
    layer, same = gz(SMALL), 0
    for at in range(10, len(layer)):
        broken = bytearray(layer)
        broken[at] ^= 0x40
        if means_the_same(bytes(broken)):
            same += 1
        else:
            place.refuse(bytes(broken), "the layer of pkg", diff_id=Digest.of(SMALL))
    assert same < 10


def test_another_layer_that_is_right_in_itself_is_refused_for_its_diff_id(place: Place) -> None:
    other = package(file(within("a"), b"evil"))
    place.refuse(gz(other), "has the diff_id", diff_id=Digest.of(SMALL))


def test_sha512_can_be_the_digest(place: Place) -> None:
    wanted = Digest("sha512", hashlib.sha512(SMALL).hexdigest())
    place.refuse(gz(SMALL), "has the diff_id sha512:", diff_id=Digest("sha512", "0" * 128))
    assert place.extract(gz(SMALL), diff_id=wanted).diff_id == wanted


def test_a_stream_that_fails_is_not_blamed_on_the_disk(place: Place) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 10:
                raise OSError(5, "the source broke")
            return super().read(11)

    with pytest.raises(OSError, match="the source broke"):
        extract_layer(Broken(gz(SMALL)), str(place.destination), "x")
    assert not place.destination.exists()


def test_what_the_source_raises_passes_and_removes_the_destination(place: Place) -> None:
    class Late(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(100)
            if not data:
                raise ContentError("the blob has another digest")
            return data

    with pytest.raises(ContentError, match="the blob has another digest"):
        extract_layer(Late(gz(SMALL)), str(place.destination), "x")
    assert not place.destination.exists()
