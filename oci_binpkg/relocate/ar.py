"""Static archives: the constants in their members, changed in place. Pure.

Sections of members that no program gets, such as debug information, need not fit; what is left there is counted.

Spack leaves archives as they are, so that a program linked against one afterwards looks for its files in the old place.
Members keep their sizes, hence the archive's table of symbols stays right. The format is that of `ar(5)`, with the
names of System V and GNU (`//`) and of BSD (`#1/`). Thin archives only name files and hold nothing to change.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from oci_binpkg.errors import ContentError
from oci_binpkg.relocate.boundaries import Buffer
from oci_binpkg.relocate.edits import Edited, merged
from oci_binpkg.relocate.macho_image import is_image
from oci_binpkg.relocate.macho_unread import unread_in_member
from oci_binpkg.relocate.prefixes import PrefixMap
from oci_binpkg.relocate.strings import Span, relocate_strings, remaining
from oci_binpkg.relocate.unread import ELF_MAGIC, relocate_unread, unread_spans

MAGIC: Final = b"!<arch>\n"
THIN_MAGIC: Final = b"!<thin>\n"

_HEADER: Final = 60
_NAME: Final = slice(0, 16)
_SIZE: Final = slice(48, 58)
_END: Final = slice(58, 60)
_TABLES: Final = (b"/", b"//", b"/SYM64/")


def relocate_archive(data: Buffer, mapping: PrefixMap) -> Edited:
    """Return the edits of all members. Raises `ContentError` for an archive that is cut short or none."""
    return merged(_relocate_member(data, mapping, start, end) for start, end in list(members(data)))


def _relocate_member(data: Buffer, mapping: PrefixMap, start: int, end: int) -> Edited:
    spans = _unread(data, start, end)
    constants = relocate_strings(data, mapping, start=start, end=end, skip=spans)
    return merged([constants, relocate_unread(data, mapping, spans)])


def _unread(data: Buffer, start: int, end: int) -> list[Span]:
    if is_image(bytes(data[start : start + len(ELF_MAGIC)])):
        return [(start + first, start + last) for first, last in unread_in_member(bytes(data[start:end]))]
    return unread_spans(data, start, end)


def remaining_in_archive(data: Buffer, mapping: PrefixMap) -> Iterator[int]:
    """Yield where old prefixes are left in members. Raises `ContentError` as `relocate_archive` does."""
    for start, end in members(data):
        yield from remaining(data, mapping, start=start, end=end, skip=_unread(data, start, end))


def members(data: Buffer) -> Iterator[Span]:
    """Yield where the content of each member stands, the archive's own tables left out."""
    if data[: len(MAGIC)] != MAGIC:
        raise ContentError("not a static archive")
    at = len(MAGIC)
    while at < len(data):
        header = bytes(data[at : at + _HEADER])
        size = header[_SIZE].strip()
        if header[_END] != b"`\n" or not size.isdigit():
            raise ContentError(f"damaged static archive: no member begins at byte {at}")
        start, end = at + _HEADER, at + _HEADER + int(size)
        if end > len(data):
            raise ContentError(f"damaged static archive: the member at byte {at} is cut short")
        name = header[_NAME].rstrip()
        if name not in _TABLES:
            yield min(end, start + _name_size(name)), end
        at = end + end % 2


def _name_size(name: bytes) -> int:
    """Return how much of a member's content is its name, as BSD has it for long ones."""
    size = name.removeprefix(b"#1/")
    return int(size) if size != name and size.isdigit() else 0
