"""What an install changed in a file that is not a path of the tree. Written without a look at the product's own readers."""

from __future__ import annotations

import marshal
import os
import re
import stat
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

_PROPERTIES = ("co_code", "co_name", "co_names", "co_varnames", "co_linetable", "co_exceptiontable", "co_flags")
_LONGEST_LINE = 127  # what kernels take as the line of an interpreter; sh starts the others
_LONGEST_START = 500
_ELF_HEADER, _SECTION, _SEGMENT, _SYMBOL = "<16sHHIQQQIHHHHHH", "<IIQQQQIIQQ", "<IIQQQQQQ", "<IBBHQQ"
_STRTAB, _NOTE, _NOBITS, _HASH, _DYNAMIC, _DYNSYM = 3, 7, 8, 5, 6, 11
_MAY_MOVE = {_STRTAB, _NOTE, _HASH, _DYNSYM, 0x6FFFFFF6, 0x6FFFFFFF, 0x6FFFFFFE, 0x6FFFFFFD}
_OF_STRINGS = {1, 14, 15, 29}  # NEEDED, SONAME, RPATH, RUNPATH
_POINTERS = {4, 5, 6, 10, 0x6FFFFEF5, 0x6FFFFFF0, 0x6FFFFFFC, 0x6FFFFFFE}
_LOAD, _PHDR, _INTERP, _NOTES, _PROPERTY = 1, 6, 3, 4, 0x6474E553


class TreeDifferences:
    """Compares prefixes with their installed counterparts, by the prefixes' old and new paths."""

    def __init__(self, moved: Mapping[Path, Path]) -> None:
        self.moved = {os.fsencode(old): os.fsencode(new) for old, new in moved.items()}
        self.old_root = os.fsencode(next(iter(moved)).parents[1])
        longest_first = sorted(self.moved, key=len, reverse=True)
        self._pattern = re.compile(b"|".join(map(re.escape, longest_first)))

    def replaced(self, content: bytes) -> bytes:
        """Return bytes with new prefixes in place of the old ones."""
        return self._pattern.sub(lambda found: self.moved[found[0]], content)

    def of_prefix(self, old: Path, new: Path) -> Iterator[str]:
        """Yield a sentence for each file that differs in more than the paths in it."""
        theirs, ours = _paths(old), _paths(new) - {p for p in _paths(new) if p.split("/")[0] == ".spack"}
        yield from (f"{new / path}: is new" for path in sorted(ours - theirs))
        yield from (f"{new / path}: is gone" for path in sorted(theirs - ours))
        for path in sorted(theirs & ours):
            if why := self._of_file(old / path, new / path):
                yield f"{new / path}: {why}"

    def _of_file(self, old: Path, new: Path) -> str:
        before, after = old.lstat(), new.lstat()
        if stat.S_IFMT(before.st_mode) != stat.S_IFMT(after.st_mode):
            return "is of another kind"
        if old.is_symlink():
            expected = self.replaced(os.fsencode(os.readlink(old)))
            return "" if os.fsencode(os.readlink(new)) == expected else f"leads to {os.readlink(new)}"
        if not stat.S_ISREG(before.st_mode):
            return ""
        if before.st_mode & 0o100 != after.st_mode & 0o100:
            return "is executable or no longer"
        return self._of_content(old.read_bytes(), new.read_bytes(), old.suffix)

    def _of_content(self, old: bytes, new: bytes, suffix: str) -> str:
        if old == new:
            return "has the old root" if self.old_root in old and old[:4] != b"\x7fELF" else ""
        if old[:4] == b"\x7fELF":
            return self._of_elf(old, new)
        if suffix == ".pyc":
            return "" if self._same_code(old, new) else "other code"
        expected = self.replaced(old)
        line, _, body = expected.partition(b"\n")
        if line[:2] == b"#!" and len(line) > _LONGEST_LINE and new.startswith(b"#!/bin/sh"):
            second, _, rest = body.partition(b"\n")
            kept = new.endswith(body) or (new.split(b"\n", 2)[1] == second and new.endswith(rest))  # Python's coding
            return "" if kept and len(new) - len(expected) < _LONGEST_START else "other script"
        return "" if new == expected else "other bytes"

    # compiled Python

    def _same_code(self, old: bytes, new: bytes) -> bool:
        return old[:8] == new[:8] and self._same(marshal.loads(old[16:]), marshal.loads(new[16:]))

    def _same(self, old: Any, new: Any) -> bool:
        if type(old) is not type(new):
            return False
        if isinstance(old, CodeType):
            same = all(getattr(old, name) == getattr(new, name) for name in _PROPERTIES)
            return same and self._same((old.co_filename, old.co_consts), (new.co_filename, new.co_consts))
        if isinstance(old, tuple):
            return len(old) == len(new) and all(self._same(a, b) for a, b in zip(old, new, strict=True))
        if isinstance(old, str):
            return old == new or self.replaced(old.encode("utf-8", "surrogatepass")) == new.encode(
                "utf-8", "surrogatepass"
            )
        return isinstance(old, frozenset) or repr(old) == repr(new)

    # programs and libraries

    def _of_elf(self, old: bytes, new: bytes) -> str:
        before, after = _Elf(old), _Elf(new)
        if before.header[:5] != after.header[:5] or len(before.sections) != len(after.sections):
            return "other header"
        if why := self._of_segments(before, after):
            return why
        for one, other in zip(before.sections, after.sections, strict=True):
            if why := self._of_section(before, after, one, other):
                return f"section {before.name(one)}: {why}"
        return ""

    def _of_segments(self, before: _Elf, after: _Elf) -> str:
        fixed = [each for each in before.segments if each[0] not in {_PHDR, _INTERP, _NOTES, _PROPERTY}]
        here = [each for each in after.segments if each[0] not in {_PHDR, _INTERP, _NOTES, _PROPERTY}]
        new = [each for each in here if each not in fixed]
        if [each for each in fixed if each not in here] or [each[0] for each in new] not in ([], [_LOAD]):
            return "other segments"
        interpreters = [
            [elf.data[s[2] : s[2] + s[5]].rstrip(b"\0") for s in elf.segments if s[0] == _INTERP]
            for elf in (before, after)
        ]
        return "" if list(map(self.replaced, interpreters[0])) == interpreters[1] else "another interpreter"

    def _of_section(self, before: _Elf, after: _Elf, one: tuple[int, ...], other: tuple[int, ...]) -> str:
        kind, name = one[1], before.name(one)
        if (kind, one[2], name) != (other[1], other[2], after.name(other)):
            return "another name or kind"
        if one[3] != other[3] and kind not in _MAY_MOVE and name != ".interp":
            return "another address"
        if kind == _NOBITS or name in {".interp", ".dynstr"}:
            return ""  # what names them is compared
        if kind == _DYNAMIC:
            return "" if self._entries(before, one) == self._entries(after, other, moved=True) else "other entries"
        if kind == _DYNSYM:
            return "" if before.symbols(one) == after.symbols(other) else "other symbols"
        old, new = before.content(one), after.content(other)
        return "" if old == new or self._within_paths(old, new) else "other bytes"

    def _entries(self, elf: _Elf, section: tuple[int, ...], *, moved: bool = False) -> list[tuple[int, int | bytes]]:
        found: list[tuple[int, int | bytes]] = []
        for tag, value in struct.iter_unpack("<QQ", elf.content(section)):
            if tag in _OF_STRINGS:
                text = elf.dynamic_string(value)
                found.append((tag, text if moved else self.replaced(text)))
            else:
                found.append((tag, 0 if tag in _POINTERS else value))
        return found

    def _within_paths(self, old: bytes, new: bytes) -> bool:
        """Whether bytes differ only within strings that hold the old root."""
        if len(old) != len(new):
            return False
        at = 0
        for text in old.split(b"\0"):
            if old[at : at + len(text) + 1] != new[at : at + len(text) + 1] and self.old_root not in text:
                return False
            at += len(text) + 1
        return True


@dataclass
class _Elf:
    """The headers of a 64-bit little-endian file."""

    data: bytes

    def __post_init__(self) -> None:
        self.fields = struct.unpack_from(_ELF_HEADER, self.data)
        self.header = (*self.fields[:5], self.fields[7])
        phoff, shoff, phnum, shnum, names = *self.fields[5:7], self.fields[10], self.fields[12], self.fields[13]
        self.segments = [struct.unpack_from(_SEGMENT, self.data, phoff + 56 * n) for n in range(phnum)]
        self.sections = [struct.unpack_from(_SECTION, self.data, shoff + 64 * n) for n in range(shnum if shoff else 0)]
        self._names = self.content(self.sections[names]) if self.sections else b""

    def content(self, section: tuple[int, ...]) -> bytes:
        return self.data[section[4] : section[4] + section[5]] if section[1] != _NOBITS else b""

    def name(self, section: tuple[int, ...]) -> str:
        return self._names[section[0] :].partition(b"\0")[0].decode()

    def dynamic_string(self, at: int) -> bytes:
        (table,) = (each for each in self.sections if self.name(each) == ".dynstr")
        return self.content(table)[at:].partition(b"\0")[0]

    def symbols(self, section: tuple[int, ...]) -> list[tuple[bytes, tuple[int, ...]]]:
        table = self.content(self.sections[section[6]])
        found = []
        for name, *rest in struct.iter_unpack(_SYMBOL, self.content(section)):
            found.append((table[name : table.index(b"\0", name)], tuple(rest)))
        return found


def _paths(folder: Path) -> set[str]:
    return {
        os.path.relpath(os.path.join(parent, name), folder)
        for parent, folders, names in os.walk(folder)
        for name in (*folders, *names)
    }
