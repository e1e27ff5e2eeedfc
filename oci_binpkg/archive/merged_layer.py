"""Several packages in one layer, joined from their own layers without compressing them again, and taken out of it.

A merged layer is the frame of all (see `layer_frame`) around the bodies of packages. The digest of each package's own
layer follows from its body. Layers that are no frame and body (Spack's, zstd, those of older releases) are compressed
anew: their bodies make other layers than those they came from.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO, Final, cast

from isal import isal_zlib

from oci_binpkg.archive.binary_distribution import Relocations
from oci_binpkg.archive.codec import BLOCK, Codec, Readable, decompressed
from oci_binpkg.archive.layer import LayerFile
from oci_binpkg.archive.layer_frame import member
from oci_binpkg.archive.tar_walk import TarBlocks, walk_tar
from oci_binpkg.archive.tar_writer import PARENT_MODE, TarSummary, header
from oci_binpkg.disk import disk_refusal
from oci_binpkg.errors import ContentError
from oci_binpkg.model.content import Digest
from oci_binpkg.model.image import Body, Layer

_PIECE: Final = 256 * 1024
_LARGEST_MEMBER: Final = 2 * BLOCK
_MEMBER: Final = 31
"""The window bits that make zlib read one gzip member (zlib manual, inflateInit2)."""
_AGAIN: Final = Codec("gzip", 2)
_DAMAGED: Final = cast("type[Exception]", isal_zlib.error)
_EMPTY: Final = TarSummary(0, 0, 0, (), Relocations())


class NotInPartsError(Exception):
    """A layer is not made of the three parts."""


@dataclass(frozen=True, slots=True)
class MergedPart:
    """A package that goes into a merged layer: its hash, the prefix that its layer has it at, and that layer."""

    hash: str
    prefix: str
    layer: Layer


def parents_of(prefixes: Iterable[str]) -> bytes:
    """Return the headers of all directories above absolute prefixes, each once, those above before those below."""
    found = {str(parent) for prefix in prefixes for parent in PurePosixPath(prefix.strip("/")).parents if parent.name}
    return b"".join(header(path, tarfile.DIRTYPE, PARENT_MODE) for path in sorted(found, key=lambda p: p.split("/")))


def end_of(size: int) -> bytes:
    """Return what ends an archive of `size` bytes: two empty blocks, and up to a whole record."""
    end = 2 * tarfile.BLOCKSIZE
    return bytes(end + -(size + end) % tarfile.RECORDSIZE)


def merge_layers(parts: Sequence[MergedPart], path: str) -> LayerFile:
    """Join packages, in this order, into a layer in the new file `path`.

    Raises `ContentError` for a layer that is damaged or not at its prefix, `LocalDiskError`.
    """
    try:
        with open(path, "xb") as file:
            writer = _Merging(file)
            writer.frame(parents_of(part.prefix for part in parts))
            for part in parts:
                writer.add(part)
            writer.frame(end_of(writer.uncompressed))
    except OSError as error:
        raise disk_refusal(f"{path}: cannot be written", error, hint="free some space") from error
    return writer.finished(path)


class _Merging:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self._diff = hashlib.sha256()
        self._size = 0
        self.uncompressed = 0
        self._bodies: list[Body] = []

    def frame(self, data: bytes) -> None:
        self._write(member(data))
        self._content(data)

    def add(self, part: MergedPart) -> None:
        what = f"the layer of /{part.hash[:7]}"
        start, place, end = self._size, self._file.tell(), (self._hash.copy(), self._diff.copy(), self.uncompressed)
        whole = True
        try:
            with part.layer.blob.open() as stream:
                self._copy(stream, part, what)
        except NotInPartsError:
            whole = False
            self._file.seek(place)
            self._file.truncate()
            self._size = start
            self._hash, self._diff, self.uncompressed = end
            with part.layer.blob.open() as stream:
                self._compress(stream, part, what)
        descriptor = part.layer.blob.descriptor
        own = (descriptor.digest, descriptor.size) if whole else (None, 0)
        self._bodies.append(Body(part.hash, start, self._size - start, *own))

    def finished(self, path: str) -> LayerFile:
        """Return what was written."""
        digest, diff_id = (Digest("sha256", each.hexdigest()) for each in (self._hash, self._diff))
        return LayerFile(path, digest, self._size, diff_id, self.uncompressed, _EMPTY, tuple(self._bodies))

    def _copy(self, stream: Readable, part: MergedPart, what: str) -> None:
        """Copy a body as it is compressed."""
        above = parents_of([part.prefix])
        size = 0
        found = members(stream, what)
        if above:
            raw, content = next(found, (b"", b""))
            if content != above or raw != member(above):
                # one whose directories are as some base has them, too: its own layer does not follow from its body
                raise NotInPartsError
        held = next(found, (b"", b""))
        for each in found:
            self._write(held[0])
            self._content(held[1])
            size += len(held[1])
            held = each
        end = end_of(len(above) + size)
        if not size or held != (member(end), end):
            raise NotInPartsError

    def _compress(self, stream: Readable, part: MergedPart, what: str) -> None:
        """Compress a body anew."""
        with _AGAIN.compressor(self._write) as compressor:
            for chunk in body_of(decompressed(stream, what, several_frames=True), part.prefix, what):
                compressor.write(chunk)
                self._content(chunk)

    def _write(self, data: bytes | bytearray) -> None:
        self._file.write(data)
        self._hash.update(data)
        self._size += len(data)

    def _content(self, data: bytes) -> None:
        self._diff.update(data)
        self.uncompressed += len(data)


def members(stream: Readable, what: str) -> Iterator[tuple[bytes, bytes]]:
    """Yield the members of a gzip stream, each as it is and uncompressed.

    Raises `NotInPartsError` for a member that is larger than a block, or no gzip; `ContentError` for a damaged one.
    """
    data = stream.read(_PIECE)
    while data:
        if not data.startswith(b"\x1f"):
            raise NotInPartsError
        reader = isal_zlib.decompressobj(wbits=_MEMBER)
        raw, content, size = [], [], 0
        while not reader.eof:
            data = data or stream.read(_PIECE)
            if not data:
                raise ContentError(f"{what} is cut short")
            try:
                chunk = reader.decompress(data, _LARGEST_MEMBER)
            except _DAMAGED as error:
                raise ContentError(f"{what} is damaged: {error}") from error
            size += len(chunk)
            left = reader.unused_data or reader.unconsumed_tail
            if size > _LARGEST_MEMBER:
                raise NotInPartsError
            raw.append(data[: len(data) - len(left)])
            content.append(chunk)
            data = left
        yield b"".join(raw), b"".join(content)
        data = data or stream.read(_PIECE)


def body_of(chunks: Iterable[bytes], prefix: str, what: str) -> Iterator[bytes]:
    """Yield what a tar holds of the package at a prefix: all but the directories above it, and the end.

    Raises `ContentError` if it holds anything else.
    """
    root = prefix.strip("/")
    reader = TarBlocks(chunks, what)
    for each in walk_tar(reader):
        if each.info.isdir() and f"{root}/".startswith(f"{each.name}/") and each.name != root:
            continue
        if not f"{each.name}/".startswith(f"{root}/"):
            raise ContentError(f"{what} is not that of a package at {prefix}")
        yield each.blocks
        yield from reader.pieces(each.padded)
