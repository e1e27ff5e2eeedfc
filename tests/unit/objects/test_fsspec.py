"""Objects wherever fsspec leads, over its memory and a directory."""

from __future__ import annotations

import importlib
import io
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from oci_binpkg.errors import ContentError, DeniedError, NetworkError, NotFoundError, UsageError
from oci_binpkg.model.content import Blob
from oci_binpkg.objects.fsspec import FsspecObjects, is_known, open_fsspec
from oci_binpkg.objects.protocol import exists

LARGE = bytes(range(256)) * 20_000


@pytest.fixture(params=["memory", "directory", "uploads"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> FsspecObjects:
    if request.param == "directory":
        return FsspecObjects("local://m", lambda: (LocalFileSystem(), str(tmp_path / "m")))
    if request.param == "uploads":
        # as in object stores: what is closed is there, what is discarded is not
        return FsspecObjects("uploads://m", lambda: (Uploads(), f"/{uuid.uuid4().hex}"), renames=False)
    return open_fsspec(f"memory://{uuid.uuid4().hex}/m")


class Uploads(MemoryFileSystem):
    """An object store in memory."""

    cachable = False

    def _open(self, path, mode="rb", **more):
        return Upload(path) if mode == "wb" else super()._open(path, mode, **more)


class Upload(io.BytesIO):
    closed = False

    def __init__(self, path):
        super().__init__()
        self.path = path

    def close(self):
        if not self.closed:
            self.closed = True
            MemoryFileSystem().pipe_file(self.path, self.getvalue())

    def discard(self):
        pass


def test_gives_back_what_was_written(objects: FsspecObjects) -> None:
    assert objects.write("a/b", b"some bytes") is True
    found = objects.read("a/b")
    assert found is not None
    assert found.data == b"some bytes"
    assert objects.read("a/b", known_etag=found.etag) is None
    objects.write("a/b", Blob.from_bytes(LARGE))
    assert exists(objects, "a/b", size=len(LARGE))
    with objects.open("a/b") as stream:
        assert stream.read(10) == LARGE[:10]
        assert stream.read() == LARGE[10:]
    with pytest.raises(ContentError, match="larger than 5 bytes"):
        objects.read("a/b", limit=5)


def test_what_is_absent_is_not_found(objects: FsspecObjects) -> None:
    for act in (objects.read, objects.size, objects.remove):
        with pytest.raises(NotFoundError, match="absent") as caught:
            act("absent")
        assert objects.name in caught.value.message
    assert list(objects.list("absent")) == []
    objects.write("v3/a/1", b"x")
    with pytest.raises(NotFoundError):
        objects.size("v3/a")


@pytest.mark.parametrize("before", [b"", b"old"])
def test_a_write_that_breaks_off_leaves_what_was_there(objects: FsspecObjects, before: bytes) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 2_000_000:
                raise ContentError("bad")
            return super().read(size)

    if before:
        objects.write("a/large", before)
    with pytest.raises(ContentError, match="bad"):
        objects.write("a/large", Blob(Blob.from_bytes(LARGE).descriptor, lambda: Broken(LARGE)))
    assert list(objects.list("")) == (["a/large"] if before else [])
    filesystem, base = objects._filesystem()
    assert len(filesystem.find(base)) == (1 if before else 0)


def test_writes_only_over_the_version_that_is_named(objects: FsspecObjects) -> None:
    assert objects.write("a", b"one", if_match="") is True
    assert objects.write("a", Blob.from_bytes(b"two"), if_match="") is False
    found = objects.read("a")
    assert found is not None
    assert objects.write("a", b"two", if_match=found.etag) is True
    assert objects.write("a", b"three", if_match=found.etag) is False
    assert objects.read("a").data == b"two"


def test_lists_and_removes(objects: FsspecObjects) -> None:
    for path in ("v3/b/2", "v3/a/1", "v3x", "v3/.tmp-1"):
        objects.write(path, b"x")
    assert list(objects.list("v3")) == ["v3/a/1", "v3/b/2"]
    objects.remove("v3/a/1")
    assert list(objects.list("")) == ["v3/b/2", "v3x"]
    with pytest.raises(ContentError):
        objects.write("../out", b"x")


class Failing:
    """A file system that fails at everything."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __getattr__(self, name: str):
        def fail(*_args, **_more):
            raise self.error

        return fail


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (PermissionError(13, "Permission denied"), DeniedError, "Permission denied"),
        (ConnectionRefusedError(111, "Connection refused"), NetworkError, "Connection refused"),
        (TimeoutError(), NetworkError, "TimeoutError"),
        (EOFError(), NetworkError, "EOFError"),
        (FileNotFoundError(2, "No such file"), NotFoundError, "No such file"),
        (importlib.import_module("aiohttp").ClientError(), NetworkError, "ClientError"),
    ],
)
def test_failures_have_our_errors(error: Exception, kind: type[Exception], text: str) -> None:
    objects = FsspecObjects("xyz://h/m", lambda: (Failing(error), "/m"))
    for act in (lambda: objects.read("a"), lambda: objects.size("a"), lambda: objects.write("a", b"")):
        with pytest.raises(kind, match=f"xyz://h/m: {text}|xyz://h/m") as caught:
            act()
        assert text in str(caught.value)
        assert caught.value.hint  # type: ignore[attr-defined]


def test_nothing_is_connected_to_before_something_is_asked() -> None:
    def refuse() -> tuple[object, str]:
        raise ValueError("no account_name")

    objects = FsspecObjects("az://box", refuse)
    with pytest.raises(UsageError, match="cannot open az://box: no account_name"):
        objects.read("a")


@pytest.fixture
def without_packages(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:  # type: ignore[return]
    real = importlib.import_module

    def absent(name: str, package: str | None = None):
        if name.startswith(("gcsfs", "adlfs", "paramiko", "unheard")):
            raise ModuleNotFoundError(name)
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", absent)
    registry = real("fsspec.registry")
    for scheme in ("gs", "abfs"):
        monkeypatch.setitem(registry.known_implementations, scheme, {"class": f"unheard_of_{scheme}.X", "err": "no"})


@pytest.mark.parametrize(("url", "package"), [("gs://b/x", "gcsfs"), ("abfs://b/x", "adlfs")])
def test_a_missing_package_is_named(url: str, package: str, without_packages: None) -> None:
    with pytest.raises(UsageError, match=f"needs the Python package {package}, which is not installed") as caught:
        open_fsspec(url)
    assert caught.value.hint == f"pip install {package}"


def test_without_fsspec_both_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str, package: str | None = None) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(UsageError, match="needs the Python package fsspec") as caught:
        open_fsspec("gs://bucket")
    assert caught.value.hint == "pip install 'oci-binpkg[fsspec]' gcsfs"
    assert is_known("gs")
    assert not is_known("webhdfs")


def test_which_schemes_are_known() -> None:
    assert [scheme for scheme in ("gs", "sftp", "memory", "webhdfs") if not is_known(scheme)] == []
    assert [scheme for scheme in ("s3", "file", "oci", "zip", "simplecache", "nobodys") if is_known(scheme)] == []
