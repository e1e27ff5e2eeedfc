"""Mach-O files: the libraries they load, by dyld's rules, and the processors they are for.

dyld(1); the structures are read by macholib, which is imported when the first such file is met.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from oci_binpkg.errors import ContentError, LocalDiskError
from oci_binpkg.runs.machine import Machine
from oci_binpkg.runs.obstacles import Obstacle, ObstacleKind
from oci_binpkg.runs.view import FileView

if TYPE_CHECKING:
    from macholib.MachO import MachOHeader

_ARCHITECTURES: Final = {
    0x01000007: "x86_64",
    0x0100000C: "aarch64",
    7: "i386",
    12: "arm",
    18: "ppc",
    0x01000012: "ppc64",
}
_EXECUTE: Final = 2
_LOADED: Final = frozenset({_EXECUTE, 6, 8})  # programs, libraries, bundles
_LIBRARIES: Final = frozenset({0xC, 0x8000001F, 0x20, 0x80000023})  # LC_LOAD_DYLIB, _REEXPORT_, _LAZY_, _LOAD_UPWARD_
_RPATH: Final = 0x8000001C
_SYSTEM: Final = ("/usr/lib/", "/System/Library/")
"""These libraries are in macOS's shared cache, and not on the disk."""
_UNREADABLE: Final = (
    *(ValueError, struct.error, OSError, LookupError, OverflowError, AttributeError, TypeError, EOFError),
)
"""What macholib raises where a file is damaged."""
_LARGEST: Final = 2 * 1024 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class MachFacts:
    """One slice: the architecture, whether it is a program, what it loads, and its search paths."""

    architecture: str
    is_program: bool
    needed: tuple[str, ...]
    rpaths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Dylibs:
    """Judges Mach-O files of a view for a machine; what was read is kept."""

    view: FileView
    machine: Machine
    _known: dict[str, tuple[MachFacts, ...]] = field(default_factory=dict)

    def obstacles(self, path: str) -> Iterator[Obstacle]:
        """Yield why a Mach-O file does not run or cannot be loaded."""
        try:
            slices = self._slices(path)
        except ContentError as error:
            yield Obstacle(path, ObstacleKind.DAMAGED, "", error.message)
            return
        names = ", ".join(each.architecture for each in slices)
        if self.machine.system != "darwin" and slices:
            reason = f"is for macOS on {names}; this is {self.machine}"
            yield Obstacle(path, ObstacleKind.PLATFORM, "darwin", reason)
            return
        fitting = next((each for each in slices if self.machine.runs(each.architecture)), None)
        if fitting is not None:
            yield from self._missing(path, fitting, path if fitting.is_program else "")
        elif slices:
            yield Obstacle(path, ObstacleKind.PLATFORM, names, f"is for {names}; this is {self.machine}")

    def _missing(self, path: str, facts: MachFacts, program: str) -> Iterator[Obstacle]:
        """Go through all that is loaded with a file: what loads a library lends it its search paths."""
        seen = {path}
        pending = [(path, facts, _expanded(facts.rpaths, path, program))]
        for by, known, rpaths in pending:  # grows while it is read
            for name in known.needed:
                looked = _places(name, by, program, rpaths)
                found = next(filter(None, map(self._library, looked)), None)
                if found is None and not name.startswith(_SYSTEM):
                    reason = f"needs the library {name}"
                    asked = "" if by == path else by
                    yield Obstacle(path, ObstacleKind.LIBRARY, name, reason, looked=looked, by=asked)
                elif found is not None and found[0] not in seen:
                    seen.add(found[0])
                    pending.append((*found, (*_expanded(found[1].rpaths, found[0], program), *rpaths)))

    def _library(self, path: str) -> tuple[str, MachFacts] | None:
        """Return the library at a path, if there is one for this machine."""
        status = self.view.status(path)
        if status is not None and status.is_regular:
            with suppress(ContentError, LocalDiskError):
                for each in self._slices(path):
                    if self.machine.runs(each.architecture):
                        return path, each
        return None

    def _slices(self, path: str) -> tuple[MachFacts, ...]:
        """Read a file. Raises `ContentError`, `LocalDiskError`."""
        if path not in self._known:
            with self.view.opened(path) as read:
                self._known[path] = read_mach(read(0, _LARGEST))
        return self._known[path]


def read_mach(data: bytes) -> tuple[MachFacts, ...]:
    """Return what is to be known of each slice that is loaded. Raises `ContentError` for what cannot be read."""
    from macholib.MachO import MachO  # noqa: PLC0415 - most trees have no such file

    file = MachO.__new__(MachO)  # its own way in opens a file of this machine
    file.graphident = file.filename = file.loader_path = ""
    file.fat, file.headers, file.allow_unknown_load_commands = None, [], True
    try:
        file.load(io.BytesIO(data))
        return tuple(_facts(header) for header in file.headers if int(header.header.filetype) in _LOADED)
    except _UNREADABLE as error:
        raise ContentError(f"damaged Mach-O file: {' '.join(str(error).split())[:200]}") from None


def _facts(header: MachOHeader) -> MachFacts:
    cpu = int(header.header.cputype) & 0xFFFFFFFF
    commands: list[tuple[int, Any]] = [(int(command.cmd) & 0xFFFFFFFF, data) for command, _, data in header.commands]
    return MachFacts(
        _ARCHITECTURES.get(cpu, f"processor {cpu:#x}"),
        int(header.header.filetype) == _EXECUTE,
        tuple(_path(data) for kind, data in commands if kind in _LIBRARIES),
        tuple(_path(data) for kind, data in commands if kind == _RPATH),
    )


def _path(data: bytes) -> str:
    return os.fsdecode(data.partition(b"\0")[0])


def _places(name: str, by: str, program: str, rpaths: tuple[str, ...]) -> tuple[str, ...]:
    """Return where dyld looks for a library, in its order."""
    if name.startswith("@rpath/"):
        return tuple(f"{rpath.rstrip('/')}/{name[len('@rpath/') :]}" for rpath in rpaths)
    return _expanded((name,), by, program)


def _expanded(paths: tuple[str, ...], by: str, program: str) -> tuple[str, ...]:
    """Replace what stands for the folders of the file and of the program; without a program its paths are none."""
    folders = {"@loader_path": os.path.dirname(by), "@executable_path": os.path.dirname(program)}
    found = []
    for path in paths:
        word, _, rest = path.partition("/")
        if word in folders and (program or word == "@loader_path"):
            found.append(os.path.normpath(f"{folders[word]}/{rest}"))
        elif path.startswith("/"):
            found.append(path)
    return tuple(found)
