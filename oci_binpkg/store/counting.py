"""Counting bytes on their way, for observers: every byte once, at the first place that counts.

An operation that knows a blob's package counts it under that name. A store that sends bytes over the wire counts the
other blobs, under the digest. What was sent for nothing, or may not have arrived, is taken back: a retried upload
counts once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import BinaryIO, cast

from oci_binpkg.events import BytesSent, Observer
from oci_binpkg.model.content import Blob, BlobOpener, Growing


def counted(blob: Blob, key: str, observer: Observer) -> Blob:
    """Return the same blob; reading it reports `BytesSent` for `key`, unless that is done already."""
    return counting(blob, key, observer)[0]


def counting(blob: Blob, key: str, observer: Observer) -> tuple[Blob, SentBytes]:
    """Return the same blob, counted, and the count: the one that there is already, or a new one for `key`."""
    if isinstance(blob.open, _Opening):
        return blob, blob.open.sent
    sent = SentBytes(key, observer)
    return replace(blob, open=_Opening(blob.open, sent)), sent


def counted_growing(content: Growing, key: str, observer: Observer) -> tuple[Growing, SentBytes]:
    """Return the same content, counted likewise, and the count."""
    sent = SentBytes(key, observer)
    return replace(content, open=_Opening(content.open, sent)), sent


class SentBytes:
    """How many bytes of one content were read to be sent. Opening it again takes back what was counted before."""

    def __init__(self, key: str, observer: Observer) -> None:
        self._key = key
        self._observer = observer
        self.count = 0

    def add(self, count: int) -> None:
        """Report `count` more bytes."""
        self.count += count
        if count:
            self._observer(BytesSent(self._key, count))

    def discard(self) -> None:
        """Take back what was reported: it did not arrive."""
        self.add(-self.count)


@dataclass(frozen=True, slots=True)
class _Opening:
    opener: BlobOpener
    sent: SentBytes

    def __call__(self) -> AbstractContextManager[BinaryIO]:
        return self._opened()

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        self.sent.discard()
        with self.opener() as stream:
            yield cast("BinaryIO", _CountingReader(stream, self.sent))


class _CountingReader:
    """What readers of blobs need of a stream: `read` and `close`."""

    def __init__(self, stream: BinaryIO, sent: SentBytes) -> None:
        self._stream = stream
        self._sent = sent

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(size)
        self._sent.add(len(data))
        return data

    def close(self) -> None:
        self._stream.close()
