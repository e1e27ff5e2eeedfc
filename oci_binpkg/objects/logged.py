"""One debug line for each access to a mirror whose library sends its own requests: S3 and what fsspec opens."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Final

from oci_binpkg.errors import BinpkgError
from oci_binpkg.log import Log
from oci_binpkg.model.content import Blob
from oci_binpkg.objects.protocol import MAX_DOCUMENT_BYTES, Object, Objects
from oci_binpkg.times import Time

_log: Final = Log("objects")


class LoggedObjects:
    """Other objects, whose accesses are logged with their outcome and time."""

    def __init__(self, objects: Objects, time: Time) -> None:
        self._objects = objects
        self._time = time

    @property
    def name(self) -> str:
        """The URL without a login."""
        return self._objects.name

    def read(self, path: str, *, known_etag: str = "", limit: int = MAX_DOCUMENT_BYTES) -> Object | None:
        """Read a small object; None if its version is `known_etag`."""
        with self._logged("read", path) as said:
            found = self._objects.read(path, known_etag=known_etag, limit=limit)
            said.append(f"{len(found.data)} bytes" if found else "not changed")
        return found

    @contextmanager
    def open(self, path: str) -> Iterator[BinaryIO]:
        """Open an object; its line comes when it is closed."""
        with self._logged("open", path), self._objects.open(path) as stream:
            yield stream

    def size(self, path: str) -> int:
        """Return an object's size in bytes. Raises `NotFoundError`."""
        with self._logged("size of", path) as said:
            size = self._objects.size(path)
            said.append(f"{size} bytes")
        return size

    def write(self, path: str, content: Blob | bytes, *, if_match: str | None = None) -> bool:
        """Put an object in place. Returns False if it is not the version `if_match`."""
        with self._logged("write", path) as said:
            written = self._objects.write(path, content, if_match=if_match)
            size = len(content) if isinstance(content, bytes) else content.descriptor.size
            said.append(f"{size} bytes" if written else "another version is there")
        return written

    def list(self, prefix: str) -> Iterator[str]:
        """Iterate over the objects below a directory, sorted."""
        with self._logged("list", prefix):
            return self._objects.list(prefix)

    def remove(self, path: str) -> None:
        """Remove an object. Raises `NotFoundError`."""
        with self._logged("remove", path):
            self._objects.remove(path)

    @contextmanager
    def _logged(self, verb: str, path: str) -> Iterator[builtins.list[str]]:
        """Log an access when it ends. What the body adds to the list is its outcome; "done" without."""
        started = self._time.clock()
        said: builtins.list[str] = []
        try:
            yield said
        except BinpkgError as error:
            said[:] = [type(error).__name__]
            raise
        finally:
            outcome = said[0] if said else "done"
            _log.debug("%s %s/%s: %s in %.3f s", verb, self.name, path, outcome, self._time.clock() - started)
