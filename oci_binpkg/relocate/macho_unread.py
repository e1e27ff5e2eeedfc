"""Which bytes of a Mach-O image no program reads: debug information, and the strings of the table of symbols. Pure.

Linkers leave the paths of object files among those strings, for debuggers. What a loaded section or the load commands
cover as well does not count. The layouts are those of Apple's `mach-o/loader.h` and `stab.h`.
"""

from __future__ import annotations

from typing import Final

from oci_binpkg.errors import ContentError
from oci_binpkg.relocate.macho_image import SYMBOL_TABLE, MachImage, is_image
from oci_binpkg.relocate.strings import Span
from oci_binpkg.relocate.unread import joined

_DEBUG: Final = b"__DWARF"


def unread_in_image(image: MachImage) -> list[Span]:
    """Return where nobody reads, sorted. A table of symbols that leads nowhere has no strings."""
    sections = [section for segment in image.segments for section in segment.sections if section.size]
    read = [(0, image.commands_end)]
    read += [(each.offset, each.offset + each.size) for each in sections if each.segment != _DEBUG]
    unread = [(each.offset, each.offset + each.size) for each in sections if each.segment == _DEBUG]
    for command in image.commands:
        if command.kind == SYMBOL_TABLE:
            _, _, start, size = image.numbers(command, 8, "4I")
            unread += [(start, start + size)] if size else []
    covered = joined(read)
    return joined([span for span in unread if span[1] <= len(image.data) and not _meets(covered, span)])


def unread_in_member(data: bytes) -> list[Span]:
    """Return where nobody reads in an object file. Other files and damaged ones have no such place."""
    try:
        return unread_in_image(MachImage.parse(data)) if is_image(data) else []
    except ContentError:
        return []


def _meets(covered: list[Span], span: Span) -> bool:
    return any(start < span[1] and span[0] < end for start, end in covered)
