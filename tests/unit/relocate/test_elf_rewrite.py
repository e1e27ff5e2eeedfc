"""Where the segment of a file that grows finds its program header, its place in the file and its address."""

from __future__ import annotations

import pytest

from oci_binpkg.errors import ContentError
from oci_binpkg.relocate.elf import relocate_elf
from oci_binpkg.relocate.prefixes import PrefixMap
from tests.support import elf_files as elf
from tests.support.elf_files import ElfFile, load

OLD, NEW = b"/opt/old", b"/srv/much/longer"
MOVED = PrefixMap.of({OLD.decode(): NEW.decode()})
MIB = 1 << 20


def grown(**more: object) -> tuple[bytes, bytes]:
    given = {"interpreter": OLD + b"/ld.so", "names": [(elf.RUNPATH, OLD + b"/lib")]} | more
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
