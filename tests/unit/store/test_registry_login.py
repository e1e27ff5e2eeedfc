"""Registry store, real client and a registry that wants a login: the three together."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from oci_binpkg.errors import AuthError
from oci_binpkg.times import Time
from oci_binpkg.transport.credentials import Credential, FixedCredential
from oci_binpkg.transport.registry_client import RegistryHttpClient
from tests.support.fake_registry import Basic, Bearer, FakeRegistry
from tests.support.registry_store import Bench, fetch, image, layer

UPLOADS = "/blobs/uploads/"
GOOD = Credential("user", "secret")


def client_for(registry: FakeRegistry, credential: Credential | None) -> RegistryHttpClient:
    waits: list[float] = []
    source = FixedCredential(credential) if credential else None
    return RegistryHttpClient(registry.url, credentials=source, time=Time(clock=lambda: sum(waits), sleep=waits.append))


@pytest.fixture(
    params=[Basic(), Bearer(), Bearer(key="access_token", expires_in=None)], ids=["basic", "bearer", "bare"]
)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with FakeRegistry(auth=request.param) as registry, client_for(registry, GOOD) as client:
        yield Bench(registry, client)


def push(bench: Bench) -> None:
    store, one = bench.store(), layer()
    manifest, config = image(one)
    store.put(one)
    store.put(config)
    store.tag(manifest, "1.0")
    assert fetch(store, store.resolve("1.0")) == manifest.read()
    assert list(store.tags()) == ["1.0"]


@pytest.mark.covers("R13", "R14")
def test_an_image_goes_there_and_back_with_few_tokens(bench: Bench):
    push(bench)
    assert len(bench.registry.requests(path="/token")) <= 2
    bench.store().remove("1.0")
    assert not bench.registry.repo("apps").tags


@pytest.mark.covers("R15", "F30")
@pytest.mark.parametrize(
    ("method", "path"), [("PUT", UPLOADS), ("POST", UPLOADS), ("PUT", "/manifests/"), ("GET", "/tags/")]
)
def test_F30_a_token_that_dies_at_any_step_is_renewed_once(method, path):
    with FakeRegistry(auth=Bearer()) as registry, client_for(registry, GOOD) as client:
        registry.fault(method, path, prepare=lambda _: registry.expire_tokens())
        push(Bench(registry, client))
        assert len([exchange for exchange in registry.requests(method, path) if exchange.status == 401]) <= 2
        assert len(registry.sessions) == 0


@pytest.mark.covers("R14", "F30")
def test_F30_parallel_uploads_share_one_renewal():
    with FakeRegistry(auth=Bearer()) as registry, client_for(registry, GOOD) as client:
        store = Bench(registry, client).store()
        store.put(layer())
        registry.clear()
        registry.expire_tokens()
        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(store.put, [layer(seed=seed) for seed in range(2, 10)]))
        assert len(registry.requests(path="/token")) == 1


@pytest.mark.covers("R15", "R17")
@pytest.mark.parametrize("credential", [None, Credential("user", "wrong")])
def test_without_the_right_login_nothing_is_sent(credential):
    with FakeRegistry(auth=Bearer(anonymous_pull=True)) as registry, client_for(registry, credential) as client:
        with pytest.raises(AuthError):
            Bench(registry, client).store().put(layer())
        assert not registry.requests("PUT")


@pytest.mark.covers("R17")
def test_anonymous_reading_needs_no_login():
    with FakeRegistry(auth=Bearer(anonymous_pull=True)) as registry, client_for(registry, None) as client:
        blob = layer()
        registry.add_blob("apps", blob.read())
        assert fetch(Bench(registry, client).store(), blob.descriptor) == blob.read()


@pytest.mark.covers("R18", "F21")
def test_F21_the_storage_behind_a_redirect_sees_no_login():
    with FakeRegistry(auth=Bearer()) as registry, client_for(registry, GOOD) as client:
        registry.profile.cdn = True
        blob = layer()
        registry.add_blob("apps", blob.read())
        assert fetch(Bench(registry, client).store(), blob.descriptor) == blob.read()
        (stored,) = [exchange for exchange in registry.log if exchange.server == "cdn"]
        assert "authorization" not in stored.headers
        assert "cookie" not in stored.headers
