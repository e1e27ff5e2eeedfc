r"""Other ways to write a path: `//`, `/./` and `..`, `\/` as in JSON, `%2F` as in addresses, `&amp;` as in XML. Pure.

Whatever the spelling, letters, digits, `.`, `_` and `-` stay what they are. The longest run of these in a path is its
mark: only where one stands is more to be looked at.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from posixpath import normpath
from typing import Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

from oci_binpkg.relocate.boundaries import NEAR, Buffer
from oci_binpkg.relocate.passes import places

LONGEST_SPELLED: Final = 1024
"""Bytes of a path that are read where it is spelled in another way, and of what follows a prefix."""
MOST_COMPONENTS: Final = 64

_RUN: Final = re.compile(rb"[A-Za-z0-9_.\-]+")
_SAFE: Final = re.compile(rb"[A-Za-z0-9_.\-/]*")
_NAME: Final = rb"(?P<name>[\w.+@~\-\x80-\xff]+)"
_ODD: Final = re.compile(rb"//|/\.\.?(?:/|$)")
_COMPONENT: Final = re.compile(rb"/+[^/]+")
_ENTITIES: Final = {b"&": b"amp", b"<": b"lt", b">": b"gt", b'"': b"quot", b"'": b"apos"}
_SHELL_SPECIAL: Final = re.compile(rb"[ \t!\"#$&'()*;<>?\[\\\]^`{|}]")
_IN_ADDRESSES: Final = "/@:+,=~!$'()*;"
_BACKSLASHED: Final = rb"\\{1,7}(?:/|u002[fF])"
_FILE_SCHEME: Final = re.compile(rb"file:(?://(?:localhost)?)?$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Spelling:
    """A way to write paths. `first` separates at the beginning, `separator` further on, `special` other characters."""

    first: bytes
    separator: bytes
    token: re.Pattern[bytes]
    special: Callable[[bytes], bytes]
    plain: Callable[[bytes], bytes]
    written: Callable[[bytes, tuple[bytes, ...]], bytes]
    """The bytes of a path; the separators are those that stood in the old one."""

    def pattern(self, path: bytes) -> bytes:
        """Return what finds a path in this spelling."""
        pieces = [self.separator if c == ord("/") else self._character(bytes((c,))) for c in path[1:]]
        return self.first + b"".join(pieces)

    def _character(self, character: bytes) -> bytes:
        return re.escape(character) if _RUN.match(character) else self.special(character)


@dataclass(frozen=True, slots=True)
class SpelledPath:
    """A path that begins at a place: what it is, and for each end of a component in it where that is in the file."""

    start: int
    path: bytes
    ends: dict[int, int]
    separators: tuple[tuple[int, bytes], ...]
    spelling: Spelling

    @property
    def end(self) -> int:
        """Where its last component ends."""
        return max(self.ends.values())


def marks_of(path: bytes) -> tuple[bytes, ...]:
    """Return what stands in a file wherever a path does, in any spelling: one of these."""
    before, run = behind_marks(path)
    return (b"/" + run, b"2F" + run, b"2f" + run) if before else (run,)


def behind_marks(path: bytes) -> tuple[bytes, bytes]:
    """Return the same as what all of them end with, and the bytes that stand before it; none if any may."""
    at, run = _mark(path)
    return (b"/Ff" if path[max(0, at - 1) : at] == b"/" else b""), run


def wide_marks_of(path: bytes) -> tuple[bytes, ...]:
    """Return what stands in a file wherever a path does in UTF-16 or UTF-32, in either order of bytes."""
    at, run = _mark(path)
    run = path[at - 1 : at] + run if at and path[at - 1 : at] == b"/" else run
    if len(run) == 1:
        return ()
    return tuple(bytes(width - 1).join(run[n : n + 1] for n in range(len(run))) for width in (2, 4))


def _mark(path: bytes) -> tuple[int, bytes]:
    runs = [(match.start(), match[0]) for match in _RUN.finditer(path)]
    return max(runs, key=lambda found: len(found[1]), default=(0, b"/"))


def is_safe(path: bytes) -> bool:
    """Return whether a path is written alike everywhere, but for its slashes."""
    return _SAFE.fullmatch(path) is not None


def is_odd(path: bytes) -> bool:
    """Return whether a path has components that are empty, `.` or `..`."""
    return (b"//" in path or b"/." in path) and _ODD.search(path) is not None


def normal(path: bytes) -> bytes:
    """Return an absolute path without such components."""
    return normpath(b"/" + path.lstrip(b"/"))


def heads(path: bytes) -> Iterator[int]:
    """Yield the ends of the first components of a path."""
    for number, found in enumerate(_COMPONENT.finditer(path)):
        if number >= MOST_COMPONENTS:
            return
        yield found.end()


def _shell(character: bytes) -> bytes:
    return rb"\\?" + re.escape(character)


def _percent(character: bytes) -> bytes:
    digits = b"".join(b"[%c%c]" % (d, ord(chr(d).lower())) for d in b"%02X" % character[0])
    return b"(?:" + re.escape(character) + b"|%" + digits + b")"


def _entity(character: bytes) -> bytes:
    name = _ENTITIES.get(character)
    numbers = b"#(?:%d|[xX]0?%02X);" % (character[0], character[0])
    return b"(?:" + re.escape(character) + b"|&" + (name + b";|&" if name else b"") + numbers + b")"


def _plain_entity(text: bytes) -> bytes:
    body = text[1:-1]
    if body.startswith(b"#"):
        digits = body[1:].lower()
        number = int(digits[1:], 16) if digits.startswith(b"x") else int(digits)
        return bytes((number,)) if 0 < number < 0x80 else text  # noqa: PLR2004 - ASCII
    return next((character for character, name in _ENTITIES.items() if name == body), text)


def _write_url(new: bytes, separators: tuple[bytes, ...]) -> bytes:
    """Return a path in an address. Separators keep their form, counted from the end; further ones have the first's."""
    names = quote_from_bytes(new, safe=_IN_ADDRESSES).encode().split(b"/")[1:]
    wanted = [separators[0]] * max(0, len(names) - len(separators) + 1) + list(separators[1:])
    if separators[0] != b"/":
        names = [name.replace(b":", b"%3A").replace(b"=", b"%3D") for name in names]
    return b"".join(mark + name for mark, name in zip(wanted[len(wanted) - len(names) :], names, strict=True))


def _write_xml(new: bytes, _: tuple[bytes, ...]) -> bytes:
    for character, name in _ENTITIES.items():
        new = new.replace(character, b"&" + name + b";") if character not in b"\"'" else new
    return new


def _token(separator: bytes, special: bytes = rb"(?!)") -> re.Pattern[bytes]:
    return re.compile(b"(?P<separator>" + separator + b")|" + _NAME + b"|(?P<special>" + special + b")")


PLAIN: Final = Spelling(b"/", rb"/(?:\.?/)*", _token(b"/"), re.escape, bytes, lambda new, _: new)
BACKSLASHED: Final = Spelling(
    _BACKSLASHED,
    b"(?:" + _BACKSLASHED + b")+",
    _token(_BACKSLASHED, rb"\\{1,7}[.+@~\-]"),
    re.escape,
    lambda text: re.sub(_BACKSLASHED, b"/", text).lstrip(b"\\"),
    lambda new, separators: new.replace(b"/", separators[0]),
)
URL: Final = Spelling(
    b"(?:%2[fF]|/)",
    b"(?:%2[fF]|/)+",
    _token(b"%2[fF]|/", b"%[0-9A-Fa-f]{2}"),
    _percent,
    unquote_to_bytes,
    _write_url,
)
SHELL: Final = Spelling(
    b"/",
    b"/+",
    _token(b"/", rb"\\[^\n\0/\w]"),
    _shell,
    lambda text: re.sub(rb"\\(.)", rb"\1", text),
    lambda new, _: _SHELL_SPECIAL.sub(lambda found: b"\\" + found[0], new),
)
XML: Final = Spelling(
    b"/",
    b"/+",
    _token(b"/", rb"&(?:#\d{1,3}|#[xX][0-9A-Fa-f]{1,4}|[a-z]{2,4});| "),
    _entity,
    lambda text: re.sub(rb"&[#\w]+;", lambda found: _plain_entity(found[0]), text),
    _write_xml,
)
WITH_SPECIALS: Final = (SHELL, URL, XML)
"""How characters are written that have a meaning."""


def read_path(data: Buffer, at: int, spelling: Spelling, stop: int) -> SpelledPath:
    """Read the path that begins at a place and ends before `stop`."""
    pieces, ends, separators = list[bytes](), dict[int, int](), list[tuple[int, bytes]]()
    size, place, stop = 0, at, min(stop, at + LONGEST_SPELLED)
    while place < stop and (token := spelling.token.match(data, place, stop)):
        piece = token[0]
        if token.lastgroup == "separator":
            ends[size] = place
            separators.append((place, piece))
            piece = b"/"
        elif token.lastgroup == "special":
            ends |= {size: place} if piece == b" " else {}
            piece = spelling.plain(piece)
        pieces.append(piece)
        size, place = size + len(piece), token.end()
    path = b"".join(pieces)
    if path.rpartition(b"/")[2] not in {b".", b".."}:  # those end a sentence, not a name
        stripped = path.rstrip(b".")
        size, place, path = len(stripped), place - (len(path) - len(stripped)), stripped
    ends[size] = place
    return SpelledPath(at, path, ends, tuple(separators), spelling)


def plain_head(data: Buffer, at: int, spelling: Spelling) -> bytes:
    """Return what stands before a place, with the slashes that are spelled like those of the path."""
    head = bytes(data[max(0, at - NEAR) : at])
    if spelling is BACKSLASHED:  # a slash that is not spelled so separates something else, as in `s/\\/opt/x/`
        return re.sub(_BACKSLASHED + b"|/", lambda found: b"/" if len(found[0]) > 1 else b"|", head)
    return spelling.plain(head) if spelling is URL else head


def in_address(data: Buffer, at: int, path: bytes) -> bytes:
    """Return a path as it is written at a place: in addresses of files some characters are not."""
    if is_safe(path) or _FILE_SCHEME.search(bytes(data[max(0, at - 20) : at])) is None:
        return path
    return quote_from_bytes(path, safe=_IN_ADDRESSES).encode()


def shorter_readings(path: bytes) -> Iterator[bytes]:
    """Yield a path, and what is left of it if it ends before one of its blanks, which may be those of a sentence."""
    for _ in range(MOST_COMPONENTS):
        yield path
        path, blank, _ = path.rpartition(b" ")
        if not blank:
            return


class SpelledFinder:
    """Finds paths that begin with one of a few, in any spelling but the plain one without detours.

    With `special`, names in them may hold characters that have a meaning somewhere.
    """

    def __init__(self, paths: tuple[bytes, ...], *, special: bool) -> None:
        self.marks = tuple(sorted({mark for path in paths for mark in marks_of(path)}))
        self.wide_marks = tuple(sorted({mark for path in paths for mark in wide_marks_of(path)}))
        self.all_marks = self.marks + self.wide_marks
        self._exact = {mark: [(path, path.find(mark)) for path in paths if mark in path] for mark in self.marks}
        self._special = special
        self._reach = 6 * max(map(len, paths), default=0) + 16
        spellings = (BACKSLASHED, URL, PLAIN, *((SHELL, XML) if special else ()))
        self._patterns = [(s, re.compile(b"|".join(map(s.pattern, paths)) or rb"(?!)")) for s in spellings]

    def find(self, data: Buffer, start: int, stop: int, limit: int) -> Iterator[tuple[int, Iterator[SpelledPath]]]:
        """Yield places of what may be paths that begin in `data[start:limit]`, with readings that end before `stop`."""
        for place, mark in places(data, self.marks, start, min(stop, limit + self._reach)):
            if self._special or not self._is_plain(data, place, mark):
                yield place, self._readings(data, place, max(start, place - self._reach), stop)

    def _is_plain(self, data: Buffer, place: int, mark: bytes) -> bool:
        """Return whether the path around a mark is written as usual: then it is found without this."""
        for path, offset in self._exact[mark]:
            begin = place - offset
            if begin >= 0 and data[begin : begin + len(path)] == path:
                return path.count(b"/") > 1 or data[begin - 1 : begin] != b"\\"
        return False

    def _readings(self, data: Buffer, place: int, low: int, stop: int) -> Iterator[SpelledPath]:
        for spelling, pattern in self._patterns:
            for found in pattern.finditer(data, low, min(stop, place + self._reach)):
                begin, end, text = found.start(), found.end(), found[0]
                del found  # it would keep a mapped file from being closed
                if begin > place + 2:
                    break
                if end > place and not (spelling is PLAIN and not is_odd(text)):
                    yield read_path(data, begin, spelling, stop)
