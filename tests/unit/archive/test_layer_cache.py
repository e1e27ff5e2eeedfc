"""The layer cache: an unchanged prefix is packed once, damage is found and mended, the size is bounded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oci_binpkg.archive.binary_distribution import Distribution
from oci_binpkg.archive.codec import Codec
from oci_binpkg.archive.layer import LayerFile, pack_layer
from oci_binpkg.archive.layer_cache import CachedLayer, LayerCache, layer_key, tree_fingerprint
from oci_binpkg.errors import ContentError, LocalDiskError, PackError
from oci_binpkg.model.content import OCI_LAYER_GZIP, Digest
from oci_binpkg.relocate.scan import PrefixScanner
from oci_binpkg.times import Time

GZIP = Codec.parse("gzip:1")
DISTRIBUTION = Distribution("/r/bin/sbang", "/r", "/opt/spack", "a", {"h": "/r/a"})


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


class Packages:
    """Small prefixes, their keys, and how often each was packed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.packed: list[str] = []

    def prefix(self, name: str) -> Path:
        prefix = self.root / name
        if not prefix.exists():
            prefix.mkdir(parents=True)
            (prefix / "noise").write_bytes(os.urandom(50_000))
            (prefix / "link").symlink_to("/r/a")
        return prefix

    def key(self, name: str) -> str:
        return layer_key(name, "/r/a", GZIP, DISTRIBUTION)

    def fingerprint(self, name: str) -> str:
        return tree_fingerprint(str(self.prefix(name)))

    def producer(self, name: str) -> Callable[[str], LayerFile]:
        def produce(path: str) -> LayerFile:
            self.packed.append(name)
            return pack_layer(
                str(self.prefix(name)),
                path,
                GZIP,
                distribution=DISTRIBUTION,
                classifier=PrefixScanner(["/r/a"]),
                archive_prefix="/r/a",
            )

        return produce

    def build(self, cache: LayerCache, name: str, **options: Any) -> CachedLayer:
        return cache.build(self.key(name), self.fingerprint(name), self.producer(name), **options)[0]


@pytest.fixture
def packages(tmp_path: Path) -> Packages:
    return Packages(tmp_path / "prefixes")


@pytest.fixture
def cache(tmp_path: Path) -> LayerCache:
    return fresh(tmp_path)


def fresh(tmp_path: Path, max_bytes: int = 10**9) -> LayerCache:
    """The same cache as another run would see it."""
    return LayerCache(str(tmp_path / "cache"), max_bytes, time=Time(now=Clock()))


def blobs(tmp_path: Path) -> list[Path]:
    return sorted(path for path in (tmp_path / "cache" / "blobs").glob("*/*/*"))


def records(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "records").glob("*/*"))


def read(cache: LayerCache, cached: CachedLayer) -> bytes:
    with cache.layer_of(cached, OCI_LAYER_GZIP).blob.open() as stream:
        return b"".join(iter(lambda: stream.read(7000), b""))


def test_an_unchanged_prefix_is_packed_once(cache: LayerCache, packages: Packages, tmp_path: Path) -> None:
    key, fingerprint = packages.key("a"), packages.fingerprint("a")
    assert cache.get(key, fingerprint) is None

    made, reused = cache.build(key, fingerprint, packages.producer("a"))
    again, reused_again = fresh(tmp_path).build(key, fingerprint, packages.producer("a"))

    assert (reused, reused_again) == (False, True)
    assert again == made == fresh(tmp_path).get(key, fingerprint, verify=True)
    assert made.summary.relocations.links == ("link",)
    assert packages.packed == ["a"]


def test_the_layer_as_a_value(cache: LayerCache, packages: Packages) -> None:
    cached = packages.build(cache, "a")
    layer = cache.layer_of(cached, OCI_LAYER_GZIP)

    assert layer.diff_id == cached.diff_id
    assert (layer.blob.descriptor.media_type, layer.blob.descriptor.size) == (OCI_LAYER_GZIP, cached.size)
    assert Digest.of(read(cache, cached)) == cached.digest == layer.blob.descriptor.digest
    with layer.blob.open() as stream:
        assert Digest.of(stream.read()) == cached.digest
        assert stream.read() == b""
        stream.close()
    assert len(layer.blob.read()) == cached.size


def edit_in_place(prefix: Path) -> None:
    with (prefix / "noise").open("r+b") as file:
        file.write(b"!")
    os.utime(prefix / "noise", ns=(1, 1))


def point_elsewhere(prefix: Path) -> None:
    (prefix / "link").unlink()
    (prefix / "link").symlink_to("/r/b")


EDITS: dict[str, Callable[[Path], object]] = {
    "edited in place": edit_in_place,
    "chmod": lambda prefix: (prefix / "noise").chmod(0o755),
    "new file": lambda prefix: (prefix / "new").write_bytes(b""),
    "new directory": lambda prefix: (prefix / "new").mkdir(),
    "removed": lambda prefix: (prefix / "noise").unlink(),
    "renamed": lambda prefix: (prefix / "noise").rename(prefix / "n"),
    "link": point_elsewhere,
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_changed_prefix_is_packed_again(cache: LayerCache, packages: Packages, edit: str) -> None:
    first = packages.build(cache, "a")
    EDITS[edit](packages.prefix("a"))
    second = packages.build(cache, "a")

    assert second.digest != first.digest
    assert packages.packed == ["a", "a"]
    assert packages.build(cache, "a") == second


def test_the_document_of_an_earlier_installation_does_not_matter(packages: Packages) -> None:
    before = packages.fingerprint("a")
    (packages.prefix("a") / ".spack").mkdir()
    with_directory = packages.fingerprint("a")
    (packages.prefix("a") / ".spack" / "binary_distribution").write_bytes(b"x")

    assert before != with_directory == packages.fingerprint("a")


def test_a_fingerprint_of_what_cannot_be_read(
    tmp_path: Path, packages: Packages, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PackError, match="absent"):
        tree_fingerprint(str(tmp_path / "absent"))

    def refuse(_: str) -> str:
        raise PermissionError(13, "Permission denied")

    packages.prefix("a")
    monkeypatch.setattr(os, "readlink", refuse)
    with pytest.raises(PackError, match="link: cannot be read: Permission denied"):
        packages.fingerprint("a")


def test_keys_depend_on_all_that_the_bytes_depend_on() -> None:
    other = Distribution("/r/bin/sbang", "/r", "/opt/other", "a", {"h": "/r/a"})
    keys = {
        layer_key("h", "/r/a", GZIP, DISTRIBUTION),
        layer_key("x", "/r/a", GZIP, DISTRIBUTION),
        layer_key("h", "/r/b", GZIP, DISTRIBUTION),
        layer_key("h", "/r/a", Codec.parse("gzip:2"), DISTRIBUTION),
        layer_key("h", "/r/a", GZIP, other),
    }

    assert len(keys) == 5
    assert layer_key("h", "/r/a", GZIP, DISTRIBUTION) in keys


def replace_by_link(path: Path) -> None:
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved"))


def replace_by_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").write_bytes(b"x")


def wrong_bytes(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


VISIBLE: dict[str, Callable[[Path], object]] = {
    "removed": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "link": replace_by_link,
    "directory": replace_by_directory,
}


@pytest.mark.covers("B43")
@pytest.mark.parametrize("damage", VISIBLE)
@pytest.mark.parametrize("part", ["blob", "record"])
def test_damage_is_mended(part: str, damage: str, cache: LayerCache, packages: Packages, tmp_path: Path) -> None:
    made = packages.build(cache, "a")
    VISIBLE[damage]((blobs if part == "blob" else records)(tmp_path)[0])

    again = packages.build(fresh(tmp_path), "a")

    assert again == made
    assert packages.packed == ["a", "a"]
    assert Digest.of(read(fresh(tmp_path), again)) == made.digest
    assert packages.build(fresh(tmp_path), "a", verify=True) == made
    assert packages.packed == ["a", "a"]


@pytest.mark.covers("B43")
@pytest.mark.parametrize(
    "change",
    [
        {"size": "big"},
        {"digest": "sha256:../../../etc/passwd"},
        {"diff_id": None},
        {"summary": {}},
        {"key": "0" * 64},
        {"fingerprint": 3},
        "garbage",
    ],
)
def test_a_record_that_makes_no_sense_is_replaced(
    change: dict[str, object] | str, cache: LayerCache, packages: Packages, tmp_path: Path
) -> None:
    made = packages.build(cache, "a")
    (path,) = records(tmp_path)
    path.write_text(change if isinstance(change, str) else json.dumps(json.loads(path.read_bytes()) | change))

    assert fresh(tmp_path).get(packages.key("a"), packages.fingerprint("a")) is None
    assert not path.exists()
    assert packages.build(fresh(tmp_path), "a") == made


@pytest.mark.covers("B43")
def test_wrong_bytes_under_the_right_name_are_found_by_whoever_reads_them(
    cache: LayerCache, packages: Packages, tmp_path: Path
) -> None:
    cached = packages.build(cache, "a")
    wrong_bytes(blobs(tmp_path)[0])

    with pytest.raises(ContentError, match="damaged and was removed") as caught:
        read(cache, cached)
    assert "run the command again" in caught.value.hint
    assert blobs(tmp_path) == records(tmp_path) == []
    with pytest.raises(ContentError, match="damaged and was removed"):
        read(cache, cached)

    assert packages.build(cache, "a") == cached
    assert Digest.of(read(cache, cached)) == cached.digest


@pytest.mark.covers("B43")
def test_wrong_bytes_are_found_at_once_if_asked_for(cache: LayerCache, packages: Packages, tmp_path: Path) -> None:
    made = packages.build(cache, "a")
    wrong_bytes(blobs(tmp_path)[0])

    assert packages.build(fresh(tmp_path), "a", verify=True) == made
    assert packages.packed == ["a", "a"]


def test_a_blob_that_is_cut_while_it_is_read(cache: LayerCache, packages: Packages, tmp_path: Path) -> None:
    cached = packages.build(cache, "a")
    with cache.layer_of(cached, OCI_LAYER_GZIP).blob.open() as stream:
        stream.read(10)
        os.truncate(blobs(tmp_path)[0], 20)
        with pytest.raises(ContentError, match="damaged"):
            stream.read()


def test_a_failed_producer_leaves_nothing(cache: LayerCache, packages: Packages, tmp_path: Path) -> None:
    def produce(path: str) -> LayerFile:
        Path(path).write_bytes(b"half")
        raise PackError("a file changed")

    with pytest.raises(PackError, match="a file changed"):
        cache.build(packages.key("a"), packages.fingerprint("a"), produce)
    assert list((tmp_path / "cache" / "staging").iterdir()) == []
    assert packages.build(cache, "a").size > 0


def test_threads_pack_a_package_once(cache: LayerCache, packages: Packages) -> None:
    packages.prefix("a")
    found: list[CachedLayer] = []
    started = threading.Barrier(4)

    def run() -> None:
        started.wait()
        found.append(packages.build(cache, "a"))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert packages.packed == ["a"]
    assert len(set(found)) == 1
    assert len(found) == 4


WORKER = """
import sys
from oci_binpkg.archive.layer_cache import LayerCache
from tests.unit.archive.test_layer_cache import Packages
from pathlib import Path
root = Path(sys.argv[1])
packages = Packages(root / "prefixes")
cache = LayerCache(str(root / "cache"), 10**9)
print("ready", flush=True)
sys.stdin.readline()
cached = packages.build(cache, "a")
print(len(packages.packed), cached.digest)
"""


def test_processes_pack_a_package_once(packages: Packages, tmp_path: Path) -> None:
    packages.prefix("a")
    root = Path(__file__).resolve().parents[3]
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(root)},
        )
        for _ in range(3)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    results = []
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    for worker in workers:
        results.append(worker.communicate()[0].split())
        assert worker.returncode == 0

    assert sorted(count for count, _ in results) == ["0", "0", "1"]
    assert len({digest for _, digest in results}) == 1


def test_the_least_recently_used_is_dropped(tmp_path: Path, packages: Packages) -> None:
    clock = Clock()
    root = str(tmp_path / "cache")
    size = packages.build(LayerCache(root, 10**9, time=Time(now=clock)), "a").size
    for name in "bc":
        packages.build(LayerCache(root, 10**9, time=Time(now=clock)), name)
    assert (
        packages.build(LayerCache(root, 10**9, time=Time(now=clock)), "a").size == size
    )  # used again: not the oldest any more

    small = LayerCache(root, int(3.5 * size), time=Time(now=clock))
    packages.build(small, "d")
    packages.build(small, "e")

    assert len(blobs(tmp_path)) == len(records(tmp_path)) == 3
    later = LayerCache(root, 10**9, time=Time(now=clock))
    present = [name for name in "abcde" if later.get(packages.key(name), packages.fingerprint(name))]
    assert present == ["a", "d", "e"]


def test_what_is_in_use_stays(tmp_path: Path, packages: Packages) -> None:
    tiny = fresh(tmp_path, max_bytes=1)
    first = packages.build(tiny, "a")
    second = packages.build(tiny, "b")
    assert Digest.of(read(tiny, first)) == first.digest
    packages.build(tiny, "a")

    tiny.release(first)
    packages.build(tiny, "c")
    assert Digest.of(read(tiny, first)) == first.digest  # given out twice, released once

    tiny.release(first)
    tiny.release(second)
    packages.build(tiny, "d")
    assert len(blobs(tmp_path)) == 2
    assert tiny.get(packages.key("a"), packages.fingerprint("a")) is None


def test_what_killed_processes_left_is_swept_after_a_day(tmp_path: Path, packages: Packages) -> None:
    staging = tmp_path / "cache" / "staging"
    for name, age in (("old", 100_000), ("young", 100)):
        (staging / name).mkdir(parents=True)
        (staging / name / "new").write_bytes(b"half")
        os.utime(staging / name, (Clock().now - age, Clock().now - age))

    packages.build(fresh(tmp_path), "a")

    assert [path.name for path in staging.iterdir()] == ["young"]


@pytest.mark.covers("F46")
@pytest.mark.parametrize("call", ["mkdir", "replace", "utime"])
def test_a_full_disk_is_named(
    call: str, cache: LayerCache, packages: Packages, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    key, fingerprint = packages.key("a"), packages.fingerprint("a")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(LocalDiskError, match="No space left on device") as caught:
        cache.build(key, fingerprint, packages.producer("a"))
    assert "free some space" in caught.value.hint
    monkeypatch.undo()
    assert packages.build(cache, "a").size > 0


@pytest.mark.covers("F46")
def test_a_place_that_is_no_directory(tmp_path: Path, packages: Packages) -> None:
    (tmp_path / "cache").write_bytes(b"")
    cache = fresh(tmp_path)

    with pytest.raises(LocalDiskError):
        cache.get(packages.key("a"), packages.fingerprint("a"))
    with pytest.raises(LocalDiskError):
        packages.build(cache, "a")


def test_a_blob_that_cannot_be_opened(cache: LayerCache, packages: Packages, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = packages.build(cache, "a")

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(LocalDiskError, match="Permission denied"):
        read(cache, cached)


def test_facts_of_content_are_made_once_and_again_if_they_are_damaged(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> bytes:
        made.append(1)
        return b"what is known"

    cache = LayerCache(str(tmp_path), 2**20)
    content = Digest.of(b"content")
    assert cache.facts("kind", content, make) == cache.facts("kind", content, make) == b"what is known"
    assert len(made) == 1
    (path,) = (tmp_path / "facts").glob("*/*")
    for damage in (b"", b"x", path.read_bytes()[:-1] + b"?"):
        path.write_bytes(damage)
        assert cache.facts("kind", content, make) == b"what is known"
    path.unlink()
    path.mkdir()
    assert cache.facts("kind", content, make) == b"what is known"
    assert len(made) == 5
    assert LayerCache(str(tmp_path), 2**20, shared=True).facts("kind", content, make)
    assert len(made) == 6, "in a shared folder nobody knows who wrote it"


def test_only_so_many_facts_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oci_binpkg.archive.layer_cache._MOST_FACTS", 3)
    cache = LayerCache(str(tmp_path), 2**20)
    for number in range(6):
        cache.facts("kind", Digest.of(b"%d" % number), lambda: b"x")
    assert len(list((tmp_path / "facts").glob("*/*"))) == 3
