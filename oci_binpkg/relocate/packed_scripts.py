"""Scripts with other data behind them: zip archives that Python runs, bytecode of OCaml, installers. Pure.

The script is text; the data keep their bytes. Where the script becomes shorter, blanks at the end of the interpreter
line, which mean nothing there, make up for it. Where it becomes longer, what says where the data begin changes with it:
the directory of a zip archive, and numbers in the script itself. Other data are found from the end of the file, or by a
number of lines. Formats: APPNOTE.TXT of PKWARE, 4.3.12 to 4.3.16.
"""

from __future__ import annotations

import re
import struct
from typing import Final

from oci_binpkg.relocate.charsets import shapes
from oci_binpkg.relocate.interpreter_lines import LONGEST_INTERPRETER_LINE
from oci_binpkg.relocate.prefixes import PrefixMap

LONGEST_SCRIPT: Final = 1024 * 1024
"""Bytes of text that are looked through for the data behind them."""

_NO_TEXT: Final = re.compile(rb"[\x00-\x07\x0e-\x1a\x1c-\x1f\x7f]")
_END: Final = b"PK\5\6"
_END_SIZE: Final = 22
_ENTRY: Final = b"PK\1\2"
_ENTRY_SIZE: Final = 46
_END_64: Final = b"PK\6\6"
_LOCATOR_64: Final = b"PK\6\7"
_LOCATOR_SIZE: Final = 20
_END_64_SIZE: Final = 56
_BEYOND: Final = 0xFFFFFFFF
_LONGEST_COMMENT: Final = 65535
_SHELLS: Final = re.compile(rb"(?:/|\s)(?:ba|da|k|z|mk|a|c|tc)?sh$")
_PERL: Final = re.compile(rb"/perl[\d.]*$")
_SMALLEST_NUMBER: Final = 100
_ROUNDS: Final = 4


def data_behind(content: bytes) -> int:
    """Return where the data begin in a script that has some, 0 in any other file."""
    if not content.startswith(b"#!"):
        return 0
    found = _NO_TEXT.search(content, 0, LONGEST_SCRIPT)
    return content.rfind(b"\n", 0, found.start()) + 1 if found else 0


def relocate_script(content: bytes, begin: int, mapping: PrefixMap) -> bytes:
    """Return a script with data behind it, which begin at `begin`; the same object if it mentions no old prefix."""
    script = content[:begin]
    new = mapping.replace_text(script, shapes(script) if mapping.old.are_ascii else None)
    if new == script:
        return content
    new = _short_line(new)
    if len(new) < begin:
        new = _padded(new, begin - len(new))
    if len(new) == begin:
        return new + content[begin:]
    end = _end_of_zip(content)
    if end is not None:
        try:
            return new + _shifted_zip(content[begin:], end - begin, len(new) - begin)
        except struct.error:  # numbers that lead out of the file: no program reads such an archive
            return new + content[begin:]
    return _counted(new, begin) + content[begin:]


def _short_line(script: bytes) -> bytes:
    """Return a script that starts its interpreter with sh, if kernels would cut the line. A shell stays as it is."""
    line, _, rest = script.partition(b"\n")
    words = line[2:].split(maxsplit=1)
    if len(line) <= LONGEST_INTERPRETER_LINE or not words or _SHELLS.search(words[0]):
        return script
    command = b" ".join(b'"' + word.strip() + b'"' for word in words)
    if _PERL.search(words[0]):
        # Perl starts what the first line names, if that is not Perl, for ever; -x lets it begin at a later line
        switches = b" " + words[1].strip() if words[1:] else b""
        return b'#!/bin/sh\nexec "' + words[0] + b'" -x "$0" "$@"\n#!perl' + switches + b"\n" + rest
    return b"#!/bin/sh\nexec " + command + b' "$0" "$@"\n' + rest


def _padded(script: bytes, missing: int) -> bytes:
    line, separator, rest = script.partition(b"\n")
    if len(line) + missing > LONGEST_INTERPRETER_LINE:
        return script
    return line + b" " * missing + separator + rest


def _counted(script: bytes, begin: int) -> bytes:
    """Return a script with the numbers changed that were the size of the old one, or of that and one, as for `tail`."""
    if begin < _SMALLEST_NUMBER:
        return script
    numbers = re.compile(rb"(?<![\w.])(?:%d|%d)(?![\w.])" % (begin, begin + 1))
    size = len(script)
    for _ in range(_ROUNDS):
        delta = size - begin
        made = numbers.sub(lambda found, by=delta: b"%d" % (int(found[0]) + by), script)  # type: ignore[misc]
        if len(made) == size:
            return made
        size = len(made)
    return script


def _end_of_zip(content: bytes) -> int | None:
    """Return where the end record of a zip archive begins whose directory counts from the beginning of the file."""
    end = content.rfind(_END, max(0, len(content) - _END_SIZE - _LONGEST_COMMENT))
    if end < 0 or end + _END_SIZE > len(content):
        return None
    size, start = struct.unpack_from("<II", content, end + 12)
    directory_end = end
    if _has_64(content, end):
        directory_end = end - _LOCATOR_SIZE - _END_64_SIZE
        size, start = struct.unpack_from("<QQ", content, directory_end + 40)
    return (
        end
        if start + size == directory_end and content[start : start + 4] in {_ENTRY, content[end : end + 4]}
        else None
    )


def _has_64(content: bytes | bytearray, end: int) -> bool:
    locator, record = end - _LOCATOR_SIZE, end - _LOCATOR_SIZE - _END_64_SIZE
    return record >= 0 and content[locator : locator + 4] == _LOCATOR_64 and content[record : record + 4] == _END_64


def _shifted_zip(archive: bytes, end: int, delta: int) -> bytes:
    """Return an archive whose directory says that everything lies `delta` bytes further behind."""
    data = bytearray(archive)
    size, stop = struct.unpack_from("<I", data, end + 12)[0], end
    if _has_64(data, end):
        stop = end - _LOCATOR_SIZE - _END_64_SIZE
        size = struct.unpack_from("<Q", data, stop + 40)[0]
        _add(data, "<Q", stop + 48, delta)
        _add(data, "<Q", end - _LOCATOR_SIZE + 8, delta)
    _add(data, "<I", end + 16, delta)
    at = stop - size
    while at + _ENTRY_SIZE <= stop and data[at : at + 4] == _ENTRY:
        name, extra, comment = struct.unpack_from("<HHH", data, at + 28)
        if not _add(data, "<I", at + 42, delta):
            _shift_extra(data, at, at + _ENTRY_SIZE + name, extra, delta)
        at += _ENTRY_SIZE + name + extra + comment
    return bytes(data)


def _shift_extra(data: bytearray, entry: int, at: int, size: int, delta: int) -> None:
    """Change the offset of an entry that its extra field holds, behind the sizes that do not fit either."""
    stop = at + size
    while at + 4 <= stop:
        kind, length = struct.unpack_from("<HH", data, at)
        if kind == 1:
            before = 8 * struct.unpack_from("<II", data, entry + 20).count(_BEYOND)
            if before + 8 <= length:
                _add(data, "<Q", at + 4 + before, delta)
            return
        at += 4 + length


def _add(data: bytearray, layout: str, at: int, delta: int) -> bool:
    """Add to a number; False for one that stands elsewhere because it is too large."""
    value = struct.unpack_from(layout, data, at)[0]
    if layout == "<I" and value == _BEYOND:
        return False
    struct.pack_into(layout, data, at, value + delta)
    return True
