"""Unpacked layers as one directory, made of hard links: for programs that mount no overlay."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Sequence
from contextlib import suppress

from oci_binpkg.archive.root_layer import OPAQUE, OPAQUE_MARK
from oci_binpkg.archive.tar_reader import WHITEOUT


def link_layers(layers: Sequence[str], directory: str) -> None:
    """Fill `directory`, which is empty, with what `layers`, from the lowest to the highest, make together.

    Files are hard links: who writes to them changes the layers. Raises `OSError`.
    """
    for layer in layers:
        _merge(layer, directory)


def _merge(source: str, target: str) -> None:
    with os.scandir(source) as found:
        entries = list(found)
    if _is_opaque(source, entries):
        for name in os.listdir(target):
            _remove(os.path.join(target, name))
    for entry in sorted(entries, key=lambda entry: not entry.name.startswith(WHITEOUT)):
        place = os.path.join(target, entry.name)
        if entry.name == OPAQUE_MARK:
            continue
        if entry.name.startswith(WHITEOUT):
            _remove(os.path.join(target, entry.name.removeprefix(WHITEOUT)))
        elif _hides(entry):
            _remove(place)
        elif entry.is_dir(follow_symlinks=False):
            _enter(entry, place)
        else:
            _remove(place)
            os.link(entry.path, place, follow_symlinks=False)


def _enter(entry: os.DirEntry[str], place: str) -> None:
    if os.path.islink(place) or not os.path.isdir(place):
        _remove(place)
        os.mkdir(place)
    _merge(entry.path, place)
    os.chmod(place, stat.S_IMODE(entry.stat(follow_symlinks=False).st_mode))


def _is_opaque(source: str, entries: Sequence[os.DirEntry[str]]) -> bool:
    with suppress(OSError):
        if os.getxattr(source, OPAQUE, follow_symlinks=False) == b"y":
            return True
    return any(entry.name == OPAQUE_MARK for entry in entries)


def _hides(entry: os.DirEntry[str]) -> bool:
    status = entry.stat(follow_symlinks=False)
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        with suppress(FileNotFoundError):
            os.unlink(path)
