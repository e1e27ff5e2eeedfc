"""What stands around the files of a package in its layer: the directories above its prefix, and the end of the archive.

A gzip layer is three parts: a member with the headers of those directories, members with the package itself (the body),
and a member with the empty blocks at the end. Bodies of several packages, put one after another between the frame of
them all, are one layer, and nothing is compressed again. The frame is compressed here, by a rule that no library
decides: whoever has a body makes the same frame around it, and so the same layer with the same digest.

Sources: RFC 1951 and 1952; POSIX.1-2017, pax, "ustar Interchange Format".
"""

from __future__ import annotations

import struct
import tarfile
import zlib
from typing import Final

GZIP_HEADER: Final = bytes.fromhex("1f8b08000000000000ff")
"""RFC 1952: deflate, no flags, no time, no hint at the level, unknown system; the header that Spack writes."""
_NEAREST: Final = 3
_LONGEST: Final = 258
_DISTANCES: Final = (1, tarfile.BLOCKSIZE)
"""Where a repetition is looked for: runs of one byte, and the header before this one."""
_LENGTHS: Final = tuple(
    (base, bits)
    for bits, bases in (
        (0, range(3, 11)),
        (1, range(11, 19, 2)),
        (2, range(19, 35, 4)),
        (3, range(35, 67, 8)),
        (4, range(67, 131, 16)),
        (5, range(131, 258, 32)),
        (0, (258,)),
    )
    for base in bases
)
"""First length and number of extra bits of the codes 257 to 285 (RFC 1951, 3.2.5)."""
_DISTANCE_CODES: Final = {1: (0, 0, 0), tarfile.BLOCKSIZE: (17, 7, tarfile.BLOCKSIZE - 385)}


def member(data: bytes | bytearray) -> bytes:
    """Return a gzip member of a frame; b"" for b"". Equal data gives equal bytes, with every release of any library."""
    if not data:
        return b""
    return GZIP_HEADER + _deflated(data) + struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF)


class _Bits:
    """Bits packed as deflate wants them: numbers from the lowest bit, codes from the highest."""

    def __init__(self) -> None:
        self._bits = 0
        self._count = 0

    def number(self, value: int, size: int) -> None:
        self._bits |= value << self._count
        self._count += size

    def code(self, value: int, size: int) -> None:
        self.number(int(f"{value:0{size}b}"[::-1], 2), size)

    def symbol(self, value: int) -> None:
        """Write a literal or a length in the fixed code (RFC 1951, 3.2.6)."""
        for first, last, start, size in ((0, 143, 48, 8), (144, 255, 400, 9), (256, 279, 0, 7), (280, 287, 192, 8)):
            if first <= value <= last:
                self.code(start + value - first, size)

    def to_bytes(self) -> bytes:
        return self._bits.to_bytes((self._count + 7) // 8, "little")


def _deflated(data: bytes | bytearray) -> bytes:
    """Return one final block in the fixed code, with the repetitions that frames have."""
    bits = _Bits()
    bits.number(0b011, 3)
    at = 0
    while at < len(data):
        length, distance = max((_repeated(data, at, each), each) for each in _DISTANCES)
        if length < _NEAREST:
            bits.symbol(data[at])
            at += 1
            continue
        number = max(n for n, (base, _) in enumerate(_LENGTHS) if base <= length)
        base, extra = _LENGTHS[number]
        bits.symbol(257 + number)
        bits.number(length - base, extra)
        code, size, rest = _DISTANCE_CODES[distance]
        bits.code(code, 5)
        bits.number(rest, size)
        at += length
    bits.symbol(256)
    return bits.to_bytes()


def _repeated(data: bytes | bytearray, at: int, distance: int) -> int:
    """Return how many bytes from `at` are those `distance` before."""
    if at < distance:
        return 0
    length, longest = 0, min(_LONGEST, len(data) - at)
    while length < longest and data[at + length] == data[at + length - distance]:
        length += 1
    return length
