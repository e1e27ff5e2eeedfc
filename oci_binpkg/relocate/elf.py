"""ELF files: old prefix -> new prefix, as edits of the file. Pure; only the given bytes are read.

The interpreter and the search paths are rewritten entry by entry, in place where the new text fits into the room of the
old one: that is the old string, and the NULs behind it. Whether another string in the dynamic string table shares bytes
with it is known exactly, because the file says which strings its symbols and versions use. What does not fit, or is
shared, moves into a segment of its own. All other constants are changed in place (`strings`).

A longer string table or interpreter takes one more segment at the end of the file, as with `patchelf`. This segment
(`PT_LOAD`, read-only) holds the new dynamic string table, the new interpreter and, if it has to move, the table of
program headers. Everything else stays at its address. The segment needs a program header; in this order:

1. an unused one (`PT_NULL`);
2. a `PT_NOTE` that covers the same bytes as `PT_GNU_PROPERTY`, which is what loaders read;
3. a new one behind the others, where interpreter, notes or tables of symbols stand that can move (`elf_vacate`);
4. a new one: the table moves to the new segment. The kernel before 5.18 finds the table, for the program, by adding
   its offset in the file to where the first segment begins, so offset and address of the new segment keep the distance
   of the first one. Behind very large uninitialised data that means a hole in the file;
5. where that hole would be too large, any other `PT_NOTE`: the running program then does not show its build id.

Section headers only record where their content went; tools that read section headers see the same as the loader.
"""

from __future__ import annotations

import copy
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from oci_binpkg.errors import ContentError
from oci_binpkg.relocate.edits import Edited, Patch, merged
from oci_binpkg.relocate.elf_image import PATH_LISTS, DynamicEntry, ElfImage, Name, StringTable, VersionName, read_elf
from oci_binpkg.relocate.elf_vacate import POINTERS, Vacated, vacate
from oci_binpkg.relocate.origins import ELF_TOKENS, FileOrigin, mover
from oci_binpkg.relocate.prefixes import Buffer, PrefixMap
from oci_binpkg.relocate.strings import Span, is_left, relocate_strings, remaining
from oci_binpkg.relocate.unread import joined, relocate_unread, unread_spans

Move = Callable[[bytes], bytes]

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
    return replace(others, patches=(*patches, Patch(room.offset, bytes(content.data))))


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
            patches.append(_word(image, name.offset, value))
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
    reused = _spare_header(image, all_notes=False)
    vacated = vacate(image, moving) if reused is None else None
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


def _word(image: ElfImage, at: int, value: int) -> Patch:
    return Patch(at, value.to_bytes(4, "little" if image.elf.little_endian else "big"))


def _hashes(image: ElfImage, moved: Sequence[tuple[Name, bytes, bytes]]) -> list[Patch]:
    """Return the new hashes of symbol versions whose name changes."""
    return [
        _word(image, name.hash_at, _elf_hash(new))
        for name, _, new in moved
        if isinstance(name, VersionName) and name.hash_at is not None
    ]


def _elf_hash(name: bytes) -> int:
    """Return the hash of the gABI, chapter 5, which symbol versions use too."""
    value = 0
    for character in name:
        value = (value << 4) + character
        high = value & 0xF0000000
        value = (value ^ high >> 24) & ~high & 0xFFFFFFFF
    return value


def _section(image: ElfImage, number: int, place: tuple[int, int], size: int) -> Patch:
    kind = image.structs.Elf_Shdr
    changed = copy.copy(image.sections[number])
    (changed.sh_offset, changed.sh_addr), changed.sh_size = place, size
    return Patch(image.elf["e_shoff"] + number * kind.sizeof(), kind.build(changed))


_MOST_COMPARED: Final = 16 * 1024 * 1024


def relocate_elf(data: Buffer, mapping: PrefixMap, origin: FileOrigin | None = None) -> Edited:
    """Return the edits that move an ELF file of any class, byte order and type.

    Only a longer interpreter, search path, name or needed library makes the file longer, by one segment at its end.
    `origin` is the place of the file: with it, paths that begin with `$ORIGIN` are changed too.

    Constants that cannot be changed in place are findings; what no program reads is only counted. Raises
    `ContentError` for files that cannot be read.
    """
    image = read_elf(data)
    names = _relocate_names(image, mover(mapping, origin, ELF_TOKENS))
    interpreters = _relocate_interpreters(image, mapping)
    spans = unread_spans(data)
    unread = relocate_unread(data, mapping, spans)
    claimed = joined([*_claimed(image), *spans])
    if not names.grown and not interpreters.grown:
        others = relocate_strings(data, mapping, skip=claimed)
        return merged([names.in_place(), interpreters.in_place(), others, unread])
    if names.grown:
        constants = names.relocate_constants(mapping, claimed)
        claimed = joined([*claimed, names.span])
        growth = Growth(bytes(names.table), names.grown, interpreters.grown)
    else:
        constants = names.in_place()
        growth = Growth(None, {}, interpreters.grown)
    others = relocate_strings(data, mapping, skip=claimed)
    return grow(image, growth, merged([interpreters.in_place(), constants, others, unread]))


def remaining_in_elf(data: Buffer, mapping: PrefixMap) -> Iterator[int]:
    """Yield where old prefixes are left in a relocated file. Raises `ContentError` as `relocate_elf` does."""
    image = read_elf(data)
    for entry, old in image.names():
        paths = old.split(b":") if entry.tag in PATH_LISTS else [old]
        if any(_is_left(path, mapping) for path in paths):
            yield entry.offset
    for segment in (image.segments[n] for n in image.interpreters):
        if _is_left(_interpreter(image, segment), mapping):
            yield segment.p_offset
    yield from remaining(data, mapping, skip=joined([*_claimed(image), *unread_spans(data)]))


def _is_left(path: bytes, mapping: PrefixMap) -> bool:
    return mapping.replace_path(path) != path and is_left(path, mapping)


@dataclass(slots=True)
class _Names:
    """The dynamic string table while it changes. `grown`: dynamic entries whose string went to the end of it."""

    image: ElfImage
    table: bytearray
    patches: list[Patch] = field(default_factory=list)
    hashes: list[Patch] = field(default_factory=list)
    grown: dict[Name, int] = field(default_factory=dict)

    @property
    def span(self) -> Span:
        """Where the table stands in the file."""
        found = self.image.strings
        return (found.offset, found.offset + found.size) if found else (0, 0)

    def in_place(self) -> Edited:
        return Edited((*self.patches, *self.hashes))

    def relocate_constants(self, mapping: PrefixMap, claimed: list[Span]) -> Edited:
        """Change strings in the table that no entry uses, such as those that `chrpath -d` leaves."""
        start, end = self.span
        edited = relocate_strings(self.image.data, mapping, start=start, end=end, skip=claimed)
        for patch in edited.patches:
            self.table[patch.offset - start : patch.offset - start + len(patch.data)] = patch.data
        return Edited(tuple(self.hashes), edited.findings, edited.further)


@dataclass(slots=True)
class _Interpreters:
    """`grown`: index of the segment -> the new path, which does not fit."""

    patches: list[Patch] = field(default_factory=list)
    grown: dict[int, bytes] = field(default_factory=dict)

    def in_place(self) -> Edited:
        return Edited(tuple(self.patches))


def _relocated(tag: str | int, text: bytes, move: Move) -> bytes:
    if tag in PATH_LISTS:
        return b":".join(move(path) for path in text.split(b":"))
    return move(text)


def _relocate_names(image: ElfImage, move: Move) -> _Names:
    table = image.strings
    named = image.names()
    moved = [(entry, old, _relocated(entry.tag, old, move)) for entry, old in named]
    moved = [(entry, old, new) for entry, old, new in moved if new != old]
    if table is None or not moved:
        return _Names(image, bytearray())
    names = _Names(image, bytearray(image.data[table.offset : table.offset + table.size]))
    names.hashes += _hashes(image, moved)
    used = _Used(image.symbol_names(), named, move)
    done: dict[tuple[int, bytes], int | None] = {}
    for entry, old, new in moved:
        key = (entry.value, new)
        if key not in done:
            fits = used.becomes_one(entry.value) and _fits(names.table, entry.value, old, new, used)
            done[key] = None if fits else _append(names, entry.value, old, new, used)
            if fits:
                _write(names, table, entry.value, new.ljust(len(old), b"\0"))
        place = done[key]
        if place is not None:
            names.grown[entry] = place
    return names


class _Used:
    """Who uses which string of the table: symbols, versions, and the entries that hold paths."""

    def __init__(self, symbols: frozenset[int], named: Sequence[tuple[Name, bytes]], move: Move) -> None:
        self._symbols = symbols
        self._places = sorted(symbols.union(entry.value for entry, _ in named))
        self._becoming: dict[int, set[bytes]] = {}
        for entry, text in named:
            self._becoming.setdefault(entry.value, set()).add(_relocated(entry.tag, text, move))

    def becomes_one(self, at: int) -> bool:
        """Return whether all entries that use the string at `at` get the same new string."""
        return len(self._becoming[at]) == 1

    def others(self, at: int, first: int, end: int) -> list[int]:
        """Return the places from `first` to before `end` that are used by others than the entries of `at`."""
        found = self._places[bisect_left(self._places, first) : bisect_left(self._places, end)]
        return [other for other in found if other != at or at in self._symbols]


def _fits(table: bytearray, at: int, old: bytes, new: bytes, used: _Used) -> bool:
    """Return whether the string at `at` can be replaced without any other string seeing it.

    With very many other users the answer is no: then the string goes elsewhere.
    """
    first = table.rfind(b"\0", 0, at) + 1
    end = at + len(old)
    # of the NULs behind it only those count that the new string needs
    while end < min(len(table), at + len(new) + 1) and not table[end]:
        end += 1
    if at + len(new) + 1 > end:
        return False
    before = bytes(table[first:end])
    after = before[: at - first] + new.ljust(len(old), b"\0") + before[at - first + max(len(old), len(new)) :]
    others = used.others(at, first, end)
    if len(others) * len(before) > _MOST_COMPARED:
        return False
    return all(_text(before, other - first) == _text(after, other - first) for other in others)


def _text(table: bytes, at: int) -> bytes:
    end = table.find(b"\0", at)
    return table[at : end if end >= 0 else len(table)]


def _append(names: _Names, at: int, old: bytes, new: bytes, used: _Used) -> int:
    """Put a string at the end of the table, and wipe the old one as far as it is not shared."""
    first = names.table.rfind(b"\0", 0, at) + 1
    if not used.others(at, first, at + 1):
        last = min(used.others(at, at + 1, at + len(old) + 1), default=at + len(old))
        names.table[at:last] = bytes(last - at)
    if names.table[-1]:
        names.table.append(0)
    place = len(names.table)
    names.table += new + b"\0"
    return place


def _write(names: _Names, table: StringTable, at: int, text: bytes) -> None:
    names.table[at : at + len(text)] = text
    names.patches.append(Patch(table.offset + at, text))


def _interpreter(image: ElfImage, segment: object) -> bytes:
    start, size = segment.p_offset, segment.p_filesz  # type: ignore[attr-defined]
    return bytes(image.data[start : start + size]).partition(b"\0")[0]


def _relocate_interpreters(image: ElfImage, mapping: PrefixMap) -> _Interpreters:
    found = _Interpreters()
    for number in image.interpreters:
        segment = image.segments[number]
        new = mapping.replace_path(old := _interpreter(image, segment))
        if new == old:
            continue
        if len(new) < segment.p_filesz:
            found.patches.append(Patch(segment.p_offset, new.ljust(segment.p_filesz, b"\0")))
        else:
            found.grown[number] = new
    return found


def _claimed(image: ElfImage) -> list[Span]:
    """Return the spans of the strings that are rewritten by entries, which the search for constants leaves alone."""
    table = image.strings
    spans = [
        (image.segments[n].p_offset, image.segments[n].p_offset + image.segments[n].p_filesz)
        for n in image.interpreters
    ]
    if table is not None:
        spans += [(table.offset + e.value, table.offset + e.value + len(text)) for e, text in image.names()]
    return joined(spans)
