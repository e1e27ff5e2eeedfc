"""Indices of made-up packages, each with a node of about 1.6 kB and some dependencies; in a layout or a registry."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from oci_binpkg.cache.oci import OciCache
from oci_binpkg.model.content import OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST, Blob
from oci_binpkg.model.manifest import Manifest
from oci_binpkg.model.reference import INDEX_TAG, PackageKey, Repository
from oci_binpkg.store.layout import LayoutStore
from oci_binpkg.store.registry.repository import RegistryStore
from oci_binpkg.transport.registry_client import RegistryHttpClient
from tests.support.mirrors import made_up, patient
from tests.support.opened_index import open_index
from tests.support.real.registry import RealRegistry

EDGES: Final = 7
OPTIONS: Final = 6
SHARED: Final = 20
"""How many packages everything is built with; all have one name."""
ENVIRONMENT: Final = 100
LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class Index:
    """An index of `count` packages as a file."""

    count: int
    document: Path


def index_of(count: int, folder: Path) -> Index:
    """Make an index in `folder`, or take it from there."""
    index = Index(count, folder / f"made-up-{count}.json")
    if not index.document.exists():
        index.document.write_bytes(make_index(count))
    return index


def without_one(data: bytes) -> bytes:
    """Return an index without its last package."""
    document = json.loads(data)
    document["database"]["installs"].popitem()
    return json.dumps(document, separators=(",", ":")).encode()


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


def publish(layout: Path, data: bytes) -> None:
    """Put an index into an image layout."""
    store = LayoutStore(str(layout))
    document = Blob.from_bytes(data, OCI_LAYER_GZIP)
    config = Blob.from_bytes(b"{}", OCI_CONFIG)
    for blob in (document, config):
        store.put(blob)
    manifest = Manifest(OCI_MANIFEST, config.descriptor, (document.descriptor,))
    store.tag(Blob.from_bytes(manifest.to_bytes(), OCI_MANIFEST), INDEX_TAG)


def fill(registry: RealRegistry, name: str, data: bytes) -> None:
    """Put an index into a registry, and the tags of all packages that it names.

    The packages share one manifest: they are listed and in the index, and must not be read.
    """
    with RegistryHttpClient(registry.url) as client:
        cache = OciCache(RegistryStore(client, Repository("http", registry.host, name)), pause=patient)
        example = made_up("example")
        cache.publish(example)
        tags = registry.directory / "data/docker/registry/v2/repositories" / name / "_manifests/tags"
        document = open_index(data, "index")
        (tags / example.key.tag).rename(tags.parent / "example")
        for spec in document.packages():
            os.symlink("../example", tags / PackageKey.of(spec).tag)
        cache.merge_index(document, replace=True)
