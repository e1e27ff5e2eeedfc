"""Other paths of a tree: links of this machine that lead to its root, and which of them the files of a package name.

A tree may be given by its real path although its packages were built by that of a link. Links are looked for beside the
root and beside each directory above it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Final

_METADATA: Final = ".spack"
"""What Spack knows of the installation: its paths are records, nobody follows them."""
_MOST_ENTRIES: Final = 10_000
"""No more entries of a directory are looked at: such a one holds the homes of people, or temporary files."""
_MOST_LINKS: Final = 16
_CHUNK: Final = 1024 * 1024


def links_to(root: str) -> tuple[str, ...]:
    """Return the other absolute paths by which links lead to a root, sorted; at most 16."""
    real = os.path.realpath(root)
    found: set[str] = set()
    directory = real
    while directory != "/" and len(found) < _MOST_LINKS:
        directory = os.path.dirname(directory)
        for link in _links_in(directory):
            target = os.path.realpath(link)
            if f"{real}/".startswith(f"{target}/") and target != "/":
                found.add(link + real[len(target) :])
    return tuple(sorted(found - {root, real})[:_MOST_LINKS])


def named_in(prefix: str, paths: Iterable[str]) -> tuple[str, ...]:
    """Return those of some paths that stand in a file or in the target of a link of a package, in their order."""
    wanted = {path: os.fsencode(path) for path in paths}
    missing = dict(wanted)
    for content in _contents(prefix, max(map(len, wanted.values()), default=1)) if wanted else ():
        for path in [path for path, text in missing.items() if text in content]:
            del missing[path]
        if not missing:
            break
    return tuple(path for path in wanted if path not in missing)


def _links_in(directory: str) -> Iterator[str]:
    try:
        with os.scandir(directory) as entries:
            for number, entry in enumerate(entries):
                if number >= _MOST_ENTRIES:
                    return
                if entry.is_symlink() and entry.path.isprintable():
                    yield entry.path
    except OSError:
        return  # what cannot be listed leads nowhere that is known


def _contents(prefix: str, overlap: int) -> Iterator[bytes]:
    for directory, folders, names in os.walk(prefix):
        if directory == prefix and _METADATA in folders:
            folders.remove(_METADATA)
        for name in (*names, *folders):
            path = os.path.join(directory, name)
            try:
                if os.path.islink(path):
                    yield os.fsencode(os.readlink(path))
                elif os.path.isfile(path):
                    yield from _pieces(path, overlap)
            except OSError:
                continue  # packing it says what is wrong with it


def _pieces(path: str, overlap: int) -> Iterator[bytes]:
    with open(path, "rb", buffering=0) as file:
        end = b""
        while chunk := file.read(_CHUNK):
            yield end + chunk
            end = chunk[-overlap:]
