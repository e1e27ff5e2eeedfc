"""Compiled files of a tree that was just unpacked agree with their sources, as these are now.

Unpacking gives a source another time, and relocation another size, so Python would compile all of them again at each
start where it cannot write. The header of a compiled Python file is changed to name the source as it was placed, if it
named the source that came with it: a layer keeps no times, so the size decides, and a packer that knew better has
written a size that fits none. Guile and Emacs compare the times of two files: compiled files become the youngest.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Final

from oci_binpkg.disk import disk_refusal
from oci_binpkg.relocate.compiled_python import HEADER, is_cache, naming, naming_content, read_header, source_of
from oci_binpkg.relocate.files import opened

_OTHERS: Final = (".go", ".elc", ".eln", ".pmc", ".ji")
"""What Guile, Emacs, Perl and Julia compile."""
_SIZE: Final = 0xFFFFFFFF
_LARGEST_SOURCE: Final = 4 * 1024 * 1024


def settle_compiled(
    directory: str, sizes: Mapping[str, int], *, changed: Collection[str] = (), left: Collection[str] = ()
) -> frozenset[str]:
    """Let the compiled files at `directory` name their sources; return the paths of those that were changed.

    `sizes` are the regular files of the tree and their sizes before its relocation, `changed` those that it changed.
    Compiled files in `left` still hold an old prefix: they keep a header that fits no source, so that Python compiles
    the source again. Raises `LocalDiskError`.
    """
    settled = set()
    for path in filter(is_cache, sizes):
        source = source_of(path)
        if (
            source is not None
            and source in sizes
            and path not in left
            and _settle(directory, path, source, sizes[source], changed)
        ):
            settled.add(path)
    for path in sizes:
        if path.endswith(_OTHERS):
            try:
                os.utime(os.path.join(directory, path), follow_symlinks=False)
            except OSError as error:
                raise disk_refusal(f"cannot set the time of {os.path.join(directory, path)}", error) from error
    return frozenset(settled)


def _settle(directory: str, path: str, source: str, size: int, changed: Collection[str]) -> bool:
    """Change the header of one file. Return whether it is another one now."""
    with opened(os.path.join(directory, path)) as file:
        head = os.pread(file, HEADER, 0)
        header = read_header(head)
        if header is None:
            return False
        new = head
        if header.is_timed and header.size == size & _SIZE:
            status = _status(directory, source)
            new = naming(head, int(status.st_mtime), status.st_size)
        elif header.is_checked and source in changed and size <= _LARGEST_SOURCE:
            with opened(os.path.join(directory, source), os.O_RDONLY) as text:
                new = naming_content(head, os.pread(text, os.fstat(text).st_size, 0))
        if new == head:
            return False
        os.pwrite(file, new, 0)
        return True


def _status(directory: str, source: str) -> os.stat_result:
    path = os.path.join(directory, source)
    try:
        return os.lstat(path)
    except OSError as error:
        raise disk_refusal(f"{path}: cannot be read", error) from error
