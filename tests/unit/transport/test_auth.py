from __future__ import annotations

import base64
import json
import threading
from urllib.parse import parse_qs, urlsplit

import pytest

from oci_binpkg.cli.hints import words
from oci_binpkg.errors import AuthError, ContentError, DeniedError, NetworkError, ServerError
from oci_binpkg.model.content import Blob
from oci_binpkg.transport.auth import Token, TokenCache, TokenKey
from oci_binpkg.transport.credentials import Credential
from oci_binpkg.transport.http import Request
from oci_binpkg.transport.tuning import TransportSettings
from tests.support.fake_time import FakeTime
from tests.support.scripted_server import Answer, Asked, ScriptedServer

LOGIN = Credential("user", "hunter2secret")
PULL = ("repository:apps:pull",)
PUSH = ("repository:apps:pull,push",)


class TokenServer:
    """A registry that wants Bearer tokens and the server that gives them. `valid` is what the registry accepts."""

    def __init__(self, bench, *, challenge: str = "") -> None:
        self.registry: ScriptedServer = bench.server
        self.server: ScriptedServer = bench.another()
        self.realm = f"{self.server.origin}/token"
        self.challenge = challenge or f'Bearer realm="{self.realm}",service="reg",scope="repository:apps:pull"'
        self.valid: set[str] = set()
        self.lifetime: object = 300
        self.lock = threading.Lock()
        self.server.on("GET", "/token", self.give)
        self.registry.on("*", "*", self.serve)

    def give(self, asked: Asked) -> Answer:
        with self.lock:
            token = f"token-{len(self.valid) + 1}-secret"
            self.valid = {*self.valid, token}
        document = {"token": token} | ({"expires_in": self.lifetime} if self.lifetime is not None else {})
        return Answer(200, json.dumps(document).encode())

    def serve(self, asked: Asked) -> Answer:
        if asked.headers.get("authorization", "").removeprefix("Bearer ") in self.valid:
            return Answer(200, b"fine")
        return Answer(401, b"", {"WWW-Authenticate": self.challenge})

    def expire(self) -> None:
        """Let the registry accept only tokens given from now on."""
        with self.lock:
            self.valid = {f"used-{number}" for number in range(len(self.valid))}

    def queries(self) -> list[dict[str, list[str]]]:
        return [parse_qs(urlsplit(asked.target).query) for asked in self.server.asked("GET")]


def ask(client, bench, method: str = "GET", **kwargs) -> int:
    kwargs.setdefault("scopes", PULL)
    with client.send(Request(method, bench.url("/v2/apps/x"), **kwargs)) as answer:
        return answer.status


@pytest.mark.covers("R13", "R17")
def test_anonymous_tokens(bench) -> None:
    tokens = TokenServer(bench)
    client = bench.client()
    for _ in range(3):
        assert ask(client, bench) == 200
    assert len(bench.server.log) == 4, "one refusal, then the token is known"
    assert tokens.queries() == [{"service": ["reg"], "scope": ["repository:apps:pull"]}]
    assert "authorization" not in tokens.server.log[0].headers


@pytest.mark.covers("R13")
def test_the_challenged_scope_goes_first_and_actions_are_merged(bench) -> None:
    tokens = TokenServer(bench)
    client = bench.client(credential=LOGIN)
    scopes = ("repository:base:pull", *PUSH)
    assert ask(client, bench, scopes=scopes) == 200
    assert ask(client, bench, scopes=scopes) == 200
    assert tokens.queries() == [
        {"service": ["reg"], "scope": ["repository:apps:pull,push", "repository:base:pull"]},
    ]
    expected = "Basic " + base64.b64encode(b"user:hunter2secret").decode()
    assert tokens.server.log[0].headers["authorization"] == expected


@pytest.mark.covers("R12", "R13", "F28")
def test_a_challenge_without_service_and_scope_is_enough(bench) -> None:
    tokens = TokenServer(bench)
    tokens.challenge = f'Bearer realm="{tokens.realm}?account=x"'
    client = bench.client()
    assert ask(client, bench, scopes=()) == 200
    assert tokens.server.log[0].target == "/token?account=x"
    assert ask(client, bench) == 200
    assert tokens.queries()[1] == {"account": ["x"], "scope": list(PULL)}


@pytest.mark.covers("R14")
def test_scopes_have_tokens_of_their_own(bench) -> None:
    tokens = TokenServer(bench)
    client = bench.client()
    for scopes in (PULL, PUSH, PULL, PUSH):
        ask(client, bench, scopes=scopes)
    assert len(tokens.queries()) == 2


@pytest.mark.covers("R14")
def test_clients_share_tokens_of_the_same_login_only(bench) -> None:
    tokens = TokenServer(bench)
    shared = TokenCache(bench.time.time)
    for credential in (LOGIN, LOGIN, None, Credential("user", "other")):
        ask(bench.client(credential=credential, tokens=shared), bench)
    assert len(tokens.queries()) == 3


@pytest.mark.covers("R13", "F29")
@pytest.mark.parametrize(
    ("lifetime", "age", "fetched"),
    [
        (300, 260, 1),
        (300, 275, 2),
        (None, 25, 1),
        (None, 35, 2),
        (1, 0, 2),
        ("soon", 25, 1),
        (True, 25, 1),
        (-5, 25, 1),
        (1e12, 86000, 1),
        (1e12, 86400, 2),
        (10**400, 86000, 1),
        (float("nan"), 25, 1),
    ],
)
def test_tokens_are_renewed_before_they_expire(bench, lifetime: object, age: float, fetched: int) -> None:
    tokens = TokenServer(bench)
    tokens.lifetime = lifetime
    client = bench.client()
    ask(client, bench)
    bench.time.advance(age)
    ask(client, bench)
    assert len(tokens.queries()) == fetched


@pytest.mark.covers("R15")
def test_a_token_is_renewed_before_a_long_upload(bench) -> None:
    tokens = TokenServer(bench)
    client = bench.client(settings=TransportSettings(upload_rate=1000.0))
    blob = Blob.from_bytes(bytes(200_000))
    ask(client, bench, scopes=PUSH)
    bench.time.advance(100)
    assert ask(client, bench, "PUT", scopes=PUSH, body=blob, replay=False) == 200
    assert len(tokens.queries()) == 2, "200 s of sending do not fit into the 200 s that were left"
    assert ask(client, bench, "PUT", scopes=PUSH, body=blob, replay=False) == 200
    assert len(tokens.queries()) == 2, "a fresh token is not renewed"


@pytest.mark.covers("R15", "F30")
@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "PUT", "DELETE"])
def test_an_expired_token_costs_one_renewal_and_no_retry(bench, method: str) -> None:
    tokens = TokenServer(bench)
    client = bench.client()
    ask(client, bench)
    tokens.expire()
    body = None if method in ("GET", "DELETE") else Blob.from_bytes(b"data" * 100_000)
    assert ask(client, bench, method, body=body, replay=False) == 200
    assert len(tokens.queries()) == 2
    first, second = bench.server.asked(method)[-2:]
    assert first.digest == second.digest, "the body is sent again from its start"
    assert bench.time.slept == []


@pytest.mark.covers("R14", "F30")
def test_parallel_workers_renew_once(bench) -> None:
    tokens = TokenServer(bench)
    client = bench.client()
    ask(client, bench)
    tokens.expire()
    together = threading.Barrier(4)
    statuses: list[int] = []

    def work() -> None:
        together.wait(5)
        statuses.append(ask(client, bench))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 4
    assert len(tokens.queries()) == 2


@pytest.mark.covers("R15", "R43")
def test_a_second_refusal_is_an_error_that_says_who(bench) -> None:
    tokens = TokenServer(bench)
    bench.server.on("GET", "/v2/apps/x", Answer(401, b"", {"WWW-Authenticate": tokens.challenge}))
    with pytest.raises(AuthError, match=rf"pull apps: {bench.server.host} answered HTTP 401") as caught:
        ask(bench.client(credential=LOGIN), bench, operation="pull apps")
    assert "repository:apps:pull" in caught.value.message
    assert f"oci-binpkg login {bench.server.host}" in words(caught.value.hint)
    assert len(bench.server.log) == 2


@pytest.mark.covers("R16", "F32")
def test_insufficient_scope_is_asked_for_once(bench) -> None:
    tokens = TokenServer(bench)
    wider = f'Bearer realm="{tokens.realm}",scope="repository:apps:delete",error="insufficient_scope"'
    client = bench.client()
    ask(client, bench)
    bench.server.on("DELETE", "*", Answer(403, b"", {"WWW-Authenticate": wider}), Answer(202))
    assert ask(client, bench, "DELETE") == 202
    assert tokens.queries()[-1]["scope"] == ["repository:apps:delete,pull"]
    bench.server.on("DELETE", "*", Answer(403))
    with pytest.raises(DeniedError):
        ask(client, bench, "DELETE")
    assert len(tokens.queries()) == 2


@pytest.mark.covers("R16", "F33")
def test_a_probe_may_accept_401(bench) -> None:
    TokenServer(bench, challenge="Negotiate")
    assert ask(bench.client(), bench, "HEAD", accept=frozenset({401})) == 401
    tokens = TokenServer(bench)
    bench.server.on("HEAD", "*", Answer(401, b"", {"WWW-Authenticate": tokens.challenge}))
    assert ask(bench.client(), bench, "HEAD", accept=frozenset({401})) == 401
    tokens.server.on("GET", "/token", Answer(500))
    with pytest.raises(ServerError, match="get a token"):
        ask(bench.client(), bench, "HEAD", accept=frozenset({401}))


@pytest.mark.covers("R12", "F28")
@pytest.mark.parametrize(
    "challenge",
    ['Basic realm="x"', 'Negotiate, BASIC realm="x"', 'Bearer realm="http://10.0.0.1/token", Basic realm="x"'],
)
def test_basic(bench, challenge: str) -> None:
    expected = "Basic " + base64.b64encode(b"user:hunter2secret").decode()

    def serve(asked: Asked) -> Answer:
        known = asked.headers.get("authorization") == expected
        return Answer(200) if known else Answer(401, b"", {"WWW-Authenticate": challenge})

    bench.server.on("*", "*", serve)
    client = bench.client(credential=LOGIN)
    assert ask(client, bench) == 200
    assert ask(client, bench) == 200
    assert len(bench.server.log) == 3
    with pytest.raises(AuthError, match="asks for a login and none is known"):
        ask(bench.client(), bench)
    before = len(bench.server.log)
    wrong = bench.client(credential=Credential("user", "wrong-secret"))
    with pytest.raises(AuthError) as caught:
        ask(wrong, bench)
    with pytest.raises(AuthError, match="does not accept the login"):
        ask(wrong, bench)
    assert "secret" not in str(caught.value)
    assert len(bench.server.log) == before + 3, "a refused password is not tried again and again"


def test_a_helper_is_asked_again_when_its_password_is_refused(bench) -> None:
    class Rotating:
        passwords = iter(["old", "new"])

        def find(self, host: str, repository: str = "") -> Credential:
            assert (host, repository) == (bench.server.host, "apps")
            return Credential("AWS", next(self.passwords))

    expected = {"Basic " + base64.b64encode(b"AWS:old").decode()}

    def serve(asked: Asked) -> Answer:
        known = asked.headers.get("authorization") in expected
        return Answer(200) if known else Answer(401, b"", {"WWW-Authenticate": 'Basic realm="ecr"'})

    bench.server.on("*", "*", serve)
    client = bench.client(credentials=Rotating())
    assert ask(client, bench) == 200
    expected.clear()
    expected.add("Basic " + base64.b64encode(b"AWS:new").decode())
    assert ask(client, bench) == 200


@pytest.mark.covers("R18", "F28")
@pytest.mark.parametrize(
    ("challenge", "said"),
    [
        ("Negotiate", r"not usable \(negotiate\)"),
        ("", r"it names no scheme"),
        ('Bearer service="reg"', "no token server is named"),
        ('Bearer realm="http://192.168.0.1/token"', "inside this machine or a private network"),
        ('Bearer realm="https://169.254.169.254/"', "inside this machine or a private network"),
        ('Bearer realm="file:///token"', "not an http or https address"),
    ],
)
def test_challenges_that_cannot_be_answered(bench, challenge: str, said: str) -> None:
    bench.server.on("*", "*", Answer(401, b"", {"WWW-Authenticate": challenge}))
    with pytest.raises(AuthError, match=said):
        ask(bench.client(credential=LOGIN), bench)
    assert len(bench.server.log) == 1


@pytest.mark.covers("R18", "F28")
def test_a_plain_realm_of_an_https_registry_gets_no_password() -> None:
    from oci_binpkg.transport.addresses import Neighbours, Origin
    from oci_binpkg.transport.auth import Authenticator
    from oci_binpkg.transport.credentials import FixedCredential

    def fetch(request: Request):
        raise AssertionError("nothing may be sent")

    authenticator = Authenticator(
        Origin.parse("https://reg.example"),
        credentials=FixedCredential(LOGIN),
        neighbours=Neighbours(),
        fetch=fetch,
        tokens=TokenCache(FakeTime().time),
        time=FakeTime().time,
    )
    with pytest.raises(AuthError, match="it is plain http"):
        authenticator.renew(PULL, 'Bearer realm="http://auth.example/"', rejected="", operation="pull")


@pytest.mark.covers("R18", "F21")
def test_logins_stay_with_the_registry(bench) -> None:
    tokens = TokenServer(bench)
    cdn = bench.another()
    back = Answer(307, b"", {"Location": bench.url("/stored")})
    cdn.on("GET", "/blob", back)

    def serve(asked: Asked) -> Answer:
        if asked.path == "/stored":
            return Answer(200, b"fine")
        answer = tokens.serve(asked)
        return Answer(307, b"", {"Location": f"{cdn.origin}/blob"}) if answer.status == 200 else answer

    bench.server.on("*", "*", serve)
    assert ask(bench.client(credential=LOGIN), bench) == 200
    assert "authorization" in bench.server.asked(path="/v2/apps/x")[-1].headers
    assert "authorization" not in cdn.log[0].headers
    assert "authorization" not in bench.server.asked(path="/stored")[0].headers, "once away, the login stays away"


@pytest.mark.covers("R18")
def test_other_origins_are_asked_without_login(bench) -> None:
    TokenServer(bench)
    upload = bench.another()
    upload.on("PUT", "/upload", Answer(201))
    client = bench.client(credential=LOGIN)
    ask(client, bench, scopes=PUSH)
    with client.send(Request("PUT", f"{upload.origin}/upload", body=b"data", scopes=PUSH)):
        pass
    assert "authorization" not in upload.log[0].headers
    upload.on("PUT", "/upload", Answer(401, b"", {"WWW-Authenticate": f'Basic realm="{upload.origin}"'}))
    with pytest.raises(ServerError, match="HTTP 401"):
        client.send(Request("PUT", f"{upload.origin}/upload", body=b"data", scopes=PUSH))
    assert all("authorization" not in asked.headers for asked in upload.log)


# --- what token servers answer --------------------------------------------------------------------------------------


@pytest.mark.covers("R13", "F29")
def test_access_token_and_troubles_that_pass(bench) -> None:
    tokens = TokenServer(bench)
    tokens.valid = {"abc"}
    tokens.server.on("GET", "/token", Answer(500), Answer(503), Answer(200, b'{"access_token": "abc"}'))
    assert ask(bench.client(), bench) == 200
    assert len(bench.time.slept) == 2


@pytest.mark.covers("F29", "R10")
@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Answer(200, b"<html>"), ServerError),
        (Answer(200, b"{}"), ServerError),
        (Answer(200, b"[1]"), ServerError),
        (Answer(200, b'{"token": 5}'), ServerError),
        (Answer(200, b'{"token": "a\\r\\nX-Injected: 1"}'), ServerError),
        (Answer(200, b" " * 100_000), ContentError),
        (Answer(401, b'{"details": "incorrect username or password"}'), AuthError),
        (Answer(403), DeniedError),
        (Answer(drop=True), NetworkError),
    ],
)
def test_token_servers_that_give_none(bench, answer: Answer, kind: type[Exception]) -> None:
    tokens = TokenServer(bench)
    tokens.server.on("GET", "/token", answer)
    with pytest.raises(kind) as caught:
        ask(bench.client(credential=LOGIN), bench)
    assert "hunter2" not in str(caught.value)
    assert len(bench.server.log) == 1, "a failed token request is not multiplied by retries of the request itself"


@pytest.mark.covers("R13", "F29")
def test_identity_tokens_are_traded_by_oauth(bench) -> None:
    tokens = TokenServer(bench)
    tokens.valid = {"abc"}
    tokens.server.on("POST", "/token", Answer(200, b'{"access_token": "abc"}'))
    assert ask(bench.client(credential=Credential(identity_token="id+secret")), bench) == 200
    asked = tokens.server.log[0]
    assert asked.headers["content-type"] == "application/x-www-form-urlencoded"
    assert parse_qs(asked.body.decode()) == {
        "grant_type": ["refresh_token"],
        "client_id": ["oci-binpkg"],
        "service": ["reg"],
        "scope": ["repository:apps:pull"],
        "refresh_token": ["id+secret"],
    }
    assert "secret" not in asked.target


@pytest.mark.covers("R13", "F29")
@pytest.mark.parametrize("status", [404, 405])
def test_identity_tokens_where_only_get_is_known(bench, status: int) -> None:
    tokens = TokenServer(bench)
    tokens.server.on("POST", "/token", Answer(status))
    assert ask(bench.client(credential=Credential(identity_token="id-secret")), bench) == 200
    expected = "Basic " + base64.b64encode(b"<token>:id-secret").decode()
    assert tokens.server.asked("GET")[0].headers["authorization"] == expected


@pytest.mark.covers("R18")
def test_identity_tokens_follow_no_redirect(bench) -> None:
    tokens = TokenServer(bench)
    thief = bench.another()
    tokens.server.on("POST", "/token", Answer(307, b"", {"Location": f"{thief.origin}/token"}))
    with pytest.raises(ServerError):
        ask(bench.client(credential=Credential(identity_token="id-secret")), bench)
    assert thief.log == []


@pytest.mark.covers("R18")
def test_passwords_follow_no_redirect(bench) -> None:
    tokens = TokenServer(bench)
    other = bench.another()
    tokens.valid = {"abc"}
    tokens.server.on("GET", "/token", Answer(307, b"", {"Location": f"{other.origin}/token"}))
    other.on("GET", "/token", Answer(200, b'{"token": "abc"}'))
    assert ask(bench.client(credential=LOGIN), bench) == 200
    assert "authorization" in tokens.server.log[0].headers
    assert "authorization" not in other.log[0].headers


@pytest.mark.covers("R17")
def test_registry_tokens_are_sent_as_they_are(bench) -> None:
    tokens = TokenServer(bench)
    tokens.valid = {"ready"}
    client = bench.client(credential=Credential(registry_token="ready"))
    assert ask(client, bench) == 200
    tokens.valid = set()
    with pytest.raises(AuthError, match="does not accept the login"):
        ask(client, bench)
    assert tokens.server.log == []


@pytest.mark.covers("R11")
def test_secrets_echoed_by_a_server_are_not_shown(bench) -> None:
    tokens = TokenServer(bench)
    echo = b"you sent hunter2secret and token-1-secret, see https://s.example/?sig=abc"

    def serve(asked: Asked) -> Answer:
        answer = tokens.serve(asked)
        return Answer(400, echo, {"Warning": '299 - "hunter2secret"'}) if answer.status == 200 else answer

    bench.server.on("*", "*", serve)
    with pytest.raises(ServerError) as caught:
        ask(bench.client(credential=LOGIN), bench)
    assert "you sent *** and ***, see https://s.example/?sig=***" in caught.value.message
    assert "hunter2secret" not in repr(bench.events)


def test_tokens_do_not_show_their_value() -> None:
    assert "secret" not in repr(Token("secret", 0.0, 60.0))


def test_a_failed_request_for_a_token_leaves_the_cache_usable() -> None:
    cache = TokenCache(FakeTime().time)
    key = TokenKey("r", "realm", "", frozenset(), "")

    def broken() -> Token:
        raise NetworkError("down")

    with pytest.raises(NetworkError):
        cache.get(key, broken)
    assert cache.get(key, lambda: Token("t", 1000.0, 60.0)).value == "t"
