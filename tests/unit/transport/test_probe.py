from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from oci_binpkg.errors import AuthError, NetworkError, ServerError
from oci_binpkg.transport.credentials import Credential
from oci_binpkg.transport.probe import check_login, plain_http_on_loopback
from tests.support.scripted_server import Answer, Asked


@contextmanager
def raw_server(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    talk(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def test_a_plain_server_is_recognised(bench) -> None:
    assert plain_http_on_loopback(bench.server.host)
    assert plain_http_on_loopback(f"localhost:{bench.server.port}")


def test_a_tls_server_is_recognised(bench, certificates) -> None:
    server = bench.another(certificates.context(certificates.make("server")))
    assert not plain_http_on_loopback(server.host)


def test_a_tls_server_that_agrees_on_nothing_is_still_tls(bench, certificates) -> None:
    context = certificates.context(certificates.make("server"))
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")
    assert not plain_http_on_loopback(bench.another(context).host)


def test_servers_that_hang_up_on_a_tls_greeting() -> None:
    def talk(connection: socket.socket) -> None:
        if connection.recv(1) != b"\x16":
            connection.sendall(b"HTTP/1.0 404 Not Found\r\n\r\n")

    with raw_server(talk) as host:
        assert plain_http_on_loopback(host, timeout=0.5)
    with raw_server(lambda connection: None) as host:
        assert not plain_http_on_loopback(host, timeout=0.5)


def test_servers_that_wait_for_a_line() -> None:
    with raw_server(lambda connection: connection.settimeout(0.3) or read_all(connection)) as host:
        assert not plain_http_on_loopback(host, timeout=0.1)


def read_all(connection: socket.socket) -> None:
    try:
        while connection.recv(4096):
            pass
    except TimeoutError:
        pass


def test_only_this_machine_is_asked() -> None:
    assert not plain_http_on_loopback("reg.invalid:5000")


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host = f"127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(NetworkError, match="could not connect") as caught:
        plain_http_on_loopback(host)
    assert "running" in caught.value.hint


def basic(asked: Asked) -> Answer:
    if asked.headers.get("authorization") == "Basic dTpw":
        return Answer(200, b"{}")
    return Answer(401, b"", {"WWW-Authenticate": 'Basic realm="x"'})


def test_a_login_is_checked(bench) -> None:
    bench.server.on("GET", "/v2/", basic)
    assert check_login(bench.server.origin, Credential("u", "p"))
    with pytest.raises(AuthError, match="log in to 127"):
        check_login(bench.server.origin + "/", Credential("u", "wrong"))


def test_a_registry_that_asks_for_no_login(bench) -> None:
    bench.server.on("GET", "/v2/", Answer(200))
    assert not check_login(bench.server.origin, Credential("u", "p"))


def test_not_a_registry(bench) -> None:
    with pytest.raises(ServerError, match="is not a registry"):
        check_login(bench.server.origin, Credential("u", "p"))
