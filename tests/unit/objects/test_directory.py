"""Objects in a directory: whole or not there, and conditional writes that lose nothing."""

from __future__ import annotations

import io
import os
import resource
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from oci_binpkg.errors import ContentError, LocalDiskError, NotFoundError
from oci_binpkg.model.content import Blob
from oci_binpkg.objects.directory import FileObjects
from oci_binpkg.objects.protocol import chunks, exists
from oci_binpkg.times import Time


@pytest.fixture
def objects(tmp_path: Path) -> FileObjects:
    return FileObjects(str(tmp_path / "mirror"))


def files(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def test_gives_back_what_was_written(objects: FileObjects, tmp_path: Path) -> None:
    assert objects.name == f"file://{tmp_path}/mirror"
    assert objects.write("a/b/c.json", b"{}") is True
    found = objects.read("a/b/c.json")
    assert found is not None
    assert found.data == b"{}"
    assert objects.read("a/b/c.json", known_etag=found.etag) is None
    assert objects.size("a/b/c.json") == 2
    with objects.open("a/b/c.json") as stream:
        assert stream.read() == b"{}"
    assert files(tmp_path / "mirror") == ["a/b/c.json"]


def test_files_are_as_public_as_the_umask_allows(objects: FileObjects, tmp_path: Path) -> None:
    objects.write("a", b"x")
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "mirror" / "a").stat().st_mode & 0o777 == 0o666 & ~umask


def test_what_is_absent_is_not_found(objects: FileObjects) -> None:
    for _ in range(2):
        with pytest.raises(NotFoundError, match="does not hold x/y"):
            objects.read("x/y")
        with pytest.raises(NotFoundError):
            objects.size("x/y")
        with pytest.raises(NotFoundError):
            objects.remove("x/y")
        assert not exists(objects, "x/y")
        assert list(objects.list("x")) == []
        objects.write("x", b"a file where a directory is looked for")


def test_a_directory_is_no_object(objects: FileObjects) -> None:
    objects.write("folder/file", b"x")
    with pytest.raises(NotFoundError):
        objects.size("folder")
    with pytest.raises(ContentError, match="not a file"):
        objects.read("folder")
    with pytest.raises(LocalDiskError):
        objects.write("folder", b"x")


def test_a_pipe_does_not_block(objects: FileObjects, tmp_path: Path) -> None:
    objects.write("file", b"x")
    os.mkfifo(tmp_path / "mirror" / "pipe")
    with pytest.raises(ContentError, match="not a file"):
        objects.read("pipe")


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd", "a//b", "a/./b", "", "a\nb", "a\x00b"])
def test_no_path_leads_out(objects: FileObjects, path: str) -> None:
    for act in (objects.read, objects.size, objects.remove, lambda path: objects.write(path, b"x")):
        with pytest.raises(ContentError, match="not a path"):
            act(path)


def test_lists_what_is_below_a_directory_without_hidden_files(objects: FileObjects, tmp_path: Path) -> None:
    for path in ("v3/b/2", "v3/a/1", "v3/c", "other"):
        objects.write(path, b"x")
    (tmp_path / "mirror" / "v3" / ".hidden").write_bytes(b"x")
    (tmp_path / "mirror" / "v3" / ".folder").mkdir()
    (tmp_path / "mirror" / "v3" / ".folder" / "x").write_bytes(b"x")
    assert list(objects.list("v3")) == ["v3/a/1", "v3/b/2", "v3/c"]
    assert list(objects.list("v3/")) == ["v3/a/1", "v3/b/2", "v3/c"]
    assert list(objects.list("")) == ["other", "v3/a/1", "v3/b/2", "v3/c"]


def test_a_directory_that_cannot_be_listed_is_an_error(objects: FileObjects, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    objects.write("v3/a", b"x")
    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(LocalDiskError, match="cannot list"):
        objects.list("v3")


def test_a_document_above_the_limit_is_refused(objects: FileObjects) -> None:
    objects.write("a", b"12345")
    assert objects.read("a", limit=5) is not None
    with pytest.raises(ContentError, match="larger than 4 bytes"):
        objects.read("a", limit=4)


@pytest.mark.parametrize("if_match", [None, ""])
def test_a_write_that_breaks_off_leaves_nothing(objects: FileObjects, tmp_path: Path, if_match: str | None) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell():
                raise ContentError("bad")
            return super().read(4)

    blob = Blob(Blob.from_bytes(b"0123456789").descriptor, lambda: Broken(b"0123456789"))
    with pytest.raises(ContentError, match="bad"):
        objects.write("a/b", blob, if_match=if_match)
    assert [path for path in files(tmp_path / "mirror") if not path.endswith(".lock")] == []


def test_a_disk_that_cannot_be_written_is_named(objects: FileObjects, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: str, target: str, **_: object) -> None:
        raise OSError(28, "No space left on device", target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(LocalDiskError, match="No space left") as caught:
        objects.write("a", b"x")
    assert "free some space" in caught.value.hint


def test_writes_only_over_the_version_that_is_named(objects: FileObjects) -> None:
    assert objects.write("a", b"one", if_match="") is True
    assert objects.write("a", b"two", if_match="") is False
    found = objects.read("a")
    assert found is not None
    assert objects.write("a", b"two", if_match=found.etag) is True
    assert objects.write("a", b"three", if_match=found.etag) is False
    assert objects.write("b", b"x", if_match=found.etag) is False
    assert objects.read("a").data == b"two"
    assert not exists(objects, "b")


def test_conditional_writes_of_many_lose_nothing(tmp_path: Path) -> None:
    def add(number: int) -> None:
        objects = FileObjects(str(tmp_path))
        while True:
            try:
                found = objects.read("list")
            except NotFoundError:
                found = None
            if objects.write(
                "list", (found.data if found else b"") + b"%d," % number, if_match=found.etag if found else ""
            ):
                return

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(40)))
    assert sorted(map(int, (tmp_path / "list").read_bytes().split(b",")[:-1])) == list(range(40))


def test_large_content_comes_in_pieces() -> None:
    data = bytes(2_500_000)
    for content in (data, Blob.from_bytes(data)):
        pieces = list(chunks(content))
        assert len(pieces) == 3
        assert b"".join(pieces) == data
    assert list(chunks(b"")) == []


def test_what_killed_writers_left_is_removed_after_a_day(tmp_path: Path) -> None:
    FileObjects(str(tmp_path)).write("a/b/one", b"1")
    left = tmp_path / "a/b/.tmp-1"
    left.write_bytes(b"half")
    (tmp_path / "a/b/.hidden").write_bytes(b"of somebody else")
    written = left.stat().st_mtime
    FileObjects(str(tmp_path), time=Time(now=lambda: written + 80_000)).write("a/b/two", b"2")
    FileObjects(str(tmp_path), time=Time(now=lambda: written + 90_000)).write("a/elsewhere", b"3")
    assert left.exists()
    FileObjects(str(tmp_path), time=Time(now=lambda: written + 90_000)).write("a/b/three", b"3", if_match="")
    assert files(tmp_path / "a/b") == [".hidden", ".three.lock", "one", "three", "two"]


def test_a_disk_that_is_full_when_the_file_is_closed_is_an_error_of_ours(objects: FileObjects, tmp_path: Path) -> None:
    """What was buffered is written once more when a file is closed, and refused once more."""
    objects.write("a/first", b"x")
    with pytest.raises(LocalDiskError, match="a/second") as caught:
        _write_at_a_limit(objects, "a/second", 5000)
    assert "File too large" in caught.value.message
    assert files(tmp_path / "mirror") == ["a/first"]


def _write_at_a_limit(objects: FileObjects, path: str, size: int) -> None:
    """Write more than a file of ours may hold now: a limit of the process refuses as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, before[1]))
    try:
        objects.write(path, Blob.from_bytes(b"x" * size))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
