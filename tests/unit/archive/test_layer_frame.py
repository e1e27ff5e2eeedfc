"""The frame of a layer: bytes that no library decides, and that every reader takes."""

import gzip
import hashlib
import random
import shutil
import subprocess
import zlib

import pytest

from oci_binpkg.archive.layer_frame import member

SAMPLES = {
    "empty blocks": bytes(10_240),
    "headers": b"".join(f"opt/{n}/".encode().ljust(512, b"\0") for n in range(7)),
    "one byte": b"x",
    "every byte": bytes(range(256)) * 3,
    "noise": random.Random(1).randbytes(3000),
    **{f"{n} of one": b"a" * n for n in (2, 3, 4, 10, 11, 18, 19, 34, 35, 66, 67, 130, 131, 257, 258, 259, 260, 517)},
    "repeated at 512": random.Random(2).randbytes(512) * 3,
}


@pytest.mark.parametrize("name", SAMPLES)
def test_a_member_is_gzip(name):
    made = member(SAMPLES[name])
    assert gzip.decompress(made) == SAMPLES[name]
    assert zlib.decompressobj(-15).decompress(made[10:-8]) == SAMPLES[name]
    gnu = shutil.which("gzip")
    assert gnu
    assert subprocess.run([gnu, "-dc"], input=made, capture_output=True, check=True).stdout == SAMPLES[name]


def test_equal_data_gives_equal_bytes_forever():
    assert member(b"") == b""
    for sample, size, digest in (
        (bytes(1024), 30, "9142a1c3571ebac50517a5ae0e9977ffd0edef3b5926c22a351bda3658b37f4c"),
        (SAMPLES["headers"], 73, "68b9d4a5f476bcf2acfd9914391f1c61d1b04d1cf887931d1ce3a4350856ab68"),
    ):
        made = member(sample)
        assert (len(made), hashlib.sha256(made).hexdigest()) == (size, digest)
