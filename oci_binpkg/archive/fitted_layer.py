"""Layers of packages as a base image wants them.

The directories above a prefix are as the base has them, or the prefix really lies somewhere else: a link leads there.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable
from itertools import chain
from typing import BinaryIO, Final

from oci_binpkg.archive.binary_distribution import Relocations
from oci_binpkg.archive.codec import Codec, Sink, decompressed
from oci_binpkg.archive.layer import LayerFile
from oci_binpkg.archive.layer_frame import member
from oci_binpkg.archive.merged_layer import NotInPartsError, body_of, end_of, members, parents_of
from oci_binpkg.archive.tar_walk import TarBlocks, walk_tar
from oci_binpkg.archive.tar_writer import TarSummary, header
from oci_binpkg.disk import disk_refusal
from oci_binpkg.errors import ContentError
from oci_binpkg.model.content import Digest
from oci_binpkg.model.image import Layer

_CODEC: Final = Codec("gzip", 2)
_NOTHING: Final = TarSummary(0, 0, 0, (), Relocations())
_KINDS: Final = frozenset({tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE})


def with_parents(layer: Layer, prefix: str, parents: bytes, what: str, path: str) -> LayerFile:
    """Write a layer with other headers of the directories above its prefix into the new file `path`.

    The body is not compressed again if the layer has one. Raises `ContentError`, `LocalDiskError`.
    """
    try:
        return _written(path, lambda file: file.reframe(layer, prefix, parents, what))
    except NotInPartsError:
        return _written(path, lambda file: file.compress(layer, prefix, parents, what), replace=True)


def moved(layer: Layer, prefix: str, real: str, what: str, path: str) -> LayerFile:
    """Write the layer of a package at `prefix` as one at `real` into the new file `path`.

    Raises `ContentError` for a layer that holds anything else, `LocalDiskError`.
    """
    return _written(path, lambda file: file.move(layer, prefix, real, what))


def _written(path: str, fill: Callable[[_FittedFile], None], *, replace: bool = False) -> LayerFile:
    try:
        with open(path, "wb" if replace else "xb") as file:
            made = _FittedFile(file)
            fill(made)
    except OSError as error:
        raise disk_refusal(f"{path}: cannot be written", error, hint="free some space") from error
    return made.finished(path)


class _FittedFile:
    """A layer that is being written: its bytes and its tar are counted and hashed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self._diff = hashlib.sha256()
        self._size = self._uncompressed = 0

    def finished(self, path: str) -> LayerFile:
        """Return what was written."""
        digest, diff_id = (Digest("sha256", each.hexdigest()) for each in (self._hash, self._diff))
        return LayerFile(path, digest, self._size, diff_id, self._uncompressed, _NOTHING)

    def reframe(self, layer: Layer, prefix: str, parents: bytes, what: str) -> None:
        """Copy the body as it is. Raises `NotInPartsError`."""
        above = parents_of([prefix])
        with layer.blob.open() as stream:
            found = members(stream, what)
            if above and next(found, (b"", b"")) != (member(above), above):
                raise NotInPartsError
            self._frame(parents)
            held = next(found, (b"", b""))
            size = 0
            for each in found:
                self._write(held[0])
                self._content(held[1])
                size += len(held[1])
                held = each
        end = end_of(len(above) + size)
        if held != (member(end), end):
            raise NotInPartsError
        self._frame(end_of(self._uncompressed))

    def compress(self, layer: Layer, prefix: str, parents: bytes, what: str) -> None:
        """Compress the body anew."""
        self._frame(parents)
        with layer.blob.open() as stream, _CODEC.compressor(self._write) as compressor:
            for chunk in body_of(decompressed(stream, what, several_frames=True), prefix, what):
                compressor.write(chunk)
                self._content(chunk)
        self._frame(end_of(self._uncompressed))

    def move(self, layer: Layer, prefix: str, real: str, what: str) -> None:
        """Write the body under other names."""
        self._frame(parents_of([real]))
        with layer.blob.open() as stream, _CODEC.compressor(self._write) as compressor:

            def put(data: bytes | bytearray) -> None:
                compressor.write(data)
                self._content(data)

            body = body_of(decompressed(stream, what, several_frames=True), prefix, what)
            _move(TarBlocks(chain(body, [bytes(2 * tarfile.BLOCKSIZE)]), what), prefix, real, put)
        self._frame(end_of(self._uncompressed))

    def _frame(self, data: bytes) -> None:
        self._write(member(data))
        self._content(data)

    def _write(self, data: bytes | bytearray) -> None:
        self._file.write(data)
        self._hash.update(data)
        self._size += len(data)

    def _content(self, data: bytes | bytearray) -> None:
        self._diff.update(data)
        self._uncompressed += len(data)


def _move(reader: TarBlocks, prefix: str, real: str, put: Sink) -> None:
    old, new = prefix.strip("/"), real.strip("/")

    def renamed(name: str) -> str:
        if name != old and not name.startswith(f"{old}/"):
            raise ContentError(f"{reader.what} is not that of a package at {prefix}")
        return new + name[len(old) :]

    for each in walk_tar(reader):
        info = each.info
        kind = tarfile.REGTYPE if info.type == tarfile.AREGTYPE else info.type
        if kind not in _KINDS:
            raise ContentError(f"{reader.what} holds what no package holds: {each.name[:200]!r}")
        target = renamed(info.linkname.strip("/")) if kind == tarfile.LNKTYPE else info.linkname
        size = info.size if kind == tarfile.REGTYPE else 0
        put(header(renamed(each.name), kind, info.mode & 0o7777, size=size, target=target))
        for piece in reader.pieces(each.padded):
            put(piece)
