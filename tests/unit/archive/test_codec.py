"""Compression whose bytes depend on content and level alone, and decompression that believes nothing."""

from __future__ import annotations

import gzip
import hashlib
import io
import random
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable

import pytest
import zstandard

from oci_binpkg.archive.codec import BLOCK, Codec, decompressor
from oci_binpkg.errors import ContentError, UsageError
from oci_binpkg.model.content import DOCKER_LAYER_GZIP, OCI_LAYER_GZIP, OCI_LAYER_ZSTD
from tests.support import golden
from tests.support.blobs import OCI_LAYER_TAR

SAMPLES = ("gzip:1", "gzip:2", "gzip:3", "gzip:6", "gzip:9", "zstd:1", "zstd:5")


def compress(text: str, data: bytes, *, threads: int = 1, piece: int = 1 << 20) -> bytes:
    out: list[bytes] = []
    with Codec.parse(text).compressor(out.append, threads=threads) as compressor:  # type: ignore[arg-type]
        for at in range(0, len(data), piece):
            compressor.write(data[at : at + piece])
    return b"".join(out)


def decompress(data: bytes, media_type: str = "", **options: bool) -> bytes:
    return decompressor(io.BytesIO(data), "the layer of greet", media_type=media_type, **options).read()


@pytest.fixture(scope="module")
def data() -> bytes:
    """About 5 MiB: text, noise, and zeros."""
    source = random.Random(1)
    words = [source.randbytes(source.randrange(2, 12)).hex() for _ in range(2000)]
    text = " ".join(source.choices(words, k=250_000)).encode()
    return text + source.randbytes(700_001) + bytes(1_000_000)


def test_parsing() -> None:
    assert Codec.parse("gzip") == Codec.parse("balanced") == Codec("gzip", 2)
    assert Codec.parse("gzip:6") == Codec("gzip", 6)
    assert Codec.parse("zstd") == Codec.parse("zstd:balanced") == Codec("zstd", 5)
    assert Codec.parse("fast") == Codec.parse("gzip:fast") == Codec("gzip", 1)
    assert Codec.parse("small") == Codec("gzip", 9)
    assert Codec.parse("zstd:small") == Codec("zstd", 12)
    assert str(Codec.parse("zstd:19")) == "zstd:19"


@pytest.mark.parametrize(
    "text", ["", "xz", "gzip:", "gzip:0", "gzip:10", "zstd:20", "zstd:-1", "GZIP", "fast:1", "gzip:3 ", "gzip:٣"]
)
def test_what_is_no_codec_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        Codec.parse(text)
    assert caught.value.hint


def test_media_types() -> None:
    assert Codec.parse("gzip").media_type("oci") == OCI_LAYER_GZIP
    assert Codec.parse("gzip").media_type("docker") == DOCKER_LAYER_GZIP
    assert Codec.parse("zstd").media_type("oci") == OCI_LAYER_ZSTD
    with pytest.raises(UsageError, match="Docker"):
        Codec.parse("zstd").media_type("docker")


def test_every_setting_has_an_identity_of_its_own() -> None:
    identities = {Codec.parse(text).cache_identity for text in SAMPLES}

    assert len(identities) == len(SAMPLES)
    assert all(any(character.isdigit() for character in identity.split(":", 2)[2]) for identity in identities)


@pytest.mark.parametrize("text", SAMPLES)
def test_neither_threads_nor_pieces_show_in_the_bytes(text: str, data: bytes) -> None:
    expected = hashlib.sha256(compress(text, data)).digest()

    for threads, piece in ((2, 512), (4, 777_777), (0, len(data))):
        assert hashlib.sha256(compress(text, data, threads=threads, piece=piece)).digest() == expected


@pytest.mark.parametrize("text", SAMPLES)
@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, None])
def test_round_trip(text: str, size: int | None, data: bytes) -> None:
    content = data[:size]
    compressed = compress(text, content, threads=2)

    assert decompress(compressed, Codec.parse(text).media_type("oci")) == content


def test_gzip_is_members_with_spacks_header(data: bytes) -> None:
    compressed = compress("gzip", data, threads=2)
    header = golden.read_blob(golden.package("greet-2.1").layer_digest)[:10]

    members = []
    rest = compressed
    while rest:
        assert rest[:10] == header
        reader = zlib.decompressobj(wbits=31)
        members.append(reader.decompress(rest))
        rest = reader.unused_data
    assert b"".join(members) == data
    assert [len(member) for member in members[:-1]] == [1 << 20] * (len(members) - 1)


@pytest.mark.parametrize("command", [["gzip", "--decompress"], [sys.executable, "-m", "gzip", "--decompress"]])
def test_other_programs_read_it(command: list[str], data: bytes) -> None:
    # Spack's reader is that of Python
    done = subprocess.run([*command, "-"], input=compress("gzip", data), capture_output=True, check=True)

    assert done.stdout == data


def test_zstd_is_one_frame_with_a_checksum(data: bytes) -> None:
    compressed = compress("zstd", data, threads=2)

    assert zstandard.get_frame_parameters(compressed).has_checksum
    assert zstandard.ZstdDecompressor().decompressobj().decompress(compressed) == data


def test_levels_trade_time_for_size(data: bytes) -> None:
    sizes = [len(compress(f"gzip:{level}", data)) for level in (1, 2, 3, 6)]

    assert sizes == sorted(sizes, reverse=True)
    assert len(compress("gzip", data)) < 1.1 * len(zlib.compress(data, 6))


@pytest.mark.parametrize("text", ["gzip", "zstd"])
def test_an_error_of_the_sink_comes_out_and_ends_the_threads(text: str) -> None:
    count = 0

    def full(block: bytes) -> None:
        nonlocal count
        count += len(block)
        if count > 1_000_000:
            raise OSError(28, "No space left on device")

    noise = random.Random(2).randbytes(1 << 20)

    def run() -> None:
        with Codec.parse(text).compressor(full, threads=2) as compressor:  # type: ignore[arg-type]
            for _ in range(40):
                compressor.write(noise)

    with pytest.raises(OSError, match="No space"):
        run()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("deflate")]


@pytest.mark.parametrize("text", ["gzip", "zstd"])
def test_an_error_in_between_leaves_no_threads(text: str) -> None:
    def run() -> None:
        with Codec.parse(text).compressor(lambda _: None, threads=2) as compressor:
            compressor.write(bytes(10 << 20))
            raise KeyError

    with pytest.raises(KeyError):
        run()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("deflate")]


def gzip_of(content: bytes) -> bytes:
    return gzip.compress(content, 1, mtime=0)


def zstd_of(content: bytes, *, write_content_size: bool = True) -> bytes:
    compressor = zstandard.ZstdCompressor(level=3, write_checksum=True, write_content_size=write_content_size)
    return compressor.compress(content)


CONTENT = b"".join(struct.pack(">Q", number * number) for number in range(50_000))
SKIPPABLE = b"\x53\x2a\x4d\x18" + struct.pack("<I", 300_000) + bytes(300_000)


def test_foreign_streams_are_read() -> None:
    assert decompress(gzip_of(CONTENT), OCI_LAYER_GZIP) == CONTENT
    assert decompress(zstd_of(CONTENT), OCI_LAYER_ZSTD) == CONTENT
    assert decompress(zstd_of(CONTENT, write_content_size=False)) == CONTENT
    assert decompress(zstandard.ZstdCompressor().compress(CONTENT)) == CONTENT
    assert decompress(CONTENT, OCI_LAYER_TAR) == CONTENT
    assert decompress(b"") == b""
    assert decompress(zstd_of(b"")) == b""
    assert decompress(gzip_of(b"")) == b""


@pytest.mark.covers("B25")
def test_gzip_members_are_one_stream() -> None:
    parts = [CONTENT[:7], b"", CONTENT[7:300_000], CONTENT[300_000:]]

    assert decompress(b"".join(map(gzip_of, parts)), OCI_LAYER_GZIP) == CONTENT


@pytest.mark.covers("B26")
def test_zstd_is_told_the_size_of_what_fits_into_a_block() -> None:
    small, large = bytes(BLOCK - 1), bytes(BLOCK)
    sizes = [zstandard.get_frame_parameters(compress("zstd", data)).content_size for data in (small, large)]
    assert sizes == [BLOCK - 1, zstandard.CONTENTSIZE_UNKNOWN]


def test_zstd_frames_are_one_stream_only_where_that_is_asked_for() -> None:
    chunked = SKIPPABLE + zstd_of(CONTENT[:100_000]) + zstd_of(CONTENT[100_000:]) + SKIPPABLE

    assert decompress(chunked, OCI_LAYER_ZSTD, several_frames=True) == CONTENT
    for stream in (chunked, zstd_of(CONTENT) + SKIPPABLE, zstd_of(CONTENT) + zstd_of(b"x")):
        with pytest.raises(ContentError, match="not a single zstd frame"):
            decompress(stream)


def flipped(data: bytes, at: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut in the header": lambda z: z[:6],
    "cut in the middle": lambda z: z[: len(z) // 2],
    "cut in the trailer": lambda z: z[:-2],
    "without trailer": lambda z: z[:-8],
    "cut in the last byte": lambda z: z[:-1],
    "wrong checksum": lambda z: flipped(z, -1),
    "followed by a line": lambda z: z + b"\n",
    "followed by zeros": lambda z: z + bytes(512),
    "followed by half a header": lambda z: z + z[:3],
    "damaged in the middle": lambda z: flipped(z, len(z) // 2),
}


@pytest.mark.covers("B25", "B26")
@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("make", [gzip_of, zstd_of])
def test_a_damaged_stream_is_an_error(make: Callable[[bytes], bytes], several: bool, damage: str) -> None:
    stream = DAMAGE[damage](make(CONTENT))
    reader = decompressor(io.BytesIO(stream), "the layer of greet", several_frames=several)

    with pytest.raises(ContentError, match="the layer of greet"):
        sum(len(chunk) for chunk in iter(lambda: reader.read(100_000), b""))
    with pytest.raises(ContentError):
        reader.read(1)


def test_gzip_with_a_wrong_length_is_an_error() -> None:
    with pytest.raises(ContentError, match="damaged"):
        decompress(flipped(gzip_of(CONTENT), -3))


@pytest.mark.covers("B26")
def test_zstd_that_needs_a_huge_window_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=False)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    stream = compressor.compress(b"x" * 1000) + compressor.flush()

    with pytest.raises(ContentError, match="needs 268435456 bytes"):
        decompress(stream)


@pytest.mark.covers("B26")
def test_zstd_that_needs_a_dictionary_is_refused() -> None:
    samples: list[bytes | bytearray | memoryview] = [
        f"sample {number} of many {number * number}".encode() * 8 for number in range(500)
    ]
    dictionary = zstandard.train_dictionary(2048, samples)

    with pytest.raises(ContentError, match="damaged"):
        decompress(zstandard.ZstdCompressor(dict_data=dictionary).compress(samples[0]))


@pytest.mark.covers("B30")
@pytest.mark.parametrize(
    ("stream", "media_type"),
    [
        (b"<html>Please log in</html>", OCI_LAYER_GZIP),
        (b"", OCI_LAYER_GZIP),
        (b"\xfd7zXZ\x00 not really", OCI_LAYER_ZSTD),
        (gzip_of(CONTENT), OCI_LAYER_ZSTD),
        (zstd_of(CONTENT), DOCKER_LAYER_GZIP),
        (gzip_of(CONTENT), OCI_LAYER_TAR),
    ],
)
def test_declared_type_and_magic_number_must_agree(stream: bytes, media_type: str) -> None:
    with pytest.raises(ContentError, match="although it is declared as"):
        decompress(stream, media_type)


class Trickle:
    """A stream that gives out little at a time, as sockets do."""

    def __init__(self, data: bytes, most: int) -> None:
        self._stream = io.BytesIO(data)
        self._most = most

    def read(self, size: int, /) -> bytes:
        return self._stream.read(min(size, self._most))


@pytest.mark.parametrize("make", [gzip_of, zstd_of, bytes])
def test_short_reads_do_not_matter(make: Callable[[bytes], bytes]) -> None:
    content = CONTENT[:2000]

    assert decompressor(Trickle(make(content), 1), "x").read() == content


@pytest.mark.covers("B27")
@pytest.mark.parametrize("text", ["gzip", "zstd"])
def test_a_bomb_is_read_in_little_memory(text: str) -> None:
    program = f"""
import io, resource, zlib, zstandard
from oci_binpkg.archive.codec import decompressor
zeros = bytes(1 << 20)
if {text!r} == "gzip":
    c = zlib.compressobj(9, wbits=31)
else:
    c = zstandard.ZstdCompressor(level=3).compressobj()
bomb = b"".join(c.compress(zeros) for _ in range(100)) + c.flush()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
reader = decompressor(io.BytesIO(bomb), "bomb")
size = 0
while chunk := reader.read(1 << 16):
    size += len(chunk)
assert size == 100 << 20
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert int(result.stdout) < 20_000  # KiB
