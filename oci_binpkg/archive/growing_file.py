"""A file that is read while it is still written."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition
from typing import BinaryIO, Final, cast

from oci_binpkg.errors import ContentError
from oci_binpkg.model.content import Descriptor, Growing

FOLLOWED_FROM: Final = 4 * 1024 * 1024
"""A layer that has so many bytes is worth being sent before it is whole; a smaller one is made in a moment."""

Follow = Callable[[Growing], None]
"""Called with a layer that is being made and has become large; must return at once."""


class GrowingFile:
    """What is known of a new file while somebody writes it. Thread-safe.

    The writer says how far it is with `grew`, and at the end `finish` or `fail`. Readers come through `content` and
    wait for what is not there yet. The file may get another name meanwhile.
    """

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)
        self._condition = Condition()
        self._size = 0
        self._whole: Descriptor | None = None
        self._over = False

    @property
    def content(self) -> Growing:
        """The file as content to be sent."""
        return Growing(self._open, self._wait)

    def grew(self, size: int) -> None:
        """Say that the first `size` bytes are written."""
        with self._condition:
            self._size = size
            self._condition.notify_all()

    def finish(self, descriptor: Descriptor) -> None:
        """Say that the file is whole, and what it is."""
        self._end(descriptor)

    def fail(self) -> None:
        """Say that the file will never be whole, unless it is already."""
        self._end(None)

    def read(self, size: int, offset: int) -> bytes:
        """Return up to `size` bytes at `offset` as soon as there are some; b"" at the end. Raises `ContentError`."""
        with self._condition:
            self._condition.wait_for(lambda: self._over or self._size > offset)
            there = self._checked().size - offset if self._over else self._size - offset
        return os.pread(self._descriptor, min(size, there), offset) if there else b""

    def _end(self, descriptor: Descriptor | None) -> None:
        with self._condition:
            if not self._over:
                self._whole, self._over = descriptor, True
            self._condition.notify_all()

    @contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        yield cast("BinaryIO", _Follower(self))

    def _wait(self) -> Descriptor:
        with self._condition:
            self._condition.wait_for(lambda: self._over)
            return self._checked()

    def _checked(self) -> Descriptor:
        if self._whole is None:
            raise ContentError("what was being sent was not made to its end")
        return self._whole


class _Follower:
    """Reads a growing file once. Readers of content need `read` and `close` alone."""

    def __init__(self, file: GrowingFile) -> None:
        self._file = file
        self._offset = 0

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(size, self._offset)
        self._offset += len(data)
        return data

    def close(self) -> None:
        """Do nothing: the file is closed when nobody knows it any more."""
