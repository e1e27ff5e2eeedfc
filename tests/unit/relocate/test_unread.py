"""What no program reads: debug information, comments, names of symbols. It changes where it fits and stops nothing."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from oci_binpkg.errors import RelocationError
from oci_binpkg.relocate.ar import relocate_archive, remaining_in_archive
from oci_binpkg.relocate.elf import relocate_elf, remaining_in_elf
from oci_binpkg.relocate.prefixes import PrefixMap
from oci_binpkg.relocate.tree import relocate_tree
from oci_binpkg.relocate.unread import unread_spans
from tests.support import elf_files as elf
from tests.support.elf_files import ElfFile, load

LONGER, SHORTER = PrefixMap.of({"/opt/old": "/srv/much/longer"}), PrefixMap.of({"/opt/old": "/n"})
DEBUG = b"\0/opt/old/include\0/opt/old/src/main.c\0"
each_class = pytest.mark.parametrize(("bits", "order"), [(64, "<"), (64, ">"), (32, "<"), (32, ">")])


def object_file(bits: int, order: str, *, loaded: bytes = b"\0", unloaded: bytes = DEBUG) -> bytes:
    """A relocatable object with two sections, one of which gets into programs."""
    wide = bits == 64
    word = "Q" if wide else "I"
    begin = 64 if wide else 52
    table = begin + len(loaded) + len(unloaded)

    def section(flags: int, offset: int, size: int) -> bytes:
        return struct.pack(f"{order}II{word * 4}II{word * 2}", 0, 1, flags, 0, offset, size, 0, 0, 1, 0)

    sections = [
        bytes(64 if wide else 40),
        section(2, begin, len(loaded)),
        section(0, begin + len(loaded), len(unloaded)),
    ]
    ident = b"\x7fELF" + bytes([2 if wide else 1, 1 if order == "<" else 2, 1]) + bytes(9)
    sizes = (begin, 0, 0, 64 if wide else 40, len(sections), 0)
    header = ident + struct.pack(f"{order}HHI{word * 3}I6H", elf.ET_REL, 0, 1, 0, 0, table, 0, *sizes)
    return header + loaded + unloaded + b"".join(sections)


def archive(*contents: bytes) -> bytes:
    packed = b"!<arch>\n"
    for content in contents:
        size = str(len(content)).encode().ljust(10)
        packed += b"a.o/".ljust(16) + b"0".ljust(12) + b"0".ljust(6) * 2 + b"644".ljust(8) + size + b"`\n"
        packed += content + b"\n" * (len(content) % 2)
    return packed


@each_class
def test_programs_with_debug_information_go_to_longer_places(bits: int, order: str) -> None:
    data = ElfFile(bits, order, names=[(elf.RUNPATH, b"/opt/old/lib")], unloaded=DEBUG).build()

    edited = relocate_elf(data, LONGER)
    moved = edited.apply(data)

    assert edited.findings == ()
    assert edited.unread == 2
    assert load(moved).texts(elf.RUNPATH) == [b"/srv/much/longer/lib"]
    assert DEBUG in moved
    assert list(remaining_in_elf(moved, LONGER)) == []


@each_class
def test_objects_in_archives_do_so_too(bits: int, order: str) -> None:
    data = archive(object_file(bits, order), object_file(bits, order, unloaded=b"\0GCC 12\0"))

    edited = relocate_archive(data, LONGER)

    assert (edited.patches, edited.findings, edited.unread) == ((), (), 2)
    assert list(remaining_in_archive(data, LONGER)) == []


@each_class
def test_where_it_fits_it_changes(bits: int, order: str) -> None:
    data = object_file(bits, order)

    edited = relocate_elf(data, SHORTER)

    assert edited.unread == 0
    assert edited.apply(data) == data.replace(b"/opt/old", b"/n".rjust(8, b"/"))


@each_class
def test_a_constant_of_the_same_file_still_stops(bits: int, order: str) -> None:
    constant = b"\0/opt/old/share/data\0"
    program = ElfFile(bits, order, constants=constant, unloaded=DEBUG).build()

    for edited in (
        relocate_elf(program, LONGER),
        relocate_elf(object_file(bits, order, loaded=constant), LONGER),
        relocate_archive(archive(object_file(bits, order, loaded=constant)), LONGER),
    ):
        (finding,) = edited.stale
        assert finding.string == b"/opt/old/share/data"
        assert edited.unread == 2


def test_what_a_program_carries_behind_its_sections_is_read() -> None:
    """Self-extracting programs read their own file."""
    data = ElfFile(unloaded=DEBUG).build() + b"payload /opt/old/share/x\0"

    assert [finding.string for finding in relocate_elf(data, LONGER).stale][-1].endswith(b"payload /opt/old/share/x")


def test_a_section_without_an_address_inside_of_a_segment_is_read() -> None:
    data = bytearray(ElfFile(constants=b"\0/opt/old/share/data\0").build())
    place = data.index(b"/opt/old")
    last = len(data) - 64  # the section that is not loaded comes last
    struct.pack_into("<QQ", data, last + 24, place, len(b"/opt/old/share/data\0"))

    assert unread_spans(bytes(data)) == []
    assert len(relocate_elf(bytes(data), LONGER).stale) == 1


@pytest.mark.parametrize("size", [0, 3, 15, 16, 40, 63])
def test_headers_that_are_cut_short_name_nothing(size: int) -> None:
    assert unread_spans(object_file(64, "<")[:size]) == []


def test_the_report_counts_what_was_left(tmp_path: Path) -> None:
    (tmp_path / "x.o").write_bytes(object_file(64, "<"))
    (tmp_path / "libx.a").write_bytes(archive(object_file(64, "<")))

    report = relocate_tree(str(tmp_path), LONGER, binaries=["x.o"])

    assert report.stale == ()
    assert [remark.path for remark in report.reported] == ["libx.a", "x.o"]
    assert all("2 strings in it keep the old path" in remark.reason for remark in report.reported)


def test_a_constant_stops_the_tree_whatever_else_is_left(tmp_path: Path) -> None:
    (tmp_path / "x.o").write_bytes(object_file(64, "<", loaded=b"\0/opt/old/share/data\0"))

    with pytest.raises(RelocationError, match="share/data"):
        relocate_tree(str(tmp_path), LONGER, binaries=["x.o"])
