"""Passes over bytes in memory or in a mapped file, in windows: what was read of a file would count as memory. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from mmap import MADV_DONTNEED, PAGESIZE, mmap
from typing import Final

from oci_binpkg.relocate.boundaries import Buffer

WINDOW: Final = 16 * 1024 * 1024
"""How much of a mapped file is looked at before its memory is given back."""


def next_match(data: Buffer, finder: re.Pattern[bytes], at: int, stop: int, overlap: int) -> int:
    """Return where a pattern matches next, in at most `overlap` bytes; -1 if it does not before `stop`."""
    while at < stop:
        end = min(stop, at + WINDOW)
        found = finder.search(data, at, min(stop, end + overlap))
        place = found.start() if found else -1
        del found  # it would keep a mapped file from being closed
        if place >= 0:
            return place
        forget(data, end)
        at = end
    return -1


def places(data: Buffer, marks: Sequence[bytes], start: int, stop: int) -> Iterator[tuple[int, bytes]]:
    """Yield, in order, where any of a few strings stands in `data[start:stop]`, and which."""
    while start < stop:
        end = min(stop, start + WINDOW)
        found: list[tuple[int, bytes]] = []
        for mark in marks:
            limit, at = min(stop, end + len(mark) - 1), start
            while (at := data.find(mark, at, limit)) >= 0:
                found.append((at, mark))
                at += 1
        yield from sorted(found)
        if not found:
            forget(data, end)
        start = end


def forget(data: Buffer, end: int) -> None:
    """Give back the memory of a mapped file up to a place; what is needed of it again is read again."""
    if isinstance(data, mmap):
        data.madvise(MADV_DONTNEED, 0, end // PAGESIZE * PAGESIZE)
