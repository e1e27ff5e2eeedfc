"""Whether the programs of an image find the loader that they name: without it the kernel does not start them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Final

from oci_binpkg.disk import open_file
from oci_binpkg.errors import BinpkgError
from oci_binpkg.installs.protocol import InstallRecord
from oci_binpkg.runs.elf_facts import read_facts

_MAGIC: Final = b"\x7fELF"
_FOLDERS: Final = ("bin", "sbin")
_MOST_PROGRAMS: Final = 2000
"""So many files of a folder are looked at."""


def without_loader(records: Sequence[InstallRecord], has: Callable[[str], bool]) -> list[str]:
    """Return a sentence for each loader that programs of packages name and an image does not have.

    `has` says whether its base has a file. What lies in one of the packages is there.
    """
    places = tuple(f"{record.prefix}/" for record in records)
    wanting: dict[str, list[str]] = {}
    for record in records:
        for program, loader in _programs(record.prefix):
            if not loader.startswith(places):
                wanting.setdefault(loader, []).append(f"{program} of {record.spec.short}")
    return [
        f"no layer of the image has the interpreter {loader[:200]!r}; without it, {_named(programs)} cannot start"
        for loader, programs in wanting.items()
        if not has(loader)
    ]


def _named(programs: Sequence[str]) -> str:
    return f"{programs[0]} and {len(programs) - 1} more" if programs[1:] else programs[0]


def _programs(prefix: str) -> Iterator[tuple[str, str]]:
    """Yield the programs in the usual folders of a prefix that a loader starts, and that loader."""
    for folder in _FOLDERS:
        try:
            with os.scandir(os.path.join(prefix, folder)) as found:
                names = sorted(entry.name for entry in islice(found, _MOST_PROGRAMS))
        except OSError:
            continue
        for name in names:
            loader = _loader(os.path.join(prefix, folder, name))
            if loader:
                yield f"{folder}/{name}", loader


def _loader(path: str) -> str:
    """Return the loader that a program names, "" for everything else, and for what cannot be read."""
    try:
        with open_file(path) as file:
            descriptor = file.fileno()
            if os.pread(descriptor, len(_MAGIC), 0) != _MAGIC:
                return ""
            size = os.fstat(descriptor).st_size
            return read_facts(lambda offset, count: os.pread(descriptor, count, offset), size).interpreter
    except (OSError, BinpkgError):
        return ""
