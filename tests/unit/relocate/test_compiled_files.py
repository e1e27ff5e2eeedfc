"""Compiled files of an unpacked tree name their sources as these were placed."""

from __future__ import annotations

import importlib.util
import os
import py_compile
import subprocess
import sys
from pathlib import Path

import pytest

from oci_binpkg.relocate.compiled_files import settle_compiled
from oci_binpkg.relocate.compiled_python import NO_SOURCE, naming, read_header
from oci_binpkg.relocate.prefixes import PrefixMap
from oci_binpkg.relocate.tree import relocate_tree

MODES = py_compile.PycInvalidationMode


def module(root: Path, name: str, text: str, mode: MODES = MODES.TIMESTAMP, optimize: int = -1) -> Path:
    """A module that was compiled long ago, and unpacked now."""
    source = root / f"{name}.py"
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text(text)
    os.utime(source, (10**9, 10**9))
    cache = Path(str(py_compile.compile(str(source), doraise=True, invalidation_mode=mode, optimize=optimize)))
    os.utime(source)
    return cache


def sizes(root: Path) -> dict[str, int]:
    return {str(path.relative_to(root)): path.stat().st_size for path in root.rglob("*") if path.is_file()}


def stale(root: Path, name: str) -> bool:
    """Whether Python says that it has to compile the module."""
    command = [sys.executable, "-v", "-B", "-c", f"import sys; sys.path.insert(0, {str(root)!r}); import {name}"]
    log = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    folder, _, last = f"{root}/{name.replace('.', '/')}".rpartition("/")
    return f"code object from '{folder}/__pycache__/{last}." not in log


def test_python_uses_what_came_compiled_though_the_source_has_another_time(tmp_path: Path) -> None:
    module(tmp_path, "fine", "x = 1\n")
    assert stale(tmp_path, "fine")
    assert settle_compiled(str(tmp_path), sizes(tmp_path))
    assert not stale(tmp_path, "fine")
    assert not settle_compiled(str(tmp_path), sizes(tmp_path))  # it is so now


def test_sources_that_a_relocation_made_longer_or_shorter(tmp_path: Path) -> None:
    for new in ("/n", "/a/new/place/that/is/longer"):
        root = tmp_path / str(len(new))
        module(root, "pkg/__init__", "")
        module(root, "pkg/deep", "P = '/opt/old/share'\n")
        before = sizes(root)
        mapping = PrefixMap.of({"/opt/old": new})
        report = relocate_tree(str(root), mapping, textfiles=["pkg/deep.py"])
        settle_compiled(str(root), before, changed=report.changed)
        assert not stale(root, "pkg.deep")
        command = [sys.executable, "-B", "-c", "import pkg.deep; print(pkg.deep.P)"]
        printed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
        assert printed == f"{new}/share\n"


@pytest.mark.parametrize("optimize", [0, 1, 2])
def test_all_levels_of_optimization(tmp_path: Path, optimize: int) -> None:
    cache = module(tmp_path, "level", "assert True\n", optimize=optimize)
    settle_compiled(str(tmp_path), sizes(tmp_path))
    header = read_header(cache.read_bytes()[:16])
    status = (tmp_path / "level.py").stat()
    assert header is not None
    assert header.names(int(status.st_mtime), status.st_size)


def test_a_file_that_was_stale_before_stays_stale(tmp_path: Path) -> None:
    cache = module(tmp_path, "old", "x = 1\n")
    (tmp_path / "old.py").write_text("x = 12345\n")
    before = cache.read_bytes()
    assert not settle_compiled(str(tmp_path), sizes(tmp_path))
    assert cache.read_bytes() == before
    cache.write_bytes(naming(before[:16], 0, NO_SOURCE) + before[16:])
    assert not settle_compiled(str(tmp_path), sizes(tmp_path))


def test_a_file_whose_constants_were_left_stays_stale(tmp_path: Path) -> None:
    cache = module(tmp_path, "left", "x = 1\n")
    before = cache.read_bytes()
    assert not settle_compiled(str(tmp_path), sizes(tmp_path), left=[str(cache.relative_to(tmp_path))])
    assert cache.read_bytes() == before


def test_hashes_follow_a_source_that_changed_where_python_checks_them(tmp_path: Path) -> None:
    checked = module(tmp_path, "checked", "x = '/opt/old'\n", MODES.CHECKED_HASH)
    unchecked = module(tmp_path, "unchecked", "x = '/opt/old'\n", MODES.UNCHECKED_HASH)
    before = unchecked.read_bytes()
    for name in ("checked.py", "unchecked.py"):
        (tmp_path / name).write_text("x = '/new'\n")
    settle_compiled(str(tmp_path), sizes(tmp_path), changed=["checked.py", "unchecked.py"])
    assert checked.read_bytes()[8:16] == importlib.util.source_hash(b"x = '/new'\n")
    assert unchecked.read_bytes() == before
    assert not stale(tmp_path, "checked")


def test_files_that_only_their_owner_may_read_are_changed_and_stay_so(tmp_path: Path) -> None:
    cache = module(tmp_path, "guarded", "x = 1\n")
    cache.chmod(0o444)
    settle_compiled(str(tmp_path), sizes(tmp_path))
    assert not stale(tmp_path, "guarded")
    assert cache.stat().st_mode & 0o777 == 0o444


COMPILED = (
    "lib/guile/3.0/site-ccache/a.go",
    "share/emacs/site-lisp/a.elc",
    "lib/emacs/29.1/native-lisp/a-1.eln",
    "lib/perl/A.pmc",
    "share/julia/compiled/v1.10/A/x.ji",
)


def test_what_other_languages_compiled_is_no_older_than_its_source(tmp_path: Path) -> None:
    for name in COMPILED:
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_bytes(b"compiled")
        os.utime(path, (10**9, 10**9))
    source = tmp_path / "share/emacs/site-lisp/a.el"
    source.write_bytes(b"source")
    settle_compiled(str(tmp_path), sizes(tmp_path))
    for name in COMPILED:
        assert (tmp_path / name).stat().st_mtime_ns >= source.stat().st_mtime_ns, name


def test_a_compiled_file_of_another_language_that_is_a_link_is_left_alone(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"compiled")
    os.utime(elsewhere, (10**9, 10**9))
    (tmp_path / "a.go").symlink_to(elsewhere)
    settle_compiled(str(tmp_path), {"a.go": 8})
    assert elsewhere.stat().st_mtime == 10**9


def test_what_only_looks_like_a_compiled_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "m.py").write_text("x = 1\n")
    for content in (b"", b"short", b"no magic number here at all"):
        path = tmp_path / "__pycache__/m.cpython-311.pyc"
        path.write_bytes(content)
        assert not settle_compiled(str(tmp_path), sizes(tmp_path))
        assert path.read_bytes() == content
