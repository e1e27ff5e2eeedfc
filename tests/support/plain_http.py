"""The smallest client that obeys `transport.http.HttpClient`: one connection a request, no retries, no login."""

from __future__ import annotations

import http.client
import io
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, BinaryIO, Self, cast
from urllib.parse import urljoin, urlsplit

from oci_binpkg.errors import (
    AuthError,
    ContentError,
    DeniedError,
    NetworkError,
    NotFoundError,
    RateLimitedError,
    ServerError,
)
from oci_binpkg.model.content import Blob
from oci_binpkg.transport.http import Request

_REDIRECTS = (301, 302, 303, 307, 308)
_ERRORS = {401: AuthError, 403: DeniedError, 404: NotFoundError}


class _Headers(Mapping[str, str]):
    def __init__(self, message: http.client.HTTPMessage) -> None:
        self._message = message

    def __getitem__(self, name: str) -> str:
        values = self._message.get_all(name)
        if values is None:
            raise KeyError(name)
        return ", ".join(values)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(self._message.keys()))

    def __len__(self) -> int:
        return len(set(self._message.keys()))


class _Body(io.RawIOBase):
    """The body; a broken connection is a NetworkError."""

    def __init__(self, source: http.client.HTTPResponse) -> None:
        super().__init__()
        self._source = source

    def read(self, size: int | None = -1, /) -> bytes:
        try:
            return self._source.read(None if size is None or size < 0 else size)
        except (OSError, http.client.HTTPException) as error:
            raise NetworkError(f"the body broke off: {error!r}") from error


class PlainResponse:
    """An answer."""

    def __init__(self, connection: http.client.HTTPConnection, source: http.client.HTTPResponse, url: str) -> None:
        self.status = source.status
        self.headers: Mapping[str, str] = _Headers(source.headers)
        self.url = url
        self.stream = cast("BinaryIO", _Body(source))
        self._connection = connection

    def read(self, limit: int) -> bytes:
        data = self.stream.read(limit + 1)
        if len(data) > limit:
            raise ContentError(f"more than {limit} bytes")
        return data

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class PlainClient:
    """Sends requests; keeps them in `sent`. Follows redirects of reads."""

    def __init__(self) -> None:
        self.sent: list[Request] = []

    def send(self, request: Request) -> Any:
        self.sent.append(request)
        url = request.url
        for _ in range(5):
            response = self._send(request, url)
            if not request.follow or response.status not in _REDIRECTS or request.method not in ("GET", "HEAD"):
                break
            response.close()
            url = urljoin(url, response.headers["Location"])
        if 200 <= response.status < 300 or response.status in request.accept:
            return response
        response.close()
        said = f"{request.operation}: answered {response.status}"
        if response.status == 429:
            wait = response.headers.get("Retry-After")
            raise RateLimitedError(said, seconds=float(wait) if wait else None)
        raise _ERRORS.get(response.status, ServerError)(said)

    def _send(self, request: Request, url: str) -> PlainResponse:
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        body: Any = request.body
        try:
            if isinstance(body, Blob):
                headers = {**request.headers, "Content-Length": str(body.descriptor.size)}
                with body.open() as stream:
                    connection.request(request.method, target, iter(lambda: stream.read(65536), b""), headers)
            else:
                connection.request(request.method, target, body, dict(request.headers))
            return PlainResponse(connection, connection.getresponse(), url)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise NetworkError(f"{request.operation}: {error!r}") from error
        except BaseException:
            connection.close()
            raise
