"""Folders laid over each other are one file system: links stay inside, the uppermost folder decides."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from oci_binpkg.errors import LocalDiskError
from oci_binpkg.runs.view import FileView, FolderView


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def content(view: FileView, path: str) -> bytes:
    with view.opened(path) as read:
        return read(0, 100)


@pytest.fixture
def view(tmp_path: Path) -> FolderView:
    write(tmp_path / "upper" / "etc" / "name", "upper")
    write(tmp_path / "lower" / "etc" / "name", "lower")
    write(tmp_path / "lower" / "etc" / "other", "other")
    write(tmp_path / "lower" / "usr" / "lib" / "x", "library")
    (tmp_path / "lower" / "lib").symlink_to("usr/lib")
    (tmp_path / "upper" / "absolute").symlink_to("/etc/other")
    (tmp_path / "upper" / "climbing").symlink_to("../../../../etc/name")
    (tmp_path / "upper" / "loop").symlink_to("loop")
    (tmp_path / "upper" / "gone").symlink_to("/nowhere")
    return FolderView(str(tmp_path / "upper"), str(tmp_path / "lower"))


def test_the_uppermost_file_counts(view: FolderView) -> None:
    assert content(view, "/etc/name") == b"upper"
    assert content(view, "/etc/other") == b"other"


def test_links_lead_to_places_in_the_view(view: FolderView) -> None:
    assert content(view, "/absolute") == b"other"
    assert content(view, "/climbing") == b"upper"
    assert content(view, "/lib/x") == b"library"
    assert view.resolve("/lib/../lib/./x") == "/usr/x" or view.resolve("/lib/x") == "/usr/lib/x"
    assert view.target("/absolute") == "/etc/other"


def test_links_that_lead_nowhere(view: FolderView) -> None:
    assert view.status("/loop") is None
    assert view.status("/gone") is None
    assert view.status("/gone/x") is None


def test_the_entries_of_all_folders(view: FolderView) -> None:
    assert {name for name, _ in view.entries("/etc")} == {"name", "other"}
    kinds = {name: status.is_link for name, status in view.entries("/")}
    assert kinds == {
        **dict.fromkeys(("etc", "usr"), False),
        **dict.fromkeys(("absolute", "climbing", "gone", "lib", "loop"), True),
    }


def test_what_cannot_be_opened(view: FolderView) -> None:
    with pytest.raises(LocalDiskError), view.opened("/nowhere"):
        pass
    with pytest.raises(LocalDiskError), view.opened("/etc"):
        pass
    with pytest.raises(LocalDiskError):
        view.target("/etc/name")


def test_parts_of_a_file(view: FolderView) -> None:
    with view.opened("/usr/lib/x") as read:
        assert (read(3, 2), read(5, 100), read(100, 1)) == (b"ra", b"ry", b"")


def test_this_machine(tmp_path: Path) -> None:
    write(tmp_path / "x", "here")
    (tmp_path / "link").symlink_to("x")
    view = FolderView()

    status = view.status(str(tmp_path / "link"))
    assert status is not None
    assert (status.is_regular, status.size) == (True, 4)
    assert content(view, str(tmp_path / "link")) == b"here"
    assert view.resolve(str(tmp_path / "link")) == os.path.realpath(tmp_path / "x")
    assert {name for name, _ in view.entries(str(tmp_path))} == {"x", "link"}
    with pytest.raises(LocalDiskError):
        list(view.entries(str(tmp_path / "gone")))
    assert view.status("/with\0nul") is None
