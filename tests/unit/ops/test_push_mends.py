"""`push --force` reads what a folder has, and replaces what is damaged, whatever its size says."""

import hashlib
from typing import Any

import pytest

from oci_binpkg.cache.oci import OciCache
from oci_binpkg.ops.push import PushOptions, push
from oci_binpkg.ops.selection import select
from oci_binpkg.store.layout import LayoutStore
from tests.support.mirrors import file_mirror
from tests.support.packing import TextPacker
from tests.support.spack_trees import Sketch, spack_tree

CACHES: dict[str, Any] = {
    "layout": lambda path: OciCache(LayoutStore(str(path)), pause=lambda _: None),
    "mirror": file_mirror,
}


@pytest.fixture(params=CACHES)
def pushed(request, tmp_path):
    """Push two packages, and return a function that does so again, and the folder."""
    tree = spack_tree(tmp_path / "store", [Sketch("zlib"), Sketch("app", depends=["zlib"])])
    installs = tree.installs()
    folder = tmp_path / "cache"

    def again(**options):
        cache = CACHES[request.param](folder)
        return push(installs, select(installs, [], None), cache, TextPacker(), options=PushOptions(**options))

    again()
    return again, folder


def blobs(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file() and len(path.name) == 64)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def wrong(folder):
    return [path.name for path in blobs(folder) if hashlib.sha256(path.read_bytes()).hexdigest() != path.name]


@pytest.mark.covers("P04")
def test_every_damaged_blob_of_the_right_size_is_replaced(pushed):
    """Layers, configs and manifests; or layers, spec documents, and manifests under names of their own."""
    again, folder = pushed
    manifests = {path: path.read_bytes() for path in folder.glob("v3/manifests/spec/*/*")}
    for path in [*blobs(folder), *manifests]:
        flip(path)
    assert wrong(folder)
    report = again(force=True)
    assert report.exit_code == 0
    assert wrong(folder) == []
    assert {path: path.read_bytes() for path in manifests} == manifests


@pytest.mark.covers("P04")
def test_sound_content_is_neither_written_nor_counted_as_sent(pushed):
    again, folder = pushed
    before = {path: path.stat().st_ino for path in blobs(folder)}
    report = again(force=True)
    assert {path: path.stat().st_ino for path in blobs(folder)} == before
    assert report.bytes_sent == 0
