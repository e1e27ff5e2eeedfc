"""Layers come out the same on processors with other vector instructions, as the emulator of one shows."""

from __future__ import annotations

import os
import site
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.real.components import RealParts, command_path

pytestmark = pytest.mark.real

CODECS = ("gzip", "small", "zstd", "zstd:fast", "zstd:small")
PROGRAM = """
import hashlib, random, sys
from oci_binpkg.archive.codec import Codec
source = random.Random(1)
words = [source.randbytes(source.randrange(2, 12)).hex() for _ in range(2000)]
data = " ".join(source.choices(words, k=200_000)).encode() + source.randbytes(300_001) + bytes(500_000)
for text in sys.argv[1:]:
    digest = hashlib.sha256()
    with Codec.parse(text).compressor(digest.update, threads=2) as compressor:
        compressor.write(data)
    print(text, digest.hexdigest())
"""


@pytest.mark.parametrize("processor", ["qemu64", "Nehalem"])
def test_the_bytes_do_not_depend_on_the_processor(parts: RealParts, processor: str) -> None:
    parts.require("qemu-user")
    if os.uname().machine != "x86_64":
        pytest.skip("another processor of this family is imitated on x86_64 only")
    folders = [str(Path(__file__).parents[1]), *site.getsitepackages()]
    arguments = [str(Path(sys.executable).resolve()), "-c", PROGRAM, *CODECS]

    def digests(*emulator: str) -> str:
        environment = {"PYTHONPATH": os.pathsep.join(folders)}
        done = subprocess.run([*emulator, *arguments], env=environment, capture_output=True, text=True, check=True)
        return done.stdout

    assert digests(command_path("qemu-x86_64"), "-cpu", processor) == digests()
