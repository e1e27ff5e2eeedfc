"""Disks that are full or read-only, and a layer cache, a layout and a catalog that are damaged, as a user meets them."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kills import PACKAGES, forget, make_tree, prefixes, recorded, state_of, whole_layer_cache

from tests.support.command_line import Ended, binpkg
from tests.support.real.components import RealParts, command_path
from tests.support.real.process import remove_with_mounts

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

LOCAL_DISK = 11
FULL = "No space left on device"
READ_ONLY = "Read-only file system"


class Disk:
    """A file system of its own, mounted at `path`, of a few hundred KiB."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self._mount("-t", "tmpfs", "-o", "size=16m", "tmpfs")

    def leave(self, free: int) -> None:
        """Fill it but for so many bytes."""
        filler = self.path / ".filler"
        filler.unlink(missing_ok=True)
        found = os.statvfs(self.path)
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, found.f_bavail * found.f_bsize - free))

    def clear(self) -> None:
        (self.path / ".filler").unlink(missing_ok=True)

    def freeze(self) -> None:
        self._mount("-o", "remount,ro")

    def thaw(self) -> None:
        self._mount("-o", "remount,rw")

    def _mount(self, *arguments: str) -> None:
        subprocess.run([command_path("mount"), *arguments, str(self.path)], check=True, capture_output=True)


@pytest.fixture
def disk(parts: RealParts, tmp_path: Path) -> Iterator[Disk]:
    if os.geteuid() != 0:
        parts.give_up("small disks", "needs root")
    try:
        made = Disk(tmp_path / "disk")
    except subprocess.CalledProcessError as error:
        parts.give_up("small disks", f"tmpfs cannot be mounted: {error.stderr.decode().strip()}")
    yield made
    remove_with_mounts(tmp_path)


@pytest.fixture(scope="module")
def tree(workroot: Path) -> Path:
    return make_tree(workroot / "disk-tree")


@pytest.fixture(scope="module")
def pushed(tree: Path, workroot: Path) -> str:
    cache = f"oci-layout:{workroot}/disk-pushed"
    assert binpkg("push", cache, "--store", tree, "--update-index").code == 0
    return cache


def is_clear(ended: Ended, reason: str, where: Path) -> None:
    """What failed, on which path, and why; what to do next once, at the end; the exit code of a disk's troubles."""
    some = re.search(r"\b[1-9][0-9]* (pushed|copied|installed)", ended.err)
    assert ended.code == (1 if some else LOCAL_DISK), ended.err
    assert "Traceback" not in ended.err
    told = [line for line in (ended.out + ended.err).splitlines() if str(where) in line and reason in line]
    assert told, ended.err
    next_steps = [line for line in (ended.out + ended.err).splitlines() if re.match(r"  +\w", line)]
    assert any(re.search(r"space|disk|director|permissions|folder", line) for line in next_steps), ended.err
    assert len(set(next_steps)) <= 2, ended.err


def command(job: str, tree: Path, pushed: str, disk: Disk, tmp_path: Path) -> tuple[list[object], Callable[[], Any]]:
    """A command that writes to the disk, and what can be seen of it there."""
    place = disk.path / "place"
    if job == "push":
        (tmp_path / "config.toml").write_text(f'[layer_cache]\npath = "{place}"\n')
        os.environ["OCI_BINPKG_CONFIG"] = str(tmp_path / "config.toml")
        cache = f"oci-layout:{tmp_path}/target"
        return ["push", cache, "--store", tree, "--update-index"], lambda: (whole_layer_cache(place), state_of(cache))
    if job == "install":
        wanted = [f"part{number}" for number in range(PACKAGES)]
        return ["install", *wanted, "--from", pushed, "--store", place], lambda: (prefixes(place), recorded(place))
    if job == "catalog":
        config = tmp_path / "config.toml"
        config.write_text(f'[caches.lab]\nurl = "{pushed}"\n')
        os.environ |= {"OCI_BINPKG_CONFIG": str(config), "XDG_CACHE_HOME": str(place)}
        return ["search", "--all-arch", "--ttl", 0], lambda: binpkg("search", "--offline", "--all-arch").lines
    cache = f"{'file://' if job == 'mirror' else 'oci-layout:'}{place}"
    unsigned = ["--unsigned"] if job == "mirror" else []
    return ["copy", pushed, cache, *unsigned], lambda: state_of(cache)


JOBS = ["push", "install", "layout", "mirror", "catalog"]


@pytest.fixture
def own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCI_BINPKG_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    (tmp_path / "config.toml").write_text("")


@pytest.mark.usefixtures("own_caches")
@pytest.mark.parametrize("job", JOBS)
def test_a_full_disk_gives_one_clear_error_and_room_completes_it(
    job: str, tree: Path, pushed: str, disk: Disk, tmp_path: Path
) -> None:
    words, look = command(job, tree, pushed, disk, tmp_path)
    errors = 0
    for free in (0, 4096, 40_000, 160_000):
        disk.leave(free)
        ended = binpkg(*words)
        if ended.code == 0:
            break
        errors += 1
        is_clear(ended, FULL, disk.path)
        disk.clear()
        if job != "catalog":
            look()
        assert not list(disk.path.rglob(".tmp-*"))
        assert not list(disk.path.rglob("staging/*"))
        assert not list(disk.path.rglob(".oci-binpkg-*"))
    assert errors >= 2
    disk.clear()
    done = binpkg(*words)
    assert done.code == 0, done.err
    after = look()
    forget(disk.path / "place", tmp_path / "target")
    assert binpkg(*words).code == 0
    assert look() == after


@pytest.mark.usefixtures("own_caches")
@pytest.mark.parametrize("job", JOBS)
def test_a_read_only_disk_gives_one_clear_error(job: str, tree: Path, pushed: str, disk: Disk, tmp_path: Path) -> None:
    words, look = command(job, tree, pushed, disk, tmp_path)
    disk.freeze()
    if job == "catalog":
        # one in memory serves: what it found is not kept
        searched = binpkg(*words)
        assert (searched.code, len(searched.lines)) == (0, PACKAGES), searched.err
        assert str(disk.path) in searched.err
    else:
        is_clear(binpkg(*words), READ_ONLY, disk.path)
    assert os.listdir(disk.path) == []
    disk.thaw()
    done = binpkg(*words)
    assert done.code == 0, done.err
    before = look()
    disk.freeze()
    if job == "catalog":
        assert binpkg("search", "--offline", "--all-arch").lines == searched.lines
    else:
        # nothing is left to write: only the layer cache is asked at all
        again = binpkg(*words)
        assert again.code == 0, again.err
    disk.thaw()
    assert look() == before


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    status = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def linked(path: Path) -> None:
    outside = path.parent / "outside"
    outside.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(outside)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "in it").write_text("x")


def foreign(path: Path) -> None:
    """Of another owner, who lets us read."""
    os.chown(path, 65534, 65534)


def locked_away(path: Path) -> None:
    """Of another owner, who does not."""
    os.chown(path, 65534, 65534)
    path.chmod(0)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


DAMAGE = (flipped, emptied, cut, linked, folder, foreign, locked_away, Path.unlink)


@pytest.mark.covers("B43")
@pytest.mark.parametrize("part", ["blobs", "records"])
@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_damaged_layer_cache_is_mended_by_the_next_push(
    damage: Callable[[Path], None], part: str, tree: Path, pushed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the latest by the run after the one that found it out; nothing wrong is ever pushed."""
    layers = tmp_path / "layers"
    monkeypatch.setenv("OCI_BINPKG_LAYER_CACHE", str(layers))
    assert binpkg("push", f"oci-layout:{tmp_path}/first", "--store", tree).code == 0
    for path in sorted(path for path in (layers / part).rglob("*") if path.is_file())[:4]:
        damage(path)
    cache = f"oci-layout:{tmp_path}/second"
    ended = binpkg("push", cache, "--store", tree, "--update-index")
    state_of(cache)
    if ended.code:
        assert "in the layer cache is damaged and was removed" in ended.err, ended.err
        assert "run the command again" in ended.err
        ended = binpkg("push", cache, "--store", tree, "--update-index")
    assert ended.code == 0, ended.err
    assert state_of(cache) == state_of(pushed)
    # a blob nobody asked for may stay as it is; what is taken from the cache now is right
    again = f"oci-layout:{tmp_path}/third"
    assert binpkg("push", again, "--store", tree, "--update-index").code == 0
    assert state_of(again) == state_of(pushed)


@pytest.mark.covers("B43")
@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_damaged_layout_is_not_installed_from_and_pushing_mends_it(
    damage: Callable[[Path], None], tree: Path, pushed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OCI_BINPKG_LAYER_CACHE", str(tmp_path / "layers"))
    cache = tmp_path / "cache"
    assert binpkg("push", f"oci-layout:{cache}", "--store", tree, "--update-index").code == 0
    sizes = {path: path.stat().st_size for path in (cache / "blobs/sha256").iterdir()}
    layer = max(path for path, size in sizes.items() if size > 40_000)
    damage(layer)
    wanted = [f"part{number}" for number in range(PACKAGES)]
    install = ("install", *wanted, "--from", f"oci-layout:{cache}", "--store", tmp_path / "root")
    ended = binpkg(*install)
    if ended.code:
        assert "Traceback" not in ended.err
        assert layer.name[:12] in ended.out + ended.err, ended.err
        assert recorded(tmp_path / "root") <= prefixes(tmp_path / "root").keys()
        if layer.is_dir():
            forget(layer)
        else:
            layer.unlink(missing_ok=True)
        mended = binpkg("push", f"oci-layout:{cache}", "--store", tree, "--force")
        assert mended.code == 0, mended.err
        ended = binpkg(*install)
    assert ended.code == 0, ended.out + ended.err
    assert binpkg("verify-store", tmp_path / "root").code == 0
    assert len(recorded(tmp_path / "root")) == PACKAGES


@pytest.mark.covers("B43")
@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_damaged_catalog_is_made_anew(
    damage: Callable[[Path], None], pushed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OCI_BINPKG_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    (tmp_path / "config.toml").write_text(f'[caches.lab]\nurl = "{pushed}"\n')
    whole = binpkg("search", "--all-arch")
    assert len(whole.lines) == PACKAGES
    file = tmp_path / "caches/oci-binpkg/catalog.sqlite"
    damage(file)
    ended = binpkg("search", "--all-arch", "--ttl", 0)
    if ended.code:
        assert ended.code == LOCAL_DISK, ended.err
        assert str(file) in ended.err
        assert re.search(r"\n  \w", ended.err), ended.err
        forget(file)
    assert binpkg("search", "--all-arch", "--ttl", 0).lines == whole.lines
