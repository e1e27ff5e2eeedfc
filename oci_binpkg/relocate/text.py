"""Text: old prefix -> new prefix in UTF-16 and in windows of long files, interpreter lines that grow too long. Pure.

UTF-8 and Latin-1 need no more than `PrefixMap.replace_text`, if they are short.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from oci_binpkg.errors import ContentError
from oci_binpkg.relocate.prefixes import NEAR, PrefixMap, follows_slash, path_end

WINDOW: Final = 1024 * 1024
LONGEST_INTERPRETER_LINE: Final = 127
"""Bytes of a line `#!...` that every kernel reads: Linux before 5.1 takes 127, other systems 64 to 512."""

_LONGEST_LINE: Final = 64 * 1024
_ENCODINGS: Final = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_VERSIONED: Final = rb"[\d.\-]*$"
_COMMENTS: Final = (
    (rb"(tex)?lua|luajit|luau", b"--", b""),
    (rb"node(js)?|deno|bun|ts-node|tsx|qjs|gjs|d8|java|groovy|scala|kotlin|rdmd|swift", b"//", b""),
    (rb"php(-cli|-cgi)?", b"<?php #", b" ?>"),
)
"""What makes the second line a comment, where `#!` does so in the first line only."""
_CODING: Final = re.compile(rb"[ \t\f]*#.*?coding[:=][ \t]*[-\w.]+")
"""PEP 263: Python looks for it in the first two lines."""


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


def with_sbang(text: bytes, sbang: bytes) -> bytes:
    """Return a script whose interpreter line is too long for the kernel with the line that starts sbang before it.

    sbang is a small script that reads line 2 of the file. There the interpreters that do not take `#` for a comment
    need another mark. A script whose second line names its encoding to Python keeps it there, and starts Python itself.
    Unchanged if the line is short enough, or is not improved by it.
    """
    line, _, rest = text[:_LONGEST_LINE].partition(b"\n")
    if len(line) == _LONGEST_LINE or not line.startswith(b"#!") or len(line) <= LONGEST_INTERPRETER_LINE:
        return text
    name = line[2:].split(maxsplit=1)[0].rpartition(b"/")[2] if line[2:].split() else b""
    coding = _CODING.match(rest.partition(b"\n")[0])
    if re.match(rb"(python|pypy)" + _VERSIONED, name) and coding:
        return _starts_python(line, text[len(line) + 1 :])
    new = b"#!/bin/sh " + sbang
    if len(new) >= len(line):
        return text
    for names, mark, end in _COMMENTS:
        if re.match(b"(" + names + b")" + _VERSIONED, name):
            return new + b"\n" + mark + line[1:].rstrip() + end + text[len(line) :]
    return new + b"\n" + text


def _starts_python(line: bytes, rest: bytes) -> bytes:
    """Return a script for both: sh runs Python with it, and to Python what sh reads is a string."""
    coding, _, body = rest.partition(b"\n")
    path, *argument = line[2:].split(maxsplit=1)
    words = b" ".join(b'"' + word.strip() + b'"' for word in argument)
    command = b'"' + path + b'" ' + (words + b" " if words else b"")
    return b"#!/bin/sh\n" + coding + b"\n'''exec' " + command + b'"$0" "$@"' + b"\n' '''\n" + body


def interpreter_line_is_too_long(head: bytes) -> bool:
    """Return whether the first bytes of a file are an interpreter line that some kernel cuts."""
    line, _, _ = head.partition(b"\n")
    return line.startswith(b"#!") and len(line) > LONGEST_INTERPRETER_LINE
