"""A file that is sent while it is written: readers wait, and never take a part for the whole."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from oci_binpkg.archive.binary_distribution import Distribution
from oci_binpkg.archive.codec import Codec
from oci_binpkg.archive.layer import GrowingFile, pack_layer
from oci_binpkg.errors import ContentError, PackError
from oci_binpkg.model.content import OCI_LAYER_GZIP, Descriptor, Digest, Growing
from oci_binpkg.relocate.scan import PrefixScanner

MIB = 1024 * 1024


def everything(content: Growing) -> bytes:
    pieces = []
    with content.open() as stream:
        while piece := stream.read(1000):
            pieces.append(piece)
    return b"".join(pieces)


def whole(data: bytes) -> Descriptor:
    return Descriptor(OCI_LAYER_GZIP, Digest.of(data), len(data))


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "layer"
    path.write_bytes(b"")
    return path


def test_a_reader_waits_for_what_is_written_later(path: Path):
    growing = GrowingFile(str(path))
    asked = threading.Event()

    def read() -> tuple[bytes, Descriptor]:
        with growing.content.open() as stream:
            pieces = [stream.read(2)]
            asked.set()
            while piece := stream.read(1000):
                pieces.append(piece)
        return b"".join(pieces), growing.content.descriptor()

    with ThreadPoolExecutor(1) as pool, path.open("ab", buffering=0) as file:
        reading = pool.submit(read)
        file.write(b"abc")
        growing.grew(3)
        assert asked.wait(10)
        path.rename(path.with_name("elsewhere"))
        file.write(b"defg")
        growing.grew(5)
        growing.grew(7)
        assert not reading.done()
        growing.finish(whole(b"abcdefg"))
        assert reading.result(10) == (b"abcdefg", whole(b"abcdefg"))


def test_it_can_be_read_again_from_its_start(path: Path):
    path.write_bytes(b"12345")
    growing = GrowingFile(str(path))
    growing.finish(whole(b"12345"))
    assert [everything(growing.content) for _ in range(2)] == [b"12345"] * 2


def test_what_was_never_whole_cannot_be_read_to_an_end(path: Path):
    growing = GrowingFile(str(path))
    with ThreadPoolExecutor(2) as pool:
        reading = pool.submit(everything, growing.content)
        waiting = pool.submit(growing.content.descriptor)
        path.write_bytes(b"half")
        growing.grew(4)
        growing.fail()
        for each in (reading, waiting):
            with pytest.raises(ContentError, match="not made to its end"):
                each.result(10)


def test_what_is_whole_cannot_fail_any_more(path: Path):
    path.write_bytes(b"12345")
    growing = GrowingFile(str(path))
    growing.finish(whole(b"12345"))
    growing.fail()
    assert everything(growing.content) == b"12345"


# ---- layers


def tree(root: Path, *sizes: int) -> Path:
    prefix = root / "store" / "pkg"
    prefix.mkdir(parents=True)
    for number, size in enumerate(sizes):
        (prefix / f"file{number}").write_bytes(Digest.of(str(number).encode()).hex.encode() * (size // 64))
    return prefix


def pack(prefix: Path, path: Path, codec: str, **options):
    root = str(prefix.parent)
    distribution = Distribution(f"{root}/bin/sbang", root, root, prefix.name, {"hash": str(prefix)})
    scanner = PrefixScanner(distribution.known_prefixes)
    return pack_layer(
        str(prefix), str(path), Codec.parse(codec), distribution=distribution, classifier=scanner, **options
    )


@pytest.mark.parametrize("codec", ["gzip", "gzip:1", "zstd"])
def test_a_large_layer_is_read_while_it_is_packed_and_is_the_same_at_its_end(tmp_path: Path, codec: str):
    prefix = tree(tmp_path, 5 * MIB, 3 * MIB, 700)
    told: list[Growing] = []
    packed = pack(prefix, tmp_path / "layer", codec, follow=told.append, followed_from=1000)
    [content] = told
    assert everything(content) == (tmp_path / "layer").read_bytes()
    assert content.descriptor() == Descriptor(Codec.parse(codec).media_type("oci"), packed.digest, packed.size)
    alone = pack(prefix, tmp_path / "again", codec)
    assert (alone.digest, alone.diff_id) == (packed.digest, packed.diff_id)


def test_a_small_layer_is_followed_by_nobody(tmp_path: Path):
    told: list[Growing] = []
    pack(tree(tmp_path, 3 * MIB), tmp_path / "layer", "gzip", follow=told.append, followed_from=3 * MIB)
    assert not told


def test_a_layer_that_cannot_be_packed_ends_for_its_readers_too(tmp_path: Path):
    prefix = tree(tmp_path, 5 * MIB, 700)
    told: list[Growing] = []

    def follow(content: Growing) -> None:
        told.append(content)
        (prefix / "file1").unlink()

    with pytest.raises(PackError):
        pack(prefix, tmp_path / "layer", "gzip", follow=follow, followed_from=1000)
    with pytest.raises(ContentError):
        everything(told[0])
    assert not (tmp_path / "layer").exists()
