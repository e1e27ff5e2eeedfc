"""Nothing secret is told, kept or sent where it does not belong: canaries, and a look at everything that they could reach.

A canary is a secret that is like nothing else, so that finding it, plain or encoded, is a leak. The one file that may
hold a login is the credential file, and only after `login`.
"""

from __future__ import annotations

import base64
import json
import subprocess
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from proxy.log import Log, Logged
from proxy.profiles import PROFILES, Profile, Standing, standing
from proxy.quirks import COMMIT, MANIFEST
from proxy.rules import Action, Answer, Asked, Rule, refusal
from proxy.server import FaultProxy

from oci_binpkg.store import upload
from tests.support.command_line import Ended, binpkg
from tests.support.golden import GOLDEN
from tests.support.real.registry import RealRegistry
from tests.support.spack_trees import Sketch, spack_tree

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

USER = "canary-user"
PASSWORD = "CANARY/pass+w=rd&0123456789"
KEY_SECRET = "CANARY/s3+secret=0123456789"
SESSION_TOKEN = "CANARY/s3+session=9876543210"
URL_PASSWORD = "CANARYinurl0123456789"
FAST = {"OCI_BINPKG_RETRIES": "1", "OCI_BINPKG_TIMEOUT": "20"}


def forms(secret: str, user: str = "") -> set[str]:
    """Return how a secret may look: plain, quoted, in JSON, in base64 alone and behind its user, at any offset."""
    found = {secret, quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1], secret.encode().hex()}
    for before in ("", "x", "xx", f"{user}:"):
        encoded = base64.b64encode(f"{before}{secret}".encode()).decode()
        # the outer characters also hold bits of what stands before and behind
        core = encoded[4 if before else 0 : -4]
        found |= {core, core.replace("+", "-").replace("/", "_"), quote(core, safe="")}
    return found


@dataclass
class Watch:
    """What must not be found, and where it was looked for."""

    home: Path
    folders: list[Path]
    secrets: dict[str, str] = field(default_factory=dict)
    arguments: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def run(self, *arguments: object, stdin: str = "") -> Ended:
        """Run a command; an exception that nobody expected is told with everything that hangs on it."""
        try:
            ended = binpkg(*arguments, stdin=stdin)
        except Exception as error:  # noqa: BLE001 - a bug would be shown to the user as a traceback
            self.told += ["".join(traceback.format_exception(error)), repr(error)]
            ended = Ended(70, "", str(error))
        self.told += [ended.out, ended.err]
        return ended

    def leaks(self, *, allowed: Path | None = None) -> list[str]:
        """Return what was found where."""
        places = {f"told {n}": text for n, text in enumerate(self.told)}
        places |= {f"argument {n}": text for n, text in enumerate(self.arguments)}
        for folder in (self.home, *self.folders):
            for path in folder.rglob("*"):
                if path.is_file() and path != allowed:
                    places[str(path)] = path.read_bytes().decode("latin-1")
                places[f"name of {path}"] = str(path)
        wanted = {form: name for name, secret in self.secrets.items() for form in forms(secret, USER)}
        return [f"{name} in {place}" for place, text in places.items() for form, name in wanted.items() if form in text]


def seen_secrets(entries: list[Logged], secrets: dict[str, str]) -> list[str]:
    """Return which requests hold a secret in their address or a header (their Authorization is judged by itself)."""
    texts = [(one, f"{one.target}\n{json.dumps(dict(one.headers))}") for one in entries]
    wanted = {form: name for name, secret in secrets.items() for form in forms(secret, USER)}
    return [
        f"{name}: {one.role} {one.method} {one.path}"
        for one, text in texts
        for form, name in wanted.items()
        if form in text
    ]


@pytest.fixture
def watch(isolated_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Listen to every program that is started, and look into the home and the test's own folder."""
    made = Watch(isolated_home, [tmp_path])
    real = subprocess.Popen.__init__

    def listening(self: subprocess.Popen[bytes], args: object, *rest: object, **more: object) -> None:
        made.arguments += [str(one) for one in args] if isinstance(args, list | tuple) else [str(args)]
        real(self, args, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(subprocess.Popen, "__init__", listening)
    for name, value in FAST.items():
        monkeypatch.setenv(name, value)
    return made


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    sketches = [
        Sketch("zlib", "1.3", files={"lib/z.pc": "prefix={prefix}\n"}, explicit=False),
        Sketch("app", "2.0", files={"bin/app": "#!/bin/sh\ncat {zlib}/lib/z.pc\n"}, depends=["zlib"]),
    ]
    return spack_tree(tmp_path / "tree", sketches).root


@pytest.fixture(params=PROFILES)
def stage(request: pytest.FixtureRequest, plain_registry: RealRegistry) -> Iterator[tuple[str, Profile, Standing]]:
    profile = PROFILES[request.param]
    repositories = (f"canary/{request.param}", f"canary/{request.param}-copy")
    with standing(
        profile, plain_registry.url, users={USER: PASSWORD}, repositories=repositories, wait=1, page=2
    ) as played:
        yield request.param, profile, played


def test_logins_stay_where_they_belong(
    stage: tuple[str, Profile, Standing], watch: Watch, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Login, push, pushes that fail, install and copy: no trace of password or tokens but in the credential file."""
    name, profile, played = stage
    cache = f"oci://{played.proxy.host}/canary/{name}"
    watch.secrets["password"] = PASSWORD
    kept = watch.home / ".docker" / "config.json"
    wrong = watch.run("login", played.proxy.host, "-u", USER, "--password-stdin", stdin=f"{PASSWORD}x\n")
    assert (wrong.code == 0) is (not profile.login)
    assert kept.exists() is (not profile.login)
    watch.run("logout", played.proxy.host)
    assert watch.run("login", played.proxy.host, "-u", USER, "--password-stdin", stdin=f"{PASSWORD}\n").code == 0
    ((entry),) = json.loads(kept.read_text())["auths"].values()
    assert base64.b64decode(entry["auth"]).decode() == f"{USER}:{PASSWORD}", "the one place where it is"
    assert kept.stat().st_mode & 0o077 == 0

    _use_all(watch, played, cache, tree, tmp_path, monkeypatch)

    tokens = played.tokens.issued if played.tokens else []
    assert bool(tokens) is (profile.login == "bearer")
    watch.secrets |= {f"token {n}": token.value for n, token in enumerate(tokens)}
    assert watch.leaks(allowed=kept) == []
    _judge_requests(played, profile, watch)
    assert watch.run("logout", played.proxy.host).code == 0
    assert watch.leaks() == [], "nor is anything left after logout"


def _use_all(watch: Watch, played: Standing, cache: str, tree: Path, tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
    """Push, install and copy, well and with refusals that repeat what they were sent."""
    assert watch.run("push", cache, "--store", tree, "--update-index", "--json").code == 0
    assert watch.run("find", "--from", cache, "--json").code == 0
    assert watch.run("copy", cache, f"{cache}-copy", "--json").code == 0
    assert watch.run("install", "app", "--from", cache, "--store", tmp_path / "new", "--json").code == 0
    patch.setenv("OCI_BINPKG_RETRIES", "0")
    for status in (401, 403, 500):
        answer = _echoing(status)
        played.proxy.add(Rule(Action(answer=answer), "PUT", f"{COMMIT}|{MANIFEST}", times=2))
        played.proxy.add(Rule(Action(answer=answer), "GET", f"{MANIFEST}|/blobs/", times=2))
        watch.run("push", cache, "--store", tree, "--force", "--json")
        watch.run("install", "app", "--from", cache, "--store", tmp_path / f"bad{status}")
        watch.run("copy", cache, f"oci-layout:{tmp_path}/copy{status}", "--json")


def _echoing(status: int) -> object:
    """Return a refusal whose text holds the login it was sent."""

    def answer(asked: Asked) -> Answer:
        login = asked.headers.get("authorization", "")
        challenge = (("WWW-Authenticate", 'Basic realm="x"'),) if status == 401 else ()
        warning = (("Warning", f'299 - "you sent {login}"'),)
        return refusal(status, "DENIED", f"{login} {login.partition(' ')[2]} may not", (*challenge, *warning))

    return answer


def _judge_requests(played: Standing, profile: Profile, watch: Watch) -> None:
    entries = played.log.seen()
    assert seen_secrets(entries, watch.secrets) == []
    assert all(not one.authorization for one in entries if one.role == "storage")
    if profile.login == "bearer":
        realm = [one for one in entries if one.path == profile.realm]
        assert {one.authorization.partition(" ")[0] for one in realm} <= {"", "Basic"}
        assert {one.role for one in realm} == {"registry" if profile.own_realm else "tokens"}
        others = [one for one in entries if one.role == "registry" and one.path != profile.realm]
        assert {one.authorization.partition(" ")[0] for one in others} <= {"", "Bearer"}, (
            "the password is not for these"
        )


def test_identity_tokens_go_to_the_token_server_only(
    plain_registry: RealRegistry, watch: Watch, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A login that is an identity token is sent in a body to the token server, and told to nobody."""
    with standing(PROFILES["docker-hub"], plain_registry.url, users={USER: PASSWORD}, wait=1) as played:
        assert played.tokens is not None
        identity = played.tokens.identity_token(USER)
        kept = watch.home / ".docker" / "config.json"
        kept.parent.mkdir()
        kept.write_text(json.dumps({"auths": {played.proxy.host: {"identitytoken": identity}}}))
        kept.chmod(0o600)
        _use_all(watch, played, f"oci://{played.proxy.host}/canary/identity", tree, tmp_path, monkeypatch)
        watch.secrets = {"identity token": identity}
        watch.secrets |= {f"token {n}": token.value for n, token in enumerate(played.tokens.issued)}
        assert {token.way for token in played.tokens.issued} == {"POST"}
        assert watch.leaks(allowed=kept) == []
        assert seen_secrets(played.log.seen(), watch.secrets) == []
        assert all(not one.authorization for one in played.log.seen(role="tokens"))


@pytest.mark.parametrize("wrong", [False, True])
def test_credential_helpers_get_secrets_by_their_input(
    plain_registry: RealRegistry, watch: Watch, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: bool
) -> None:
    """A helper is asked with the host, and given a login to keep, on its standard input; arguments are for all to see."""
    folder = tmp_path.parent / f"{tmp_path.name}-helper"
    folder.mkdir()
    said = PASSWORD + ("x" if wrong else "")
    script = folder / "docker-credential-canary"
    script.write_text(
        "#!/bin/sh\ntr '\\0' ' ' < /proc/$$/cmdline >> "
        f"{folder}/arguments\n"
        'case "$1" in\n'
        f"get) cat > /dev/null; echo '{json.dumps({'Username': USER, 'Secret': said})}';;\n"
        f"store) cat > {folder}/stored;;\nesac\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    (watch.home / ".docker").mkdir()
    (watch.home / ".docker" / "config.json").write_text('{"credsStore": "canary"}')
    watch.secrets = {"password": PASSWORD}
    with standing(PROFILES["artifactory"], plain_registry.url, users={USER: PASSWORD}, wait=1) as played:
        cache = f"oci://{played.proxy.host}/canary/helper-{str(wrong).lower()}"
        watch.run("login", played.proxy.host, "-u", USER, "--password-stdin", stdin=f"{PASSWORD}\n")
        assert PASSWORD in json.loads((folder / "stored").read_text())["Secret"]
        ended = watch.run("push", cache, "--store", tree, "--json")
        assert (ended.code == 0) is not wrong
    watch.told.append((folder / "arguments").read_text())
    assert any("docker-credential-canary" in one for one in watch.arguments)
    assert watch.leaks() == []


def test_a_crash_shows_no_secret(
    plain_registry: RealRegistry, watch: Watch, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug in the middle of an upload ends in a traceback, and that shows no login."""
    with standing(PROFILES["gitlab"], plain_registry.url, users={USER: PASSWORD}, wait=1) as played:
        watch.run("login", played.proxy.host, "-u", USER, "--password-stdin", stdin=f"{PASSWORD}\n")

        def broken(*given: object) -> None:
            raise RuntimeError(f"unforeseen: {given!r}")

        monkeypatch.setattr(upload.Uploader, "_commit", broken)
        ended = watch.run("push", f"oci://{played.proxy.host}/canary/crash", "--store", tree)
        assert ended.code != 0
        assert "unforeseen" in "".join(watch.told)
        assert played.tokens is not None
        watch.secrets = {"password": PASSWORD}
        watch.secrets |= {f"token {n}": token.value for n, token in enumerate(played.tokens.issued)}
        assert watch.leaks(allowed=watch.home / ".docker" / "config.json") == []


@pytest.mark.parametrize("status", [200, 401, 403, 500])
@pytest.mark.parametrize("kind", ["mirror", "s3"])
def test_logins_of_mirrors(
    watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, status: int
) -> None:
    """Logins that a configuration names by variables: for a web mirror, and for a bucket whose answers repeat them."""
    log = Log()
    with FaultProxy(role=kind, log=log) as server, FaultProxy(role="elsewhere", log=log) as elsewhere:
        elsewhere.add(Rule(Action(answer=Answer(404)), times=0))

        def answer(asked: Asked) -> Answer:
            if status == 200:
                return Answer(307, (("Location", f"{elsewhere.url}{asked.path}"),))
            echoed = f"{asked.headers.get('authorization', '')} {asked.headers.get('x-amz-security-token', '')}"
            return Answer(status, (("WWW-Authenticate", 'Basic realm="x"'),), echoed.encode())

        server.add(Rule(Action(answer=_wanting_login(answer, kind)), times=0))
        address = {"mirror": f'url = "{server.url}/m"', "s3": f'url = "s3://apps"\nendpoint_url = "{server.url}"'}[kind]
        token = 'access_token_variable = "LAB_TOKEN"\n' if kind == "s3" else ""
        text = (
            f'[caches.lab]\n{address}\naccess_key_id_variable = "LAB_ID"\naccess_key_secret_variable = "LAB_SECRET"\n'
        )
        config = watch.home / ".config" / "oci-binpkg" / "config.toml"
        config.parent.mkdir(parents=True)
        config.write_text(text + token)
        secrets = {"LAB_ID": USER, "LAB_SECRET": KEY_SECRET, "LAB_TOKEN": SESSION_TOKEN}
        for name, value in {**secrets, "AWS_DEFAULT_REGION": "us-east-1", "AWS_MAX_ATTEMPTS": "1"}.items():
            monkeypatch.setenv(name, value)
        watch.secrets = {"secret": KEY_SECRET, "session token": SESSION_TOKEN}
        for arguments in (
            ("find", "--from", "lab", "--json"),
            ("install", "greetcfg", "--from", "lab", "--store", tmp_path / "s", "--no-check-signature"),
            ("copy", f"file://{GOLDEN / 'v3-unsigned'}", "lab", "--no-check-signature", "--unsigned", "--json"),
            ("mirror", "list", "--json"),
        ):
            watch.run(*arguments)
        assert [one for one in log.seen(role=kind) if one.authorization], "the login is used where it belongs"
        assert watch.leaks() == []
        assert seen_secrets(log.seen(role="elsewhere"), watch.secrets) == []
        assert all(not one.authorization for one in log.seen(role="elsewhere"))


def _wanting_login(answer: object, kind: str) -> object:
    """Ask a web client for its login first; S3 signs every request unasked."""

    def checked(asked: Asked) -> Answer:
        if kind == "mirror" and "authorization" not in asked.headers:
            return Answer(401, (("WWW-Authenticate", 'Basic realm="x"'),))
        return answer(asked)  # type: ignore[operator]

    return checked


@pytest.mark.parametrize("scheme", ["http", "https", "oci", "oci+http", "s3"])
@pytest.mark.parametrize("configured", [False, True])
def test_a_login_in_an_address(watch: Watch, tmp_path: Path, scheme: str, configured: bool) -> None:
    """An address with a login in it is refused, or used, without being repeated."""
    watch.secrets = {"password in the address": URL_PASSWORD}
    address = f"{scheme}://{USER}:{URL_PASSWORD}@127.0.0.1:9/m"
    allowed = None
    if configured:
        allowed = watch.home / ".config" / "oci-binpkg" / "config.toml"
        allowed.parent.mkdir(parents=True)
        allowed.write_text(f'[caches.lab]\nurl = "{address}"\n')
        address = "lab"
    for arguments in (
        ("find", "--from", address, "--json"),
        ("install", "greet", "--from", address, "--store", tmp_path / "s"),
        ("copy", address, f"oci-layout:{tmp_path}/layout", "--json"),
        ("mirror", "list", "--json"),
    ):
        watch.run(*arguments)
    assert watch.leaks(allowed=allowed) == []
