from __future__ import annotations

import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from oci_binpkg.events import Event
from oci_binpkg.transport.client import RegistryHttpClient
from oci_binpkg.transport.credentials import Credential, FixedCredential
from tests.support.fake_time import FakeTime
from tests.support.scripted_server import ScriptedServer

_AUTHORITY = """
[ca]
default_ca = authority
[authority]
database = {directory}/index.txt
serial = {directory}/serial
default_md = sha256
policy = any
[any]
commonName = supplied
[names]
subjectAltName = IP:127.0.0.1
"""


@dataclass
class Bench:
    """Scripted servers, and clients on a fake clock that ask them."""

    time: FakeTime = field(default_factory=FakeTime)
    events: list[Event] = field(default_factory=list)
    server: ScriptedServer = field(default_factory=ScriptedServer)
    started: list[ScriptedServer] = field(default_factory=list)

    def another(self, tls: ssl.SSLContext | None = None) -> ScriptedServer:
        server = ScriptedServer(tls)
        server.__enter__()
        self.started.append(server)
        return server

    def client(self, origin: str = "", *, credential: Credential | None = None, **kwargs) -> RegistryHttpClient:
        kwargs.setdefault("credentials", FixedCredential(credential))
        return RegistryHttpClient(
            origin or self.server.origin,
            clock=self.time.clock,
            now=self.time.now,
            sleep=self.time.sleep,
            random=lambda: 0.5,
            observer=self.events.append,
            **kwargs,
        )

    def url(self, path: str) -> str:
        return self.server.origin + path


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    with made.server:
        yield made
        for server in made.started:
            server.__exit__()


@dataclass(frozen=True)
class Certificates:
    """Self-signed certificates, each its own authority."""

    directory: Path

    def make(self, name: str, subject: str = "IP:127.0.0.1,DNS:localhost") -> Path:
        path = self.directory / f"{name}.pem"
        if not path.exists():
            self._request(path, "-x509", "-days", "2", "-addext", f"subjectAltName={subject}")
        return path

    def make_expired(self) -> Path:
        """A certificate of 2020: `openssl req` cannot make one, `openssl ca` can."""
        path = self.directory / "expired.pem"
        configuration = self.directory / "ca.cnf"
        configuration.write_text(_AUTHORITY.format(directory=self.directory))
        (self.directory / "index.txt").touch()
        (self.directory / "serial").write_text("01")
        self._request(Path(f"{path}.csr"), "-new")
        command = [
            "openssl",
            "ca",
            "-selfsign",
            "-batch",
            "-notext",
            "-config",
            str(configuration),
            "-in",
            f"{path}.csr",
        ]
        command += ["-keyfile", f"{path}.csr.key", "-out", str(path), "-outdir", str(self.directory)]
        command += ["-startdate", "20200101000000Z", "-enddate", "20200102000000Z", "-extensions", "names"]
        subprocess.run(command, check=True, capture_output=True)
        Path(f"{path}.csr.key").rename(f"{path}.key")
        return path

    def _request(self, path: Path, *options: str) -> None:
        command = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj"]
        command += ["/CN=test", "-keyout", f"{path}.key", "-out", str(path), *options]
        subprocess.run(command, check=True, capture_output=True)

    def context(self, path: Path) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path, f"{path}.key")
        return context


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))
