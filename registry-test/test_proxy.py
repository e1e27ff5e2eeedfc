"""The fault proxy and the token server themselves: they do what the rules say, and write down what happened."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from proxy.__main__ import main
from proxy.log import Log
from proxy.profiles import PROFILES, standing
from proxy.rules import Action, Answer, Asked, Rule, refusal
from proxy.server import FaultProxy
from proxy.tokens import TokenPolicy, Tokens

from tests.support.command_line import binpkg
from tests.support.fake_time import FakeTime
from tests.support.golden import GOLDEN
from tests.support.real.components import RealParts
from tests.support.real.registry import RealRegistry
from tests.support.real.web_server import web_server
from tests.support.self_signed import Certificates

pytestmark = pytest.mark.timeout(60)

ROOT = Path(__file__).parents[1]
HELLO = Rule(Action(answer=Answer(200, (("X-Own", "1"), ("X-Own", "2")), b"hello")), times=0)


def ask(
    proxy: FaultProxy, method: str = "GET", target: str = "/", body: Any = None, **headers: str
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """One request on a connection of its own."""
    with contextlib.closing(http.client.HTTPConnection(proxy.host, timeout=10)) as connection:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, target, body, named, encode_chunked=isinstance(body, Iterator))
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


@pytest.fixture
def proxy() -> Iterator[FaultProxy]:
    """A proxy with nothing behind it."""
    with FaultProxy() as server:
        yield server


def test_requests_pass_unchanged_and_are_written_down(plain_registry: RealRegistry) -> None:
    data = os.urandom(6 * 1024 * 1024)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    with FaultProxy(plain_registry.url) as proxy:
        status, headers, _ = ask(proxy, "POST", "/v2/proxy/passes/blobs/uploads/", b"")
        assert status == 202
        assert headers["Location"].startswith(f"{proxy.url}/v2/")
        target = headers["Location"].removeprefix(proxy.url)
        assert ask(proxy, "PUT", f"{target}&digest={digest}", iter([data[:5_000_000], data[5_000_000:]]))[0] == 201
        assert ask(proxy, "GET", f"/v2/proxy/passes/blobs/{digest}")[2] == data
        assert ask(proxy, "HEAD", f"/v2/proxy/passes/blobs/{digest}")[1]["Content-Length"] == str(len(data))
        sent = proxy.log.seen("PUT")[0]
    assert (sent.length, sent.sha256, sent.status, sent.forwarded) == (len(data), digest[7:], 201, True)
    assert proxy.log.methods() == ["POST", "PUT", "GET", "HEAD"]


def test_the_server_behind_is_down(proxy: FaultProxy) -> None:
    with FaultProxy(proxy.url.replace(proxy.host, "127.0.0.1:9")) as other:
        status, _, body = ask(other)
    assert status == 502
    assert b"127.0.0.1:9" in body


def test_rules_count_what_they_fit(proxy: FaultProxy) -> None:
    refuse = Action(answer=refusal(503, "UNAVAILABLE"))
    proxy.add(
        Rule(refuse, "GET|HEAD", r"/a\?x=1", nth=2, times=2),
        Rule(refuse, path="/b", when=lambda asked: asked.headers.get("x-bad") == "yes"),
        Rule(refuse, role="storage", times=0),
        HELLO,
    )
    assert [ask(proxy, "GET", "/a?x=1")[0] for _ in range(5)] == [200, 503, 503, 200, 200]
    assert [ask(proxy, method, "/a")[0] for method in ("GET", "POST")] == [200, 200]
    assert [ask(proxy, target="/b", X_Bad=word)[0] for word in ("no", "yes", "yes")] == [200, 503, 200]
    assert proxy.unstruck() == []
    assert ask(proxy)[1].get_all("X-Own") == ["1", "2"]


def test_answers_are_changed(proxy: FaultProxy) -> None:
    proxy.add(
        HELLO,
        Rule(Action(status=201, headers={"X-Own": None, "X-New": "a"}, more=(("X-New", "b"),)), path="/headers"),
        Rule(Action(body=bytes.upper, edit=lambda _asked, answer: answer.with_status(202)), path="/body"),
        Rule(Action(sized=False), path="/unsized"),
    )
    status, headers, _ = ask(proxy, target="/headers")
    assert (status, headers["X-Own"], headers.get_all("X-New")) == (201, None, ["a", "b"])
    assert ask(proxy, target="/body")[::2] == (202, b"HELLO")
    _, headers, body = ask(proxy, target="/unsized")
    assert (headers["Content-Length"], body) == (None, b"hello")


def test_the_first_line_is_sent_as_it_is_given(proxy: FaultProxy) -> None:
    proxy.add(HELLO, Rule(Action(first_line=b"HTTP/1.0 299 Odd\n", close=True)))
    with socket.create_connection(proxy.host.split(":"), 5) as connection:  # type: ignore[arg-type]
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        got = connection.makefile("rb").read()
    assert got.startswith(b"HTTP/1.0 299 Odd\nX-Own: 1\n")
    assert b"\r" not in got


@pytest.mark.parametrize(
    ("action", "error"),
    [
        (Action(forward=False, drop=True, reset=True), ConnectionResetError),
        (Action(forward=False, drop=True), http.client.RemoteDisconnected),
        (Action(cut_after=2), http.client.IncompleteRead),
        (Action(cut_after=2, reset=True), ConnectionResetError),
        (Action(cut_after=2, stall=True), TimeoutError),
        (Action(silent=True), TimeoutError),
    ],
)
def test_connections_end_as_told(proxy: FaultProxy, action: Action, error: type[Exception]) -> None:
    proxy.add(HELLO, Rule(action))
    connection = http.client.HTTPConnection(proxy.host, timeout=0.3)

    def read() -> None:
        connection.request("GET", "/")
        answer = connection.getresponse()
        assert answer.read(2) == b"he"
        time.sleep(0.05)
        answer.read()

    with contextlib.closing(connection), pytest.raises(error):
        read()
    assert len(proxy.log.seen()) == 1


def test_delays_and_drips_take_time(proxy: FaultProxy) -> None:
    proxy.add(HELLO, Rule(Action(delay=0.2), path="/delay"), Rule(Action(drip=0.05), path="/drip"))
    for target in ("/delay", "/drip"):
        started = time.monotonic()
        assert ask(proxy, target=target)[2] == b"hello"
        assert 0.2 <= time.monotonic() - started < 5


def test_an_early_answer_arrives_while_the_body_is_on_its_way(proxy: FaultProxy) -> None:
    proxy.add(Rule(Action(read_only=1000, answer=Answer(413)), times=0))
    with socket.create_connection(proxy.host.split(":"), 5) as connection:  # type: ignore[arg-type]
        connection.sendall(b"PUT / HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + bytes(5000))
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")
    assert proxy.log.seen()[0].length == 1000


def test_the_request_and_what_is_behind_may_be_changed_first(proxy: FaultProxy) -> None:
    prepared: list[bytes] = []
    with FaultProxy(proxy.url) as front:
        front.add(
            Rule(Action(prepare=lambda asked: prepared.append(asked.body), target=lambda asked: asked.path + "?other"))
        )
        proxy.add(HELLO)
        ask(front, "POST", "/x?y", b"form")
    assert prepared == [b"form"]
    assert proxy.log.seen()[0].target == "/x?other"


def test_a_log_holds_no_secret() -> None:
    lines = []
    log = Log(watch=lambda entry: lines.append(entry.as_json()))
    with FaultProxy(log=log) as proxy:
        proxy.add(HELLO)
        for _ in range(2):
            ask(proxy, target="/blob?sig=signature&n=1", Authorization="Bearer top-secret")
    first, second = log.seen()
    assert first.authorization == second.authorization
    assert first.authorization.startswith("Bearer ")
    shown = json.loads(lines[0])
    assert (shown["path"], shown["query"], shown["status"]) == ("/blob", "sig=***&n=1", 200)
    assert "top-secret" not in str(first) + lines[0]


def test_over_tls(certificates: Certificates) -> None:
    import ssl

    certificate = certificates.make("good")
    with FaultProxy(rules=[HELLO], tls=certificates.context(certificate)) as proxy:
        proxy.cut_connections(1)
        context = ssl.create_default_context(cafile=str(certificate))
        for error in (ssl.SSLEOFError, None):
            connection = http.client.HTTPSConnection(proxy.host, timeout=5, context=context)
            with contextlib.closing(connection), pytest.raises(error) if error else contextlib.nullcontext():
                connection.request("GET", "/")
                assert connection.getresponse().read() == b"hello"
    assert proxy.connections == 2


# ---- tokens


def token_of(answer: Answer, name: str = "token") -> str:
    assert answer.status == 200, answer
    return str(json.loads(answer.body or b"")[name])


def wanted(method: str, target: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Asked:
    return Asked("registry", method, target, dict(headers or {}), body=body)


def basic(text: str) -> dict[str, str]:
    return {"authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}


def test_tokens_are_good_for_what_they_were_asked_for_and_so_long() -> None:
    clock = FakeTime()
    tokens = Tokens(TokenPolicy(users={"u": "p"}, lifetime=60), clock=clock.clock)
    check = tokens.gate("https://auth.example/token")
    target = "/token?service=registry&scope=repository:a/b:pull&scope=repository:c:pull,push"
    known = {"authorization": f"Bearer {token_of(tokens.give(wanted('GET', target, basic('u:p'))))}"}
    assert check(wanted("GET", "/v2/a/b/tags/list", known)) is None
    assert check(wanted("GET", "/v2/", known)) is None
    assert check(wanted("PUT", "/v2/c/manifests/1", known)) is None
    assert check(wanted("POST", "/v2/c/blobs/uploads/?mount=sha256:1&from=a/b", known)) is None
    for method, path in [
        ("PUT", "/v2/a/b/manifests/1"),
        ("DELETE", "/v2/c/manifests/1"),
        ("POST", "/v2/c/blobs/uploads/?mount=sha256:1&from=d"),
    ]:
        refused = check(wanted(method, path, known))
        assert refused is not None
        assert 'error="insufficient_scope"' in refused.header("WWW-Authenticate")
    clock.advance(61)
    refused = check(wanted("GET", "/v2/a/b/tags/list", known))
    assert refused is not None
    assert refused.header("WWW-Authenticate").startswith('Bearer realm="https://auth.example/token",service="registry"')


def test_who_may_have_a_token() -> None:
    tokens = Tokens(TokenPolicy(users={"u": "p"}))
    push = "/token?scope=repository:a:pull,push"
    assert tokens.give(wanted("GET", push, basic("u:wrong"))).status == 401
    tokens.give(wanted("GET", push))
    assert tokens.issued[-1].access == {"a": frozenset({"pull"})}
    form = b"grant_type=password&username=u&password=p&scope=repository:a:pull,push&access_type=offline"
    refresh = token_of(tokens.give(wanted("POST", "/token", body=form)), "refresh_token")
    again = f"grant_type=refresh_token&refresh_token={refresh}&scope=repository:a:push".encode()
    token_of(tokens.give(wanted("POST", "/token", body=again)), "access_token")
    token_of(tokens.give(wanted("GET", push, basic(f"<token>:{refresh}"))))
    assert [(one.user, one.way) for one in tokens.issued] == [("", "GET"), ("u", "POST"), ("u", "POST"), ("u", "GET")]
    assert tokens.give(wanted("POST", "/token", body=b"grant_type=refresh_token&refresh_token=x")).status == 401


@pytest.mark.parametrize(
    ("policy", "members"),
    [
        ({"names": ("access_token",), "told": None}, {"access_token"}),
        ({"told": 1}, {"token", "access_token", "expires_in"}),
    ],
)
def test_token_answers_are_as_odd_as_told(policy: dict[str, object], members: set[str]) -> None:
    answer = Tokens(TokenPolicy(**policy)).give(wanted("GET", "/token"))  # type: ignore[arg-type]
    assert set(json.loads(answer.body or b"")) == members
    assert Tokens(TokenPolicy(post=False)).give(wanted("POST", "/token")).status == 404
    assert Tokens(TokenPolicy(anonymous=frozenset())).give(wanted("GET", "/token")).status == 401


# ---- profiles


@pytest.mark.parametrize(
    ("name", "method", "target", "headers", "status"),
    [
        ("docker-hub", "POST", "/v2/a/b/blobs/uploads/?mount=sha256:1&from=other.example:5000/x", {}, 400),
        ("ghcr", "DELETE", "/v2/a/b/manifests/1", {}, 405),
        ("quay", "POST", "/v2/a/b/blobs/uploads/?mount=sha256:1", {}, 400),
        ("ecr", "GET", "/v2/a/b/tags/list?n=1001", {}, 400),
        ("ecr", "HEAD", f"/v2/a/b/manifests/{'x' * 129}", {}, 400),
        ("ecr", "GET", "/v2/no/such/tags/list", {}, 404),
        ("gar", "PATCH", "/v2/a/b/blobs/uploads/x", {}, 405),
        ("acr", "GET", "/v2/a/b/blobs/uploads/x", {}, 404),
        ("harbor", "GET", "/v2/a/b/tags/list", {"cookie": "sid=1"}, 403),
        ("artifactory", "GET", "/v2/a/b/manifests/none", {}, 403),
        ("zot", "PATCH", "/v2/a/b/blobs/uploads/x", {"content-length": "0"}, 400),
        ("distribution", "DELETE", "/v2/a/b/manifests/1", {}, 405),
        ("gitea", "GET", "/v2/a/tags/list", {}, 404),
    ],
)
def test_what_a_profile_refuses(
    plain_registry: RealRegistry, name: str, method: str, target: str, headers: dict[str, str], status: int
) -> None:
    with standing(PROFILES[name], plain_registry.url, repositories=("a/b",)) as stage:
        known = basic("user:secret") if PROFILES[name].login == "basic" else {}
        if stage.tokens is not None:
            scope = "/token?scope=repository:a/b:pull,push,delete&scope=repository:a:pull"
            known = {"authorization": f"Bearer {_token(stage.tokens, scope)}"}
        assert ask(stage.proxy, method, target, None, **headers, **known)[0] == status
        assert stage.log.seen()[-1].struck


def _token(tokens: Tokens, scope: str) -> str:
    tokens.give(wanted("GET", scope, basic("user:secret")))
    return tokens.issued[-1].value


def test_a_profile_without_its_login_asks_for_it(plain_registry: RealRegistry) -> None:
    for name, profile in PROFILES.items():
        if profile.login:
            with standing(profile, plain_registry.url) as stage:
                status, headers, _ = ask(stage.proxy, target="/v2/")
                assert (status, profile.login in headers["WWW-Authenticate"].lower()) == (401, True), name


def test_the_list_of_profiles_says_what_each_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(PROFILES) == 13
    assert main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if not line.startswith(" ")]) == 13
    assert len(lines) == 13 + sum(len(profile.quirks) for profile in PROFILES.values())


def test_on_its_own(plain_registry: RealRegistry) -> None:
    argv = [sys.executable, "-m", "proxy", "--profile", "zot", "--upstream", plain_registry.url]
    started = subprocess.Popen(
        argv, cwd=ROOT / "registry-test", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with started:
        assert started.stderr is not None
        assert started.stdout is not None
        url = started.stderr.readline().split()[-1]
        with contextlib.closing(http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)) as connection:
            connection.request("GET", "/v2/")
            assert connection.getresponse().status == 200
        line = json.loads(started.stdout.readline())
        started.send_signal(signal.SIGTERM)
        assert started.wait(10) == 0
    assert (line["method"], line["path"], line["status"], line["length"]) == ("GET", "/v2/", 200, 0)


def test_make_proxy_passes_on_what_is_given() -> None:
    argv = [
        "make",
        "--no-print-directory",
        "--dry-run",
        "proxy",
        "PROFILE=ghcr",
        "UPSTREAM=http://127.0.0.1:5000",
        "PORT=5001",
    ]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
    words = " ".join(done.stdout.replace("\\\n", " ").split())
    assert words.endswith("-m proxy --profile ghcr --upstream http://127.0.0.1:5000 --port 5001")


def test_before_a_mirror(parts: RealParts, workroot: Path, tmp_path: Path) -> None:
    parts.require("nginx")
    shutil.copytree(GOLDEN / "v3-unsigned", workroot / "mirror")
    with web_server(workroot / "nginx-proxied", workroot / "mirror") as server, FaultProxy(server.url) as proxy:
        proxy.add(
            Rule(Action(answer=Answer(503)), "GET", "/manifests/spec/"),
            Rule(Action(cut_after=500, reset=True), "GET", "/blobs/sha256/", nth=2),
        )
        fixed = ("--from", proxy.url, "--no-check-signature", "--allow-missing")
        ended = binpkg("install", "greetcfg", *fixed, "--store", tmp_path / "s")
        assert ended.code == 0, ended.err
        assert "1 installed" in ended.err
        assert proxy.unstruck() == []
        assert all(not entry.authorization for entry in proxy.log.seen())
