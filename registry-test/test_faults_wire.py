"""F01 to F12: the connection, the statuses, and waiting. Each test says: the fault -> what comes of it."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from typing import Any

import pytest
from fault_bench import BLOB, COMMIT, MANIFEST, Action, Answer, FaultBench, digest_text, fetch, layer, refusal
from proxy.server import FaultProxy

from oci_binpkg.errors import BinpkgError, CertificateError, NetworkError, RateLimitedError, ServerError
from oci_binpkg.store.registry.api import ACCEPT
from oci_binpkg.transport.http import Request
from oci_binpkg.transport.retry import RetryPolicy
from oci_binpkg.transport.tuning import Timeouts
from tests.support.command_line import binpkg
from tests.support.self_signed import Certificates

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]

HTML = Answer(0, (("Content-Type", "text/html"),), b"<html><body><h1>Bad Gateway</h1></body></html>")
QUICK = RetryPolicy(retries=1)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("n", range(1, 7))
def test_F01_reset_before_any_answer(bench: FaultBench, method: str, n: int) -> None:
    """A reset before any byte of an answer, up to five times -> success after as many more requests, with growing,
    jittered gaps; the sixth ends in a network error that counts the attempts.
    """
    bench.published()
    bench.on(Action(forward=False, drop=True, reset=True), method, MANIFEST, times=n)
    numbers = itertools.cycle([0.9, 0.4, 0.7, 0.2, 0.8])
    client = bench.client(random=lambda: next(numbers))
    request = bench.get("/manifests/1.0", method)
    if n == 6:
        with pytest.raises(NetworkError, match="after 6 attempts"):
            client.send(request)
    else:
        client.send(request).close()
    assert len(bench.seen(method, MANIFEST)) == min(n + 1, 6)
    assert len(bench.time.slept) == min(n, 5)
    assert all(0.1 <= waited <= 0.5 * 2**k for k, waited in enumerate(bench.time.slept))
    assert bench.time.slept[-1] == max(bench.time.slept) or n in {2, 4}


def test_F02_idle_connection_closed(bench: FaultBench) -> None:
    """The server closed an idle connection, or hangs up on its second request -> one more request at once on a new
    connection, no wait, not counted as an attempt.
    """
    bench.published()
    client = bench.client(retry=RetryPolicy(retries=0))
    for struck in (False, True):
        if struck:
            bench.on(Action(forward=False, drop=True), "GET", "/tags/list")
        client.send(bench.get("/manifests/1.0")).read(10000)
        before = bench.proxy.connections
        if not struck:
            bench.proxy.hang_up()
        client.send(bench.get("/tags/list")).read(10000)
        assert bench.proxy.connections == before + 1
    assert bench.methods("/tags/list") == ["GET"] * 3
    assert bench.time.slept == []


@pytest.mark.parametrize("kind", ["refused", "lookup", "no such name"])
def test_F03_no_connection_yet(bench: FaultBench, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Connection refused, or a name that cannot be looked up now -> tried again until it is up; a name that does not
    exist fails after two tries.
    """
    bench.published()
    asked: list[str] = []
    real = socket.getaddrinfo
    host, _, port = bench.proxy.host.partition(":")

    def resolve(name: str, *args: Any, **more: Any) -> object:
        if name != "registry.example":
            return real(name, *args, **more)
        asked.append(name)
        if kind == "no such name" or len(asked) <= 2:
            code = socket.EAI_NONAME if kind == "no such name" else socket.EAI_AGAIN
            raise socket.gaierror(code, "made up")
        return real(host, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    if kind == "refused":
        with FaultProxy() as closed:
            free = closed.host.partition(":")[2]

        def sleep(seconds: float) -> None:
            bench.time.sleep(seconds)
            if len(bench.time.slept) == 3:
                bench.another("late", bench.registry.url, port=int(free))

        origin = f"http://{host}:{free}"
    else:
        sleep, origin = bench.time.sleep, f"http://registry.example:{port}"
    client = bench.client(origin, sleep=sleep, insecure_hosts=frozenset({"registry.example"}))
    request = Request("GET", f"{origin}/v2/{bench.name}/manifests/1.0", {"Accept": ACCEPT})
    if kind == "no such name":
        with pytest.raises(NetworkError, match="does not exist"):
            client.send(request)
        assert len(asked) == 2
        assert sum(bench.time.slept) < 10
    else:
        client.send(request).close()
        assert len(bench.seen("GET", MANIFEST)) == 1
        assert len(bench.time.slept) == (3 if kind == "refused" else 2)


def test_F04_tls_cut(bench: FaultBench, certificates: Certificates) -> None:
    """TLS cut in the handshake, and in the middle of a body -> tried again and resumed like any cut connection."""
    certificate = certificates.make("good")
    bench.proxy = bench.another("registry", bench.registry.url, tls=certificates.context(certificate))
    blob = layer(300_000)
    bench.placed(blob)
    bench.proxy.cut_connections(2)
    bench.on(Action(cut_after=100_000), "GET", BLOB)
    store = bench.store(client=bench.client(ca_file=str(certificate)))
    assert fetch(store, blob.descriptor) == blob.read()
    assert [one.headers.get("range") for one in bench.seen("GET", BLOB)] == [None, "bytes=100000-299999"]
    assert bench.proxy.connections == 4
    assert len(bench.time.slept) == 3


@pytest.mark.parametrize("fault", ["expired", "another host", "untrusted"])
def test_F05_bad_certificate(bench: FaultBench, certificates: Certificates, fault: str) -> None:
    """An expired certificate, one of another host, one that nobody trusts -> one connection, an error at once, and no
    attempt without TLS.
    """
    if fault == "expired":
        certificate = certificates.make_expired()
    elif fault == "another host":
        certificate = certificates.make("elsewhere", "DNS:elsewhere.example")
    else:
        certificate = certificates.make("good")
    trusted = "" if fault == "untrusted" else str(certificate)
    bench.proxy = bench.another("registry", bench.registry.url, tls=certificates.context(certificate))
    with pytest.raises(CertificateError):
        bench.client(ca_file=trusted).send(bench.get("/tags/list"))
    assert bench.proxy.connections == 1
    assert bench.seen() == []
    assert bench.time.slept == []


@pytest.mark.parametrize("status", [500, 502, 503, 504, 408, 499, 520, 522])
def test_F06_passing_errors(bench: FaultBench, status: int) -> None:
    """500, 502, 503, 504, 408, 499, 52x with a page of HTML -> success when it passes; an error without the HTML when
    it does not.
    """
    bench.published()
    bench.on(Action(answer=HTML.with_status(status)), "GET", MANIFEST, times=5)
    bench.client().send(bench.get("/manifests/1.0")).close()
    assert len(bench.seen("GET", MANIFEST)) == 6
    bench.on(Action(answer=HTML.with_status(status)), "GET", "/tags/list", times=0)
    with pytest.raises(ServerError, match=f"HTTP {status} .after 6 attempts") as caught:
        bench.client().send(bench.get("/tags/list"))
    assert "<" not in str(caught.value)


@pytest.mark.parametrize("status", [400, 404, 405, 410, 413, 415, 501, 505])
def test_F07_final_errors(bench: FaultBench, status: int) -> None:
    """501, 505, 400, 404, 405, 410, 413, 415 -> not tried again; 413 to an upload makes it go on in chunks."""
    bench.on(Action(answer=HTML.with_status(status)), "GET", MANIFEST, times=0)
    with pytest.raises(BinpkgError):
        bench.client().send(bench.get("/manifests/1.0"))
    assert len(bench.seen()) == 1
    assert bench.time.slept == []
    if status == 413:
        blob = layer(300_000)
        bench.on(Action(answer=refusal(413, "SIZE_INVALID")), "PUT", COMMIT)
        assert bench.store(fallback_chunk=100_000).put(blob)
        assert [one.length for one in bench.seen("PATCH")] == [100_000] * 3
        assert bench.holds(blob)


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_F08_retry_after(bench: FaultBench, form: str) -> None:
    """429 with Retry-After of two seconds, as a number or a date -> waits at least that and at most a tenth more, and
    so does every other worker at this host.
    """
    bench.published()
    stated = "2" if form == "seconds" else "Sun, 22 Nov 2026 12:00:02 GMT"
    headers = (("Retry-After", stated), ("Date", "Sun, 22 Nov 2026 12:00:00 GMT"))
    bench.on(Action(answer=refusal(429, "TOOMANYREQUESTS", headers=headers)), "GET", MANIFEST)
    arrived: list[float] = []
    bench.on(Action(prepare=lambda _asked: arrived.append(bench.time.clock())), times=0)
    workers: list[threading.Thread] = []

    def sleep(seconds: float) -> None:
        if not workers:
            workers.append(threading.Thread(target=lambda: client.send(bench.get("/tags/list")).close()))
            workers[0].start()
            workers[0].join()
        bench.time.sleep(seconds)

    client = bench.client(sleep=sleep)
    client.send(bench.get("/manifests/1.0")).close()
    assert 2 <= bench.time.slept[0] <= 2.2
    assert [one.path.rpartition("/")[2] for one in bench.seen()] == ["1.0", "list", "1.0"]
    assert all(moment - arrived[0] >= 2 for moment in arrived[1:])


@pytest.mark.parametrize("header", [("Retry-After", "21600"), ("ratelimit-remaining", "0;w=21600")])
def test_F09_six_hours(bench: FaultBench, header: tuple[str, str]) -> None:
    """429 that asks for six hours, in Retry-After or in Docker Hub's way -> fails at once with the time when it is over
    and an exit code of its own.
    """
    bench.on(Action(answer=refusal(429, "TOOMANYREQUESTS", headers=(header,))), times=0)
    with pytest.raises(RateLimitedError) as caught:
        bench.client().send(bench.get("/tags/list"))
    assert caught.value.seconds == 21600
    assert bench.time.slept == []
    assert len(bench.seen()) == 1
    started = time.monotonic()
    ended = binpkg("find", "--from", f"oci://{bench.proxy.host}/{bench.name}")
    assert (ended.code, time.monotonic() - started < 5) == (24, True)
    assert "21600 s, until 20" in ended.err


@pytest.mark.parametrize("form", ["json", "text", "bare line feeds"])
def test_F10_429_without_a_time(bench: FaultBench, form: str) -> None:
    """429 without Retry-After; as plain text; with bare line feeds -> growing waits, and no trouble with what is not
    JSON.
    """
    bench.published()
    text = Answer(429, (("Content-Type", "text/plain"),), b"Too Many Requests (HAP429).\n")
    action = {
        "json": Action(answer=refusal(429, "TOOMANYREQUESTS")),
        "text": Action(answer=text),
        "bare line feeds": Action(answer=text, first_line=b"HTTP/1.1 429 Too Many Requests\n"),
    }[form]
    bench.on(action, "GET", MANIFEST, times=3)
    bench.client().send(bench.get("/manifests/1.0")).close()
    assert bench.time.slept == pytest.approx([2.1, 4.2, 8.4])
    assert len(bench.seen("GET", MANIFEST)) == 4


def test_F11_no_answer(bench: FaultBench) -> None:
    """No answer for ever -> given up after the time for headers, tried again, then a network error; never a hang."""
    bench.published()
    bench.on(Action(forward=False, silent=True), "GET", MANIFEST, times=3)
    client = bench.client(timeouts=Timeouts(idle=0.5), retry=QUICK)
    started = time.monotonic()
    with pytest.raises(NetworkError, match=r"no answer in time .*after 2 attempts"):
        client.send(bench.get("/manifests/1.0"))
    client.send(bench.get("/manifests/1.0")).close()
    assert time.monotonic() - started < 10
    assert len(bench.seen("GET", MANIFEST)) == 4


@pytest.mark.parametrize("kind", ["stalls", "drips"])
def test_F12_stalled_body(bench: FaultBench, kind: str) -> None:
    """A body that stalls for ever, or comes byte by byte -> given up after the idle time or as too slow, and resumed
    where it was.
    """
    blob = layer(200_000)
    bench.placed(blob)
    if kind == "stalls":
        bench.on(Action(cut_after=50_000, stall=True), "GET", BLOB)
    else:
        bench.on(Action(drip=0.02), "GET", BLOB)
    waits = Timeouts(idle=1.0, slow_window=0.3, slow_bytes=100_000)
    client = bench.client(timeouts=waits, clock=time.monotonic)
    started = time.monotonic()
    assert digest_text(fetch(bench.store(client=client), blob.descriptor)) == str(blob.descriptor.digest)
    assert time.monotonic() - started < 20
    first, second = bench.seen("GET", BLOB)
    offset = int(second.headers["range"].removeprefix("bytes=").partition("-")[0])
    assert first.headers.get("range") is None
    assert offset == 50_000 if kind == "stalls" else 0 < offset < 200
