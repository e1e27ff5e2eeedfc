"""A staged tree: what is changed, what is only reported, and what stops the package."""

from __future__ import annotations

import os
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from oci_binpkg.errors import LocalDiskError, RelocationError
from oci_binpkg.relocate import elf as elf_module
from oci_binpkg.relocate import files
from oci_binpkg.relocate.budget import Budget
from oci_binpkg.relocate.edits import RelocationReport, Remark
from oci_binpkg.relocate.prefixes import PrefixMap, mapping_for
from oci_binpkg.relocate.tree import relocate_tree
from tests.support import elf_files as elf
from tests.support.elf_files import ElfFile
from tests.unit.relocate.test_ar import member

OLD, NEW = "/opt/old", "/new"
MOVED = PrefixMap.of({OLD: NEW})
LONGER = PrefixMap.of({OLD: "/much/long"})
CONSTANT = ElfFile(constants=b"\0" + OLD.encode() + b"/share/x\0").build()


def write(root: Path, name: str, content: bytes, mode: int = 0o644) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
    return path


def relocate(tree: Path, mapping: PrefixMap = MOVED, **options: Any) -> RelocationReport:
    return relocate_tree(str(tree), mapping, **options)


def test_what_is_known_to_mention_nothing_is_not_read(tmp_path: Path) -> None:
    read, passed = write(tmp_path, "bin/x", b"/opt/old"), write(tmp_path, "bin/y", b"/opt/old")
    report = relocate(tmp_path, textfiles=["bin/x", "bin/y"], clean={"bin/y"})
    assert report.changed == ("bin/x",)
    assert (read.read_bytes(), passed.read_bytes()) == (b"/new", b"/opt/old")


def test_declared_files_change_and_others_are_reported(tmp_path: Path) -> None:
    script = write(tmp_path, "bin/x", b"#!/opt/old/bin/sh\n", 0o555)
    program = write(tmp_path, "bin/y", CONSTANT, 0o755)
    write(tmp_path, "lib/__pycache__/x.pyc", b"\xa7\r\r\n/opt/old/x.py")
    write(tmp_path, "lib/thin.a", b"!<thin>\n/opt/old/x.o")
    write(tmp_path, "data.bin", b"\0\xff /opt/old/x")
    write(tmp_path, "fine.bin", b"\0\xff /opt/other")
    write(tmp_path, "empty", b"")
    write(tmp_path, ".spack/spec.json", b'"/opt/old"')

    report = relocate(tmp_path, binaries=["bin/y"], textfiles=["bin/x", "gone"])

    assert script.read_bytes() == b"#!/new/bin/sh\n"
    assert script.stat().st_mode & 0o777 == 0o555
    assert b"/////new/share/x\0" in program.read_bytes()
    assert (tmp_path / ".spack/spec.json").read_bytes() == b'"/opt/old"'
    assert (tmp_path / "data.bin").read_bytes() == b"\0\xff /opt/old/x"
    assert report.changed == ("bin/x", "bin/y")
    assert [(one.path, one.reason.split(",")[0].split(" that")[0]) for one in report.reported] == [
        ("data.bin", "mentions an old prefix"),
        ("gone", "declared"),
        ("lib/__pycache__/x.pyc", "compiled Python"),
        ("lib/thin.a", "a thin archive"),
    ]


def test_archives_and_utf16_are_found(tmp_path: Path) -> None:
    archive = write(tmp_path, "lib/x.a", b"!<arch>\n" + member(b"a.o/", b"....\0/opt/old/share/x\0"))
    wide = write(tmp_path, "x.txt", "see /opt/old/share".encode("utf-16"))
    broken = write(tmp_path, "y.txt", "see /opt/old/share".encode("utf-16") + b"x")
    damaged = write(tmp_path, "lib/y.a", b"!<arch>\n/opt/old")
    plain = write(tmp_path, "z.txt", "nothing".encode("utf-16"))

    report = relocate(tmp_path)

    assert b"/////new/share/x\0" in archive.read_bytes()
    assert wide.read_bytes().decode("utf-16") == "see /new/share"
    assert b"/opt/old" in damaged.read_bytes()
    assert plain.read_bytes().decode("utf-16") == "nothing"
    assert report.changed == ("lib/x.a", "x.txt")
    assert [one.path for one in report.reported] == ["lib/y.a", "y.txt"]
    assert all("left alone" in one.reason for one in report.reported)
    assert broken.read_bytes().startswith("see /opt/old".encode("utf-16"))


def test_hard_links_stay_and_change_once(tmp_path: Path) -> None:
    path = write(tmp_path, "a/x", b"/opt/old /opt/old")
    os.link(path, tmp_path / "b")
    os.link(path, tmp_path / "c")

    # /opt/old lies within its new prefix: a second change would show
    report = relocate(tmp_path, PrefixMap.of({OLD: "/opt/old/new"}), textfiles=["b", "c"])

    assert path.read_bytes() == b"/opt/old/new /opt/old/new"
    assert path.samefile(tmp_path / "b")
    assert path.stat().st_nlink == 3
    assert report.changed == ("a/x", "b", "c")


def test_links_with_absolute_targets(tmp_path: Path) -> None:
    for name, target in {"a": "/opt/old", "b": "/opt/old/x", "c": "/opt/older", "d": "../opt/old", "e": "/usr"}.items():
        (tmp_path / name).symlink_to(target)
    (tmp_path / ".spack").mkdir()
    (tmp_path / ".spack/f").symlink_to("/opt/old")

    report = relocate(tmp_path)

    targets = {path.name: os.readlink(path) for path in tmp_path.iterdir() if path.is_symlink()}
    assert targets == {"a": "/new", "b": "/new/x", "c": "/opt/older", "d": "../opt/old", "e": "/usr"}
    assert os.readlink(tmp_path / ".spack/f") == "/opt/old"
    assert report.changed == ("a", "b")


def test_declared_paths_do_not_lead_out_of_the_tree(tmp_path: Path) -> None:
    outside = write(tmp_path, "outside/file", b"/opt/old")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "link").symlink_to(tmp_path / "outside")
    (tree / "direct").symlink_to(outside)

    report = relocate(tree, textfiles=["link/file", "direct", "../outside/file", str(outside)])

    assert outside.read_bytes() == b"/opt/old"
    assert report.changed == ()


def test_long_interpreter_lines(tmp_path: Path) -> None:
    write(tmp_path, "x", b"#!/opt/old/bin/python\nprint()\n", 0o755)
    write(tmp_path, "y", b"#!/opt/old/bin/python\nprint()\n", 0o755)
    long = "/" + "d" * 150
    mapping = mapping_for({}, {}, root=(OLD, long))

    report = relocate(tmp_path, mapping, textfiles=["x"], sbang="/srv/bin/sbang")
    assert (tmp_path / "x").read_text() == f"#!/bin/sh /srv/bin/sbang\n#!{long}/bin/python\nprint()\n"
    assert report.reported == (Remark("y", "mentions an old prefix, and is not declared to be relocated"),)

    report = relocate(tmp_path, mapping, textfiles=["y"])
    assert "too long" in report.reported[0].reason


@pytest.mark.covers("B45")
def test_a_constant_that_cannot_grow_stops_the_package(tmp_path: Path) -> None:
    write(tmp_path, "bin/x", CONSTANT)
    write(tmp_path, "lib/x.a", b"!<arch>\n" + member(b"a.o/", b"....\0/opt/old/share/x\0"))

    with pytest.raises(RelocationError, match="2 such constants in 2 files") as refusal:
        relocate(tmp_path, LONGER, binaries=["bin/x"], final_prefix="/much/long", root="/much")

    assert (refusal.value.longest_prefix, refusal.value.longest_root) == (8, 3)
    assert "a root of at most 3 bytes" in refusal.value.hint


@pytest.mark.covers("B44")
@pytest.mark.parametrize(
    ("root", "hint"), [("", "has at most 8 bytes"), ("/elsewhere", "has at most 8 bytes"), ("/much", "at most 3 bytes")]
)
def test_the_hint_fits_what_is_known(tmp_path: Path, root: str, hint: str) -> None:
    write(tmp_path, "bin/x", CONSTANT)

    with pytest.raises(RelocationError, match="bin/x") as refusal:
        relocate(tmp_path, LONGER, binaries=["bin/x"], root=root)
    assert hint in refusal.value.hint


def test_no_root_is_short_enough(tmp_path: Path) -> None:
    write(tmp_path, "bin/x", ElfFile(constants=b"\0" + b"/a/b" + b"/share/x\0" + b"x" * 5000).build())

    with pytest.raises(RelocationError, match="bin/x") as refusal:
        relocate(tmp_path, PrefixMap.of({"/a/b": "/much/longer"}), binaries=["bin/x"], root="/much")
    assert refusal.value.hint.startswith("Build the package below a padded root")


def test_a_very_long_string_is_cut_in_the_message(tmp_path: Path) -> None:
    write(tmp_path, "bin/x", ElfFile(constants=b"\0" + b"x" * 5000 + b"/opt/old/" + b"y" * 5000).build())

    with pytest.raises(RelocationError) as refusal:
        relocate(tmp_path, LONGER, binaries=["bin/x"])
    assert len(str(refusal.value)) < 1000


def test_stale_constants_may_be_allowed(tmp_path: Path) -> None:
    write(tmp_path, "bin/x", CONSTANT)

    report = relocate(tmp_path, LONGER, binaries=["bin/x"], allow_stale=True)

    (stale,) = report.stale
    assert stale.path == "bin/x"
    assert stale.finding.string == b"/opt/old/share/x"
    assert stale.missing == 2


def test_changed_tails_are_told(tmp_path: Path) -> None:
    write(tmp_path, "bin/x", ElfFile(constants=b"\0/opt/old\0").build())

    report = relocate(tmp_path, PrefixMap.of({OLD: "/srv/new"}), binaries=["bin/x"])

    assert report.stale == ()
    assert [one.path for one in report.tails] == ["bin/x"]


@pytest.mark.covers("B45")
def test_broken_binaries_have_their_strings_changed(tmp_path: Path) -> None:
    """Packages hold damaged ELF files on purpose, to test with."""
    broken = write(tmp_path, "test/broken", CONSTANT[:40] + b"\0/opt/old/share/x\0")
    write(tmp_path, "test/fine", CONSTANT[:40])
    other = write(tmp_path, "test/other", b"not a binary\0/opt/old/share/x\0")

    report = relocate(tmp_path, binaries=["test/broken", "test/fine", "test/other"])

    assert b"/////new/share/x\0" in broken.read_bytes()
    assert b"/////new/share/x\0" in other.read_bytes()
    assert report.changed == ("test/broken", "test/other")
    assert [one.path for one in report.reported] == ["test/broken", "test/other"]
    assert all(one.reason for one in report.reported)


@pytest.mark.covers("B45")
def test_texts_of_windows_keep_their_line_ends(tmp_path: Path) -> None:
    script = write(tmp_path, "bin/x.bat", b"set A=/opt/old/lib\r\nset B=/opt/old\r\n")

    relocate(tmp_path, LONGER, textfiles=["bin/x.bat"])

    assert script.read_bytes() == b"set A=/much/long/lib\r\nset B=/much/long\r\n"


def test_programs_of_macos(tmp_path: Path) -> None:
    load = struct.pack("<III", 0x8000001C, 32, 12) + b"/opt/old/lib".ljust(20, b"\0")
    header = struct.pack("<8I", 0xFEEDFACF, 0x01000007, 3, 2, 1, len(load), 0, 0)
    path = write(tmp_path, "bin/x", header + load + bytes(100))

    report = relocate(tmp_path, binaries=["bin/x"])

    assert b"/new/lib\0" in path.read_bytes()
    assert report.changed == ("bin/x",)
    crowded = struct.pack("<8I", 0xFEEDFACF, 0x01000007, 3, 2, 1, len(load), 0, 0) + load
    write(tmp_path, "bin/x", crowded)
    long = PrefixMap.of({OLD: "/" + "long" * 30})
    with pytest.raises(RelocationError, match="bin/x cannot be relocated"):
        relocate(tmp_path, long, binaries=["bin/x"])
    assert [one.path for one in relocate(tmp_path, long, binaries=["bin/x"], allow_stale=True).reported] == ["bin/x"]


def test_what_is_left_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should a file be relocated only in part, for whatever reason, the second look says so."""
    write(tmp_path, "bin/x", CONSTANT)
    monkeypatch.setattr(elf_module, "relocate_elf", lambda *_: elf_edit_of_nothing())

    with pytest.raises(RelocationError, match=r"/srv/x: an old prefix is left in bin/x at byte \d+"):
        relocate(tmp_path, binaries=["bin/x"], final_prefix="/srv/x")


def elf_edit_of_nothing() -> object:
    from oci_binpkg.relocate.edits import Edited

    return Edited()


def test_a_new_prefix_within_the_old_one(tmp_path: Path) -> None:
    content = ElfFile(names=[(elf.RUNPATH, b"/opt/old/lib")], interpreter=b"/opt/old/ld.so").build()
    write(tmp_path, "bin/x", content)
    write(tmp_path, "x.txt", b"PATH=/opt/old/bin")
    (tmp_path / "link").symlink_to("/opt/old/x")

    report = relocate(tmp_path, PrefixMap.of({OLD: "/opt/old/2"}), binaries=["bin/x"], textfiles=["x.txt"])

    assert report.changed == ("bin/x", "link", "x.txt")
    assert elf.load((tmp_path / "bin/x").read_bytes()).texts(elf.RUNPATH) == [b"/opt/old/2/lib"]
    assert (tmp_path / "x.txt").read_bytes() == b"PATH=/opt/old/2/bin"


def test_nothing_to_map(tmp_path: Path) -> None:
    write(tmp_path, "bin/x", CONSTANT)

    assert relocate(tmp_path, PrefixMap.of({OLD: OLD}), binaries=["bin/x"]) == RelocationReport()


def test_a_long_text_is_changed_in_pieces(tmp_path: Path) -> None:
    line = b"PATH=/opt/old/bin:/usr/bin\n"
    path = write(tmp_path, "x", line * 1000)
    other = write(tmp_path, "y", b"nothing\n" * 1000)

    assert files.relocate_text(str(path), MOVED, whole=100).changed
    assert not files.relocate_text(str(other), MOVED, whole=100).changed

    assert path.read_bytes() == line.replace(b"/opt/old", b"/new") * 1000
    assert files.left_in_text(str(path), MOVED) == []
    assert files.left_in_text(str(path), PrefixMap.of({NEW: "/x"})) == [0]


def test_a_tree_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(LocalDiskError, match="cannot read"):
        relocate(tmp_path / "gone")
    with pytest.raises(LocalDiskError, match="cannot relocate"):
        files.relocate_text(str(tmp_path / "gone"), MOVED)


def test_a_link_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "x").symlink_to("/opt/old")
    (tmp_path / ".relocated-link").write_text("in the way")

    with pytest.raises(LocalDiskError, match="cannot relocate the link"):
        relocate(tmp_path)


def test_a_file_that_its_owner_may_not_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "x", b"see /opt/old", 0o444)
    really_open = os.open

    def refusing(name: str, flags: int, *rest: int, **more: int) -> int:
        if name == str(path) and flags & os.O_RDWR and not path.stat().st_mode & 0o200:
            raise PermissionError(13, "Permission denied")
        return really_open(name, flags, *rest, **more)

    monkeypatch.setattr(os, "open", refusing)  # root may write anything

    assert relocate(tmp_path, textfiles=["x"]).changed == ("x",)
    assert path.read_bytes() == b"see /new"
    assert path.stat().st_mode & 0o777 == 0o444


def test_a_link_that_is_left_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").symlink_to("/opt/old/y")
    monkeypatch.setattr(os, "replace", lambda _new, _old: None)

    with pytest.raises(RelocationError, match="an old prefix is left in x at byte 0"):
        relocate(tmp_path)


def test_any_left_at_the_very_beginning(tmp_path: Path) -> None:
    path = write(tmp_path, "x", CONSTANT[:7] + b"\xff" + CONSTANT[8:20])

    assert files.left_in_binary(str(path), MOVED) == []
    path.write_bytes(b"/opt/old/x")
    assert files.left_in_binary(str(path), MOVED) == [0]
    assert files.mentions(str(path), MOVED) == files.Mentioned(b"/opt/old", anywhere=True)


@pytest.mark.parametrize("at", [0, 256 * 1024 - 4, 512 * 1024 - 8, 512 * 1024, 600_000])
def test_a_mention_is_found_wherever_the_pieces_of_a_large_file_end(tmp_path: Path, at: int) -> None:
    content = bytes(at) + b"/opt/old/x" + bytes(700_000 - at)
    path = write(tmp_path, "x", content)

    assert files.mentions(str(path), MOVED) == files.Mentioned(content[:8], anywhere=True)
    assert files.mentions(str(path), PrefixMap.of({"/opt/olx": "/y"})) == files.Mentioned(content[:8], anywhere=False)


def test_findings_are_counted_after_the_first_hundred(tmp_path: Path) -> None:
    tight = b"\0/opt/old\0" * 700 + b"\0" + b"/opt/old/x\0" * 301
    write(tmp_path, "bin/x", tight)
    with pytest.raises(RelocationError, match=r"1001 such constants in 1 files") as caught:
        relocate(tmp_path, LONGER, binaries=["bin/x"], root="/much", final_prefix="/much/long")
    assert caught.value.longest_root == len("/much") - (len("/much/long") - len("/opt/old"))

    report = relocate(tmp_path, LONGER, binaries=["bin/x"], allow_stale=True)

    assert len(report.stale) == 100
    assert [remark.reason for remark in report.reported if "more strings" in remark.reason] == [
        "901 more strings in it are of that kind"
    ]


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("share/t", b"/opt/old/x\n" * 12, {"textfiles": ["share/t"]}),
        ("bin/x", b"/opt/old/share/doc\0" * 12, {"binaries": ["bin/x"]}),
        ("share/u", b"\xff\xfe" + "/opt/old\n".encode("utf-16-le") * 12, {}),
        ("lib/x.a", b"!<arch>\n" + member(b"x/", b"/opt/old/share/doc\0\0" * 12), {}),
        ("lib/x.bin", b"\0\xff" + b"/opt/old" * 12, {}),
    ],
)
def test_more_mentions_than_the_layer_pays_for_stop_the_package(
    tmp_path: Path, name: str, content: bytes, options: dict[str, Any]
) -> None:
    write(tmp_path, name, content)
    write(tmp_path, "zero", b"/opt/old")
    with pytest.raises(RelocationError, match=r"^zlib: old prefixes stand in its files more than 11 times"):
        relocate(tmp_path, budget=Budget(mentions=11, what="zlib"), **options)
    report = relocate(tmp_path, budget=Budget(mentions=40), **options)
    assert name in report.changed or [remark.path for remark in report.reported] == [name, "zero"]


def test_a_layer_pays_for_mentions_by_its_size() -> None:
    assert Budget.for_layer(80_000_000, "x").mentions > 10_000_000
    assert Budget.for_layer(1_000_000, "x").mentions < 500_000


def test_a_large_mach_o_file_of_a_small_layer_is_not_taken_apart(tmp_path: Path) -> None:
    write(tmp_path, "lib/x", b"\xcf\xfa\xed\xfe" + bytes(100) + b"/opt/old/share/doc\0")
    report = relocate(tmp_path, binaries=["lib/x"], budget=Budget(whole_file=50))
    assert [remark.reason for remark in report.reported] == [
        "only strings were changed: a Mach-O file of 123 bytes, of which the layer had far fewer"
    ]


LARGE = 24 * 1024 * 1024


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("share/t", b"-I/opt/old" + b"a" * LARGE + b" /opt/old", b"-I/new" + b"a" * LARGE + b" /new"),
        ("share/u", "\ufeff/opt/old".encode("utf-16-le") + b"a\0" * (LARGE // 2), "\ufeff/new".encode("utf-16-le") + b"a\0" * (LARGE // 2)),
        ("bin/x", b"/opt/old/share/x\0" + b"a" * LARGE + b"\0/opt/old/share/y\0", b"/////new/share/x\0" + b"a" * LARGE + b"\0/////new/share/y\0"),
    ],
    ids=["text", "UTF-16", "strings"],
)  # fmt: skip
def test_files_are_relocated_in_windows(tmp_path: Path, name: str, before: bytes, after: bytes) -> None:
    path = write(tmp_path, name, before)
    tracemalloc.start()
    relocate(tmp_path, textfiles=["share/t"], binaries=["bin/x"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * 1024**2
    assert path.read_bytes() == after


@pytest.mark.parametrize("pattern", ["bin/x", "x", "bin/*", "*", "[w-y]"])
def test_stale_constants_may_be_allowed_in_named_files(tmp_path: Path, pattern: str) -> None:
    write(tmp_path, "bin/x", CONSTANT)

    report = relocate(tmp_path, LONGER, binaries=["bin/x"], allow_stale=["lib/none", pattern])

    assert [stale.path for stale in report.stale] == ["bin/x"]


@pytest.mark.parametrize("patterns", [[], ["y"], ["lib/*"], ["in/x"], ["bin"], ["/x"]])
def test_what_is_not_named_still_stops(tmp_path: Path, patterns: list[str]) -> None:
    write(tmp_path, "bin/x", CONSTANT)
    write(tmp_path, "lib/y", CONSTANT)

    with pytest.raises(RelocationError, match="bin/x: the constant") as refusal:
        relocate(tmp_path, LONGER, binaries=["bin/x", "lib/y"], allow_stale=patterns)
    assert ("in 2 files" in str(refusal.value)) is (not {"y", "lib/*"}.intersection(patterns))
