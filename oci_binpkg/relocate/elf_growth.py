"""One more segment for an ELF file, for a string table or an interpreter that became longer. Pure.

The segment (`PT_LOAD`, read-only) stands at the end of the file, as with `patchelf`. It holds the new dynamic string
table, the new interpreter, what made room for headers and, if it has to move, the table of program headers. Everything
else stays at its address. The segment needs a program header; in this order:

1. a new one behind the others, where interpreter, notes or tables of symbols stand that can move (`elf_vacate`), if
   these leave room for further ones too;
2. an unused one (`PT_NULL`), or a `PT_NOTE` that covers the same bytes as `PT_GNU_PROPERTY`, which loaders read;
3. a new one behind the others that leaves no room;
4. a new one: the table moves to the new segment. The kernel before 5.18 finds the table, for the program, by adding
   its offset in the file to where the first segment begins, so offset and address of the new segment keep the distance
   of the first one. Behind very large uninitialised data that means a hole in the file;
5. where that hole would be too large, any other `PT_NOTE`: the running program then does not show its build id.

Section headers only record where their content went; tools that read section headers see the same as the loader.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from oci_binpkg.errors import ContentError
from oci_binpkg.relocate.edits import Edited, Patch
from oci_binpkg.relocate.elf_image import DynamicEntry, ElfImage, Name, VersionName
from oci_binpkg.relocate.elf_vacate import POINTERS, Vacated, vacate, vacate_amply

_SMALLEST_PAGE: Final = 4096
_LARGEST_PAGE: Final = 65536
_LARGEST_HOLE: Final = 16 * 1024 * 1024
_LARGEST_HOLE_AT_ALL: Final = 2**32
_TOO_MANY: Final = 0xFFFF  # PN_XNUM: from here on the number stands elsewhere
_READ: Final = 4
_BLOCK_ALIGNMENT: Final = 16
_TABLE: Final = -1
_BLOCK: Final = -2


@dataclass(frozen=True, slots=True)
class Growth:
    """What needs a new place: the string table with the new offsets of entries, interpreters by segment."""

    table: bytes | None
    names: Mapping[Name, int]
    interpreters: Mapping[int, bytes]


@dataclass(frozen=True, slots=True)
class _Room:
    """Where the new segment goes, and the index of the program header that becomes its own, None for a new one."""

    offset: int
    address: int
    alignment: int
    reused: int | None
    vacated: Vacated | None = None


def grow(image: ElfImage, growth: Growth, others: Edited) -> Edited:
    """Return the edits that add the segment, together with `others`, the edits in place.

    Raises `ContentError` where a file has no room for the segment.
    """
    places = frozenset(image.segments[number].p_offset for number in growth.interpreters)
    room = _find_room(image, places)
    content = _Content(room)
    segments = [copy.copy(segment) for segment in image.segments]
    if room.reused is None and room.vacated is None:
        content.add(bytes((len(segments) + 1) * image.structs.Elf_Phdr.sizeof()), 8)
    patches = list(others.patches)
    steps = [(_section_of(image, image.segments[n].p_offset), n) for n in growth.interpreters]
    steps += [(_section_of(image, image.strings.offset), _TABLE)] if image.strings and growth.table else []
    steps += [(room.vacated.section, _BLOCK)] if room.vacated else []
    moved = _Moved()
    # writers of ELF files expect the sections of a segment in the order of their headers
    for _, step in sorted(steps):
        if step == _TABLE:
            patches += _move_table(image, growth, content, moved)
        elif step == _BLOCK and room.vacated:
            _move_block(image, segments, room.vacated, content, moved)
        else:
            path = growth.interpreters[step] + b"\0"
            patches += _move_interpreter(image, segments[step], path, content, moved)
    patches += [_value(image, entry, value) for entry, value in moved.entries.items()]
    patches += [_section(image, number, place, size) for number, (place, size) in moved.sections.items()]
    if room.vacated:
        patches = _into_block(room.vacated, patches, content, moved)
    patches += _place_headers(image, segments, room, content)
    patches.append(Patch(room.offset, bytes(content.data)))
    return replace(others, patches=(*patches, *_section_names(image, room.offset + len(content.data))))


def _section_names(image: ElfImage, end: int) -> list[Patch]:
    """Copy the names of the sections of a program at a fixed address behind the new segment.

    `patchelf` gives up where a section that it replaces, such as the string table, is the last one of the file.
    """
    number = image.elf.header.e_shstrndx
    if image.elf.header.e_type != "ET_EXEC" or not 0 < number < len(image.sections):
        return []
    section = image.sections[number]
    at, size = section.sh_offset, section.sh_size
    if section.sh_type != "SHT_STRTAB" or section.sh_addr or at + size > len(image.data):
        return []
    return [Patch(end, bytes(image.data[at : at + size])), _section(image, number, (end, 0), size)]


@dataclass(slots=True)
class _Moved:
    """What refers to something that moved: dynamic entries, section headers; and where the block begins."""

    entries: dict[DynamicEntry, int] = field(default_factory=dict)
    sections: dict[int, tuple[tuple[int, int], int]] = field(default_factory=dict)
    block: int = 0


def _section_of(image: ElfImage, offset: int) -> int:
    found = (n for n, s in enumerate(image.sections) if s.sh_offset == offset and s.sh_flags & 2 and s.sh_size)
    return next(found, len(image.sections))


def _move_block(image: ElfImage, segments: list[Any], vacated: Vacated, content: _Content, moved: _Moved) -> None:
    """Copy what stands behind the program headers, and note where all of it went."""
    offset, address = content.add(bytes(image.data[vacated.first : vacated.end]), _BLOCK_ALIGNMENT)
    moved.block = offset - content.room.offset
    by, by_address = offset - vacated.first, address - vacated.address
    for segment, old in zip(segments, image.segments, strict=True):
        stays = segment.p_type in {"PT_LOAD", "PT_PHDR"} or segment.p_offset != old.p_offset or not segment.p_filesz
        if vacated.holds(segment.p_offset) and not stays:
            segment.p_offset += by
            segment.p_vaddr += by_address
            segment.p_paddr += by_address
    for entry in image.dynamic:
        if entry.tag in POINTERS and vacated.holds_address(entry.value) and entry not in moved.entries:
            moved.entries[entry] = entry.value + by_address
    for number, section in enumerate(image.sections):
        if section.sh_flags & 2 and vacated.holds(section.sh_offset) and number not in moved.sections:
            place = section.sh_offset + by, section.sh_addr + by_address
            moved.sections[number] = place, section.sh_size


def _into_block(vacated: Vacated, patches: list[Patch], content: _Content, moved: _Moved) -> list[Patch]:
    """Make the edits of what moved in its new place, and wipe the old one; return the other edits."""
    kept = [Patch(vacated.start, bytes(vacated.end - vacated.start))]
    for patch in patches:
        if not vacated.start <= patch.offset < vacated.end:
            kept.append(patch)
        elif vacated.holds(patch.offset):
            at = moved.block + patch.offset - vacated.first
            content.data[at : at + len(patch.data)] = patch.data
    return kept


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


def _move_table(image: ElfImage, growth: Growth, content: _Content, moved: _Moved) -> list[Patch]:
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
            moved.entries[entry] = value
    for name, value in growth.names.items():
        if isinstance(name, VersionName):
            patches.append(word(image, name.offset, value))
    for number, section in enumerate(image.sections):
        if section.sh_type == "SHT_STRTAB" and section.sh_addr == old.address:
            moved.sections[number] = (offset, address), len(table)
    return patches


def _move_interpreter(image: ElfImage, segment: Any, path: bytes, content: _Content, moved: _Moved) -> list[Patch]:
    start, address, size = segment.p_offset, segment.p_vaddr, segment.p_filesz
    segment.p_offset, segment.p_vaddr = content.add(path)
    segment.p_paddr = segment.p_vaddr
    segment.p_filesz = segment.p_memsz = len(path)
    patches = [Patch(start, bytes(size))]
    for number, section in enumerate(image.sections):
        if section.sh_type == "SHT_PROGBITS" and section.sh_offset == start and section.sh_addr == address:
            moved.sections[number] = (segment.p_offset, segment.p_vaddr), len(path)
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
            if room.vacated is None:
                segment.p_offset, segment.p_vaddr, segment.p_paddr = room.offset, room.address, room.address
            segment.p_filesz = segment.p_memsz = len(segments) * kind.sizeof()
    table = b"".join(map(kind.build, segments))
    if room.vacated is not None:
        header.e_phnum = len(segments)
        return [Patch(0, image.structs.Elf_Ehdr.build(header)), Patch(header.e_phoff, table)]
    content.data[: len(table)] = table
    header.e_phoff, header.e_phnum = room.offset, len(segments)
    return [Patch(0, image.structs.Elf_Ehdr.build(header))]


def _find_room(image: ElfImage, moving: frozenset[int]) -> _Room:
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
    vacated = vacate_amply(image, moving)
    reused = _spare_header(image, all_notes=False) if vacated is None else None
    if reused is None and vacated is None:
        vacated = vacate(image, moving)
    if reused is None and vacated is None:
        reused = _spare_header(image, all_notes=not beside or hole > _LARGEST_HOLE)
    if vacated is not None:
        pass  # the table stays, so the segment may lie anywhere
    elif beside and (hole <= _LARGEST_HOLE or (reused is None and hole <= _LARGEST_HOLE_AT_ALL)):
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
    return _Room(offset, address, page, reused, vacated)


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


def word(image: ElfImage, at: int, value: int) -> Patch:
    """Return the edit of four bytes."""
    return Patch(at, value.to_bytes(4, "little" if image.elf.little_endian else "big"))


def _section(image: ElfImage, number: int, place: tuple[int, int], size: int) -> Patch:
    kind = image.structs.Elf_Shdr
    changed = copy.copy(image.sections[number])
    (changed.sh_offset, changed.sh_addr), changed.sh_size = place, size
    return Patch(image.elf["e_shoff"] + number * kind.sizeof(), kind.build(changed))
