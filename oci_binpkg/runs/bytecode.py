"""Compiled Python: whether it is current, so that Python does not compile its source again at each start.

PEP 3147 (where the files are), PEP 552 (their header).
"""

from __future__ import annotations

import importlib.util
import os
import re
import struct
from contextlib import suppress
from typing import Final

from oci_binpkg.errors import LocalDiskError
from oci_binpkg.runs.obstacles import Obstacle, ObstacleKind
from oci_binpkg.runs.view import FileView

HEADER: Final = 16

_CACHE: Final = "__pycache__"
_NAME: Final = re.compile(r"(.+?)\.[a-z]+-?[0-9a-z]+(?:\.opt-\w+)?\.pyc")
_HASHED, _CHECKED = 1, 2
_LARGEST_SOURCE: Final = 16 * 1024 * 1024


def stale_bytecode(view: FileView, path: str, header: bytes) -> Obstacle | None:
    """Return why Python does not use a compiled file, whose first bytes are `header`; None if it does.

    Files without a source, and those that no version of Python since 3.7 has written, are not judged.
    """
    folder, name = os.path.split(path)
    found = _NAME.fullmatch(name)
    if os.path.basename(folder) != _CACHE or found is None or len(header) < HEADER:
        return None
    source = os.path.join(os.path.dirname(folder), f"{found[1]}.py")
    status = view.status(source)
    if status is None or not status.is_regular or header[2:4] != b"\r\n":
        return None
    flags, time, size = struct.unpack_from("<3I", header, 4)
    if not flags:
        if (time, size) == (status.mtime & 0xFFFFFFFF, status.size & 0xFFFFFFFF):
            return None
        what = "time" if size == status.size & 0xFFFFFFFF else "size"
        return _stale(path, source, f"it is of a source of another {what}")
    if flags == _HASHED | _CHECKED and header[:4] == importlib.util.MAGIC_NUMBER:
        with suppress(LocalDiskError), view.opened(source) as read:
            if importlib.util.source_hash(read(0, _LARGEST_SOURCE)) != header[8:HEADER]:
                return _stale(path, source, "it is of a source of another content")
    return None


def _stale(path: str, source: str, reason: str) -> Obstacle:
    return Obstacle(path, ObstacleKind.BYTECODE, source, f"Python compiles it again: {reason}", stops=False)
