"""Texts in encodings of one or two bytes for a character: which bytes are part of a name. Pure.

Of such a text nothing says what it is in. But it is enough to know letters from punctuation, and the second byte of a
character, which in Shift-JIS, GBK and Big5 may be a letter, a backslash or a tilde, from a character of its own.
"""

from __future__ import annotations

import re
from typing import Final

_LETTER: Final = b"\xc3"
_PUNCTUATION: Final = b"\xa0"
_PAIRS: Final = {"cp932": rb"[\x81-\x9f\xe0-\xfc][\x40-\x7e\x80-\xfc]", "gbk": rb"[\x81-\xfe][\x40-\x7e\x80-\xfe]"}
_RUNS: Final = {name: re.compile(b"(?:" + pair + b"){2}") for name, pair in _PAIRS.items()}
_SIGNS: Final = {"cp932": rb"\x81[\x40-\xac]", "gbk": rb"[\xa1-\xa2].|\xa3[\xa1-\xaf\xba-\xc0]"}
"""Punctuation, of which the first row of each encoding is full."""
_CHARACTERS: Final = {
    name: re.compile(b"(?P<sign>" + _SIGNS[name] + b")|(?P<letters>" + pair + b")|(?P<single>[\x80-\xff])", re.DOTALL)
    for name, pair in _PAIRS.items()
}
_KANA: Final = re.compile(rb"\x82[\x9f-\xf1]|\x83[\x40-\x96]")
_MANY: Final = 10
"""One in so many characters of a Japanese text is a kana, at least."""
_WINDOWS_LETTERS: Final = {0x83, 0x8A, 0x8C, 0x8E, 0x9A, 0x9C, 0x9E, 0x9F, 0xAA, 0xB5, 0xBA}
_SINGLE: Final = bytes(
    byte
    if byte < 0x80  # noqa: PLR2004 - ASCII
    else (_LETTER if byte in _WINDOWS_LETTERS or (byte >= 0xC0 and byte not in {0xD7, 0xF7}) else _PUNCTUATION)[0]  # noqa: PLR2004
    for byte in range(256)
)
_HALF_WIDTH_SIGNS: Final = range(0xA1, 0xA6)


def shapes(text: bytes) -> bytes:
    """Return a text of the same length in which each character beyond ASCII looks like a letter or like punctuation.

    One in UTF-8 is returned as it is.
    """
    if text.isascii():
        return text
    try:
        text.decode()
    except UnicodeDecodeError:
        charset = _charset(text)
        return _CHARACTERS[charset].sub(_shape, text) if charset else text.translate(_SINGLE)
    return text


def _charset(text: bytes) -> str:
    """Return the encoding of two bytes for a character that makes sense of a text; "" if one byte does."""
    if _RUNS["cp932"].search(text) and _is_valid(text, "cp932"):
        pairs = re.findall(_PAIRS["cp932"], text)
        if sum(1 for pair in pairs if _KANA.match(pair)) * _MANY >= len(pairs):
            return "cp932"
    if _RUNS["gbk"].search(text) and (_is_valid(text, "gbk") or _is_valid(text, "big5")):
        return "gbk"
    return ""


def _is_valid(text: bytes, name: str) -> bool:
    try:
        text.decode(name)
    except UnicodeDecodeError:
        return False
    return True


def _shape(found: re.Match[bytes]) -> bytes:
    is_sign = found["sign"] or (found["single"] and found[0][0] in _HALF_WIDTH_SIGNS)
    return (_PUNCTUATION if is_sign else _LETTER) * len(found[0])
