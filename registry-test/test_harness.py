"""The harness itself: real servers start, behave as their protocols say, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import docker as docker_sdk
import pytest
import requests

from tests.support.real.base_images import BaseImage
from tests.support.real.components import Component, RealParts, why_missing
from tests.support.real.debian_packages import Corpus
from tests.support.real.engines import DockerEngine, PodmanEngine, docker_engine, podman_engine
from tests.support.real.process import mounts_below
from tests.support.real.registry import RealRegistry
from tests.support.real.token_server import TokenServer

pytestmark = pytest.mark.real

GOLDEN = Path(__file__).parents[1] / "fixtures" / "golden" / "oci-layout"
Tool = Callable[..., CompletedProcess[str]]
ALICE = ("alice", "correct horse")


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_login_registry_asks_then_lets_in_only_with_the_right_password(login_registry: RealRegistry) -> None:
    ask = f"{login_registry.url}/v2/"
    trust = str(login_registry.ca_file)
    refused = requests.get(ask, verify=trust, timeout=10)
    assert refused.status_code == 401
    assert refused.headers["WWW-Authenticate"].startswith("Basic realm=")
    assert requests.get(ask, verify=trust, timeout=10, auth=("alice", "wrong")).status_code == 401
    assert requests.get(ask, verify=trust, timeout=10, auth=ALICE).status_code == 200


def test_its_certificate_is_trusted_by_nobody_else(login_registry: RealRegistry) -> None:
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(f"{login_registry.url}/v2/", timeout=10)


def test_access_log_counts_requests_in_order(plain_registry: RealRegistry) -> None:
    plain_registry.forget_requests()
    assert plain_registry.requests() == []
    requests.get(f"{plain_registry.url}/v2/nothing/tags/list?n=5", timeout=10)
    requests.head(f"{plain_registry.url}/v2/", timeout=10)
    seen = [(line.method, line.path, line.status) for line in plain_registry.requests()]
    assert seen == [("GET", "/v2/nothing/tags/list?n=5", 404), ("HEAD", "/v2/", 200)]


def test_skopeo_moves_the_golden_packages_through_tls_and_login(login_registry: RealRegistry, skopeo: Tool) -> None:
    tag = "greet-2.1-pciyz3mcnwsea3kxfvomliqdagbtq7g5.spack"
    target = f"docker://{login_registry.host}/golden/cache:{tag}"
    login = ":".join(ALICE)
    trust = str(login_registry.trust)
    skopeo("copy", "--preserve-digests", "--dest-creds", login, "--dest-cert-dir", trust, f"oci:{GOLDEN}:{tag}", target)
    shown = skopeo("inspect", "--raw", "--creds", login, "--cert-dir", trust, target).stdout
    digest = "cbb5a45b4f7f23e62710bd114a26f0c116013b705a6ddb7ff4afe52d1d08d046"
    assert shown == (GOLDEN / "blobs" / "sha256" / digest).read_text()
    assert (login_registry.blobs / "sha256" / digest[:2] / digest / "data").exists()


def test_docker_style_token_flow(token_registry: RealRegistry, tokens: TokenServer) -> None:
    trust = str(token_registry.ca_file)
    challenge = requests.post(f"{token_registry.url}/v2/flow/blobs/uploads/", verify=trust, timeout=10)
    assert challenge.status_code == 401
    header = challenge.headers["WWW-Authenticate"]
    assert header.startswith(f'Bearer realm="{tokens.realm}"')
    # The registry lists the actions in no fixed order.
    assert set(header.rpartition("repository:flow:")[2].rstrip('"').split(",")) == {"pull", "push"}

    def upload_with(auth: tuple[str, str] | None) -> int:
        query = {"service": "oci-binpkg-test-registry", "scope": "repository:flow:pull,push"}
        token = requests.get(tokens.realm, params=query, auth=auth, verify=trust, timeout=10).json()["token"]
        bearer = {"Authorization": f"Bearer {token}"}
        url = f"{token_registry.url}/v2/flow/blobs/uploads/"
        return requests.post(url, headers=bearer, verify=trust, timeout=10).status_code

    assert upload_with(None) == 401  # anybody may only pull
    assert upload_with(ALICE) == 202
    assert requests.get(tokens.realm, auth=("alice", "wrong"), verify=trust, timeout=10).status_code == 401


def test_skopeo_and_podman_use_the_token_server(
    token_registry: RealRegistry,
    tokens: TokenServer,
    busybox_base: BaseImage,
    skopeo: Tool,
    podman: PodmanEngine,
) -> None:
    image = f"{token_registry.host}/tokens/busybox:1"
    before = len(tokens.issued)
    trust = token_registry.trust
    creds = ":".join(ALICE)
    skopeo("copy", "--dest-creds", creds, "--dest-cert-dir", str(trust), busybox_base.reference, f"docker://{image}")
    assert "alice" in {given.user for given in tokens.issued[before:]}
    podman.pull(image, trust=trust)
    assert podman.run(image, "echo", "from podman") == "from podman\n"


def test_docker_runs_what_skopeo_pushed(
    login_registry: RealRegistry, busybox_base: BaseImage, skopeo: Tool, docker: DockerEngine
) -> None:
    image = f"{login_registry.host}/bases/busybox:1"
    trust = str(login_registry.trust)
    creds = ":".join(ALICE)
    skopeo("copy", "--dest-creds", creds, "--dest-cert-dir", trust, busybox_base.reference, f"docker://{image}")
    docker.login(login_registry.host, *ALICE)
    docker.pull(image)
    assert docker.run(image, "sh", "-c", "id -u; readlink /bin/sh") == "0\nbusybox\n"


def test_docker_pulls_over_plain_http(
    plain_registry: RealRegistry, busybox_base: BaseImage, skopeo: Tool, docker: DockerEngine
) -> None:
    image = f"{plain_registry.host}/bases/plain:1"
    skopeo("copy", "--dest-tls-verify=false", busybox_base.reference, f"docker://{image}")
    docker.pull(image)
    assert docker.run(image, "echo", "hello") == "hello\n"


def test_both_sockets_speak_the_docker_api(docker: DockerEngine, podman: PodmanEngine) -> None:
    for engine in (docker, podman):
        client = docker_sdk.DockerClient(base_url=engine.url)
        try:
            assert client.ping()
        finally:
            client.close()


def test_umoci_unpacks_the_busybox_base(busybox_base: BaseImage, umoci: Tool, tmp_path: Path) -> None:
    umoci("unpack", "--rootless", "--image", f"{busybox_base.layout}:{busybox_base.tag}", str(tmp_path / "bundle"))
    assert (tmp_path / "bundle" / "rootfs" / "bin" / "busybox").stat().st_mode & 0o777 == 0o755


def test_buildah_runs_a_command_in_the_debian_base(debian_base: BaseImage, buildah: Tool) -> None:
    container = buildah("from", "--quiet", debian_base.reference).stdout.strip()
    try:
        assert "bookworm" in buildah("run", "--isolation", "chroot", container, "cat", "/etc/os-release").stdout
    finally:
        buildah("rm", container)


def test_golden_store_runs_where_it_was_built(golden_store_at_prefix: Path) -> None:
    prefix = next(golden_store_at_prefix.glob("linux-x86_64/greet-2.1-*"))
    done = subprocess.run([prefix / "bin" / "greet"], check=True, capture_output=True, text=True)
    assert done.stdout == f"from {prefix}\nHELLO, world (lib 1.3.0)\n"


def test_corpus_is_of_real_packages_in_dependency_order(debian_corpus: Callable[[int], Corpus]) -> None:
    corpus = debian_corpus(40)
    listed = tomllib.loads(corpus.packages_toml.read_text())["package"]
    assert len(listed) == 40
    before: set[str] = set()
    for package in listed:
        assert Path(package["prefix"]).is_dir()
        assert set(package["depends"]) <= before, package["name"]
        before.add(package["name"])
    assert any(len(package["depends"]) > 3 for package in listed)


def test_engines_leave_no_process_mount_or_file(parts: RealParts, busybox_base: BaseImage) -> None:
    parts.require("docker", "podman")
    with docker_engine() as docker, podman_engine() as podman:
        directories = [docker.socket.parent, podman.socket.parent]
        assert podman.url
        podman.client("pull", "--quiet", busybox_base.reference)
        processes = [
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and any(str(directory) in command_line(entry) for directory in directories)
        ]
        assert len(processes) >= 3  # dockerd, its containerd, Podman's service
    assert [pid for pid in processes if alive(pid)] == []
    for directory in directories:
        assert not directory.exists()
        assert mounts_below(directory) == []


def command_line(entry: Path) -> str:
    try:
        return (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


_STARTER = """
import sys, time
from pathlib import Path
from tests.support.real.registry import RealRegistry, RegistryOptions
registry = RealRegistry(Path(sys.argv[1]), RegistryOptions())
print(registry._daemon.pid, flush=True)
time.sleep(60)
"""


def test_a_killed_test_run_leaves_no_server(parts: RealParts, tmp_path: Path) -> None:
    parts.require("registry")
    root = Path(__file__).parents[1]
    argv = [sys.executable, "-c", _STARTER, str(tmp_path / "registry")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=root) as starter:
        assert starter.stdout is not None
        server = int(starter.stdout.readline())
        assert alive(server)
        os.kill(starter.pid, signal.SIGKILL)
        starter.wait()
    deadline = time.monotonic() + 10
    while alive(server) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(server)


def test_a_missing_part_is_a_skip_here_and_a_failure_where_all_must_be_there() -> None:
    absent = Component("registry", ("no-such-command-anywhere",), ("docker-registry",))
    assert why_missing(absent) == "no-such-command-anywhere not installed (Debian: docker-registry)"
    for complete, outcome in ((False, pytest.skip.Exception), (True, pytest.fail.Exception)):
        parts = RealParts(complete=complete)
        with pytest.raises(outcome, match="real part missing: registry: gone"):
            parts.give_up("registry", "gone")
        assert parts.statement() == ["real parts that ran: none", "real part missing: registry: gone"]
