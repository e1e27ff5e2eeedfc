"""`index update` for ten new packages in a large cache on a real registry, beside parsing and writing that index once.

    python registry-test/bench/index_update.py [PACKAGES]

Rounds of both, in turns, and their medians: as calls in this process, and as the command beside a process that does
nothing but parse and write. The packages of the large cache share one manifest: they are listed and in the index, and
must not be read.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

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

ROUNDS = 7
PARSE = """
import sys
from oci_binpkg.cache.index import parse_index
data = open(sys.argv[1], "rb").read()
open(sys.argv[2], "wb").write(parse_index(data, "index").to_bytes())
"""
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


def run(*words: str) -> float:
    """Return the seconds that a process of Python takes."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, capture_output=True, cwd=ROOT)
    return time.perf_counter() - started


def add(registry: RealRegistry, client: RegistryHttpClient, name: str) -> None:
    """Publish packages that the index does not name."""
    for number in range(ADDED):
        cache_in(registry, client).publish(made_up(f"new-{name}-{number}"))
    registry.forget_requests()


def show(title: str, updates: list[float], once: list[float]) -> None:
    """Print medians, and how the rounds differ."""
    ratios = sorted(update / one for update, one in zip(updates, once, strict=True))
    print(
        f"{title}: {median(updates):.2f} s, {median(once):.2f} s to parse and write: {median(ratios):.2f}x"
        f" ({ratios[0]:.2f}x to {ratios[-1]:.2f}x)"
    )


def main() -> None:
    """Print medians of seconds and ratios, and the most requests of an update."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    data = make_index(count)
    requests = 0
    calls: tuple[list[float], list[float]] = ([], [])
    commands: tuple[list[float], list[float]] = ([], [])
    with short_directory() as place, real_registry(place) as registry, RegistryHttpClient(registry.url) as client:
        prepare(registry, cache_in(registry, client), data)
        print(f"{count} packages, an index of {len(data) / 1e6:.1f} MB")
        document, written = Path(place) / "index.json", Path(place) / "written.json"
        document.write_bytes(data)
        for turn in range(ROUNDS):
            calls[1].append(parse_and_write(data))
            add(registry, client, f"call-{turn}")
            started = time.perf_counter()
            report = update_index(cache_in(registry, client))
            calls[0].append(time.perf_counter() - started)
            assert report.written
            assert len(report.unlisted) == ADDED
            requests = max(requests, len(registry.requests()))
            commands[1].append(run("-c", PARSE, str(document), str(written)))
            add(registry, client, f"command-{turn}")
            commands[0].append(run("-m", "oci_binpkg", "index", "update", f"oci+http://{registry.host}/{NAME}"))
            requests = max(requests, len(registry.requests()))
    show("calls", *calls)
    show("commands", *commands)
    print(f"{requests} requests at most")


if __name__ == "__main__":
    main()
