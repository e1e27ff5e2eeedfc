"""Objects on a web server: mirrors under `http://` and `https://`, to be read only."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, BinaryIO, Final, Never, cast
from urllib.parse import quote

from oci_binpkg.errors import (
    AuthError,
    BinpkgError,
    ContentError,
    DeniedError,
    Hint,
    NetworkError,
    NotFoundError,
    ServerError,
    Step,
    UnsupportedError,
)
from oci_binpkg.model.content import Blob, read_whole
from oci_binpkg.objects.protocol import MAX_DOCUMENT_BYTES, Object, checked_path
from oci_binpkg.transport.addresses import redact_url
from oci_binpkg.transport.http import HttpClient, Request, Response

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

RESUMES: Final = 5
"""How often a body that breaks off is resumed without having made progress."""
_SETTLED: Final = timedelta(seconds=2)
"""How old a change must be by the server's own clock, so that a second change in the same second is impossible."""
_NEXT: Final[dict[type[BinpkgError], str]] = {
    NotFoundError: "check the address of the mirror",
    AuthError: Hint(Step.LOG_IN_OR_CONFIGURE),
    DeniedError: "ask for access to this mirror, or name another login for it in the configuration",
}
_SIZE: Final = re.compile(r"[0-9]{1,18}", re.ASCII)
_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/(?:[0-9]{1,18}|\*)", re.ASCII)


class HttpObjects:
    """Objects below `url`, fetched through `client`, which handles logins, retries, redirects and limits."""

    def __init__(self, url: str, client: HttpClient) -> None:
        self._url = url.rstrip("/")
        self._client = client

    @property
    def name(self) -> str:
        """The URL without a login."""
        return redact_url(self._url)

    def read(self, path: str, *, known_etag: str = "", limit: int = MAX_DOCUMENT_BYTES) -> Object | None:
        """Read an object whole; None if the server says that it still is the version `known_etag`."""
        headers = {"If-None-Match": known_etag} if known_etag else {}
        accept = frozenset({int(HTTPStatus.NOT_MODIFIED)}) if known_etag else frozenset[int]()
        response = self._send("GET", path, headers, accept=accept)
        if response.status == HTTPStatus.NOT_MODIFIED:
            response.close()
            return None
        with io.BufferedReader(_ResumedBody(self, path, response)) as stream:
            data = read_whole(stream, limit + 1)
        if len(data) > limit:
            raise ContentError(f"{self.name}/{path} is larger than {limit} bytes")
        return Object(data, _version(response))

    @contextmanager
    def open(self, path: str) -> Iterator[BinaryIO]:
        """Open an object; when the connection breaks, reading goes on where it broke off."""
        with io.BufferedReader(_ResumedBody(self, path, self.request(path, 0, ""))) as stream:
            yield cast("BinaryIO", stream)

    def size(self, path: str) -> int:
        """Ask for an object's size. Raises `NotFoundError`; `ServerError` if the server does not send it."""
        with self._send("HEAD", path) as response:
            length = _length(response)
        if length is None:
            raise ServerError(
                f"{self.name} does not send the size of {path}", hint="its web server has to send Content-Length"
            )
        return length

    def write(self, path: str, content: Blob | bytes, *, if_match: str | None = None) -> bool:  # noqa: ARG002
        """Raise `UnsupportedError`."""
        self._refuse(f"write {path}")

    def list(self, prefix: str) -> Iterator[str]:
        """Raise `UnsupportedError`: web servers have no listing that programs can rely on."""
        raise UnsupportedError(
            f"{self.name} cannot list {prefix}: web servers offer no listing",
            hint="a mirror on a web server needs an index: write one where the mirror is pushed to",
        )

    def remove(self, path: str) -> None:
        """Raise `UnsupportedError`."""
        self._refuse(f"remove {path}")

    def request(self, path: str, start: int, etag: str) -> Response:
        """Ask for an object of the version `etag` from byte `start` on; the answer may begin at byte 0 all the same."""
        headers = {}
        if start:
            headers = {"Range": f"bytes={start}-"} | ({"If-Range": etag} if _strong(etag) else {})
        return self._send("GET", path, headers)

    def _send(
        self, method: str, path: str, headers: dict[str, str] | None = None, *, accept: frozenset[int] = frozenset()
    ) -> Response:
        url = f"{self._url}/{quote(checked_path(path), safe='/')}"
        operation = f"read {path} from {self.name}"
        try:
            return self._client.send(Request(method, url, headers or {}, accept=accept, operation=operation))
        except (NotFoundError, AuthError, DeniedError) as error:
            # the client's own next steps are about repositories
            raise error.within(hint=_NEXT[type(error)]) from error

    def _refuse(self, what: str) -> Never:
        raise UnsupportedError(
            f"cannot {what}: {self.name} is a web server, which is only read",
            hint="push to the place behind it: a directory (file://), or S3 (s3://)",
        )


class _ResumedBody(io.RawIOBase):
    """A response body that is asked for again, from where it broke off."""

    def __init__(self, objects: HttpObjects, path: str, response: Response) -> None:
        super().__init__()
        self._objects = objects
        self._path = path
        self._position = 0
        self._response = response
        self._etag = response.headers.get("ETag", "")
        self._length = _length(response)

    def readable(self) -> bool:
        """Say yes."""
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill `buffer` with what has arrived; 0 at the end."""
        target = memoryview(buffer).cast("B")
        failures = 0
        while True:
            try:
                data = self._next(len(target))
            except NetworkError:
                if failures >= RESUMES:
                    raise
                failures += 1
                self._resume()
                continue
            target[: len(data)] = data
            self._position += len(data)
            return len(data)

    def _next(self, size: int) -> bytes:
        data = _read1(self._response, size)
        if not data and self._length is not None and self._position < self._length:
            raise NetworkError(
                f"read {self._path} from {self._objects.name}: broken off at byte {self._position} of {self._length}",
                hint="try again: the network or the server does not hold the connection",
            )
        return data

    def close(self) -> None:
        """Free the connection."""
        if not self.closed:
            self._response.close()
        super().close()

    def _resume(self) -> None:
        self._response.close()
        self._response = self._objects.request(self._path, self._position, self._etag)
        partial = self._response.status == HTTPStatus.PARTIAL_CONTENT
        start = _range_start(self._response) if partial else 0
        changed = self._response.headers.get("ETag", "") != self._etag
        if changed or start not in (0, self._position):
            raise ContentError(
                f"{self._objects.name}: {self._path} was replaced while it was read", hint="run the command again"
            )
        self._skip(self._position - start)

    def _skip(self, left: int) -> None:
        while left and (data := _read1(self._response, left)):
            left -= len(data)


def _read1(response: Response, size: int) -> bytes:
    # read1 hands over what has arrived: a read that waits for more would lose it when the connection breaks
    stream = response.stream
    return stream.read1(size) if isinstance(stream, io.BufferedReader) else stream.read(size)


def _length(response: Response) -> int | None:
    text = response.headers.get("Content-Length", "").strip()
    return int(text) if _SIZE.fullmatch(text) else None


def _version(response: Response) -> str:
    """Return the ETag if it distinguishes versions; many servers make it of size and second of the last change."""
    headers = response.headers
    try:
        age = parsedate_to_datetime(headers["Date"]) - parsedate_to_datetime(headers["Last-Modified"])
        settled = age >= _SETTLED
    except (KeyError, TypeError, ValueError):
        settled = True
    return headers.get("ETag", "") if settled else ""


def _range_start(response: Response) -> int:
    match = _RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    return int(match[1]) if match else -1


def _strong(etag: str) -> bool:
    return etag.startswith('"')
