"""Docker and Podman as real engines in a temporary directory, with their API sockets."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support.real.components import command_path
from tests.support.real.process import Daemon, clean_environment, run_tool, short_directory

# Made by dockerd and its containerd whatever directories they are given.
_DOCKER_LEAVINGS = (Path("/etc/docker/key.json"), Path("/opt/containerd"))

# conmon and runc raise limits to what the configuration asks for, which a restricted machine refuses.
_LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")

_CONTAINERS_CONF = """\
[engine]
lock_type = "file"
cgroup_manager = "cgroupfs"
runtime = "runc"
events_logger = "file"
tmp_dir = "{directory}/tmp"
"""


class DockerEngine:
    """A Docker daemon of its own. `url` is its API address; `config` is the client's DOCKER_CONFIG directory.

    The daemon takes every registry on 127.0.0.0/8 as one that need not be trusted (its default), so it accepts both plain
    HTTP and a certificate of an authority that only the tests know.
    """

    name = "docker"

    def __init__(self, directory: Path) -> None:
        self.socket = directory / "docker.sock"
        self.url = f"unix://{self.socket}"
        self.config = directory / "client"
        self.config.mkdir(parents=True)
        self._environment = clean_environment(directory, DOCKER_CONFIG=str(self.config), DOCKER_HOST=self.url)
        argv = [
            *(command_path("dockerd"), "--iptables=false", "--ip6tables=false", "--bridge=none", "--host", self.url),
            *("--data-root", str(directory / "data"), "--exec-root", str(directory / "exec")),
            *("--pidfile", str(directory / "docker.pid")),
        ]
        self._daemon = Daemon(argv, log=directory / "dockerd.log", env=self._environment)
        self._daemon.wait_until(self._answers, seconds=60)

    def _answers(self) -> bool | None:
        return True if self.client("version", check=False).returncode == 0 else None

    def client(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """The docker command against this daemon."""
        return run_tool(self.command(*arguments), env=self._environment, check=check)

    def command(self, *arguments: str) -> list[str]:
        """What `client` runs, for those who run it themselves in `environment`."""
        return [command_path("docker"), *arguments]

    @property
    def environment(self) -> dict[str, str]:
        return dict(self._environment)

    @property
    def pid(self) -> int:
        """The daemon's process; others that it needs are below it."""
        return self._daemon.pid

    def pull(self, reference: str) -> None:
        self.client("pull", "--quiet", reference)

    def login(self, host: str, user: str, password: str) -> None:
        self.client("login", "--username", user, "--password", password, host)

    def run(self, image: str, *arguments: str, options: tuple[str, ...] = ()) -> str:
        """Standard output of a container without a network, removed afterwards."""
        return self.client("run", "--rm", "--network", "none", *options, image, *arguments).stdout

    def stop(self) -> None:
        # The daemon stops its containers itself on SIGTERM; half a minute is its own patience with them.
        self._daemon.stop(grace=30)


class PodmanEngine:
    """Podman with storage of its own; its API service is started the first time that `url` is asked for."""

    name = "podman"

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "podman.sock"
        self._service: Daemon | None = None
        configuration = directory / "containers.conf"
        configuration.write_text(_CONTAINERS_CONF.format(directory=directory))
        self._environment = clean_environment(directory, CONTAINERS_CONF=str(configuration))
        self._base = [command_path("podman"), "--root", str(directory / "root"), "--runroot", str(directory / "run")]
        self.client("info")

    @property
    def url(self) -> str:
        address = f"unix://{self.socket}"
        if self._service is None:
            argv = [*self._base, "system", "service", "--time", "0", address]
            self._service = Daemon(argv, log=self.directory / "service.log", env=self._environment)
            self._service.wait_until(lambda: self.socket.exists() or None, seconds=30)
        return address

    def client(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """The podman command on this storage."""
        return run_tool([*self._base, *arguments], env=self._environment, check=check)

    def pull(self, reference: str, *, trust: Path | None = None) -> None:
        """Pull; `trust` is a directory with a `ca.crt`, without it the registry is not verified or plain HTTP."""
        self.client("pull", "--quiet", *_tls(trust), f"docker://{reference}")

    def login(self, host: str, user: str, password: str, *, trust: Path | None = None) -> None:
        self.client("login", "--username", user, "--password", password, *_tls(trust), host)

    def run(self, image: str, *arguments: str, options: tuple[str, ...] = ()) -> str:
        """Standard output of a container without a network, removed afterwards."""
        return self.client("run", "--rm", "--network", "none", *_LIMITS, *options, image, *arguments).stdout

    def stop(self) -> None:
        self.client("rm", "--all", "--force", "--time", "0", check=False)
        if self._service is not None:
            self._service.stop()


def _tls(trust: Path | None) -> tuple[str, ...]:
    return ("--tls-verify=false",) if trust is None else ("--cert-dir", str(trust))


@contextlib.contextmanager
def docker_engine() -> Iterator[DockerEngine]:
    """A Docker daemon in a directory of its own, both gone afterwards."""
    with short_directory() as directory, _without_leavings():
        engine = DockerEngine(directory)
        try:
            yield engine
        finally:
            engine.stop()


@contextlib.contextmanager
def _without_leavings() -> Iterator[None]:
    new = [path for path in _DOCKER_LEAVINGS if not path.exists()]
    try:
        yield
    finally:
        for path in new:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


@contextlib.contextmanager
def podman_engine() -> Iterator[PodmanEngine]:
    """Podman in a directory of its own, gone afterwards with its containers."""
    with short_directory() as directory:
        engine = PodmanEngine(directory)
        try:
            yield engine
        finally:
            engine.stop()
