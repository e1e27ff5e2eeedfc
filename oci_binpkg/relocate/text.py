"""Text: old prefix -> new prefix in UTF-16 and in pieces of long files, and interpreter lines that grow too long. Pure.

UTF-8 and Latin-1 need no more than `PrefixMap.replace_text`.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator
from typing import Final

from oci_binpkg.errors import ContentError
from oci_binpkg.relocate.prefixes import WORD, PrefixMap

WINDOW: Final = 16 * 1024 * 1024
LONGEST_INTERPRETER_LINE: Final = 127
"""Bytes of a line `#!...` that every kernel reads: Linux before 5.1 takes 127, other systems 64 to 512."""

_ENCODINGS: Final = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_COMMENTS: Final = ((rb"lua", b"--", b""), (rb"node", b"//", b""), (rb"php", b"<?php #", b" ?>"))


def is_utf16(head: bytes) -> bool:
    """Tell whether a file that begins with these bytes says that it is UTF-16; UTF-32 begins alike in one order."""
    return head[:2] in _ENCODINGS and head[:4] != codecs.BOM_UTF32_LE


def relocate_utf16(data: bytes, mapping: PrefixMap) -> bytes:
    """Return UTF-16 text with its prefixes replaced, in the same byte order. Raises `ContentError` if it is none."""
    return _encoded(mapping.replace_text(_utf8(data)), data)


def utf16_mentions(data: bytes, mapping: PrefixMap) -> bool:
    """Tell whether an old prefix stands anywhere in UTF-16, be the rest valid or not."""
    encoding = _ENCODINGS[data[:2]]
    return any(prefix.decode("utf-8", "replace").encode(encoding) in data for prefix in mapping.old.shortest)


def left_in_utf16(data: bytes, mapping: PrefixMap) -> bool:
    """Tell whether an old prefix is left. Raises `ContentError` as `relocate_utf16` does."""
    return left_in_text(_utf8(data), mapping)


def left_in_text(data: bytes, mapping: PrefixMap) -> bool:
    """Tell whether a text mentions an old prefix that is not part of a new one."""
    if not mapping.old.mentioned_in(data):
        return False
    return any(not mapping.is_new(data, match.start(2), match[2]) for match in mapping.old.pattern.finditer(data))


def pieces(read: Callable[[int], bytes], mapping: PrefixMap, *, window: int = WINDOW) -> Iterator[bytes]:
    """Cut a text into pieces that can be looked at one by one: no mention of a prefix is cut, nor what precedes it.

    A cut is made behind a character that is part of no path at hand, such as the end of a line. Text without any
    such character in a whole window makes a longer piece.
    """
    used = set(WORD + b"/").union(*(old + new for old, new in mapping.pairs))
    cut = re.compile(b"[^" + re.escape(bytes(sorted(used))) + b"]")
    kept = bytearray()
    while chunk := read(window):
        last = next(cut.finditer(chunk[::-1]), None)
        if last is None:
            kept += chunk
            continue
        end = len(chunk) - last.start()
        yield bytes(kept) + chunk[:end]
        kept = bytearray(chunk[end:])
    if kept:
        yield bytes(kept)


def with_sbang(text: bytes, sbang: bytes) -> bytes:
    """Return a script whose interpreter line is too long for the kernel with the line that starts sbang before it.

    sbang is a small script that reads line 2 of the file. There the interpreters that do not take `#` for a comment
    need another mark. Unchanged if the line is short enough, or is not improved by it.
    """
    line, _, _ = text.partition(b"\n")
    new = b"#!/bin/sh " + sbang
    if not line.startswith(b"#!") or max(len(new), LONGEST_INTERPRETER_LINE) >= len(line):
        return text
    for name, mark, end in _COMMENTS:
        if re.match(rb"#!(/[^/\n]*)*" + name + rb"\b", line):
            return new + b"\n" + mark + line[1:] + end + text[len(line) :]
    return new + b"\n" + text


def interpreter_line_is_too_long(head: bytes) -> bool:
    """Tell whether the first bytes of a file are an interpreter line that some kernel cuts."""
    line, _, _ = head.partition(b"\n")
    return line.startswith(b"#!") and len(line) > LONGEST_INTERPRETER_LINE


def _utf8(data: bytes) -> bytes:
    try:
        return data[2:].decode(_ENCODINGS[data[:2]]).encode()
    except (KeyError, UnicodeError) as error:
        raise ContentError(f"not UTF-16: {error}") from None


def _encoded(text: bytes, like: bytes) -> bytes:
    return like[:2] + text.decode().encode(_ENCODINGS[like[:2]])
