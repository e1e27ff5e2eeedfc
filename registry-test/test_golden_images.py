"""The golden install tree, pushed over TLS with a login, runs and is accepted by tools that others wrote."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.support.command_line import Ended, binpkg
from tests.support.golden import LACKS_A_DEPENDENCY, unpack_store
from tests.support.real.base_images import BaseImage
from tests.support.real.engines import DockerEngine, PodmanEngine
from tests.support.real.registry import RealRegistry

pytestmark = pytest.mark.real

LIMITS = ("--ulimit", "nofile=1024", "--ulimit", "nproc=1024")  # what a test machine without privileges may set
Tool = Callable[..., CompletedProcess[str]]
GOLDEN = Path(__file__).parents[1] / "fixtures" / "golden"
ROOT = "/opt/golden/store/linux-x86_64"
GREET = {
    "2.0": (f"{ROOT}/greet-2.0-6fytamqgzio2shuhlaie55hiv2m2stdw", "hello, world (lib 1.2.0)"),
    "2.1": (f"{ROOT}/greet-2.1-pciyz3mcnwsea3kxfvomliqdagbtq7g5", "HELLO, world (lib 1.3.0)"),
}
TAGS = {version: f"{prefix.rpartition('/')[2]}.spack" for version, (prefix, _) in GREET.items()}


def trusting(patch: pytest.MonkeyPatch, registry: RealRegistry) -> None:
    patch.setenv("OCI_BINPKG_CA_FILE", str(registry.ca_file))
    patch.setenv("SPACK_ROOT", "/opt/spack")


@pytest.fixture(scope="module")
def pushed(
    login_registry: RealRegistry, debian_base: BaseImage, golden_store_at_prefix: Path, users: dict[str, str]
) -> Iterator[Ended]:
    """The golden tree in the repository `golden`, on Debian; with the image `both`."""
    with pytest.MonkeyPatch.context() as patch:
        trusting(patch, login_registry)
        cache = f"oci://{login_registry.host}/golden"
        refused = binpkg("push", cache, "--store", golden_store_at_prefix)
        assert refused.code == 22, refused.err
        ended = binpkg("login", login_registry.host, "-u", "alice", "--password-stdin", stdin=users["alice"])
        assert ended.code == 0, ended.err
        base = f"oci-layout:{debian_base.layout}:{debian_base.tag}"
        report = binpkg(
            *("push", cache, "--store", golden_store_at_prefix, "--base-image", base),
            *("--tag", "both", "--update-index", "--json"),
        )
        assert report.code == LACKS_A_DEPENDENCY, report.err
        yield report


@pytest.fixture
def repository(login_registry: RealRegistry, monkeypatch: pytest.MonkeyPatch, users: dict[str, str]) -> str:
    """The address of the repository, for a user who is logged in."""
    trusting(monkeypatch, login_registry)
    assert binpkg("login", login_registry.host, "-u", "alice", "--password-stdin", stdin=users["alice"]).code == 0
    return f"{login_registry.host}/golden"


@pytest.mark.parametrize("version", ["2.0", "2.1"])
def test_docker_runs_what_was_pushed(
    pushed: Ended,
    docker: DockerEngine,
    repository: str,
    login_registry: RealRegistry,
    users: dict[str, str],
    version: str,
) -> None:
    docker.login(login_registry.host, "alice", users["alice"])
    docker.pull(f"{repository}:{TAGS[version]}")
    prefix, greeting = GREET[version]
    assert docker.run(f"{repository}:{TAGS[version]}", "greet").splitlines() == [f"from {prefix}", greeting]
    docker.pull(f"{repository}:both")
    assert docker.run(f"{repository}:both", f"{prefix}/bin/greet").splitlines()[1] == greeting


@pytest.mark.parametrize("version", ["2.0", "2.1"])
def test_podman_runs_what_was_pushed(
    pushed: Ended,
    podman: PodmanEngine,
    repository: str,
    login_registry: RealRegistry,
    users: dict[str, str],
    version: str,
) -> None:
    podman.login(login_registry.host, "alice", users["alice"], trust=login_registry.trust)
    podman.pull(f"{repository}:{TAGS[version]}", trust=login_registry.trust)
    prefix, greeting = GREET[version]
    assert podman.run(f"{repository}:{TAGS[version]}", "greet").splitlines() == [f"from {prefix}", greeting]


def test_other_tools_accept_every_image(
    pushed: Ended, skopeo: Tool, umoci: Tool, repository: str, login_registry: RealRegistry, tmp_path: Path
) -> None:
    login = ("--creds", "alice:correct horse", "--cert-dir", str(login_registry.trust))
    copying = ("--src-creds", "alice:correct horse", "--src-cert-dir", str(login_registry.trust))
    tags = [package["tag"] for package in pushed.json["packages"] if "tag" in package] + ["both"]
    assert len(tags) == 6
    for number, tag in enumerate(tags):
        inspected = json.loads(skopeo("inspect", *login, f"docker://{repository}:{tag}").stdout)
        assert inspected["Architecture"] == "amd64"
        skopeo("copy", *copying, f"docker://{repository}:{tag}", f"oci:{tmp_path}/layout:{number}")
        umoci("unpack", "--image", f"{tmp_path}/layout:{number}", f"{tmp_path}/bundle-{number}")
        shutil.rmtree(tmp_path / f"bundle-{number}")


def test_missing_layers_are_marked_where_people_look(
    pushed: Ended, skopeo: Tool, repository: str, login_registry: RealRegistry
) -> None:
    login = ("--creds", "alice:correct horse", "--cert-dir", str(login_registry.trust))
    labels = json.loads(skopeo("inspect", *login, f"docker://{repository}:{TAGS['2.0']}").stdout)["Labels"]
    assert labels["io.oci-binpkg.missing"] == "gcc-runtime@12.2.0/fiay6eo"


def golden_diff_ids() -> dict[str, str]:
    found = {}
    for entry in json.loads((GOLDEN / "oci-layout" / "index.json").read_text())["manifests"]:
        tag = entry["annotations"]["org.opencontainers.image.ref.name"]
        blobs = GOLDEN / "oci-layout" / "blobs"
        manifest = json.loads((blobs / entry["digest"].replace(":", "/")).read_text())
        config = json.loads((blobs / manifest["config"]["digest"].replace(":", "/")).read_text())
        if tag.endswith(".spack") and "rootfs" in config:
            found[tag] = config["rootfs"]["diff_ids"][-1]
    return found


def test_every_tar_is_the_one_that_spack_made(pushed: Ended, repository: str) -> None:
    expected = golden_diff_ids()
    assert len(expected) == 5
    for tag, diff_id in expected.items():
        (info,) = binpkg("inspect", f"oci://{repository}:{tag}", "--json").json
        assert info["layers"][-1]["diff_id"] == diff_id


def test_find_show_and_inspect_read_it_back(pushed: Ended, repository: str) -> None:
    found = binpkg("find", "--from", f"oci://{repository}", "--json").json
    assert {(package["name"], package["version"]) for package in found} == {
        *(("greet", "2.0"), ("greet", "2.1"), ("greetcfg", "0.9"), ("greetlib", "1.2.0"), ("greetlib", "1.3.0"))
    }
    assert binpkg("show", "greet@2.0", "--from", f"oci://{repository}", "--json").json["tag"] == TAGS["2.0"]
    assert "packages (5)" in binpkg("inspect", f"oci://{repository}").out


def test_base_layers_are_mounted_from_another_repository_of_the_registry(
    pushed: Ended, repository: str, login_registry: RealRegistry, golden_store_at_prefix: Path
) -> None:
    login_registry.forget_requests()
    cache = f"oci://{login_registry.host}/mounted"
    base = f"oci://{repository}:{TAGS['2.0']}"
    ended = binpkg("push", cache, "greetcfg", "--store", golden_store_at_prefix, "--base-image", base, "--json")
    assert ended.code == 0, ended.err
    mounts = [line for line in login_registry.requests() if line.method == "POST" and "mount=" in line.path]
    assert len(mounts) == 3
    assert {line.status for line in mounts} == {201}


def install_tree(directory: Path, *, when: int) -> Path:
    """The golden tree below `directory` as if it had been installed there, with files dated `when`."""
    root = directory / "store"
    if root.exists():
        shutil.rmtree(root)
    shutil.move(unpack_store(directory / "unpacked"), root)
    database = root / ".spack-db" / "index.json"
    database.write_text(database.read_text().replace("/opt/golden/store", str(root)))
    for path in [*root.rglob("*"), root]:
        os.utime(path, (when, when), follow_symlinks=False)
    return root


def test_copies_of_different_dates_give_the_same_layers(
    plain_registry: RealRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = []
    for when in (1_000_000_000, 1_700_000_000):
        monkeypatch.setenv("OCI_BINPKG_LAYER_CACHE", str(tmp_path / f"layers-{when}"))
        root = install_tree(tmp_path, when=when)
        ended = binpkg("push", f"oci://{plain_registry.host}/dated-{when}", "--store", root, "--json")
        assert ended.code == LACKS_A_DEPENDENCY, ended.err
        packages = [package for package in ended.json["packages"] if package["outcome"] == "pushed"]
        layers.append(
            {package["name"] + package["version"]: (package["layer"], package["digest"]) for package in packages}
        )
    assert layers[0] == layers[1]
    assert len(layers[0]) == 5


def test_a_token_login_pushes_too(
    token_registry: RealRegistry, golden_store_at_prefix: Path, monkeypatch: pytest.MonkeyPatch, users: dict[str, str]
) -> None:
    trusting(monkeypatch, token_registry)
    cache = f"oci://{token_registry.host}/golden"
    anonymous = binpkg("push", cache, "--store", golden_store_at_prefix)
    assert anonymous.code in (22, 23), anonymous.err
    wrong = binpkg("login", token_registry.host, "-u", "alice", "--password-stdin", stdin="wrong")
    assert wrong.code == 22, wrong.err
    assert "wrong" not in wrong.err
    assert binpkg("login", token_registry.host, "-u", "alice", "--password-stdin", stdin=users["alice"]).code == 0
    ended = binpkg("push", cache, "--store", golden_store_at_prefix, "--update-index")
    assert ended.code == LACKS_A_DEPENDENCY, ended.err
    assert binpkg("logout", token_registry.host).code == 0
    assert len(binpkg("find", "--from", cache).lines) == 5  # anybody may pull there


def test_an_untrusted_certificate_has_its_own_exit_code(login_registry: RealRegistry) -> None:
    ended = binpkg("find", "--from", f"oci://{login_registry.host}/golden")
    assert ended.code == 21, ended.err
    assert "certificate" in ended.err


def test_a_wrong_password_is_refused_and_not_kept(
    login_registry: RealRegistry, monkeypatch: pytest.MonkeyPatch, isolated_home: Path
) -> None:
    trusting(monkeypatch, login_registry)
    ended = binpkg("login", login_registry.host, "-u", "alice", "--password-stdin", stdin="battery staple")
    assert ended.code == 22
    assert "battery" not in ended.err
    assert not (isolated_home / ".docker" / "config.json").exists()
    assert "no login" in binpkg("logout", login_registry.host).out


@pytest.mark.parametrize("kind", ["docker", "podman"])
def test_run_and_load_through_an_engine_socket(
    kind: str,
    request: pytest.FixtureRequest,
    debian_base: BaseImage,
    golden_store_at_prefix: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = request.getfixturevalue(kind)
    monkeypatch.setenv("DOCKER_HOST" if kind == "docker" else "CONTAINER_HOST", engine.url)
    cache = f"oci-layout:{tmp_path}/cache"
    base = f"oci-layout:{debian_base.layout}:{debian_base.tag}"
    image = binpkg("image", cache, "greet@2.1", "--store", golden_store_at_prefix, "--base-image", base, "--tag", "hi")
    assert image.code == LACKS_A_DEPENDENCY, image.err
    loaded = binpkg("load", f"{cache}:hi", "--engine", kind)
    assert loaded.code == 0, loaded.err
    assert loaded.out.startswith("localhost/cache:hi  sha256:")
    ran = binpkg("run", f"{cache}:hi", "--engine", kind, *LIMITS, "--", "greet")
    assert ran.code == 0, ran.err
    assert ran.lines == [f"from {GREET['2.1'][0]}", GREET["2.1"][1]]
    failed = binpkg("run", f"{cache}:hi", "--engine", kind, *LIMITS, "--", "sh", "-c", "echo oops >&2; exit 7")
    assert (failed.code, failed.err) == (7, "oops\n")
