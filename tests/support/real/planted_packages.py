"""Debian's packages made to look as if each had been built for a prefix of its own.

Texts and absolute links name the prefixes of the files they mean, programs have their loader and libraries from there,
and Python's sources are compiled there. What cannot grow in place, constants in programs, stays as Debian has it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oci_binpkg.errors import ContentError
from oci_binpkg.runs.elf_facts import MAGIC, ElfFacts, read_facts
from tests.support.real.components import command_path
from tests.support.real.debian_packages import Corpus, build_corpus

FOLDER = "linux-x86_64"
SUFFIX = "-" + "0" * 32
"""Folders and names are as long as those of an install, so that the length of the root alone decides."""

_MENTION = re.compile(rb"(?<![\w./~%*-])/(?:usr|etc|lib|bin|sbin|var)(?:/[\w.+@%:-]*[\w+@%-])+")
_LARGEST_TEXT = 4 * 1024 * 1024
_LOADER = "ld-linux-x86-64.so.2"


def build_planted(count: int | None, *, cache: Path, directory: Path, roots: Sequence[str]) -> Corpus:
    """Unpack `count` packages (None: the whole closure) below `directory` and plant their prefixes. Raises `CorpusError` without packages."""
    corpus = build_corpus(count, cache=cache, directory=directory, roots=roots, folder=FOLDER, suffix=SUFFIX)
    known = {entry["name"]: entry for entry in tomllib.loads(corpus.packages_toml.read_text())["package"]}
    owners = _owners([Path(entry["prefix"]) for entry in known.values()])
    for name, entry in known.items():
        needed = {Path(known[each]["prefix"]) for each in _closure(name, known)}
        _Planter(Path(entry["prefix"]), needed, owners).plant()
    return corpus


def _closure(name: str, known: Mapping[str, Any]) -> set[str]:
    """Return all that a package depends on: an install knows no other prefixes than theirs."""
    found = [name]
    for each in found:
        found += [needed for needed in known[each]["depends"] if needed not in found]
    return set(found[1:])


def _owners(prefixes: Sequence[Path]) -> Mapping[bytes, Sequence[Path]]:
    """Return which prefixes have a path of Debian's; of libraries the bare name, too."""
    owners: dict[bytes, list[Path]] = {}
    for prefix in prefixes:
        for path in prefix.rglob("*"):
            owners.setdefault(b"/" + os.fsencode(path.relative_to(prefix)), []).append(prefix)
            if ".so" in path.name:
                owners.setdefault(os.fsencode(path.name), []).append(path.parent)
    return owners


def files_below(folder: Path) -> Iterator[Path]:
    """Yield all files and links below a folder, sorted."""
    for parent, folders, names in os.walk(folder):
        folders.sort()
        here = Path(parent)
        yield from (here / name for name in sorted([*names, *(f for f in folders if (here / f).is_symlink())]))


@dataclass(frozen=True)
class _Planter:
    """Lets the files of one prefix name it and those in `needed`."""

    prefix: Path
    needed: AbstractSet[Path]
    owners: Mapping[bytes, Sequence[Path]]

    def plant(self) -> None:
        for path in files_below(self.prefix):
            if path.is_symlink():
                self._plant_link(path)
            elif path.is_file():
                with path.open("rb") as file:
                    head = file.read(4)
                if head == MAGIC:
                    self._plant_program(path)
                elif path.stat().st_size <= _LARGEST_TEXT:
                    self._plant_text(path)
        if any(self.prefix.rglob("*.py")):
            argv = [sys.executable, "-m", "compileall", "-qq", "-x", "lib2to3|bad|test", str(self.prefix)]
            subprocess.run(argv, check=False, capture_output=True, timeout=600)

    def _place(self, mention: bytes) -> bytes:
        if (self.prefix / os.fsdecode(mention[1:])).exists():
            return os.fsencode(self.prefix) + mention
        owner = next((each for each in self.owners.get(mention, ()) if each in self.needed), None)
        return mention if owner is None else os.fsencode(owner) + mention

    def _library(self, name: str) -> Path | None:
        """Return the folder that has a library, in this prefix or one that it needs."""
        own = {self.prefix, *self.needed}
        return next((f for f in self.owners.get(os.fsencode(name), ()) if not own.isdisjoint(f.parents)), None)

    def _plant_link(self, path: Path) -> None:
        target = os.fsencode(os.readlink(path))
        if target[:1] == b"/" and (placed := self._place(target)) != target:
            path.unlink()
            os.symlink(placed, os.fsencode(path))

    def _plant_text(self, path: Path) -> None:
        content = path.read_bytes()
        if b"\0" in content or not content.isascii():
            return
        planted = _MENTION.sub(lambda found: self._place(found[0]), content)
        if planted != content:
            status = path.stat()
            path.write_bytes(planted)
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    def _plant_program(self, path: Path) -> None:
        facts = elf_facts(path)
        if facts is None or facts.architecture != "x86_64" or not facts.needed:
            return
        folders = list(dict.fromkeys(str(folder) for name in facts.needed if (folder := self._library(name))))
        change = ["--set-rpath", ":".join(folders)] if folders else []
        if facts.interpreter and (loader := self._library(_LOADER)):
            change += ["--set-interpreter", str(loader / _LOADER)]
        if change:
            argv = [command_path("patchelf"), *change, str(path)]
            subprocess.run(argv, check=False, capture_output=True, timeout=60)


def elf_facts(path: Path) -> ElfFacts | None:
    """Return what a loader reads of an ELF file; None for what it does not read."""
    with path.open("rb") as file:
        descriptor = file.fileno()
        try:
            return read_facts(lambda offset, size: os.pread(descriptor, size, offset), path.stat().st_size)
        except ContentError:
            return None
