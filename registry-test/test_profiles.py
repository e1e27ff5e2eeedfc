"""Push, install, copy, image and index under the quirks of registries, through the command line."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import itertools
import json
import random
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from proxy.profiles import DEFAULT_USERS, MIB, PROFILES, Profile, Standing, standing
from proxy.quirks import COMMIT, MANIFEST, UPLOAD, pull_quota, storage_quota
from proxy.rules import Action, Answer, Asked, Rule

from oci_binpkg.errors import TransferError, UnsupportedError
from oci_binpkg.model.reference import Repository
from oci_binpkg.store.registry.api import RegistrySettings
from oci_binpkg.store.registry.repository import RegistryStore
from oci_binpkg.times import Time
from oci_binpkg.transport.credentials import Credential, FixedCredential
from oci_binpkg.transport.registry_client import RegistryHttpClient
from tests.support.command_line import Ended, binpkg
from tests.support.fake_time import FakeTime
from tests.support.golden import LAYOUT
from tests.support.real.components import RealParts
from tests.support.real.registry import RealRegistry
from tests.support.registry_store import layer
from tests.support.self_signed import Certificates
from tests.support.spack_trees import Sketch, spack_tree
from tests.support.stores import put_image, small_image

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

_NUMBERS = itertools.count()
MOST_REQUESTS_TO_FIND_NOTHING_NEW = 48
MOST_REQUESTS = 220  # where blobs are in storage, each question is two


SIGNS = {
    "docker-hub": ("GET", "/storage/.*sig="),
    "ghcr": ("HEAD", "/storage/.*sig="),
    "quay": ("GET", "next_page=.{300}"),
    "ecr": ("PUT", r"/manifests/both$"),
    "gar": ("PUT", r"^/artifacts-uploads/.*upload_id=.{1500}"),
    "acr": ("PUT", "_nouploadcache=false&digest="),
    "gitlab": ("GET", r"^/jwt/auth\?.*scope="),
    "harbor": ("GET", r"^/service/token\?.*scope="),
    "artifactory-6": ("PATCH", UPLOAD),
    "gitea": ("GET", r"^/v2/token\?.*scope="),
}
"""A request that only this registry leads to."""


@dataclass(frozen=True)
class Played:
    """A profile in play before the real registry, and the repository that a test has to itself."""

    name: str
    profile: Profile
    standing: Standing
    repository: str

    @property
    def cache(self) -> str:
        return f"oci://{self.standing.proxy.host}/{self.repository}"

    def other(self, name: str) -> str:
        return f"{self.cache}-{name}"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small install tree; one layer is too large to be verified before its first byte is given out."""
    block = hashlib.shake_256(b"layer").digest(5 * 1024 * 1024)
    sketches = [
        Sketch("zlib", "1.3", files={"lib/z.pc": "prefix={prefix}\n"}, explicit=False),
        Sketch("data", "1.0", files={"share/block": block}, explicit=False),
        Sketch("app", "2.0", files={"bin/app": "#!/bin/sh\ncat {zlib}/lib/z.pc\n"}, depends=["zlib", "data"]),
        Sketch("tool", "0.1", files={"bin/tool": b"tool"}, depends=["zlib"]),
    ]
    return spack_tree(tmp_path_factory.mktemp("tree") / "store", sketches).root


@pytest.fixture(scope="module")
def layers(tree: Path, isolated_session: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layer cache for all tests here, with all layers: what is packed does not depend on the registry."""
    folder = tmp_path_factory.mktemp("layers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OCI_BINPKG_LAYER_CACHE", str(folder))
        done("push", f"oci-layout:{tmp_path_factory.mktemp('layout') / 'all'}", "--store", tree)
    return folder


@pytest.fixture
def new_root() -> Iterator[Path]:
    """A root so short that the golden packages fit."""
    folder = Path(f"/tmp/{secrets.token_hex(2)}")
    folder.mkdir()
    yield folder / "s"
    shutil.rmtree(folder)


@pytest.fixture(params=PROFILES)
def played(
    request: pytest.FixtureRequest,
    plain_registry: RealRegistry,
    layers: Path,
    isolated_home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Played]:
    monkeypatch.setenv("OCI_BINPKG_LAYER_CACHE", str(layers))
    profile = PROFILES[request.param]
    repository = f"team{next(_NUMBERS)}/apps"
    known = (repository, f"{repository}-copy")
    with standing(profile, plain_registry.url, repositories=known, wait=1, page=2) as stage:
        if profile.login:
            keep_login(isolated_home, stage.proxy.host)
        yield Played(request.param, profile, stage, repository)
        assert_no_login_elsewhere(stage)


def keep_login(home: Path, host: str) -> None:
    ((user, password),) = DEFAULT_USERS.items()
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    file = home / ".docker" / "config.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    file.chmod(0o600)


def assert_no_login_elsewhere(stage: Standing) -> None:
    """Storage sees neither login nor cookie, nobody sees a cookie, and passwords go to the token server only."""
    assert all(not entry.authorization for entry in stage.log.seen(role="storage"))
    assert all("cookie" not in entry.headers for entry in stage.log.seen())
    if stage.tokens is not None:
        bearers = [entry for entry in stage.log.seen(role="registry") if entry.path.startswith("/v2/team")]
        assert all(entry.authorization.startswith("Bearer ") for entry in bearers if entry.authorization)
    assert all(entry.headers["accept-encoding"] == "identity" for entry in stage.log.seen())


def done(*arguments: object) -> Ended:
    ended = binpkg(*arguments)
    assert ended.code == 0, f"{arguments}: {ended.err}\n{ended.out}"
    return ended


def store_of(played: Played, name: str = "", **settings: Any) -> tuple[RegistryHttpClient, RegistryStore]:
    """A store on the profile in this process, whose waits take no time."""
    ((user, password),) = DEFAULT_USERS.items()
    fake, host = FakeTime(), played.standing.proxy.host
    credential = FixedCredential(Credential(user, password) if played.profile.login else None)
    client = RegistryHttpClient(played.standing.proxy.url, credentials=credential, time=Time(sleep=fake.sleep))
    repository = Repository("http", host, name or played.repository)
    return client, RegistryStore(client, repository, settings=RegistrySettings(**settings), time=Time(sleep=fake.sleep))


def of(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("played", names, indirect=True)


def test_a_layer_that_is_sent_while_it_is_packed(
    played: Played, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OCI_BINPKG_LAYER_CACHE", str(tmp_path / "layers"))
    ended = done("push", played.cache, "data", "--store", tree, "--json")
    (data,) = ended.json["packages"]
    sent = played.standing.log.seen("PATCH")
    assert [one.headers["transfer-encoding"] for one in sent if "content-range" not in one.headers] == ["chunked"]
    whole = [one for one in (*sent, *played.standing.log.seen("PUT", COMMIT)) if one.length > 5 * MIB]
    assert len([one for one in whole if one.status in (201, 202, 204)]) == 1
    assert len(whole) <= (3 if played.name == "artifactory-6" else 2), "once more where an answer is bad or lost"
    assert whole[-1].sha256 == data["layer"].removeprefix("sha256:")
    done("install", "--from", played.cache, "data", "--store", tmp_path / "root")
    (block,) = (tmp_path / "root").rglob("share/block")
    assert block.stat().st_size == 5 * MIB


def test_push_index_image_install(played: Played, tree: Path, tmp_path: Path) -> None:
    log = played.standing.log
    ended = done("push", played.cache, "--store", tree, "--update-index", "--tag", "both", "--json")
    assert [one["outcome"] for one in ended.json["packages"]] == ["pushed"] * 4
    layers = {one.sha256: one for one in log.seen("PUT", COMMIT) if one.forwarded and one.length}
    largest = max(one.length for one in log.seen("PUT", COMMIT) + log.seen("PATCH") if one.forwarded)
    assert largest > 5 * 1024 * 1024
    assert all(parse_qs(one.query)["digest"] == [f"sha256:{sha256}"] for sha256, one in layers.items())
    assert len(done("find", "--from", played.cache).lines) == 4
    assert played.name not in SIGNS or log.seen(*SIGNS[played.name])
    asked = len(log.entries)

    log.forget()
    done("push", played.cache, "--store", tree, "--update-index")
    assert log.seen("PUT|PATCH", "/v2/") == []
    assert len(log.entries) <= MOST_REQUESTS_TO_FIND_NOTHING_NEW
    done("index", "update", played.cache)
    done("index", "check", played.cache)

    done("image", played.cache, "tool", "app", "--store", tree, "--tag", "tools", "--entrypoint", "app")
    assert max(entry.length for entry in log.seen("PUT", COMMIT)) < 10_000, "layers that are there are not sent again"
    ended = done("install", "app", "--from", played.cache, "--store", tmp_path / "new", "--json")
    assert {one["outcome"] for one in ended.json["packages"]} == {"installed"}
    done("verify-store", tmp_path / "new")
    assert asked + len(log.entries) <= MOST_REQUESTS
    assert [rule.why for rule in played.standing.proxy.unstruck() if rule.method != "PATCH"] == []


def test_copy_and_install(played: Played, new_root: Path) -> None:
    done("copy", f"oci-layout:{LAYOUT}", played.cache)
    played.standing.log.forget()
    done("copy", played.cache, played.other("copy"))
    mounted = [entry for entry in played.standing.log.seen("POST", "mount=") if entry.status == 201]
    sent = [entry for entry in played.standing.log.seen("PUT", COMMIT) if entry.length > 1000]
    assert mounted or played.name in {"zot", "gar"}, "within a registry layers are mounted"
    assert len(sent) <= 1
    ended = done("install", "greet@2.0", "--from", played.other("copy"), "--store", new_root, "--allow-missing")
    assert "3 installed" in ended.err


def test_chunked_upload(played: Played) -> None:
    client, store = store_of(played, chunk_size=5 * MIB)
    blob = layer(11 * MIB)
    with client:
        if played.name == "gar":
            with pytest.raises(TransferError, match="chunked uploads are not supported"):
                store.put(blob)
            return
        assert store.put(blob)
    with closing(io.BytesIO()) as copy, store.open(blob.descriptor) as stream:
        shutil.copyfileobj(stream, copy)
        assert copy.getvalue() == blob.read()
    assert [rule.why for rule in played.standing.proxy.unstruck() if rule.method == "PATCH"] == []
    if played.name == "ecr":
        parts = played.standing.log.seen("PATCH")
        assert [one.status for one in parts] == [0, 400, 201, 201, 201], "lost; repeated and refused; a new session"


@of("ecr")
@pytest.mark.parametrize("chunk", [16 * MIB, MIB])
def test_parts_of_another_size_than_the_registry_takes(played: Played, chunk: int) -> None:
    """Too large ones are halved. Ones that are too small end, after the sessions that there are, in what it says."""
    client, store = store_of(played, chunk_size=chunk)
    blob = layer(18 * MIB)
    with client:
        if chunk < 5 * MIB:
            with pytest.raises(TransferError, match=r"should be at least 5242880 bytes"):
                store.put(blob)
            assert len(played.standing.log.seen("PATCH")) <= 8
            return
        assert store.put(blob)
    taken = [one.length for one in played.standing.log.seen("PATCH") if one.forwarded]
    assert taken[-3:] == [8 * MIB, 8 * MIB, 2 * MIB]


@of("artifactory-6")
def test_one_upload_tells_how_the_others_must_be_made(played: Played) -> None:
    client, store = store_of(played)
    with client:
        for seed in range(3):
            assert store.put(layer(1000, seed))
    assert [one.status for one in played.standing.log.seen("PUT", COMMIT)] == [404, 201, 201, 201]


@pytest.mark.parametrize("name", [name for name, profile in PROFILES.items() if profile.storage])
def test_an_address_that_has_ended_is_not_used_again(name: str, plain_registry: RealRegistry) -> None:
    """A download breaks off and goes on five minutes later, when its signed address has ended: by a new one."""
    fake = FakeTime()
    with standing(PROFILES[name], plain_registry.url, wait=1, clock=fake.clock) as stage:
        assert stage.storage is not None
        played = Played(name, PROFILES[name], stage, f"team{next(_NUMBERS)}/apps")
        client, store = store_of(played)
        blob = layer(6 * MIB)

        def late(_asked: Asked, answer: Answer) -> Answer:
            fake.advance(301)
            return answer

        cut = Action(cut_after=2 * MIB, edit=late)
        with client:
            store.put(blob)
            stage.storage.add(Rule(cut, "GET", times=2))
            with closing(io.BytesIO()) as copy, store.open(blob.descriptor) as stream:
                shutil.copyfileobj(stream, copy)
                assert copy.getvalue() == blob.read()
        asked = stage.log.seen("GET", role="storage")
        assert [one.headers.get("range", "")[6:].partition("-")[0] for one in asked] == ["", str(2 * MIB), str(4 * MIB)]
        assert len({one.query for one in asked}) == 3, "each time the registry is asked for an address"
        assert {one.status for one in asked} <= {200, 206}
        assert_no_login_elsewhere(stage)


def test_the_usual_port_written_out(
    plain_registry: RealRegistry,
    parts: RealParts,
    certificates: Certificates,
    isolated_home: Path,
    layers: Path,
    tree: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """ECR at port 443, in whose upload addresses `:443` stands although nobody wrote it: the login goes along, and
    pushing, copying and installing are what they are elsewhere.
    """
    # an address of this machine that nobody else uses
    address = ".".join(["127", *(str(random.randrange(1, 255)) for _ in range(3))])
    certificate = certificates.make("usual-port", f"IP:{address},IP:127.0.0.1")
    monkeypatch.setenv("OCI_BINPKG_CA_FILE", str(certificate))
    monkeypatch.setenv("OCI_BINPKG_LAYER_CACHE", str(layers))
    repository = f"team{next(_NUMBERS)}/apps"
    known = (repository, f"{repository}-copy")
    tls = certificates.context(certificate)
    with contextlib.ExitStack() as stack:
        try:
            stage = stack.enter_context(
                standing(
                    PROFILES["ecr"], plain_registry.url, repositories=known, wait=1, tls=tls, address=address, port=443
                )
            )
        except PermissionError:
            parts.give_up("port 443", "needs root")
        assert stage.proxy.url == f"https://{address}"
        keep_login(isolated_home, address)
        cache = f"oci://{address}/{repository}"
        done("push", cache, "--store", tree, "--update-index")
        done("copy", cache, f"{cache}-copy")
        done("install", "app", "--from", f"{cache}-copy", "--store", tmp_path / "new")
        sent = stage.log.seen("PUT", COMMIT, role="registry")
        assert {one.headers["host"] for one in sent} <= {address, f"{address}:443"}
        assert all(one.authorization.startswith("Basic ") for one in sent)
        begun = stage.log.seen("POST", "/blobs/uploads/$")
        assert begun, "uploads were begun, and their addresses given with the port"
        assert_no_login_elsewhere(stage)


@of("ecr", "gitea")
def test_a_repository_that_is_not_there_has_to_be_made(played: Played, tree: Path) -> None:
    ended = binpkg("push", f"oci://{played.standing.proxy.host}/nowhere", "zlib", "--store", tree)
    assert ended.code != 0
    assert "create the repository first" in ended.out + ended.err
    assert played.standing.log.seen("PUT") == []


@of("ecr")
def test_an_immutable_tag_may_be_pushed_again_with_the_same_content(played: Played, tree: Path) -> None:
    done("push", played.cache, "zlib", "--store", tree)
    done("push", played.cache, "zlib", "--store", tree, "--force")


@of("ecr", "harbor")
def test_an_immutable_tag_keeps_what_it_has(played: Played, tree: Path) -> None:
    done("image", played.cache, "app", "--store", tree, "--tag", "kept")
    ended = binpkg("image", played.cache, "tool", "--store", tree, "--tag", "kept")
    assert ended.code == 23
    assert "immutable" in ended.err


@of("ghcr", "distribution")
def test_where_nothing_is_deleted_that_is_said(played: Played) -> None:
    client, store = store_of(played)
    with client:
        put_image(store, small_image(), "1.0")
        with pytest.raises(UnsupportedError, match="does not delete"):
            store.remove("1.0")


def test_a_quota_that_is_used_up_ends_the_run_at_once(plain_registry: RealRegistry) -> None:
    nothing_left = replace(PROFILES["docker-hub"], quirks=(("nothing is left", pull_quota(0, 21600)),))
    with standing(nothing_left, plain_registry.url) as stage:
        started = time.monotonic()
        ended = binpkg("find", "--from", f"oci://{stage.proxy.host}/team/apps")
        assert time.monotonic() - started < 5
        assert ended.code == 24
        assert "21600 s" in ended.err
        assert len(stage.log.seen("GET", MANIFEST)) == 2, "one for the challenge"


def test_a_full_quota_ends_in_an_error_that_says_so(plain_registry: RealRegistry, tree: Path) -> None:
    small = replace(PROFILES["harbor"], login="", quirks=(("a quota of a megabyte", storage_quota(MIB)),))
    with standing(small, plain_registry.url) as stage:
        cache = f"oci://{stage.proxy.host}/quota/apps"
        ended = binpkg("push", cache, "--store", tree)
        assert ended.code == 1
        assert "the quota is used up" in ended.out + ended.err
        assert len(stage.log.seen("PUT", COMMIT)) == len({one.sha256 for one in stage.log.seen("PUT", COMMIT)})
        assert len(done("find", "--from", cache).lines) == 2, "what does not need the large package is there"
