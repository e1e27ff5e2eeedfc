"""A tree of prefixes is looked at as a whole: which of its files run, and what is in the way of the others."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from oci_binpkg.errors import ContentError, LocalDiskError
from oci_binpkg.runs.bytecode import stale_bytecode
from oci_binpkg.runs.dylibs import Dylibs
from oci_binpkg.runs.elf_facts import MAGIC, ElfFacts, ElfRole, read_facts
from oci_binpkg.runs.loader import (
    Libraries,
    LibraryMissing,
    LoadedObject,
    Loading,
    VersionMissing,
    interpreter_for,
)
from oci_binpkg.runs.machine import Machine
from oci_binpkg.runs.mentions import LARGEST_TEXT, Mentions
from oci_binpkg.runs.obstacles import Obstacle, ObstacleKind, Verdict
from oci_binpkg.runs.scripts import HEAD, SEARCHED, Scripts, body_of
from oci_binpkg.runs.view import FileStatus, FileView, ReadAt

METADATA: Final = ".spack"
"""The record of a build; nothing in it runs."""

_MACH: Final = frozenset(
    {b"\xcf\xfa\xed\xfe", b"\xfe\xed\xfa\xcf", b"\xce\xfa\xed\xfe", b"\xfe\xed\xfa\xce", b"\xca\xfe\xba\xbe"}
)
_UNIVERSAL: Final = b"\xca\xfe\xba\xbe"
_FIRST_JAVA: Final = 45  # class files begin like universal ones; this is their oldest version
_LOOKS: Final = 100_000
_LOOKS_PER_FILE: Final = 5_000
"""How often libraries are looked for: the files of a real tree ask for some hundred places each."""
_DATA: Final = re.compile(
    r"(?!.*\.so\b).+\.(?:[ch]|cc|cpp|cxx|[hH]|hh|hpp|hxx|f|f90|html?|css|js|map|png|jpe?g|gif|svg|ico|gz|xz|bz2|zst|zip|jar|mo|po|pod"
    r"|txt|rst|md|tex|sty|[ot]tf|woff2?|tfm|[1-9]|rs|go|java|class|o|a|csv|dat|npy|tzdata)"
)
"""Names of files in which nothing is looked for unless they are executable: opening them costs more than all else."""
_PROGRAM_FOLDERS: Final = frozenset({"bin", "sbin", "libexec"})
_LIBRARY: Final = re.compile(r".+\.so(\.[0-9.]+)?")
_ELSEWHERE: Final = ("/proc/", "/dev/", "/sys/", "/run/", "/tmp/", "/var/")  # noqa: S108 - nothing is written there
"""What is there is there at run time; that links to it lead nowhere now says nothing."""


def examine(
    view: FileView,
    prefixes: Sequence[str],
    machine: Machine,
    *,
    tree: Sequence[str] = (),
    searched: Sequence[str] = SEARCHED,
    go_on: Callable[[], None] = lambda: None,
) -> Verdict:
    """Look at all files below some prefixes of a tree, as programs on a machine would find them.

    `tree` are all prefixes of the tree, if there are more: their programs are found by scripts, and missing libraries
    are looked for in them, to say who has them. `searched` are the directories in which `env` looks besides those.
    `go_on` is called before each file; what it raises ends the work.
    """
    everything = tuple(dict.fromkeys((*prefixes, *tree)))
    work = _Examination(view, tuple(prefixes), machine, everything, tuple(searched), go_on)
    for prefix in work.prefixes:
        work.collect(prefix)
    return work.verdict()


@dataclass(slots=True)
class _Examination:
    view: FileView
    prefixes: tuple[str, ...]
    machine: Machine
    tree: tuple[str, ...]
    searched: tuple[str, ...]
    go_on: Callable[[], None]
    known: frozenset[str] = field(init=False)
    libraries: Libraries = field(init=False)
    scripts: Scripts = field(init=False)
    mentions: Mentions = field(init=False)
    dylibs: Dylibs = field(init=False)
    elf: dict[str, ElfFacts] = field(default_factory=dict)
    mach: list[str] = field(default_factory=list)
    paths: dict[tuple[int, int], str] = field(default_factory=dict)  # of ELF files; a file may have several names
    names: dict[str, list[str]] = field(default_factory=dict)
    obstacles: dict[tuple[str, ObstacleKind, str], Obstacle] = field(default_factory=dict)
    stopped: set[str] = field(default_factory=set)
    covered: set[str] = field(default_factory=set)
    count: int = 0

    def __post_init__(self) -> None:
        self.known = frozenset(self.prefixes)
        self.libraries = Libraries(self.view, self.machine)
        programs = [os.path.join(prefix, "bin") for prefix in self.tree]
        self.scripts = Scripts(self.view, (*programs, *self.searched))
        self.mentions = Mentions(self.view, frozenset(self.tree))
        self.dylibs = Dylibs(self.view, self.machine)

    def verdict(self) -> Verdict:
        """Judge programs, then the libraries that no program loads; return everything that was found."""
        self.libraries.most = _LOOKS + _LOOKS_PER_FILE * len(self.elf)
        self._judge_strangers()
        foreign = {path for path, facts in self.elf.items() if not self._fits(path, facts)}
        programs = [path for path in sorted(self.elf) if self.elf[path].role is ElfRole.PROGRAM]
        alone = [path for path in sorted(self.elf) if self.elf[path].role is ElfRole.LIBRARY]
        loaders: dict[str, str] = {}
        try:
            for path in programs:
                if path not in foreign:
                    self._judge_program(path, loaders)
            for path in alone:
                if path not in foreign and path not in self.covered:
                    self._judge_library(path, loaders)
        except ContentError as error:
            self._add(Obstacle(path, ObstacleKind.DAMAGED, "", error.message))
        found = sorted(self.obstacles.values(), key=lambda one: (one.path, one.kind, one.needed))
        return Verdict(len(programs), len(alone), self.count, tuple(found), tuple(sorted(self.stopped)))

    # the walk

    def collect(self, prefix: str) -> None:
        """Look at each file once: what can be judged alone is judged, ELF files are kept for later."""
        pending, seen = [prefix], set[tuple[int, int]]()
        while pending:
            folder = pending.pop()
            for name, status in sorted(self._entries(folder), key=lambda entry: entry[0]):
                path = f"{folder}/{name}"
                if status.is_directory:
                    if name != METADATA or folder != prefix:
                        pending.append(path)
                    continue
                if _LIBRARY.fullmatch(name):
                    self.names.setdefault(name, []).append(path)
                if status.is_link:
                    self._link(path)
                elif status.is_regular and status.size and status.identity not in seen:
                    seen.add(status.identity)
                    if status.is_executable or not _DATA.fullmatch(name):
                        self.go_on()
                        self._file(path, status)

    def _entries(self, folder: str) -> list[tuple[str, FileStatus]]:
        try:
            return list(self.view.entries(folder))
        except LocalDiskError as error:
            self._unreadable(folder, error)
            return []

    def _file(self, path: str, status: FileStatus) -> None:
        try:
            with self.view.opened(path) as read:
                self._content(path, status, read)
        except LocalDiskError as error:
            self._unreadable(path, error)

    def _content(self, path: str, status: FileStatus, read: ReadAt) -> None:
        head = read(0, HEAD)
        if head[:4] == MAGIC:
            self._elf_file(path, status, read)
        elif head[:4] in _MACH and not (head[:4] == _UNIVERSAL and int.from_bytes(head[4:8], "big") >= _FIRST_JAVA):
            self.mach.append(path)
        elif path.endswith(".pyc"):
            if found := stale_bytecode(self.view, path, head):
                self._add(found)
        elif b"\0" not in head:
            if head[:2] == b"#!" and status.is_executable:
                self._script(path, head)
            if status.size <= LARGEST_TEXT:
                rest = read(len(head), status.size - len(head)) if status.size > len(head) else b""
                self._add_all(self.mentions.obstacles(path, body_of(head + rest)))

    def _elf_file(self, path: str, status: FileStatus, read: ReadAt) -> None:
        self.paths[status.identity] = path
        try:
            facts = read_facts(read, status.size)
        except ContentError as error:
            self.libraries.keep(path, status.identity, error.message)
            self._add(Obstacle(path, ObstacleKind.DAMAGED, "", error.message))
            return
        self.libraries.keep(path, status.identity, facts)
        if facts.role is not ElfRole.OTHER:
            self.elf[path] = facts

    def _script(self, path: str, head: bytes) -> None:
        self.count += 1
        found = self.scripts.obstacle(path, head)
        if found is None:
            return
        stops = self._is_for_people(path)
        self._add(found if stops else _as_remark(found))
        if stops:
            self.stopped.add(path)

    def _link(self, path: str) -> None:
        if self.view.status(path) is not None:
            return
        target = self.view.target(path)
        if target.startswith(_ELSEWHERE):
            return
        stops = self._is_for_people(path) or bool(_LIBRARY.fullmatch(os.path.basename(path)))
        self._add(Obstacle(path, ObstacleKind.LINK, target, f"leads to {target}, where nothing is", stops))

    def _is_for_people(self, path: str) -> bool:
        """Return whether a file is where programs are that people start; the others are examples, tests, templates."""
        prefix = self._prefix(path)
        inside = f"{os.path.basename(prefix)}/{path[len(prefix) + 1 :]}"
        return bool(_PROGRAM_FOLDERS.intersection(os.path.dirname(inside).split("/")))

    # programs and libraries

    def _fits(self, path: str, facts: ElfFacts) -> bool:
        """Return whether the machine runs a file; note it if it does not."""
        here = self.machine
        if not facts.architecture:
            return False  # for a graphics card or the kernel's own machine: data to the processor
        if here.system != "linux" or not here.runs(facts.architecture):
            # a cross compiler has folders for the machines that it compiles for
            stops = facts.architecture.rstrip("le") not in path and "cross" not in path
            reason = f"is for Linux on {facts.architecture}; this is {here}"
            self._add(Obstacle(path, ObstacleKind.PLATFORM, facts.architecture, reason, stops))
            self.stopped |= {path} if stops and facts.role is ElfRole.PROGRAM else set()
            return False
        if facts.level > here.level > 0:
            stops = "glibc-hwcaps" not in path
            reason = f"asks for level {facts.level} of x86-64; this is {here}"
            self._add(Obstacle(path, ObstacleKind.LEVEL, str(facts.level), reason, stops))
            self.stopped |= {path} if stops and facts.role is ElfRole.PROGRAM else set()
            return False
        return True

    def _judge_program(self, path: str, loaders: dict[str, str]) -> None:
        self.go_on()
        facts = self.elf[path]
        interpreter = facts.interpreter
        found = self._interpreter(path, facts) if interpreter else None
        if found is not None:
            self._add(found)
            self.stopped.add(path)
        elif interpreter:
            loaders.setdefault(facts.architecture, interpreter)
        if facts.needed:
            loader = interpreter if interpreter and not found else interpreter_for(facts, loaders)
            loading = self.libraries.load(path, facts, loader)
            if found is None:
                self._judge(path, loading)
            else:  # its libraries are judged when there is somebody to load them; here they are not alone
                self._cover(loading)

    def _judge_library(self, path: str, loaders: dict[str, str]) -> None:
        self.go_on()
        facts = self.elf[path]
        self._judge(path, self.libraries.load(path, facts, interpreter_for(facts, loaders)), alone=True)

    def _judge_strangers(self) -> None:
        """Note files for another system: among programs of this one they are somebody's data."""
        here = {self._prefix(path) for path, facts in self.elf.items() if self.machine.runs(facts.architecture)}
        for path in self.mach:
            for found in self.dylibs.obstacles(path):
                is_data = found.kind is ObstacleKind.PLATFORM and self._prefix(path) in here
                self._add(replace(found, stops=not is_data))

    def _prefix(self, path: str) -> str:
        """Return the prefix that a file lies in."""
        folder = os.path.dirname(path)
        while folder not in self.known and folder != "/":
            folder = os.path.dirname(folder)
        return folder

    def _interpreter(self, path: str, facts: ElfFacts) -> Obstacle | None:
        """Return why the kernel cannot start a program's interpreter."""
        name = facts.interpreter
        status = self.view.status(name) if name.startswith("/") else None
        known = self.libraries.facts(name) if status is not None else None
        if status is None:
            reason = f"its interpreter {name} is not there"
        elif isinstance(known, str):
            reason = f"its interpreter {name} cannot be loaded: {known}"
        elif known is not None and known.architecture != facts.architecture:
            reason = f"its interpreter {name} is for {known.architecture}, the program for {facts.architecture}"
        elif not status.is_executable:
            reason = f"its interpreter {name} is not executable"
        else:
            return None
        return Obstacle(path, ObstacleKind.INTERPRETER, name, reason)

    def _judge(self, path: str, loading: Loading, *, alone: bool = False) -> None:
        """Note what a loader lacks; each file of the tree answers for itself, the others for who loads them."""
        self._cover(loading)
        stopped = False
        for one in loading.missing:
            obstacle = self._missing(path, one, alone=alone)
            self._add(obstacle)
            stopped = stopped or obstacle.stops
        for version in loading.versions:
            self._add(self._version(path, version))
            stopped = True
        if stopped and self.elf[path].role is ElfRole.PROGRAM:
            self.stopped.add(path)

    def _cover(self, loading: Loading) -> None:
        self.covered.update(inside for one in loading.objects if (inside := self._inside(one)))

    def _inside(self, loaded: LoadedObject) -> str:
        """Return the path in the tree of a file that is loaded, "" for one from elsewhere."""
        if loaded.path in self.elf:
            return loaded.path
        status = self.view.status(loaded.path)
        return self.paths.get(status.identity, "") if status is not None else ""

    def _missing(self, path: str, one: LibraryMissing, *, alone: bool) -> Obstacle:
        inside = self._inside(one.by)
        unfit = tuple(f"{found} ({why})" for found, why in one.unfit)
        offered = unfit or tuple(self._owners(one.name))
        at = inside or path
        by = "" if inside else one.by.path
        # a program that has loaded the library already has lent it: so plugins find those of their own package
        lent = alone and any(os.path.commonpath((found, at)) in self._above(at) for found in offered if not one.unfit)
        reason = f"needs the library {one.name}"
        if lent:
            reason += ", which the program that loads it must have loaded before"
        return Obstacle(at, ObstacleKind.LIBRARY, one.name, reason, not lent, one.looked, offered, by)

    def _above(self, path: str) -> set[str]:
        """Return the folders above a path up to its prefix."""
        prefix = self._prefix(path)
        found, folder = {prefix}, os.path.dirname(path)
        while folder.startswith(f"{prefix}/"):
            found.add(folder)
            folder = os.path.dirname(folder)
        return found

    def _owners(self, name: str) -> Iterator[str]:
        """Yield the files of a name in the tree."""
        name = os.path.basename(name)
        yield from self.names.get(name, ())
        for prefix in self.tree:
            if prefix not in self.known:
                for folder in ("lib", "lib64"):
                    if self.view.status(path := os.path.join(prefix, folder, name)) is not None:
                        yield path

    def _version(self, path: str, one: VersionMissing) -> Obstacle:
        inside = self._inside(one.by)
        library, family = one.library, one.version.rpartition("_")[0]
        best = max(
            (each for each in library.facts.versions_defined if each.startswith(f"{family}_")), key=_order, default=""
        )
        reason = f"needs the version {one.version} of {library.path}"
        if best:
            reason += f", which defines up to {best}"
        by = "" if inside else one.by.path
        return Obstacle(inside or path, ObstacleKind.VERSION, one.version, reason, by=by)

    def _unreadable(self, path: str, error: LocalDiskError) -> None:
        self._add(Obstacle(path, ObstacleKind.UNREADABLE, "", error.message.removeprefix(f"{path}: "), stops=False))

    def _add_all(self, found: Iterator[Obstacle]) -> None:
        for obstacle in found:
            self._add(obstacle)

    def _add(self, found: Obstacle) -> None:
        """Note an obstacle once; of two for the same thing the one that stops the file counts."""
        key = found.path, found.kind, found.needed
        if key not in self.obstacles or (found.stops and not self.obstacles[key].stops):
            self.obstacles[key] = found


def _as_remark(found: Obstacle) -> Obstacle:
    return replace(found, stops=False)


def _order(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]
