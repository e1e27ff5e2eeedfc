"""With `retries = 0` in the configuration everything is tried once, whatever it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import fsspec
import pytest

from oci_binpkg.backoff import USUAL, Backoff, configured
from oci_binpkg.cache_opener import AskedTrust, CacheOpener
from oci_binpkg.config.caches import ANYWHERE
from oci_binpkg.config.settings import Settings
from oci_binpkg.connections import Connections, s3_settings
from oci_binpkg.errors import AuthError, BinpkgError, NetworkError, ServerError
from oci_binpkg.events import ignore
from oci_binpkg.model.content import Blob
from oci_binpkg.model.reference import Repository
from oci_binpkg.objects.fsspec import open_fsspec
from oci_binpkg.times import Time
from tests.support.fake_registry import RESET, Bearer, FakeRegistry

ONCE = configured(0)
LAYER = Blob.from_bytes(bytes(range(256)) * 1024)


def refuse_to_wait(seconds: float) -> None:
    pytest.fail(f"waited for {seconds} s")


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as started:
        yield started


def connections(sleep: Callable[[float], None] = refuse_to_wait) -> Connections:
    return Connections(Settings(retries=0), ignore, time=Time(sleep=sleep))


def store(registry: FakeRegistry, sleep: Callable[[float], None] = refuse_to_wait) -> Any:
    return connections(sleep).registry(Repository("http", registry.host, "apps"))


def test_nothing_is_left_out() -> None:
    retried = {
        field.name
        for field in fields(Backoff)
        if field.name.endswith(("retries", "delays", "tries", "restarts", "failures", "rounds"))
    } - {"name_retries"}
    assert {name for name in retried if getattr(ONCE, name) not in (0, 1, ())} == set()
    assert configured(None) == USUAL
    assert configured(3) == Backoff(retries=3)


def test_a_request(registry: FakeRegistry) -> None:
    registry.fault("GET", "/tags/list", times=9, status=503)
    with pytest.raises(ServerError):
        list(store(registry).tags())
    assert len(registry.requests("GET", "/tags/list")) == 1


def test_a_token() -> None:
    with FakeRegistry(auth=Bearer("user", "secret")) as registry:
        registry.fault("GET", "/token", times=9, status=503)
        with pytest.raises((ServerError, AuthError)):
            list(store(registry).tags())
        assert len(registry.requests(path="/token")) == 1


def test_an_upload_as_a_whole(registry: FakeRegistry) -> None:
    registry.fault("PUT", "/blobs/uploads/", times=9, before=RESET)
    looks: list[float] = []
    with pytest.raises(BinpkgError):
        store(registry, looks.append).put(LAYER)
    assert len(registry.requests("PUT", "/blobs/uploads/")) == 1
    assert looks == [1.0, 4.0], "whether it arrived all the same is asked later, too: that sends nothing again"


def test_a_download_that_breaks_off(registry: FakeRegistry) -> None:
    opened = store(registry)
    opened.put(LAYER)
    registry.fault("GET", "/blobs/", times=9, cut=1000)
    with pytest.raises(NetworkError), opened.open(LAYER.descriptor) as stream:
        stream.read()
    assert len(registry.requests("GET", "/blobs/sha256")) == 1


@pytest.mark.parametrize(("retries", "rounds"), [(0, 1), (None, 20)])
def test_a_merge_of_an_index(tmp_path: Path, retries: int | None, rounds: int) -> None:
    opener = CacheOpener(Settings(retries=retries), ignore)
    for address in (f"oci-layout:{tmp_path / 'layout'}", f"file://{tmp_path / 'mirror'}"):
        cache: Any = opener.writable(address, AskedTrust(unsigned=True))
        assert cache._rounds == rounds


def test_s3() -> None:
    settings = s3_settings(ANYWHERE, Settings(retries=0))
    assert (settings.retries, settings.body_retries) == (0, 0)
    usual = s3_settings(ANYWHERE, Settings())
    assert (usual.retries, usual.body_retries) == (5, 1)


def test_a_web_server(registry: FakeRegistry) -> None:
    registry.fault("GET", "/mirror/", times=9, status=503)
    with pytest.raises(ServerError):
        connections().objects(f"http://{registry.host}/mirror").read("index.json")
    assert len(registry.requests("GET", "/mirror/")) == 1


@pytest.mark.parametrize(("once", "tries"), [(True, 1), (False, 6)])
def test_what_fsspec_leads_to(once: bool, tries: int) -> None:
    made: list[Any] = []

    class Patient(fsspec.get_filesystem_class("memory")):  # type: ignore[misc]
        """A file system that tries again by itself."""

        protocol = "patient"
        retries = 6

        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            made.append(self)

    fsspec.register_implementation("patient", Patient, clobber=True)
    list(open_fsspec("patient://bucket/mirror", once=once).list(""))
    assert [each.retries for each in made] == [tries]
