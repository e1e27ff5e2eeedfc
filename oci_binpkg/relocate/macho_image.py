"""One Mach-O image as a value: header, load commands, segments, and the room that load commands may grow into. Pure.

The layouts are those of Apple's `mach-o/loader.h`. Everything is checked against the end of the file when it is read,
so that every offset leads into it. Only what relocation needs is understood; every other load command
is carried along as bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from oci_binpkg.errors import ContentError

REQUIRED: Final = 0x80000000
"""Set in the number of a load command that a loader must understand (LC_REQ_DYLD)."""
SEGMENT: Final = 0x1
SYMBOL_TABLE: Final = 0x2
SEGMENT_64: Final = 0x19
CODE_SIGNATURE: Final = 0x1D

ARM64: Final = frozenset({0x0100000C, 0x0200000C})
"""The processors on which macOS runs nothing unsigned: arm64 and arm64_32."""
EXECUTABLE: Final = 2
LOADABLE: Final = frozenset({EXECUTABLE, 6, 7, 8})
"""File types that the kernel or dyld map and run: executable, library, dyld itself, bundle. Object files are not."""

_MAGIC: Final = {
    b"\xce\xfa\xed\xfe": ("<", False),
    b"\xcf\xfa\xed\xfe": ("<", True),
    b"\xfe\xed\xfa\xce": (">", False),
    b"\xfe\xed\xfa\xcf": (">", True),
}
# The linker's tables: commands of 16 bytes that hold an offset and a size (linkedit_data_command).
_TABLES: Final = frozenset(
    {CODE_SIGNATURE, 0x1E, 0x26, 0x29, 0x2B, 0x2E, 0x33 | REQUIRED, 0x34 | REQUIRED},
)
_ENCRYPTION: Final = frozenset({0x21, 0x2C})
_COMMAND_HEADER: Final = 8
_NO_BYTES: Final = frozenset({0x1, 0xC, 0x12})  # the types of sections that are zero-filled, and not in the file


def malformed(reason: str) -> ContentError:
    """Return the error for bytes that begin like Mach-O and are not."""
    return ContentError(f"malformed Mach-O file: {reason}", hint="the file is damaged; build or fetch it again")


@dataclass(frozen=True, slots=True)
class Command:
    """A load command: `data` is all of it, with its number and its size, in the byte order of the file."""

    kind: int
    data: bytes


@dataclass(frozen=True, slots=True)
class MachoSection:
    """A section that has bytes in the file, from `offset`; in object files all are in one nameless segment."""

    name: bytes
    offset: int
    size: int
    segment: bytes = b""


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment: what is mapped where. `command` is its index among the load commands."""

    name: bytes
    vm_size: int
    offset: int
    size: int
    sections: tuple[MachoSection, ...]
    command: int

    @property
    def end(self) -> int:
        """Where its bytes end in the file."""
        return self.offset + self.size


@dataclass(frozen=True, slots=True)
class MachImage:
    """A thin Mach-O file, or one slice of a universal one."""

    data: bytes = field(repr=False)
    order: str
    wide: bool
    cpu: int
    file_type: int
    commands: tuple[Command, ...]
    segments: tuple[Segment, ...]

    @classmethod
    def parse(cls, data: bytes) -> MachImage:
        """Read header and load commands. Raises `ContentError` if one of them does not fit where it says it is."""
        layout = _MAGIC.get(data[:4])
        if layout is None:
            raise malformed(f"unknown magic number {data[:4].hex()}")
        order, wide = layout
        size = _header_size(wide=wide)
        if len(data) < size:
            raise malformed("it ends within its header")
        _, cpu, _, file_type, count, commands_size = struct.unpack_from(order + "6I", data)
        commands = tuple(_commands(data, order, size, count, commands_size))
        segments = tuple(_segments(commands, order, len(data)))
        return cls(data, order, wide, cpu, file_type, commands, segments)

    @property
    def header_size(self) -> int:
        """Where the load commands begin."""
        return _header_size(wide=self.wide)

    @property
    def alignment(self) -> int:
        """What the size of a load command is a multiple of."""
        return 8 if self.wide else 4

    @property
    def commands_end(self) -> int:
        """Where the load commands end, and the padding before the first section begins."""
        return self.header_size + sum(len(command.data) for command in self.commands)

    @property
    def room(self) -> int:
        """How many bytes the load commands may take: what they take now, and the NULs before the first content.

        Other bytes in the padding have been put there by somebody and are left alone.
        """
        end = self.commands_end
        padding = self.data[end : max(end, self._first_content())]
        return end - self.header_size + len(padding) - len(padding.lstrip(b"\0"))

    def segment(self, name: bytes) -> Segment | None:
        """Return the first segment of that name."""
        return next((segment for segment in self.segments if segment.name == name), None)

    def section(self, name: bytes) -> bytes | None:
        """Return the bytes of the first section of that name."""
        found = (section for segment in self.segments for section in segment.sections if section.name == name)
        section = next(found, None)
        return None if section is None else self.data[section.offset : section.offset + section.size]

    def table(self, kind: int) -> tuple[int, int, int] | None:
        """Return index, file offset and size of the linker's table that the first command of this kind describes."""
        for index, command in enumerate(self.commands):
            if command.kind == kind:
                offset, size = self.numbers(command, 8, "2I")
                return index, offset, size
        return None

    def numbers(self, command: Command, at: int, layout: str) -> tuple[int, ...]:
        """Read numbers from a load command. Raises `ContentError` if it is too short for them."""
        return _numbers(self.order, command, at, layout)

    def patched(self, command: Command, at: int, layout: str, *values: int) -> Command:
        """Return a load command with other numbers at a position."""
        data = bytearray(command.data)
        struct.pack_into(self.order + layout, data, at, *values)
        return Command(command.kind, bytes(data))

    def with_commands(self, commands: Iterable[Command]) -> bytes:
        """Return the file with other load commands, of the same length; what the old ones held beyond becomes NUL.

        The commands must fit into `room`.
        """
        commands = tuple(commands)
        blob = b"".join(command.data for command in commands)
        taken = max(len(blob), self.commands_end - self.header_size)
        assert len(blob) <= self.room, "load commands would overwrite the first section"
        header = bytearray(self.data[: self.header_size])
        struct.pack_into(self.order + "2I", header, 16, len(commands), len(blob))
        return b"".join((header, blob.ljust(taken, b"\0"), self.data[self.header_size + taken :]))

    def _first_content(self) -> int:
        starts = [len(self.data)]
        for segment in self.segments:
            starts += [segment.offset] if segment.size else []
            starts += [section.offset for section in segment.sections if section.size]
        for command in self.commands:
            if command.kind == SYMBOL_TABLE:
                symbols, count, strings, size = self.numbers(command, 8, "4I")
                starts += [symbols] if count else []
                starts += [strings] if size else []
            elif command.kind in _TABLES | _ENCRYPTION:
                offset, size = self.numbers(command, 8, "2I")
                starts += [offset] if size else []
        return min(start for start in starts if start)


def is_image(data: bytes) -> bool:
    """Return whether bytes begin like a thin Mach-O file."""
    return data[:4] in _MAGIC


def _header_size(*, wide: bool) -> int:
    return 32 if wide else 28


def _commands(data: bytes, order: str, at: int, count: int, size: int) -> Iterator[Command]:
    end = at + size
    if end > len(data):
        raise malformed(f"{size} bytes of load commands do not fit into a file of {len(data)} bytes")
    for index in range(count):
        if at + _COMMAND_HEADER > end:
            raise malformed(f"load command {index} of {count} is beyond the end of the load commands")
        kind, length = struct.unpack_from(order + "2I", data, at)
        if length < _COMMAND_HEADER or length % 4 or at + length > end:
            raise malformed(f"load command {index} of {count} cannot be {length} bytes long")
        yield Command(kind, data[at : at + length])
        at += length


def _numbers(order: str, command: Command, at: int, layout: str) -> tuple[int, ...]:
    try:
        return struct.unpack_from(order + layout, command.data, at)
    except struct.error as error:
        raise malformed(f"a load command {command.kind:#x} of only {len(command.data)} bytes") from error


def _segments(commands: tuple[Command, ...], order: str, file_size: int) -> Iterator[Segment]:
    for index, command in enumerate(commands):
        if command.kind == SEGMENT:
            _, vm_size, offset, size = _numbers(order, command, 24, "4I")
            sections = _sections(order, command, 48, 56, "16s16s2I2I2I3I")
        elif command.kind == SEGMENT_64:
            _, vm_size, offset, size = _numbers(order, command, 24, "4Q")
            sections = _sections(order, command, 64, 72, "16s16s2Q2I2I4I")
        else:
            continue
        name = _name(command.data[8:24])
        if offset + size > file_size:
            raise malformed(f"the segment {name!r} ends at byte {offset + size} of a file of {file_size} bytes")
        yield Segment(name, vm_size, offset, size, tuple(sections), index)


def _sections(order: str, command: Command, count_at: int, at: int, layout: str) -> Iterator[MachoSection]:
    (count,) = _numbers(order, command, count_at, "I")
    record = struct.Struct(order + layout)
    if at + count * record.size > len(command.data):
        raise malformed(f"{count} sections do not fit into their load command of {len(command.data)} bytes")
    for position in range(at, at + count * record.size, record.size):
        name, segment, _, size, offset, _, _, _, flags, *_ = record.unpack_from(command.data, position)
        if flags & 0xFF not in _NO_BYTES:
            yield MachoSection(_name(name), offset, size, _name(segment))


def _name(padded: bytes) -> bytes:
    return padded.partition(b"\0")[0]
