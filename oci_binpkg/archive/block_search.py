"""A search through a tar while it passes by: which of its blocks may mention the place that it was made for.

Every file that mentions an old prefix has to be found, and reading the files again costs as much as writing them did.
Which prefixes these are stands in a document that may come last. But all of them lie below one root, and where that is
can be told by the first name.

The C library searches, because `bytes.find` keeps all other threads waiting while it does, and takes twice as long.
"""

from __future__ import annotations

import ctypes
from bisect import bisect_left
from collections.abc import Iterator
from typing import Final

from oci_binpkg.relocate.spellings import behind_marks, wide_marks_of

BLOCK: Final = 512
_MOST_OTHERS: Final = 8
_MOST: Final = 200_000
"""Blocks that are remembered; with more of them the search is given up."""


_memmem: Final = ctypes.CDLL(None).memmem  # POSIX.1-2024, and long before in the libraries of Linux and macOS
_memmem.restype = ctypes.c_void_p
_memmem.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t]


def common_part(name: str) -> bytes:
    """Return what paths below the root that a member was packed from are likely to share: its first two components."""
    return b"/" + b"/".join(name.encode("utf-8", "surrogateescape").split(b"/")[:2])


class BlockSearch:
    """Takes all bytes in order, and remembers the blocks of 512 bytes in which a path may begin."""

    def __init__(self) -> None:
        self.wanted = b""
        """The path that is looked for, b"" as long as none is."""
        self._marks: tuple[tuple[bytes, bytes], ...] = ()
        self._taken = 0
        self._end = b""
        self._found: list[int] = []

    def begin(self, wanted: bytes, first: bytes) -> None:
        """Look for a path in any spelling; `first` is all that was taken so far."""
        self.wanted, self._taken = wanted, 0
        before, mark = behind_marks(wanted)
        self._marks = ((mark, before), *((wide, b"") for wide in wide_marks_of(wanted)))
        self.update(first)

    def update(self, data: bytes) -> None:
        """Take the next bytes."""
        begin, self._taken = self._taken, self._taken + len(data)
        if not self.wanted or len(self._found) > _MOST:
            return
        # it may begin in what came before: as much of that as it needs is looked at together with the beginning
        overlap = max(len(mark) for mark, _ in self._marks)
        edge = self._end + data[:overlap], begin - len(self._end)
        parts = (edge, (data, begin))
        found = {n for part, at in parts for mark, before in self._marks for n in _blocks(part, mark, before, at)}
        self._end = (self._end + data[-overlap:])[-overlap:]
        is_behind = bool(self._found and found and min(found) < self._found[-1])
        self._found += sorted(found)
        if is_behind:
            self._found.sort()

    def is_clean(self, begin: int, end: int) -> bool:
        """Return whether the path does not begin in these bytes; False without a search.

        `begin` is that of a block. What begins after `end`, in the last block, counts as well.
        """
        if not self.wanted or end > self._taken or len(self._found) > _MOST:
            return False
        at = bisect_left(self._found, begin // BLOCK)
        return at == len(self._found) or self._found[at] * BLOCK >= end


def _blocks(data: bytes, mark: bytes, before: bytes, offset: int) -> Iterator[int]:
    """Yield, in order, the numbers of the blocks in which `mark` begins, for data that lies at `offset`.

    With `before` only those count that stand behind one of its bytes, or at the very beginning. A block with many
    others counts as well: they are not worth the time.
    """
    start = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0
    at, size, others, last = 0, len(data), 0, -1
    while at < size and (found := _memmem(start + at, size - at, mark, len(mark))) is not None:
        place = found - start
        block = (offset + place) // BLOCK
        others, last = (others + 1 if block == last else 0), block
        if before and place and data[place - 1] not in before and others < _MOST_OTHERS:
            at = place + 1
            continue
        yield block
        at = (block + 1) * BLOCK - offset
