"""Questions about a server before it is used: does it accept this login, does it speak TLS."""

from __future__ import annotations

import socket
import ssl
from dataclasses import replace
from typing import Final

from oci_binpkg.errors import NetworkError, NotFoundError, ServerError
from oci_binpkg.model.reference import is_loopback
from oci_binpkg.transport.addresses import Origin
from oci_binpkg.transport.credentials import Credential, FixedCredential
from oci_binpkg.transport.http import Request
from oci_binpkg.transport.registry_client import RegistryHttpClient
from oci_binpkg.transport.tuning import TransportSettings

_UNAUTHORIZED: Final = 401
_PLAIN_REASONS: Final = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST"})
_FIRST_BYTES: Final = 5


def check_login(origin: str, credential: Credential, *, settings: TransportSettings | None = None) -> bool:
    """Return whether the registry at `origin` accepts a login; False if it does not ask for any.

    Raises `AuthError` when it refuses the login, `ServerError` when there is no registry, and what `HttpClient.send`
    raises.
    """
    url = f"{origin.rstrip('/')}/v2/"
    host = Origin.parse(origin).netloc
    request = Request("GET", url, operation=f"log in to {host}")
    with (
        RegistryHttpClient(origin, settings=settings) as anonymous,
        RegistryHttpClient(origin, credentials=FixedCredential(credential), settings=settings) as known,
    ):
        try:
            with anonymous.send(replace(request, accept=frozenset({_UNAUTHORIZED}))) as answer:
                asked = answer.status == _UNAUTHORIZED
            with known.send(request):
                return asked
        except NotFoundError as error:
            raise ServerError(
                f"{host} is not a registry: {error.message}", hint="check host and port", **error.fields
            ) from error


def plain_http_on_loopback(host: str, *, timeout: float = 3.0) -> bool:
    """Return whether the server at the loopback address `host[:port]` speaks plain http rather than TLS.

    Always False for other hosts, which are not asked: there, plain http has to be named. `timeout` in seconds is for
    each of two connections. Raises `NetworkError` when nothing listens.
    """
    if not is_loopback(host):
        return False
    origin = Origin.parse(f"https://{host}")
    try:
        verdict = _tls_verdict(origin, timeout)
        return _answers_plain(origin, timeout) if verdict is None else not verdict
    except OSError as error:
        raise NetworkError(
            f"{host}: could not connect ({error.strerror or error})", hint="is the registry running on this port?"
        ) from error


def _tls_verdict(origin: Origin, timeout: float) -> bool | None:
    """Offer a TLS handshake. True: the server takes part; False: it answers otherwise; None: it says nothing."""
    context = ssl.create_default_context()
    with socket.create_connection((origin.host, origin.port), timeout) as connection:
        try:
            with context.wrap_socket(connection, server_hostname=origin.host):
                return True
        except ssl.SSLEOFError:
            return None
        except ssl.SSLError as error:
            return error.reason not in _PLAIN_REASONS
        except (TimeoutError, ConnectionError):
            return None


def _answers_plain(origin: Origin, timeout: float) -> bool:
    """Ask in plain http: servers that wait for a line end or hang up on a TLS greeting answer this."""
    with socket.create_connection((origin.host, origin.port), timeout) as connection:
        try:
            connection.sendall(f"GET /v2/ HTTP/1.0\r\nHost: {origin.netloc}\r\n\r\n".encode())
            return connection.recv(_FIRST_BYTES).startswith(b"HTTP/")
        except (TimeoutError, ConnectionError):
            return False
