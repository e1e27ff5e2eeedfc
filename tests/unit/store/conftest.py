from __future__ import annotations

from collections.abc import Iterator

import pytest

from oci_binpkg.times import Time
from tests.support.fake_registry import FakeRegistry
from tests.support.plain_http import PlainClient
from tests.support.registry_store import Bench


@pytest.fixture(params=["plain", "real"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """Run a test over the client double and over the real client, which repeats requests itself."""
    with FakeRegistry() as registry:
        if request.param == "plain":
            yield Bench(registry, PlainClient())
            return
        from oci_binpkg.transport.registry_client import RegistryHttpClient

        waits: list[float] = []
        client = RegistryHttpClient(
            registry.url, time=Time(clock=lambda: sum(waits), sleep=waits.append, random=lambda: 0.5, now=lambda: 0.0)
        )
        with client:
            yield Bench(registry, client, client_waits=waits)
