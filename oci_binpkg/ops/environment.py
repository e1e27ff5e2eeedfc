"""What a package adds to the environment of an image that holds it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Final

from oci_binpkg.model.image import Prepend

FOLDERS: Final = (
    ("bin", "PATH"),
    ("man", "MANPATH"),
    ("share/man", "MANPATH"),
    ("share/aclocal", "ACLOCAL_PATH"),
    ("lib/pkgconfig", "PKG_CONFIG_PATH"),
    ("lib64/pkgconfig", "PKG_CONFIG_PATH"),
    ("share/pkgconfig", "PKG_CONFIG_PATH"),
    ("", "CMAKE_PREFIX_PATH"),
)
"""Folder inside a prefix and the variable it is put in front of. Source: Spack's prefix inspections."""


def environment_changes(prefixes: Iterable[tuple[str, str]]) -> Iterator[Prepend]:
    """Yield what packages contribute, in their order; folders that do not exist contribute nothing.

    For each package: its prefix on this machine, and where the image has it.
    """
    for here, there in prefixes:
        for folder, variable in FOLDERS:
            if os.path.isdir(os.path.join(here, folder)):
                yield Prepend(variable, f"{there}/{folder}" if folder else there)
