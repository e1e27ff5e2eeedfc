"""Going through the text of an index, a piece at a time: where the record of each package begins and ends.

An index is one JSON object with all packages of a cache in it, hundreds of megabytes at times, and a JSON parser wants
all of it. So a piece is cut where a record seems to end, and then parsed: text that parses as the inside of an object
and ends a value was cut at the right place, because JSON is read from left to right. Where the guess was wrong - keys
that look like hashes, line feeds in unusual places - brackets are counted instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final, NoReturn, TypeVar

import msgspec

from oci_binpkg.errors import ContentError
from oci_binpkg.index.spool import Spool
from oci_binpkg.model.documents import parse_json

MAX_VALUE_BYTES: Final = 64 * 1024 * 1024
"""The longest record, or other member, that is taken for one."""
_PIECE: Final = 256 * 1024
_SMALL: Final = 4 * 1024 * 1024
_GUESSED_IN: Final = 64 * 1024
_GUESSES: Final = 4
_SPACE: Final = re.compile(rb"[ \t\r\n]*")
_MEMBER: Final = re.compile(rb'[ \t\r\n]*+,?[ \t\r\n]*+("(?:[^"\\]|\\.)*+")[ \t\r\n]*:[ \t\r\n]*', re.DOTALL)
_BORDER: Final = re.compile(rb'\}[ \t\r\n]*,[ \t\r\n]*"[a-z0-9]{1,64}"[ \t\r\n]*:[ \t\r\n]*\{')
_BRACKET: Final = re.compile(rb'"(?:[^"\\]|\\.)*+("?)|[{}\[\]]', re.DOTALL)
_SCALAR: Final = re.compile(rb"[^\s,{}\[\]\"]+")
_MEMBERS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TEXT: Final = msgspec.json.Decoder(str)
_RAW: Final = msgspec.json.Decoder(msgspec.Raw)
_NOT_JSON: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

_Value = TypeVar("_Value")
Found = Callable[[str, int, msgspec.Raw], None]
"""Is given each record: its key, the place of its first byte, its text."""
Member = Callable[[str, bytes], None]
"""Is given every other member of `database` as it stands, in the order of the text."""


def scan_index(text: Spool, what: str, found: Found, member: Member) -> None:
    """Go through an index. Raises `ContentError` for anything but an index, and what `found` and `member` raise.

    `installs` is given to `member`, too: as an empty object, or as what stands in its place.
    """
    _IndexScanner(text, what).scan(found, member)


class _IndexScanner:
    """A place in the text, and the piece around it: `_at` is a place in `_piece`, which begins at `_start`."""

    def __init__(self, text: Spool, what: str) -> None:
        self._text = text
        self._what = what
        self._start = 0
        self._at = 0
        self._piece = text.read(0, _PIECE)
        self._must_count = False  # a guess was wrong in this piece

    def scan(self, found: Found, member: Member) -> None:
        is_index = False
        where = f"{self._what}.database"
        for key in self._members(self._what):
            if key != "database":
                self._value()
                continue
            is_index = True
            if self._peek() != b"{":
                self._value()
                raise ContentError(f"{where}: an object is expected")
            for name in self._members(where):
                if name == "installs" and self._peek() == b"{":
                    self._records(f"{where}.installs", found)
                    member(name, b"{}")
                else:
                    member(name, self._value())
        if self._peek():
            self._fail("something follows the document")
        if not is_index:
            raise ContentError(f"{where}: an object is expected, not nothing")

    def _members(self, where: str) -> Iterator[str]:
        """Iterate over the keys of an object; at each, the place is that of its value, which the caller passes."""
        if self._take() != b"{":
            self._fail(f"{where}: an object is expected")
        if self._peek() == b"}":
            self._at += 1
            return
        seen: set[str] = set()
        while True:
            key = self._key()
            if key in seen:
                raise ContentError(f"{self._what}: a key stands twice in one object")
            seen.add(key)
            yield key
            after = self._take()
            if after == b"}":
                return
            if after != b",":
                self._fail("a comma is expected")

    def _records(self, where: str, found: Found) -> None:
        """Pass all records. A piece is taken as far as whole records reach in it."""
        self._at += 1
        if self._peek() == b"}":
            self._at += 1
            return
        while True:
            cut, members = self._guessed() or self._counted(where)
            self._hand_out(cut, members, where, found)
            after = self._take()
            if after == b"}":
                return
            if after != b",":
                self._fail("a comma is expected")

    def _hand_out(self, cut: int, members: dict[str, msgspec.Raw], where: str, found: Found) -> None:
        """Yield the place of each record. A wrong guess shows as a record that is not in the mapping."""
        end = self._at
        for key, value in members.items():
            match = _MEMBER.match(self._piece, end)
            if match is None:
                break
            found(key, self._start + match.end(), value)
            end = match.end() + len(value)
        if end != cut:
            raise ContentError(f"{where}: a key stands twice in one object")
        self._at = cut

    def _guessed(self) -> tuple[int, dict[str, msgspec.Raw]] | None:
        """Cut behind the last record that is whole in the piece, if its end is certain."""
        if len(self._piece) - self._at < _PIECE // 2:
            self._read_on(_PIECE)
        if self._must_count:
            return None
        tail = max(self._at, len(self._piece) - _GUESSED_IN)
        cuts = [match.start() + 1 for match in _BORDER.finditer(self._piece, tail)]
        for cut in cuts[: -_GUESSES - 1 : -1]:
            try:
                return cut, _MEMBERS.decode(b"{%b}" % self._piece[self._at : cut])
            except _NOT_JSON:
                continue
        # until there is more of the text: a search after each record would take quadratic time
        self._must_count = True
        return None

    def _counted(self, where: str) -> tuple[int, dict[str, msgspec.Raw]]:
        """Cut behind the next record."""
        self._require_key()
        while True:
            match = _MEMBER.match(self._piece, self._at)
            end = _end_of_value(self._piece, match.end()) if match else None
            if end is not None:
                break
            if not self._grow():
                self._fail("it ends too early")
        try:
            return end, _MEMBERS.decode(b"{%b}" % self._piece[self._at : end])
        except _NOT_JSON as error:
            raise ContentError(f"{where}: {str(error)[:200]}") from None

    def _key(self) -> str:
        self._require_key()
        while (match := _MEMBER.match(self._piece, self._at)) is None or match.end() == len(self._piece):
            if not self._grow():
                self._fail("a key and a value are expected")
        self._at = match.end()
        return _decoded(_TEXT, match[1], self._what)

    def _require_key(self) -> None:
        if self._peek() != b'"':
            self._fail("a key is expected")

    def _value(self) -> bytes:
        while True:
            end = _end_of_value(self._piece, self._at)
            # a number may go on in the next piece
            if end is not None and end < len(self._piece):
                break
            if not self._grow():
                self._fail("it ends too early")
        value = self._piece[self._at : end]
        self._at = end
        return bytes(_decoded(_RAW, value, self._what))

    def _peek(self) -> bytes:
        """Pass white space and return the byte there, b"" at the end."""
        while True:
            match = _SPACE.match(self._piece, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._piece) or not self._read_on(_PIECE):
                return self._piece[self._at : self._at + 1]

    def _take(self) -> bytes:
        found = self._peek()
        self._at += 1
        return found

    def _grow(self) -> bool:
        """Read as much again as there is from here on; False at the end of the text."""
        if len(self._piece) - self._at > MAX_VALUE_BYTES:
            raise ContentError(f"{self._what}: a member of more than {MAX_VALUE_BYTES} bytes")
        return self._read_on(max(_PIECE, len(self._piece)))

    def _read_on(self, size: int) -> bool:
        """Drop what was passed and read on."""
        if self._start + len(self._piece) >= self._text.size:
            return False
        more = self._text.read(self._start + len(self._piece), size)
        self._piece = self._piece[self._at :] + more
        self._start += self._at
        self._at = 0
        self._must_count = False
        return bool(more)

    def _fail(self, reason: str) -> NoReturn:
        """Raise `ContentError`; what a small text or the start of a large one is instead is said in full."""
        if self._text.size <= _SMALL:
            parse_json(self._text.read(0, self._text.size), self._what, fold_case=False)
        elif self._text.read(0, _PIECE).lstrip()[:1] == b"<":
            parse_json(self._text.read(0, _PIECE), self._what, fold_case=False)
        raise ContentError(f"{self._what}: not valid JSON: {reason} (byte {self._start + self._at})")


def _end_of_value(piece: bytes, at: int) -> int | None:
    """Return where a value ends, None if that is not in the piece. Text that is not JSON may end anywhere."""
    scalar = _SCALAR.match(piece, at)
    if scalar is not None:
        return scalar.end()
    depth = 0
    for match in _BRACKET.finditer(piece, at):
        first = piece[match.start()]
        if first == ord('"'):
            if not match[1]:
                return None
        else:
            depth += 1 if first in b"{[" else -1
        if depth <= 0:
            return match.end()
    return None


def _decoded(decoder: msgspec.json.Decoder[_Value], data: bytes, what: str) -> _Value:
    try:
        return decoder.decode(data)
    except _NOT_JSON as error:
        raise ContentError(f"{what}: {str(error)[:200]}") from None
