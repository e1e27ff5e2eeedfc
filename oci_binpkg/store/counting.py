"""Counting bytes on their way, for observers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import BinaryIO, cast

from oci_binpkg.events import BytesSent, Observer
from oci_binpkg.model.content import Blob, BlobOpener, Growing


def counted(blob: Blob, key: str, observer: Observer) -> Blob:
    """Return the same blob; reading it reports `BytesSent` for `key`. Opening it again takes back what was counted."""
    return replace(blob, open=_Counter(key, observer).opening(blob.open))


def counted_growing(content: Growing, key: str, observer: Observer) -> tuple[Growing, Callable[[], None]]:
    """Return the same content, counted likewise, and what takes back everything that was counted."""
    counter = _Counter(key, observer)
    return replace(content, open=counter.opening(content.open)), counter.restart


class _Counter:
    def __init__(self, key: str, observer: Observer) -> None:
        self._key = key
        self._observer = observer
        self._count = 0

    def opening(self, opener: BlobOpener) -> BlobOpener:
        @contextmanager
        def open_counted() -> Iterator[BinaryIO]:
            self.restart()
            with opener() as stream:
                yield cast("BinaryIO", _CountingReader(stream, self))

        return open_counted

    def restart(self) -> None:
        if self._count:
            self._observer(BytesSent(self._key, -self._count))
        self._count = 0

    def add(self, count: int) -> None:
        self._count += count
        self._observer(BytesSent(self._key, count))


class _CountingReader:
    """What readers of blobs need of a stream: `read` and `close`."""

    def __init__(self, stream: BinaryIO, counter: _Counter) -> None:
        self._stream = stream
        self._counter = counter

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(size)
        if data:
            self._counter.add(len(data))
        return data

    def close(self) -> None:
        self._stream.close()
