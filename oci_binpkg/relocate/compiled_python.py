"""Compiled Python files: the source that their header names, and the paths among their constants. Pure.

PEP 3147 says where they are, PEP 552 what their header holds: magic number, flags, and then either time and size of
the source or a hash of it. A marshal stream follows. It is walked, never loaded, so files of every version from 3.8 on
are changed alike, and the walk ends with the last path: mostly in the first function, because all functions of a file
share one name of it. Source: CPython, `Python/marshal.c` and `Lib/importlib/_bootstrap_external.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from oci_binpkg.errors import ContentError
from oci_binpkg.relocate.prefixes import PrefixMap
from oci_binpkg.relocate.strings import is_left

HEADER: Final = 16
CACHE: Final = "__pycache__"
SUFFIX: Final = ".pyc"
NO_SOURCE: Final = 0xFFFFFFFF
"""The size that the header of a file has which no source fits: Python compiles that source again."""
HASHED: Final = 1
CHECKED: Final = 2

_MASK: Final = 0xFFFFFFFF
_FIRST: Final = 3390  # Python 3.7, the first with flags
_FIRST_WALKED: Final = 3400  # Python 3.8
_FIRST_OF_3_11: Final = 3450
_LAST: Final = 3700
_REFERABLE: Final = 0x80
_SHORTEST_LONG: Final = 256
_DOTS: Final = (2, 3)

# The fields of a code object: i an integer, o an object, b bytes that are no constant.
_OLD_CODE: Final = "iiiiiiboooooooib"
_NEW_CODE: Final = "iiiiiboooboooibb"
_FIXED: Final = dict.fromkeys(b"0NFTS.", 0) | {ord("i"): 4, ord("r"): 4, ord("I"): 8, ord("g"): 8, ord("y"): 16}
_LONG_TEXT: Final = b"stuaA"
_SHORT_TEXT: Final = {ord("z"): b"a", ord("Z"): b"A"}
_UNICODE: Final = {b"a": b"u", b"A": b"t"}


@dataclass(frozen=True, slots=True)
class PycHeader:
    """The header of a compiled file: its magic number, its flags, and the source that it names.

    `time` is in seconds since 1970 and `size` in bytes, both modulo 2**32; with `HASHED` in the flags they mean
    nothing, and the source is named by its hash.
    """

    magic: int
    flags: int
    time: int
    size: int

    @property
    def is_timed(self) -> bool:
        """Whether Python compares time and size of the source."""
        return self.flags == 0

    @property
    def is_checked(self) -> bool:
        """Whether Python compares the hash of the source."""
        return self.flags == HASHED | CHECKED

    def names(self, time: int, size: int) -> bool:
        """Return whether a source of this time and size is the one that was compiled."""
        return self.is_timed and (self.time, self.size) == (time & _MASK, size & _MASK)


def is_cache(path: str) -> bool:
    """Return whether this is the path of a compiled file."""
    return path.endswith(SUFFIX)


def source_of(path: str) -> str | None:
    """Return the path of the source that a compiled file is used for; None if it does not lie in a `__pycache__`."""
    folder, _, name = path.rpartition("/")
    parent, _, cache = folder.rpartition("/")
    if cache != CACHE or not is_cache(name) or name.count(".") not in _DOTS:
        return None
    source = f"{name.partition('.')[0]}.py"
    return f"{parent}/{source}" if parent else source


def read_header(head: bytes) -> PycHeader | None:
    """Return what the first 16 bytes of a file say; None if Python 3.7 or later did not write them."""
    if len(head) < HEADER or head[2:4] != b"\r\n":
        return None
    magic, _, flags, time, size = struct.unpack_from("<2H3I", head)
    if not _FIRST <= magic < _LAST or flags not in (0, HASHED, HASHED | CHECKED):
        return None
    return PycHeader(magic, flags, time, size)


def naming(head: bytes, time: int, size: int) -> bytes:
    """Return the header with another time and size of the source; whatever follows it is kept."""
    return head[:8] + struct.pack("<2I", time & _MASK, size & _MASK) + head[HEADER:]


def naming_content(head: bytes, source: bytes) -> bytes:
    """Return the header with the hash of a source."""
    return head[:8] + source_hash(int.from_bytes(head[:4], "little"), source) + head[HEADER:]


def source_hash(key: int, source: bytes) -> bytes:
    """Return the hash of a source (8 bytes): SipHash-1-3 since Python 3.11, SipHash-2-4 before.

    `key` is the magic number with the two bytes after it.
    """
    rounds, final = (1, 3) if key & 0xFFFF >= _FIRST_OF_3_11 else (2, 4)
    state = (0x736F6D6570736575 ^ key, 0x646F72616E646F6D, 0x6C7967656E657261 ^ key, 0x7465646279746573)
    whole = len(source) & ~7
    last = source[whole:].ljust(7, b"\0") + bytes((len(source) & 0xFF,))
    for (word,) in struct.iter_unpack("<Q", source[:whole] + last):
        a, b, c, d = _mixed((state[0], state[1], state[2], state[3] ^ word), rounds)
        state = (a ^ word, b, c, d)
    a, b, c, d = _mixed((state[0], state[1], state[2] ^ 0xFF, state[3]), final)
    return struct.pack("<Q", a ^ b ^ c ^ d)


def _mixed(state: tuple[int, int, int, int], rounds: int) -> tuple[int, int, int, int]:
    a, b, c, d = state
    for _ in range(rounds):
        a = (a + b) & 0xFFFFFFFFFFFFFFFF
        c = (c + d) & 0xFFFFFFFFFFFFFFFF
        b = _turned(b, 13) ^ a
        d = _turned(d, 16) ^ c
        a = _turned(a, 32)
        a = (a + d) & 0xFFFFFFFFFFFFFFFF
        c = (c + b) & 0xFFFFFFFFFFFFFFFF
        d = _turned(d, 21) ^ a
        b = _turned(b, 17) ^ c
        c = _turned(c, 32)
    return a, b, c, d


def _turned(word: int, bits: int) -> int:
    return ((word << bits) | (word >> (64 - bits))) & 0xFFFFFFFFFFFFFFFF


def relocate_constants(data: bytes, mapping: PrefixMap) -> bytes:
    """Return a compiled file with the old prefixes in its constants replaced; the same object if it has none.

    Raises `ContentError` for a file that cannot be read so far, or whose constants cannot hold the new prefix.
    """
    pieces: list[bytes] = []
    end = 0
    for text in _texts(data, mapping):
        old = data[text.start : text.end]
        new = mapping.replace_text(old)
        if new is not old and new != old:
            pieces += (data[end : text.type_at], _encoded(data[text.type_at], new))
            end = text.end
    return b"".join((*pieces, data[end:])) if pieces else data


def remaining_in_constants(data: bytes, mapping: PrefixMap) -> Iterator[int]:
    """Yield the places of constants that hold an old prefix which is not part of a new one.

    Raises `ContentError` for a file that cannot be read so far.
    """
    for text in _texts(data, mapping):
        content = data[text.start : text.end]
        if mapping.replace_text(content) != content and is_left(content, mapping):
            yield text.start


def is_whole(data: bytes) -> bool:
    """Return whether a file is a header and one marshalled object, neither cut nor followed by anything."""
    header = read_header(data[:HEADER])
    if header is None or header.magic < _FIRST_WALKED:
        return False
    walk = _Walk(data, _code_of(header))
    try:
        for _ in walk.texts(len(data)):
            pass
    except (IndexError, struct.error, ContentError):
        return False
    return walk.at == len(data)


@dataclass(frozen=True, slots=True)
class _Text:
    """Where a string stands: its type, and its content."""

    type_at: int
    start: int
    end: int


def _texts(data: bytes, mapping: PrefixMap) -> Iterator[_Text]:
    """Yield the strings among which are all that an old prefix stands in."""
    header = read_header(data[:HEADER])
    if header is None or header.magic < _FIRST_WALKED:
        raise ContentError("compiled by a version of Python that is not known here")
    last = max((data.rfind(needle) for needle in mapping.old.needles), default=-1)
    if last < HEADER:
        return
    walk = _Walk(data, _code_of(header))
    try:
        for text in walk.texts(last):
            if text.end > text.start and mapping.old.stands_in(data[text.start : text.end]):
                yield text
    except (IndexError, struct.error):
        raise ContentError(f"its marshal stream ends too early, at byte {walk.at}") from None


def _code_of(header: PycHeader) -> str:
    return _NEW_CODE if header.magic >= _FIRST_OF_3_11 else _OLD_CODE


class _Walk:
    """Goes through a marshal stream. What is open is kept in a list, because a stranger's file may nest deeply."""

    def __init__(self, data: bytes, code: str) -> None:
        self.at = HEADER
        self._data = data
        self._code = code
        self._open: list[tuple[str, int]] = [("o", 1)]  # fields to come, and how many objects of them

    def texts(self, last: int) -> Iterator[_Text]:
        """Yield the strings that begin before the place `last`."""
        while self._open and self.at <= last:
            field, count = self._open.pop()
            if count > 1:
                self._open.append((field, count - 1))
            if field == "i":
                self.at += 4
            elif (text := self._object(field)) is not None:
                yield text

    def _object(self, field: str) -> _Text | None:
        """Go beyond the head of an object; return it if it is a string that is a constant or a name."""
        type_at = self.at
        code = self._data[type_at] & ~_REFERABLE
        self.at += 1
        if code in _FIXED:
            self.at += _FIXED[code]
            if field == "d" and code != ord("0"):
                self._open.append(("d", 1))  # a dictionary ends with NULL in the place of a key
                self._open.append(("o", 1))
            return None
        if field == "d":
            self._open.append(("d", 1))
            self._open.append(("o", 1))
        if code in _LONG_TEXT or code in _SHORT_TEXT:
            size = self._long() if code in _LONG_TEXT else self._byte()
            start, self.at = self.at, self._beyond(size)
            return None if field == "b" else _Text(type_at, start, self.at)
        self._enter(code, type_at)
        return None

    def _enter(self, code: int, type_at: int) -> None:
        """Go beyond a number, or into an object that holds others."""
        if code in b"([<>":
            self._put("o", self._long())
        elif code == ord(")"):
            self._put("o", self._byte())
        elif code == ord("c"):
            self._open += [(field, 1) for field in reversed(self._code)]
        elif code == ord("{"):
            self._open.append(("d", 1))
        elif code == ord(":"):
            self._put("o", 3)
        elif code == ord("l"):
            (digits,) = struct.unpack_from("<i", self._data, self.at)
            self.at = self._beyond(4 + 2 * abs(digits))
        elif code in b"fx":
            for _ in range(1 if code == ord("f") else 2):
                size = self._byte()
                self.at = self._beyond(size)
        else:
            raise ContentError(f"its marshal stream holds an unknown type at byte {type_at}")

    def _put(self, field: str, count: int) -> None:
        if count > len(self._data) - self.at:
            raise IndexError(count)
        if count:
            self._open.append((field, count))

    def _byte(self) -> int:
        self.at += 1
        return self._data[self.at - 1]

    def _long(self) -> int:
        (size,) = struct.unpack_from("<I", self._data, self.at)
        self.at += 4
        return int(size)

    def _beyond(self, size: int) -> int:
        if self.at + size > len(self._data):
            raise IndexError(size)
        return self.at + size


def _encoded(code: int, content: bytes) -> bytes:
    """Return a string as marshal writes it, in the type that its new content needs."""
    flag = code & _REFERABLE
    kind = bytes((code & ~_REFERABLE,))
    if kind in b"zZ" and content.isascii() and len(content) < _SHORTEST_LONG:
        return bytes((code, len(content))) + content
    kind = _SHORT_TEXT.get(kind[0], kind)
    if kind in _UNICODE and not content.isascii():
        kind = _UNICODE[kind]
    if kind in b"ut":
        try:
            content.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            raise ContentError("the new prefix is not valid UTF-8") from None
    return bytes((kind[0] | flag,)) + struct.pack("<I", len(content)) + content
