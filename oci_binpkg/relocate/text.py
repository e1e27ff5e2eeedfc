"""Text: old prefix -> new prefix in UTF-16, UTF-32 and in windows of long files. Pure.

UTF-8 and Latin-1 need no more than `PrefixMap.replace_text`, if they are short.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from oci_binpkg.errors import ContentError
from oci_binpkg.relocate.boundaries import NEAR, follows_slash, path_end
from oci_binpkg.relocate.prefixes import PathMention, PrefixMap
from oci_binpkg.relocate.spellings import LONGEST_SPELLED

WINDOW: Final = 1024 * 1024
_MARKS: Final = {
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
"""The longer ones first: UTF-32 begins like UTF-16 in one order."""
_NO_TEXT: Final = re.compile("[\\x00-\\x07\\x0e-\\x1a\\x1c-\\x1f\\x7f]")


def wide_encoding(head: bytes) -> tuple[bytes, str]:
    """Return the byte order mark that a file begins with, and the encoding it stands for: UTF-16 or UTF-32, or ""."""
    return next(((mark, encoding) for mark, encoding in _MARKS.items() if head.startswith(mark)), (b"", ""))


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a text, `text[start:end]`, with enough of what stands around it, and the mentions that begin in it."""

    text: bytes
    start: int
    end: int
    mentions: tuple[PathMention, ...]

    def replaced(self) -> bytes:
        """Return the part with its mentions replaced; the same text if it has no mention."""
        pieces, done = list[bytes](), self.start
        for found in self.mentions:
            pieces += (self.text[done : found.start], found.new)
            done = found.end
        return b"".join((*pieces, self.text[done : self.end]))

    def is_left(self, mapping: PrefixMap) -> bool:
        """Return whether it mentions an old prefix that is not part of a new one."""
        return any(not mapping.is_new(self.text, found) for found in self.mentions)


def windows(read: Callable[[int], bytes], mapping: PrefixMap, *, size: int = WINDOW) -> Iterator[Window]:
    """Go through a text of any length, with or without line ends, in windows of about `size` bytes.

    The mentions are those that `PrefixSet.mentions` finds in the whole. What has to be known of the text before a
    window is whether a run of word characters or the path of a mention goes on in it.
    """
    reach = reach_of(mapping)
    text, start, before, in_path, last = b"", 0, False, False, False
    while not last:
        chunk = read(size)
        last = not chunk
        text += chunk
        limit = len(text) if last else max(start, len(text) - reach)
        at, mentions = start, list[PathMention]()
        if in_path:
            at = path_end(text, start)
            in_path = at == len(text)
        if not in_path:
            for found in mapping.mentions(text, start=at, limit=limit, before=before):
                mentions.append(found)
                at = path_end(text, found.end)
                in_path = at == len(text)
        end = len(text) if last or in_path else max(limit, at)
        yield Window(text, start, end, tuple(mentions))
        cut = max(0, end - reach)
        before = follows_slash(text, cut, before=before)
        text, start = text[cut:], end - cut


def reach_of(mapping: PrefixMap) -> int:
    """Return how many bytes around a place have to be known to find the mentions that begin there."""
    return 6 * mapping.old.longest + mapping.longest_new + NEAR + LONGEST_SPELLED


def wide_reader(read: Callable[[int], bytes], encoding: str) -> tuple[bytes, Callable[[int], bytes]]:
    """Return the byte order mark of a text, b"" if it has none, and what reads the text behind it as UTF-8.

    A text without a mark has no control characters. Raises `ContentError` for an invalid one, here or when it is read.
    """
    name = encoding[:6].upper()
    head = read(4)
    mark = wide_encoding(head)[0]
    if mark and _MARKS[mark] != encoding:
        raise ContentError(f"not {name}: it does not begin as such")
    decoder = codecs.getincrementaldecoder(encoding)()
    begin = [head[len(mark) :]]

    def pieces(size: int) -> bytes:
        return (begin.pop() + read(size)) if begin else read(size)

    def as_utf8(size: int) -> bytes:
        try:
            while chunk := pieces(size):
                if text := decoder.decode(chunk):
                    if not mark and _NO_TEXT.search(text):
                        raise ContentError(f"not {name}: it has control characters")
                    return text.encode()
            return decoder.decode(b"", final=True).encode()
        except UnicodeError as error:
            raise ContentError(f"not {name}: {error}") from None

    return mark, as_utf8


def wide_writer(encoding: str, write: Callable[[bytes], object]) -> Callable[[bytes], object]:
    """Return what writes UTF-8, in pieces, in another encoding."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    return lambda piece: write(decoder.decode(piece).encode(encoding))
