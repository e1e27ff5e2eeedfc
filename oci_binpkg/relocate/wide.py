"""Strings of UTF-16 and UTF-32 in binaries, as `char16_t` and `wchar_t` have them. Pure.

Each is read as one byte for each of its characters, so that what holds for other strings holds for it; only paths of
ASCII characters are looked for. Compilers align such strings, other writers do not; the order of bytes is the one in
which the text makes sense.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from oci_binpkg.relocate.boundaries import Buffer
from oci_binpkg.relocate.passes import places

Span = tuple[int, int]

_BEFORE: Final = 300
_BEHIND: Final = 1200
_ASCII: Final = 0x80
_USUAL: Final = bytes((*b"\t\n\r", *range(0x20, 0x7F), 0))
_LETTER: Final = 0xE4
_PUNCTUATION: Final = 0xA0
_MARKS_OF_TEXT: Final = (range(0x80, 0xC0), range(0x2000, 0x2070), range(0x3000, 0x3004))


@dataclass(frozen=True, slots=True)
class WideString:
    """A string that begins at `offset`: `text` has a byte for each character of `width` bytes, also for the NUL."""

    offset: int
    width: int
    big_endian: bool
    text: bytes

    @property
    def encoding(self) -> str:
        """The name of its encoding."""
        return f"utf-{self.width * 8}-{'be' if self.big_endian else 'le'}"

    def place(self, at: int) -> int:
        """Return where a character of it stands in the file."""
        return self.offset + at * self.width

    def encoded(self, text: bytes) -> bytes:
        """Return a path that takes the place of as many characters; slashes before it make up for longer letters."""
        characters = text.decode("utf-8", "replace")
        return characters.rjust(len(text), "/").encode(self.encoding)


def wide_strings(
    data: Buffer, marks: Sequence[bytes], start: int, stop: int, skip: Sequence[Span] = ()
) -> Iterator[WideString]:
    """Yield the strings of `data[start:stop]` outside of the spans of `skip` (sorted) that hold one of the marks."""
    begins = [begin for begin, _ in skip]
    done = start
    for place, mark in places(data, marks, start, stop):
        span = bisect_right(begins, place) - 1
        if place < done or (span >= 0 and place < skip[span][1]):
            continue
        found = _string_at(data, place, mark, start, stop)
        if found is not None:
            yield found
            done = found.place(len(found.text))


def _string_at(data: Buffer, place: int, mark: bytes, start: int, stop: int) -> WideString | None:
    width = 4 if mark[1:4] == b"\0\0\0" else 2
    found: list[WideString] = []
    for first, big in sorted(((place - (width - 1) * big, big) for big in (False, True)), key=lambda at: at[0] % width):
        text = mark.replace(b"\0", b"").decode("latin-1").encode(f"utf-{width * 8}-{'be' if big else 'le'}")
        if first >= start and data[first : first + len(text)] == text:
            low = max(start + (first - start) % width, first - _BEFORE * width)
            high = first + (min(stop, first + _BEHIND * width) - first) // width * width
            found.append(_cut(bytes(data[low:high]), low, (first - low) // width, width, big_endian=big))
    return min(found, key=_strangeness, default=None)


def _strangeness(string: WideString) -> int:
    """Return how many characters no text has, or few; of two readings that are as good the aligned one comes first."""
    return len(string.text.translate(None, _USUAL))


def _cut(data: bytes, offset: int, at: int, width: int, *, big_endian: bool) -> WideString:
    """Return the string around a character, from behind the last NUL before it to the next one."""
    units = struct.unpack(f"{'>' if big_endian else '<'}{len(data) // width}{'H' if width == 2 else 'I'}", data)  # noqa: PLR2004
    text = bytes(unit if unit < _ASCII else _shape(unit) for unit in units)
    first = text.rfind(b"\0", 0, at) + 1
    last = text.find(b"\0", at)
    text = text[first : last + 1 if last >= 0 else len(text)]
    return WideString(offset + first * width, width, big_endian, text)


def _shape(unit: int) -> int:
    return _PUNCTUATION if any(unit in marks for marks in _MARKS_OF_TEXT) else _LETTER
