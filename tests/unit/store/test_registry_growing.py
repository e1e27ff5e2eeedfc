"""Blobs that are sent to a registry while they are made: at best in one go, and otherwise as if nothing had been."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import pytest

from oci_binpkg.errors import ContentError
from oci_binpkg.events import Retrying, Warned
from oci_binpkg.model.content import Blob, Descriptor, Growing
from oci_binpkg.times import Time
from oci_binpkg.transport.credentials import Credential, FixedCredential
from oci_binpkg.transport.registry_client import RegistryHttpClient
from tests.support.fake_registry import CLOSE, RESET, Answer, Bearer, FakeRegistry
from tests.support.registry_store import KIB, Bench, layer

UPLOADS = "/blobs/uploads/"
BROKEN = {
    "a chunked upload is not offered": {"method": "PATCH", "answer": Answer.error(405, "UNSUPPORTED")},
    "a length is required": {"method": "PATCH", "answer": Answer(411)},
    "the body is cut off": {"method": "PATCH", "before": RESET, "read": 100 * KIB},
    "the answer to the body is lost": {"method": "PATCH", "after": CLOSE},
    "a server error": {"method": "PATCH", "answer": Answer(503)},
    "the session is not opened": {"method": "POST", "answer": Answer.error(403, "DENIED")},
    "the commit fails": {"method": "PUT", "answer": Answer.error(404, "BLOB_UPLOAD_UNKNOWN")},
    "the answer to the commit is lost": {"method": "PUT", "after": RESET},
    "the next address leads elsewhere": {"method": "PATCH", "headers": {"Location": "https://other.example/upload"}},
}


@pytest.fixture
def bench() -> Iterator[Bench]:
    with FakeRegistry() as registry:
        login = FixedCredential(Credential.of_login("user", "secret"))
        waits: list[float] = []
        client = RegistryHttpClient(
            registry.url,
            credentials=login,
            time=Time(clock=lambda: sum(waits), sleep=waits.append, random=lambda: 0.5, now=lambda: 0.0),
        )
        with client:
            yield Bench(registry, client, client_waits=waits)


def growing(blob: Blob, *, fails: bool = False) -> Growing:
    """Return a blob as one that is still being made; it may end in the middle."""

    @contextmanager
    def opened() -> Iterator[BinaryIO]:
        with blob.open() as stream:
            yield _Failing(stream) if fails else stream  # type: ignore[misc]

    def end() -> Descriptor:
        if fails:
            raise ContentError("not made to its end")
        return blob.descriptor

    return Growing(opened, end)


class _Failing:
    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._left = 200 * KIB

    def read(self, size: int) -> bytes:
        if not self._left:
            raise ContentError("not made to its end")
        data = self._stream.read(min(size, self._left))
        self._left -= len(data)
        return data


def holds(bench: Bench, blob: Blob) -> bool:
    return bench.registry.repo("apps").blobs.get(str(blob.descriptor.digest)) == blob.read()


@pytest.mark.parametrize("size", [0, 1, 700 * KIB])
def test_it_takes_one_session_and_one_body_of_unknown_length(bench: Bench, size: int):
    blob, store = layer(size), bench.store()
    assert store.put_growing(growing(blob)) is True
    assert holds(bench, blob)
    assert bench.methods() == ["POST", "PATCH", "PUT"]
    patch = bench.registry.log[1]
    assert patch.headers["transfer-encoding"] == "chunked"
    assert "content-length" not in patch.headers
    assert "content-range" not in patch.headers


def test_what_was_sent_so_is_not_asked_for_again(bench: Bench):
    blob, store = layer(300 * KIB), bench.store()
    store.put_growing(growing(blob))
    assert store.put(blob) is False
    assert len(bench.registry.log) == 3


@pytest.mark.parametrize("fault", BROKEN.values(), ids=BROKEN.keys())
def test_whatever_goes_wrong_the_ordinary_way_finds_or_sends_it(bench: Bench, fault: dict):
    bench.registry.fault(**{"path": UPLOADS} | fault)
    blob, store = layer(300 * KIB), bench.store()
    assert store.put_growing(growing(blob)) is False
    store.put(blob)
    assert holds(bench, blob)
    assert not bench.registry.sessions
    assert not [event for event in bench.events if isinstance(event, Retrying | Warned)]


def test_a_registry_that_did_not_take_one_is_not_tried_again(bench: Bench):
    bench.registry.fault("PATCH", UPLOADS, answer=Answer.error(405, "UNSUPPORTED"), times=0)
    first, second, store = layer(300 * KIB), layer(200 * KIB, 2), bench.store()
    for blob in (first, second):
        assert store.put_growing(growing(blob)) is False
        store.put(blob)
    assert bench.methods().count("PATCH") == 1
    assert holds(bench, first)
    assert holds(bench, second)


def test_one_that_is_never_whole_is_given_up_and_the_next_is_sent(bench: Bench):
    broken, whole, store = layer(700 * KIB), layer(200 * KIB, 2), bench.store()
    assert store.put_growing(growing(broken, fails=True)) is False
    assert not bench.registry.repo("apps").blobs
    assert not bench.registry.sessions
    assert store.put_growing(growing(whole)) is True
    assert holds(bench, whole)


def test_a_token_that_is_over_meanwhile_is_renewed_and_the_body_sent_from_its_start(bench: Bench):
    bench.registry.auth = Bearer(uses=1)
    blob, store = layer(300 * KIB), bench.store()
    assert store.put_growing(growing(blob)) is True
    assert holds(bench, blob)
    assert [exchange.status for exchange in bench.registry.log if exchange.method == "PATCH"] == [401, 202]
