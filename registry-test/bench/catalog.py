"""How long the catalog takes to take in an index and to answer, next to `json.loads` of the same bytes.

    python registry-test/bench/catalog.py [--packages 1000 10000 100000] [--work DIR]

Makes indices of that many packages, each with a node of about 1.6 kB and some dependencies, in an image layout; the
catalog reads them from there. Every figure is the best of three, each in a process of its own
(what takes more than a second is run once). Memory is the peak of the
whole process; what the interpreter itself takes is printed for comparison.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from oci_binpkg.model.content import OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST, Blob
from oci_binpkg.model.manifest import Manifest
from oci_binpkg.model.reference import INDEX_TAG
from oci_binpkg.store.layout import LayoutStore

ROOT = Path(__file__).parents[2]


ROUNDS = 3
LONG = 1.0
EDGES = 7
OPTIONS = 6
SHARED = 20
ENVIRONMENT = 100
LETTERS = "abcdefghijklmnopqrstuvwxyz"
CHILD = """
import json, resource, sys, time
{setup}
started = time.perf_counter()
{body}
taken = time.perf_counter() - started
print(json.dumps([taken, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""
REFRESH = """
from oci_binpkg.cache.catalog import Catalog
from oci_binpkg.cache.oci import OciCache
from oci_binpkg.ops.cataloging import Refresh
from oci_binpkg.store.layout import LayoutStore
layout, path = sys.argv[1:]
cache = OciCache(LayoutStore(layout), pause=lambda turn: None)
refresh = Refresh(path, {"bench": layout}, lambda name, known: cache.index_bytes(known), time.time, ttl=0)
"""


def package_hash(number: int) -> str:
    """Return the hash of package `number`."""
    return base64.b32encode(hashlib.sha1(str(number).encode()).digest()).decode().lower()


def package_name(number: int) -> str:
    """Return a name that some twenty packages share."""
    number //= 20
    return f"{LETTERS[number % 26]}{LETTERS[number // 26 % 26]}-package-{number}"


def make_index(count: int) -> bytes:
    """Return an index of `count` packages."""
    rng = random.Random(count)
    installs = {
        package_hash(n): {"spec": node(n, rng), "ref_count": 1, "in_buildcache": n % 10 != 9} for n in range(count)
    }
    return json.dumps({"database": {"version": "8", "installs": installs}}, separators=(",", ":")).encode()


def node(number: int, rng: random.Random) -> dict[str, object]:
    """Return a node with the members Spack writes."""
    # what a package needs is within a hundred others, as in an environment that was installed together
    first = number - number % ENVIRONMENT
    below = sorted({rng.randrange(first, number) for _ in range(EDGES)}) if number > first else []
    # what everything is built with: one of the first packages, all of one name
    below += [rng.randrange(SHARED)] if number >= ENVIRONMENT else []
    target = rng.choice(["x86_64_v3", "zen4", "neoverse_v1"])
    return {
        "name": package_name(number),
        "version": f"{rng.randrange(9)}.{rng.randrange(30)}.{number % 20}",
        "arch": {
            "platform": "linux",
            "platform_os": "ubuntu24.04",
            "target": {
                "name": target,
                "vendor": "generic",
                "features": [],
                "generation": 0,
                "parents": ["x86_64_v2"] if target[0] in "xz" else ["armv8.4a"],
                "cpupart": "",
            },
        },
        "namespace": "builtin",
        "parameters": {
            "build_system": "cmake",
            "build_type": rng.choice(["Release", "Debug"]),
            "generator": rng.choice(["make", "ninja"]),
            "ipo": False,
            "shared": rng.random() < 0.5,
            "pic": rng.random() < 0.5,
            **{f"with_{LETTERS[at]}": rng.random() < 0.5 for at in range(OPTIONS)},
            "unusual": number % 1000 == 7,
            "cflags": [],
            "cppflags": [],
            "cxxflags": [],
            "fflags": [],
            "ldflags": [],
            "ldlibs": [],
        },
        "package_hash": package_hash(-number - 1) + "====",
        "dependencies": [
            {
                "name": package_name(n),
                "hash": package_hash(n),
                "parameters": {"deptypes": ["build", "link"], "virtuals": ["c"] if n < SHARED else []},
            }
            for n in below
        ],
        "annotations": {"original_specfile_version": 5},
        "hash": package_hash(number),
    }


def publish(layout: str, data: bytes) -> None:
    """Put an index into an image layout."""
    store = LayoutStore(layout)
    document = Blob.from_bytes(data, OCI_LAYER_GZIP)
    config = Blob.from_bytes(b"{}", OCI_CONFIG)
    for blob in (document, config):
        store.put(blob)
    manifest = Manifest(OCI_MANIFEST, config.descriptor, (document.descriptor,))
    store.tag(Blob.from_bytes(manifest.to_bytes(), OCI_MANIFEST), INDEX_TAG)


def prepare(layout: str, document: Path, count: int, *, change: bool) -> None:
    """Write an index in a process of its own; with `change` one that lacks a package."""
    made = multiprocessing.get_context("spawn").Process(target=prepared, args=(layout, document, count, change))
    made.start()
    made.join()


def prepared(layout: str, document: Path, count: int, change: bool) -> None:
    """Write an index as a document and into an image layout."""
    data = make_index(count)
    if change:
        other = json.loads(data)
        other["database"]["installs"].popitem()
        data = json.dumps(other, separators=(",", ":")).encode()
    document.write_bytes(data)
    publish(layout, data)


def child(setup: str, body: str, *arguments: str) -> tuple[float, float]:
    """Run code in a process of its own; return seconds of `body`, and the peak of the process in MiB."""
    code = CHILD.format(setup=setup, body=body)
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, cwd=ROOT
    )
    taken, peak = json.loads(done.stdout.splitlines()[-1])
    return taken, peak


def best(measured: list[tuple[float, float]]) -> tuple[float, float]:
    """Return the shortest time and the highest peak."""
    return min(taken for taken, _ in measured), max(peak for _, peak in measured)


def measure(count: int, work: Path) -> None:
    """Print the figures for one size."""
    layout, document = str(work / f"layout-{count}"), work / f"index-{count}.json"
    # a child's peak counts from its parent's size: ours must stay small
    prepare(layout, document, count, change=False)
    size = document.stat().st_size
    print(f"\n{count:,} packages, index of {size / 1e6:.1f} MB")
    loads = best(
        [child("data = open(sys.argv[1], 'rb').read()", "json.loads(data)", str(document)) for _ in range(ROUNDS)]
    )
    print(f"  json.loads            {loads[0]:7.3f} s   peak {loads[1]:5.0f} MiB")
    fresh = best(
        [child(REFRESH, "refresh.run()", layout, str(work / f"c{count}-{n}" / "catalog.sqlite")) for n in range(ROUNDS)]
    )
    print(
        f"  first refresh         {fresh[0]:7.3f} s   peak {fresh[1]:5.0f} MiB   {fresh[0] / loads[0]:.2f} x json.loads"
    )
    path = str(work / f"c{count}-0" / "catalog.sqlite")
    again = best([child(REFRESH, "refresh.run()", layout, path) for _ in range(ROUNDS)])
    print(f"  index unchanged       {again[0]:7.3f} s   peak {again[1]:5.0f} MiB")
    prepare(layout, document, count, change=True)
    changed = child(REFRESH, "refresh.run()", layout, path)
    print(f"  one package changed   {changed[0]:7.3f} s   peak {changed[1]:5.0f} MiB")
    print(f"  catalog on disk       {os.path.getsize(path) / 1e6:7.1f} MB")
    commands(count, layout, work)


def commands(count: int, layout: str, work: Path) -> None:
    """Print wall times of the command, process start included."""
    config = work / f"config-{count}.toml"
    config.write_text(f'[caches.bench]\nurl = "oci-layout:{layout}"\n')
    env = {**os.environ, "OCI_BINPKG_CONFIG": str(config), "XDG_CACHE_HOME": str(work / f"xdg-{count}")}
    wall(["find"], "nowhere-at-all", env=env)
    middle, shared = package_name(count // 2), package_name(0)
    for words in (
        [middle],
        [f"/{package_hash(count // 2)[:7]}"],
        [f"{package_name(count // 2 + 60)} ^{middle}"],
        [f"{middle} ^{shared}@2:"],
        [f"^{middle}"],
        [f"^{middle}@3: +shared"],
        [f"%c={shared} +unusual"],
        [f"^{shared}@=99"],
        ["@8.29.1"],
        ["@8.29.1 +shared~pic ^c"],
        ["+unusual"],
        ["os=debian12"],
        ["no-such-name"],
        [f"^{shared}"],
        [f"^{shared}@0: ~pic"],
        ["+shared"],
        ["@1.2:"],
        [],
    ):
        taken, lines = wall(["find", "--all-arch"], *words, env=env)
        if taken < LONG:
            taken = min(taken, *(wall(["find", "--all-arch"], *words, env=env)[0] for _ in range(ROUNDS)))
        print(f"  find {' '.join(words):<38}{taken:7.3f} s wall  {lines:6} found")


def wall(command: list[str], *words: str, env: dict[str, str]) -> tuple[float, int]:
    """Run the command line; return seconds and lines printed."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "oci_binpkg", *command, *words], capture_output=True, check=False, env=env, cwd=ROOT
    )
    return time.perf_counter() - started, done.stdout.count(b"\n")


def main() -> None:
    """Measure all sizes asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    idle = child("", "pass")
    print(f"the interpreter alone: peak {idle[1]:.0f} MiB")
    with tempfile.TemporaryDirectory(dir=options.work) as work:
        for count in options.packages:
            measure(count, Path(work))


if __name__ == "__main__":
    main()
