"""The layer of an image with what long interpreter lines need: `bin/sbang` of the store, and its launcher."""

from __future__ import annotations

import os
import stat
import struct
import tarfile
import zlib
from collections.abc import Collection, Iterator
from typing import Final

from oci_binpkg.archive.tar_writer import PARENT_MODE, header
from oci_binpkg.disk import open_file
from oci_binpkg.model.content import OCI_LAYER_GZIP, Blob, Digest
from oci_binpkg.model.image import Layer
from oci_binpkg.relocate.interpreter_lines import LAUNCHER
from oci_binpkg.relocate.sbang import LAUNCHER_SCRIPT, SCRIPT

_LINE: Final = 512
_EXECUTABLE: Final = 0o111
_GZIP_HEADER: Final = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
_SCRIPTS: Final = {b"": SCRIPT, LAUNCHER: LAUNCHER_SCRIPT}


def sbang_scripts(prefix: str, sbang: str) -> frozenset[bytes]:
    """Return which scripts the programs of a prefix begin with: "" for the one at `sbang`, `-launch` for the launcher.

    Nothing where the tree has none: its scripts do not run then.
    """
    there = [suffix for suffix in _SCRIPTS if os.path.isfile(sbang + suffix.decode())]
    if not there:
        return frozenset()
    wanted = {b"#!/bin/sh " + os.fsencode(sbang) + suffix: suffix for suffix in there}
    return frozenset(wanted[line] for line in _first_lines(prefix) if line in wanted)


def _first_lines(prefix: str) -> Iterator[bytes]:
    for folder, _, names in os.walk(prefix):
        for name in names:
            path = os.path.join(folder, name)
            try:
                status = os.lstat(path)
                if stat.S_ISREG(status.st_mode) and status.st_mode & _EXECUTABLE:
                    with open_file(path, follow=False) as file:
                        yield file.read(_LINE).partition(b"\n")[0].rstrip()
            except OSError:
                continue


def sbang_layer(sbang: str, scripts: Collection[bytes]) -> Layer:
    """Return a layer with scripts beside the path `sbang`; the same bytes for the same path, everywhere.

    It is not compressed: no library decides on its bytes.
    """
    folder = os.path.dirname(sbang).lstrip("/")
    data = header(folder, tarfile.DIRTYPE, PARENT_MODE)
    for suffix in sorted(scripts):
        content = _SCRIPTS[suffix].encode()
        data += header(sbang.lstrip("/") + suffix.decode(), tarfile.REGTYPE, PARENT_MODE, size=len(content))
        data += content.ljust(-(-len(content) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE, b"\0")
    data = data.ljust(-(-(len(data) + 2 * tarfile.BLOCKSIZE) // tarfile.RECORDSIZE) * tarfile.RECORDSIZE, b"\0")
    stored = struct.pack("<BHH", 1, len(data), len(data) ^ 0xFFFF) + data
    packed = _GZIP_HEADER + stored + struct.pack("<II", zlib.crc32(data), len(data))
    return Layer(Blob.from_bytes(packed, OCI_LAYER_GZIP), Digest.of(data))
