"""Compiled Python files of a prefix, on their way into a layer.

A layer keeps no times: every source comes out of it with the time 0, and Python would take nothing that was compiled
for current. So the header of a compiled file that names its source as it is gets the time 0; any other one gets a size
that fits no source, because its time says nothing any more. Files that Python has written into an installed prefix
are not part of the package, and are left out: where the record of its files has the source and not what was compiled.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection
from functools import cached_property
from typing import Final

from oci_binpkg.relocate.compiled_python import CACHE, NO_SOURCE, is_cache, naming, read_header, source_of

LAYER_TIME: Final = 0
"""The time of every member of a layer."""


class PythonCaches:
    """What becomes of the compiled Python files of the tree at `prefix`.

    `recorded` returns the paths that the record of the prefix has, relative to it, with "." for the prefix itself, or
    None without a good record. It is only called if there is a compiled file.
    """

    def __init__(self, prefix: str, recorded: Callable[[], Collection[str] | None]) -> None:
        self._prefix = prefix
        self._read = recorded

    @cached_property
    def _recorded(self) -> Collection[str] | None:
        return self._read()

    def left_out(self, relative: str) -> bool:
        """Return whether a file, or a folder of compiled files, was written after the package was installed."""
        parent, _, name = relative.rpartition("/")
        if name == CACHE:
            return self._is_new(relative, parent or ".") and all(
                self.left_out(f"{relative}/{each}") for each in _names(os.path.join(self._prefix, relative))
            )
        source = source_of(relative)
        return source is not None and self._is_new(relative, source)

    def header(self, relative: str, head: bytes) -> bytes:
        """Return the header that a compiled file gets in a layer, for the one that it has."""
        header, source = read_header(head), source_of(relative)
        if header is None or source is None or not header.is_timed:
            return head
        try:
            status = os.lstat(os.path.join(self._prefix, source))
        except OSError:
            return head
        if not stat.S_ISREG(status.st_mode):
            return head
        is_current = header.names(int(status.st_mtime), status.st_size)
        return naming(head, LAYER_TIME, status.st_size if is_current else NO_SOURCE)

    def _is_new(self, relative: str, source: str) -> bool:
        return self._recorded is not None and relative not in self._recorded and source in self._recorded


def may_be_cache(name: str) -> bool:
    """Return whether a file or folder of this name is one to ask about."""
    return name == CACHE or is_cache(name)


def follows_source(relative: str) -> bool:
    """Return whether a file has nothing that does not come from another file of the tree."""
    return source_of(relative) is not None


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return [""]
