"""The head of an answer, the lines between chunks and the trailers have their time together, whatever drips."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from oci_binpkg.transport.framing import MAX_FRAME, FramedReader, FramedResponse, FrameTooLongError
from tests.support.fake_time import FakeTime

WAIT = 3.0


class Raw(io.RawIOBase):
    def __init__(self, wire: Wire) -> None:
        self.wire = wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        wire = self.wire
        if not wire.left:
            pause, wire.left = next(wire.pieces, (0.0, b""))
            if pause > wire.timeout:
                wire.time.advance(wire.timeout)
                raise TimeoutError("timed out")
            wire.time.advance(pause)
        count = min(len(buffer), len(wire.left))
        buffer[:count] = wire.left[:count]
        wire.left = wire.left[count:]
        wire.sent += count
        return count


@dataclass
class Wire:
    """A socket on which pieces come, each after a pause; a pause longer than its timeout ends it as one does."""

    time: FakeTime
    pieces: Iterator[tuple[float, bytes]]
    timeout: float = WAIT
    left: bytes = b""
    sent: int = 0
    set_to: list[float] = field(default_factory=list)

    def makefile(self, _mode: str, buffering: int) -> Raw:
        assert buffering == 0
        return Raw(self)

    def gettimeout(self) -> float:
        return self.timeout

    def settimeout(self, seconds: float) -> None:
        self.set_to.append(seconds)
        self.timeout = seconds


def forever(*pieces: bytes, pause: float) -> Iterator[tuple[float, bytes]]:
    while True:
        for piece in pieces:
            yield pause, piece


def answer(wire: Wire) -> FramedResponse:
    readers: list[FramedReader] = []
    made = FramedResponse(wire, method="GET", time=wire.time.time, opened=readers.append)
    assert len(readers) == 1
    return made


def started(*pieces: bytes) -> Iterable[tuple[float, bytes]]:
    return [(0.0, piece) for piece in pieces]


def chain(*parts: Iterable[tuple[float, bytes]]) -> Iterator[tuple[float, bytes]]:
    for part in parts:
        yield from part


def _whole(made: FramedResponse) -> bytes:
    made.begin()
    return made.read()


def _pieces(made: FramedResponse) -> list[bytes]:
    return list(iter(lambda: made.read1(100), b""))


HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
HEADS = {
    "continues": forever(b"HTTP/1.1 100 Continue\r\n\r\n", pause=0.5),
    "drips": chain(started(b"HTTP/1.1 200 OK\r\nX: "), forever(b"a", pause=0.5)),
    "a status line that drips": forever(b"H", pause=0.1),
    "a header now and then": chain(started(b"HTTP/1.1 200 OK\r\n"), forever(b"X: a\r\n", pause=1.0)),
    "continues with headers": forever(b"HTTP/1.1 100 Continue\r\n", b"X: a\r\n", b"\r\n", pause=0.2),
}


@pytest.mark.parametrize("pieces", HEADS.values(), ids=HEADS)
def test_a_head_has_one_deadline(pieces: Iterator[tuple[float, bytes]]) -> None:
    wire = Wire(FakeTime(), pieces)
    before = wire.time.clock()
    with pytest.raises(TimeoutError):
        answer(wire).begin()
    assert wire.time.clock() - before == pytest.approx(WAIT)
    assert wire.timeout == WAIT, "the socket's own timeout is as it was"


def test_a_head_within_its_time_is_read_and_its_body_may_take_longer() -> None:
    pieces = chain(
        [(1.0, b"HTTP/1.1 100 Continue\r\n\r\n"), (1.0, b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n"), (0.5, b"\r\n")],
        [(2.0, b"ab"), (2.0, b"cd"), (2.0, b"ef")],
    )
    made = answer(wire := Wire(FakeTime(), pieces))
    made.begin()
    assert (made.status, b"".join(iter(lambda: made.read1(10), b""))) == (200, b"abcdef")
    assert wire.time.clock() >= 8.5


def test_trailers_have_one_deadline() -> None:
    made = answer(wire := Wire(FakeTime(), chain(started(HEAD, b"2\r\n{}\r\n0\r\n"), forever(b"X: a\r\n", pause=0.1))))
    made.begin()
    before = wire.time.clock()
    with pytest.raises(TimeoutError):
        made.read()
    assert wire.time.clock() - before == pytest.approx(WAIT)


def test_each_chunk_has_its_time() -> None:
    chunks = [(2.0, b"1\r\na\r\n")] * 5
    made = answer(wire := Wire(FakeTime(), chain(started(HEAD), chunks, started(b"0\r\nX: a\r\n\r\n"))))
    made.begin()
    assert made.read() == b"aaaaa"
    assert wire.time.clock() >= 10


@pytest.mark.parametrize(
    "flood",
    [
        chain(started(HEAD, b"0\r\n"), forever(b"X: a\r\n" * 1000, pause=0.0)),
        forever(b"HTTP/1.1 100 Continue\r\n\r\n" * 500, pause=0.0),
    ],
    ids=["trailers", "continues"],
)
def test_what_comes_at_once_and_without_end_is_cut(flood: Iterator[tuple[float, bytes]]) -> None:
    made = answer(wire := Wire(FakeTime(), flood))
    with pytest.raises(FrameTooLongError):
        _whole(made)
    assert wire.sent < 2 * MAX_FRAME


def test_an_answer_may_have_a_deadline_as_a_whole() -> None:
    readers: list[FramedReader] = []
    pieces = chain(started(b"HTTP/1.1 500 X\r\nContent-Length: 9000\r\n\r\n"), forever(b"x", pause=1.0))
    wire = Wire(FakeTime(), pieces)
    made = FramedResponse(wire, method="GET", time=wire.time.time, opened=readers.append)
    made.begin()
    before = wire.time.clock()
    readers[0].body_ends = before + 5
    with pytest.raises(TimeoutError):
        _pieces(made)
    assert wire.time.clock() - before == pytest.approx(5)


def test_cookies_are_not_kept() -> None:
    made = answer(
        Wire(FakeTime(), iter(started(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nset-cookie: c\r\nX: y\r\n\r\n")))
    )
    made.begin()
    assert made.getheaders() == [("X", "y")]
