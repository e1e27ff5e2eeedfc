"""Where measurements take place: corpora, a fresh registry for each, and the environment of the command under test."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from corpora import Corpus, Sizes, closure, large, sizes_of, small
from indices import Index, index_of
from measuring import Command, DaemonMemory, Line, Role, Sample, cpu_seconds, task, timed

from tests.support.real.engines import DockerEngine
from tests.support.real.process import clean_environment, short_directory
from tests.support.real.registry import RealRegistry, real_registry

OURS: Final = (sys.executable, "-m", "oci_binpkg")


@dataclass(slots=True)
class Workbench:
    """Makes what jobs need when they first ask for it; everything that is worth keeping lies in `folder`."""

    folder: Path
    _corpora: dict[str, Corpus] = field(default_factory=dict)

    def corpus(self, letter: str) -> Corpus:
        """Return the corpus `a`, `b` or `c`."""
        if letter not in self._corpora:
            made = {"a": closure, "b": large, "c": lambda folder: small(folder, self.corpus("a"))}
            self._corpora[letter] = made[letter](self.folder)
        return self._corpora[letter]

    def sizes(self, letter: str) -> Sizes:
        """Return the sizes of a corpus as tars."""
        return sizes_of(self.corpus(letter), self.folder)

    def index(self, count: int) -> Index:
        """Return an index of so many packages."""
        folder = self.folder / "indices"
        folder.mkdir(parents=True, exist_ok=True)
        return index_of(count, folder)


@dataclass(frozen=True, slots=True)
class Place:
    """A folder and a registry for one measurement, and environments in which nothing is the user's."""

    folder: Path
    registry: RealRegistry

    @property
    def env(self) -> dict[str, str]:
        """Return the environment of a peer."""
        return clean_environment(self.folder)

    @property
    def cache(self) -> str:
        """Return the address of our cache in the registry."""
        return f"oci://{self.registry.host}/bench"

    def measured(self, commands: list[Command], env: dict[str, str], engine: DockerEngine | None = None) -> Sample:
        """Run commands and count what the registry was asked for; a daemon's memory is added to the client's."""
        settle()
        self.registry.forget_requests()
        memory = DaemonMemory(engine.pid) if engine else None
        computed = cpu_seconds(self.registry.pid)
        sample = timed(commands, env=env)
        computed = cpu_seconds(self.registry.pid) - computed
        peak = (sample.peak or 0) + (memory.peak() if memory else 0)
        return replace(sample, peak=peak, requests=len(self.registry.requests()), server=computed)

    def sent(self, sample: Sample) -> Sample:
        """Add the bytes of all layers that the registry has."""
        return replace(sample, size=sum(path.stat().st_size for path in layers_in(self.registry)))


@contextmanager
def fresh_place() -> Iterator[Place]:
    """Give a folder with an empty registry, both gone afterwards."""
    with short_directory() as folder, real_registry(folder / "registry") as registry:
        yield Place(folder, registry)


def our_environment(home: Path) -> dict[str, str]:
    """Return the environment of our command, with caches below `home`."""
    return {**clean_environment(home), "XDG_CACHE_HOME": str(home / "cache"), "XDG_CONFIG_HOME": str(home / "config")}


def layers_in(registry: RealRegistry) -> list[Path]:
    """Return the registry's blobs that are no JSON documents, the largest first."""
    found = (path for path in registry.blobs.rglob("data") if not _is_json(path))
    return sorted(found, key=lambda path: -path.stat().st_size)


def _is_json(path: Path) -> bool:
    with path.open("rb") as blob:
        return blob.read(1) == b"{"


def settle() -> None:
    """Let what earlier runs wrote reach the disk, so that nobody pays for it."""
    os.sync()


def task_line(
    key: str, title: str, role: Role, name: str, *arguments: str, note: str = "", memory: bool = True
) -> Line:
    """Return a line that is one of `tasks.py`; `memory` says whether its peak means anything."""

    def run() -> Sample:
        settle()
        with short_directory() as home:
            sample = task(name, *arguments, env=our_environment(home))
        return sample if memory else replace(sample, peak=None)

    return Line(key, title, role, run, note)
