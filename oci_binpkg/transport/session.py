"""One HTTP exchange, without retries, redirects or authentication: the only place that touches `requests`.

What `requests` does by default is switched off, because each of these has corrupted transfers or leaked logins:
decoding of bodies, cookies, netrc and proxies from the environment, reading a redirect's body whole, rewriting escapes
in addresses.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from http.cookiejar import DefaultCookiePolicy
from typing import Any, BinaryIO, Final, Self, cast

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError
from urllib3.util.ssl_match_hostname import CertificateError

from oci_binpkg.errors import BinpkgError, ContentError, LocalDiskError
from oci_binpkg.log import Log
from oci_binpkg.model.content import Blob, Growing, read_whole
from oci_binpkg.times import Time
from oci_binpkg.transport.addresses import Origin, redact_url, request_target
from oci_binpkg.transport.framing import FramedReader, FramedResponse
from oci_binpkg.transport.http import CHUNK, streamed
from oci_binpkg.transport.retry import Failure
from oci_binpkg.transport.tuning import Timeouts, TransportSettings

_log: Final = Log("transport.connection")
_DRAINED: Final = 64 * 1024
_PLAIN_REASONS: Final = frozenset(
    {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"}
)
_BODY_METHODS: Final = frozenset({"POST", "PUT", "PATCH"})


class ExchangeError(Exception):
    """No usable answer. `detail` is free of addresses and so of secrets."""

    def __init__(self, failure: Failure, detail: str = "", *, stale: bool = False) -> None:
        super().__init__(detail)
        self.failure = failure
        self.detail = detail
        self.stale = stale


class _StaleConnectionError(http.client.RemoteDisconnected):
    """A kept connection turned out to be closed before anything was answered on it."""


class _ConnectionState:
    """What connections of one session know beside what urllib3 passes on."""

    def __init__(self, idle: float, time: Time, go_on: Callable[[], None]) -> None:
        self.idle = idle
        self._go_on = go_on
        self.time = time
        self.target = "/"
        self.origin: Origin | None = None
        self.reader: FramedReader | None = None
        self.sock: weakref.ref[Any] | None = None
        """Where the last connection was made, or the last request went."""

    def uses(self, sock: Any) -> None:
        """Take note of where the next request goes. Raises `CancelledError` where that would not be ended any more."""
        self.sock = weakref.ref(sock)
        self._go_on()

    def answered(self, reader: FramedReader) -> None:
        """Take note of the reader of the answer that is begun."""
        self.reader = reader


class _Connection(HTTPConnection):
    """Sends request targets as written, knows whether the connection was used before, and has a send timeout."""

    def __init__(self, *args: Any, wire: _ConnectionState, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._wire = wire
        self._served = 0
        self.response_class = partial(  # type: ignore[assignment]
            FramedResponse, time=wire.time, opened=wire.answered
        )

    def connect(self) -> None:
        """Connect with the connect timeout, then allow more for sending: one chunk may take as long as an idle read."""
        super().connect()
        self._served = 0
        if self.sock is not None:
            self.sock.settimeout(self._wire.idle)
            self._wire.uses(self.sock)

    def putrequest(self, method: str, url: str, *args: Any, **kwargs: Any) -> None:
        """Send the target byte for byte; urllib3 has changed the case of escapes in it."""
        if self.sock is not None:
            self._wire.uses(self.sock)
        super().putrequest(method, self._wire.target if url.startswith("/") else url, *args, **kwargs)

    def request(self, *args: Any, **kwargs: Any) -> None:
        """Send a request; a TLS connection that is found closed meanwhile is stale."""
        try:
            super().request(*args, **kwargs)
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
            raise self._stale(error) from error

    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]
        """Wait for the answer's headers, then read on with the idle timeout."""
        sock = self.sock
        try:
            response = super().getresponse()
        except (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
            raise self._stale(error) from error
        self._served += 1
        if sock is not None:
            sock.settimeout(self._wire.idle)
        return response

    def _stale(self, error: OSError) -> OSError:
        return _StaleConnectionError("the kept connection was closed") if self._served else error


class _TlsConnection(_Connection, HTTPSConnection):
    """The same over TLS."""


class _Adapter(HTTPAdapter):
    def __init__(self, wire: _ConnectionState) -> None:
        self._wire = wire
        self._last: tuple[object, Any] = (None, None)
        super().__init__(max_retries=0)

    def get_connection_with_tls_context(
        self, request: requests.PreparedRequest, verify: Any, proxies: Any = None, cert: Any = None
    ) -> Any:
        """Return the connections to a server; those that the last request was sent on without working them out anew."""
        key = (self._wire.origin, verify, dict(proxies or ()), cert)
        if self._last[0] != key:
            pool = super().get_connection_with_tls_context(request, verify, proxies, cert)
            kind = _TlsConnection if pool.scheme == "https" else _Connection
            pool.ConnectionCls = partial(kind, wire=self._wire)  # type: ignore[attr-defined]
            self._last = (key, pool)
        return self._last[1]

    def close(self) -> None:
        """Close idle connections."""
        self._last = (None, None)
        super().close()


class _NoRedirectSession(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> str | None:  # noqa: ARG002 - the base class's signature
        """Report no redirect: `requests` would read its body without limit even when it is not to follow."""
        return None


class WireResponse:
    """An answer whose body is not read yet; implements `transport.http.Response`."""

    def __init__(
        self, response: requests.Response, call: Call, stream: BinaryIO, end_by: Callable[[float], None]
    ) -> None:
        self.status: int = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self.url = call.url
        self.origin = call.origin
        self.stream = stream
        self._response = response
        self._operation = call.operation
        self._end_by = end_by
        self._wait = call.wait

    def hurry(self) -> None:
        """Give the whole body as much time as its head had: for short answers, such as errors and tokens."""
        self._end_by(self._wait)

    def read(self, limit: int) -> bytes:
        """Read the whole body. Raises `ContentError` above `limit` bytes."""
        data = read_whole(self.stream, limit + 1)
        if len(data) > limit:
            self._response.close()
            raise ContentError(
                f"{self._operation}: {self.origin.netloc} answered with more than {limit} bytes where less is expected",
                hint="check the address: this may be another kind of server",
                operation=self._operation,
                host=self.origin.netloc,
            )
        return data

    def close(self) -> None:
        """Free the connection; a short rest is read so that it can be used again."""
        raw = self._response.raw
        left = getattr(raw, "length_remaining", None)
        if left is not None and left <= _DRAINED:
            self.hurry()
            try:
                # through the stream, which knows when a server is too slow to wait for
                self.stream.read(left + 1)
            except (BinpkgError, HTTPError, OSError, ValueError):
                raw.close()
        self._response.close()

    def discard(self, limit: int = _DRAINED) -> bytes:
        """Return the first `limit` bytes of the body, as far as they arrive, and close."""
        self.hurry()
        try:
            return read_whole(self.stream, limit)
        except BinpkgError:
            return b""
        finally:
            self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class BodyReader(io.RawIOBase):
    """A response body as it comes off the wire. `fail` makes the error to raise when it breaks off or trickles.

    `go_on` raises when the caller has cancelled.
    """

    def __init__(
        self,
        raw: Any,
        timeouts: Timeouts,
        time: Time,
        fail: Callable[[Failure, str], BinpkgError],
        go_on: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self._go_on = go_on
        self._raw = raw
        self._timeouts = timeouts
        self._time = time
        self._fail = fail
        self._waited = 0.0
        self._received = 0
        self._failure: BinpkgError | None = None

    def readable(self) -> bool:
        """Say yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what is there; only the time spent waiting for the server counts as slowness."""
        if self._failure is not None:
            raise self._failure.again() from self._failure
        self._go_on()
        started = self._time.clock()
        try:
            data: bytes = self._raw.read1(len(buffer), decode_content=False) or b""
        except (HTTPError, OSError, http.client.HTTPException) as error:
            found = classify(error)
            raise self._failed(found.failure, found.detail) from None
        buffer[: len(data)] = data
        self._note(len(data), self._time.clock() - started)
        return len(data)

    def _note(self, count: int, seconds: float) -> None:
        self._waited += seconds
        self._received += count
        if count and self._waited >= self._timeouts.slow_window:
            if self._received < self._timeouts.slow_bytes * self._waited:
                raise self._failed(Failure.SLOW, f"{self._received} bytes in {self._waited:.0f} s")
            self._waited, self._received = 0.0, 0

    def _failed(self, failure: Failure, detail: str) -> BinpkgError:
        self._failure = self._fail(failure, detail)
        return self._failure


@dataclass(frozen=True, slots=True)
class Call:
    """One exchange. The answer's headers may take `wait` seconds; a `repeatable` one may be sent again unasked.

    `origin` is that of `url`; `operation` is what it is for, for people.
    """

    method: str
    url: str
    origin: Origin
    headers: Mapping[str, str]
    body: Blob | Growing | bytes | None
    wait: float
    repeatable: bool = True
    operation: str = ""


class WireSession:
    """Keep-alive connections for one thread."""

    def __init__(self, settings: TransportSettings, time: Time, go_on: Callable[[], None] = lambda: None) -> None:
        self._settings = settings
        self._go_on = go_on
        self._time = time
        self._wire = _ConnectionState(settings.timeouts.idle, time, go_on)
        self._session = _NoRedirectSession()
        self._session.trust_env = False
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
        for prefix in ("https://", "http://"):
            self._session.mount(prefix, _Adapter(self._wire))

    def exchange(self, call: Call, fail: Callable[[Failure, str], BinpkgError]) -> WireResponse:
        """Send once and return when the headers are there. Raises `ExchangeError`.

        A kept connection that the server had closed meanwhile is no failure: the request goes out again, once, on a
        new one. `fail` makes the error for a body that breaks off later.
        """
        try:
            response = self._send(call)
        except ExchangeError as error:
            if not (error.stale and call.repeatable):
                raise
            _log.debug("%s %s: the kept connection was closed, it goes out again", call.method, redact_url(call.url))
            self._session.close()
            response = self._send(call)
        framed = self._wire.reader

        def end_by(seconds: float) -> None:
            if framed is not None:
                framed.body_ends = self._time.clock() + seconds

        reader = BodyReader(response.raw, self._settings.timeouts, self._time, fail, self._go_on)
        return WireResponse(response, call, cast("BinaryIO", io.BufferedReader(reader, CHUNK)), end_by)

    def close(self) -> None:
        """Close idle connections."""
        self._session.close()

    def hang_up(self) -> None:
        """End the connection that the thread may be waiting on; called from other threads and signal handlers."""
        sock = self._wire.sock() if self._wire.sock is not None else None
        if sock is not None:
            with suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # under TLS, too: there is no time for its farewell

    def _send(self, call: Call) -> requests.Response:
        origin = call.origin
        proxy = self._settings.proxy(origin)
        prepared = self._prepare(call)
        self._wire.target, self._wire.origin = request_target(call.url), origin
        try:
            return self._session.send(
                prepared,
                stream=True,
                allow_redirects=False,
                timeout=(self._settings.timeouts.connect, call.wait),
                verify=self._settings.verify(origin),
                proxies={origin.scheme: proxy} if proxy else {},
            )
        except (requests.RequestException, HTTPError, http.client.HTTPException) as error:
            raise classify(error) from None
        except OSError as error:
            raise LocalDiskError(f"the CA file for {origin.netloc} cannot be used: {error}") from error

    def _prepare(self, call: Call) -> requests.PreparedRequest:
        headers = {"User-Agent": self._settings.user_agent, "Accept": "*/*"} | dict(call.headers)
        headers["Accept-Encoding"] = "identity"
        if isinstance(call.body, Blob):
            headers["Content-Length"] = str(call.body.descriptor.size)
        elif isinstance(call.body, Growing):
            headers["Transfer-Encoding"] = "chunked"
        elif call.body is not None or call.method in _BODY_METHODS:
            headers["Content-Length"] = str(len(call.body or b""))
        prepared = requests.PreparedRequest()
        prepared.method = call.method
        prepared.url = call.url
        prepared.headers = CaseInsensitiveDict(headers)
        prepared.body = cast("Any", streamed(call.body, self._go_on))
        return prepared


def classify(error: BaseException) -> ExchangeError:
    """Name what went wrong from the exceptions that libraries wrap around one another."""
    chain = tuple(_causes(error))
    stale = any(isinstance(cause, _StaleConnectionError) for cause in chain)
    detail = next((text for cause in chain if (text := _detail(cause))), "")
    for kind, failure in _FAILURES:
        for cause in chain:
            if isinstance(cause, kind):
                return ExchangeError(_refined(cause, failure), detail, stale=stale)
    return ExchangeError(Failure.DROPPED, detail, stale=stale)


_FAILURES: Final[tuple[tuple[type[BaseException], Failure], ...]] = (
    (ssl.SSLCertVerificationError, Failure.CERTIFICATE),
    (CertificateError, Failure.CERTIFICATE),
    (ssl.SSLEOFError, Failure.DROPPED),
    (ssl.SSLZeroReturnError, Failure.DROPPED),
    (ssl.SSLError, Failure.TLS),
    (urllib3.exceptions.ProxyError, Failure.PROXY),
    (socket.gaierror, Failure.NAME),
    (urllib3.exceptions.LocationValueError, Failure.NAME),
    (http.client.RemoteDisconnected, Failure.DROPPED),
    (http.client.IncompleteRead, Failure.DROPPED),
    (http.client.HTTPException, Failure.GARBLED),
    (ConnectionRefusedError, Failure.CONNECT),
    (urllib3.exceptions.NewConnectionError, Failure.CONNECT),
    (TimeoutError, Failure.TIMEOUT),
    (urllib3.exceptions.TimeoutError, Failure.TIMEOUT),
    (ConnectionError, Failure.DROPPED),
    (OSError, Failure.DROPPED),
)


def _refined(cause: BaseException, failure: Failure) -> Failure:
    if isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_AGAIN:
        return Failure.NAME_TEMPORARY
    if failure is Failure.TLS and isinstance(cause, ssl.SSLError) and cause.reason in _PLAIN_REASONS:
        return Failure.PLAIN
    return failure


def _detail(cause: BaseException) -> str:
    if isinstance(cause, ssl.SSLCertVerificationError):
        return cause.verify_message
    if isinstance(cause, ssl.SSLError):
        return (cause.reason or "").replace("_", " ").lower()
    if isinstance(cause, requests.RequestException | HTTPError):
        return ""
    return (cause.strerror or "") if isinstance(cause, OSError) else ""


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield `error` and what it was made from: urllib3 keeps causes in `reason`, in arguments, and as `__cause__`."""
    pending, seen = [error], set[int]()
    while pending:
        current = pending.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        inner = (*current.args, getattr(current, "reason", None), current.__cause__)
        pending.extend(cause for cause in inner if isinstance(cause, BaseException))
