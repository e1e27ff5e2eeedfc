"""The HTTP client of one registry: authentication, redirects, retries, limits, and errors that say what to do.

Implements `transport.http.HttpClient`.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Final, Self
from urllib.parse import urljoin

from oci_binpkg.cancel import Cancel
from oci_binpkg.errors import AuthError, BinpkgError, DeniedError, NetworkError, UsageError
from oci_binpkg.events import Observer, Retrying, Warned, ignore
from oci_binpkg.log import Log
from oci_binpkg.model.content import Blob, Growing
from oci_binpkg.times import SYSTEM_TIME, Time
from oci_binpkg.transport.addresses import Origin, UnsafeAddressError, printable, redact_url
from oci_binpkg.transport.auth import MARGIN, Authenticator, TokenCache
from oci_binpkg.transport.credentials import CredentialSource, FixedCredential
from oci_binpkg.transport.failures import (
    MAX_ERROR_BODY,
    Attempted,
    Problems,
    parse_error_body,
    parse_warnings,
    redirect_hint,
    retry_after,
)
from oci_binpkg.transport.gate import HostGates
from oci_binpkg.transport.http import Request, Response
from oci_binpkg.transport.retry import FailedAttempt, FailedAttemptError, Failure, Timing, call_with_retries
from oci_binpkg.transport.session import Call, ExchangeError, WireResponse, WireSession
from oci_binpkg.transport.tuning import TransportSettings

_READS: Final = frozenset({"GET", "HEAD"})
_READ_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_WRITE_REDIRECTS: Final = frozenset({307, 308})
_log: Final = Log("transport")
_UNAUTHORIZED: Final = 401
_FORBIDDEN: Final = 403
_SUCCESS: Final = range(200, 300)
_PLAIN_ENCODINGS: Final = frozenset({"", "identity"})


class RegistryHttpClient:
    """Sends requests to the registry at `origin` (`https://host[:port]`) and wherever it redirects. Thread-safe.

    Clients of one run that share `gates` and `tokens` share the limits per host and the access tokens. `cancel` ends
    requests where they are. Raises `UsageError` for an origin that is not http(s).
    """

    def __init__(
        self,
        origin: str,
        *,
        credentials: CredentialSource | None = None,
        settings: TransportSettings | None = None,
        time: Time = SYSTEM_TIME,
        observer: Observer = ignore,
        gates: HostGates | None = None,
        tokens: TokenCache | None = None,
        cancel: Cancel | None = None,
    ) -> None:
        try:
            self._home = Origin.parse(origin)
        except UnsafeAddressError as error:
            raise UsageError(f"{redact_url(origin)} cannot be asked: {error}") from None
        self._settings = settings or TransportSettings()
        self._neighbours = self._settings.neighbours
        self._timing = Timing(time, self._settings.deadline)
        self._time = time
        self._observer = observer
        self._gates = gates or HostGates(self._settings.gate, time)
        self._auth = Authenticator(
            self._home,
            credentials=credentials or FixedCredential(),
            neighbours=self._neighbours,
            fetch=self._send_to_token_server,
            tokens=tokens or TokenCache(time),
            time=time,
        )
        self._local = threading.local()
        self._lock = threading.Lock()
        self._sessions: weakref.WeakSet[WireSession] = weakref.WeakSet()
        self._all: list[weakref.ref[WireSession]] = []
        self._warned: set[str] = set()
        self._cancel = cancel or Cancel()
        self._cancel.when_cancelled(self.hang_up)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close idle connections of all threads. The client stays usable."""
        with self._lock:
            sessions = tuple(self._sessions)
        for session in sessions:
            session.close()

    def hang_up(self) -> None:
        """End the connections of all threads where they are; who waits there gets an error."""
        for session in tuple(self._all):
            if (open_session := session()) is not None:
                open_session.hang_up()

    def send(self, request: Request) -> Response:
        """Send, with authentication, retries, redirects and limits.

        Raises `NetworkError`, `CertificateError`, `AuthError` (401), `DeniedError` (403), `NotFoundError` (404),
        `RateLimitedError` (429), `ServerError` (all else) unless the status is in `request.accept`.
        """
        return self._retried(request, self._home, lambda number: self._authorized(request, number))

    def _send_to_token_server(self, request: Request) -> Response:
        home = Origin.parse(request.url)
        wait = self._settings.timeouts.token
        answer = self._retried(request, home, lambda number: self._followed(request, home, "", wait, number))
        answer.hurry()
        return answer

    def _retried(self, request: Request, home: Origin, attempt: Callable[[int], WireResponse]) -> WireResponse:
        attempted = self._attempted(request, home, home)
        if self._settings.offline:
            raise NetworkError(f"{attempted.operation}: offline, so {home.netloc} is not asked")
        gate, numbers = self._gates.of(home.netloc), count(1)

        def checked() -> WireResponse:
            self._cancel.check()
            if self._timing.deadline is not None and self._time.clock() >= self._timing.deadline:
                raise NetworkError(f"{attempted.operation}: the time for this run is over")
            return self._checked(request, attempt(next(numbers)), home)

        def before_wait(outcome: FailedAttempt, number: int, delay: float) -> None:
            if outcome.stops_host:
                gate.pause(delay)
            shown = self._auth.redact(f"{attempted.operation}: {outcome}")
            _log.info("%s: attempt %d failed, the next one follows in %.1f s", shown, number, delay)
            self._observer(Retrying(home.netloc, str(outcome), delay, number))

        policy = self._settings.retry if request.replay else self._settings.retry.without_retries()
        return call_with_retries(checked, policy, self._timing, before_wait=before_wait, queued=lambda: gate.queued)

    def _authorized(self, request: Request, number: int) -> WireResponse:
        """Send with the login as known so far; renew it once when the registry does not accept it."""
        needed = MARGIN
        if isinstance(request.body, Blob):
            needed += request.body.descriptor.size / self._settings.upload_rate
        authorization = self._auth.authorization(request.scopes, needed=needed)
        wait = self._settings.timeouts.header_wait(_body_size(request))
        answer = self._followed(request, self._home, authorization, wait, number)
        challenge = answer.headers.get("WWW-Authenticate", "")
        if answer.origin != self._home or not (
            answer.status == _UNAUTHORIZED or (answer.status == _FORBIDDEN and self._auth.insufficient(challenge))
        ):
            return answer
        operation = self._attempted(request, self._home, self._home).operation
        try:
            renewed = self._auth.renew(request.scopes, challenge, rejected=authorization, operation=operation)
        except BinpkgError as error:
            if isinstance(error, AuthError | DeniedError) and answer.status in request.accept:
                return answer
            answer.close()
            raise
        answer.discard()
        return self._followed(request, self._home, renewed, wait, number)

    def _followed(self, request: Request, home: Origin, authorization: str, wait: float, number: int) -> WireResponse:
        """Send attempt `number` from the start, along redirects. Where the origin changes the login stays behind."""
        url, previous = request.url, home
        headers = dict(request.headers)
        authorization = headers.pop("Authorization", authorization)
        for _ in range(self._settings.max_redirects + 1):
            origin = self._checked_target(request, url, home, previous)
            if origin != home:
                authorization = ""
            credentials = {"Authorization": authorization} if authorization else {}
            repeatable, operation = request.replay or request.body is None, _operation(request)
            call = Call(request.method, url, origin, headers | credentials, request.body, wait, repeatable, operation)
            answer = self._exchange(request, call, home, origin, number)
            if not _redirects(request, answer):
                return answer
            target = answer.headers["Location"]
            answer.discard()
            with suppress(ValueError):  # an invalid address is refused as it stands
                target = urljoin(url, target)
            url, previous = target, origin
        raise self._attempted(request, home, home).protocol_error(
            f"redirected more than {self._settings.max_redirects} times",
            hint="ask whoever runs the server: its redirects do not end",
        )

    def _checked_target(self, request: Request, url: str, home: Origin, previous: Origin) -> Origin:
        try:
            return self._neighbours.check_target(url, home, previous)
        except UnsafeAddressError as error:
            raise self._attempted(request, home, home).protocol_error(
                f"points to {redact_url(url)}, which is refused: {error}", hint=redirect_hint(self._home, error)
            ) from None

    def _exchange(self, request: Request, call: Call, home: Origin, origin: Origin, number: int) -> WireResponse:
        attempted = self._attempted(request, home, origin)
        gate = self._gates.of(home.netloc)

        def fail(failure: Failure, detail: str) -> BinpkgError:
            return attempted.failure_error(failure, detail)

        started = self._time.clock()
        try:
            with gate.slot(upload=isinstance(call.body, Blob | Growing)):
                started = self._time.clock()
                answer = self._session().exchange(call, fail)
        except ExchangeError as error:
            failure, detail = error.failure, error.detail
            self._log_exchange(call, f"no answer ({failure.value})", started, number, "0")
            outcome = FailedAttempt(failure=failure)
            if outcome.overloaded:
                gate.overloaded()

            def explain(attempts: int, seconds: float) -> BinpkgError:
                return attempted.failure_error(failure, detail, attempts=attempts, seconds=seconds)

            raise FailedAttemptError(outcome, explain) from None
        received = "0" if call.method == "HEAD" else answer.headers.get("Content-Length", "?")
        self._log_exchange(call, str(answer.status), started, number, received)
        return answer

    def _log_exchange(self, call: Call, outcome: str, started: float, number: int, received: str) -> None:
        """Log one request: nothing of headers and bodies, and of the address what is never secret."""
        if _log.hears_debug():
            seconds = self._time.clock() - started
            address = self._auth.redact(redact_url(call.url))
            sizes = f"{_sent_size(call)} bytes sent, {printable(received, 20)} to come"
            _log.debug("%s %s: %s in %.3f s, attempt %d, %s", call.method, address, outcome, seconds, number, sizes)

    def _checked(self, request: Request, answer: WireResponse, home: Origin) -> WireResponse:
        """Hand back what the caller can use; everything else is a failed attempt."""
        attempted = self._attempted(request, home, answer.origin)
        if answer.origin == home:
            self._report_warnings(answer)
        redirect = answer.status in _READ_REDIRECTS and not request.follow
        if answer.status in _SUCCESS or answer.status in request.accept or redirect:
            encoding = answer.headers.get("Content-Encoding", "").strip().lower()
            if answer.status not in _SUCCESS or encoding in _PLAIN_ENCODINGS:
                self._gates.of(home.netloc).succeeded()
                return answer
            raise self._encoded(attempted, answer, encoding)
        problems = parse_error_body(answer.discard(MAX_ERROR_BODY))
        raise self._bad_status(attempted, answer, problems, home)

    def _encoded(self, attempted: Attempted, answer: WireResponse, encoding: str) -> FailedAttemptError:
        answer.close()
        via = answer.headers.get("Via", "")
        detail = f"{encoding}, via {via}" if via else encoding

        def explain(attempts: int, seconds: float) -> BinpkgError:
            return attempted.failure_error(Failure.ENCODED, detail, attempts=attempts, seconds=seconds)

        return FailedAttemptError(FailedAttempt(failure=Failure.ENCODED), explain)

    def _bad_status(
        self, attempted: Attempted, answer: WireResponse, problems: Problems, home: Origin
    ) -> FailedAttemptError:
        now = self._time.now()
        wait = retry_after(answer.headers, now=now)
        outcome = FailedAttempt(answer.status, None, wait, tuple(code for code, _ in problems if code))
        gate = self._gates.of(home.netloc)
        if outcome.overloaded:
            gate.overloaded()
        else:
            gate.succeeded()

        def explain(attempts: int, seconds: float) -> BinpkgError:
            return attempted.status_error(
                answer.status, problems, wait=wait, now=now, attempts=attempts, seconds=seconds
            )

        return FailedAttemptError(outcome, explain)

    def _report_warnings(self, answer: WireResponse) -> None:
        for text in parse_warnings(answer.headers.get("Warning", "")):
            shown = f"{answer.origin.netloc}: {self._auth.redact(text)}"
            with self._lock:
                known = shown in self._warned
                self._warned.add(shown)
            if not known:
                self._observer(Warned(shown))

    def _attempted(self, request: Request, home: Origin, origin: Origin) -> Attempted:
        wanted, redact = " ".join(request.scopes), self._auth.redact
        return Attempted(
            _operation(request), request.method, origin.netloc, self._home.netloc, origin == home, wanted, redact
        )

    def _session(self) -> WireSession:
        session: WireSession | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = WireSession(self._settings, self._time, self._cancel.check)
            with self._lock:
                self._sessions.add(session)
                # a list, which a signal handler may look through without a lock
                self._all = [*(known for known in self._all if known() is not None), weakref.ref(session)]
        return session


def _redirects(request: Request, answer: WireResponse) -> bool:
    """Return whether to go where the answer points. A write goes on only where method and body stay what they are."""
    followed = _READ_REDIRECTS if request.method in _READS else _WRITE_REDIRECTS
    wanted = request.follow and answer.status in followed and answer.status not in request.accept
    return wanted and bool(answer.headers.get("Location"))


def _operation(request: Request) -> str:
    return request.operation or f"{request.method} {redact_url(request.url)}"


def _sent_size(call: Call) -> str:
    """Return the size of a body; of one that is still made it is not known."""
    if isinstance(call.body, Growing):
        return "?"
    return str(call.body.descriptor.size if isinstance(call.body, Blob) else len(call.body or b""))


def _body_size(request: Request) -> int | None:
    if isinstance(request.body, Blob):
        return request.body.descriptor.size
    if isinstance(request.body, Growing):
        return 0  # it is on its way for as long as it is made; what counts is the wait after its end
    return None if request.body is None else len(request.body)
