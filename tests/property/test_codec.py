"""Whatever is compressed comes back, from our reader and from the standard one; the bytes depend on nothing else."""

from __future__ import annotations

import gzip
import io
from unittest.mock import patch

import zstandard
from hypothesis import given
from hypothesis import strategies as st

from oci_binpkg.archive import codec as codec_module
from oci_binpkg.archive.codec import Codec, decompressor
from oci_binpkg.errors import ContentError
from tests.support.examples import examples

codecs = st.sampled_from(["gzip:1", "gzip:2", "gzip:3", "gzip:9", "zstd:1", "zstd:4"])
contents = st.lists(st.one_of(st.binary(max_size=300), st.sampled_from([b"a" * 5000, bytes(70_000)])), max_size=8)


def compress(codec: Codec, pieces: list[bytes], threads: int) -> bytes:
    out: list[bytes] = []
    with codec.compressor(out.append, threads=threads) as compressor:  # type: ignore[arg-type]
        for piece in pieces:
            compressor.write(piece)
    return b"".join(out)


@examples(60)
@given(codecs, contents, st.integers(1, 3), st.sampled_from([1000, 65_536, codec_module.BLOCK]))
def test_round_trip(text: str, pieces: list[bytes], threads: int, block: int) -> None:
    codec = Codec.parse(text)
    content = b"".join(pieces)
    with patch.object(codec_module, "BLOCK", block):  # small blocks show what happens at their borders
        compressed = compress(codec, pieces, threads)
        assert compress(codec, [content], 1) == compressed

    standard = gzip.decompress if codec.name == "gzip" else zstandard.ZstdDecompressor().decompressobj().decompress
    assert standard(compressed) == content
    assert decompressor(io.BytesIO(compressed), "x", media_type=codec.media_type("oci")).read() == content


@examples(150)
@given(codecs, st.binary(min_size=1, max_size=2000), st.data())
def test_no_damage_gives_wrong_bytes(text: str, content: bytes, data: st.DataObject) -> None:
    """One changed bit or any cut is an error, or (in a field that means nothing) changes nothing."""
    compressed = bytearray(compress(Codec.parse(text), [content], 1))
    at = data.draw(st.integers(0, len(compressed) - 1))
    if data.draw(st.booleans()):
        compressed[at] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del compressed[at:]
    try:
        result = decompressor(io.BytesIO(compressed), "x", media_type=Codec.parse(text).media_type("oci")).read()
    except ContentError:
        return
    assert result == content
