"""Answering a registry's challenges: Basic, or Bearer with tokens from the server its challenge names.

Source: the token authentication specification of the distribution registry and its OAuth2 variant. Passwords go to the
registry's own origin and to the realm of its challenge, nowhere else.

Challenges (`WWW-Authenticate`) are read by RFC 9110 section 11. Servers send several in one header, leave out quotes,
mix cases and add unknown schemes.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlencode

from oci_binpkg.errors import AuthError, Hint, ServerError, Step
from oci_binpkg.times import Time
from oci_binpkg.transport.addresses import Neighbours, Origin, UnsafeAddressError, printable, redact_text, redact_url
from oci_binpkg.transport.credentials import Credential, CredentialSource
from oci_binpkg.transport.failures import redirect_hint
from oci_binpkg.transport.http import Request, Response

_WORD_CHARACTERS: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_COMMA: Final = re.compile(r"[\s,]*,\s*|\s+")
_PARAMETER: Final = re.compile(
    rf'({_WORD_CHARACTERS})\s*+=\s*+(?:"((?:[^"\\]|\\.)*+)(?:"|\\?\Z)|([^\s,"]*+))', re.DOTALL
)
_WORD: Final = re.compile(rf"({_WORD_CHARACTERS})(?=[\s,]|\Z)")
_RUN: Final = re.compile(rf"{_WORD_CHARACTERS}|.", re.DOTALL)
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
_MAX_HEADER: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class Challenge:
    """One scheme (lower case) with its parameters (names in lower case)."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)

    @property
    def realm(self) -> str:
        """For Bearer: the address of the token server."""
        return self.parameters.get("realm", "")

    @property
    def service(self) -> str:
        """The name that the token server knows the registry by, or ""."""
        return self.parameters.get("service", "")

    @property
    def scopes(self) -> tuple[str, ...]:
        """The scopes asked for, in their order."""
        return tuple(self.parameters.get("scope", "").split())

    @property
    def error(self) -> str:
        """Why the last token was refused, e.g. `insufficient_scope`, or ""."""
        return self.parameters.get("error", "")


def parse_challenges(header: str) -> tuple[Challenge, ...]:
    """Parse a `WWW-Authenticate` value (several headers joined by commas). Never raises: the unreadable is skipped."""
    text = header[:_MAX_HEADER]
    found: list[tuple[str, dict[str, str]]] = []
    position, at_start = 0, True
    while position < len(text):
        if separator := _COMMA.match(text, position):
            at_start = at_start or "," in separator[0]
            position = separator.end()
        elif parameter := _PARAMETER.match(text, position):
            if found:
                found[-1][1].setdefault(parameter[1].lower(), _value(parameter))
            position, at_start = parameter.end(), False
        elif word := _WORD.match(text, position):
            if at_start:
                found.append((word[1].lower(), {}))
            position, at_start = word.end(), False
        else:
            # of a word that ends wrongly no rest ends better: to try each of them would take the square of its length
            unreadable = _RUN.match(text, position)
            position = unreadable.end() if unreadable else len(text)
    return tuple(Challenge(scheme, parameters) for scheme, parameters in found)


def _value(parameter: re.Match[str]) -> str:
    quoted: str | None = parameter[2]
    return _ESCAPE.sub(r"\1", quoted) if quoted is not None else parameter[3]


def choose(challenges: Iterable[Challenge], usable_realm: Callable[[str], bool]) -> Challenge | None:
    """Return the first Bearer challenge with a usable realm, else a Basic one, else None."""
    known = [challenge for challenge in challenges if challenge.scheme in {"bearer", "basic"}]
    for challenge in known:
        if challenge.scheme == "bearer" and usable_realm(challenge.realm):
            return challenge
    return next((challenge for challenge in known if challenge.scheme == "basic"), None)


def merge_scopes(scopes: Iterable[str]) -> tuple[str, ...]:
    """Merge the actions of scopes for the same resource, keeping the order of first appearance.

    The scope a server asked for goes first in a request: some read only that one.
    """
    actions: dict[str, list[str]] = {}
    for scope in scopes:
        resource, colon, wanted = scope.rpartition(":")
        known = actions.setdefault(resource if colon else scope, [])
        known.extend(action for action in wanted.split(",") if colon and action not in known)
    return tuple(f"{resource}:{','.join(wanted)}" if wanted else resource for resource, wanted in actions.items())


def repository_of(scopes: Iterable[str]) -> str:
    """Return the repository that the first `repository:NAME:ACTIONS` scope names, or ""."""
    for scope in scopes:
        if scope.startswith("repository:"):
            return scope.removeprefix("repository:").rpartition(":")[0]
    return ""


_MAX_TOKEN_ANSWER: Final = 64 * 1024
_DEFAULT_LIFETIME: Final = 60.0
_LONGEST_LIFETIME: Final = 86400.0
_NO_OAUTH: Final = frozenset({404, 405})
_TOKEN_TEXT: Final = re.compile(r"[\x21-\x7e]+")
_TOKEN_USER: Final = "<token>"  # noqa: S105 - a user name, not a secret
_FRESH_SHARE: Final = 0.8
MARGIN: Final = 30.0


@dataclass(frozen=True, slots=True)
class TokenKey:
    """What a token is good for and whom it belongs to."""

    registry: str
    realm: str
    service: str
    scopes: frozenset[str]
    identity: str


@dataclass(frozen=True, slots=True)
class Token:
    """An access token, good for `lifetime` seconds from `issued` on the client's clock."""

    value: str = field(repr=False)
    issued: float
    lifetime: float

    def lasts(self, needed: float, now: float) -> bool:
        """Return whether it lives `needed` more seconds; one that just came counts, as no other would live longer."""
        left = self.issued + self.lifetime - now
        return left >= MARGIN and left >= min(needed, _FRESH_SHARE * self.lifetime)


class TokenCache:
    """Tokens of this run, in memory only. Threads that need the same token share one request for it."""

    def __init__(self, time: Time) -> None:
        self._time = time
        self._lock = threading.Lock()
        self._tokens: dict[TokenKey, Token] = {}
        self._locks: dict[TokenKey, threading.Lock] = {}

    def get(self, key: TokenKey, fetch: Callable[[], Token], *, needed: float = MARGIN, rejected: str = "") -> Token:
        """Return a token that lives `needed` more seconds and is not `rejected`, from the cache or from `fetch`."""
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            token = self._tokens.get(key)
            if token is None or token.value == rejected or not token.lasts(needed, self._time.clock()):
                token = self._tokens[key] = fetch()
            return token


class Authenticator:
    """Finds the `Authorization` of requests to one registry.

    `fetch` sends a request to a token server: without authentication of its own, with retries and limits. Thread-safe.
    """

    def __init__(
        self,
        registry: Origin,
        *,
        credentials: CredentialSource,
        neighbours: Neighbours,
        fetch: Callable[[Request], Response],
        tokens: TokenCache,
        time: Time,
    ) -> None:
        self._registry = registry
        self._source = credentials
        self._neighbours = neighbours
        self._fetch = fetch
        self._tokens = tokens
        self._time = time
        self._lock = threading.Lock()
        self._challenge: Challenge | None = None
        self._asked: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._credentials: dict[str, Credential | None] = {}
        self._secrets: set[str] = set()

    def authorization(self, scopes: tuple[str, ...], *, needed: float = MARGIN) -> str:
        """Return what to send with a request, "" as long as the registry has not asked for anything.

        `needed`: seconds that a token must still live. Raises as `renew` does.
        """
        challenge = self._challenge
        if challenge is None:
            return ""
        credential = self._credential(repository_of(scopes))
        if challenge.scheme == "basic":
            return credential.basic if credential else ""
        return self._bearer(challenge, self._asked.get(scopes, merge_scopes(scopes)), credential, needed=needed)

    def renew(self, scopes: tuple[str, ...], header: str, *, rejected: str, operation: str) -> str:
        """Return what to send after a 401 with this `WWW-Authenticate` value; `rejected` is what was sent before.

        Raises `AuthError` when nothing better can be sent, and whatever the token server's answer means.
        """
        challenge = choose(parse_challenges(header), self._usable)
        if challenge is None:
            reason, hint = self._unusable(header)
            raise self._refused(operation, f"asks for a login in a way that is not usable ({reason})", hint=hint)
        repository = repository_of(scopes)
        if rejected.startswith("Basic "):
            with self._lock:
                self._credentials.pop(repository, None)
        credential = self._credential(repository)
        self._challenge = challenge
        if challenge.scheme == "basic":
            renewed = credential.basic if credential else ""
        else:
            wanted = self._asked[scopes] = merge_scopes((*challenge.scopes, *scopes))
            renewed = self._bearer(challenge, wanted, credential, rejected=rejected.removeprefix("Bearer "))
        if not renewed:
            raise self._refused(operation, "asks for a login and none is known for it")
        if renewed == rejected and (challenge.scheme == "basic" or (credential and credential.registry_token)):
            raise self._refused(operation, "does not accept the login")
        return renewed

    def insufficient(self, header: str) -> bool:
        """Return whether a 403 means that the token, not the login, allows too little."""
        return any(challenge.error == "insufficient_scope" for challenge in parse_challenges(header))

    def redact(self, text: str) -> str:
        """Return `text` without anything secret that is known here."""
        with self._lock:
            secrets = sorted(self._secrets, key=len, reverse=True)
        return redact_text(text, secrets)

    def _usable(self, realm: str) -> bool:
        try:
            self._neighbours.check_realm(realm, self._registry)
        except UnsafeAddressError:
            return False
        return True

    def _unusable(self, header: str) -> tuple[str, str]:
        """Return why no challenge can be answered, and what to do."""
        challenges, ask = parse_challenges(header), f"ask whoever runs {self._registry.netloc}"
        for challenge in challenges:
            if challenge.scheme == "bearer" and not challenge.realm:
                return "no token server is named", f"{ask}: its answer does not follow the protocol"
            if challenge.scheme == "bearer":
                try:
                    self._neighbours.check_realm(challenge.realm, self._registry)
                except UnsafeAddressError as error:
                    return f"the token server's address is refused: {error}", redirect_hint(self._registry, error)
        offered = printable(", ".join(challenge.scheme for challenge in challenges)) or "it names no scheme"
        return offered, f"{ask}: Basic and Bearer are the kinds of login that can be used"

    def _refused(self, operation: str, what: str, *, hint: str = "") -> AuthError:
        host = self._registry.netloc
        return AuthError(
            f"{operation}: {host} {what}",
            hint=hint or Hint(Step.LOG_IN, host=host),
            operation=operation,
            host=host,
            status=HTTPStatus.UNAUTHORIZED,
        )

    def _credential(self, repository: str) -> Credential | None:
        with self._lock:
            if repository not in self._credentials:
                found = self._credentials[repository] = self._source.find(self._registry.netloc, repository)
                self._secrets.update(found.secrets if found else ())
            return self._credentials[repository]

    def _bearer(
        self,
        challenge: Challenge,
        scopes: tuple[str, ...],
        credential: Credential | None,
        *,
        needed: float = MARGIN,
        rejected: str = "",
    ) -> str:
        if credential is not None and credential.registry_token:
            return f"Bearer {credential.registry_token}"
        identity = credential.identity if credential else ""
        key = TokenKey(str(self._registry), challenge.realm, challenge.service, frozenset(scopes), identity)
        token = self._tokens.get(
            key, lambda: self._request_token(challenge, scopes, credential), needed=needed, rejected=rejected
        )
        return f"Bearer {token.value}"

    def _request_token(self, challenge: Challenge, scopes: tuple[str, ...], credential: Credential | None) -> Token:
        """Ask the realm. An identity token is traded by OAuth2 POST, or sent as a password where only GET is known."""
        operation = f"get a token for {self._registry.netloc}" + (f" ({printable(' '.join(scopes))})" if scopes else "")
        issued = self._time.clock()
        if credential is not None and credential.identity_token:
            with self._fetch(_oauth_request(challenge, scopes, credential, operation)) as response:
                if response.status not in _NO_OAUTH:
                    return self._parse(response, issued, operation)
            credential = Credential(credential.username or _TOKEN_USER, credential.identity_token)
            with self._lock:
                self._secrets.update(credential.secrets)
        with self._fetch(_token_request(challenge, scopes, credential, operation)) as response:
            return self._parse(response, issued, operation)

    def _parse(self, response: Response, issued: float, operation: str) -> Token:
        document = _json_object(response.read(_MAX_TOKEN_ANSWER))
        value = document.get("token") or document.get("access_token")
        if not isinstance(value, str) or not _TOKEN_TEXT.fullmatch(value):
            raise ServerError(
                f"{operation}: {redact_url(response.url)} answered without a token",
                hint="ask whoever runs the registry: its token server does not follow the protocol",
                operation=operation,
                host=Origin.parse(response.url).netloc,
            )
        with self._lock:
            self._secrets.add(value)
        lifetime = document.get("expires_in")
        if isinstance(lifetime, bool) or not isinstance(lifetime, int | float) or not lifetime > 0:
            lifetime = _DEFAULT_LIFETIME
        return Token(value, issued, float(min(lifetime, _LONGEST_LIFETIME)))


def _token_request(
    challenge: Challenge, scopes: tuple[str, ...], credential: Credential | None, operation: str
) -> Request:
    query = [("service", challenge.service)] if challenge.service else []
    query += [("scope", scope) for scope in scopes]
    separator = "&" if "?" in challenge.realm else "?"
    url = challenge.realm + (separator + urlencode(query) if query else "")
    headers = {"Authorization": credential.basic} if credential and credential.basic else {}
    return Request("GET", url, headers, operation=operation)


def _oauth_request(challenge: Challenge, scopes: tuple[str, ...], credential: Credential, operation: str) -> Request:
    form = {"grant_type": "refresh_token", "client_id": "oci-binpkg", "refresh_token": credential.identity_token}
    form |= {"service": challenge.service} if challenge.service else {}
    form |= {"scope": " ".join(scopes)} if scopes else {}
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    return Request(
        "POST", challenge.realm, headers, urlencode(form).encode(), accept=_NO_OAUTH, follow=False, operation=operation
    )


def _json_object(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
