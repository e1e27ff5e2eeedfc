from __future__ import annotations

import base64
import json
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from oci_binpkg.errors import AuthError, LocalDiskError, UsageError
from oci_binpkg.events import Event, Warned
from oci_binpkg.transport.credentials import (
    Credential,
    CredentialFiles,
    FixedCredential,
    Keychain,
    normalise_key,
)


def auth(username: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{username}:{password}".encode()).decode()}


def write(path: Path, document: object, mode: int = 0o600) -> str:
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    path.chmod(mode)
    return str(path)


def keychain(
    docker: object = None, *podman: object, directory: Path, observer=lambda event: None, **kwargs
) -> Keychain:
    docker_path = write(directory / "config.json", docker) if docker is not None else ""
    podman_paths = tuple(write(directory / f"auth{i}.json", document) for i, document in enumerate(podman))
    files = CredentialFiles(docker_path, podman_paths, helper_path=str(directory), helper_timeout=kwargs.pop("wait", 5))
    return Keychain(files, observer=observer, **kwargs)


def helper(directory: Path, name: str, script: str) -> None:
    path = directory / f"docker-credential-{name}"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.mark.covers("R11")
def test_secrets_are_not_in_the_representation() -> None:
    credential = Credential("user", "hunter2", "identity-secret", "registry-secret")
    assert "hunter2" not in repr(credential)
    assert "secret" not in repr(credential)
    assert "user" in repr(credential)
    assert credential.identity not in (Credential("user", "other").identity, "hunter2")
    assert {"hunter2", "identity-secret", "registry-secret"} < set(credential.secrets)


def test_basic_and_the_token_user() -> None:
    assert Credential("u", "p").basic == "Basic dTpw"
    assert Credential("u").basic == ""
    assert Credential.of_login("<token>", "t") == Credential(identity_token="t")
    assert FixedCredential(Credential("u", "p")).find("anything") == Credential("u", "p")
    assert FixedCredential().find("anything", "repo") is None


@pytest.mark.covers("R17", "B39")
@pytest.mark.parametrize(
    ("key", "normal"),
    [
        ("https://index.docker.io/v1/", "docker.io"),
        ("index.docker.io", "docker.io"),
        ("registry-1.docker.io", "docker.io"),
        ("docker.io/library/x", "docker.io/library/x"),
        ("https://Reg.example:5000/v2/some", "reg.example:5000"),
        ("reg.example/v2/", "reg.example"),
        ("reg.example:443", "reg.example"),
        ("reg.example/team/app", "reg.example/team/app"),
        (" http://reg.example ", "reg.example"),
    ],
)
def test_keys(key: str, normal: str) -> None:
    assert normalise_key(key) == normal


@pytest.mark.covers("R17")
def test_order_explicit_docker_podman(tmp_path: Path) -> None:
    docker = {"auths": {"a.example": auth("docker", "1"), "b.example": auth("docker", "1")}}
    podman = {"auths": {name: auth("podman", "2") for name in ("a.example", "b.example", "c.example")}}
    chain = keychain(docker, podman, directory=tmp_path, explicit={"https://a.example": Credential("own", "0")})
    found = [chain.find(f"{name}.example") for name in "abcd"]
    assert [credential.username if credential else None for credential in found] == ["own", "docker", "podman", None]


@pytest.mark.covers("R17")
def test_ports_match_exactly_and_the_most_specific_path_wins(tmp_path: Path) -> None:
    auths = {
        "reg.example": auth("host", "1"),
        "reg.example/team": auth("team", "1"),
        "reg.example/team/app": auth("app", "1"),
        "reg.example:5000": auth("port", "1"),
    }
    chain = keychain({"auths": auths}, directory=tmp_path)

    def user(host: str, repository: str = "") -> str | None:
        found = chain.find(host, repository)
        return found.username if found else None

    assert user("reg.example", "team/app/sub") == "app"
    assert user("reg.example", "team/other") == "team"
    assert user("reg.example", "teammate/x") == "host"
    assert user("reg.example") == "host"
    assert user("reg.example:5000", "team/app") == "port"
    assert user("reg.example:5001") is None
    assert user("other.reg.example") is None


@pytest.mark.covers("R17")
def test_docker_hub_has_many_names(tmp_path: Path) -> None:
    chain = keychain({"auths": {"https://index.docker.io/v1/": auth("hub", "1")}}, directory=tmp_path)
    for name in ("docker.io", "index.docker.io", "registry-1.docker.io"):
        assert chain.find(name, "library/busybox") == Credential("hub", "1")


@pytest.mark.covers("B39")
@pytest.mark.parametrize(
    ("entry", "credential"),
    [
        (auth("u", "p:with:colons"), Credential("u", "p:with:colons")),
        (auth("u", "p\0\0"), Credential("u", "p")),
        ({"username": "u", "password": "p"}, Credential("u", "p")),
        ({**auth("u", ""), "identitytoken": "it"}, Credential("u", "", "it")),
        ({"registrytoken": "rt"}, Credential(registry_token="rt")),
        (auth("<token>", "it"), Credential(identity_token="it")),
        ({"auth": None, "username": "u", "password": "p"}, Credential("u", "p")),
        ({}, None),
        ({"auth": ""}, None),
    ],
)
def test_entries(tmp_path: Path, entry: object, credential: Credential | None) -> None:
    assert keychain({"auths": {"reg.example": entry}}, directory=tmp_path).find("reg.example") == credential


@pytest.mark.covers("B39")
@pytest.mark.parametrize(
    "entry",
    [
        "text",
        {"auth": "no-base64-secret!"},
        {"auth": "/////w=="},
        {"auth": base64.b64encode(b"nocolonsecret").decode()},
        {"auth": 5},
        {"username": ["secret"]},
    ],
)
def test_a_broken_entry_concerns_its_own_host_only(tmp_path: Path, entry: object) -> None:
    chain = keychain({"auths": {"bad.example": entry, "good.example": auth("u", "p")}}, directory=tmp_path)
    assert chain.find("good.example") == Credential("u", "p")
    with pytest.raises(AuthError, match=r"config\.json: auths\['bad\.example'\]") as caught:
        chain.find("bad.example")
    assert "secret" not in str(caught.value)


@pytest.mark.covers("B39")
@pytest.mark.parametrize(
    "text", ["{broken", "[1]", '{"auths": []}', '{"auths": {}, "credHelpers": 7, "credsStore": 1}']
)
def test_broken_files_are_passed_over(tmp_path: Path, text: str) -> None:
    seen: list[Event] = []
    chain = keychain(text, {"auths": {"reg.example": auth("u", "p")}}, directory=tmp_path, observer=seen.append)
    assert chain.find("reg.example") == Credential("u", "p")
    assert all(isinstance(event, Warned) and "config.json" in event.text for event in seen)
    assert len(seen) == (0 if text.startswith('{"auths"') else 1)


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_file_that_others_may_change_is_worth_a_warning(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path / "auth.json", {"auths": {"reg.example": auth("u", "p")}}, mode)
    seen: list[Event] = []
    assert Keychain(CredentialFiles(podman_auth=(path,)), observer=seen.append).find("reg.example")
    assert [event.text for event in seen if isinstance(event, Warned)] == [
        f"{path} says which programs keep logins and other users may change it: chmod 600 it"
    ]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_what_is_no_file_is_passed_over_at_once(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "config.json")
    good = write(tmp_path / "auth.json", {"auths": {"reg.example": auth("u", "p")}}, 0o600)
    seen: list[Event] = []
    files = CredentialFiles(str(tmp_path / "config.json"), podman_auth=(good,))
    assert Keychain(files, observer=seen.append).find("reg.example") == Credential("u", "p")
    assert "no logins are read from there" in seen[0].text  # type: ignore[attr-defined]
    with pytest.raises(LocalDiskError, match=r"config\.json"):
        Keychain(files).store("reg.example", Credential("u", "p"))


@pytest.mark.covers("B39")
def test_a_readable_file_is_worth_a_warning(tmp_path: Path) -> None:
    path = write(tmp_path / "auth.json", {"auths": {"reg.example": auth("u", "p")}}, 0o644)
    seen: list[Event] = []
    assert Keychain(CredentialFiles(podman_auth=(path, path)), observer=seen.append).find("reg.example")
    assert [event.text for event in seen if isinstance(event, Warned)] == [
        f"{path} holds registry logins and other users may read it: chmod 600 it"
    ]


def test_absent_and_unreadable_files(tmp_path: Path) -> None:
    seen: list[Event] = []
    files = CredentialFiles(str(tmp_path / "none.json"), (str(tmp_path),))
    assert Keychain(files, observer=seen.append).find("reg.example") is None
    assert len(seen) == 1, "a directory in the place of a file is reported, an absent file is not"


@pytest.mark.covers("R17")
def test_helpers_are_asked_with_the_configured_name(tmp_path: Path) -> None:
    helper(tmp_path, "one", 'read server; printf \'{"Username":"u","Secret":"%s for %s"}\' "$1" "$server"')
    helper(tmp_path, "all", 'read server; printf \'{"Username":"<token>","Secret":"%s"}\' "$server"')
    document = {
        "auths": {"https://index.docker.io/v1/": {}, "file.example": auth("file", "p")},
        "credHelpers": {"one.example": "one"},
        "credsStore": "all",
    }
    chain = keychain(document, directory=tmp_path)
    assert chain.find("one.example") == Credential("u", "get for one.example")
    assert chain.find("docker.io") == Credential(identity_token="https://index.docker.io/v1/")
    assert chain.find("other.example") == Credential(identity_token="other.example")
    assert chain.find("file.example") == Credential("file", "p")


@pytest.mark.covers("R17", "B39", "B40")
@pytest.mark.parametrize(
    ("name", "script", "said"),
    [
        ("missing", None, "is not installed"),
        ("crash", "echo secret; echo secret >&2; exit 3", "ended with status 3"),
        ("junk", "echo secret", "did not answer with JSON"),
        ("list", "echo '[\"secret\"]'", "did not answer with a JSON object"),
        ("half", 'echo \'{"Secret":"secret"}\'', "without Username and Secret"),
        ("hang", "exec sleep 60", "did not answer within"),
        ("../../x", None, "has a name that no credential helper has"),
        ("a b;c", None, "has a name that no credential helper has"),
        (7, None, "has a name that no credential helper has"),
    ],
)
def test_a_broken_helper_concerns_its_own_host_only(
    tmp_path: Path, name: object, script: str | None, said: str
) -> None:
    if script is not None:
        helper(tmp_path, str(name), script)
    document = {"auths": {"good.example": auth("u", "p")}, "credHelpers": {"bad.example": name}}
    chain = keychain(document, directory=tmp_path, wait=0.3 if name == "hang" else 5)
    assert chain.find("good.example") == Credential("u", "p")
    started = time.monotonic()
    with pytest.raises(AuthError, match=said) as caught:
        chain.find("bad.example")
    assert time.monotonic() - started < 5
    assert "config.json: credHelpers['bad.example']" in caught.value.hint
    assert "secret" not in str(caught.value)


def test_a_helper_that_cannot_be_started(tmp_path: Path) -> None:
    (tmp_path / "docker-credential-odd").write_bytes(b"\x7fELF nonsense")
    (tmp_path / "docker-credential-odd").chmod(0o755)
    with pytest.raises(AuthError, match="could not be started"):
        keychain({"credHelpers": {"bad.example": "odd"}}, directory=tmp_path).find("bad.example")


def test_a_helper_without_a_login_means_anonymous(tmp_path: Path) -> None:
    helper(tmp_path, "none", "echo 'credentials not found in native keychain'; exit 1")
    helper(tmp_path, "empty", 'echo \'{"Username":"","Secret":""}\'')
    document = {"credHelpers": {"a.example": "none", "b.example": "empty"}}
    chain = keychain(document, directory=tmp_path)
    assert chain.find("a.example") is None
    assert chain.find("b.example") is None


@pytest.mark.covers("B39")
def test_a_missing_store_matters_only_where_it_keeps_the_login(tmp_path: Path) -> None:
    seen: list[Event] = []
    document = {"auths": {"kept.example": {}}, "credsStore": "missing"}
    podman = {"auths": {"other.example": auth("u", "p")}}
    chain = keychain(document, podman, directory=tmp_path, observer=seen.append)
    assert chain.find("other.example") == Credential("u", "p")
    assert len(seen) == 1
    with pytest.raises(AuthError, match="is not installed"):
        chain.find("kept.example")


def test_store_keeps_everything_else(tmp_path: Path) -> None:
    document = {
        "auths": {"old.example": {**auth("o", "o"), "email": "x"}},
        "HttpHeaders": {"é": "1"},
        "n": 12345678901234567890,
    }
    path = tmp_path / "config.json"
    chain = keychain(document, directory=tmp_path)
    chain.store("reg.example:5000", Credential("user", "pässword"))
    stored = json.loads(path.read_text())
    assert stored == document | {"auths": document["auths"] | {"reg.example:5000": auth("user", "pässword")}}  # type: ignore[operator]
    assert list(stored) == list(document)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert chain.find("reg.example:5000") == Credential("user", "pässword")
    assert {entry.name for entry in tmp_path.iterdir()} == {"config.json", "config.json.lock"}


def test_store_creates_the_file_and_replaces_aliases(tmp_path: Path) -> None:
    path = tmp_path / "new" / "dir" / "auth.json"
    chain = Keychain(CredentialFiles("", (str(path),), write_to=str(path)))
    chain.store("docker.io", Credential("one", "1"))
    chain.store("index.docker.io", Credential("two", "2"))
    assert json.loads(path.read_text()) == {"auths": {"https://index.docker.io/v1/": auth("two", "2")}}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    chain.store("reg.example", Credential("u", "", "identity"))
    assert chain.find("reg.example") == Credential("u", "", "identity")
    chain.store("reg.example", Credential(registry_token="rt"))
    assert chain.find("reg.example") == Credential(registry_token="rt")


def test_erase(tmp_path: Path) -> None:
    document = {"auths": {"https://reg.example/v1/": auth("u", "p"), "b.example": auth("u", "p")}, "x": 1}
    chain = keychain(document, directory=tmp_path)
    chain.erase("reg.example")
    assert chain.find("reg.example") is None
    assert chain.find("b.example") is not None
    chain.erase("never.example")
    assert json.loads((tmp_path / "config.json").read_text())["x"] == 1
    absent = tmp_path / "absent.json"
    Keychain(CredentialFiles(str(absent))).erase("reg.example")
    assert not absent.exists()


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    write(tmp_path / "real" / "config.json", {})
    link = tmp_path / "config.json"
    link.symlink_to(tmp_path / "real" / "config.json")
    Keychain(CredentialFiles(str(link))).store("reg.example", Credential("u", "p"))
    assert link.is_symlink()
    assert "reg.example" in (tmp_path / "real" / "config.json").read_text()


def test_store_and_erase_through_a_helper(tmp_path: Path) -> None:
    helper(tmp_path, "log", f'{{ echo "$1"; cat; echo; }} >> {tmp_path}/log')
    helper(tmp_path, "fail", "exit 1")
    document = {"credsStore": "log", "credHelpers": {"fail.example": "fail"}, "auths": {"fail.example": {}}}
    chain = keychain(document, directory=tmp_path)
    chain.store("reg.example", Credential("u", "p"))
    chain.store("reg.example", Credential(identity_token="it"))
    assert json.loads((tmp_path / "config.json").read_text())["auths"]["reg.example"] == {}
    chain.erase("reg.example")
    assert "reg.example" not in json.loads((tmp_path / "config.json").read_text())["auths"]
    assert (tmp_path / "log").read_text().split("\n")[:6] == [
        "store",
        '{"ServerURL": "reg.example", "Username": "u", "Secret": "p"}',
        "store",
        '{"ServerURL": "reg.example", "Username": "<token>", "Secret": "it"}',
        "erase",
        "reg.example",
    ]
    with pytest.raises(AuthError, match="could not store"):
        chain.store("fail.example", Credential("u", "p"))
    with pytest.raises(AuthError, match="could not erase"):
        chain.erase("fail.example")


def test_a_file_that_is_not_understood_is_not_overwritten(tmp_path: Path) -> None:
    path = write(tmp_path / "config.json", "{broken")
    with pytest.raises(LocalDiskError, match="not valid JSON"):
        Keychain(CredentialFiles(path)).store("reg.example", Credential("u", "p"))
    assert Path(path).read_text() == "{broken"


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "config.json", {"auths": {}})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LocalDiskError, match="No space left"):
        Keychain(CredentialFiles(path)).store("reg.example", Credential("u", "p"))
    assert json.loads(Path(path).read_text()) == {"auths": {}}
    assert {entry.name for entry in tmp_path.iterdir()} == {"config.json", "config.json.lock"}


def test_nothing_to_write_to_and_bad_hosts() -> None:
    with pytest.raises(UsageError, match="no file"):
        Keychain(CredentialFiles()).store("reg.example", Credential("u", "p"))
    with pytest.raises(UsageError, match="not a registry host"):
        Keychain(CredentialFiles("x")).store("a/../b", Credential("u", "p"))


def test_concurrent_writers_lose_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "config.json")

    def login(number: int) -> None:
        Keychain(CredentialFiles(path)).store(f"r{number}.example", Credential("u", "p"))

    threads = [threading.Thread(target=login, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(json.loads(Path(path).read_text())["auths"]) == 8
