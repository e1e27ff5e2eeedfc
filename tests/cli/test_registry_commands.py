"""The command line against a registry: logins, refusals, secrets, and what a broken registry looks like to a user."""

import json

import pytest

from tests.support.command_line import binpkg
from tests.support.fake_registry import RESET, Answer, Basic, Bearer, FakeRegistry, Profile
from tests.support.spack_trees import Sketch, spack_tree

CANARY = "correct-horse-battery-staple"


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.setenv("OCI_BINPKG_RETRIES", "0")
    sketches = [
        Sketch("zlib", "1.3", files={"lib/z": b"z"}),
        Sketch("app", "2.0", files={"bin/app": b"a"}, depends=["zlib"]),
    ]
    return spack_tree(tmp_path / "store", sketches)


def push(registry, tree, *more):
    return binpkg("push", f"oci://{registry.host}/apps", "--store", tree.root, *more)


def login(registry, password=CANARY):
    return binpkg("login", registry.host, "-u", "user", "--password-stdin", stdin=f"{password}\n")


def test_a_registry_on_this_machine_may_speak_plain_http(tree):
    with FakeRegistry() as registry:
        assert push(registry, tree, "--update-index").code == 0
        assert len(binpkg("find", "--from", f"oci+http://{registry.host}/apps").lines) == 2
        assert "packages (2)" in binpkg("inspect", f"oci://{registry.host}/apps").out


@pytest.mark.parametrize("auth", [Basic("user", CANARY), Bearer("user", CANARY)], ids=["basic", "bearer"])
def test_a_login_is_kept_used_and_forgotten(tree, isolated_home, auth):
    with FakeRegistry(auth=auth) as registry:
        refused = push(registry, tree)
        assert refused.code == 22
        assert "oci-binpkg login" in refused.err
        ended = login(registry)
        assert ended.code == 0, ended.err
        assert f"logged in to {registry.host} as user" in ended.out
        kept = json.loads((isolated_home / ".docker" / "config.json").read_text())
        assert list(kept["auths"]) == [registry.host]
        assert push(registry, tree, "--update-index").code == 0
        assert binpkg("logout", registry.host).code == 0
        assert CANARY not in (isolated_home / ".docker" / "config.json").read_text()
        assert "no login" in binpkg("logout", registry.host).out
        assert push(registry, tree, "--force").code in (22, 23)


def test_a_login_from_podmans_file_is_used(tree, isolated_home, tmp_path, monkeypatch):
    file = tmp_path / "auth.json"
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(file))
    with FakeRegistry(auth=Basic("user", CANARY)) as registry:
        assert login(registry).code == 0
        assert registry.host in json.loads(file.read_text())["auths"]
        assert push(registry, tree).code == 0


def test_a_login_asked_for_at_a_terminal(monkeypatch):
    monkeypatch.setattr("builtins.input", lambda _prompt: "user")
    monkeypatch.setattr("getpass.getpass", lambda _prompt: CANARY)
    with FakeRegistry(auth=Basic("user", CANARY)) as registry:
        assert binpkg("login", registry.host, terminal=True).code == 0
        monkeypatch.setattr("getpass.getpass", lambda _prompt: "")
        assert binpkg("login", registry.host, terminal=True).code == 2


def test_a_wrong_password_is_said_without_saying_it(isolated_home):
    with FakeRegistry(auth=Bearer("user", "other")) as registry:
        ended = login(registry)
        assert ended.code == 22
        assert registry.host in ended.err
        assert not (isolated_home / ".docker" / "config.json").exists()


@pytest.mark.covers("R11")
def test_no_secret_is_ever_shown_or_kept_elsewhere(tree, isolated_home, tmp_path):
    with FakeRegistry(auth=Bearer("user", CANARY)) as registry, FakeRegistry() as other:
        ended = [login(registry), push(registry, tree, "--json")]
        registry.fault("POST", "/blobs/uploads/", times=9, status=500)
        ended.append(push(registry, tree, "--force"))
        ended.append(push(other, tree))
        assert not any(CANARY in result.out + result.err for result in ended)
        assert not any(CANARY in str(exchange.headers) for exchange in other.log)
    keeping = [path for path in isolated_home.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]
    assert keeping == []  # in config.json it is base64, as docker has it


def test_a_registry_that_wants_the_repository_made_first(tree):
    with FakeRegistry(profile=Profile(create_on_push=False)) as registry:
        ended = push(registry, tree)
        assert ended.code == 6
        assert "create" in ended.err


def test_a_server_that_fails_has_its_own_exit_code(tree):
    with FakeRegistry() as registry:
        registry.fault("GET", "/tags/list", times=9, status=500)
        ended = push(registry, tree)
        assert ended.code == 25
        assert registry.host in ended.err


def test_a_connection_that_breaks_has_its_own_exit_code(tree):
    with FakeRegistry() as registry:
        registry.fault("GET", "/tags/list", times=9, before=RESET)
        assert push(registry, tree).code == 20


def test_permission_refused_has_its_own_exit_code(tree):
    with FakeRegistry() as registry:
        registry.fault("POST", "/blobs/uploads/", times=99, status=403)
        ended = push(registry, tree)
        assert ended.code == 23, ended.err
        assert "403" in ended.err


def test_a_rate_limit_has_its_own_exit_code_and_says_until_when(tree):
    with FakeRegistry() as registry:
        registry.fault("GET", "/tags/list", times=9, status=429, headers={"Retry-After": "21600"})
        ended = push(registry, tree)
        assert ended.code == 24
        assert "h" in ended.err


def test_an_incomplete_push_goes_on_where_it_stopped(tree):
    with FakeRegistry() as registry:
        registry.fault("PUT", "/manifests/app", times=99, before=RESET)
        first = push(registry, tree)
        assert first.code == 1
        registry.clear()
        again = push(registry, tree)
        assert again.code == 0
        assert "1 pushed, 1 skipped" in again.err
        assert not [exchange for exchange in registry.log if exchange.method == "PUT" and "/blobs/" in exchange.path]


def test_one_layer_of_two_tags_is_sent_once(tree):
    with FakeRegistry() as registry:
        assert push(registry, tree, "--tag", "all").code == 0
        uploads = [
            exchange for exchange in registry.log if exchange.method == "PUT" and "/blobs/uploads/" in exchange.path
        ]
        assert len(uploads) == 2 + 3  # two layers, three configurations


def test_pushing_again_asks_for_the_tags_and_looks_at_a_few_packages(tree):
    with FakeRegistry() as registry:
        push(registry, tree, "--update-index")
        registry.clear()
        assert push(registry, tree).code == 0
        asked = [(exchange.method, exchange.path) for exchange in registry.log if exchange.path.startswith("/v2/apps")]
        assert asked[0] == ("GET", "/v2/apps/tags/list")
        assert len([path for method, path in asked if method == "GET" and "/manifests/" in path]) == 2
        assert {method for method, path in asked if "/blobs/" in path} == {"HEAD"}


def test_a_failed_package_has_the_fields_of_its_error_in_the_document(tree):
    with FakeRegistry() as registry:
        registry.fault("POST", "/blobs/uploads/", times=0, answer=Answer.error(403, "DENIED"))
        document = push(registry, tree, "--json").json
        failed = {package["name"]: package for package in document["packages"]}["zlib"]
        fields = failed["error_fields"]
        assert (failed["exit_code"], fields["status"], fields["codes"]) == (23, 403, ["DENIED"])
        assert fields["host"] == registry.host
        assert failed["error"].startswith(fields["operation"])
