"""What a loader reads of an ELF file: the interpreter, the libraries and symbol versions it needs and those it has.

This reader knows nothing else, because every file of an install is read: it is some twenty times as fast as one that
describes all structures. Nothing is believed: what leads out of the file is damage. System V gABI, chapters 4 and 5;
symbol versions: LSB 5.0, 10.7; properties: the x86-64 psABI, and its Linux extensions.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from oci_binpkg.errors import ContentError
from oci_binpkg.runs.machine import elf_architecture
from oci_binpkg.runs.view import ReadAt

MAGIC: Final = b"\x7fELF"

_LOAD, _DYNAMIC, _INTERP, _PROPERTY = 1, 2, 3, 0x6474E553
_NEEDED, _STRTAB, _STRSZ, _SONAME, _RPATH, _RUNPATH = 1, 5, 10, 14, 15, 29
_FLAGS_1, _VERDEF, _VERDEFNUM, _VERNEED, _VERNEEDNUM = 0x6FFFFFFB, 0x6FFFFFFC, 0x6FFFFFFD, 0x6FFFFFFE, 0x6FFFFFFF
_FILTER: Final = 0x7FFFFFFF
_NO_DEFAULT: Final = 0x800  # DF_1_NODEFLIB
_PIE: Final = 0x08000000  # DF_1_PIE
_WEAK: Final = 2  # VER_FLG_WEAK
_BASE: Final = 1  # VER_FLG_BASE: the name of the file itself, not of a version
_EXEC, _DYN = 2, 3
_NOBITS: Final = 8
_ISA_NEEDED: Final = 0xC0008002  # GNU_PROPERTY_X86_ISA_1_NEEDED
_PROPERTIES: Final = 5  # NT_GNU_PROPERTY_TYPE_0

_BLOCK: Final = 4096
_LONGEST_NAME: Final = 16 * 1024
_SMALL_TABLE: Final = 256 * 1024
"""Tables of names up to this many bytes are read at once; of larger ones only the names that are asked for."""
_LONGEST_NAMES: Final = 1024 * 1024
"""Bytes of all names of one file together; those of libLLVM, with thousands of versions, are a few ten thousand."""
_MOST_LOOKUPS: Final = 100_000
"""How many libraries times directories of its own one file may ask for; Spack's largest ask for some ten thousand."""
_MOST_HEADERS: Final = 20_000
_MOST_ENTRIES: Final = 20_000
_MOST_VERSIONS: Final = 20_000  # chains in a damaged file may run in circles


class ElfRole(StrEnum):
    """What a file is for. Object files, core files and files of debug information are `OTHER`: nothing loads them."""

    PROGRAM = "program"
    LIBRARY = "library"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class VersionNeed:
    """A symbol version that the library `file` has to define; a `weak` one may be absent."""

    file: str
    version: str
    weak: bool = False


@dataclass(frozen=True, slots=True)
class ElfFacts:
    """What one file asks of its loader. `architecture` is "" for processors that no system's programs run on.

    `runpath` is None without DT_RUNPATH, `rpath` empty if there is one, because loaders ignore it then. `level` is the
    level of x86-64 that the file asks for, 0 for none.
    """

    role: ElfRole
    architecture: str
    bits: int = 64
    interpreter: str = ""
    needed: tuple[str, ...] = ()
    soname: str = ""
    rpath: tuple[str, ...] = ()
    runpath: tuple[str, ...] | None = None
    no_default: bool = False
    versions_needed: tuple[VersionNeed, ...] = ()
    versions_defined: frozenset[str] = frozenset()
    level: int = 0


def read_facts(read: ReadAt, size: int) -> ElfFacts:
    """Read an ELF file of `size` bytes. Raises `ContentError` for one that is cut short or contradicts itself."""
    try:
        return _ElfReader(read, size).facts()
    except struct.error as error:
        raise ContentError(f"damaged ELF file: {error}") from None


class _ElfReader:
    """One file. Reads are kept in one block, so that neighbours cost one call."""

    def __init__(self, read: ReadAt, size: int) -> None:
        self.read, self.size = read, size
        self.block, self.start = b"", 0
        ident = self.bytes_at(0, 16, "the header")
        if ident[:4] != MAGIC or ident[4] not in {1, 2} or ident[5] not in {1, 2}:
            raise ContentError("damaged ELF file: the header is of no known class")
        self.wide, self.little = ident[4] == 2, ident[5] == 1  # noqa: PLR2004 - ELFCLASS64
        self.order = "<" if self.little else ">"
        self.loads: list[tuple[int, int, int]] = []
        self.strings = (0, 0)
        self.table = b""
        self.named = 0

    def facts(self) -> ElfFacts:
        """Return what the file says."""
        kind, machine, phoff, shoff, counts = self._header()
        bits = 64 if self.wide else 32
        architecture = elf_architecture(machine, bits, little_endian=self.little)
        if kind not in {_EXEC, _DYN}:
            return ElfFacts(ElfRole.OTHER, architecture, bits)
        hollow = self._hollow(shoff, counts[1])
        segments = list(self._segments(phoff, counts[0]))
        if any(kind == _DYNAMIC and address in hollow for kind, _, address, _ in segments):
            return ElfFacts(ElfRole.OTHER, architecture, bits)
        self.loads = [(offset, address, length) for kind, offset, address, length in segments if kind == _LOAD]
        for offset, _, length in self.loads:
            self._inside(offset, length, "a segment")
        interpreter, level, entries = "", 0, dict[int, list[int]]()
        for segment, offset, _, length in segments:
            if segment == _INTERP:
                interpreter = _text(self.bytes_at(offset, min(length, _BLOCK), "the interpreter"))
            elif segment == _PROPERTY:
                level = max(level, self._level(offset, length))
            elif segment == _DYNAMIC and not entries:
                entries = self._dynamic(offset, length)
        return self._with_dynamic(kind, architecture, interpreter, level, entries)

    def _with_dynamic(
        self, kind: int, architecture: str, interpreter: str, level: int, entries: dict[int, list[int]]
    ) -> ElfFacts:
        if entries.get(_STRTAB):
            self.strings = self._offset(entries[_STRTAB][0], "DT_STRTAB"), entries.get(_STRSZ, [0])[0]
            if self.strings[1] <= _SMALL_TABLE:
                self.table = self.bytes_at(*self.strings, "the dynamic string table")
        flags = entries.get(_FLAGS_1, [0])[0]
        soname = next(self._names(entries, _SONAME), "")
        is_program = kind == _EXEC or bool(flags & _PIE) or bool(interpreter)
        runpath = next(self._names(entries, _RUNPATH), None)
        rpath = next(self._names(entries, _RPATH), "") if runpath is None else ""
        paths = tuple(rpath.split(":")) if rpath else ()
        own = None if runpath is None else tuple(runpath.split(":"))
        needed = (*self._names(entries, _NEEDED), *self._names(entries, _FILTER))
        if len(needed) * len(own or paths) > _MOST_LOOKUPS:
            raise ContentError(f"damaged ELF file: {len(needed)} libraries in {len(own or paths)} directories")
        return ElfFacts(
            # libc.so.6 can be started, to print its version; it is a library all the same
            ElfRole.PROGRAM if is_program and not soname else ElfRole.LIBRARY,
            architecture,
            64 if self.wide else 32,
            interpreter,
            needed,
            soname,
            paths,
            own,
            bool(flags & _NO_DEFAULT),
            tuple(self._needed_versions(entries)),
            frozenset(self._defined_versions(entries)),
            level,
        )

    def bytes_at(self, offset: int, size: int, what: str) -> bytes:
        """Return bytes of the file. Raises `ContentError` where it ends before."""
        at = offset - self.start
        if at < 0 or at + size > len(self.block):
            self._inside(offset, size, what)
            self.block, self.start, at = self.read(offset, max(size, _BLOCK)), offset, 0
            if len(self.block) < size:
                raise ContentError(f"{what} is cut short: the file shrinks while it is read")
        return self.block[at : at + size]

    def numbers(self, layout: str, offset: int, what: str) -> tuple[int, ...]:
        """Return numbers of the file, in its byte order. Raises `ContentError`."""
        layout = self.order + layout
        return struct.unpack(layout, self.bytes_at(offset, struct.calcsize(layout), what))

    def _header(self) -> tuple[int, int, int, int, tuple[int, int]]:
        word = "Q" if self.wide else "I"
        values = self.numbers(f"HHI{word}{word}{word}I6H", 16, "the header")
        return values[0], values[1], values[4], values[5], (values[9], values[11])

    def _segments(self, offset: int, count: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield type, offset, address and size in the file of each segment."""
        record = struct.Struct(self.order + ("IIQQQQQQ" if self.wide else "8I"))
        table = self.bytes_at(offset, count * record.size, "the headers of the segments") if count else b""
        for values in record.iter_unpack(table):
            if self.wide:
                yield values[0], values[2], values[3], values[5]
            else:
                yield values[0], values[1], values[2], values[4]

    def _hollow(self, offset: int, count: int) -> frozenset[int]:
        """Return the addresses of sections without bytes: files of debug information keep the headers alone."""
        record = struct.Struct(self.order + ("II4QII2Q" if self.wide else "10I"))
        if not offset or not count or count > _MOST_HEADERS or offset + count * record.size > self.size:
            return frozenset()
        table = self.bytes_at(offset, count * record.size, "the headers of the sections")
        tls = 0x400
        return frozenset(
            values[3] for values in record.iter_unpack(table) if values[1] == _NOBITS and not values[2] & tls
        )

    def _dynamic(self, offset: int, size: int) -> dict[int, list[int]]:
        record = struct.Struct(self.order + ("qQ" if self.wide else "iI"))
        count = min(size // record.size, _MOST_ENTRIES)
        found: dict[int, list[int]] = {}
        for tag, value in record.iter_unpack(self.bytes_at(offset, count * record.size, "the dynamic section")):
            if not tag:
                break
            found.setdefault(tag & 0xFFFFFFFF, []).append(value)
        return found

    def _names(self, entries: dict[int, list[int]], tag: int) -> Iterator[str]:
        for value in entries.get(tag, ()):
            yield self._string(value)

    def _string(self, at: int) -> str:
        start, length = self.strings
        if not 0 <= at < length:
            raise ContentError(f"damaged ELF file: a name at {at}, outside the dynamic string table")
        if self.table:
            end = self.table.find(b"\0", at)
            name = self.table[at : max(at, end)]
        else:
            found = self.read(start + at, min(_LONGEST_NAME, length - at))
            end = found.find(b"\0")
            name = found[: max(0, end)]
        if end < 0:
            raise ContentError("damaged ELF file: a name in the dynamic string table does not end")
        self.named += len(name)
        if self.named > _LONGEST_NAMES:
            raise ContentError(f"damaged ELF file: more than {_LONGEST_NAMES} bytes of names")
        return os.fsdecode(name)

    def _needed_versions(self, entries: dict[int, list[int]]) -> Iterator[VersionNeed]:
        for at, (_, count, file, auxiliary, _) in self._chain(entries, _VERNEED, _VERNEEDNUM, "HHIII"):
            name = self._string(file)
            for _, (_, flags, _, version, _) in self._follow(at + auxiliary, "IHHII", count):
                yield VersionNeed(name, self._string(version), bool(flags & _WEAK))

    def _defined_versions(self, entries: dict[int, list[int]]) -> Iterator[str]:
        for at, (_, flags, _, _, _, auxiliary, _) in self._chain(entries, _VERDEF, _VERDEFNUM, "HHHHIII"):
            # the first name is the version's own, the others are those it follows
            for _, (name, _) in self._follow(at + auxiliary, "II", 0 if flags & _BASE else 1):
                yield self._string(name)

    def _chain(
        self, entries: dict[int, list[int]], tag: int, number: int, layout: str
    ) -> Iterator[tuple[int, tuple[int, ...]]]:
        if tag in entries and number in entries:
            yield from self._follow(self._offset(entries[tag][0], "DT_VER*"), layout, entries[number][0])

    def _follow(self, at: int, layout: str, count: int) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Yield the records of a chain, whose last member is the distance to the next one."""
        for _ in range(min(count, _MOST_VERSIONS)):
            values = self.numbers(layout, at, "the symbol versions")
            yield at, values
            if not values[-1]:
                return
            at += values[-1]

    def _level(self, offset: int, size: int) -> int:
        """Return the level of x86-64 that the file's properties ask for."""
        note = self.bytes_at(offset, size, "the properties") if size < _BLOCK else b""
        if len(note) < 16:  # noqa: PLR2004 - the note's own header
            return 0
        name_size, length, kind = struct.unpack_from(f"{self.order}3I", note)
        at, end, unit = 12 + name_size, 12 + name_size + length, 8 if self.wide else 4
        while kind == _PROPERTIES and at + 12 <= min(end, len(note)):
            kind_of, data_size, bits = struct.unpack_from(f"{self.order}3I", note, at)
            if kind_of == _ISA_NEEDED:
                return int(bits & 0xF).bit_length()
            at += 8 + data_size + -data_size % unit
        return 0

    def _offset(self, address: int, what: str) -> int:
        for offset, start, size in self.loads:
            if start <= address < start + size:
                return address - start + offset
        raise ContentError(f"damaged ELF file: {what} leads to address {address:#x}, which the file does not hold")

    def _inside(self, offset: int, size: int, what: str) -> None:
        if offset + size > self.size:
            raise ContentError(f"damaged ELF file: {what} would reach to byte {offset + size} of {self.size}")


def _text(data: bytes) -> str:
    return os.fsdecode(data.partition(b"\0")[0])
