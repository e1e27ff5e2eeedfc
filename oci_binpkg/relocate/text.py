"""Text: old prefix -> new prefix in UTF-16 and in windows of long files. Pure.

UTF-8 and Latin-1 need no more than `PrefixMap.replace_text`, if they are short.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from oci_binpkg.errors import ContentError
from oci_binpkg.relocate.prefixes import NEAR, PrefixMap, follows_slash, path_end

WINDOW: Final = 1024 * 1024
_ENCODINGS: Final = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


def is_utf16(head: bytes) -> bool:
    """Return whether a file that begins with these bytes says that it is UTF-16; UTF-32 begins alike in one order."""
    return head[:2] in _ENCODINGS and head[:4] != codecs.BOM_UTF32_LE


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a text, `text[start:end]`, with enough of what stands around it, and the mentions that begin in it."""

    text: bytes
    start: int
    end: int
    mentions: tuple[tuple[int, bytes], ...]

    def replaced(self, mapping: PrefixMap) -> bytes:
        """Return the part with its mentions replaced; the same text if it has no mention."""
        pieces, done = list[bytes](), self.start
        for at, old in self.mentions:
            pieces += (self.text[done:at], mapping.new[old])
            done = at + len(old)
        return b"".join((*pieces, self.text[done : self.end]))

    def is_left(self, mapping: PrefixMap) -> bool:
        """Return whether it mentions an old prefix that is not part of a new one."""
        return any(not mapping.is_new(self.text, at, old) for at, old in self.mentions)


def windows(read: Callable[[int], bytes], mapping: PrefixMap, *, size: int = WINDOW) -> Iterator[Window]:
    """Go through a text of any length, with or without line ends, in windows of about `size` bytes.

    The mentions are those that `PrefixSet.mentions` finds in the whole. What has to be known of the text before a
    window is whether a run of word characters or the path of a mention goes on in it.
    """
    old, reach = mapping.old, max(mapping.old.longest, mapping.longest_new) + (NEAR if mapping.bounded else 0)
    text, start, before, in_path, last = b"", 0, False, False, False
    while not last:
        chunk = read(size)
        last = not chunk
        text += chunk
        limit = len(text) if last else max(start, len(text) - reach)
        at, found = start, list[tuple[int, bytes]]()
        if in_path:
            at = path_end(text, start)
            in_path = at == len(text)
        while not in_path and (match := old.finder.search(text, at)) and match.start() < limit:
            at = match.start()
            prefix = mapping.mention_at(text, at, before=before)
            if prefix is None:
                at += 1
                continue
            found.append((at, prefix))
            at = path_end(text, at + len(prefix))
            in_path = at == len(text)
        end = len(text) if last or in_path else max(limit, at)
        yield Window(text, start, end, tuple(found))
        cut = max(0, end - reach)
        before = follows_slash(text, cut, before=before)
        text, start = text[cut:], end - cut


def utf16_reader(read: Callable[[int], bytes]) -> tuple[bytes, Callable[[int], bytes]]:
    """Return the byte order mark of UTF-16, and what reads the text behind it as UTF-8.

    Raises `ContentError` for an invalid text, here or when it is read.
    """
    mark = read(2)
    if mark not in _ENCODINGS:
        raise ContentError("not UTF-16: it does not begin as such")
    decoder = codecs.getincrementaldecoder(_ENCODINGS[mark])()

    def as_utf8(size: int) -> bytes:
        try:
            while chunk := read(size):
                if text := decoder.decode(chunk):
                    return text.encode()
            return decoder.decode(b"", final=True).encode()
        except UnicodeError as error:
            raise ContentError(f"not UTF-16: {error}") from None

    return mark, as_utf8


def utf16_writer(mark: bytes, write: Callable[[bytes], object]) -> Callable[[bytes], object]:
    """Return what writes UTF-8, in pieces, as UTF-16 of the byte order of a mark."""
    decoder, encoding = codecs.getincrementaldecoder("utf-8")(), _ENCODINGS[mark]
    return lambda piece: write(decoder.decode(piece).encode(encoding))


def utf16_needles(mark: bytes, mapping: PrefixMap) -> tuple[bytes, ...]:
    """Return what stands in UTF-16 wherever an old prefix does."""
    return tuple(needle.decode("utf-8", "ignore").encode(_ENCODINGS[mark]) for needle in mapping.old.needles)
