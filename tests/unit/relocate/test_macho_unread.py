"""What no program of macOS reads: debug information, names of symbols. It changes where it fits and stops nothing."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import pytest

from oci_binpkg.relocate.ar import relocate_archive, remaining_in_archive
from oci_binpkg.relocate.macho import relocate_macho, remaining_in_macho
from oci_binpkg.relocate.prefixes import PrefixMap
from oci_binpkg.relocate.tree import relocate_tree
from tests.support.macho_files import ARM64, RPATH, X86_64, Shape, build, build_fat, check_signature

LONGER, SHORTER = PrefixMap.of({"/opt/old": "/srv/much/longer"}), PrefixMap.of({"/opt/old": "/n"})
NAMES = b"\0_main\0/opt/old/src/of/main/\0/opt/old/obj/main.o\0"
DEBUG = b"/opt/old/include/header.h\0"


def debugged(cpu: int = X86_64, *, order: str = "<", wide: bool = True, text: bytes = b"code", reach: int = 0) -> bytes:
    """A program with names of symbols and debug information; `reach`: how far before its names the table begins."""

    def with_table(start: int) -> bytes:
        shape = Shape(wide, order, cpu, text=text, linkedit=NAMES + DEBUG)
        at = start + len(NAMES)
        debug = shape.segment(b"__DWARF", at, len(DEBUG), [(b"__debug_str", at, len(DEBUG))])
        symbols = shape.command(2, struct.pack(order + "4I", 0, 0, start - reach, len(NAMES) + reach))
        return build([(RPATH, "/opt/old/lib")], replace(shape, extra=[debug, symbols]))

    return with_table(with_table(4096).index(NAMES))  # the load commands are as long wherever the table is


each_layout = pytest.mark.parametrize(("order", "wide"), [("<", True), ("<", False), (">", True), (">", False)])


@each_layout
def test_programs_with_debug_information_go_to_longer_places(order: str, wide: bool) -> None:
    data = debugged(order=order, wide=wide)

    edit = relocate_macho(data, LONGER)

    assert (edit.changed, edit.findings, edit.refused, edit.unread) == (True, (), (), 3)
    assert b"/srv/much/longer/lib\0" in edit.data
    assert edit.data.endswith(NAMES + DEBUG)
    assert list(remaining_in_macho(edit.data, LONGER)) == []


@each_layout
def test_what_fits_is_changed(order: str, wide: bool) -> None:
    edit = relocate_macho(debugged(order=order, wide=wide), SHORTER)

    assert edit.unread == 0
    assert b"/opt/old" not in edit.data
    assert b"//n/obj/main.o\0" in edit.data


def test_a_program_that_must_be_signed_is_signed_with_what_nobody_reads() -> None:
    edit = relocate_macho(debugged(ARM64), SHORTER)

    assert b"/opt/old" not in edit.data
    check_signature(edit.data)


def test_strings_of_the_code_stop_as_before() -> None:
    edit = relocate_macho(debugged(text=b"/opt/old/share/x\0"), LONGER)

    assert len(edit.findings) == 1
    assert edit.unread == 3


def test_a_table_of_symbols_that_reaches_into_the_code_is_none() -> None:
    edit = relocate_macho(debugged(reach=4), LONGER)

    assert (len(edit.findings), edit.unread) == (2, 1)


def test_slices_of_a_universal_file_are_counted_together() -> None:
    data = build_fat([(X86_64, debugged()), (ARM64, debugged(ARM64))])

    edit = relocate_macho(data, LONGER)

    assert (edit.changed, edit.findings, edit.unread) == (True, (), 6)
    assert list(remaining_in_macho(edit.data, LONGER)) == []


def test_members_of_static_archives() -> None:
    members = [debugged(), debugged(order=">", wide=False), debugged()[:300]]
    packed = b"!<arch>\n"
    for content in members:
        size = str(len(content)).encode().ljust(10)
        packed += b"a.o/".ljust(16) + b"0".ljust(12) + b"0".ljust(6) * 2 + b"644".ljust(8) + size + b"`\n"
        packed += content + b"\n" * (len(content) % 2)

    edited = relocate_archive(packed, LONGER)

    assert edited.unread == 6
    assert len(list(remaining_in_archive(edited.apply(packed), LONGER))) == len(edited.findings)
    assert {finding.string[-4:] for finding in edited.findings} == {b"/lib"}  # load commands of members cannot grow


def test_an_install_counts_them_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "program").write_bytes(debugged())

    report = relocate_tree(str(tmp_path), LONGER, binaries=["program"])

    assert [remark.path for remark in report.reported] == ["program"]
    assert report.stale == ()
    assert b"/srv/much/longer/lib\0" in (tmp_path / "program").read_bytes()
