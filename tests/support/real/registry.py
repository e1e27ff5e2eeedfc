"""The CNCF Distribution registry as a real server on loopback, with every login it knows and its access log."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.real.certificates import Authority
from tests.support.real.components import command_path
from tests.support.real.process import Daemon, clean_environment, run_tool
from tests.support.real.token_server import ISSUER, SERVICE, TokenServer

_LISTENING = re.compile(r'msg="listening on 127\.0\.0\.1:(\d+)')
_ACCESS = re.compile(
    r'^\S+ \S+ \S+ \[[^]]*\] "([A-Z]+) (\S+) HTTP/[0-9.]+" (\d{3}) (\d+) "[^"]*" "([^"]*)"', re.MULTILINE
)
_MARKER = "harness-marker"


@dataclass(frozen=True, slots=True)
class AccessLine:
    """One request as the registry logged it; `path` includes the query string, `size` is the answer's body in bytes."""

    method: str
    path: str
    status: int
    size: int
    agent: str


@dataclass(frozen=True, slots=True)
class RegistryOptions:
    """How the registry is set up.

    authority: serve TLS with its server certificate; None is plain HTTP.
    users:     Basic login through htpasswd, user -> password.
    tokens:    Bearer login through this token server (not together with `users`).
    delete:    whether DELETE is allowed.
    """

    authority: Authority | None = None
    users: Mapping[str, str] | None = None
    tokens: TokenServer | None = None
    delete: bool = True


class RealRegistry:
    """A running registry. `host` is 127.0.0.1:PORT, `url` has the scheme; data and log lie in `directory`."""

    def __init__(self, directory: Path, options: RegistryOptions) -> None:
        self.directory = directory
        self.options = options
        directory.mkdir(parents=True, exist_ok=True)
        self._environment = clean_environment(directory)
        config = directory / "config.yml"
        # JSON is YAML; writing it needs no library and no quoting rules.
        config.write_text(json.dumps(self._config(), indent=2))
        argv = [command_path("docker-registry"), "serve", str(config)]
        self._daemon = Daemon(argv, log=directory / "registry.log", env=self._environment)
        port = self._daemon.wait_until(self._port, seconds=20)
        self.host = f"127.0.0.1:{port}"
        self.url = f"{'https' if options.authority else 'http'}://{self.host}"
        self._skip = 0
        self._markers = 0
        self._daemon.wait_until(self._answers, seconds=20)

    @property
    def ca_file(self) -> Path | None:
        return self.options.authority.ca_file if self.options.authority else None

    @property
    def trust(self) -> Path | None:
        """A directory for `--cert-dir` of skopeo and podman; None for plain HTTP."""
        return self.options.authority.trust_directory if self.options.authority else None

    @property
    def blobs(self) -> Path:
        """Where the registry keeps its blobs: `sha256/XX/HEX/data` below this directory."""
        return self.directory / "data" / "docker" / "registry" / "v2" / "blobs"

    def _config(self) -> dict[str, Any]:
        http: dict[str, Any] = {"addr": "127.0.0.1:0", "secret": "only-for-tests"}
        if self.options.authority:
            authority = self.options.authority
            http["tls"] = {"certificate": str(authority.server_certificate), "key": str(authority.server_key)}
        return {
            "version": "0.1",
            "log": {"level": "info", "accesslog": {"disabled": False}},
            "storage": {
                "filesystem": {"rootdirectory": str(self.directory / "data")},
                "delete": {"enabled": self.options.delete},
            },
            "http": http,
            **self._auth(),
        }

    def _auth(self) -> dict[str, Any]:
        if self.options.tokens is not None:
            tokens = self.options.tokens
            bundle = str(tokens.authority.ca_file)
            token = {"realm": tokens.realm, "service": SERVICE, "issuer": ISSUER, "rootcertbundle": bundle}
            return {"auth": {"token": token}}
        if self.options.users is None:
            return {}
        file = self.directory / "htpasswd"
        lines = [self._htpasswd_line(user, password) for user, password in self.options.users.items()]
        file.write_text("".join(lines))
        return {"auth": {"htpasswd": {"realm": "oci-binpkg test", "path": str(file)}}}

    def _htpasswd_line(self, user: str, password: str) -> str:
        # bcrypt is the only form the registry takes; cost 5 keeps each request fast.
        argv = [command_path("htpasswd"), "-nbB", "-C", "5", user, password]
        return run_tool(argv, env=self._environment).stdout.strip() + "\n"

    def _log(self) -> str:
        return self._daemon.log.read_text(errors="replace")

    def _port(self) -> int | None:
        found = _LISTENING.search(self._log())
        return int(found.group(1)) if found else None

    def _answers(self) -> bool | None:
        try:
            return self.get("/v2/") > 0
        except OSError:
            return None

    def get(self, path: str, *, user: str | None = None, password: str = "") -> int:
        """Status of a plain GET, for the harness's own questions; the package's client is not involved."""
        request = urllib.request.Request(f"{self.url}{path}", headers={"User-Agent": _MARKER})
        if user is not None:
            login = base64.b64encode(f"{user}:{password}".encode()).decode()
            request.add_header("Authorization", f"Basic {login}")
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
        if self.ca_file is not None:
            handlers.append(urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=str(self.ca_file))))
        try:
            with urllib.request.build_opener(*handlers).open(request, timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code

    def requests(self) -> list[AccessLine]:
        """Requests since the last `forget_requests`, oldest first, without the harness's own.

        The log is written as requests end; a request of our own, asked for and then awaited in the log, makes sure
        that all earlier ones have been written.
        """
        return self._lines()[self._skip :]

    @property
    def pid(self) -> int:
        """The number of the server's process."""
        return self._daemon.pid

    def forget_requests(self) -> None:
        """Count from here on."""
        self._skip = len(self._lines())

    def _lines(self) -> list[AccessLine]:
        self._markers += 1
        marker = f"/v2/?{_MARKER}={self._markers}"
        self.get(marker)
        deadline = time.monotonic() + 10
        while marker not in self._log():
            if time.monotonic() > deadline:
                message = "the registry does not write its access log"
                raise TimeoutError(message)
            time.sleep(0.01)
        found = (AccessLine(m[1], m[2], int(m[3]), int(m[4]), m[5]) for m in _ACCESS.finditer(self._log()))
        return [line for line in found if line.agent != _MARKER]

    def stop(self) -> None:
        self._daemon.stop()


@contextlib.contextmanager
def real_registry(directory: Path, options: RegistryOptions | None = None) -> Iterator[RealRegistry]:
    """A registry for the length of a `with` block."""
    registry = RealRegistry(directory, options or RegistryOptions())
    try:
        yield registry
    finally:
        registry.stop()
