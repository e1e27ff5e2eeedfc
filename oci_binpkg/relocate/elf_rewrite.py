"""A longer string table or interpreter for an ELF file: one more segment at the end of it, as `patchelf` does. Pure.

The segment (`PT_LOAD`, read-only) holds the new dynamic string table, the new interpreter and, if it has to move, the
table of program headers. Everything else stays at its address. The segment needs a program header; in this order:

1. an unused one (`PT_NULL`);
2. a `PT_NOTE` that covers the same bytes as `PT_GNU_PROPERTY`, which is what loaders read;
3. a new one: the table moves to the new segment. The kernel before 5.18 finds the table, for the program, by adding
   its offset in the file to where the first segment begins, so offset and address of the new segment keep the distance
   of the first one. Behind very large uninitialised data that means a hole in the file;
4. where that hole would be too large, any other `PT_NOTE`: the running program then does not show its build id.

Section headers only record where their content went; tools that read section headers see the same as the loader.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from oci_binpkg.errors import ContentError
from oci_binpkg.relocate.edits import Edited, Patch
from oci_binpkg.relocate.elf_image import DynamicEntry, ElfImage

_SMALLEST_PAGE: Final = 4096
_LARGEST_PAGE: Final = 65536
_LARGEST_HOLE: Final = 16 * 1024 * 1024
_LARGEST_HOLE_AT_ALL: Final = 2**32
_TOO_MANY: Final = 0xFFFF  # PN_XNUM: from here on the number stands elsewhere
_READ: Final = 4


@dataclass(frozen=True, slots=True)
class Growth:
    """What has to be found a new place: the string table with the new offsets of entries, interpreters by segment."""

    table: bytes | None
    names: Mapping[DynamicEntry, int]
    interpreters: Mapping[int, bytes]


@dataclass(frozen=True, slots=True)
class _Room:
    """Where the new segment goes, and the index of the program header that becomes its own, None for a new one."""

    offset: int
    address: int
    alignment: int
    reused: int | None


def grow(image: ElfImage, growth: Growth) -> Edited:
    """Return the edits that add the segment. Raises `ContentError` where a file has no room for it."""
    room = _find_room(image)
    content = _Content(room)
    segments = [copy.copy(segment) for segment in image.segments]
    if room.reused is None:
        content.add(bytes((len(segments) + 1) * image.structs.Elf_Phdr.sizeof()), 8)
    patches = _move_table(image, growth, content)
    for number, path in growth.interpreters.items():
        patches += _move_interpreter(image, segments[number], path + b"\0", content)
    patches += _place_headers(image, segments, room, content)
    return Edited((*patches, Patch(room.offset, bytes(content.data))))


class _Content:
    """The bytes of the new segment."""

    def __init__(self, room: _Room) -> None:
        self.room = room
        self.data = bytearray()

    def add(self, data: bytes, alignment: int = 1) -> tuple[int, int]:
        """Append bytes and return their offset in the file and their address."""
        self.data.extend(bytes(-len(self.data) % alignment))
        at = len(self.data)
        self.data += data
        return self.room.offset + at, self.room.address + at


def _move_table(image: ElfImage, growth: Growth, content: _Content) -> list[Patch]:
    """Copy the string table, wipe the old one, and update the dynamic section and the section headers."""
    old, table = image.strings, growth.table
    if old is None or table is None:
        return []
    offset, address = content.add(table, 8)
    patches = [Patch(old.offset, bytes(old.size))]
    changes = {"DT_STRTAB": address, "DT_STRSZ": len(table)}
    for entry in image.dynamic:
        value = growth.names.get(entry, changes.get(str(entry.tag)))
        if value is not None:
            patches.append(_value(image, entry, value))
    for number, section in enumerate(image.sections):
        if section.sh_type == "SHT_STRTAB" and section.sh_addr == old.address:
            patches.append(_section(image, number, (offset, address), len(table)))
    return patches


def _move_interpreter(image: ElfImage, segment: Any, path: bytes, content: _Content) -> list[Patch]:
    start, address, size = segment.p_offset, segment.p_vaddr, segment.p_filesz
    segment.p_offset, segment.p_vaddr = content.add(path)
    segment.p_paddr = segment.p_vaddr
    segment.p_filesz = segment.p_memsz = len(path)
    patches = [Patch(start, bytes(size))]
    for number, section in enumerate(image.sections):
        if section.sh_type == "SHT_PROGBITS" and section.sh_offset == start and section.sh_addr == address:
            patches.append(_section(image, number, (segment.p_offset, segment.p_vaddr), len(path)))
    return patches


def _place_headers(image: ElfImage, segments: list[Any], room: _Room, content: _Content) -> list[Patch]:
    """Write the program headers, the new one behind the other loaded segments: these must stand in order of address."""
    kind = image.structs.Elf_Phdr
    header = copy.copy(image.elf.header)
    new = copy.copy(segments[0])
    new.p_type, new.p_flags, new.p_align = "PT_LOAD", _READ, room.alignment
    new.p_offset, new.p_vaddr, new.p_paddr = room.offset, room.address, room.address
    new.p_filesz = new.p_memsz = len(content.data)
    if room.reused is not None:
        del segments[room.reused]
    last = max(n for n, segment in enumerate(segments) if segment.p_type == "PT_LOAD")
    segments.insert(last + 1, new)
    if room.reused is not None:
        return [Patch(header.e_phoff, b"".join(map(kind.build, segments)))]
    for segment in segments:
        if segment.p_type == "PT_PHDR":
            segment.p_offset, segment.p_vaddr, segment.p_paddr = room.offset, room.address, room.address
            segment.p_filesz = segment.p_memsz = len(segments) * kind.sizeof()
    table = b"".join(map(kind.build, segments))
    content.data[: len(table)] = table
    header.e_phoff, header.e_phnum = room.offset, len(segments)
    return [Patch(0, image.structs.Elf_Ehdr.build(header))]


def _find_room(image: ElfImage) -> _Room:
    loads = image.loads
    if not loads:
        raise ContentError("no loadable segment, and a longer interpreter or search path needs one")
    pages = [load.p_align for load in loads if load.p_align <= _LARGEST_PAGE and load.p_align.bit_count() == 1]
    page = max([_SMALLEST_PAGE, *pages])
    first = loads[0]
    base = first.p_vaddr - first.p_offset
    offset = _round_up(len(image.data), page)
    address = _round_up(max(load.p_vaddr + load.p_memsz for load in loads), page)
    beside = base % page == 0
    level = max(offset, address - base)
    hole = level - offset
    reused = _spare_header(image, all_notes=not beside or hole > _LARGEST_HOLE)
    if beside and (hole <= _LARGEST_HOLE or (reused is None and hole <= _LARGEST_HOLE_AT_ALL)):
        offset, address = level, level + base
    elif reused is None:
        raise ContentError("no program header can be added for a longer interpreter or search path")
    else:
        # the address alone has to agree with the offset, up to a page
        address = _round_up(address, page)
    if reused is None and len(image.segments) + 1 >= _TOO_MANY:
        raise ContentError(f"{len(image.segments)} program headers leave no room for another one")
    if image.elf.elfclass == 32 and address + len(image.data) >= 2**32:  # noqa: PLR2004 - ELFCLASS32
        raise ContentError("no addresses are left for a longer interpreter or search path")
    return _Room(offset, address, page, reused)


def _spare_header(image: ElfImage, *, all_notes: bool) -> int | None:
    properties = {(s.p_offset, s.p_filesz) for s in image.segments if s.p_type == "PT_GNU_PROPERTY"}
    for wanted in ("PT_NULL", "twin", "PT_NOTE" if all_notes else ""):
        for number, segment in enumerate(image.segments):
            twin = segment.p_type == "PT_NOTE" and (segment.p_offset, segment.p_filesz) in properties
            if segment.p_type == wanted or (wanted == "twin" and twin):
                return number
    return None


def _round_up(value: int, unit: int) -> int:
    return value + -value % unit


def _value(image: ElfImage, entry: DynamicEntry, value: int) -> Patch:
    """Return the edit of a dynamic entry, whose second half is its value."""
    size = image.structs.Elf_Dyn.sizeof() // 2
    return Patch(entry.offset + size, value.to_bytes(size, "little" if image.elf.little_endian else "big"))


def _section(image: ElfImage, number: int, place: tuple[int, int], size: int) -> Patch:
    kind = image.structs.Elf_Shdr
    changed = copy.copy(image.sections[number])
    (changed.sh_offset, changed.sh_addr), changed.sh_size = place, size
    return Patch(image.elf["e_shoff"] + number * kind.sizeof(), kind.build(changed))
