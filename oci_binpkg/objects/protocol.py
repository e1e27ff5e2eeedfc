"""Named bytes on a mirror: one small protocol for directories, web servers and S3.

A path is relative to the mirror's root, with slashes: `v3/layout.json`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import BinaryIO, Final, Protocol

from oci_binpkg.errors import ContentError, NotFoundError
from oci_binpkg.model.content import Blob

CHUNK: Final = 1024 * 1024
MAX_DOCUMENT_BYTES: Final = 64 * 1024 * 1024
_FIRST_PRINTABLE: Final = " "


@dataclass(frozen=True, slots=True)
class Object:
    """A small object that was read whole. `etag` names this version of it; "" where the server names none."""

    data: bytes
    etag: str = ""


class Objects(Protocol):
    """A tree of named objects. Thread-safe. Only `NotFoundError` means absent."""

    @property
    def name(self) -> str:
        """How people and errors call it: the URL without a login."""
        ...

    def read(self, path: str, *, known_etag: str = "", limit: int = MAX_DOCUMENT_BYTES) -> Object | None:
        """Read a small object; None if its version is `known_etag`.

        Raises `NotFoundError`, and `ContentError` above `limit` bytes.
        """
        ...

    def open(self, path: str) -> AbstractContextManager[BinaryIO]:
        """Open an object of any size for reading, from its start. Nothing is verified. Raises `NotFoundError`."""
        ...

    def size(self, path: str) -> int:
        """Return an object's size in bytes. Raises `NotFoundError`."""
        ...

    def write(self, path: str, content: Blob | bytes, *, if_match: str | None = None) -> bool:
        """Put an object in place, whole or not at all; what reading a blob raises leaves nothing behind.

        `if_match` is the version that is to be replaced, "" for none. Returns False, having written nothing, if the
        object is another by now. Raises `UnsupportedError` where nothing can be written.
        """
        ...

    def list(self, prefix: str) -> Iterator[str]:
        """Iterate over the paths of all objects below the directory `prefix`, at any depth, sorted.

        An absent directory holds nothing. Raises `UnsupportedError` where nothing can be listed.
        """
        ...

    def remove(self, path: str) -> None:
        """Remove an object. Raises `NotFoundError`, or `UnsupportedError` where nothing can be removed."""
        ...


def exists(objects: Objects, path: str, *, size: int | None = None) -> bool:
    """Return whether an object is there, with that size if one is given."""
    try:
        found = objects.size(path)
    except NotFoundError:
        return False
    return size is None or found == size


def checked_path(path: str) -> str:
    """Return `path`. Raises `ContentError` for one that leads out of the tree: names come from documents of others."""
    parts = path.split("/")
    if not {"", ".", ".."}.isdisjoint(parts) or any(character < _FIRST_PRINTABLE for character in path):
        raise ContentError(f"not a path on a mirror: {path[:200]!r}")
    return path


def chunks(content: Blob | bytes) -> Iterator[bytes]:
    """Iterate over content in pieces of at most 1 MiB."""
    if isinstance(content, bytes):
        yield from (content[start : start + CHUNK] for start in range(0, len(content), CHUNK))
        return
    with content.open() as stream:
        yield from itertools.takewhile(bool, (stream.read(CHUNK) for _ in itertools.count()))
