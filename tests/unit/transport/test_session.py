from __future__ import annotations

import http.client
import io
import socket
import ssl
from dataclasses import dataclass

import pytest
import requests
import urllib3

from oci_binpkg.errors import BinpkgError, NetworkError
from oci_binpkg.transport.retry import Failure
from oci_binpkg.transport.session import BodyReader, classify
from oci_binpkg.transport.tuning import Timeouts, TransportSettings
from tests.support.fake_time import FakeTime
from tests.support.scripted_server import Answer


def tls_error(kind: type[ssl.SSLError], reason: str) -> ssl.SSLError:
    error = kind(1, reason)
    error.reason = reason
    if isinstance(error, ssl.SSLCertVerificationError):
        error.verify_message = "self-signed"
    return error


def wrapped(inner: Exception) -> requests.RequestException:
    pool = urllib3.HTTPConnectionPool("reg.example")
    return requests.ConnectionError(urllib3.exceptions.MaxRetryError(pool, "/x?sig=secret", inner))


@pytest.mark.covers("F03", "F04", "R06", "R11")
@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (wrapped(urllib3.exceptions.SSLError(tls_error(ssl.SSLCertVerificationError, "X"))), Failure.CERTIFICATE),
        (wrapped(urllib3.exceptions.SSLError(tls_error(ssl.SSLEOFError, "EOF"))), Failure.DROPPED),
        (wrapped(urllib3.exceptions.SSLError(tls_error(ssl.SSLError, "TLSV1_ALERT"))), Failure.TLS),
        (wrapped(urllib3.exceptions.SSLError(tls_error(ssl.SSLError, "WRONG_VERSION_NUMBER"))), Failure.PLAIN),
        (wrapped(socket.gaierror(socket.EAI_NONAME, "unknown")), Failure.NAME),
        (wrapped(socket.gaierror(socket.EAI_AGAIN, "later")), Failure.NAME_TEMPORARY),
        (wrapped(urllib3.exceptions.LocationParseError("x" * 80)), Failure.NAME),
        (wrapped(ConnectionRefusedError(111, "refused")), Failure.CONNECT),
        (wrapped(TimeoutError("timed out")), Failure.TIMEOUT),
        (wrapped(ConnectionResetError(104, "reset")), Failure.DROPPED),
        (wrapped(http.client.BadStatusLine("x")), Failure.GARBLED),
        (wrapped(http.client.IncompleteRead(b"x")), Failure.DROPPED),
        (wrapped(urllib3.exceptions.ProxyError("no", ConnectionRefusedError(111, "x"))), Failure.PROXY),
        (urllib3.exceptions.ProtocolError("cut"), Failure.DROPPED),
        (wrapped(OSError(113, "No route to host")), Failure.DROPPED),
    ],
)
def test_failures_are_told_apart(error: Exception, failure: Failure) -> None:
    found = classify(error)
    assert found.failure is failure
    assert "secret" not in found.detail


def test_the_reason_of_the_system_is_kept() -> None:
    assert classify(wrapped(OSError(113, "No route to host"))).detail == "No route to host"
    looped = OSError(1, "loop")
    looped.__cause__ = looped
    assert classify(looped).detail == "loop"


@dataclass
class Dripping:
    """A body of which one byte comes per `pause` seconds."""

    time: FakeTime
    pause: float
    left: int = 10_000

    def read1(self, amount: int, *, decode_content: bool) -> bytes:
        assert not decode_content
        self.time.advance(self.pause)
        self.left -= 1
        return b"x" if self.left >= 0 else b""


def fail(failure: Failure, detail: str) -> BinpkgError:
    return NetworkError(f"{failure.value}: {detail}")


@pytest.mark.covers("F12", "R02")
def test_a_trickling_body_is_given_up() -> None:
    time = FakeTime()
    reader = io.BufferedReader(BodyReader(Dripping(time, 1.0), Timeouts(), time.time, fail), 4096)
    with pytest.raises(NetworkError, match="too slow: 60 bytes in 60 s"):
        reader.read(4096)
    assert time.clock() == 1060


@pytest.mark.covers("F12")
def test_a_slow_consumer_is_not_a_slow_server() -> None:
    time = FakeTime()
    reader = BodyReader(Dripping(time, 0.0001, 200), Timeouts(), time.time, fail)
    while reader.read(1):
        time.advance(100)
    assert reader.readable()


def test_the_windows_follow_one_another() -> None:
    time = FakeTime()
    timeouts = Timeouts(slow_bytes=0.5, slow_window=10)
    reader = io.BufferedReader(BodyReader(Dripping(time, 1.0, 100), timeouts, time.time, fail), 16)
    assert len(reader.read()) == 100


def test_settings_by_host(bench) -> None:
    from oci_binpkg.transport.addresses import Origin

    settings = TransportSettings(ca_files={"a.example:443": "a.pem"}, ca_file="all.pem", proxies={"https": "http://p"})
    assert settings.verify(Origin.parse("https://a.example")) == "a.pem"
    assert settings.verify(Origin.parse("https://b.example")) == "all.pem"
    assert TransportSettings().verify(Origin.parse("https://b.example")) is True
    assert settings.proxy(Origin.parse("https://b.example")) == "http://p"


def test_an_answer_left_unread_does_not_block(bench) -> None:
    from oci_binpkg.transport.http import Request

    bench.server.on("GET", "/short", Answer(200, b"x" * 1000))
    bench.server.on("GET", "/cut", Answer(200, b"x" * 1000, cut_after=10))
    bench.server.on("GET", "/cut404", Answer(404, b"x" * 1000, cut_after=10))
    bench.server.on("GET", "/long", Answer(200, b"x" * 10_000_000))
    client = bench.client()
    for path, connection in (("/short", 1), ("/short", 1), ("/cut", 1), ("/long", 2), ("/short", 3)):
        with client.send(Request("GET", bench.url(path))):
            pass
        assert bench.server.log[-1].connection == connection
    with client.send(Request("GET", bench.url("/short"))) as answer:
        assert answer.stream.read(3) == b"xxx"
    with pytest.raises(BinpkgError, match="HTTP 404"):
        client.send(Request("GET", bench.url("/cut404")))
