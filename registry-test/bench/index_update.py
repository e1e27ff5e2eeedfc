"""`index update` for ten new packages in a large cache on a real registry, beside parsing and writing that index once.

    python registry-test/bench/index_update.py [PACKAGES]

The packages of the large cache share one manifest: they are listed and in the index, and must not be read.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from catalog import make_index  # noqa: E402 - found by the line above

from oci_binpkg.cache.index import parse_index  # noqa: E402
from oci_binpkg.cache.oci import OciCache  # noqa: E402
from oci_binpkg.cache.protocol import PackageKey  # noqa: E402
from oci_binpkg.model.reference import Repository  # noqa: E402
from oci_binpkg.ops.indexing import update_index  # noqa: E402
from oci_binpkg.store.registry import RegistryStore  # noqa: E402
from oci_binpkg.transport.client import RegistryHttpClient  # noqa: E402
from tests.support.mirrors import made_up, patient  # noqa: E402
from tests.support.real.process import short_directory  # noqa: E402
from tests.support.real.registry import RealRegistry, real_registry  # noqa: E402

ROUNDS = 3
ADDED = 10
NAME = "large"


def cache_in(registry: RealRegistry, client: RegistryHttpClient) -> OciCache:
    """Return a cache that knows nothing yet, like a new process."""
    return OciCache(RegistryStore(client, Repository("http", registry.host, NAME)), pause=patient)


def prepare(registry: RealRegistry, cache: OciCache, data: bytes) -> None:
    """Tag as many packages as the index names, and put the index in its place."""
    example = made_up("example")
    cache.publish(example)
    tags = registry.directory / "data/docker/registry/v2/repositories" / NAME / "_manifests/tags"
    document = parse_index(data, "index")
    for spec in document.packages():
        shutil.copytree(tags / example.key.tag, tags / PackageKey.of(spec).tag)
    shutil.rmtree(tags / example.key.tag)
    cache.merge_index(document, replace=True)


def parse_and_write(data: bytes) -> float:
    """Return the seconds of one reading and one writing of the document."""
    started = time.perf_counter()
    parse_index(data, "index").to_bytes()
    return time.perf_counter() - started


def main() -> None:
    """Print seconds, requests and the ratio of each round."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    data = make_index(count)
    with short_directory() as place, real_registry(place) as registry, RegistryHttpClient(registry.url) as client:
        prepare(registry, cache_in(registry, client), data)
        print(f"{count} packages, an index of {len(data) / 1e6:.1f} MB")
        for turn in range(ROUNDS):
            once = min(parse_and_write(data) for _ in range(ROUNDS))
            for number in range(ADDED):
                cache_in(registry, client).publish(made_up(f"new-{turn}-{number}"))
            registry.forget_requests()
            started = time.perf_counter()
            report = update_index(cache_in(registry, client))
            took = time.perf_counter() - started
            assert report.written
            assert len(report.unlisted) == ADDED
            print(f"{took:.2f} s, {took / once:.2f}x of {once:.2f} s, {len(registry.requests())} requests")


if __name__ == "__main__":
    main()
