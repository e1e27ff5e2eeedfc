"""What a package adds to the environment of an image that holds it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Final

from oci_binpkg.model.identifiers import is_path
from oci_binpkg.model.image import Prepend
from oci_binpkg.model.spec import Spec

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


def is_place_of(prefix: str, spec: Spec, own: str = "") -> bool:
    """Whether a prefix that a stored image names can be that of a package, so that it may become a part of PATH.

    A package lies in a directory named after its hash or its name, or in `own`, where a tree has it below its root.
    """
    named = spec.hash[:7] in prefix or spec.name in prefix.rpartition("/")[2]
    return is_path(prefix) and (named or bool(own and prefix.endswith(own)))


def environment_changes(prefixes: Iterable[tuple[str, str]]) -> Iterator[Prepend]:
    """Yield what packages contribute, in their order; folders that do not exist contribute nothing.

    For each package: its prefix on this machine, and where the image has it.
    """
    for here, there in prefixes:
        for folder, variable in FOLDERS:
            if os.path.isdir(os.path.join(here, folder)):
                yield Prepend(variable, f"{there}/{folder}" if folder else there)
