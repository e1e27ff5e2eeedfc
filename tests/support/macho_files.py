"""Mach-O files for tests: a small builder, the real ones of `fixtures/macho`, and readers that share nothing with ours.

Paths are read by macholib. Signatures are checked here, by the definition of their format.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from macholib import mach_o
from macholib.MachO import MachO

FIXTURES = Path(__file__).parents[2] / "fixtures" / "macho"

REQ = 0x80000000
ID, LOAD, WEAK, REEXPORT, LAZY, UPWARD, RPATH = 0xD, 0xC, 0x18 | REQ, 0x1F | REQ, 0x20, 0x23 | REQ, 0x1C | REQ
ARM64, X86_64, I386, PPC, PPC64 = 0x0100000C, 0x01000007, 7, 18, 0x01000012
OBJECT, EXECUTE, DYLIB = 1, 2, 6

PATH_NAMES = {
    ID: "id",
    LOAD: "load",
    WEAK: "weak",
    REEXPORT: "reexport",
    LAZY: "lazy",
    UPWARD: "upward",
    RPATH: "rpath",
}


def fixture(name: str) -> bytes:
    return (FIXTURES / name).read_bytes()


@dataclass
class Shape:
    """How a file that is built looks. The defaults are a 64-bit little-endian library."""

    wide: bool = True
    order: str = "<"
    cpu: int = ARM64
    file_type: int = DYLIB
    padding: int = 256
    text: bytes = b"code\0" + bytes(59)
    sections: Sequence[tuple[bytes, bytes]] = ()
    linkedit: bytes = b"symbols and strings\0"
    extra: Sequence[bytes] = ()

    def header(self, count: int, size: int) -> bytes:
        magic = 0xFEEDFACF if self.wide else 0xFEEDFACE
        return struct.pack(self.order + "7I", magic, self.cpu, 0, self.file_type, count, size, 0) + bytes(4 * self.wide)

    def path(self, kind: int, path: bytes) -> bytes:
        fixed = struct.pack(self.order + "I", 12) if kind == RPATH else struct.pack(self.order + "4I", 24, 2, 3, 4)
        body = fixed + path + b"\0"
        unit = 8 if self.wide else 4
        return self.command(kind, body + bytes(-(len(body) + 8) % unit))

    def command(self, kind: int, body: bytes) -> bytes:
        return struct.pack(self.order + "2I", kind, 8 + len(body)) + body

    def segment(self, name: bytes, offset: int, size: int, sections: Iterable[tuple[bytes, int, int]] = ()) -> bytes:
        sections = list(sections)
        word = "Q" if self.wide else "I"
        body = struct.pack(f"{self.order}16s4{word}4I", name, 0, size, offset, size, 7, 5, len(sections), 0)
        for section, at, length in sections:
            layout = f"{self.order}16s16s2{word}7I" + ("I" if self.wide else "")
            values = (section, name, 0, length, at, 0, 0, 0, 0, 0, 0, *((0,) if self.wide else ()))
            body += struct.pack(layout, *values)
        return self.command(0x19 if self.wide else 0x1, body)


def build(paths: Iterable[tuple[int, str]], shape: Shape | None = None) -> bytes:
    """Make a file: header, two segments, the paths, padding, the text segment's sections, the __LINKEDIT segment."""
    shape = shape or Shape()
    middle = [shape.path(kind, path.encode()) for kind, path in paths] + list(shape.extra)
    contents = [(b"__text", shape.text), *shape.sections]

    def commands(start: int) -> list[bytes]:
        sections, at = [], start
        for name, content in contents:
            sections.append((name, at, len(content)))
            at += len(content)
        return [
            shape.segment(b"__TEXT", 0, at, sections),
            *middle,
            shape.segment(b"__LINKEDIT", at, len(shape.linkedit)),
        ]

    size = sum(map(len, commands(0)))
    header = shape.header(len(middle) + 2, size)
    start = len(header) + size + shape.padding
    body = b"".join(content for _, content in contents) + shape.linkedit
    return header + b"".join(commands(start)) + bytes(shape.padding) + body


def build_fat(slices: Sequence[tuple[int, bytes]], *, order: str = ">", wide: bool = False, align: int = 4) -> bytes:
    """Make a universal file of slices (processor, bytes)."""
    record = struct.Struct(order + ("2I2Q2I" if wide else "5I"))
    out = bytearray(struct.pack(order + "2I", 0xCAFEBABF if wide else 0xCAFEBABE, len(slices)))
    out += bytes(record.size * len(slices))
    for index, (cpu, content) in enumerate(slices):
        out += bytes(-len(out) % (1 << align))
        values = (cpu, 0, len(out), len(content), align, *((0,) if wide else ()))
        record.pack_into(out, 8 + index * record.size, *values)
        out += content
    return bytes(out)


def slices_of(data: bytes) -> list[bytes]:
    """Cut a file into its thin ones."""
    order = {b"\xca\xfe\xba": ">", b"\xbe\xba\xfe": "<", b"\xbf\xba\xfe": "<"}.get(data[:3])
    if order is None:
        return [data]
    magic, count = struct.unpack_from(order + "2I", data)
    record = struct.Struct(order + ("2I2Q2I" if magic == 0xCAFEBABF else "5I"))
    rows = [record.unpack_from(data, 8 + index * record.size) for index in range(count)]
    assert all(row[2] % (1 << row[4]) == 0 for row in rows)
    return [data[row[2] : row[2] + row[3]] for row in rows]


def paths_in(data: bytes, folder: Path) -> list[tuple[str, str]]:
    """Let macholib read the paths in the load commands of a thin file."""
    file = folder / "to-be-read.macho"
    file.write_bytes(data)
    (header,) = MachO(str(file)).headers
    found = []
    for load, command, tail in header.commands:
        if load.cmd in PATH_NAMES:
            start = command.path if load.cmd == RPATH else command.name
            at = int(start) - 8 - len(command.to_str())
            found.append((PATH_NAMES[load.cmd], tail[max(0, at) :].rstrip(b"\0").decode()))
    return found


def _commands(data: bytes) -> dict[int, tuple[Any, ...]]:
    """Return the last command of each kind: its offset in the file and its bytes."""
    order, wide = (">" if data[:1] == b"\xfe" else "<"), data[:4] in {b"\xcf\xfa\xed\xfe", b"\xfe\xed\xfa\xcf"}
    count, size = struct.unpack_from(order + "2I", data, 16)
    at = start = 32 if wide else 28
    found: dict[int, tuple[Any, ...]] = {}
    for _ in range(count):
        kind, length = struct.unpack_from(order + "2I", data, at)
        assert length % (8 if wide else 4) == 0
        found[kind] = (order, data[at : at + length])
        at += length
    assert at == start + size
    return found


def has_signature(data: bytes) -> bool:
    return mach_o.LC_CODE_SIGNATURE in _commands(data)


def signature_of(data: bytes) -> bytes:
    """Return the signature of a thin file: what its load command points to, up to its own length."""
    order, command = _commands(data)[mach_o.LC_CODE_SIGNATURE]
    offset, size = struct.unpack_from(order + "2I", command, 8)
    assert offset + size == len(data)
    length = int.from_bytes(data[offset + 4 : offset + 8], "big")
    return data[offset : offset + length]


def without_signature(data: bytes) -> bytes:
    """Return what stands before the signature of a thin file."""
    order, command = _commands(data)[mach_o.LC_CODE_SIGNATURE]
    return data[: struct.unpack_from(order + "I", command, 8)[0]]


def check_signature(data: bytes) -> dict[str, Any]:
    """Compute every hash of an ad-hoc signature again, as a kernel would. Returns what its code directory says."""
    code, blob = without_signature(data), signature_of(data)
    assert len(code) % 16 == 0
    magic, length, count = struct.unpack_from(">3I", blob)
    assert (magic, length) == (0xFADE0CC0, len(blob))
    index = [struct.unpack_from(">2I", blob, 12 + 8 * n) for n in range(count)]
    parts = {slot: blob[at : at + int.from_bytes(blob[at + 4 : at + 8], "big")] for slot, at in index}
    directory = parts[0]
    names = ["magic", "length", "version", "flags", "hashes_at", "name_at", "special", "pages", "limit"]
    found: dict[str, Any] = dict(zip(names, struct.unpack_from(">9I", directory), strict=True))
    hash_size, hash_type, _, shift = struct.unpack_from(">4B", directory, 36)
    assert (found["magic"], found["version"], found["limit"]) == (0xFADE0C02, 0x20400, len(code))
    assert (hash_size, hash_type, found["flags"] & 0x2) == (32, 2, 0x2)
    assert found["length"] == found["hashes_at"] + 32 * found["pages"] == len(directory)
    page = 1 << shift
    expected = [hashlib.sha256(code[at : at + page]).digest() for at in range(0, len(code), page)]
    assert [directory[found["hashes_at"] + 32 * n :][:32] for n in range(found["pages"])] == expected
    special = {n: directory[found["hashes_at"] - 32 * n :][:32] for n in range(1, found["special"] + 1)}
    for slot, part in parts.items():
        if slot not in {0, 0x10000}:
            assert special[slot] == hashlib.sha256(part).digest()
    name = directory[found["name_at"] : found["hashes_at"] - 32 * found["special"]].rstrip(b"\0")
    exec_segment = struct.unpack_from(">3Q", directory, 64)
    return found | {"name": name, "page": page, "parts": parts, "hashes": special, "exec": exec_segment}


def segment_sizes(data: bytes) -> tuple[int, int, int]:
    """Return file offset, size in the file and in memory of the segment that comes last, which is __LINKEDIT."""
    commands = _commands(data)
    if 0x19 in commands:
        order, command = commands[0x19]
        _, vm, offset, size = struct.unpack_from(order + "4Q", command, 24)
    else:
        order, command = commands[0x1]
        _, vm, offset, size = struct.unpack_from(order + "4I", command, 24)
    assert command[8:24].rstrip(b"\0") == b"__LINKEDIT"
    return offset, size, vm
