"""Large layers are on their way while they are packed, and nothing of that shows but the time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from oci_binpkg.archive.codec import Codec
from oci_binpkg.archive.layer_cache import LayerCache
from oci_binpkg.cache.oci import OciCache
from oci_binpkg.events import BytesSent
from oci_binpkg.model.reference import parse_repository
from oci_binpkg.ops.layer_packer import LayerPacker
from oci_binpkg.ops.push import PushOptions, push
from oci_binpkg.ops.push_report import PackageResult, PushReport
from oci_binpkg.ops.selection import select
from oci_binpkg.store.registry.repository import RegistryStore
from oci_binpkg.times import Time
from oci_binpkg.transport.registry_client import RegistryHttpClient
from tests.support.fake_registry import RESET, Answer, FakeRegistry
from tests.support.spack_trees import Sketch, spack_tree

LARGE = hashlib.shake_256(b"large").digest(300_000)
UPLOADS = "/blobs/uploads/"


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        yield registry


@pytest.fixture
def tree(tmp_path: Path):
    return spack_tree(tmp_path / "store", [Sketch("large", files={"data": LARGE}), Sketch("small", files={"s": b"s"})])


class Pushing:
    """Pushes from a layer cache of its own each time, and adds up what observers hear of bytes sent."""

    def __init__(self, registry: FakeRegistry, tree, folder: Path) -> None:
        self.registry, self.tree, self.folder = registry, tree, folder
        self.sent: dict[str, int] = {}
        self.times = 0
        self.followed_from = 100_000

    def __call__(self, **options) -> PushReport:
        self.times += 1
        installs = self.tree.installs()
        layers = LayerCache(str(self.folder / str(self.times)), 2**30, time=Time(now=lambda: 0.0))
        packer = LayerPacker(installs, layers, Codec.parse("gzip"), followed_from=self.followed_from)
        unhurried = Time(sleep=lambda _: None)
        with RegistryHttpClient(self.registry.url, time=unhurried) as client:
            repository = parse_repository(f"{self.registry.host}/apps", scheme="http")
            store = RegistryStore(client, repository, time=unhurried, observer=self.observe)
            cache = OciCache(store, pause=lambda _: None)
            chosen = select(installs, [])
            return push(installs, chosen, cache, packer, options=PushOptions(**options), observer=self.observe)

    def observe(self, event: object) -> None:
        if isinstance(event, BytesSent):
            self.sent[event.key] = self.sent.get(event.key, 0) + event.count

    def bodies(self, method: str) -> list[int]:
        return [
            e.length for e in self.registry.log if e.method == method and UPLOADS in e.target and e.length > 100_000
        ]


@pytest.fixture
def pushing(registry: FakeRegistry, tree, tmp_path: Path) -> Pushing:
    return Pushing(registry, tree, tmp_path / "layers")


def one(report: PushReport, name: str) -> PackageResult:
    return next(result for result in report.packages if result.spec.name == name)


def test_only_the_large_one_goes_ahead_and_is_told_as_sent(pushing: Pushing):
    report = pushing()
    large, small = one(report, "large"), one(report, "small")
    assert large.error is None, report
    assert pushing.bodies("PATCH") == [large.size]
    assert pushing.bodies("PUT") == []
    assert (large.sent, small.sent) == (True, True)
    assert pushing.sent[large.spec.hash] == large.size


def test_where_it_is_refused_the_layer_is_put_and_its_bytes_are_counted_once(pushing: Pushing):
    pushing.registry.fault("PATCH", UPLOADS, answer=Answer.error(405, "UNSUPPORTED"), times=0)
    large = one(pushing(), "large")
    assert large.error is None
    assert pushing.bodies("PUT") == [large.size]
    assert pushing.sent[large.spec.hash] == large.size


@pytest.mark.parametrize(
    ("method", "fault"),
    [  # a PUT carries a layer that is not sent ahead
        ("GET", {"status": 200, "times": 0, "nth": 10**6}),  # nothing fails
        ("PUT", {"before": RESET, "read": 50}),
        ("PUT", {"after": RESET}),
        ("PUT", {"status": 500, "times": 2}),
        ("PATCH", {"before": RESET, "read": 1000}),
        ("PATCH", {"answer": Answer.error(405, "UNSUPPORTED"), "times": 0}),
        ("PUT", {"answer": Answer.error(413, "SIZE_INVALID"), "times": 1}),
    ],
)
def test_the_bytes_told_as_sent_are_those_of_the_blobs_that_the_registry_has(pushing: Pushing, method: str, fault):
    """Whoever counts, each byte is told once, and an upload that is tried again counts once."""
    failing = pushing.registry.fault(method, UPLOADS, **fault)
    if method == "PUT":
        pushing.followed_from = 10**9
    report = pushing(update_index=True)
    assert all(result.error is None for result in report.packages), report
    assert method == "GET" or failing.fired
    blobs = pushing.registry.repos["apps"].blobs
    assert len(blobs) >= 5  # two layers, two configurations, the index
    assert sum(pushing.sent.values()) == sum(len(data) for data in blobs.values())
    assert all(count >= 0 for count in pushing.sent.values())


def test_what_the_cache_has_is_packed_anew_when_forced_and_not_sent(pushing: Pushing):
    pushing()
    pushing.registry.log.clear()
    pushing.sent.clear()
    large = one(pushing(force=True), "large")
    assert large.error is None
    assert pushing.bodies("PATCH") == pushing.bodies("PUT") == []
    assert large.sent is False
