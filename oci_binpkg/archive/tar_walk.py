"""The members of any tar, as far as their names, kinds and sizes: base images hold more than packages may.

Source: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Extended Header"; GNU tar manual, "Basic Tar Format".
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator
from typing import Final

from oci_binpkg.errors import ContentError

_PIECE: Final = 1024 * 1024
_LONGEST_HEADER: Final = 1024 * 1024
_EXTENDED: Final = frozenset({b"x", b"g", b"L", b"K"})
_DATALESS: Final = frozenset(
    {tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE}
)


class TarBlocks:
    """The bytes of a tar in pieces of the size that is asked for. Raises `ContentError` naming `what` at its end."""

    def __init__(self, chunks: Iterable[bytes], what: str) -> None:
        self._chunks = iter(chunks)
        self.what = what
        self._buffer = b""
        self.position = 0

    def take(self, size: int) -> bytes:
        """Return `size` bytes."""
        pieces = [self._buffer]
        have = len(self._buffer)
        while have < size:
            chunk = next(self._chunks, b"")
            if not chunk:
                raise ContentError(f"{self.what} is cut short")
            pieces.append(chunk)
            have += len(chunk)
        data = b"".join(pieces) if len(pieces) > 1 else self._buffer
        self._buffer = data[size:]
        self.position += size
        return data[:size]

    def pieces(self, size: int) -> Iterator[bytes]:
        """Yield `size` bytes in pieces."""
        while size:
            piece = self.take(min(size, _PIECE))
            yield piece
            size -= len(piece)

    def skip_to(self, position: int) -> None:
        """Pass over what comes before a position."""
        for _ in self.pieces(max(0, position - self.position)):
            pass

    def finish(self) -> None:
        """Read to the end: only then what was read is verified. Raises `ContentError` if more follows than zeros."""
        for chunk in (self._buffer, *self._chunks):
            if chunk.strip(b"\0"):
                raise ContentError(f"{self.what} goes on after its end")


class Walked:
    """A member: its name without slashes around it, its header, and the blocks that hold the header."""

    def __init__(self, name: str, info: tarfile.TarInfo, blocks: bytes) -> None:
        self.name = name
        self.info = info
        self.blocks = blocks

    @property
    def padded(self) -> int:
        """The bytes of its content, the padding included."""
        return 0 if self.info.type in _DATALESS else self.info.size + -self.info.size % tarfile.BLOCKSIZE


def walk_tar(reader: TarBlocks) -> Iterator[Walked]:
    """Yield the members of a tar, and read it to its end; who wants the content of one takes it from `reader` at once.

    Raises `ContentError`.
    """
    extended: dict[str, str] = {}
    blocks = b""
    while any(block := reader.take(tarfile.BLOCKSIZE)):
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise ContentError(f"{reader.what} is no tar: {error}") from error
        blocks += block
        if info.type in _EXTENDED:
            if info.size > _LONGEST_HEADER or len(blocks) > 4 * _LONGEST_HEADER:
                raise ContentError(f"{reader.what} has an extended header of {info.size} bytes")
            data = reader.take(info.size + -info.size % tarfile.BLOCKSIZE)
            blocks += data
            extended |= _extension(info.type, data[: info.size])
            continue
        info.size = int(extended.get("size", info.size))
        info.linkname = extended.get("linkpath", info.linkname)
        info.uid, info.gid = (int(extended.get(key, known)) for key, known in (("uid", info.uid), ("gid", info.gid)))
        member = Walked(extended.get("path", info.name).strip("/"), info, blocks)
        extended, blocks = {}, b""
        end = reader.position + member.padded
        yield member
        reader.skip_to(end)
    reader.finish()


def _extension(kind: bytes, data: bytes) -> dict[str, str]:
    """Return what an extended header says of the next member."""
    if kind in (b"L", b"K"):
        return {"path" if kind == b"L" else "linkpath": data.rstrip(b"\0").decode("utf-8", "surrogateescape")}
    found: dict[str, str] = {}
    at = 0
    while kind == b"x" and at < len(data):
        digits = data[at : at + 8].partition(b" ")[0]
        if not digits.isdigit() or not int(digits):
            break
        key, _, value = data[at + len(digits) + 1 : at + int(digits) - 1].partition(b"=")
        if key in (b"path", b"linkpath") or (key in (b"size", b"uid", b"gid") and value.isdigit() and len(value) < 20):  # noqa: PLR2004 - 64 bits
            found[key.decode()] = value.decode("utf-8", "surrogateescape")
        at += int(digits)
    return found
