"""Where a path begins and ends among other bytes. Pure."""

from __future__ import annotations

import re
from mmap import mmap
from typing import Final

Buffer = bytes | bytearray | mmap
"""What is searched: bytes in memory or a file mapped into it."""

WORD: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
"""The characters that may run up to a prefix, as the `I` and the `-` of `-I/opt/a`."""
NEAR: Final = 260
"""How many bytes around a prefix decide whether it is a whole path."""
_PATH: Final = WORD + b"/"
_LOOK_BACK: Final = 256
_NAME: Final = WORD + b".+@~"
_GOES_ON: Final = rb"(?:[\w+@~\-]|\.[\w+@~\-]|[\xc3-\xe1\xe4-\xf4]|\xe2(?![\x80\x81])|\xe3(?!\x80))"
"""What continues a name: no punctuation, in UTF-8 neither."""
LONGER_NAME: Final = re.compile(_GOES_ON)
_SCHEME: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.\-]{0,30}:$")


def follows_slash(text: bytes, at: int, *, before: bool = False) -> bool:
    """Return whether the run of word characters before a place, which may be empty, follows a slash.

    `before` is the answer for the place where `text` begins.
    """
    reach = _LOOK_BACK
    while True:
        start = max(0, at - reach)
        head = text[start:at].rstrip(WORD)
        if head:
            return head.endswith(b"/")
        if not start:
            return before
        reach *= 16


def path_end(text: bytes, at: int) -> int:
    """Return where the path ends that goes on at a place."""
    reach = _LOOK_BACK
    while True:
        rest = text[at : at + reach]
        size = len(rest) - len(rest.lstrip(_PATH))
        if size < reach:
            return at + size
        at, reach = at + size, reach * 16


def begins_path(data: Buffer, at: int, *, strict: bool, in_text: bool) -> bool:
    """Return whether an absolute path begins at a place, and not the rest of one that began before.

    In binaries strings follow one another without separation: there a file name may end before it, but for the root.
    """
    head = bytes(data[max(0, at - NEAR + 4) : at])
    run = head[len(head.rstrip(_NAME)) :]
    before = head[: len(head) - len(run)][-1:]
    if follows_empty_slashes(data, at):
        return True
    if not run:
        return before != b"/" and not (strict and before in (b"}", b")"))
    if before == b"/":
        return False
    escaped = before == b"\\" and len(run) == 1
    return escaped or run.startswith(b"-") or not (in_text or strict)


def follows_empty_slashes(data: Buffer, at: int) -> bool:
    """Return whether only slashes that mean nothing stand before a place: those of `file://`, or doubled ones."""
    head = bytes(data[max(0, at - NEAR + 4) : at])
    if head.endswith(b"file://localhost"):
        return True
    rest = head.rstrip(b"/")
    if len(rest) == len(head) or rest.endswith(b"file:"):
        return len(rest) < len(head)
    return not rest or (rest[-1:] not in _NAME and _SCHEME.search(rest) is None)
