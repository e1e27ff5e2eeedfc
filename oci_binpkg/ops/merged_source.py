"""A merged layer of a store, read as the layers of the packages in it."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import BinaryIO, cast

from oci_binpkg.archive.codec import Readable
from oci_binpkg.archive.layer_frame import member
from oci_binpkg.archive.merged_layer import NotInPartsError, end_of, members, parents_of
from oci_binpkg.disk import disk_refusal
from oci_binpkg.errors import ContentError
from oci_binpkg.model.content import OCI_LAYER_GZIP, Blob, Descriptor
from oci_binpkg.model.image import UNKNOWN_DIFF_ID, Body, Layer
from oci_binpkg.store.verifying import VerifyingReader, verified_chunks


class MergedLayer:
    """A merged layer of a store, as the layers of the packages in it; its bytes are fetched once, when one is needed.

    `what` is how errors call it.
    """

    def __init__(self, blob: Blob, what: str) -> None:
        self._blob = blob
        self._what = what
        self._lock = Lock()
        self._file: BinaryIO | None = None

    def layer_of(self, body: Body) -> Layer | None:
        """Return the layer of a package, with its own digest; None if that layer does not follow from what is here."""
        if body.digest is None:
            return None
        descriptor = Descriptor(OCI_LAYER_GZIP, body.digest, body.size)
        return Layer(Blob(descriptor, lambda: self._open(body, descriptor)), UNKNOWN_DIFF_ID)

    @contextmanager
    def _open(self, body: Body, descriptor: Descriptor) -> Iterator[BinaryIO]:
        """Open the layer of a package, verified. Raises `ContentError` for a layer that was changed."""
        file = self._fetched()
        size, first = 0, b""
        try:
            for _, content in members(_BodyStream(file, body), self._what):
                first = first or content
                size += len(content)
            above = parents_of([_prefix_of(first)])
        except (NotInPartsError, tarfile.TarError) as error:
            raise ContentError(f"{self._what}: what it has of /{body.hash[:7]} is no package") from error
        parts = (io.BytesIO(member(above)), _BodyStream(file, body), io.BytesIO(member(end_of(len(above) + size))))
        with VerifyingReader(cast("BinaryIO", _Chain(parts)), descriptor, self._what) as reader:
            yield reader

    def _fetched(self) -> BinaryIO:
        with self._lock:
            if self._file is None:
                file = cast("BinaryIO", tempfile.TemporaryFile())  # noqa: SIM115 - lives as long as this
                try:
                    for chunk in verified_chunks(self._blob, self._what):
                        file.write(chunk)
                    file.flush()
                except OSError as error:
                    raise disk_refusal("a temporary file", error, hint="free some space, or set TMPDIR") from error
                self._file = file
            return self._file


def _prefix_of(content: bytes) -> str:
    """Return the path of the first directory of a tar."""
    with tarfile.open(fileobj=io.BytesIO(content + bytes(tarfile.RECORDSIZE)), mode="r:") as archive:
        info = archive.next()
    if info is None or not info.isdir():
        raise NotInPartsError
    return info.name


class _BodyStream:
    """The bytes of a package in a file that several threads read."""

    def __init__(self, file: BinaryIO, body: Body) -> None:
        self._file = file
        self._at = body.offset
        self._end = body.offset + body.length

    def read(self, size: int, /) -> bytes:
        data = os.pread(self._file.fileno(), min(size, self._end - self._at), self._at)
        self._at += len(data)
        return data


class _Chain:
    """Streams that are read one after another."""

    def __init__(self, streams: Sequence[Readable]) -> None:
        self._streams = streams

    def read(self, size: int, /) -> bytes:
        for stream in self._streams:
            if data := stream.read(size):
                return data
        return b""

    def close(self) -> None:
        """Do nothing: the file belongs to all packages in it."""
