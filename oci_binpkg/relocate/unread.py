"""Which bytes of an ELF file no program reads: sections that are not loaded. Pure.

These are debug information, comments, the table of symbols and its names. Section headers say so: a section without
`SHF_ALLOC` has no address. What a segment or a loaded section covers as well does not count, and neither does what
stands behind the file without a section, since programs read such bytes of their own file. System V gABI, chapter 4.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Final

from oci_binpkg.relocate.boundaries import Buffer
from oci_binpkg.relocate.edits import Edited
from oci_binpkg.relocate.prefixes import PrefixMap
from oci_binpkg.relocate.strings import Span, relocate_strings

ELF_MAGIC: Final = b"\x7fELF"

_CLASSES: Final = {1: ("I", 16, 52), 2: ("Q", 16, 64)}
_ORDERS: Final = {1: "<", 2: ">"}
_ALLOCATED: Final = 2
_NOBITS: Final = 8
_LOAD: Final = 1
_MOST_HEADERS: Final = 200_000


def unread_spans(data: Buffer, start: int = 0, end: int | None = None) -> list[Span]:
    """Return where the sections stand that are not loaded, sorted, of the ELF file in `data[start:end]`.

    A file whose headers are damaged has none: then every string counts as read.
    """
    stop = len(data) if end is None else end
    try:
        return _unread(data, start, stop)
    except (struct.error, KeyError, IndexError):
        return []


def relocate_unread(data: Buffer, mapping: PrefixMap, spans: Sequence[Span]) -> Edited:
    """Return the edits of strings that nobody reads. Those that do not fit are counted, and are no findings."""
    parts = [relocate_strings(data, mapping, start=start, end=end) for start, end in spans]
    patches = tuple(patch for part in parts for patch in part.patches)
    return Edited(patches, unread=sum(len(part.stale) + part.further for part in parts))


def joined(spans: Sequence[Span]) -> list[Span]:
    """Return spans sorted and without overlaps."""
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def _unread(data: Buffer, start: int, stop: int) -> list[Span]:
    ident = bytes(data[start : start + 16])
    if ident[:4] != ELF_MAGIC or stop - start < len(ident):
        return []
    word, at, size = _CLASSES[ident[4]]
    order = _ORDERS[ident[5]]
    header = bytes(data[start : min(stop, start + size)])
    fields = struct.unpack_from(f"{order}HHI{word * 3}I6H", header, at)
    loaded = [span for span, is_loaded in _segments(data, start, stop, order + word, fields) if is_loaded]
    unread: list[Span] = []
    for span, is_loaded in _sections(data, start, stop, order + word, fields):
        (loaded if is_loaded else unread).append(span)
    covered = joined(loaded)
    return joined([span for span in unread if start < span[0] < span[1] <= stop and not _meets(covered, span)])


def _meets(covered: list[Span], span: Span) -> bool:
    before = bisect_right(covered, (span[1] - 1, span[1])) - 1
    return before >= 0 and covered[before][1] > span[0]


def _segments(data: Buffer, start: int, stop: int, kind: str, fields: tuple[int, ...]) -> Iterator[tuple[Span, bool]]:
    """Yield the place of every segment, and whether it is mapped into memory."""
    offset, size, count = fields[4], fields[8], fields[9]
    layout = struct.Struct(kind[0] + ("IIQQQQQQ" if kind[1] == "Q" else "8I"))
    for record in _records(data, (start + offset, stop), layout, size, count if offset else 0):
        at, length = (record[2], record[5]) if kind[1] == "Q" else (record[1], record[4])
        yield (start + at, start + at + length), record[0] == _LOAD and length > 0


def _sections(data: Buffer, start: int, stop: int, kind: str, fields: tuple[int, ...]) -> Iterator[tuple[Span, bool]]:
    """Yield the place of every section that has bytes, and whether it is loaded."""
    offset, size, count = fields[5], fields[10], fields[11]
    if not offset:
        return
    layout = struct.Struct(f"{kind[0]}II{kind[1] * 4}II{kind[1] * 2}")
    if not count:  # more than the header can say: the first section has the number
        count = next(_records(data, (start + offset, stop), layout, size, 1))[5]
    for record in _records(data, (start + offset, stop), layout, size, count):
        _, type_, flags, _, at, length, *_ = record
        if type_ not in {0, _NOBITS} and length:
            yield (start + at, start + at + length), bool(flags & _ALLOCATED)


def _records(data: Buffer, place: Span, layout: struct.Struct, size: int, count: int) -> Iterator[tuple[int, ...]]:
    if not count:
        return
    if size != layout.size or count > _MOST_HEADERS or place[0] + count * size > place[1]:
        raise struct.error(f"{count} headers of {size} bytes")
    yield from layout.iter_unpack(bytes(data[place[0] : place[0] + count * size]))
