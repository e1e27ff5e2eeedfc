"""A token server and the check of what it gave out: Bearer as the distribution project describes it, and OAuth2.

The odd answers of real ones (`{}`, HTML, 500, a body without end) are rules at its proxy, as everywhere.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from proxy.rules import Answer, Asked, Pairs, refusal


@dataclass(frozen=True, slots=True)
class TokenPolicy:
    """How tokens are given.

    `lifetime` in seconds; `told` is what `expires_in` says (None: nothing; "same": the truth). `names` are the members
    that hold the token. `get`, `post`: which ways are known, an unknown one answers 404. `anonymous`: what anybody may
    do. `service` stands in the challenge; so does the scope unless `scoped` is false. `early`: a 401 also says why.
    `mixed` puts a Basic challenge into the same header.
    """

    users: Mapping[str, str] = field(default_factory=dict)
    lifetime: float = 300.0
    told: int | str | None = "same"
    names: tuple[str, ...] = ("token", "access_token")
    get: bool = True
    post: bool = True
    anonymous: frozenset[str] = frozenset({"pull"})
    service: str = "registry"
    scoped: bool = True
    mixed: bool = False


@dataclass(frozen=True, slots=True)
class Token:
    """What was given: to whom ("" is anybody), for which actions on which repositories, until when."""

    value: str
    user: str
    access: Mapping[str, frozenset[str]]
    expires: float
    way: str
    asked: tuple[str, ...]


class Tokens:
    """Gives tokens and knows them again. `clock` is in seconds. Thread-safe."""

    def __init__(self, policy: TokenPolicy, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.policy = policy
        self.issued: list[Token] = []
        self._clock = clock
        self._known: dict[str, Token] = {}
        self._refresh: dict[str, str] = {}
        self._lock = threading.Lock()

    # ---- the token server

    def give(self, asked: Asked) -> Answer:
        """Answer a request to the realm."""
        if not (self.policy.post if asked.method == "POST" else self.policy.get):
            return Answer(404, (("Content-Type", "text/html"),), b"<html>404 page not found</html>")
        form = parse_qs(asked.body.decode("utf-8", "replace") if asked.method == "POST" else asked.query)
        user = self._user_of_form(form) if asked.method == "POST" else self._user_of(asked.headers)
        if user is None:
            return refusal(401, "UNAUTHORIZED", "incorrect username or password")
        scopes = tuple(one for text in form.get("scope", []) for one in text.split())
        token = self._make(user, scopes, asked.method)
        answer: dict[str, Any] = dict.fromkeys(self.policy.names, token.value)
        if self.policy.told is not None:
            answer["expires_in"] = int(self.policy.lifetime) if self.policy.told == "same" else self.policy.told
        if user and (form.get("access_type") == ["offline"] or form.get("offline_token") == ["true"]):
            answer["refresh_token"] = self.identity_token(user)
        return Answer(200, (("Content-Type", "application/json"),), json.dumps(answer).encode())

    def identity_token(self, user: str) -> str:
        """Return a refresh token for a user, as `docker login` would keep it."""
        value = secrets.token_urlsafe(24)
        with self._lock:
            self._refresh[value] = user
        return value

    def forget(self) -> None:
        """Let every token given so far be worth nothing."""
        with self._lock:
            self._known.clear()

    def revoke(self, asked: Asked) -> None:
        """Let the token of a request be worth nothing."""
        with self._lock:
            self._known.pop(asked.headers.get("authorization", "").partition(" ")[2], None)

    def _make(self, user: str, scopes: tuple[str, ...], way: str) -> Token:
        access: dict[str, frozenset[str]] = {}
        for scope in scopes:
            kind, _, rest = scope.partition(":")
            name, _, actions = rest.rpartition(":")
            allowed = frozenset(actions.split(","))
            if kind == "repository":
                access[name] = access.get(name, frozenset()) | (allowed if user else allowed & self.policy.anonymous)
        expires = self._clock() + self.policy.lifetime
        token = Token(secrets.token_urlsafe(32), user, access, expires, way, scopes)
        with self._lock:
            self.issued.append(token)
            self._known[token.value] = token
        return token

    def _user_of(self, headers: Mapping[str, str]) -> str | None:
        """Return "" for nobody in particular, None for a wrong login."""
        if "authorization" not in headers:
            return "" if self.policy.anonymous else None
        user, password = basic_login(headers["authorization"])
        if user == "<token>":
            return self._refresh.get(password)
        return user if user and self.policy.users.get(user) == password else None

    def _user_of_form(self, form: Mapping[str, list[str]]) -> str | None:
        if form.get("grant_type") == ["refresh_token"]:
            return self._refresh.get(form.get("refresh_token", [""])[0])
        user, password = form.get("username", [""])[0], form.get("password", [""])[0]
        return user if user and self.policy.users.get(user) == password else None

    # ---- the registry

    def gate(self, realm: str) -> Callable[[Asked], Answer | None]:
        """Return the check for requests to the registry: None lets one pass."""

        def check(asked: Asked) -> Answer | None:
            kind, _, value = asked.headers.get("authorization", "").partition(" ")
            with self._lock:
                token = self._known.get(value) if kind.lower() == "bearer" else None
            needed = wanted_access(asked)
            if token is None:
                return self._challenge(realm, needed, "" if not value else "invalid_token")
            if token.expires <= self._clock():
                return self._challenge(realm, needed, "invalid_token")
            if any(not actions <= token.access.get(name, frozenset()) for name, actions in needed.items()):
                return self._challenge(realm, needed, "insufficient_scope")
            return None

        return check

    def _challenge(self, realm: str, needed: Mapping[str, frozenset[str]], error: str) -> Answer:
        parts = [f'realm="{realm}"', f'service="{self.policy.service}"']
        if needed and self.policy.scoped:
            scopes = (f"repository:{name}:{','.join(sorted(actions))}" for name, actions in needed.items())
            parts.append(f'scope="{" ".join(scopes)}"')
        parts += [f'error="{error}"'] if error else []
        text = f"Bearer {','.join(parts)}"
        headers: Pairs = (("WWW-Authenticate", f'Basic realm="{realm}", {text}' if self.policy.mixed else text),)
        return refusal(401, "UNAUTHORIZED", "authentication required", headers)


def wanted_access(asked: Asked) -> dict[str, frozenset[str]]:
    """Return what a request needs: repository -> actions. The front door needs nothing but a token."""
    name = asked.repository
    if not name:
        return {}
    reading = asked.method in {"GET", "HEAD"} and "/blobs/uploads/" not in asked.path
    writing = frozenset({"delete"}) if asked.method == "DELETE" and "/uploads/" not in asked.path else None
    needed = {name: frozenset({"pull"}) if reading else writing or frozenset({"pull", "push"})}
    source = asked.parameters.get("from", [""])[0]
    if asked.method == "POST" and "mount" in asked.parameters and re.fullmatch(r"[a-z0-9._/-]+", source):
        needed.setdefault(source, frozenset({"pull"}))
    return needed


def basic_login(header: str) -> tuple[str, str]:
    """Return user and password of an Authorization header, two empty strings if it is not Basic."""
    kind, _, encoded = header.partition(" ")
    if kind.lower() != "basic":
        return "", ""
    try:
        user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return user, password


def basic_gate(users: Mapping[str, str], realm: str) -> Callable[[Asked], Answer | None]:
    """Return the check of Basic logins."""

    def check(asked: Asked) -> Answer | None:
        user, password = basic_login(asked.headers.get("authorization", ""))
        if user and users.get(user) == password:
            return None
        return refusal(401, "UNAUTHORIZED", "login needed", (("WWW-Authenticate", f'Basic realm="{realm}"'),))

    return check
