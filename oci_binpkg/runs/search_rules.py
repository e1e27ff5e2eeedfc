"""Where a dynamic loader looks for libraries when the files that need them do not say: glibc's rules, and musl's.

What was compiled into a loader is read from the loader itself, because distributions and package managers change it.
ld.so(8), ldconfig(8); musl: ldso/dynlink.c.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Final

from oci_binpkg.errors import LocalDiskError
from oci_binpkg.runs.view import FileView

_GLIBC_SYSTEM: Final = re.compile(rb"\0((?:/[\x21-\x7e]+/\0)+)")
_GLIBC_CACHE: Final = re.compile(rb"\0(/[\x21-\x7e]{1,1000})/ld\.so\.cache\0")
_MUSL_SYSTEM: Final = re.compile(rb"(?<=\0)((?:/[\x21-\x39\x3b-\x7e]+:)+/[\x21-\x39\x3b-\x7e]+)(?=\0)")
_MUSL_DEFAULT: Final = ("/lib", "/usr/local/lib", "/usr/lib")
_LARGEST_LOADER: Final = 16 * 1024 * 1024
_LARGEST_LIST: Final = 1024 * 1024
_MOST_INCLUDES: Final = 10

_WELL_KNOWN: Final = {
    "x86_64": "/lib64/ld-linux-x86-64.so.2",
    "i386": "/lib/ld-linux.so.2",
    "x32": "/libx32/ld-linux-x32.so.2",
    "aarch64": "/lib/ld-linux-aarch64.so.1",
    "arm": "/lib/ld-linux-armhf.so.3",
    "ppc64le": "/lib64/ld64.so.2",
    "ppc64": "/lib64/ld64.so.1",
    "riscv64": "/lib/ld-linux-riscv64-lp64d.so.1",
    "s390x": "/lib/ld64.so.1",
    "loongarch64": "/lib64/ld-linux-loongarch-lp64d.so.1",
    "mips64el": "/lib64/ld.so.1",
}
_MUSL_NAMES: Final = {"arm": "armhf", "ppc64le": "powerpc64le", "ppc64": "powerpc64", "ppc": "powerpc"}
_TRIPLETS: Final = {
    "ppc64le": "powerpc64le-linux-gnu",
    "arm": "arm-linux-gnueabihf",
    "mips64el": "mips64el-linux-gnuabi64",
    "x32": "x86_64-linux-gnux32",
}


@dataclass(frozen=True, slots=True)
class SearchRules:
    """What one loader does. `listed` directories come from its configuration, `system` ones were compiled into it.

    `lib` is what `$LIB` stands for, `platform` what `$PLATFORM` does.
    """

    is_musl: bool
    system: tuple[str, ...]
    listed: tuple[str, ...] = ()
    lib: str = "lib"
    platform: str = ""

    @property
    def directories(self) -> frozenset[str]:
        """All directories that are searched for whoever asks."""
        return frozenset((*self.listed, *self.system))


def usual_interpreter(architecture: str, *, musl: bool) -> str:
    """Return the path where programs of an architecture expect their loader; "" if that is not known."""
    if musl:
        return f"/lib/ld-musl-{_MUSL_NAMES.get(architecture, architecture)}.so.1"
    return _WELL_KNOWN.get(architecture, "")


def is_musl_loader(path: str) -> bool:
    """Return whether the path of an interpreter is that of musl's loader."""
    return os.path.basename(path).startswith("ld-musl")


def rules_of(view: FileView, interpreter: str, architecture: str) -> SearchRules:
    """Return the rules of the loader at a path; the usual rules of an architecture if the file is absent."""
    compiled = _whole(view, interpreter, _LARGEST_LOADER) if interpreter else b""
    if is_musl_loader(interpreter):
        return _musl_rules(view, interpreter, compiled)
    found = _GLIBC_SYSTEM.search(compiled)
    system = tuple(_directories(os.fsdecode(found[1]).split("\0"))) if found else _usual_directories(architecture)
    cache = _GLIBC_CACHE.search(compiled)
    folder = os.fsdecode(cache[1]) if cache else "/etc"
    listed = tuple(dict.fromkeys(_listed(view, os.path.join(folder, "ld.so.conf"), 0)))
    first = system[0] if system else "/lib"
    # glibc is told its library directory, and takes the part of it that is below the root or the prefix
    lib = first.lstrip("/") if first.startswith("/lib") else os.path.basename(first)
    return SearchRules(False, system, listed, lib, architecture)


def _musl_rules(view: FileView, interpreter: str, compiled: bytes) -> SearchRules:
    prefix = os.path.dirname(os.path.dirname(interpreter))
    name = os.path.basename(interpreter).removesuffix(".so.1")
    said = _whole(view, f"{prefix}/etc/{name}.path", _LARGEST_LIST)
    if said:
        return SearchRules(True, tuple(_directories(re.split(r"[:\n]", os.fsdecode(said)))))
    for found in _MUSL_SYSTEM.finditer(compiled):
        if b"/lib" in found[1]:
            return SearchRules(True, tuple(_directories(os.fsdecode(found[1]).split(":"))))
    return SearchRules(True, _MUSL_DEFAULT)


def _usual_directories(architecture: str) -> tuple[str, ...]:
    triplet = _TRIPLETS.get(architecture, f"{architecture}-linux-gnu")
    return (f"/lib/{triplet}", f"/usr/lib/{triplet}", "/lib64", "/usr/lib64", "/lib", "/usr/lib")


def _directories(paths: list[str]) -> Iterator[str]:
    for path in paths:
        if path.startswith("/"):
            yield path.rstrip("/") or "/"


def _listed(view: FileView, path: str, depth: int) -> Iterator[str]:
    """Yield the directories that a configuration of ldconfig lists, with the files it includes."""
    for line in os.fsdecode(_whole(view, path, _LARGEST_LIST)).splitlines():
        words = line.partition("#")[0].split(maxsplit=1)
        if not words or words[0] == "hwcap":
            continue
        if words[0] != "include":
            yield from _directories(re.split(r"[\s:,]+", line.partition("#")[0].strip()))
        elif depth < _MOST_INCLUDES:
            for pattern in words[1].split() if words[1:] else ():
                for included in _matching(view, os.path.join(os.path.dirname(path), pattern)):
                    yield from _listed(view, included, depth + 1)


def _matching(view: FileView, pattern: str) -> list[str]:
    """Return the files that a pattern names, whose last part alone may hold `*`, sorted."""
    folder, name = os.path.split(pattern)
    with suppress(LocalDiskError):
        return sorted(os.path.join(folder, entry) for entry, _ in view.entries(folder) if fnmatch(entry, name))
    return []


def _whole(view: FileView, path: str, most: int) -> bytes:
    """Return the content of a file; nothing if it is not there or cannot be read."""
    status = view.status(path)
    if status is not None and status.is_regular:
        with suppress(LocalDiskError), view.opened(path) as read:
            return read(0, most)
    return b""
