"""Room for more program headers where the table of them stands: what follows it moves away. Pure.

Tools that write ELF files anew (`strip`, `objcopy` of GNU) expect the table right behind the file's header. What
linkers put behind the table is the name of the interpreter, notes and the tables of dynamic symbols, which are found
by program headers and the dynamic section alone: they may stand anywhere in memory.

`patchelf` expects the table there as well, and writes its own headers behind it. It looks for what stands in their way
among the first sections alone, and stops at one that stands far off, as those that have moved do. So more room is made
than one header takes, where that is possible.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from oci_binpkg.relocate.elf_image import ElfImage

POINTERS: Final = frozenset(
    {"DT_HASH", "DT_GNU_HASH", "DT_SYMTAB", "DT_STRTAB", "DT_VERSYM", "DT_VERNEED", "DT_VERDEF"}
)
"""The dynamic entries that hold the address of something that may move."""

_MOVABLE: Final = frozenset(
    {
        "SHT_NOTE",
        "SHT_HASH",
        "SHT_GNU_HASH",
        "SHT_DYNSYM",
        "SHT_STRTAB",
        "SHT_GNU_versym",
        "SHT_GNU_verneed",
        "SHT_GNU_verdef",
    }
)
_FOUND_BY_HEADER: Final = frozenset({"PT_INTERP", "PT_NOTE", "PT_GNU_PROPERTY"})
_ALLOCATED: Final = 2
_LATER_EDITS: Final = (4, 1)
"""How many headers later tools can add: `patchelf` takes one each time, and may give each note one of its own."""
_LARGEST_BLOCK: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Vacated:
    """The bytes from `start` to before `end` are given up; those from `first` on move to another place.

    `first` is where the first part that moves begins, `address` its address, `section` the least index of a section.
    """

    start: int
    end: int
    first: int
    address: int
    section: int

    def holds(self, offset: int) -> bool:
        """Return whether what stands at an offset in the file moves."""
        return self.first <= offset < self.end

    def holds_address(self, address: int) -> bool:
        """Return whether what stands at an address moves."""
        return self.address <= address < self.address + self.end - self.first


def vacate_amply(image: ElfImage, without: frozenset[int]) -> Vacated | None:
    """Return what moves away for one more program header and for those of later tools, None if that is impossible."""
    notes = sum(segment.p_type == "PT_NOTE" for segment in image.segments)
    found = (vacate(image, without, 1 + notes + edits) for edits in _LATER_EDITS)
    return next(filter(None, found), None)


def vacate(image: ElfImage, without: frozenset[int], headers: int = 1) -> Vacated | None:
    """Return what moves away for so many more program headers, None if that is impossible.

    `without` are the file offsets of interpreters that get another place anyway.
    """
    load, table = image.loads[0], image.elf.header.e_phoff
    base = load.p_vaddr - load.p_offset
    size = image.structs.Elf_Phdr.sizeof()
    start = table + len(image.segments) * size
    parts = _between(image, start, start + headers * size)
    if parts is None or any(part.address - part.offset != base for part in parts):
        return None
    end = max((part.end for part in parts), default=start + headers * size)
    if not load.p_offset <= table < end <= load.p_offset + load.p_filesz:
        return None
    inside = [part for part in parts if part.offset not in without]
    if not inside:
        return Vacated(start, end, end, end + base, len(image.sections))
    first = min(part.offset for part in inside)
    if any(first % max(1, part.alignment) for part in inside):
        return None
    number = min(part.section for part in inside)
    return Vacated(start, end, first, first + base, number)


@dataclass(frozen=True, slots=True)
class _Part:
    """A section or a segment in the file; `section` is its index, or the number of sections for a segment."""

    offset: int
    end: int
    address: int
    alignment: int
    section: int
    may_move: bool


def _between(image: ElfImage, start: int, end: int) -> list[_Part] | None:
    """Return all that must move so that the bytes from `start` to `end` become free, None if some of it may not."""
    known = [*_sections(image), *_segments(image)]
    while True:
        found = [part for part in known if part.offset < end and part.end > start]
        if any(part.offset < start or not part.may_move for part in found):
            return None
        last = max((part.end for part in found), default=end)
        if last - start > _LARGEST_BLOCK:
            return None
        if last <= end:
            return found if _is_empty_between(image, start, end, found) else None
        end = last


def _sections(image: ElfImage) -> Iterator[_Part]:
    interpreters = {(image.segments[n].p_offset, image.segments[n].p_filesz) for n in image.interpreters}
    for n, section in enumerate(image.sections):
        if section.sh_flags & _ALLOCATED and section.sh_type not in {"SHT_NOBITS", "SHT_NULL"} and section.sh_size:
            at, size = section.sh_offset, section.sh_size
            may_move = section.sh_type in _MOVABLE or (at, size) in interpreters
            yield _Part(at, at + size, section.sh_addr, section.sh_addralign, n, may_move)


def _segments(image: ElfImage) -> Iterator[_Part]:
    for segment in image.segments:
        if segment.p_type not in {"PT_LOAD", "PT_PHDR"} and segment.p_filesz:
            at, may_move = segment.p_offset, segment.p_type in _FOUND_BY_HEADER
            end = at + segment.p_filesz
            yield _Part(at, end, segment.p_vaddr, segment.p_align, len(image.sections), may_move)


def _is_empty_between(image: ElfImage, start: int, end: int, parts: list[_Part]) -> bool:
    """Return whether only padding stands between the parts: other bytes are somebody's."""
    at = start
    for begin, stop in [*sorted((part.offset, part.end) for part in parts), (end, end)]:
        if any(image.data[at : max(at, begin)]):
            return False
        at = max(at, stop)
    return True
