"""Rights of files on their way: shared trees, private files, what cannot travel, holes, and names that are refused."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.command_line import Ended, binpkg

ARCH = 'arch = { platform = "linux", os = "debian12", target = "x86_64" }\n'


@contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """The prefix of a package, open to all, with a program and a folder."""
    tree = tmp_path / "tree"
    prefix = tree / "app"
    (prefix / "bin").mkdir(parents=True)
    (prefix / "bin/tool").write_text("#!/bin/sh\n")
    (prefix / "bin/tool").chmod(0o755)
    for folder in (tree, prefix, prefix / "bin"):
        folder.chmod(0o755)
    (tree / "packages.toml").write_text(f'[[package]]\nname = "app"\nversion = "1"\nprefix = "app"\n{ARCH}')
    return prefix


def pushed(app: Path, *more: str) -> Ended:
    return binpkg("push", f"oci-layout:{app.parent.parent}/cache", "--store", app.parent, "--update-index", *more)


def installed(app: Path, root: str = "store") -> Path:
    base = app.parent.parent
    ended = binpkg("install", "app", "--from", f"oci-layout:{base}/cache", "--store", base / root)
    assert ended.code == 0, ended.err
    (found,) = (base / root).glob("*/app-*")
    return found


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(("mask", "folder", "program", "plain"), [
    (0o002, 0o2775, 0o775, 0o664),
    (0o027, 0o2750, 0o750, 0o640),
    (0o077, 0o2700, 0o700, 0o600),
])  # fmt: skip
def test_a_tree_whose_root_passes_its_group_on_gets_the_modes_of_the_umask(
    app: Path, mask: int, folder: int, program: int, plain: int
) -> None:
    (app / "data").write_text("1")
    assert pushed(app).code == 0
    root = app.parent.parent / "store"
    root.mkdir()
    root.chmod(0o2775)
    with umask(mask):
        prefix = installed(app)
    assert (mode(prefix), mode(prefix / "bin")) == (folder, folder)
    assert (mode(prefix / "bin/tool"), mode(prefix / "data")) == (program, plain)
    assert (prefix / "bin").stat().st_gid == root.stat().st_gid


def test_any_other_tree_has_modes_that_no_umask_changes(app: Path) -> None:
    assert pushed(app).code == 0
    with umask(0o077):
        prefix = installed(app)
    assert (mode(prefix), mode(prefix / "bin"), mode(prefix / "bin/tool")) == (0o755, 0o755, 0o755)


@pytest.mark.parametrize(("given", "wanted"), [
    (0o600, 0o600), (0o640, 0o640), (0o660, 0o640), (0o750, 0o750), (0o700, 0o700), (0o400, 0o600),
    (0o644, 0o644), (0o604, 0o644), (0o444, 0o644),
])  # fmt: skip
@pytest.mark.parametrize("shared", [False, True])
def test_what_is_closed_to_others_stays_closed(app: Path, given: int, wanted: int, shared: bool) -> None:
    (app / "key").write_text("secret")
    (app / "key").chmod(given)
    assert pushed(app).code == 0
    if shared:
        (app.parent.parent / "store").mkdir()
        (app.parent.parent / "store").chmod(0o2755)
    with umask(0o022):
        assert mode(installed(app) / "key") == wanted


def test_a_closed_folder_stays_closed_and_keeps_its_group(app: Path) -> None:
    (app / "private").mkdir()
    (app / "private/key").write_text("secret")
    (app / "private").chmod(0o700)
    assert pushed(app).code == 0
    assert mode(installed(app) / "private") == 0o700
    (app.parent.parent / "shared").mkdir()
    (app.parent.parent / "shared").chmod(0o2775)
    with umask(0o002):
        assert mode(installed(app, "shared") / "private") & 0o777 == 0o700


def test_a_tree_that_was_built_behind_a_closed_umask_holds_no_secrets(app: Path) -> None:
    for path in (app / "bin/tool", app / "bin", app):
        path.chmod(0o700)
    assert pushed(app).code == 0
    prefix = installed(app)
    assert (mode(prefix), mode(prefix / "bin"), mode(prefix / "bin/tool")) == (0o755, 0o755, 0o755)


def test_rights_that_do_not_travel_are_warned_of(app: Path) -> None:
    (app / "bin/tool").chmod(0o4755)
    ended = pushed(app)
    assert ended.code == 0
    assert "set-user-ID, set-group-ID and capabilities do not travel: bin/tool" in ended.err
    assert mode(installed(app) / "bin/tool") == 0o755


def test_capabilities_that_do_not_travel_are_warned_of(app: Path) -> None:
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    try:
        os.setxattr(app / "bin/tool", "security.capability", capability)
    except OSError:
        pytest.skip("no file gets capabilities here: not root, or a file system without attributes")
    assert "do not travel: bin/tool" in pushed(app).err


def test_long_runs_of_zeros_become_holes(app: Path) -> None:
    size = 4 * 1024 * 1024
    with (app / "sparse").open("wb") as file:
        file.write(b"begin")
        file.seek(size - 3)
        file.write(b"end")
    with (app / "hollow").open("wb") as file:
        file.truncate(size + 17)
    content = (app / "sparse").read_bytes()
    assert pushed(app).code == 0
    prefix = installed(app)
    assert (prefix / "sparse").read_bytes() == content
    assert (prefix / "hollow").read_bytes() == bytes(size + 17)
    assert (prefix / "sparse").stat().st_blocks * 512 < size // 4
    assert (prefix / "hollow").stat().st_blocks * 512 < size // 4


@pytest.mark.parametrize("name", [".wh.foo", ".wh..wh..opq", "doc/.wh.x", ".wh.folder/file"])
def test_names_that_delete_files_in_images_are_refused_at_push(app: Path, name: str) -> None:
    (app / name).parent.mkdir(exist_ok=True)
    (app / name).touch()
    ended = pushed(app)
    assert ended.code == 9
    assert ".wh." in ended.err
    assert "remove or rename it" in ended.err


def test_what_lies_too_deep_to_be_installed_is_refused_at_push(app: Path) -> None:
    within = 100 - len(app.parts[1:]) - 1
    deep = app.joinpath(*["d"] * within)
    deep.mkdir(parents=True)
    (deep / "file").touch()
    assert pushed(app).code == 0
    assert (installed(app).joinpath(*["d"] * within) / "file").exists()
    (deep / "d").mkdir()
    (deep / "d/file").touch()
    ended = pushed(app, "--force")
    assert ended.code == 9
    assert "100 directories deep" in ended.err
