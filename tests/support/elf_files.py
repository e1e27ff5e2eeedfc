"""Small ELF files of any class and byte order, built and read back with nothing but `struct`.

The files are as a loader wants them: one segment with headers, names, symbols, versions and constants. They do not run.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

PT_NULL, PT_LOAD, PT_DYNAMIC, PT_INTERP, PT_NOTE, PT_PHDR = 0, 1, 2, 3, 4, 6
PT_GNU_PROPERTY = 0x6474E553
NEEDED, HASH, STRTAB, SYMTAB, STRSZ, SYMENT, SONAME, RPATH, RUNPATH = 1, 4, 5, 6, 10, 11, 14, 15, 29
VERNEED, VERNEEDNUM, VERDEF, VERDEFNUM = 0x6FFFFFFE, 0x6FFFFFFF, 0x6FFFFFFC, 0x6FFFFFFD
CONFIG, DEPAUDIT, AUDIT, AUXILIARY, FILTER = 0x6FFFFEFA, 0x6FFFFEFB, 0x6FFFFEFC, 0x7FFFFFFD, 0x7FFFFFFF
ET_REL, ET_EXEC, ET_DYN = 1, 2, 3


@dataclass
class ElfFile:
    """What to build. `names` are (tag, text) of the dynamic section; `spare` a program header type to add, or 0.

    `machine` is another than the usual one of that class and order; `numbers` are further dynamic entries; `note` is
    the content of the note, `weak` are the versions needed that may be absent, `unloaded`
    the content of a section without an address, `fixed` what stands right behind the headers and belongs to nothing.
    """

    bits: int = 64
    order: str = "<"
    kind: int = ET_DYN
    interpreter: bytes = b""
    names: Sequence[tuple[int, bytes]] = ()
    symbols: Sequence[bytes] = (b"main",)
    versions: Sequence[tuple[bytes, bytes]] = ()
    defined: Sequence[bytes] = ()
    constants: bytes = b""
    base: int = 0
    bss: int = 0
    sections: bool = True
    spare: Sequence[int] = ()
    page: int = 4096
    machine: int = 0
    numbers: Sequence[tuple[int, int]] = ()
    note: bytes = b""
    weak: Sequence[bytes] = ()
    unloaded: bytes = b"\0"
    fixed: bytes = b""
    table: bytearray = field(default_factory=lambda: bytearray(b"\0"))

    def intern(self, text: bytes) -> int:
        """Put a string into the table, merged into the end of another one as linkers do."""
        at = self.table.find(text + b"\0")
        if at < 0:
            at = len(self.table)
            self.table += text + b"\0"
        return at

    @property
    def wide(self) -> bool:
        return self.bits == 64

    def pack(self, layout: str, *values: int) -> bytes:
        return struct.pack(self.order + layout, *values)

    def header(
        self, kind: int, offset: int, size: int, memory: int | None = None, flags: int = 4, align: int = 1
    ) -> bytes:
        address, memory = self.base + offset, size if memory is None else memory
        if self.wide:
            return self.pack("IIQQQQQQ", kind, flags, offset, address, address, size, memory, align)
        return self.pack("IIIIIIII", kind, offset, address, address, size, memory, flags, align)

    def section(self, kind: int, offset: int, size: int, *, link: int = 0, loaded: bool = True) -> bytes:
        address = self.base + offset if loaded else 0
        flags = 2 if loaded else 0
        word = "Q" if self.wide else "I"
        return self.pack(f"II{word * 4}II{word * 2}", 0, kind, flags, address, offset, size, link, 0, 1, 0)

    def symbol(self, name: int) -> bytes:
        return self.pack("IBBHQQ", name, 0x12, 0, 1, 0, 0) if self.wide else self.pack("IIIBBH", name, 0, 0, 0x12, 0, 1)

    def build(self) -> bytes:
        count = 3 + bool(self.interpreter) + len(self.spare)
        start = (64 + 56 * count) if self.wide else (52 + 32 * count)
        parts: dict[str, tuple[int, bytes]] = {}

        def add(name: str, data: bytes) -> int:
            last = max((at + len(old) for at, old in parts.values()), default=start)
            at = last + -last % 8
            parts[name] = at, data
            return at

        if self.fixed:
            add("fixed", self.fixed)
        if self.interpreter:
            add("interp", self.interpreter + b"\0")
        add("note", self.pack("III", 4, len(self.note), 5) + b"GNU\0" + self.note)
        entries = [(tag, self.intern(text)) for tag, text in self.names]
        symbols = b"".join(self.symbol(self.intern(name)) for name in (b"", *self.symbols))
        number = len(self.symbols) + 1
        needed = self._needed()
        defined = self._defined()
        add("dynsym", symbols)
        add("dynstr", bytes(self.table))
        add("hash", self.pack(f"{3 + number}I", 1, number, 0, *([0] * number)))
        add("versions", needed)
        add("defined", defined)
        entries += [
            (tag, self.base + parts[name][0]) for tag, name in ((HASH, "hash"), (STRTAB, "dynstr"), (SYMTAB, "dynsym"))
        ]
        entries += [(STRSZ, len(self.table)), (SYMENT, 24 if self.wide else 16), *self.numbers]
        if needed:
            entries += [(VERNEED, self.base + parts["versions"][0]), (VERNEEDNUM, len(self.versions))]
        if defined:
            entries += [(VERDEF, self.base + parts["defined"][0]), (VERDEFNUM, len(self.defined))]
        word = "qQ" if self.wide else "iI"
        add("dynamic", b"".join(self.pack(word, tag, value) for tag, value in [*entries, (0, 0)]))
        add("constants", self.constants)
        return self._assemble(parts, start, count)

    def _needed(self) -> bytes:
        packed = b""
        for n, (file, version) in enumerate(self.versions):
            last = n == len(self.versions) - 1
            packed += self.pack("HHIII", 1, 1, self.intern(file), 16, 0 if last else 32)
            packed += self.pack("IHHII", 0, 2 * (version in self.weak), 2, self.intern(version), 0)
        return packed

    def _defined(self) -> bytes:
        packed = b""
        for n, name in enumerate(self.defined):
            last = n == len(self.defined) - 1
            packed += self.pack("HHHHIII", 1, 0, n + 1, 1, 0, 20, 0 if last else 28)
            packed += self.pack("II", self.intern(name), 0)
        return packed

    def _assemble(self, parts: dict[str, tuple[int, bytes]], start: int, count: int) -> bytes:
        end = max(at + len(data) for at, data in parts.values())
        body = bytearray(end)
        for at, data in parts.values():
            body[at : at + len(data)] = data
        begin = 64 if self.wide else 52
        headers = [self.header(PT_PHDR, begin, start - begin, align=8)]
        if self.interpreter:
            headers.append(self.header(PT_INTERP, parts["interp"][0], len(parts["interp"][1])))
        headers.append(self.header(PT_LOAD, 0, end, end + self.bss, 7, self.page))
        headers.append(self.header(PT_DYNAMIC, parts["dynamic"][0], len(parts["dynamic"][1]), align=8))
        headers += [self.header(kind, parts["note"][0], len(parts["note"][1]), align=4) for kind in self.spare]
        body[begin:start] = b"".join(headers)
        table, shoff, shnum = b"", 0, 0
        if self.sections:
            listed = [bytes(64 if self.wide else 40)]
            if self.interpreter:
                listed.append(self.section(1, parts["interp"][0], len(parts["interp"][1])))
            strings = len(listed) + 1
            listed.append(self.section(11, parts["dynsym"][0], len(parts["dynsym"][1]), link=strings))
            listed.append(self.section(3, parts["dynstr"][0], len(self.table)))
            listed.append(self.section(6, parts["dynamic"][0], len(parts["dynamic"][1]), link=strings))
            listed.append(self.section(3, end, len(self.unloaded), loaded=False))
            body += self.unloaded
            body += bytes(8 + -len(body) % 8)
            table, shoff, shnum = b"".join(listed), len(body), len(listed)
        ident = b"\x7fELF" + bytes([2 if self.wide else 1, 1 if self.order == "<" else 2, 1]) + bytes(9)
        usual = {(64, "<"): 183, (64, ">"): 22, (32, "<"): 40, (32, ">"): 8}
        machine = self.machine or usual[self.bits, self.order]
        word = "Q" if self.wide else "I"
        sizes = (
            (64, 56, count, 64, shnum, max(0, shnum - 1))
            if self.wide
            else (52, 32, count, 40, shnum, max(0, shnum - 1))
        )
        body[:begin] = ident + self.pack(f"HHI{word * 3}I6H", self.kind, machine, 1, 0, begin, shoff, 0, *sizes)
        return bytes(body) + table


@dataclass(frozen=True)
class Loaded:
    """A file as a loader sees it: by program headers and addresses only. `sections` are (type, address, content).

    `needed` are the files that symbol versions come from, `defined` the versions (hash, name).
    """

    interpreter: bytes
    names: tuple[tuple[int, bytes], ...]
    symbols: tuple[bytes, ...]
    segments: tuple[tuple[int, int, int, int], ...]
    sections: tuple[tuple[int, int, bytes], ...]
    needed: tuple[bytes, ...] = ()
    defined: tuple[tuple[int, bytes], ...] = ()

    def texts(self, tag: int) -> list[bytes]:
        return [text for found, text in self.names if found == tag]


def load(data: bytes) -> Loaded:
    """Read a file back, independently of the code under test. `segments` are (type, offset, address, size)."""
    wide, order = data[4] == 2, "<" if data[5] == 1 else ">"
    word = "Q" if wide else "I"
    fields = struct.unpack_from(f"{order}HHI{word * 3}I6H", data, 16)
    phoff, shoff, phentsize, phnum, shentsize, shnum = fields[4], fields[5], *fields[8:12]
    segments = [_segment(data, phoff + n * phentsize, wide, order) for n in range(phnum)]
    loads = [(offset, address, size) for kind, offset, address, size in segments if kind == PT_LOAD]
    assert [address for _, address, _ in loads] == sorted(address for _, address, _ in loads)

    def at(address: int) -> int:
        return next(o + address - a for o, a, size in loads if a <= address < a + size)

    pairs: list[tuple[int, int]] = []
    for kind, offset, address, size in segments:
        if kind == PT_DYNAMIC:
            assert at(address) == offset
            pairs = list(
                _until_null(struct.iter_unpack(f"{order}{'qQ' if wide else 'iI'}", data[offset : offset + size]))
            )
        if kind == PT_PHDR:
            assert (offset, at(address)) == (phoff, phoff)
            assert size == phnum * phentsize
    tags = dict(pairs)
    table = data[at(tags[STRTAB]) :][: tags[STRSZ]] if STRTAB in tags else b""

    def text(offset: int) -> bytes:
        return table[offset : table.index(b"\0", offset)]

    def damaged(offset: int) -> bytes:
        return table[offset:].partition(b"\0")[0]

    named = (NEEDED, SONAME, RPATH, RUNPATH, AUDIT, DEPAUDIT, AUXILIARY, FILTER, CONFIG)
    size = 24 if wide else 16
    count = struct.unpack_from(f"{order}II", data, at(tags[HASH]))[1] if HASH in tags else 0
    starts = [at(tags[SYMTAB]) + n * size for n in range(count)]
    return Loaded(
        next((data[o : o + n].partition(b"\0")[0] for kind, o, _, n in segments if kind == PT_INTERP), b""),
        tuple((tag, text(value)) for tag, value in pairs if tag in named),
        tuple(text(struct.unpack_from(f"{order}I", data, start)[0]) for start in starts),
        tuple(segments),
        tuple(_sections(data, shoff, shentsize, shnum, order)),
        tuple(
            damaged(struct.unpack_from(f"{order}I", data, record + 4)[0])
            for record in _records(data, at(tags[VERNEED]), tags[VERNEEDNUM], 12, order)
        )
        if VERNEED in tags
        else (),
        tuple(
            (
                struct.unpack_from(f"{order}I", data, record + 8)[0],
                damaged(struct.unpack_from(f"{order}I", data, record + 20)[0]),
            )
            for record in _records(data, at(tags[VERDEF]), tags[VERDEFNUM], 16, order)
        )
        if VERDEF in tags
        else (),
    )


def _records(data: bytes, at: int, count: int, next_at: int, order: str) -> Iterator[int]:
    for _ in range(count):
        if at + 24 > len(data):  # of a damaged file
            return
        yield at
        at += struct.unpack_from(f"{order}I", data, at + next_at)[0]


def _segment(data: bytes, at: int, wide: bool, order: str) -> tuple[int, int, int, int]:
    if wide:
        kind, _, offset, address, _, size, _, _ = struct.unpack_from(f"{order}IIQQQQQQ", data, at)
    else:
        kind, offset, address, _, size, _, _, _ = struct.unpack_from(f"{order}8I", data, at)
    return kind, offset, address, size


def _sections(data: bytes, shoff: int, entry: int, count: int, order: str) -> Iterator[tuple[int, int, bytes]]:
    word = "Q" if entry == 64 else "I"
    for n in range(count if shoff else 0):
        _, kind, _, address, offset, size = struct.unpack_from(f"{order}II{word * 4}", data, shoff + n * entry)
        yield kind, address, data[offset : offset + size]


def _until_null(pairs: Iterator[tuple[int, ...]]) -> Iterator[tuple[int, int]]:
    for tag, value in pairs:
        if not tag:
            return
        yield tag, value
