"""Paths that start at the place of the file they stand in: `$ORIGIN/../../dep/lib`, `@loader_path/../lib`. Pure.

Such a path may lead into another prefix, whose place relative to this one changes. Then it is resolved against the old
place of the file, mapped, and written relative to the new one. So did Spack with caches of relative search paths.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from oci_binpkg.relocate.prefixes import PrefixMap

ELF_TOKENS: Final = re.compile(rb"\$(?:ORIGIN|\{ORIGIN\})/+")
"""What the loader of ELF files replaces by the directory of the file."""
MACHO_TOKENS: Final = re.compile(rb"@loader_path/+")
MACHO_PROGRAM_TOKENS: Final = re.compile(rb"@(?:loader|executable)_path/+")
"""In a program both are its own directory; in a library the second one is that of a program unknown."""
MARKS: Final = (b"ORIGIN", b"@loader_path", b"@executable_path")
"""One of these stands in every file that has such a path."""


@dataclass(frozen=True, slots=True)
class FileOrigin:
    """The directory of a file before and after, both absolute."""

    old: bytes
    new: bytes


def mover(mapping: PrefixMap, origin: FileOrigin | None, tokens: re.Pattern[bytes]) -> Callable[[bytes], bytes]:
    """Return what gives a path in a file its new value. Without an origin relative paths stay as they are."""
    if origin is None:
        return mapping.replace_path
    known = origin

    def moved(path: bytes) -> bytes:
        token = tokens.match(path)
        if token is None:
            return mapping.replace_path(path)
        return token[0] + mapping.replace_relative(path[token.end() :], known.old, known.new)

    return moved
