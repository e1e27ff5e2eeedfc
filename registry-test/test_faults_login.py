"""F28 to F33: challenges, token servers, logins that end and logins that do not suffice."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest
from fault_bench import (
    BLOB,
    COMMIT,
    MANIFEST,
    MIB,
    TAGS,
    UPLOAD,
    USER,
    Action,
    Answer,
    FaultBench,
    Rule,
    layer,
    refusal,
)
from proxy.profiles import DEFAULT_USERS
from proxy.rules import Asked
from proxy.tokens import basic_gate

from oci_binpkg.errors import AuthError, BinpkgError, DeniedError, NotFoundError, ServerError
from oci_binpkg.transport.credentials import Credential
from oci_binpkg.transport.http import Request
from tests.support.command_line import binpkg
from tests.support.self_signed import Certificates
from tests.support.spack_trees import Sketch, spack_tree

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]

HOST = "registry.example"
JSON = (("Content-Type", "application/json"),)


def challenge(bench: FaultBench, text: str) -> None:
    """Replace the challenge of every 401."""

    def edit(_asked: Asked, answer: Answer) -> Answer:
        return answer.with_headers(WWW_Authenticate=text) if answer.status == 401 else answer

    bench.on(Action(edit=edit), times=0)


@pytest.mark.parametrize("offer", ['Basic realm="x"', 'Negotiate, Basic realm="x"', "Basic"])
def test_F28_challenges_basic(bench: FaultBench, offer: str) -> None:
    """A challenge for Basic, also after one for Negotiate -> the login as Basic."""
    bench.proxy.keep_login = False
    bench.on(Action(answer=basic_gate(DEFAULT_USERS, "x")), times=0)
    challenge(bench, offer)
    bench.placed(layer())
    assert bench.store(client=bench.client(credential=USER)).exists(layer().descriptor)
    assert [one.authorization.partition(" ")[0] for one in bench.seen()] == ["", "Basic"]


@pytest.mark.parametrize(
    ("offer", "said"),
    [
        ('Bearer realm="{realm}",service="s", Basic realm="x"', ""),
        ('Basic realm="x", Bearer realm="{realm}"', ""),
        ('Negotiate, Bearer realm="{realm}"', ""),
        ('Bearer service="s"', "no token server is named"),
        ('Bearer realm="{plain}"', "plain http"),
        ('Bearer realm="https://10.0.0.1/token"', "private network"),
    ],
)
def test_F28_challenges(
    bench: FaultBench, certificates: Certificates, monkeypatch: pytest.MonkeyPatch, offer: str, said: str
) -> None:
    """Bearer beside Basic or after Negotiate -> Bearer. No realm, a realm in plain http for a registry with TLS, a realm
    at a private address -> refused; no password leaves.
    """
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *rest, **more: real("127.0.0.1" if host == HOST else host, *rest, **more)
    )
    certificate = certificates.make("named", f"DNS:{HOST}")
    tls = certificates.context(certificate)
    bench.proxy = bench.another("registry", bench.registry.url, tls=tls)
    plain = bench.ask_for_tokens()
    realm = bench.another("realm", tls=tls)
    assert bench.tokens is not None
    realm.add(Rule(Action(answer=bench.tokens.give), times=0))
    port, plain_port = realm.host.partition(":")[2], plain.host.partition(":")[2]
    challenge(bench, offer.format(realm=f"https://{HOST}:{port}/token", plain=f"http://{HOST}:{plain_port}/token"))
    origin = f"https://{HOST}:{bench.proxy.host.partition(':')[2]}"
    client = bench.client(origin, credential=USER, ca_file=str(certificate))
    scopes = (f"repository:{bench.name}:pull",)
    ask = Request("GET", f"{origin}/v2/{bench.name}/tags/list", scopes=scopes, accept=frozenset({404}))
    if said:
        with pytest.raises(AuthError, match=said):
            client.send(ask)
        assert len(bench.seen()) == 1
        assert bench.seen()[0].authorization == ""
    else:
        client.send(ask).close()
        assert [one.authorization.partition(" ")[0] for one in bench.seen()] == ["", "Basic", "Bearer"]


@pytest.mark.parametrize(
    ("policy", "fetched"),
    [
        ({"names": ("access_token",)}, 1),
        ({"told": None}, 1),
        ({"told": 1}, 3),
        ({"told": "soon"}, 1),
        ({"told": -5}, 1),
    ],
)
def test_F29_token_server_odd(bench: FaultBench, policy: dict[str, object], fetched: int) -> None:
    """A token server that says only `access_token`, or no `expires_in`, or one that is nonsense -> works, with a
    lifetime of 60 s; `expires_in` of 1 -> a new token for each request.
    """
    bench.ask_for_tokens(**policy)
    bench.placed(layer())
    store = bench.store(client=bench.client(credential=USER))
    for seed in (2, 3, 4):
        assert not store.exists(layer(seed=seed).descriptor)
    assert bench.tokens is not None
    assert len(bench.tokens.issued) == fetched
    assert {token.user for token in bench.tokens.issued} == {"user"}


ENDLESS = Answer(200, (*JSON, ("Content-Length", str(1024 * MIB))), bytes(MIB))


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Answer(500), None),
        (Answer(200, (("Content-Type", "text/html"),), b"<html>log in</html>"), ServerError),
        (Answer(200, JSON, b"{}"), ServerError),
        (ENDLESS, BinpkgError),
    ],
)
def test_F29_token_server_broken(bench: FaultBench, answer: Answer, error: type[BinpkgError] | None) -> None:
    """A token server that fails twice -> tried again. HTML, `{}`, a gigabyte -> a bounded error; the password goes to
    no other host.
    """
    server = bench.ask_for_tokens()
    server.clear()
    bench.proxy.log.forget()
    assert bench.tokens is not None
    server.add(
        Rule(Action(answer=answer, stall=answer is ENDLESS, cut_after=MIB if answer is ENDLESS else -1), times=2)
    )
    server.add(Rule(Action(answer=bench.tokens.give), times=0))
    store = bench.store(client=bench.client(credential=USER))
    if error is None:
        assert not store.exists(layer().descriptor)
        assert len(bench.seen(role="tokens")) == 3
    else:
        with pytest.raises(error) as caught:
            store.exists(layer().descriptor)
        assert "secret" not in str(caught.value)
        assert len(str(caught.value)) < 500
        assert len(bench.seen(role="tokens")) == 1


def test_F29_token_server_redirects(bench: FaultBench) -> None:
    """A token server that sends on to another host -> that host does not get the password."""
    server = bench.ask_for_tokens()
    server.clear()
    elsewhere = bench.another("elsewhere")
    elsewhere.add(Rule(Action(answer=Answer(401)), times=0))
    server.add(Rule(Action(answer=Answer(307, (("Location", f"{elsewhere.url}/token"),))), times=0))
    with pytest.raises(BinpkgError):
        bench.store(client=bench.client(credential=USER)).exists(layer().descriptor)
    assert [one.authorization for one in bench.seen(role="elsewhere")] == [""]


def test_F29_token_server_without_oauth(bench: FaultBench) -> None:
    """404 to the OAuth2 POST of an identity token -> the same token by GET."""
    bench.ask_for_tokens(post=False)
    assert bench.tokens is not None
    kept = Credential("", identity_token=bench.tokens.identity_token("user"))
    assert not bench.store(client=bench.client(credential=kept)).exists(layer().descriptor)
    assert [one.method for one in bench.seen(role="tokens")] == ["POST", "GET"]
    assert [token.user for token in bench.tokens.issued] == ["user"]


@pytest.mark.parametrize(
    ("method", "path"), [("POST", UPLOAD), ("PUT", COMMIT), ("PUT", MANIFEST), ("HEAD", MANIFEST), ("GET", TAGS)]
)
def test_F30_token_ends(bench: FaultBench, method: str, path: str) -> None:
    """The token is over at any step, or noticed only after the whole body -> one new token, the body sent again whole,
    success without a wait.
    """
    bench.ask_for_tokens()
    tokens = bench.tokens
    assert tokens is not None
    store = bench.store(client=bench.client(credential=USER), page_size=1)
    bench.pushed(store, "0.9")
    given = len(tokens.issued)
    bench.on(Action(prepare=tokens.revoke), method, path)
    bench.log.forget()
    manifest = bench.pushed(store, "1.0", size=70_000)
    assert sorted(store.tags()) == ["0.9", "1.0"]
    assert store.head("1.0") == manifest.descriptor
    assert len(tokens.issued) - given == 1
    refused = [one for one in bench.seen(role="registry") if one.status == 401]
    assert [(one.method, bool(one.authorization)) for one in refused] == [(method, True)]
    again = [one for one in bench.seen(method, path, "registry") if one.target == refused[0].target]
    assert {(one.length, one.sha256) for one in again} == {(refused[0].length, refused[0].sha256)}
    assert bench.time.slept == []


def test_F30_token_ends_for_all_workers(bench: FaultBench) -> None:
    """The token of eight workers is over at once -> exactly one more token for all of them."""
    bench.ask_for_tokens()
    tokens = bench.tokens
    assert tokens is not None
    client = bench.client(credential=USER)
    store = bench.store(client=client)
    store.put(layer(seed=99))
    tokens.forget()
    given, ready = len(tokens.issued), threading.Barrier(8)

    def work(seed: int) -> None:
        ready.wait()
        store.put(layer(30_000, seed))

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(tokens.issued) - given == 1
    assert all(bench.holds(layer(30_000, seed)) for seed in range(8))


@pytest.mark.parametrize("status", [401, 413, 403, 0])
def test_F31_early_answer(bench: FaultBench, status: int) -> None:
    """401, 413 or 403 while the body is still on its way -> obeyed: login renewed, sent in chunks, an error. A reset ->
    nobody knows, so the blob is looked for and sent anew.
    """
    blob = layer(6 * MIB)
    bench.ask_for_tokens()
    store = bench.store(client=bench.client(credential=USER))
    store.put(layer())
    bench.log.forget()
    tokens = bench.tokens
    assert tokens is not None
    if status == 401:
        bench.on(Action(prepare=lambda _asked: tokens.forget(), read_only=100_000), "PUT", COMMIT)
    elif status:
        bench.on(Action(answer=refusal(status, "DENIED"), read_only=100_000), "PUT", COMMIT)
    else:
        bench.on(Action(forward=False, drop=True, reset=True, read_only=100_000), "PUT", COMMIT)

    if status == 403:
        with pytest.raises(DeniedError):
            store.put(blob)
        assert bench.methods() == ["HEAD", "POST", "PUT", "DELETE"]
        return
    assert store.put(blob)
    assert bench.holds(blob)
    puts = bench.seen("PUT", COMMIT)
    assert 100_000 <= puts[0].length < blob.descriptor.size
    if status == 413:
        assert [one.length for one in bench.seen("PATCH")] == [6 * MIB]
    else:
        assert (puts[1].length, puts[1].sha256) == (blob.descriptor.size, blob.descriptor.digest.hex)


def test_F32_wrong_scope(bench: FaultBench) -> None:
    """401 or 403 with `insufficient_scope` -> one more token with the scope that is asked for. A plain 403 -> final."""
    bench.ask_for_tokens()
    tokens = bench.tokens
    assert tokens is not None
    client = bench.client(credential=USER)
    reading = (f"repository:{bench.name}:pull",)
    post = bench.get("/blobs/uploads/", "POST", body=b"", scopes=reading)
    client.send(post).close()
    assert [one.asked for one in tokens.issued][-1] == (f"repository:{bench.name}:pull,push",)
    given = len(tokens.issued)
    bench.on(Action(answer=refusal(403, "DENIED")), "GET", TAGS, times=0)
    bench.log.forget()
    with pytest.raises(DeniedError, match=f"repository:{bench.name}:pull"):
        list(bench.store(client=client).tags())
    assert len(bench.seen("GET", TAGS)) == 1
    assert len(tokens.issued) - given <= 1


@pytest.mark.parametrize(("status", "code"), [(404, "NAME_UNKNOWN"), (403, "DENIED"), (401, "UNAUTHORIZED")])
def test_F33_missing_repository(bench: FaultBench, status: int, code: str, tmp_path: Path) -> None:
    """A repository that is not there: 404, 403 or 401 by registry -> a pull says that it is not there or not allowed; a
    push goes on where POST works, and names the way out where it does not.
    """
    answer = refusal(status, code, headers=(("WWW-Authenticate", 'Basic realm="x"'),) if status == 401 else ())
    bench.on(Action(answer=answer), "GET|HEAD", f"{MANIFEST}|{BLOB}|{TAGS}", times=0)
    with pytest.raises({404: NotFoundError, 403: DeniedError, 401: AuthError}[status]) as caught:
        bench.store().resolve("1.0")
    assert caught.value.hint
    assert len(bench.seen(path=MANIFEST)) == 1
    assert bench.store().put(layer())
    assert bench.holds(layer())
    if status == 404:
        bench.on(Action(answer=refusal(404, "NAME_UNKNOWN")), "POST", UPLOAD, times=0)
        tree = spack_tree(tmp_path / "store", [Sketch("zlib", files={"lib/z": "z"})])
        bench.log.forget()
        ended = binpkg("push", f"oci://{bench.proxy.host}/{bench.name}", "--store", tree.root)
        assert ended.code != 0
        assert "create the repository first" in ended.out + ended.err
        assert bench.seen("PUT") == []
