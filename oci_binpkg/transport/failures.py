"""From a bad answer, or none, to the error a user sees: what was attempted, where, how it ended, what to do next.

Registries may answer errors in any format; the specification's JSON (`{"errors": [{"code", "message"}]}`) is only the
usual one. Whatever they send is cut, stripped of control characters and freed of secrets before it is shown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from oci_binpkg.errors import (
    AuthError,
    BinpkgError,
    CertificateError,
    DeniedError,
    Fields,
    Hint,
    NetworkError,
    NotFoundError,
    RateLimitedError,
    ServerError,
    Step,
)
from oci_binpkg.transport.addresses import Origin, UnsafeAddressError, printable
from oci_binpkg.transport.retry import (
    FINAL_STATUSES,
    RETRIED_STATUSES,
    TOO_MANY_REQUESTS,
    Failure,
    parse_http_date,
    parse_retry_after,
)

MAX_ERROR_BODY: Final = 64 * 1024
_MAX_PROBLEMS: Final = 20
_CODE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}", re.ASCII)
_QUOTA: Final = re.compile(r"quota|upper limit|storage limit|exceeded the (?:limit|allowed)", re.IGNORECASE)
_EXHAUSTED: Final = re.compile(r"\s*0\s*;\s*w\s*=\s*([0-9]{1,9})\s*", re.ASCII)
_WARNING: Final = re.compile(r'\b299\s++\S++\s++"((?:[^"\\]|\\.)*+)"')
_MAX_WARNING: Final = 4096
_NOT_MODIFIED: Final = 304
_UNAUTHORIZED: Final = 401
_FORBIDDEN: Final = 403
_NOT_FOUND: Final = 404
_TOO_LARGE: Final = 413
_SERVER_SIDE: Final = 500
_REDIRECTS: Final = frozenset({300, 301, 302, 303, 305, 307, 308})

Problems = tuple[tuple[str, str], ...]


def parse_error_body(data: bytes) -> Problems:
    """Return the (code, message) pairs of an error answer: codes in upper case, printable messages.

    Understands the distribution specification's JSON, the single objects of token servers (`error`, `details`,
    `message`) and plain text; HTML and other markup gives nothing. Never raises.
    """
    text = data[:MAX_ERROR_BODY].decode("utf-8", "replace").strip()
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        shown = "" if text.startswith("<") else printable(text)
        return (("", shown),) if shown else ()
    if isinstance(document, dict) and isinstance(document.get("errors"), list):
        problems = tuple(_problem(entry) for entry in document["errors"][:_MAX_PROBLEMS])
    else:
        problems = (_problem(document),)
    return tuple(problem for problem in problems if any(problem))


def _problem(entry: Any) -> tuple[str, str]:
    if not isinstance(entry, dict):
        return "", printable(entry) if isinstance(entry, str) else ""
    code = entry.get("code", entry.get("error"))
    known = isinstance(code, str) and _CODE.fullmatch(code)
    texts = (entry.get(name) for name in ("message", "details", "error_description", "detail"))
    message = next((printable(text) for text in texts if isinstance(text, str) and text), "")
    return str(code).upper() if known else "", message


def retry_after(headers: Mapping[str, str], *, now: float) -> float | None:
    """Return the seconds until the server wants to be asked again, or None if it does not say.

    A date is compared with the server's own `Date`, so that a wrong clock here does not matter; `now` (seconds since
    1970) stands in. Docker Hub sends no Retry-After when a quota of pulls is used up, but `ratelimit-remaining:
    0;w=SECONDS`.
    """
    served = parse_http_date(headers.get("Date", ""))
    wait = parse_retry_after(headers.get("Retry-After"), now=now if served is None else served)
    if wait is not None:
        return wait
    exhausted = _EXHAUSTED.fullmatch(headers.get("ratelimit-remaining", ""))
    return float(exhausted[1]) if exhausted else None


def parse_warnings(header: str) -> tuple[str, ...]:
    """Return the texts of a registry's `Warning` headers (code 299, distribution-spec 1.1), printable."""
    texts = (re.sub(r"\\(.)", r"\1", text) for text in _WARNING.findall(header[: 4 * _MAX_WARNING]))
    return tuple(shown for text in texts if (shown := printable(text, _MAX_WARNING)))


@dataclass(frozen=True, slots=True)
class Attempted:
    """What a failed request was meant to do: for people.

    `host` answered or should have, `registry` is whom it was for. `in_charge`: the host is the registry or its token
    server, so that its 401 and 403 speak about the login; a storage server's speak about the address it was asked by.
    `wanted` are the scopes that were asked for.
    """

    operation: str
    method: str
    host: str
    registry: str
    in_charge: bool
    wanted: str
    redact: Callable[[str], str]

    def status_error(
        self, status: int, problems: Problems, *, wait: float | None, now: float, attempts: int, seconds: float
    ) -> BinpkgError:
        """Return the error for an HTTP status; `wait` is what Retry-After asked for, `now` the time since 1970."""
        shown = "; ".join(filter(None, (": ".join(filter(None, problem)) for problem in problems)))
        detail = printable(self.redact(shown))
        message = f"{self.operation}: {self._place} answered HTTP {status}{f' {detail}' if detail else ''}"
        if status in {_UNAUTHORIZED, _FORBIDDEN} and self.in_charge and self.wanted:
            message += f" (asked for {self.wanted})"
        message += _effort(attempts, seconds)
        fields = self._known | {"status": status, "codes": tuple(code for code, _ in problems if code)}
        if status == TOO_MANY_REQUESTS:
            return _rate_limited(message, wait, now, fields)
        quota = status in {_FORBIDDEN, _TOO_LARGE} and bool(_QUOTA.search(shown))
        return self._kind(status, quota=quota)(message, hint=self._hint(status, problems, quota=quota), **fields)

    def failure_error(self, failure: Failure, detail: str, *, attempts: int = 1, seconds: float = 0.0) -> BinpkgError:
        """Return the error for a request without a usable answer."""
        shown = printable(self.redact(detail))
        message = f"{self.operation}: {self._place}: {failure.value}{f' ({shown})' if shown else ''}"
        message += _effort(attempts, seconds)
        if failure is Failure.CERTIFICATE:
            return CertificateError(message, hint=_certificate_hint(self.host, detail), **self._known)
        if failure is Failure.ENCODED:
            hint = "a proxy on the way changes what is transferred: reach the host without it"
            return ServerError(message, hint=hint, **self._known)
        return NetworkError(message, hint=_NETWORK_HINTS.get(failure, ""), **self._known)

    def protocol_error(self, what: str, *, hint: str = "") -> ServerError:
        """Return the error for an answer that is not the protocol, or asks for something unsafe."""
        return ServerError(f"{self.operation}: {self._place} {what}", hint=hint, **self._known)

    @property
    def _known(self) -> Fields:
        return {"operation": self.operation, "host": self.host}

    @property
    def _place(self) -> str:
        return self.host if self.host == self.registry else f"{self.host} (where {self.registry} sent us)"

    def _kind(self, status: int, *, quota: bool) -> type[BinpkgError]:
        if status == _NOT_FOUND:
            return NotFoundError
        if status == _UNAUTHORIZED and self.in_charge:
            return AuthError
        return DeniedError if quota or (status == _FORBIDDEN and self.in_charge) else ServerError

    def _hint(self, status: int, problems: Problems, *, quota: bool) -> str:
        if quota:
            return "free space in the registry, or ask for a larger quota"
        if status == _NOT_FOUND and self.method == "POST" and any(code == "NAME_UNKNOWN" for code, _ in problems):
            return "create the repository first: this registry does not create it on push"
        if status in {_UNAUTHORIZED, _FORBIDDEN} and not self.in_charge:
            return f"try again; if it stays so, ask whoever runs {self.registry}: it sends us where we are refused"
        if status in RETRIED_STATUSES or (status >= _SERVER_SIDE and status not in FINAL_STATUSES):
            return "the fault is on the server's side: try again later"
        if status == _UNAUTHORIZED:
            return Hint(Step.LOG_IN_OR_CHECK_NAME, host=self.registry)
        return self._usual_hint(status)

    def _usual_hint(self, status: int) -> str:
        if status in _REDIRECTS:
            return f"ask whoever runs {self.host}: it sends us elsewhere in a way that cannot be followed"
        return _HINTS.get(status, _ELSE).format(registry=self.registry)


_ELSE: Final = "check the address: this may be another kind of server"
_HINTS: Final = {
    _NOT_MODIFIED: "a cache on the way answers what was not asked: reach the host without it",
    _FORBIDDEN: "ask for permission on this repository, or log in to {registry} as somebody else",
    _NOT_FOUND: "check the name; a registry also hides what the login may not read",
    _TOO_LARGE: "the registry, or a proxy before it, limits the size of uploads",
    **dict.fromkeys((501, 505), "check the address: this server does not know what it is asked for"),
}
_NETWORK_HINTS: Final = {
    Failure.CONNECT: "check the host and port, and whether a proxy is needed",
    Failure.NAME: "check the spelling of the host",
    Failure.NAME_TEMPORARY: "check the network, and try again",
    Failure.TIMEOUT: "try again later, or allow more time (`timeout` in the settings)",
    Failure.SLOW: "try again later, or allow more time (`timeout` in the settings)",
    Failure.DROPPED: "try again: the network or the server does not hold the connection",
    Failure.GARBLED: "check the port: this may be another kind of server",
    Failure.TLS: "ask whoever runs the server which versions of TLS it speaks",
    Failure.PLAIN: "if it is meant to speak plain http, write oci+http:// for a registry, http:// for a mirror",
    Failure.PROXY: "check the proxy settings",
}


def redirect_hint(registry: Origin, error: UnsafeAddressError) -> str:
    """Return what to do about an unsafe address that `registry` gave."""
    if error.nameable:
        return f'if that server is meant, name it in `servers` of [registries."{registry.netloc}"] in the settings'
    return f"ask whoever runs {registry.netloc}: it sends us where no client should go"


def _certificate_hint(host: str, detail: str) -> str:
    if "expired" in detail or "not yet valid" in detail:
        return f"check the clock of this machine; if it is right, ask whoever runs {host} for a new certificate"
    if "mismatch" in detail or "not valid for" in detail:
        return "check the name of the host: the certificate is for another one"
    return f'if you trust this server, set `ca_file` of [registries."{host}"] in the settings to its certificate'


def _effort(attempts: int, seconds: float) -> str:
    return f" (after {attempts} attempts in {seconds:.1f} s)" if attempts > 1 else ""


def _rate_limited(message: str, wait: float | None, now: float, fields: Fields) -> RateLimitedError:
    if wait is None:
        hint = "wait some minutes, or log in: most registries allow more to known users"
        return RateLimitedError(message, hint=hint, **fields)
    moment = datetime.fromtimestamp(min(now + wait, 32503680000.0), UTC)
    hint = f"it asks to wait {wait:.0f} s, until {moment:%Y-%m-%d %H:%M:%S} UTC; a login often raises the limit"
    return RateLimitedError(message, hint=hint, seconds=wait, **fields)
