"""The parts of an ELF file that relocation has to know: headers, the dynamic section, who uses which string.

Read with pyelftools' descriptions of the structures, which cover both classes and byte orders; every table is checked
against the end of the file before it is read. System V gABI, chapters 4 and 5; symbol versions: LSB 5.0, 10.7.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import IO, Any, Final, cast

from elftools.common.exceptions import ELFError
from elftools.common.utils import struct_parse
from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile

from oci_binpkg.errors import ContentError
from oci_binpkg.relocate.boundaries import Buffer

PATH_LISTS: Final = ("DT_RPATH", "DT_RUNPATH", "DT_AUDIT", "DT_DEPAUDIT")
"""Tags whose string is a list of directories or files, separated by colons."""
SINGLE_PATHS: Final = ("DT_NEEDED", "DT_SONAME", "DT_AUXILIARY", "DT_FILTER", "DT_CONFIG")

# what pyelftools does not name
_UNNAMED: Final = {
    0x6FFFFEFA: "DT_CONFIG",
    0x6FFFFEFB: "DT_DEPAUDIT",
    0x6FFFFEFC: "DT_AUDIT",
    0x7FFFFFFD: "DT_AUXILIARY",
    0x7FFFFFFF: "DT_FILTER",
}
_PATHS_BEGIN: Final = b"/$"
_MOST_VERSIONS: Final = 1 << 20  # chains in a damaged file may run in circles
_MOST_SYMBOLS: Final = 1 << 20
_MOST_HEADERS: Final = 20_000
_MOST_ENTRIES: Final = 20_000
_LARGEST_TABLE: Final = 64 * 1024 * 1024
_LONGEST_NAMES: Final = 4 * 1024 * 1024
"""Bytes of the strings together that the dynamic section names; each may be long, or the end of another one."""
_SHF_TLS: Final = 0x400
_LOADABLE: Final = ("ET_EXEC", "ET_DYN")


@dataclass(frozen=True, slots=True)
class DynamicEntry:
    """An entry of the dynamic section: where it stands in the file, its tag, its value."""

    offset: int
    tag: str | int
    value: int


@dataclass(frozen=True, slots=True)
class VersionName:
    """A name in the symbol versions: where its offset in the string table stands, which, and where its hash does.

    `tag` is the member of the record: `vn_file` (compared with the library's DT_NEEDED or DT_SONAME and so without a
    hash), `vna_name` or `vda_name`.
    """

    offset: int
    tag: str
    value: int
    hash_at: int | None = None


Name = DynamicEntry | VersionName
"""What uses a string of the dynamic string table as a path."""


@dataclass(frozen=True, slots=True)
class StringTable:
    """The dynamic string table: its place in the file, its size, its address."""

    offset: int
    size: int
    address: int


@dataclass(frozen=True)
class ElfImage:
    """The headers of one file. `segments` and `sections` are pyelftools' containers, in file order.

    Relocatable objects and files of debug information have no `dynamic` and no `strings`.
    """

    data: Buffer
    elf: ELFFile
    segments: tuple[Any, ...]
    sections: tuple[Any, ...]
    dynamic: tuple[DynamicEntry, ...]
    strings: StringTable | None

    @property
    def structs(self) -> Any:
        """The structures as pyelftools describes them, for this class and byte order."""
        return self.elf.structs

    @property
    def loads(self) -> tuple[Any, ...]:
        """The segments that are mapped into memory."""
        return tuple(segment for segment in self.segments if segment.p_type == "PT_LOAD")

    @property
    def interpreters(self) -> tuple[int, ...]:
        """The indices of the segments that name the interpreter; at most one in a sane file."""
        return tuple(
            n
            for n, segment in enumerate(self.segments)
            if segment.p_type == "PT_INTERP" and not _is_hollow(segment, self.sections)
        )

    def string(self, at: int) -> bytes:
        """Return the string at an offset in the dynamic string table. Raises `ContentError`."""
        table = self.strings
        if table is None or not 0 <= at < table.size:
            raise ContentError(f"a string at {at}, outside the dynamic string table")
        start = table.offset + at
        end = self.data.find(b"\0", start, table.offset + table.size)
        if end < 0:
            raise ContentError("the dynamic string table is not terminated")
        return bytes(self.data[start:end])

    def names(self) -> tuple[tuple[Name, bytes], ...]:
        """Return the dynamic entries and the symbol versions that hold paths, with their strings.

        Of the symbol versions only those count that begin as a path does. Raises `ContentError`.
        """
        if self.strings is None:
            return ()
        known: dict[int, bytes] = {}
        size, found = 0, list[tuple[Name, bytes]]()
        entries = (entry for entry in self.dynamic if entry.tag in PATH_LISTS or entry.tag in SINGLE_PATHS)
        for entry in chain[Name](entries, (name for name in self._versions() if self._is_path(name.value))):
            if entry.value not in known:
                known[entry.value] = self.string(entry.value)
                size += len(known[entry.value])
                _at_most(size, _LONGEST_NAMES, "bytes of names")
            found.append((entry, known[entry.value]))
        return tuple(found)

    def symbol_names(self) -> frozenset[int]:
        """Return the offsets of all strings that symbols and versions use, without paths. Raises `ContentError`."""
        with _checked():
            versions = (name.value for name in self._versions() if not self._is_path(name.value))
            return frozenset((*self._symbols(), *versions))

    def _is_path(self, at: int) -> bool:
        table = self.strings
        return table is not None and 0 <= at < table.size and self.data[table.offset + at] in _PATHS_BEGIN

    def _versions(self) -> tuple[VersionName, ...]:
        """Return the names of all symbol versions, needed and defined. Raises `ContentError`."""
        with _checked():
            names = tuple(islice(chain(self._needed_versions(), self._defined_versions()), _MOST_VERSIONS + 1))
        if len(names) > _MOST_VERSIONS:
            raise ContentError(f"damaged ELF file: more than {_MOST_VERSIONS} symbol versions")
        return names

    def _symbols(self) -> Iterator[int]:
        size = self.structs.Elf_Sym.sizeof()
        found = [section for section in self.sections if section.sh_type == "SHT_DYNSYM"]
        if found:
            start, count = found[0].sh_offset, found[0].sh_size // size
        else:
            place = self._table("DT_SYMTAB")
            if place is None:
                return
            (segment,) = (segment for segment in self.segments if segment.p_type == "PT_DYNAMIC")
            start, count = place, DynamicSegment(segment, self.elf.stream, self.elf).num_symbols()
        _inside(self.data, start, count * size, "the dynamic symbols")
        _at_most(count, _MOST_SYMBOLS, "dynamic symbols")
        # st_name is the first member in both classes
        names = struct.Struct(f"{self._order}I{size - 4}x")
        yield from (name for (name,) in names.iter_unpack(bytes(self.data[start : start + count * size])))

    def _needed_versions(self) -> Iterator[VersionName]:
        for at, (_, count, file, auxiliary, _) in self._chain("DT_VERNEED", "HHIII"):
            yield VersionName(at + 4, "vn_file", file)
            for place, (_, _, _, name, _) in self._follow(at + auxiliary, "IHHII", count):
                yield VersionName(place + 8, "vna_name", name, place)

    def _defined_versions(self) -> Iterator[VersionName]:
        for at, (_, _, _, count, _, auxiliary, _) in self._chain("DT_VERDEF", "HHHHIII"):
            # the hash is that of the first name; the others are the versions it comes after
            for number, (place, (name, _)) in enumerate(self._follow(at + auxiliary, "II", count)):
                yield VersionName(place, "vda_name", name, None if number else at + 8)

    def _chain(self, tag: str, layout: str) -> Iterator[tuple[int, tuple[int, ...]]]:
        start = self._table(tag)
        counts = [entry.value for entry in self.dynamic if entry.tag == f"{tag}NUM"]
        if start is not None and counts:
            yield from self._follow(start, layout, counts[0])

    def _follow(self, at: int, layout: str, count: int) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Yield the records of a chain, whose last member is the distance to the next one."""
        record = struct.Struct(self._order + layout)
        for _ in range(count):
            _inside(self.data, at, record.size, "the symbol versions")
            values = record.unpack(self.data[at : at + record.size])
            yield at, values
            if not values[-1]:
                return
            at += values[-1]

    def _table(self, tag: str) -> int | None:
        for entry in self.dynamic:
            if entry.tag == tag:
                return file_offset(self.loads, entry.value, tag)
        return None

    @property
    def _order(self) -> str:
        return "<" if self.elf.little_endian else ">"


def read_elf(data: Buffer) -> ElfImage:
    """Read the headers of an ELF file. Raises `ContentError` for a file that is cut short or contradicts itself."""
    stream = cast("IO[bytes]", io.BytesIO(data) if isinstance(data, bytes | bytearray) else data)
    with _checked():
        elf = ELFFile(stream)
        if elf["e_type"] not in _LOADABLE:
            return ElfImage(data, elf, (), (), (), None)
        header = elf.header
        sections = _headers(data, elf, elf.structs.Elf_Shdr, header.e_shoff, elf.num_sections)
        segments = _headers(data, elf, elf.structs.Elf_Phdr, header.e_phoff, elf.num_segments)
        image = ElfImage(data, elf, segments, sections, tuple(_dynamic(data, elf, segments, sections)), None)
        if image.interpreters or image.dynamic:
            for segment in segments:
                if segment.p_type in {"PT_LOAD", "PT_INTERP"}:
                    _inside(data, segment.p_offset, segment.p_filesz, f"a segment ({segment.p_type})")
        return replace(image, strings=_strings(image))


def file_offset(loads: tuple[Any, ...], address: int, what: str) -> int:
    """Return where the byte at an address stands in the file. Raises `ContentError`."""
    for load in loads:
        if load.p_vaddr <= address < load.p_vaddr + load.p_filesz:
            return int(address - load.p_vaddr + load.p_offset)
    raise ContentError(f"{what} leads to address {address:#x}, which the file does not hold")


def _headers(data: Buffer, elf: ELFFile, kind: Any, start: int, count: Callable[[], int]) -> tuple[Any, ...]:
    if not start:
        return ()
    what = kind.name.removeprefix("Elf_").lower()
    _inside(data, start, kind.sizeof(), f"the headers ({what})")
    number = count()
    _at_most(number, _MOST_HEADERS, f"headers ({what})")
    _inside(data, start, number * kind.sizeof(), f"the headers ({what})")
    return tuple(struct_parse(kind, elf.stream, stream_pos=start + n * kind.sizeof()) for n in range(number))


def _is_hollow(segment: Any, sections: tuple[Any, ...]) -> bool:
    """Return whether a segment has no bytes, as in files of debug information, which keep the headers alone."""
    here = {
        section.sh_type
        for section in sections
        if section.sh_addr == segment.p_vaddr and not section.sh_flags & _SHF_TLS
    }
    return not segment.p_filesz or here == {"SHT_NOBITS"}


def _dynamic(
    data: Buffer, elf: ELFFile, segments: tuple[Any, ...], sections: tuple[Any, ...]
) -> Iterator[DynamicEntry]:
    kind = elf.structs.Elf_Dyn
    for segment in segments:
        if segment.p_type != "PT_DYNAMIC" or _is_hollow(segment, sections):
            continue
        _inside(data, segment.p_offset, segment.p_filesz, "the dynamic section")
        _at_most(segment.p_filesz // kind.sizeof(), _MOST_ENTRIES, "dynamic entries")
        for at in range(segment.p_offset, segment.p_offset + segment.p_filesz - kind.sizeof() + 1, kind.sizeof()):
            entry = struct_parse(kind, elf.stream, stream_pos=at)
            if entry.d_tag == "DT_NULL":
                return
            yield DynamicEntry(at, _UNNAMED.get(entry.d_tag, entry.d_tag), entry.d_val)
        return


def _strings(image: ElfImage) -> StringTable | None:
    values = {entry.tag: entry.value for entry in reversed(image.dynamic)}
    if "DT_STRTAB" not in values:
        return None
    offset = file_offset(image.loads, values["DT_STRTAB"], "DT_STRTAB")
    size = values.get("DT_STRSZ", 0)
    _inside(image.data, offset, size, "the dynamic string table")
    _at_most(size, _LARGEST_TABLE, "bytes of the dynamic string table")
    return StringTable(offset, size, values["DT_STRTAB"])


def _inside(data: Buffer, start: int, size: int, what: str) -> None:
    if start < 0 or size < 0 or start + size > len(data):
        raise ContentError(f"{what} would reach to byte {start + size} of a file of {len(data)} bytes")


def _at_most(count: int, most: int, what: str) -> None:
    if count > most:
        raise ContentError(f"damaged ELF file: {count} {what}; at most {most} are read")


@contextmanager
def _checked() -> Iterator[None]:
    """Turn what pyelftools raises for damaged files into `ContentError`."""
    try:
        yield
    except (ELFError, ValueError, OverflowError, AssertionError, LookupError, struct.error) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ContentError(f"damaged ELF file: {reason}") from None
