"""Nothing secret is told, kept or sent where it does not belong: canaries, and a look at everything that they could reach.

A canary is a secret that is like nothing else, so that finding it, plain or encoded, is a leak. The one file that may
hold a login is the credential file, and only after `login`.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from proxy.log import Log, Logged
from proxy.profiles import PROFILES, Profile, Standing, standing
from proxy.quirks import COMMIT, MANIFEST
from proxy.rules import Action, Answer, Asked, Rule, refusal
from proxy.server import FaultProxy

from oci_binpkg.store.registry import upload
from tests.support.command_line import Ended, binpkg
from tests.support.golden import GOLDEN
from tests.support.gpg_keys import Home, gpg_home
from tests.support.real.registry import RealRegistry
from tests.support.spack_trees import Sketch, spack_tree

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

USER = "canary-user"
PASSWORD = "CANARY/pass+w=rd&0123456789"
KEY_SECRET = "CANARY/s3+secret=0123456789"
SESSION_TOKEN = "CANARY/s3+session=9876543210"
URL_PASSWORD = "CANARYinurl0123456789"
PASSPHRASE = "CANARY pass-phrase/of+the=key 0123456789"
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
    environments: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    logged: int = 0
    given: Mapping[str, str] = field(default_factory=dict)

    def started(self, event: str, details: tuple[object, ...]) -> None:
        """Note a program that this process starts: its arguments, and what of its environment is not the user's own."""
        if event == "os.system":
            self.arguments.append(_text(details[0]))
            return
        arguments, environment = (details[1], details[3]) if event == "subprocess.Popen" else details[1:3]
        words = arguments if isinstance(arguments, list | tuple) else [arguments]
        self.arguments += [_text(word) for word in words]
        passed = environment if isinstance(environment, Mapping) else os.environ
        pairs = ((_text(name), _text(value)) for name, value in passed.items())
        self.environments += [f"{name}={value}" for name, value in pairs if self.given.get(name) != value]

    def run(self, *arguments: object, stdin: str = "") -> Ended:
        """Run a command; an exception that nobody expected is told with everything that hangs on it."""
        self.given = dict(os.environ)
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
        places |= {f"environment {n}": text for n, text in enumerate(self.environments)}
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


def _text(word: object) -> str:
    return os.fsdecode(word) if isinstance(word, bytes | os.PathLike) else str(word)


_STARTS = frozenset({"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn"})
_LISTENING: list[Watch] = []


def _hear(event: str, details: tuple[object, ...]) -> None:
    if event in _STARTS:
        for one in _LISTENING:
            one.started(event, details)


@pytest.fixture(scope="module")
def hook() -> None:
    """Hear of every way in which Python starts a program. Such a hook cannot be taken away again, only be idle."""
    sys.addaudithook(_hear)


class _Ear(logging.Handler):
    """Takes down all that is logged, as `--debug` shows it."""

    def __init__(self, watch: Watch) -> None:
        super().__init__(logging.DEBUG)
        self._watch = watch

    def emit(self, record: logging.LogRecord) -> None:
        self._watch.logged += 1
        self._watch.told.append(self.format(record))


@contextmanager
def heard(watch: Watch) -> Iterator[None]:
    """Listen to all that the package logs."""
    logger, ear = logging.getLogger("oci_binpkg"), _Ear(watch)
    before = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(ear)
    try:
        yield
    finally:
        logger.removeHandler(ear)
        logger.setLevel(before)


@pytest.fixture
def watch(hook: None, isolated_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """Listen to every program that is started, and look into the home and the test's own folder."""
    made = Watch(isolated_home, [tmp_path])
    for name, value in FAST.items():
        monkeypatch.setenv(name, value)
    _LISTENING.append(made)
    with heard(made):
        yield made
    _LISTENING.remove(made)


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
    assert watch.logged > 10, "what --debug shows was looked at, too"


def _use_all(watch: Watch, played: Standing, cache: str, tree: Path, tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
    """Push, install and copy, well and with refusals that repeat what they were sent."""
    assert watch.run("push", cache, "--store", tree, "--update-index", "--json").code == 0
    assert watch.run("find", "--from", cache, "--json").code == 0
    assert watch.run("copy", cache, f"{cache}-copy", "--json").code == 0
    assert watch.run("install", "app", "--from", cache, "--store", tmp_path / "new", "--json").code == 0
    patch.setenv("OCI_BINPKG_RETRIES", "0")
    for status in (401, 403, 500):
        answer = _echoing(status, asks=played.tokens is None)
        played.proxy.add(Rule(Action(answer=answer), "PUT", f"{COMMIT}|{MANIFEST}", times=2))
        played.proxy.add(Rule(Action(answer=answer), "GET", f"{MANIFEST}|/blobs/", times=2))
        watch.run("push", cache, "--store", tree, "--force", "--json")
        watch.run("install", "app", "--from", cache, "--store", tmp_path / f"bad{status}")
        watch.run("copy", cache, f"oci-layout:{tmp_path}/copy{status}", "--json")


def _echoing(status: int, *, asks: bool) -> Any:
    """Return a refusal whose text holds the login it was sent; a registry that `asks` for a password says so."""

    def answer(asked: Asked) -> Answer:
        login = asked.headers.get("authorization", "")
        challenge = (("WWW-Authenticate", 'Basic realm="x"'),) if status == 401 and asks else ()
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


@pytest.fixture
def locked(watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Home, str, Path]]:
    """A gpg of the user's with a key that has a passphrase; what the program that asks for it answers is in a file."""
    with gpg_home() as home:
        _LISTENING.remove(watch)  # what the test itself does with the passphrase is not ours
        key = home.make("locked", passphrase=PASSPHRASE)
        home.end()
        _LISTENING.append(watch)
        answer, script = Path(home.path, "answer"), Path(home.path, "pinentry")
        script.write_text(
            "#!/bin/sh\necho OK\nwhile read -r command rest; do\n"
            f'case $command in GETPIN) echo asked >> {home.path}/asked; echo "D $(cat {answer})";; esac\n'
            "echo OK\ndone\n"
        )
        script.chmod(0o755)
        with Path(home.path, "gpg-agent.conf").open("a") as file:
            file.write(f"pinentry-program {script}\n")
        monkeypatch.setenv("GNUPGHOME", home.path)
        yield home, key, answer


@pytest.mark.parametrize("wrong", [False, True])
def test_the_passphrase_of_a_key_is_between_the_user_and_gpg(
    plain_registry: RealRegistry, watch: Watch, locked: tuple[Home, str, Path], tree: Path, tmp_path: Path, wrong: bool
) -> None:
    """Signing pushes with a real gpg, whose agent asks for the passphrase: neither it nor the login is an argument, or
    in an environment, of any program.
    """
    home, key, answer = locked
    answer.write_text(PASSPHRASE + ("x" if wrong else ""))
    watch.secrets = {"password": PASSWORD, "passphrase": PASSPHRASE}
    kept = watch.home / ".docker" / "config.json"
    with standing(PROFILES["ghcr"], plain_registry.url, users={USER: PASSWORD}, wait=1) as played:
        cache = f"oci://{played.proxy.host}/canary/signed-{str(wrong).lower()}"
        assert watch.run("login", played.proxy.host, "-u", USER, "--password-stdin", stdin=f"{PASSWORD}\n").code == 0
        pushed = watch.run("push", cache, "--store", tree, "--key", key, "--update-index", "--json")
        assert (pushed.code == 0) is not wrong, pushed.err
        mirror = watch.run("push", f"file://{tmp_path}/mirror", "--store", tree, "--key", key, "--update-index")
        assert (mirror.code == 0) is not wrong, mirror.err
        watch.run("keys", "publish", f"file://{tmp_path}/mirror", "--key", key)
        watch.run("copy", cache, f"file://{tmp_path}/copy", "--key", key, "--no-check-signature", "--json")
        (tmp_path / "key.asc").write_bytes(home.public(key))
        assert watch.run("keys", "trust", tmp_path / "key.asc").code == 0
        new = tmp_path / "new"
        installed = watch.run("install", "app", "--from", cache, "--check-signature", "--store", new)
        assert (installed.code == 0) is not wrong, installed.err
        assert played.tokens is not None
        watch.secrets |= {f"token {n}": token.value for n, token in enumerate(played.tokens.issued)}
        assert seen_secrets(played.log.seen(), watch.secrets) == []
    assert Path(home.path, "asked").exists(), "gpg's agent asked for the passphrase"
    # a key that cannot sign is noticed at the first try, before there is anything to sign
    signs = {"--detach-sign", key} | (set() if wrong else {"--clearsign"})
    assert signs <= set(watch.arguments), "gpg signed, and its arguments were heard"
    assert watch.leaks(allowed=kept) == []


@pytest.mark.parametrize("kind", ["docker", "podman"])
def test_engines_are_not_told_the_login(
    request: pytest.FixtureRequest,
    plain_registry: RealRegistry,
    watch: Watch,
    tree: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    """An image from a registry with a login is loaded and run: the login is no argument of any program on the way."""
    watch.secrets = {"password": PASSWORD}
    engine = request.getfixturevalue(kind)
    monkeypatch.setenv("DOCKER_HOST" if kind == "docker" else "CONTAINER_HOST", engine.url)
    kept = watch.home / ".docker" / "config.json"
    with standing(PROFILES["harbor"], plain_registry.url, users={USER: PASSWORD}, wait=1) as played:
        cache = f"oci://{played.proxy.host}/canary/{kind}"
        assert watch.run("login", played.proxy.host, "-u", USER, "--password-stdin", stdin=f"{PASSWORD}\n").code == 0
        pushed = watch.run("image", cache, "app", "--store", tree, "--tag", "app", "--json")
        assert pushed.code == 0, pushed.err
        loaded = watch.run("load", f"{cache}:app", "--engine", kind)
        assert loaded.code == 0, loaded.err
        assert watch.run("run", f"{cache}:app", "--engine", kind, "--", "nothing").code != 0
        assert played.tokens is not None
        watch.secrets |= {f"token {n}": token.value for n, token in enumerate(played.tokens.issued)}
        assert watch.leaks(allowed=kept) == []


def test_a_program_that_is_told_a_secret_is_noticed(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The look itself: by argument, by environment, and by every way to start a program."""
    watch.secrets = {"password": PASSWORD}
    monkeypatch.setenv("THE_USERS_OWN", PASSWORD)
    watch.given = dict(os.environ)
    subprocess.run(["true"], check=True)
    assert watch.leaks() == [], "what the user put into the environment stays what it is"
    subprocess.run(["true"], check=True, env={**os.environ, "OURS": PASSWORD})
    os.waitpid(os.posix_spawn("/bin/true", ["true", PASSWORD], {}), 0)
    os.system(f"true '{PASSWORD}'")
    found = {place.partition(" in ")[2].split()[0] for place in watch.leaks()}
    assert found == {"argument", "environment"}
    assert len([one for one in watch.arguments if PASSWORD in one]) == 2


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


def _wanting_login(answer: Any, kind: str) -> Any:
    """Ask a web client for its login first; S3 signs every request unasked."""

    def checked(asked: Asked) -> Answer:
        if kind == "mirror" and "authorization" not in asked.headers:
            return Answer(401, (("WWW-Authenticate", 'Basic realm="x"'),))
        return answer(asked)

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
