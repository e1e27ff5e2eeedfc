"""A small file system for the checks of what runs: ELF files that are built here, scripts and links, below a folder."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oci_binpkg.runs.examine import examine
from oci_binpkg.runs.machine import Machine
from oci_binpkg.runs.obstacles import Obstacle, Verdict
from oci_binpkg.runs.view import FolderView
from tests.support import elf_files
from tests.support.elf_files import ElfFile

X86_64, I386, AARCH64, BPF = 62, 3, 183, 247
GLIBC = "/lib64/ld-linux-x86-64.so.2"
MUSL = "/lib/ld-musl-x86_64.so.1"
HERE = Machine("linux", "x86_64", 2)
TREE = "/apps"
PIE, NODEFLIB, FLAGS_1 = 0x08000000, 0x800, 0x6FFFFFFB


def elf(
    *,
    interpreter: str = "",
    needed: Sequence[str] = (),
    soname: str = "",
    rpath: str = "",
    runpath: str = "",
    versions: Sequence[tuple[str, str]] = (),
    weak: Sequence[str] = (),
    defines: Sequence[str] = (),
    flags: int = 0,
    level: int = 0,
    constants: bytes = b"",
    machine: int = X86_64,
    kind: int = elf_files.ET_DYN,
    bits: int = 64,
) -> bytes:
    """An ELF file for this machine."""
    names = [(elf_files.NEEDED, name.encode()) for name in needed]
    texts = ((elf_files.SONAME, soname), (elf_files.RPATH, rpath), (elf_files.RUNPATH, runpath))
    names += [(tag, text.encode()) for tag, text in texts if text]
    note = struct.pack("<IIII", 0xC0008002, 4, (1 << level) - 1, 0) if level else b""
    return ElfFile(
        bits=bits,
        kind=kind,
        interpreter=interpreter.encode(),
        names=names,
        versions=[(file.encode(), version.encode()) for file, version in versions],
        weak=[version.encode() for version in weak],
        defined=[version.encode() for version in defines],
        numbers=[(FLAGS_1, flags)] if flags else [],
        spare=[elf_files.PT_GNU_PROPERTY] if level else [],
        note=note,
        constants=constants,
        machine=machine,
    ).build()


@dataclass(frozen=True)
class RunTree:
    """A file system below `folder`, with glibc's loader and C library where x86-64 has them. The tree is at /apps."""

    folder: Path

    @classmethod
    def at(cls, folder: Path) -> RunTree:
        tree = cls(folder)
        system = b"\0/lib/x86_64-linux-gnu/\0/usr/lib/x86_64-linux-gnu/\0/lib/\0/usr/lib/\0\0/etc/ld.so.cache\0"
        tree.file(GLIBC, elf(soname="ld-linux-x86-64.so.2", constants=system), mode=0o755)
        tree.library("/lib/x86_64-linux-gnu/libc.so.6", defines=("GLIBC_2.2.5", "GLIBC_2.34", "GLIBC_2.36"))
        tree.file("/bin/sh", elf(interpreter=GLIBC, needed=["libc.so.6"]), mode=0o755)
        tree.file("/usr/bin/env", elf(interpreter=GLIBC, needed=["libc.so.6"]), mode=0o755)
        return tree

    def place(self, path: str) -> Path:
        return self.folder / path.lstrip("/")

    def file(self, path: str, content: bytes | str, *, mode: int = 0o644) -> Path:
        place = self.place(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content.encode() if isinstance(content, str) else content)
        place.chmod(mode)
        return place

    def program(self, path: str, **facts: Any) -> None:
        facts = {"interpreter": GLIBC, "needed": ["libc.so.6"]} | facts
        self.file(path, elf(**facts), mode=0o755)

    def library(self, path: str, **facts: Any) -> None:
        self.file(path, elf(**({"soname": os.path.basename(path)} | facts)))

    def script(self, path: str, text: str, *, mode: int = 0o755) -> None:
        self.file(path, text, mode=mode)

    def link(self, path: str, target: str) -> None:
        place = self.place(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(target)

    @property
    def view(self) -> FolderView:
        return FolderView(str(self.folder))

    def examined(self, *prefixes: str, machine: Machine = HERE, **options: Any) -> Verdict:
        found = prefixes or tuple(f"{TREE}/{name}" for name in sorted(os.listdir(self.place(TREE))))
        return examine(self.view, found, machine, **options)

    def obstacles(self, *prefixes: str, machine: Machine = HERE, **options: Any) -> list[tuple[str, str, str, bool]]:
        """(path, kind, needed, stops) of each obstacle."""
        found: tuple[Obstacle, ...] = self.examined(*prefixes, machine=machine, **options).obstacles
        return [(one.path, one.kind.value, one.needed, one.stops) for one in found]
