"""Links that lead to a root, and those that files of a package name."""

from __future__ import annotations

from pathlib import Path

import pytest

from oci_binpkg.installs.root_links import links_to, named_in


def here(paths: tuple[str, ...], folder: Path) -> set[str]:
    """The paths below a folder: the machine may have links that lead to it."""
    return {path.removeprefix(f"{folder}/") for path in paths if path.startswith(f"{folder}/")}


def test_links_beside_the_root_and_above_it(tmp_path: Path) -> None:
    root = tmp_path / "disk7/apps/store"
    root.mkdir(parents=True)
    (tmp_path / "mnt").symlink_to("disk7")
    (tmp_path / "sw").symlink_to(root)
    (tmp_path / "disk7/apps/latest").symlink_to("store")
    (tmp_path / "other").symlink_to("/usr")
    (tmp_path / "dangling").symlink_to("nothing")
    (tmp_path / "round").symlink_to("round")

    assert here(links_to(str(root)), tmp_path) == {"mnt/apps/store", "sw", "disk7/apps/latest"}
    assert here(links_to(str(tmp_path / "sw")), tmp_path) == {"mnt/apps/store", "disk7/apps/latest"}


@pytest.mark.parametrize("size", [0, 1024 * 1024 - 3, 1024 * 1024])
def test_what_files_and_links_name(tmp_path: Path, size: int) -> None:
    (tmp_path / ".spack").mkdir()
    (tmp_path / ".spack/log").write_text("/c/store")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/x").write_bytes(b"\0" * size + b"/a/store/app")
    (tmp_path / "folder").symlink_to("/b/store/dep")
    (tmp_path / "gone").symlink_to("nowhere")

    assert named_in(str(tmp_path), ("/a/store", "/b/store", "/c/store", "/z")) == ("/a/store", "/b/store")
    assert named_in(str(tmp_path), ()) == ()
