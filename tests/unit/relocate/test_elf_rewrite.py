"""Where the segment of a file that grows finds its program header, its place in the file and its address."""

from __future__ import annotations

import struct

import pytest

from oci_binpkg.errors import ContentError
from oci_binpkg.relocate.elf import relocate_elf
from oci_binpkg.relocate.prefixes import PrefixMap
from tests.support import elf_files as elf
from tests.support.elf_files import ElfFile, load

OLD, NEW = b"/opt/old", b"/srv/much/longer"
MOVED = PrefixMap.of({OLD.decode(): NEW.decode()})
MIB = 1 << 20
SYMBOLS = 11


def grown(**more: object) -> tuple[bytes, bytes]:
    given = {"interpreter": OLD + b"/ld.so", "names": [(elf.RUNPATH, OLD + b"/lib")], "fixed": b"code"} | more
    data = ElfFile(**given).build()  # type: ignore[arg-type]
    moved = relocate_elf(data, MOVED).apply(data)
    assert load(moved).texts(elf.RUNPATH) == [NEW + b"/lib"]
    assert load(moved).interpreter == NEW + b"/ld.so"
    return data, moved


def kinds(data: bytes) -> list[int]:
    return [kind for kind, *_ in load(data).segments]


def new_segment(data: bytes) -> tuple[int, int]:
    offset, address, _ = [rest for kind, *rest in load(data).segments if kind == elf.PT_LOAD][-1]
    return offset, address


def test_an_unused_header_is_taken_first() -> None:
    data, moved = grown(spare=[elf.PT_NOTE, elf.PT_GNU_PROPERTY, elf.PT_NULL])

    assert sorted([*kinds(data), elf.PT_LOAD]) == sorted([*kinds(moved), elf.PT_NULL])
    assert len(kinds(data)) == len(kinds(moved))


def test_a_note_that_is_said_twice_is_taken() -> None:
    data, moved = grown(spare=[elf.PT_NOTE, elf.PT_GNU_PROPERTY])

    assert len(kinds(data)) == len(kinds(moved))
    assert elf.PT_NOTE not in kinds(moved)
    assert elf.PT_GNU_PROPERTY in kinds(moved)


@pytest.mark.parametrize("base", [0, 0x400000])
@pytest.mark.parametrize("bss", [0, 5 * MIB])
def test_a_moved_table_keeps_the_distance_of_offset_and_address(base: int, bss: int) -> None:
    """Linux before 5.18 tells a program that its headers are at the first segment's address plus their offset."""
    data, moved = grown(base=base, bss=bss, spare=[elf.PT_NOTE])

    offset, address = new_segment(moved)
    assert len(kinds(moved)) == len(kinds(data)) + 1
    assert elf.PT_NOTE in kinds(moved)
    assert address - offset == base
    assert address >= base + len(data) + bss - 4096
    assert offset % 4096 == 0


def test_behind_a_large_gap_a_note_is_given_up() -> None:
    data, moved = grown(bss=100 * MIB, spare=[elf.PT_NOTE])

    assert elf.PT_NOTE not in kinds(moved)
    assert len(moved) < len(data) + 8192


def test_a_gap_becomes_a_hole_if_there_is_no_note() -> None:
    edits = relocate_elf(ElfFile(names=[(elf.RUNPATH, OLD)], bss=100 * MIB).build(), MOVED)

    assert max(patch.offset for patch in edits.patches) >= 100 * MIB
    assert sum(len(patch.data) for patch in edits.patches) < 8192


def test_large_pages_are_respected() -> None:
    _, moved = grown(page=65536)

    assert [value % 65536 for value in new_segment(moved)] == [0, 0]


def test_a_base_between_pages_needs_a_header_to_reuse() -> None:
    with pytest.raises(ContentError, match="no program header can be added"):
        grown(base=0x1234)
    _, moved = grown(base=0x1234, spare=[elf.PT_NOTE])
    offset, address = new_segment(moved)
    assert (offset % 4096, address % 4096) == (0, 0)


def test_no_addresses_are_left() -> None:
    with pytest.raises(ContentError, match="no addresses are left"):
        grown(bits=32, base=0xFFFFE000, bss=4096)


def test_the_gap_may_be_too_large_for_any_file() -> None:
    with pytest.raises(ContentError, match="no program header can be added"):
        grown(bss=1 << 40)


def test_odd_alignments_count_for_nothing() -> None:
    _, moved = grown(page=5000)

    assert [value % 4096 for value in new_segment(moved)] == [0, 0]


@pytest.mark.parametrize(("bits", "order"), [(64, "<"), (64, ">"), (32, "<"), (32, ">")])
@pytest.mark.parametrize("bss", [0, 100 * MIB])
@pytest.mark.parametrize("spare", [[elf.PT_NOTE], [elf.PT_NOTE, elf.PT_NOTE]])
def test_the_table_grows_where_it_is_if_what_follows_it_can_move(
    bits: int, order: str, bss: int, spare: list[int]
) -> None:
    """As `strip` and others expect it: the table behind the file's header, each section in a segment."""
    data, moved = grown(bits=bits, order=order, bss=bss, spare=spare, fixed=b"", note=b"build id")

    assert header_of(moved)[:-1] == header_of(data)[:-1]
    assert header_of(moved)[-1] == header_of(data)[-1] + 1
    assert len(moved) < len(data) + 3 * 4096
    assert notes(moved) == notes(data)
    assert load(moved).symbols == load(data).symbols
    assert [content for kind, _, content in load(moved).sections if kind == SYMBOLS] == [
        content for kind, _, content in load(data).sections if kind == SYMBOLS
    ]
    assert OLD not in moved


@pytest.mark.parametrize(("bits", "order"), [(64, "<"), (64, ">"), (32, "<"), (32, ">")])
@pytest.mark.parametrize("spare", [[elf.PT_NOTE], [elf.PT_NOTE, elf.PT_GNU_PROPERTY]])
def test_there_is_room_for_the_headers_of_the_next_tool(bits: int, order: str, spare: list[int]) -> None:
    """`patchelf` writes one more header, and one for each note; it does not see what stands in their way."""
    _, moved = grown(bits=bits, order=order, spare=spare, fixed=b"", note=b"build id" * 8)

    at, count = header_of(moved)
    size = 56 if bits == 64 else 32
    room = at + count * size, at + (count + spare.count(elf.PT_NOTE) + 1) * size
    assert not any(moved[slice(*room)])
    placed = [(offset, offset + len(content)) for _, offset, content in load(moved).sections if content]
    placed += [(offset, offset + length) for kind, offset, _, length in load(moved).segments if kind != elf.PT_LOAD]
    assert [span for span in placed if span[0] < room[1] and span[1] > room[0]] == []


@pytest.mark.parametrize("spare", [[], [elf.PT_NOTE], [elf.PT_NOTE, elf.PT_GNU_PROPERTY]])
def test_bytes_that_no_section_tells_of_are_somebodys_and_stay(spare: list[int]) -> None:
    data, moved = grown(spare=spare, fixed=b"", note=b"build id", sections=False)

    assert load(moved).symbols == load(data).symbols
    assert notes(moved) == (notes(data) if elf.PT_GNU_PROPERTY not in spare else [])


def test_a_prefix_in_what_moves_is_changed_in_its_new_place() -> None:
    note = b"\0" + b"/" * 12 + OLD + b"/share/greeting\0"
    _, moved = grown(spare=[elf.PT_NOTE], fixed=b"", note=note, interpreter=NEW + b"/ld.so")

    assert OLD not in moved
    assert notes(moved)[0].endswith(b"//" + NEW + b"/share/greeting\0")


def notes(data: bytes) -> list[bytes]:
    return [data[offset : offset + size] for kind, offset, _, size in load(data).segments if kind == elf.PT_NOTE]


def header_of(data: bytes) -> tuple[int, int]:
    """Where the program headers are, and how many."""
    wide, order = data[4] == 2, "<" if data[5] == 1 else ">"
    at, count = (32, 56) if wide else (28, 44)
    return (
        struct.unpack_from(f"{order}{'Q' if wide else 'I'}", data, at)[0],
        struct.unpack_from(f"{order}H", data, count)[0],
    )
