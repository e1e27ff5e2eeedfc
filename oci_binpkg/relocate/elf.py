"""ELF files: old prefix -> new prefix, as edits of the file. Pure; only the given bytes are read.

The interpreter and the search paths are rewritten entry by entry, in place where the new text fits into the room of the
old one: that is the old string, and the NULs behind it. Whether another string in the dynamic string table shares bytes
with it is known exactly, because the file says which strings its symbols and versions use. What does not fit, or is
shared, moves into a segment of its own. All other constants are changed in place (`strings`).

A longer string table or interpreter takes one more segment (`elf_growth`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from oci_binpkg.relocate.boundaries import Buffer
from oci_binpkg.relocate.edits import Edited, Patch, merged
from oci_binpkg.relocate.elf_growth import Growth, grow, word
from oci_binpkg.relocate.elf_image import PATH_LISTS, ElfImage, Name, StringTable, VersionName, read_elf
from oci_binpkg.relocate.origins import ELF_TOKENS, FileOrigin, mover
from oci_binpkg.relocate.prefixes import PrefixMap
from oci_binpkg.relocate.strings import Span, is_left, relocate_strings, remaining
from oci_binpkg.relocate.unread import joined, relocate_unread, unread_spans

Move = Callable[[bytes], bytes]


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


def _hashes(image: ElfImage, moved: Sequence[tuple[Name, bytes, bytes]]) -> list[Patch]:
    """Return the new hashes of symbol versions whose name changes."""
    return [
        word(image, name.hash_at, _elf_hash(new))
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
