"""A program or library and all that is loaded with it, by the loader's own rules and in its order.

glibc: elf/dl-load.c, elf/dl-deps.c, elf/dl-version.c; musl: ldso/dynlink.c. Nothing is executed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from oci_binpkg.errors import ContentError, LocalDiskError
from oci_binpkg.runs.elf_facts import MAGIC, ElfFacts, read_facts
from oci_binpkg.runs.machine import Machine
from oci_binpkg.runs.search_rules import SearchRules, is_musl_loader, rules_of, usual_interpreter
from oci_binpkg.runs.view import FileView

_TOKEN: Final = re.compile(r"\$(?:\{(ORIGIN|LIB|PLATFORM)\}|(ORIGIN|LIB|PLATFORM)(?![A-Za-z0-9_]))")
_DEEPEST: Final = 40
"""How many libraries of the system deep each is looked at for itself."""
_MUSL_ITSELF: Final = re.compile(r"lib(c|pthread|rt|m|dl|util|xnet)\.")
"""Libraries whose names begin so are musl's loader itself."""


@dataclass(frozen=True, slots=True, eq=False)
class LoadedObject:
    """A file as it is loaded: the path by which it was found, and the object that asked for it first."""

    path: str
    facts: ElfFacts
    origin: str
    loader: LoadedObject | None = None

    @property
    def chain(self) -> Iterator[LoadedObject]:
        """The object, the one that loaded it, and so on up to the program."""
        each: LoadedObject | None = self
        while each is not None:
            yield each
            each = each.loader


@dataclass(frozen=True, slots=True)
class LibraryMissing:
    """A library that the loader does not find. `unfit` are files of that name that it cannot take, with the reason."""

    by: LoadedObject
    name: str
    looked: tuple[str, ...]
    unfit: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class VersionMissing:
    """A symbol version that the library which was found does not define."""

    by: LoadedObject
    version: str
    library: LoadedObject


@dataclass(frozen=True, slots=True)
class Loading:
    """What a loader would load, in its order, and what keeps it from starting the program."""

    objects: tuple[LoadedObject, ...]
    missing: tuple[LibraryMissing, ...] = ()
    versions: tuple[VersionMissing, ...] = ()


@dataclass(slots=True)
class Libraries:
    """Finds libraries in a view for a machine; what was read of a file is kept for the next program."""

    view: FileView
    machine: Machine
    most: int = 1_000_000
    looks: int = 0
    _facts: dict[str, ElfFacts | str | None] = field(default_factory=dict)
    _files: dict[tuple[int, int], ElfFacts | str] = field(default_factory=dict)
    _rules: dict[tuple[str, str], SearchRules] = field(default_factory=dict)
    _folders: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _versions: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    _sound: dict[str, bool] = field(default_factory=dict)
    _depth: int = 0

    def facts(self, path: str) -> ElfFacts | str | None:
        """Return what is known of the ELF file at a path; why it cannot be loaded; None if nothing is there."""
        if path not in self._facts:
            self._facts[path] = self._read(path)
        return self._facts[path]

    def keep(self, path: str, identity: tuple[int, int], facts: ElfFacts | str) -> None:
        """Remember what somebody else has read of a file."""
        self._facts[path] = self._files[identity] = facts

    def take(self) -> None:
        """Count one look for a library. Raises `ContentError` for more than files of any use ask for."""
        self.looks += 1
        if self.looks > self.most:
            raise ContentError(f"libraries are looked for in more than {self.most} places")

    def rules(self, interpreter: str, architecture: str) -> SearchRules:
        """Return the rules of the loader at a path."""
        key = interpreter, architecture
        if key not in self._rules:
            self._rules[key] = rules_of(self.view, interpreter, architecture)
        return self._rules[key]

    def load(self, path: str, facts: ElfFacts, interpreter: str, *, whole: bool = False) -> Loading:
        """Load a program, or a library as if a program without search paths of its own had asked for it.

        Unless the `whole` is wanted, what libraries of the system need of each other is looked at once, and not for
        each program again.
        """
        # the kernel tells programs their path without links, libraries know the one by which they were found
        origin = os.path.dirname(self.view.resolve(path) if facts.interpreter else path)
        rules = self.rules(interpreter, facts.architecture)
        work = _LoadingWork(self, rules, LoadedObject(path, facts, origin), whole=whole or rules.is_musl)
        loader = self.facts(interpreter) if interpreter else None
        if isinstance(loader, ElfFacts):
            work.enter(LoadedObject(interpreter, loader, os.path.dirname(interpreter)), os.path.basename(interpreter))
        return work.run()

    def is_sound(self, path: str, facts: ElfFacts, rules: SearchRules) -> bool:
        """Return whether a library of the loader's own directories finds all it needs in them, whoever loads it."""
        if path not in self._sound and self._depth < _DEEPEST:
            self._sound[path] = False  # until it is known: libraries may need each other
            self._depth += 1
            if facts.runpath is None and not facts.rpath and os.path.dirname(path) in rules.directories:
                work = _LoadingWork(self, rules, LoadedObject(path, facts, os.path.dirname(path)), whole=False)
                loading = work.run()
                self._sound[path] = not loading.missing and not loading.versions and work.is_settled
            self._depth -= 1
        return self._sound.get(path, False)

    def folders(self, directory: str, *, is_musl: bool) -> tuple[str, ...]:
        """Return a directory after those of its subdirectories that glibc prefers on this machine."""
        if is_musl:
            return (directory,)
        if directory not in self._folders:
            above = os.path.join(directory, "glibc-hwcaps")
            better = self.machine.library_folders if self.view.status(above) else ()
            self._folders[directory] = (*(os.path.join(above, name) for name in better), directory)
        return self._folders[directory]

    def lacking(self, by: LoadedObject, library: LoadedObject, name: str) -> tuple[str, ...]:
        """Return the symbol versions that one file needs of a library, and that it does not define."""
        key = by.path, library.path
        if key not in self._versions:
            defined = library.facts.versions_defined
            wanted = (need for need in by.facts.versions_needed if need.file == name and not need.weak)
            # glibc only warns of a library without any versions
            self._versions[key] = tuple(need.version for need in wanted if defined and need.version not in defined)
        return self._versions[key]

    def _read(self, path: str) -> ElfFacts | str | None:
        status = self.view.status(path)
        if status is None:
            return None
        if not status.is_regular:
            return "not a regular file"
        if status.identity not in self._files:
            try:
                with self.view.opened(path) as read:
                    head = read(0, len(MAGIC))
                    self._files[status.identity] = read_facts(read, status.size) if head == MAGIC else "no ELF file"
            except (ContentError, LocalDiskError) as error:
                self._files[status.identity] = error.message
        return self._files[status.identity]


class _LoadingWork:
    """One program on its way: what is loaded so far, under all names that it has."""

    def __init__(self, libraries: Libraries, rules: SearchRules, main: LoadedObject, *, whole: bool) -> None:
        self.libraries, self.rules, self.main, self.whole = libraries, rules, main, whole
        self.is_settled = True  # whether all that was loaded came from the loader's own directories
        self.named: dict[str, LoadedObject] = {}
        self.read: dict[int, LoadedObject] = {}
        self.objects = [main]
        self.missing: list[LibraryMissing] = []
        self.enter(main, main.path)

    def enter(self, found: LoadedObject, *names: str) -> None:
        """Note the names under which an object is known from now on."""
        self.read[id(found.facts)] = found
        for name in (*names, found.path, found.facts.soname):
            if name:
                self.named.setdefault(name, found)

    def run(self) -> Loading:
        """Load breadth first, as loaders do: who asks for a library first is who it is searched for."""
        for each in self.objects:  # grows while it is read
            if self.whole or each is self.main or not self._is_sound(each):
                for name in each.facts.needed:
                    self._need(each, name)
        return Loading(tuple(self.objects), tuple(self.missing), tuple(self._lacking_versions()))

    def _is_sound(self, each: LoadedObject) -> bool:
        if any(one.facts.rpath for one in each.chain):
            return False
        sound = self.libraries.is_sound(each.path, each.facts, self.rules)
        self.is_settled = self.is_settled and sound
        return sound

    def _need(self, by: LoadedObject, name: str) -> None:
        if name in self.named or (self.rules.is_musl and _MUSL_ITSELF.match(name)):
            return
        path = self._expanded(name, by)
        looked: dict[str, None] = {}
        unfit: list[tuple[str, str]] = []
        candidates = [path] if "/" in path else self._candidates(path, by, looked)
        for candidate in candidates:
            self.libraries.take()
            facts = self.libraries.facts(candidate)
            reason = self._unfit(facts)
            if isinstance(facts, ElfFacts) and not reason:
                self._loaded(by, name, candidate, facts)
                return
            if reason:
                unfit.append((candidate, reason))
                if not self._is_passed_over(facts):
                    break
        self.missing.append(LibraryMissing(by, name, tuple(looked), tuple(unfit)))

    def _loaded(self, by: LoadedObject, name: str, path: str, facts: ElfFacts) -> None:
        known = self.read.get(id(facts))  # one file is loaded once, under whatever names it is found
        if known is None:
            known = LoadedObject(path, facts, os.path.dirname(path), by)
            self.objects.append(known)
        self.enter(known, name)

    def _unfit(self, facts: ElfFacts | str | None) -> str:
        """Return why a file cannot be loaded with the program, "" if it can or if none is there."""
        if facts is None or isinstance(facts, str):
            return facts or ""
        if facts.architecture != self.main.facts.architecture:
            return f"for {facts.architecture or 'another processor'}"
        if facts.level > self.libraries.machine.level > 0:
            return f"for level {facts.level} of x86-64"
        return ""

    def _is_passed_over(self, facts: ElfFacts | str | None) -> bool:
        """Return whether the loader looks further after a file that it cannot take: glibc does, for other machines'."""
        return (
            isinstance(facts, ElfFacts)
            and facts.architecture != self.main.facts.architecture
            and not self.rules.is_musl
        )

    def _candidates(self, name: str, by: LoadedObject, looked: dict[str, None]) -> Iterator[str]:
        for directory in self._directories(by):
            if directory not in looked:
                looked[directory] = None
                for folder in self.libraries.folders(directory, is_musl=self.rules.is_musl):
                    yield f"{folder}/{name}"

    def _directories(self, by: LoadedObject) -> Iterator[str]:
        rules = self.rules
        if rules.is_musl:
            for each in by.chain:
                yield from self._paths(each.facts.rpath if each.facts.runpath is None else each.facts.runpath, each)
            yield from rules.system
            return
        if by.facts.runpath is None:
            for each in by.chain:
                yield from self._paths(each.facts.rpath, each)
        yield from self._paths(by.facts.runpath or (), by)
        if by.facts.no_default:
            yield from (directory for directory in rules.listed if directory not in rules.system)
        else:
            yield from (*rules.listed, *rules.system)

    def _paths(self, paths: tuple[str, ...], of: LoadedObject) -> Iterator[str]:
        """Yield the directories of a search path; relative ones mean another place for each who starts the program."""
        for path in paths:
            expanded = self._expanded(path, of)
            if expanded.startswith("/"):
                yield expanded.rstrip("/") or "/"

    def _expanded(self, text: str, of: LoadedObject) -> str:
        if "$" not in text:
            return text
        values = {"ORIGIN": of.origin, "LIB": self.rules.lib, "PLATFORM": self.rules.platform}
        if self.rules.is_musl:
            values = {"ORIGIN": of.origin}
        return _TOKEN.sub(lambda found: values.get(found[1] or found[2], found[0]), text)

    def _lacking_versions(self) -> Iterator[VersionMissing]:
        if self.rules.is_musl:
            return  # it takes symbols of whatever version
        for each in self.objects:
            for name in dict.fromkeys(need.file for need in each.facts.versions_needed):
                library = self.named.get(name)
                if library is not None:
                    for version in self.libraries.lacking(each, library, name):
                        yield VersionMissing(each, version, library)


def interpreter_for(facts: ElfFacts, programs: dict[str, str]) -> str:
    """Return the loader that a library alone would meet: that of `programs` (by architecture), or the usual one."""
    with suppress(KeyError):
        return programs[facts.architecture]
    musl = any(name.startswith("libc.musl") or is_musl_loader(name) or name == "libc.so" for name in facts.needed)
    return usual_interpreter(facts.architecture, musl=musl)
