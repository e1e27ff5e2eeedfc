"""Requests and responses as values, between the registry code and the HTTP client, and the bodies that are sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, Final, Protocol, Self

from oci_binpkg.disk import disk_refusal
from oci_binpkg.errors import ContentError
from oci_binpkg.model.content import Blob, Growing


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request that can be sent again.

    `url` is absolute and its query is sent byte for byte. A `Blob` body is streamed from a fresh `open()` at every
    attempt with Content-Length set, a `Growing` one in chunks as they come (RFC 9112, 7.1). `scopes` are Bearer scopes
    (`repository:NAME:pull,push`). Statuses in `accept` are handed back besides 2xx; every other status becomes an
    error. `replay=False` switches the request-level retries off (an upload is retried as a whole by its caller).
    `follow=False` hands redirects back. `operation` names the attempt in errors: "upload blob sha256:... to
    registry.example/apps".
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Blob | Growing | bytes | None = None
    scopes: tuple[str, ...] = ()
    accept: frozenset[int] = frozenset()
    replay: bool = True
    follow: bool = True
    operation: str = ""


class Response(Protocol):
    """An answer whose body is not read yet. Closing (or leaving the `with` block) frees the connection."""

    status: int
    headers: Mapping[str, str]
    """Case-insensitive; repeated headers joined by ", "."""
    url: str
    """The final address after redirects: for resolving relative references, never to be kept."""
    stream: BinaryIO
    """The body's wire bytes, undecoded. Read errors are raised as `NetworkError`."""

    def read(self, limit: int) -> bytes:
        """Read the whole body. Raises `ContentError` above `limit` bytes."""
        ...

    def close(self) -> None:
        """Free the connection."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class HttpClient(Protocol):
    """Sends requests to one registry (and wherever it redirects). Thread-safe."""

    def send(self, request: Request) -> Response:
        """Send, with authentication, retries, redirects and limits.

        Raises `NetworkError`, `CertificateError`, `AuthError` (401), `DeniedError` (403), `NotFoundError` (404),
        `RateLimitedError` (429), `ServerError` (all else) unless the status is in `request.accept`.
        """
        ...


CHUNK: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class _UploadBody:
    """The body of an upload: a blob read in chunks, exactly as many bytes as were promised."""

    blob: Blob
    go_on: Callable[[], None]

    def __iter__(self) -> Iterator[bytes]:
        digest, left = self.blob.descriptor.digest, self.blob.descriptor.size
        try:
            with self.blob.open() as stream:
                while left:
                    self.go_on()
                    chunk = stream.read(min(CHUNK, left))
                    if not chunk:
                        raise ContentError(f"{digest}: the source ends {left} bytes before its promised size")
                    left -= len(chunk)
                    yield chunk
                if stream.read(1):
                    raise ContentError(f"{digest}: the source is longer than its promised size")
        except OSError as error:
            raise disk_refusal(f"{digest} cannot be read while it is sent", error) from error


@dataclass(frozen=True, slots=True)
class _GrowingBody:
    """The body of an upload that is still being made: `requests` sends it in chunks, as they come."""

    content: Growing
    go_on: Callable[[], None]

    def __iter__(self) -> Iterator[bytes]:
        try:
            with self.content.open() as stream:
                while chunk := stream.read(CHUNK):
                    self.go_on()
                    yield chunk
        except OSError as error:
            raise disk_refusal("a layer cannot be read while it is sent", error) from error


def streamed(
    body: Blob | Growing | bytes | None, go_on: Callable[[], None] = lambda: None
) -> Iterable[bytes] | bytes | None:
    """Return a body as `requests` takes it: bytes as they are, everything else in chunks, read while it is sent.

    `go_on` is called before each chunk and raises when the caller has cancelled.
    """
    if isinstance(body, Growing):
        return _GrowingBody(body, go_on)
    return _UploadBody(body, go_on) if isinstance(body, Blob) else body
