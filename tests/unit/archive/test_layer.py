"""A prefix as a layer file: right digests in one pass, bounded memory, nothing left behind by a failure."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from oci_binpkg.archive.binary_distribution import Distribution
from oci_binpkg.archive.codec import Codec
from oci_binpkg.archive.layer import LayerFile, diff_id_of, pack_layer
from oci_binpkg.errors import ContentError, LocalDiskError, PackError
from oci_binpkg.model.content import OCI_LAYER_GZIP
from oci_binpkg.relocate.scan import PrefixScanner
from tests.support import golden

DISTRIBUTION = Distribution("/r/bin/sbang", "/r", "/opt/spack", "a", {"h": "/r/a"})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return golden.unpack_store(tmp_path_factory.mktemp("store"))


def pack_golden(name: str, store: Path, path: Path, codec: str = "gzip", threads: int = 1) -> LayerFile:
    package = golden.package(name)
    parsed = Distribution.parse(package.distribution, name)
    return pack_layer(
        str(package.prefix_in(store)),
        str(path),
        Codec.parse(codec),
        distribution=replace(parsed, relocate_binaries=(), relocate_links=(), relocate_textfiles=()),
        classifier=PrefixScanner(parsed.known_prefixes),
        threads=threads,
        archive_prefix=package.recorded,
    )


def pack(prefix: Path, path: Path, codec: str = "gzip", threads: int = 1) -> LayerFile:
    return pack_layer(
        str(prefix),
        str(path),
        Codec.parse(codec),
        distribution=DISTRIBUTION,
        classifier=PrefixScanner([]),
        threads=threads,
        archive_prefix="/r/a",
    )


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
@pytest.mark.parametrize("name", golden.PACKAGES)
def test_golden_layers(name: str, codec: str, store: Path, tmp_path: Path) -> None:
    packed = pack_golden(name, store, tmp_path / "layer", codec)
    content = (tmp_path / "layer").read_bytes()

    assert str(packed.diff_id) == golden.package(name).diff_id
    assert packed.digest.hex == hashlib.sha256(content).hexdigest()
    assert packed.size == len(content)
    assert packed.uncompressed_size == len(golden.package(name).tar)
    if codec == "gzip":
        assert gzip.decompress(content) == golden.package(name).tar


def test_copies_of_different_dates_give_the_same_digest(store: Path, tmp_path: Path) -> None:
    other = golden.unpack_store(tmp_path)
    for path in other.rglob("*"):
        os.utime(path, (1, 1), follow_symlinks=False)

    first = pack_golden("greetlib-1.2.0", store, tmp_path / "1", threads=1)
    second = pack_golden("greetlib-1.2.0", other, tmp_path / "2", threads=4)

    assert replace(first, path="") == replace(second, path="")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prefix of 24 MiB: several jobs for the threads of every codec."""
    prefix = tmp_path_factory.mktemp("large")
    for number in range(3):
        noise = hashlib.shake_256(bytes([number])).digest(2**19)
        prefix.joinpath(f"file{number}").write_bytes(b"".join(noise[at : at + 32] * 16 for at in range(0, 2**19, 32)))
    return prefix


@pytest.mark.parametrize("codec", ["gzip", "gzip:fast", "gzip:small", "zstd", "zstd:fast", "zstd:small"])
def test_a_layer_is_the_same_with_one_two_and_eight_threads(large: Path, codec: str, tmp_path: Path) -> None:
    packed = [pack(large, tmp_path / str(threads), codec, threads) for threads in (1, 2, 8)]
    assert packed[0].uncompressed_size > 24 * 2**20
    assert len({(each.digest, each.size, each.diff_id) for each in packed}) == 1


def test_a_failure_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "a" / ".wh.b").mkdir(parents=True)

    with pytest.raises(PackError):
        pack(tmp_path / "a", tmp_path / "layer")
    assert not (tmp_path / "layer").exists()


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "layer").write_bytes(b"precious")

    with pytest.raises(LocalDiskError, match="layer: cannot be written: File exists"):
        pack(tmp_path / "a", tmp_path / "layer")
    assert (tmp_path / "layer").read_bytes() == b"precious"


@pytest.mark.covers("F46")
@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_a_full_disk_is_named(codec: str, tmp_path: Path) -> None:
    """A limit on the size of files stands for the end of the disk."""
    prefix = tmp_path / "a"
    prefix.mkdir()
    (prefix / "noise").write_bytes(os.urandom(4_000_000))
    program = f"""
import resource, signal, sys
from tests.unit.archive.test_layer import pack
from oci_binpkg.errors import LocalDiskError
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
try:
    pack(Path({str(prefix)!r}), Path({str(tmp_path / "layer")!r}), {codec!r})
except LocalDiskError as error:
    print(error)
"""
    root = Path(__file__).resolve().parents[3]
    environment = os.environ | {"PYTHONPATH": str(root)}
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    )

    assert "layer: cannot be written: File too large" in result.stdout
    assert "free some space" in result.stdout
    assert not (tmp_path / "layer").exists()


@pytest.mark.parametrize("codec", ["gzip:1", "zstd:1"])
def test_memory_does_not_grow_with_the_files(codec: str, tmp_path: Path) -> None:
    prefix = tmp_path / "a"
    prefix.mkdir()
    with (prefix / "sparse").open("wb") as file:
        file.truncate(150 << 20)
    program = f"""
import resource
from oci_binpkg.archive.codec import Codec
from oci_binpkg.archive.binary_distribution import Distribution
from oci_binpkg.archive.layer import pack_layer, diff_id_of
from oci_binpkg.relocate.scan import PrefixScanner
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
distribution = Distribution("/r/bin/sbang", "/r", "/opt/spack", "a", {{"h": "/r/a"}})
path = {str(tmp_path / "layer")!r}
packed = pack_layer({str(prefix)!r}, path, Codec.parse({codec!r}), distribution=distribution,
                    classifier=PrefixScanner(["/r/a"]), threads=2)
with open(path, "rb") as file:
    assert diff_id_of(file, "layer") == packed.diff_id
assert packed.uncompressed_size > 150 << 20
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert int(result.stdout) < 50_000  # KiB


def test_diff_ids_of_foreign_layers() -> None:
    package = golden.package("greet-2.1")

    layer = io.BytesIO(golden.read_blob(package.layer_digest))
    assert str(diff_id_of(layer, "greet", media_type=OCI_LAYER_GZIP)) == package.diff_id
    assert str(diff_id_of(io.BytesIO(package.tar), "greet")) == package.diff_id


def test_a_diff_id_has_a_limit() -> None:
    with pytest.raises(ContentError, match="more than 1000000 bytes"):
        diff_id_of(io.BytesIO(gzip.compress(bytes(2_000_000))), "bomb", limit=1_000_000)
