"""A small token server for the registry's Bearer login: who may do what, and a record of every token it gave."""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import secrets
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.support.real.certificates import Authority

SERVICE = "oci-binpkg-test-registry"
ISSUER = "oci-binpkg-test-tokens"


@dataclass(frozen=True, slots=True)
class Issued:
    """One token given out: to whom (None is anonymous), by which method, for which scopes as asked."""

    user: str | None
    method: str
    scopes: tuple[str, ...]


@dataclass(slots=True)
class TokenPolicy:
    """What the server gives: known users may do all they ask for, others may only pull if that is allowed."""

    users: Mapping[str, str]
    anonymous_pull: bool = True
    lifetime: int = 300  # seconds, told as expires_in
    post: bool = True  # many registries know only GET and answer 404 here
    issued: list[Issued] = field(default_factory=list)
    refresh_tokens: dict[str, str] = field(default_factory=dict)


class TokenServer:
    """The running server. `realm` is the address that a registry names in its challenge."""

    def __init__(self, authority: Authority, policy: TokenPolicy, *, tls: bool) -> None:
        self.authority = authority
        self.policy = policy
        self._server = _Listener(authority, policy)
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(authority.server_certificate, authority.server_key)
            # The handshake belongs to the connection's own thread, or one stuck client stops all others.
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.realm = f"{'https' if tls else 'http'}://127.0.0.1:{self._server.server_address[1]}/token"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    @property
    def issued(self) -> list[Issued]:
        return self.policy.issued

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)


@contextlib.contextmanager
def token_server(authority: Authority, *, tls: bool = False, **policy: Any) -> Iterator[TokenServer]:
    """A token server on a free loopback port; keyword arguments are those of `TokenPolicy`."""
    server = TokenServer(authority, TokenPolicy(**policy), tls=tls)
    try:
        yield server
    finally:
        server.stop()


def signed_token(authority: Authority, user: str | None, access: list[dict[str, Any]], *, lifetime: int) -> str:
    """A JWT as the Distribution registry wants it: RS256, with the certificate it was signed by in x5c."""
    now = int(time.time())
    header = {"typ": "JWT", "alg": "RS256", "x5c": [authority.certificate_der()]}
    claims = {
        "iss": ISSUER,
        "sub": user or "",
        "aud": SERVICE,
        "iat": now,
        "nbf": now - 10,
        "exp": now + lifetime,
        "jti": secrets.token_hex(8),
        "access": access,
    }
    signing_input = f"{_base64url(json.dumps(header).encode())}.{_base64url(json.dumps(claims).encode())}"
    return f"{signing_input}.{_base64url(authority.sign(signing_input.encode()))}"


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _access(scopes: list[str], *, only_pull: bool) -> list[dict[str, Any]]:
    """Scopes `type:name:actions` (a name may hold colons) as the `access` claim; several may share one parameter."""
    granted = []
    for scope in (one for joined in scopes for one in joined.split()):
        kind, _, rest = scope.partition(":")
        name, _, actions = rest.rpartition(":")
        allowed = [action for action in actions.split(",") if action == "pull" or not only_pull]
        granted.append({"type": kind, "name": name, "actions": allowed})
    return granted


def _basic_login(header: str) -> tuple[str, str] | None:
    kind, _, encoded = header.partition(" ")
    if kind.lower() != "basic":
        return None
    try:
        user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return user, password


class _Listener(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, authority: Authority, policy: TokenPolicy) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.authority = authority
        self.policy = policy


class _Handler(BaseHTTPRequestHandler):
    server: _Listener
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        fields = parse_qs(urlsplit(self.path).query)
        login = _basic_login(self.headers.get("Authorization", ""))
        if login is not None and self.server.policy.users.get(login[0]) != login[1]:
            self._answer(401, {"errors": [{"code": "UNAUTHORIZED", "message": "wrong user or password"}]})
            return
        if login is None and not self.server.policy.anonymous_pull:
            self._answer(401, {"errors": [{"code": "UNAUTHORIZED", "message": "login needed"}]})
            return
        self._give(login[0] if login else None, fields.get("scope", []), offline="offline_token" in fields)

    def do_POST(self) -> None:
        fields = parse_qs(self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode())
        if not self.server.policy.post:
            self._answer(404, {})
            return
        user = self._user_of_form({name: values[0] for name, values in fields.items()})
        if user is None:
            self._answer(401, {"error": "invalid_grant"})
            return
        self._give(user, fields.get("scope", []), offline=fields.get("access_type") == ["offline"])

    def _user_of_form(self, form: Mapping[str, str]) -> str | None:
        if form.get("grant_type") == "refresh_token":
            return self.server.policy.refresh_tokens.get(form.get("refresh_token", ""))
        user = form.get("username", "")
        password = self.server.policy.users.get(user)
        return user if password is not None and password == form.get("password") else None

    def _give(self, user: str | None, scopes: list[str], *, offline: bool) -> None:
        access = _access(scopes, only_pull=user is None)
        token = signed_token(self.server.authority, user, access, lifetime=self.server.policy.lifetime)
        self.server.policy.issued.append(Issued(user, self.command, tuple(scopes)))
        answer: dict[str, Any] = {"token": token, "access_token": token, "expires_in": self.server.policy.lifetime}
        if offline and user is not None:
            answer["refresh_token"] = secrets.token_urlsafe(24)
            self.server.policy.refresh_tokens[answer["refresh_token"]] = user
        self._answer(200, answer)

    def _answer(self, status: int, document: Mapping[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
        """The record of issued tokens says what matters; standard error is for people."""
