"""What is logged of requests: each once, with its end, and nothing that is secret."""

from __future__ import annotations

import logging

import pytest

from oci_binpkg.errors import NetworkError, ServerError
from oci_binpkg.model.content import Blob
from oci_binpkg.transport.credentials import Credential
from oci_binpkg.transport.http import Request
from oci_binpkg.transport.retry import RetryPolicy
from oci_binpkg.transport.tuning import TransportSettings
from tests.support.scripted_server import Answer

OK = Answer(200, b"fine")
SECRET = "correct-horse-battery-staple"


def messages(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == level]


def test_a_request_is_one_line(bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "oci_binpkg")
    bench.server.on("PUT", "/v2/x", Answer(201))
    body = Blob.from_bytes(b"twelve bytes")
    bench.client().send(Request("PUT", bench.url("/v2/x?digest=sha256:ab"), body=body)).close()

    (line,) = messages(caplog, logging.DEBUG)
    address = bench.url("/v2/x")
    assert line.startswith(f"PUT {address}?digest=")
    assert line.endswith(": 201 in 0.000 s, attempt 1, 12 bytes sent, 0 to come")


def test_each_attempt_and_each_wait_is_a_line(bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "oci_binpkg")
    bench.server.on("GET", "/v2/x", Answer(reset=True), Answer(503), OK)
    bench.client().send(Request("GET", bench.url("/v2/x"))).close()

    tried = messages(caplog, logging.DEBUG)
    assert [line.split(": ", 1)[1].split(" in ")[0] for line in tried] == [
        "no answer (the connection was cut)",
        "503",
        "200",
    ]
    assert [f"attempt {number}," in line for number, line in enumerate(tried, start=1)] == [True] * 3
    waits = messages(caplog, logging.INFO)
    assert len(waits) == 2
    assert "the connection was cut: attempt 1 failed, the next one follows in" in waits[0]
    assert "HTTP 503" in waits[1]


def test_nothing_secret_is_logged(bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "oci_binpkg")
    cdn = bench.another()
    signed = f"{cdn.origin.replace('://', f'://user:{SECRET}@')}/1?X-Amz-Signature={SECRET}&sig={SECRET}"
    bench.server.on("GET", "/v2/x", Answer(307, b"", {"Location": f"{cdn.origin}/1?X-Amz-Signature={SECRET}"}))
    bench.server.on("GET", "/v2/y", Answer(307, b"", {"Location": signed}))
    cdn.on("GET", "/1", OK)
    client = bench.client(
        credential=Credential("user", SECRET), settings=TransportSettings(retry=RetryPolicy(retries=0))
    )
    realm = {"WWW-Authenticate": 'Basic realm="x"'}
    bench.server.on("GET", "/v2/z", Answer(401, b"", realm), Answer(500, f'{{"sent": "{SECRET}"}}'.encode()))
    client.send(Request("GET", bench.url("/v2/x"))).close()
    for path in ("/v2/y", "/v2/z"):
        with pytest.raises((ServerError, NetworkError)):
            client.send(Request("GET", bench.url(path), headers={"X-Token": SECRET}))

    assert f"{cdn.origin}/1?X-Amz-Signature=***: 200" in caplog.text
    assert len(messages(caplog, logging.DEBUG)) == len(bench.server.log) + len(cdn.log)
    assert SECRET not in caplog.text


def test_what_goes_out_again_on_a_new_connection_is_logged(bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "oci_binpkg")
    bench.server.on("GET", "/v2/x", OK, Answer(reset=True), OK)
    client = bench.client()
    for _ in range(2):
        client.send(Request("GET", bench.url("/v2/x"))).close()
    assert sum("kept connection" in line for line in messages(caplog, logging.DEBUG)) == 1
    assert len(messages(caplog, logging.DEBUG)) == len(bench.server.log) == 3
