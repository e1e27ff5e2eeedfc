from __future__ import annotations

import io
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from oci_binpkg.errors import (
    AuthError,
    CertificateError,
    ContentError,
    DeniedError,
    LocalDiskError,
    NetworkError,
    NotFoundError,
    RateLimitedError,
    ServerError,
    UsageError,
)
from oci_binpkg.events import Retrying, Warned
from oci_binpkg.model.content import Blob, Descriptor, Digest
from oci_binpkg.times import Time
from oci_binpkg.transport.gate import GateLimits, HostGates
from oci_binpkg.transport.http import HttpClient, Request
from oci_binpkg.transport.registry_client import RegistryHttpClient
from oci_binpkg.transport.retry import RetryPolicy
from oci_binpkg.transport.tuning import Timeouts, TransportSettings
from tests.support.scripted_server import Answer, Asked

OK = Answer(200, b"fine")
RESET = Answer(reset=True)
BIG = bytes(range(256)) * 16384  # 4 MiB


def get(bench, path: str = "/v2/x", **kwargs) -> Request:
    return Request("GET", bench.url(path), **kwargs)


def body_of(client: HttpClient, request: Request) -> bytes:
    with client.send(request) as answer:
        return answer.read(1024 * 1024 * 8)


# --- one exchange ---------------------------------------------------------------------------------------------------


@pytest.mark.covers("R03", "R05", "R41")
def test_what_is_sent(bench) -> None:
    bench.server.on("GET", "/v2/x", Answer(200, b"a", {"Set-Cookie": "sid=1; Path=/", "X-Two": "1"}))
    client = bench.client(settings=TransportSettings(user_agent="mine/1"))
    for _ in range(2):
        with client.send(get(bench, headers={"Accept": "application/json", "Accept-Encoding": "gzip"})) as answer:
            assert (answer.status, answer.read(10), answer.headers["x-two"]) == (200, b"a", "1")
            assert answer.url == bench.url("/v2/x")
    first, second = bench.server.log
    assert first.headers == {
        "host": bench.server.host,
        "user-agent": "mine/1",
        "accept": "application/json",
        "accept-encoding": "identity",
    }
    assert second.headers == first.headers, "no cookie comes back (a registry answers 403 to its own session cookie)"
    assert first.connection == second.connection, "the connection is kept"


@pytest.mark.covers("R30", "F41")
def test_targets_are_sent_byte_for_byte(bench) -> None:
    target = "/v2//x%2fy%2Fz?_state=a+b%3d%3D&x=1&x=2&empty=&tilde=%7e~"
    bench.server.on("GET", "*", OK)
    body_of(bench.client(), get(bench, target))
    assert bench.server.log[0].target == target


@pytest.mark.parametrize("body", [None, b"", b"data", Blob.from_bytes(b""), Blob.from_bytes(BIG)])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_bodies_have_a_length_and_are_never_chunked(bench, method: str, body: bytes | Blob | None) -> None:
    bench.server.on(method, "/v2/x", Answer(201))
    with bench.client().send(Request(method, bench.url("/v2/x"), body=body)):
        pass
    asked = bench.server.log[0]
    data = b"" if body is None else body.read() if isinstance(body, Blob) else body
    assert asked.body == data
    assert asked.headers["content-length"] == str(len(data))
    assert "transfer-encoding" not in asked.headers


def test_reads_and_deletes_have_no_length(bench) -> None:
    bench.server.on("*", "*", Answer(202))
    for method in ("GET", "HEAD", "DELETE"):
        with bench.client().send(Request(method, bench.url("/v2/x"))):
            pass
    assert all("content-length" not in asked.headers for asked in bench.server.log)


@pytest.mark.covers("R10")
def test_bodies_are_read_up_to_a_limit(bench) -> None:
    bench.server.on("GET", "/v2/x", Answer(200, b"12345"))
    with bench.client().send(get(bench)) as answer:
        assert answer.read(5) == b"12345"
    with bench.client().send(get(bench)) as answer, pytest.raises(ContentError, match="more than 4 bytes"):
        answer.read(4)


@pytest.mark.covers("R03", "F24")
def test_an_unasked_encoding_fails_the_attempt(bench) -> None:
    encoded = Answer(200, b"\x1f\x8b", {"Content-Encoding": "gzip", "Via": "1.1 squid"})
    bench.server.on("GET", "/v2/x", encoded, Answer(200, b"raw", {"Content-Encoding": "identity"}))
    assert body_of(bench.client(), get(bench)) == b"raw"
    bench.server.on("GET", "/v2/x", encoded)
    with pytest.raises(ServerError, match=r"Content-Encoding.*gzip, via 1.1 squid.*after 6 attempts") as caught:
        bench.client().send(get(bench))
    assert "proxy" in caught.value.hint


@pytest.mark.covers("F13", "F04")
@pytest.mark.parametrize("cut", [Answer(200, BIG, cut_after=100_000), Answer(200, BIG, cut_after=100_000, reset=True)])
def test_a_body_that_breaks_off_is_a_network_error(bench, cut: Answer) -> None:
    bench.server.on("GET", "/v2/x", cut)
    with (
        bench.client().send(get(bench, operation="download x")) as answer,
        pytest.raises(NetworkError, match=r"^download x: 127\.0\.0\.1:\d+: the connection was cut"),
    ):
        answer.read(len(BIG))
    assert len(bench.server.log) == 1, "resuming is the caller's business"


@pytest.mark.covers("F14")
def test_a_body_without_length_ends_with_the_connection(bench) -> None:
    bench.server.on("GET", "/v2/x", Answer(200, b"short", length=False))
    assert body_of(bench.client(), get(bench)) == b"short"


@pytest.mark.covers("F11", "F12", "R02")
def test_silence_ends_in_a_timeout(bench) -> None:
    settings = TransportSettings(timeouts=Timeouts(idle=0.05), retry=RetryPolicy(retries=1))
    bench.server.on("GET", "/v2/x", Answer(silent=True))
    with pytest.raises(NetworkError, match=r"no answer in time.*after 2 attempts"):
        bench.client(settings=settings).send(get(bench))


@pytest.mark.covers("R02")
def test_an_upload_may_take_longer_to_be_answered() -> None:
    assert Timeouts().header_wait(None) == 60
    assert Timeouts().header_wait(0) == 120
    assert Timeouts().header_wait(400 * 1024 * 1024) == 220
    assert Timeouts().header_wait(2**50) == 900


# --- connections ----------------------------------------------------------------------------------------------------


@pytest.mark.covers("F02", "R01")
def test_a_kept_connection_found_dead_is_replaced_at_once(bench) -> None:
    bench.server.on("GET", "/v2/x", OK, Answer(drop=True), OK, RESET, OK)
    client = bench.client(settings=TransportSettings(retry=RetryPolicy(retries=0)))
    for _ in range(3):
        assert body_of(client, get(bench)) == b"fine"
    assert bench.time.slept == []
    assert len(bench.server.log) == 5
    assert bench.events == []


@pytest.mark.covers("R01", "R32")
def test_an_upload_is_not_repeated_unasked(bench) -> None:
    bench.server.on("GET", "/v2/x", OK)
    bench.server.on("PUT", "/v2/x", Answer(drop=True))
    client = bench.client()
    body_of(client, get(bench))
    with pytest.raises(NetworkError, match="the connection was cut"):
        client.send(Request("PUT", bench.url("/v2/x"), body=Blob.from_bytes(b"data"), replay=False))
    assert len(bench.server.asked("PUT")) == 1


@pytest.mark.covers("F01", "R01")
@pytest.mark.parametrize("times", [1, 3, 5])
def test_resets_are_retried_with_growing_pauses(bench, times: int) -> None:
    bench.server.on("GET", "/v2/x", *[RESET] * times, OK)
    assert body_of(bench.client(), get(bench)) == b"fine"
    assert len(bench.server.log) == times + 1
    assert bench.time.slept == [0.25, 0.5, 1.0, 2.0, 4.0][:times]
    assert [event.attempt for event in bench.events if isinstance(event, Retrying)] == list(range(1, times + 1))


@pytest.mark.covers("F01", "R43")
def test_giving_up_names_host_operation_attempts_and_time(bench) -> None:
    bench.server.on("GET", "/v2/x", RESET)
    with pytest.raises(NetworkError) as caught:
        bench.client().send(get(bench, operation="pull apps:1"))
    expected = f"pull apps:1: {bench.server.host}: the connection was cut"
    assert caught.value.message.startswith(expected)
    assert caught.value.message.endswith("(after 6 attempts in 7.8 s)")
    assert len(bench.server.log) == 6


@pytest.mark.covers("F03")
def test_a_refused_connection_is_retried_and_named(bench) -> None:
    port = bench.server.port
    bench.server.__exit__()
    with pytest.raises(NetworkError, match=r"could not connect \(Connection refused\) \(after 6 attempts"):
        bench.client(f"http://127.0.0.1:{port}").send(Request("GET", f"http://127.0.0.1:{port}/v2/"))


@pytest.mark.covers("F03")
def test_an_unknown_name_fails_after_two_tries(bench) -> None:
    with pytest.raises(NetworkError, match=r"host name (does not exist|cannot be looked up).*attempts"):
        bench.client("https://nowhere.invalid").send(Request("GET", "https://nowhere.invalid/v2/"))


def test_connections_are_not_shared_between_threads(bench) -> None:
    bench.server.on("GET", "/v2/x", OK)
    client = bench.client()
    results: list[bytes] = []
    threads = [threading.Thread(target=lambda: results.append(body_of(client, get(bench)))) for _ in range(4)]
    for thread in threads:
        thread.start()
        thread.join()
    assert results == [b"fine"] * 4
    assert bench.server.connections == 4
    with client:
        pass
    assert body_of(client, get(bench)) == b"fine", "a closed client opens new connections"


# --- answers --------------------------------------------------------------------------------------------------------


@pytest.mark.covers("F06", "F10", "R43")
@pytest.mark.parametrize("status", [500, 502, 503, 504, 408, 499, 522])
def test_passing_troubles_end_in_success(bench, status: int) -> None:
    bench.server.on("GET", "/v2/x", *[Answer(status, b"<html>oops</html>")] * 5, OK)
    assert body_of(bench.client(), get(bench)) == b"fine"
    assert len(bench.server.log) == 6


@pytest.mark.covers("F06")
def test_html_is_not_dumped(bench) -> None:
    bench.server.on("GET", "/v2/x", Answer(502, b"<html>oops</html>"))
    with pytest.raises(ServerError) as caught:
        bench.client().send(get(bench))
    assert "html" not in str(caught.value)
    assert "HTTP 502" in caught.value.message
    assert "try again later" in caught.value.hint


@pytest.mark.covers("F07", "R16", "R43")
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, ServerError),
        (403, DeniedError),
        (404, NotFoundError),
        (405, ServerError),
        (410, ServerError),
        (413, ServerError),
        (415, ServerError),
        (501, ServerError),
        (505, ServerError),
    ],
)
def test_lasting_refusals_are_one_request(bench, status: int, kind: type[Exception]) -> None:
    bench.server.on("GET", "/v2/x", Answer(status, b'{"errors":[{"code":"CODE","message":"why"}]}'))
    with pytest.raises(kind) as caught:
        bench.client().send(get(bench))
    assert caught.value.message.endswith(f"answered HTTP {status} CODE: why")  # type: ignore[attr-defined]
    assert len(bench.server.log) == 1


def test_accepted_statuses_are_handed_back(bench) -> None:
    bench.server.on("HEAD", "/v2/x", Answer(404))
    bench.server.on("GET", "/v2/x", Answer(503, b"busy"))
    client = bench.client()
    with client.send(Request("HEAD", bench.url("/v2/x"), accept=frozenset({404}))) as answer:
        assert answer.status == 404
    with client.send(get(bench, accept=frozenset({503}))) as answer:
        assert answer.read(10) == b"busy"
    assert {asked.connection for asked in bench.server.log} == {1}


@pytest.mark.covers("F08", "R44")
@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_obeyed(bench, form: str) -> None:
    value = "2" if form == "seconds" else "Fri, 15 Jan 2027 08:00:02 GMT"
    headers = {"Retry-After": value, "Date": "Fri, 15 Jan 2027 08:00:00 GMT"}
    bench.server.on("GET", "/v2/x", Answer(429, b"", headers), Answer(503, b"", headers), OK)
    assert body_of(bench.client(), get(bench)) == b"fine"
    assert len(bench.time.slept) == 2
    assert all(2.0 <= waited <= 2.2 for waited in bench.time.slept)


@pytest.mark.covers("F08", "R44")
def test_a_rate_limit_stops_all_clients_of_the_host(bench) -> None:
    bench.server.on("GET", "/v2/slow", Answer(429, b"", {"Retry-After": "30"}))
    bench.server.on("GET", "/v2/x", OK)
    gates = HostGates(GateLimits(), bench.time.time)
    first = bench.client(gates=gates)
    woken: list[float] = []

    def interrupted(seconds: float) -> None:
        woken.append(seconds)
        raise KeyboardInterrupt

    first._timing = type(first._timing)(Time(clock=bench.time.clock, sleep=interrupted, random=lambda: 0.0))
    with pytest.raises(KeyboardInterrupt):
        first.send(get(bench, "/v2/slow"))
    assert woken == [30.0]
    body_of(bench.client(gates=gates), get(bench))
    assert bench.time.slept == [30.0], "the second client waited before it asked at all"


@pytest.mark.covers("F09")
@pytest.mark.parametrize("headers", [{"Retry-After": "21600"}, {"ratelimit-remaining": "0;w=21600"}])
def test_a_long_limit_fails_at_once_with_the_time(bench, headers: dict[str, str]) -> None:
    bench.server.on("GET", "/v2/x", Answer(429, b'{"errors":[{"code":"TOOMANYREQUESTS"}]}', headers))
    with pytest.raises(RateLimitedError, match="TOOMANYREQUESTS") as caught:
        bench.client().send(get(bench))
    assert caught.value.seconds == 21600
    assert "UTC" in caught.value.hint
    assert bench.time.slept == []


@pytest.mark.covers("F10")
def test_a_plain_text_limit_with_bare_line_ends(bench) -> None:
    odd = Answer(429, b"Too Many Requests (HAP429).\n", status_line=b"HTTP/1.1 429 Too Many Requests\n")
    bench.server.on("GET", "/v2/x", odd)
    with pytest.raises(RateLimitedError, match=r"Too Many Requests \(HAP429\)"):
        bench.client().send(get(bench))
    assert [round(waited / 1.05, 6) for waited in bench.time.slept] == [2, 4, 8, 16, 32]


@pytest.mark.covers("R44")
def test_a_request_that_queued_for_long_is_tried_again_like_any_other(bench) -> None:
    gates = HostGates(GateLimits(), bench.time.time)
    bench.server.on("GET", "/v2/x", Answer(502), OK)
    gates.of(bench.server.host).pause(500)
    assert body_of(bench.client(gates=gates), get(bench)) == b"fine"
    assert bench.time.slept == [500, 0.25]


@pytest.mark.covers("F46", "R44")
def test_overload_lowers_the_number_of_parallel_requests(bench) -> None:
    gates = HostGates(GateLimits(), bench.time.time)
    bench.server.on("GET", "/v2/x", *[Answer(503)] * 4, *[OK] * 41)
    client = bench.client(gates=gates)
    for _ in range(41):
        body_of(client, get(bench))
    assert gates.of(bench.server.host).limit == 6


@pytest.mark.covers("R42")
def test_warnings_are_told_once(bench) -> None:
    warned = Answer(200, b"", (("Warning", '299 - "tag \x1b[1mis old"'), ("Warning", '299 - "second"')))
    bench.server.on("GET", "/v2/x", warned)
    client = bench.client()
    body_of(client, get(bench))
    body_of(client, get(bench))
    host = bench.server.host
    assert bench.events == [Warned(f"{host}: tag [1mis old"), Warned(f"{host}: second")]


def test_garbage_instead_of_http(bench) -> None:
    bench.server.on("GET", "/v2/x", Answer(status_line=b"SSH-2.0-OpenSSH\r\n"))
    with pytest.raises(NetworkError, match="the answer is not HTTP"):
        bench.client().send(get(bench))


# --- limits of the run ----------------------------------------------------------------------------------------------


def test_no_retries(bench) -> None:
    bench.server.on("GET", "/v2/x", Answer(500))
    with pytest.raises(ServerError):
        bench.client(settings=TransportSettings(retry=RetryPolicy(retries=0))).send(get(bench))
    with pytest.raises(ServerError):
        bench.client().send(get(bench, replay=False))
    assert len(bench.server.log) == 2


@pytest.mark.covers("R44")
def test_offline_asks_nobody(bench) -> None:
    with pytest.raises(NetworkError, match="offline"):
        bench.client(settings=TransportSettings(offline=True)).send(get(bench))
    assert bench.server.connections == 0


@pytest.mark.covers("R44")
def test_the_deadline_ends_waiting_and_asking(bench) -> None:
    bench.server.on("GET", "/v2/x", Answer(500))
    client = bench.client(settings=TransportSettings(deadline=bench.time.clock() + 0.5))
    with pytest.raises(ServerError, match="after 2 attempts"):
        client.send(get(bench))
    bench.time.advance(1)
    with pytest.raises(NetworkError, match="time for this run is over"):
        client.send(get(bench))
    assert len(bench.server.log) == 2


def test_origins_that_are_none() -> None:
    from oci_binpkg.transport.registry_client import RegistryHttpClient

    with pytest.raises(UsageError, match="file:"):
        RegistryHttpClient("file:///etc")


# --- redirects ------------------------------------------------------------------------------------------------------


def to(url: str, status: int = 307, body: bytes = b"") -> Answer:
    return Answer(status, body, {"Location": url})


@pytest.mark.covers("R08", "F20", "F21")
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_reads_follow_redirects(bench, status: int) -> None:
    bench.server.on("GET", "/v2/x", to("../other?sig=a%2fb", status))
    bench.server.on("GET", "/other", OK)
    with bench.client().send(get(bench, headers={"Range": "bytes=1-2"})) as answer:
        assert answer.url == bench.url("/other?sig=a%2fb")
    assert bench.server.log[1].target == "/other?sig=a%2fb"
    assert bench.server.log[1].headers["range"] == "bytes=1-2"


def test_redirects_can_be_handed_back(bench) -> None:
    bench.server.on("GET", "/v2/x", to("/other", 302))
    with bench.client().send(get(bench, follow=False)) as answer:
        assert (answer.status, answer.headers["Location"]) == (302, "/other")
    with bench.client().send(get(bench, accept=frozenset({302}))) as answer:
        assert answer.status == 302


@pytest.mark.covers("R08", "F20")
def test_every_retry_starts_at_the_registry(bench) -> None:
    cdn = bench.another()
    bench.server.on("GET", "/v2/x", to(f"{cdn.origin}/1?sig=1"), to(f"{cdn.origin}/2?sig=2"))
    cdn.on("GET", "/1", Answer(503))
    cdn.on("GET", "/2", OK)
    assert body_of(bench.client(), get(bench)) == b"fine"
    assert [asked.target for asked in cdn.log] == ["/1?sig=1", "/2?sig=2"]


@pytest.mark.covers("R08", "F22")
def test_redirects_are_counted(bench) -> None:
    bench.server.on("GET", "/v2/x", to("/v2/x"))
    with pytest.raises(ServerError, match="redirected more than 5 times"):
        bench.client().send(get(bench))
    assert len(bench.server.log) == 6


@pytest.mark.covers("R09", "F22", "R11")
@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest?sig=secret",
        "file:///etc/passwd",
        "http://10.0.0.1/",
        "http://a b/",
        "http://[x",
        "//[",
    ],
)
def test_unsafe_redirects_are_refused(bench, target: str) -> None:
    bench.server.on("GET", "/v2/x", to(target))
    with pytest.raises(ServerError, match="which is refused") as caught:
        bench.client().send(get(bench))
    assert "secret" not in str(caught.value)
    assert len(bench.server.log) == 1


def test_an_empty_redirect_is_an_error(bench) -> None:
    bench.server.on("GET", "/v2/x", Answer(307), Answer(307, b"", {"Location": ""}))
    for _ in range(2):
        with pytest.raises(ServerError, match="HTTP 307"):
            bench.client().send(get(bench))


@pytest.mark.covers("F22")
def test_the_body_of_a_redirect_is_not_read_without_limit(bench) -> None:
    bench.server.on("GET", "/v2/x", Answer(307, BIG, {"Location": "/other", "Content-Length": str(2**40)}))
    bench.server.on("GET", "/other", OK)
    assert body_of(bench.client(), get(bench)) == b"fine"


@pytest.mark.covers("R08")
@pytest.mark.parametrize("status", [307, 308])
def test_writes_follow_with_their_body(bench, status: int) -> None:
    bench.server.on("PUT", "/v2/x", to("/other", status))
    bench.server.on("PUT", "/other", Answer(201))
    with bench.client().send(Request("PUT", bench.url("/v2/x"), body=Blob.from_bytes(BIG), replay=False)) as answer:
        assert answer.status == 201
    assert [asked.body for asked in bench.server.log] == [BIG, BIG]


@pytest.mark.covers("R08")
@pytest.mark.parametrize("status", [301, 302, 303])
def test_writes_never_become_something_else(bench, status: int) -> None:
    bench.server.on("PUT", "/v2/x", to("/other", status))
    with pytest.raises(ServerError, match=f"HTTP {status}"):
        bench.client().send(Request("PUT", bench.url("/v2/x"), body=b"data"))
    assert len(bench.server.log) == 1


def test_a_storage_servers_refusal_is_not_a_login_problem(bench) -> None:
    cdn = bench.another()
    bench.server.on("GET", "/v2/x", to(f"{cdn.origin}/1?sig=1"))
    for status in (401, 403):
        cdn.on("GET", "/1", Answer(status, b"", {"WWW-Authenticate": 'Basic realm="x"'}))
        with pytest.raises(ServerError, match=f"HTTP {status}"):
            bench.client().send(get(bench))


# --- uploads --------------------------------------------------------------------------------------------------------


@pytest.mark.covers("R32", "F34")
def test_a_replayed_upload_reads_its_source_again(bench) -> None:
    bench.server.on("PUT", "/v2/x", Answer(500), RESET, Answer(201))
    opened: list[int] = []
    blob = Blob.from_bytes(BIG)

    def open_again() -> io.BytesIO:
        opened.append(1)
        return io.BytesIO(BIG)

    with bench.client().send(Request("PUT", bench.url("/v2/x"), body=Blob(blob.descriptor, open_again))) as answer:
        assert answer.status == 201
    assert len(opened) == 3
    assert {asked.digest for asked in bench.server.log} == {str(blob.descriptor.digest)}


@pytest.mark.covers("F31")
@pytest.mark.parametrize(("status", "kind"), [(413, ServerError), (403, DeniedError), (401, AuthError)])
def test_an_early_refusal_is_understood(bench, status: int, kind: type[Exception]) -> None:
    early = Answer(status, b'{"errors":[{"code":"DENIED","message":"no room"}]}', early=1000)
    bench.server.on("PUT", "/v2/x", early)
    blob = Blob.from_bytes(BIG * 4)
    with pytest.raises((kind, NetworkError)) as caught:
        bench.client().send(Request("PUT", bench.url("/v2/x"), body=blob, replay=False))
    if isinstance(caught.value, kind) and status != 401:
        assert "no room" in caught.value.message  # type: ignore[attr-defined]


@pytest.mark.covers("F31", "F34")
def test_a_reset_while_sending_is_a_network_error(bench) -> None:
    bench.server.on("PUT", "/v2/x", Answer(early=1000, reset=True))
    with pytest.raises(NetworkError, match="the connection was cut"):
        bench.client().send(Request("PUT", bench.url("/v2/x"), body=Blob.from_bytes(BIG * 4), replay=False))


@pytest.mark.parametrize(("size", "said"), [(5, "longer than"), (20, "ends 10 bytes before")])
def test_a_source_of_the_wrong_size_is_noticed(bench, size: int, said: str) -> None:
    bench.server.on("PUT", "/v2/x", Answer(201))
    blob = Blob(Descriptor("x/y", Digest.of(b""), size), lambda: io.BytesIO(b"0123456789"))
    with pytest.raises(ContentError, match=said):
        bench.client().send(Request("PUT", bench.url("/v2/x"), body=blob))


def test_a_source_that_cannot_be_read_is_a_local_problem(bench) -> None:
    @contextmanager
    def broken():
        raise OSError(5, "Input/output error")
        yield

    blob = Blob(Descriptor("x/y", Digest.of(b""), 5), broken)
    with pytest.raises(LocalDiskError, match="Input/output error"):
        bench.client().send(Request("PUT", bench.url("/v2/x"), body=blob))
    assert bench.time.slept == []


def test_an_upload_may_read_from_the_same_registry_through_one_slot(bench) -> None:
    bench.server.on("GET", "/v2/x", Answer(200, BIG))
    bench.server.on("PUT", "/v2/y", Answer(201))
    client = bench.client(settings=TransportSettings(gate=GateLimits(in_flight=1)))

    @contextmanager
    def source():
        with client.send(get(bench)) as answer:
            yield answer.stream

    blob = Blob(Descriptor("x/y", Digest.of(BIG), len(BIG)), source)
    with client.send(Request("PUT", bench.url("/v2/y"), body=blob, replay=False)):
        pass
    assert bench.server.asked("PUT")[0].body == BIG


# --- secrets and proxies --------------------------------------------------------------------------------------------


@pytest.mark.covers("R11")
def test_signed_addresses_are_in_no_error(bench) -> None:
    cdn = bench.another()
    port = cdn.port
    cdn.__exit__()
    bench.server.on("GET", "/v2/x", to(f"http://127.0.0.1:{port}/1?X-Sig=topsecret"))
    with pytest.raises(NetworkError) as caught:
        bench.client().send(get(bench))
    error: BaseException | None = caught.value
    assert "topsecret" not in str(error)
    assert error.__suppress_context__ or error.__context__ is None


@pytest.mark.covers("R05")
def test_plain_requests_go_through_the_proxy(bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    proxy = bench.another()
    proxy.on("GET", "*", OK)
    settings = TransportSettings(proxies={"http": proxy.origin}, insecure_hosts=frozenset({"reg.example"}))
    client = bench.client("http://reg.example", settings=settings)
    assert body_of(client, Request("GET", "http://reg.example/v2/x?y=%2f")) == b"fine"
    assert proxy.log[0].target.lower() == "http://reg.example/v2/x?y=%2f"
    bench.server.on("GET", "/v2/x", OK)
    assert body_of(bench.client(settings=settings), get(bench)) == b"fine", "this machine is reached directly"


def test_a_proxy_that_refuses_is_named(bench) -> None:
    proxy = bench.another()
    proxy.on("CONNECT", "*", Answer(407))
    settings = TransportSettings(proxies={"https": proxy.origin}, retry=RetryPolicy(retries=0))
    with pytest.raises(NetworkError, match="the proxy refused") as caught:
        bench.client("https://reg.example", settings=settings).send(Request("GET", "https://reg.example/v2/"))
    assert "proxy" in caught.value.hint


# --- TLS ------------------------------------------------------------------------------------------------------------


@pytest.mark.covers("R06")
def test_a_named_authority_is_trusted(bench, certificates) -> None:
    path = certificates.make("server")
    server = bench.another(certificates.context(path))
    server.on("GET", "/v2/", OK)
    for settings in (
        TransportSettings(ca_file=str(path)),
        TransportSettings(ca_files={server.host: str(path)}, ca_file="/nonexistent"),
        TransportSettings(ca_files={"127.0.0.1": str(path)}),
    ):
        client = bench.client(server.origin, settings=settings)
        assert body_of(client, Request("GET", f"{server.origin}/v2/")) == b"fine"


@pytest.mark.covers("F05", "R06")
@pytest.mark.parametrize(
    ("case", "step"),
    [
        ("untrusted", 'set `ca_file` of [registries."127.0.0.1:'),
        ("other-host", "check the name of the host"),
        ("expired", "check the clock of this machine"),
    ],
)
def test_a_bad_certificate_is_one_request_and_an_error_of_its_own(bench, certificates, case: str, step: str) -> None:
    subject = "DNS:other.example" if case == "other-host" else "IP:127.0.0.1"
    path = certificates.make_expired() if case == "expired" else certificates.make(case, subject)
    server = bench.another(certificates.context(path))
    settings = TransportSettings() if case == "untrusted" else TransportSettings(ca_file=str(path))
    with pytest.raises(CertificateError, match="certificate is not trusted") as caught:
        bench.client(server.origin, settings=settings).send(Request("GET", f"{server.origin}/v2/"))
    assert step in caught.value.hint
    assert server.log == []
    assert server.connections == 1
    assert bench.time.slept == []


@pytest.mark.covers("F04", "R06")
def test_tls_cut_off_is_retried(bench, certificates) -> None:
    path = certificates.make("server")
    server = bench.another(certificates.context(path))
    server.on("GET", "/v2/", RESET, Answer(drop=True), OK, RESET, OK)
    client = bench.client(server.origin, settings=TransportSettings(ca_file=str(path)))
    for _ in range(2):
        assert body_of(client, Request("GET", f"{server.origin}/v2/")) == b"fine"
    assert len(bench.time.slept) == 2, "the last cut was on a kept connection"


def test_tls_cut_off_in_a_body_is_a_network_error(bench, certificates) -> None:
    path = certificates.make("server")
    server = bench.another(certificates.context(path))
    server.on("GET", "/v2/", Answer(200, BIG, cut_after=1_000_000))
    client = bench.client(server.origin, settings=TransportSettings(ca_file=str(path)))
    with client.send(Request("GET", f"{server.origin}/v2/")) as answer, pytest.raises(NetworkError):
        answer.read(len(BIG))


def test_plain_http_behind_https_is_explained(bench) -> None:
    origin = f"https://{bench.server.host}"
    with pytest.raises(NetworkError, match="does not speak TLS") as caught:
        bench.client(origin).send(Request("GET", f"{origin}/v2/"))
    assert "oci+http://" in caught.value.hint
    assert bench.time.slept == []


def test_a_missing_authority_file_is_a_local_problem(bench) -> None:
    settings = TransportSettings(ca_file="/nonexistent/ca.pem")
    with pytest.raises(LocalDiskError, match="CA file"):
        bench.client("https://127.0.0.1:1", settings=settings).send(Request("GET", "https://127.0.0.1:1/v2/"))


@pytest.mark.covers("R07", "F21")
def test_https_never_steps_down(bench, certificates) -> None:
    path = certificates.make("server")
    server = bench.another(certificates.context(path))
    server.on("GET", "/v2/", to(bench.url("/v2/x")))
    with pytest.raises(ServerError, match="from https to plain http"):
        bench.client(server.origin, settings=TransportSettings(ca_file=str(path))).send(
            Request("GET", f"{server.origin}/v2/")
        )
    assert bench.server.log == []


def test_a_request_may_be_seen_as_it_came(bench, tmp_path: Path) -> None:
    seen: list[Asked] = []

    def answer(asked: Asked) -> Answer:
        seen.append(asked)
        return OK

    bench.server.on("*", "*", answer)
    body_of(bench.client(), get(bench))
    assert seen == bench.server.log


def test_closing_does_not_wait_for_what_a_slow_server_has_left(bench) -> None:
    """A short rest is read so that the connection can be used again; one that trickles is not worth it."""
    bench.server.on("GET", "/v2/drip", Answer(200, b"x" * 60_000, drip=0.05))
    timeouts = Timeouts(slow_window=0.2)
    with RegistryHttpClient(bench.server.origin, settings=TransportSettings(timeouts=timeouts)) as client:
        answer = client.send(get(bench, "/v2/drip"))
        started = time.monotonic()
        answer.close()
        assert time.monotonic() - started < 5
