"""What frames the body of an answer: its head, the lines between chunks, the trailers. All of it under one deadline.

A socket's timeout counts from byte to byte, and the library reads as many `100 Continue`, chunk extensions and trailers
as a server likes to send. So the lines of one frame - everything from where the body is not to where it goes on - have
their time together, and a size.
"""

from __future__ import annotations

import http.client
import io
from collections.abc import Callable
from typing import Any, Final, cast

from oci_binpkg.times import Time

MAX_FRAME: Final = 512 * 1024
"""Bytes of one head, or of the lines from one piece of a body to the next."""
_BUFFER: Final = 8192
_COOKIES: Final = "Set-Cookie"


class FrameTooLongError(http.client.HTTPException):
    """A head, or the lines between two pieces of a body, does not end."""


class _TimedSocket(io.RawIOBase):
    """The bytes as they come, each wait for them no longer than until `deadline` (on the clock), if there is one."""

    def __init__(self, sock: Any, time: Time) -> None:
        super().__init__()
        self._sock = sock
        self._raw = sock.makefile("rb", 0)
        self._time = time
        self.deadline: float | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self.deadline is None:
            return self._read(buffer)
        left = self.deadline - self._time.clock()
        if left <= 0:
            raise TimeoutError("timed out")
        usual = self._sock.gettimeout()
        self._sock.settimeout(left if usual is None else min(left, usual))
        try:
            return self._read(buffer)
        finally:
            self._sock.settimeout(usual)

    def _read(self, buffer: Any) -> int | None:
        count: int | None = self._raw.readinto(buffer)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class FramedReader(io.BufferedReader):
    """The bytes of one answer. Lines belong to a frame, everything else to the body, which ends the frame.

    `allowed()` says how many seconds the next frame may take in all.
    """

    def __init__(self, sock: Any, time: Time, allowed: Callable[[], float | None]) -> None:
        self._wire = _TimedSocket(sock, time)
        super().__init__(self._wire, _BUFFER)
        self._time = time
        self._allowed = allowed
        self._frame_ends: float | None = None
        self._length = 0
        self.body_ends: float | None = None
        """When the whole answer must be there; None if it may take as long as it makes progress."""

    def readline(self, size: int | None = -1, /) -> bytes:
        """Read a line of a frame. Raises `TimeoutError` when its time is over, `FrameTooLongError`."""
        if self._frame_ends is None:
            allowed = self._allowed()
            self._frame_ends = None if allowed is None else self._time.clock() + allowed
        self._wire.deadline = self._first(self._frame_ends, self.body_ends)
        if self._wire.deadline is not None and self._time.clock() >= self._wire.deadline:
            raise TimeoutError("timed out")  # also where all of it is in the buffer already
        line = super().readline(-1 if size is None else size)
        self._length += len(line)
        if self._length > MAX_FRAME:
            raise FrameTooLongError("the head of an answer does not end")
        return line

    def read(self, size: int | None = -1, /) -> bytes:
        """Read of the body."""
        self._begin_body()
        return super().read(size)

    def read1(self, size: int = -1, /) -> bytes:
        """Read of the body what is there."""
        self._begin_body()
        return super().read1(size)

    def readinto(self, buffer: Any, /) -> int:
        """Read of the body."""
        self._begin_body()
        return super().readinto(buffer)

    def _begin_body(self) -> None:
        self._frame_ends, self._length = None, 0
        self._wire.deadline = self.body_ends

    @staticmethod
    def _first(*moments: float | None) -> float | None:
        return min((moment for moment in moments if moment is not None), default=None)


class FramedResponse(http.client.HTTPResponse):
    """An answer read through a `FramedReader`, whose head may take as long as the socket's timeout says."""

    def __init__(self, sock: Any, *args: Any, time: Time, opened: Any, **kwargs: Any) -> None:
        reader = FramedReader(sock, time, sock.gettimeout)
        super().__init__(cast("Any", _Opened(reader)), *args, **kwargs)
        opened(reader)

    def begin(self) -> None:
        """Read the head. Cookie headers are dropped: no cookies are kept, and parsing their dates is slow."""
        super().begin()
        del self.msg[_COOKIES]


class _Opened:
    """A stand-in for a socket, for the one method that `http.client` calls."""

    def __init__(self, reader: FramedReader) -> None:
        self._reader = reader

    def makefile(self, _mode: str) -> FramedReader:
        return self._reader
