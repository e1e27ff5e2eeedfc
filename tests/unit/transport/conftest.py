from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from oci_binpkg.events import Event
from oci_binpkg.transport.credentials import Credential, FixedCredential
from oci_binpkg.transport.registry_client import RegistryHttpClient
from tests.support.fake_time import FakeTime
from tests.support.scripted_server import ScriptedServer
from tests.support.self_signed import Certificates


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
            time=self.time.time,
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


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))
