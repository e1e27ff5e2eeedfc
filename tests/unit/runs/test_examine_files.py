"""Links, paths in texts, bytecode, and files that cannot be read."""

from __future__ import annotations

import importlib.util
import json
import os
import py_compile
import struct
from pathlib import Path
from typing import Any

import pytest

from oci_binpkg.errors import LocalDiskError
from oci_binpkg.runs.examine import examine
from oci_binpkg.runs.view import FileStatus, FolderView
from tests.support.run_trees import HERE, RunTree


@pytest.fixture
def tree(tmp_path: Path) -> RunTree:
    return RunTree.at(tmp_path)


# links


@pytest.mark.parametrize(
    ("path", "target", "stops"),
    [
        ("/apps/app/bin/tool", "tool-1.0", True),
        ("/apps/app/bin/tool", "../../gone/bin/tool", True),
        ("/apps/app/bin/tool", "/apps/gone/bin/tool", True),
        ("/apps/app/lib/libx.so", "libx.so.1", True),
        ("/apps/app/lib/libx.so.1", "/nowhere/libx.so.1", True),
        ("/apps/app/share/doc/changelog", "NEWS", False),
        ("/apps/app/bin/loop", "loop", True),
    ],
)
def test_links_that_lead_nowhere(tree: RunTree, path: str, target: str, stops: bool) -> None:
    tree.link(path, target)

    assert tree.obstacles() == [(path, "link", target, stops)]


def test_links_that_lead_somewhere(tree: RunTree) -> None:
    tree.program("/apps/dep/bin/tool-1.0")
    tree.link("/apps/dep/bin/tool", "tool-1.0")
    tree.link("/apps/app/bin/tool", "../../dep/bin/tool")
    tree.link("/apps/app/bin/sh", "/bin/sh")
    tree.link("/apps/app/lib", "../dep")
    tree.link("/apps/app/current", ".")

    assert tree.obstacles() == []


@pytest.mark.parametrize("target", ["/proc/self/fd/0", "/dev/null", "/run/x.sock", "/var/lib/x", "/tmp/x"])
def test_links_to_what_is_there_at_run_time(tree: RunTree, target: str) -> None:
    tree.link("/apps/app/bin/stdin", target)

    assert tree.obstacles() == []


# texts


def paths(tree: RunTree, text: str | bytes) -> list[str]:
    tree.file("/apps/app/lib/conf", text)
    return [found.needed for found in tree.examined("/apps/app", tree=("/apps/dep",)).obstacles]


@pytest.fixture
def installed(tree: RunTree) -> RunTree:
    tree.file("/apps/dep/lib/libx.so", "x")
    tree.file("/apps/app/share/data", "x")
    return tree


@pytest.mark.parametrize(
    "text",
    [
        "lib=/apps/dep/lib/libx.so",
        "-L/apps/dep/lib -I/apps/dep",
        '"/apps/dep/lib/libx.so"',
        "see /apps/dep/lib.",
        "PATH=/apps/dep/lib:/apps/app/share",
        "file:///apps/dep/lib/libx.so",
        "/apps/dep/lib/*.so",
        "/apps/dep/lib/lib$NAME.so",
        "/apps/dep/lib/${name}",
        "/apps/dep/lib/lib%s.so",
        "/mnt/apps/dep/gone",
        "other/apps/dep/gone",
        "/apps/app/var/run/x.pid",
        "/other/gone",
        "apps/dep/gone",
    ],
)
def test_texts_whose_paths_lead_somewhere(installed: RunTree, text: str) -> None:
    assert paths(installed, f"{text}\n") == []


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("lib=/apps/dep/lib/liby.so", "/apps/dep/lib/liby.so"),
        ("-L/apps/dep/lib64 -I/apps/dep", "/apps/dep/lib64"),
        ("'/apps/app/share/gone'", "/apps/app/share/gone"),
        ("/apps/dep/gone:/apps/app/share", "/apps/dep/gone"),
        ("file:///apps/dep/lib/liby.so", "/apps/dep/lib/liby.so"),
        ("/apps/dep/gone/*.so", "/apps/dep/gone"),
        ("use /apps/dep/gone.", "/apps/dep/gone"),
    ],
)
def test_texts_whose_paths_lead_nowhere(installed: RunTree, text: str, lost: str) -> None:
    assert paths(installed, f"{text}\n") == [lost]
    assert installed.examined("/apps/app", tree=("/apps/dep",)).runs


def test_a_text_that_names_a_package_which_is_gone(tree: RunTree) -> None:
    tree.file("/home/me/apps/app/lib/conf", "/home/me/apps/gone/lib /home/me/apps /home/me/else\n")
    tree.file("/home/me/apps/dep/x", "x")

    prefixes = ("/home/me/apps/app", "/home/me/apps/dep")
    assert [needed for _, _, needed, _ in tree.obstacles(*prefixes)] == ["/home/me/apps/gone/lib"]


def test_many_lost_paths_are_counted(installed: RunTree) -> None:
    tree = installed
    tree.file("/apps/app/lib/conf", "".join(f"/apps/dep/gone{n} " for n in range(10)))

    found = tree.examined("/apps/app", tree=("/apps/dep",)).obstacles
    assert len(found) == 4
    assert "names 7 more paths where nothing is" in {one.reason for one in found}


def test_the_second_line_of_a_script_that_sbang_starts_is_told_once(installed: RunTree) -> None:
    installed.script("/apps/bin/sbang", "#!/bin/sh\n")
    installed.script("/apps/app/bin/tool", "#!/bin/sh /apps/bin/sbang\n#!/apps/dep/bin/gone\n")

    assert [kind for _, kind, *_ in installed.obstacles("/apps/app", tree=("/apps/dep",))] == ["script"]


def test_the_first_line_of_a_script_is_told_once(installed: RunTree) -> None:
    installed.script("/apps/app/bin/tool", "#!/apps/dep/bin/gone\n/apps/dep/lib/other\n")

    found = installed.examined("/apps/app", tree=("/apps/dep",)).obstacles
    assert [(one.kind.value, one.needed) for one in found] == [
        ("path", "/apps/dep/lib/other"),
        ("script", "/apps/dep/bin/gone"),
    ]


def test_binaries_and_very_long_texts_are_not_searched(installed: RunTree) -> None:
    assert paths(installed, b"\0\1\2 /apps/dep/gone\n") == []
    assert paths(installed, "/apps/dep/gone\n" + "x" * (1024 * 1024)) == []


def test_a_long_text_is_searched_to_its_end(installed: RunTree) -> None:
    assert paths(installed, "x" * 100_000 + "\n/apps/dep/gone\n") == ["/apps/dep/gone"]


@pytest.mark.parametrize("name", ["page.html", "tool.1", "header.h", "notes.txt"])
def test_data_is_not_opened_unless_it_can_be_started(installed: RunTree, name: str) -> None:
    installed.file(f"/apps/app/share/{name}", "#!/gone\n/apps/dep/gone\n")
    assert installed.obstacles("/apps/app", tree=("/apps/dep",)) == []

    installed.place(f"/apps/app/share/{name}").chmod(0o755)
    assert {kind for _, kind, *_ in installed.obstacles("/apps/app", tree=("/apps/dep",))} == {"script", "path"}


def test_the_record_of_the_build_is_not_looked_at(installed: RunTree) -> None:
    installed.file("/apps/app/.spack/log", "/apps/dep/gone\n")
    installed.script("/apps/app/.spack/bin/x", "#!/gone\n")

    assert installed.obstacles("/apps/app") == []


# bytecode


def compiled(tree: RunTree, *, mode: py_compile.PycInvalidationMode = py_compile.PycInvalidationMode.TIMESTAMP) -> Path:
    source = tree.file("/apps/app/lib/python3/module.py", "x = 1\n")
    os.utime(source, (1_700_000_000, 1_700_000_000))
    made = py_compile.compile(str(source), doraise=True, invalidation_mode=mode)
    return Path(made)  # type: ignore[arg-type]


def bytecode(tree: RunTree) -> list[tuple[str, str, str, bool]]:
    return [found for found in tree.obstacles() if found[1] == "bytecode"]


def test_bytecode_that_is_current(tree: RunTree) -> None:
    compiled(tree)

    assert tree.obstacles() == []


def test_bytecode_of_another_time(tree: RunTree) -> None:
    made = compiled(tree)
    os.utime(tree.place("/apps/app/lib/python3/module.py"), (1, 1))

    path = f"/apps/app/lib/python3/__pycache__/{made.name}"
    assert tree.obstacles() == [(path, "bytecode", "/apps/app/lib/python3/module.py", False)]
    assert tree.examined().runs
    assert "source of another time" in tree.examined().obstacles[0].reason


def test_bytecode_of_another_size(tree: RunTree) -> None:
    compiled(tree)
    source = tree.file("/apps/app/lib/python3/module.py", "x = 12345\n")
    os.utime(source, (1_700_000_000, 1_700_000_000))

    assert "source of another size" in tree.examined().obstacles[0].reason


def test_bytecode_with_a_hash(tree: RunTree) -> None:
    compiled(tree, mode=py_compile.PycInvalidationMode.CHECKED_HASH)
    os.utime(tree.place("/apps/app/lib/python3/module.py"), (1, 1))
    assert bytecode(tree) == []

    tree.file("/apps/app/lib/python3/module.py", "x = 2\n")
    assert "source of another content" in tree.examined().obstacles[0].reason


def test_bytecode_whose_hash_nobody_checks(tree: RunTree) -> None:
    compiled(tree, mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    tree.file("/apps/app/lib/python3/module.py", "x = 2\n")

    assert bytecode(tree) == []


def test_bytecode_without_a_source_is_not_judged(tree: RunTree) -> None:
    made = compiled(tree)
    made.rename(made.parent.parent / "module.pyc")
    compiled(tree)
    tree.place("/apps/app/lib/python3/module.py").unlink()

    assert bytecode(tree) == []


@pytest.mark.parametrize("name", ["module.cpython-39.opt-2.pyc", "module.pypy39.pyc", "module.cpython-39-pytest-7.pyc"])
def test_bytecode_of_other_pythons(tree: RunTree, name: str) -> None:
    source = tree.file("/apps/app/lib/python3/module.py", "x = 1\n")
    header = b"\x61\x0d\r\n" + struct.pack("<3I", 0, int(source.stat().st_mtime) - 1, source.stat().st_size)
    tree.file(f"/apps/app/lib/python3/__pycache__/{name}", header + b"code")

    assert len(bytecode(tree)) == (0 if "pytest" in name else 1)


def test_what_is_no_bytecode(tree: RunTree) -> None:
    tree.file("/apps/app/lib/__pycache__/module.cpython-39.pyc", b"short")
    tree.file("/apps/app/lib/module.py", "x = 1\n")
    tree.file("/apps/app/lib/__pycache__/other.cpython-39.pyc", importlib.util.MAGIC_NUMBER + bytes(20))

    assert bytecode(tree) == []


# what cannot be looked at


class _Locked(FolderView):
    def entries(self, path: str) -> Any:
        if path.endswith("/locked"):
            raise LocalDiskError(f"{path}: cannot be read: Permission denied")
        return super().entries(path)

    def opened(self, path: str) -> Any:
        if path.endswith("/secret"):
            raise LocalDiskError(f"{path}: cannot be read: Permission denied")
        return super().opened(path)


def test_what_cannot_be_read_is_remarked(tree: RunTree) -> None:
    tree.file("/apps/app/bin/secret", "x")
    tree.file("/apps/app/locked/x", "x")

    verdict = examine(_Locked(str(tree.folder)), ["/apps/app"], HERE)

    assert [(one.path, one.kind.value, one.reason) for one in verdict.obstacles] == [
        ("/apps/app/bin/secret", "unreadable", "cannot be read: Permission denied"),
        ("/apps/app/locked", "unreadable", "cannot be read: Permission denied"),
    ]
    assert verdict.runs


def test_a_prefix_that_is_gone(tree: RunTree) -> None:
    (found,) = tree.examined("/apps/gone").obstacles

    assert (found.path, found.kind.value) == ("/apps/gone", "unreadable")


def test_special_files_are_passed_over(tree: RunTree) -> None:
    tree.file("/apps/app/bin/x", "")
    os.mkfifo(tree.place("/apps/app/bin/fifo"))

    assert tree.obstacles() == []


# the verdict


def test_an_interrupt_ends_the_work(tree: RunTree) -> None:
    tree.program("/apps/app/bin/app")

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tree.examined(go_on=stop)


def test_the_document_and_the_counts(tree: RunTree) -> None:
    tree.program("/apps/app/bin/app", needed=["libgone.so"])
    for name in ("a", "b"):
        tree.link(f"/apps/app/share/{name}", "gone")

    verdict = tree.examined()
    document = json.loads(json.dumps(verdict.to_json()))

    assert [one.counted for one in verdict.obstacles if not one.stops] == ["links that lead nowhere"] * 2
    assert (document["runs"], document["programs"], document["stopped"]) == (False, 1, ["/apps/app/bin/app"])
    assert document["obstacles"][0] == {
        "path": "/apps/app/bin/app",
        "kind": "library",
        "needed": "libgone.so",
        "reason": "needs the library libgone.so",
        "stops": True,
        "looked_in": ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib", "/usr/lib"],
        "offered": [],
        "asked_by": "",
    }
    assert [one.needed for one in verdict.stopping] == ["libgone.so"]


def test_long_lists_are_cut_in_sentences(tree: RunTree) -> None:
    tree.program("/apps/app/bin/app", needed=["libgone.so"], runpath=":".join(f"/opt/{n}" for n in range(20)))

    text = tree.examined().obstacles[0].describe()
    assert text.startswith("/apps/app/bin/app: needs the library libgone.so; looked for in /opt/0, ")
    assert text.endswith("/opt/7 and 16 more")


def test_statuses() -> None:
    assert FileStatus(0o100755, 1, 0, (1, 1)).is_executable
    assert not FileStatus(0o040755, 1, 0, (1, 1)).is_executable
