"""Whatever touches the index of a large cache does so in little memory: an index is never taken apart as a whole."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from oci_binpkg.cache.mirror import MirrorCache
from oci_binpkg.cache.mirror_manifest import INDEX_TYPE, NONE, BlobRecord, MirrorManifest, blob_path, index_path
from oci_binpkg.index.spool import Spool
from oci_binpkg.model.content import Platform
from oci_binpkg.model.image import PackageLayer, PackageSpec, compose
from oci_binpkg.objects.directory import FileObjects
from oci_binpkg.store.layout import LayoutStore
from oci_binpkg.store.layout_index import REF_NAME
from tests.support.examples import nightly
from tests.support.measuring import Cost, measured
from tests.support.mirrors import made_up
from tests.support.stores import layer_of

pytestmark = pytest.mark.timeout(180)

LAB = "lab"
PACKAGES = 30_000 if nightly() else 4_000
LIMIT = 55 + 2 * PACKAGES / 1000
"""MiB. The index has one and a half for every thousand packages; 250 MB are allowed for 100,000."""
ENTRIES = 30_000 if nightly() else 4_000
TAGS = ENTRIES // 10
LIMIT_OF_TAGS = 45 + 1.3 * ENTRIES / 1000
"""MiB. `index.json` has a quarter for every thousand entries."""


@dataclass(frozen=True)
class Large:
    """A mirror with a large index, and the environment of a user who has named it."""

    folder: Path

    def run(self, *words: object) -> Cost:
        configured = {"OCI_BINPKG_CONFIG": str(self.folder / "config.toml")}
        return measured([str(word) for word in words], self.folder, configured)


@cache
def hash_of(number: int) -> str:
    return base64.b32encode(hashlib.sha1(compact(content(number))).digest()).decode().lower()


def node(number: int) -> str:
    return compact({**content(number), "hash": hash_of(number)}).decode()


def compact(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def content(number: int) -> dict[str, object]:
    needs = [n for n in (number - number % 100, number - 1, number - 2) if number - number % 100 <= n < number]
    edges = [
        {"name": f"package-{n // 10}", "hash": hash_of(n), "parameters": {"deptypes": ["link"], "virtuals": []}}
        for n in needs
    ]
    return {
        "name": f"package-{number // 10}",
        "version": f"1.{number % 10}",
        "arch": {"platform": "linux", "platform_os": "debian12", "target": "x86_64"},
        "namespace": "builtin",
        "parameters": {f"option_{n}": bool(number >> n & 1) for n in range(12)},
        "package_hash": "x" * 600,
        "dependencies": edges,
    }


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Large:
    folder = tmp_path_factory.mktemp("large")
    text = Spool()
    text.write(b'{"database":{"version":"8","installs":{')
    for number in range(PACKAGES):
        record = f'"{hash_of(number)}":{{"spec":{node(number)},"ref_count":1,"in_buildcache":true}}'
        text.write(("," * bool(number) + record).encode())
    text.write(b"}}}")
    document = text.blob(INDEX_TYPE)
    objects = FileObjects(str(folder / "mirror"))
    objects.write(blob_path(document.descriptor.digest), document)
    named = BlobRecord(INDEX_TYPE, NONE, document.descriptor.digest, document.descriptor.size)
    objects.write(index_path(), MirrorManifest((named,)).to_bytes())
    (folder / "config.toml").write_text(f'[caches.lab]\nurl = "file://{folder}/mirror"\nsigned = false\n')
    cache = MirrorCache(objects, pause=lambda _: None)
    for name in ("zlib", "curl"):
        cache.publish(made_up(name))
    return Large(folder)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Large:
    """A layout with many tags: packages that share a layer, each with its own configuration and manifest."""
    folder = tmp_path_factory.mktemp("many")
    layer = layer_of({"opt/text": b"text"})
    store = LayoutStore(str(folder / "layout"))
    store.put(layer.blob)
    entries = []
    for number in range(TAGS):
        spec = PackageSpec({"_meta": {"version": 5}, "nodes": [json.loads(node(number * 100))]}, "made up")
        name, version = f"package-{number * 10}", "1.0"
        image = compose(
            [PackageLayer(name, version, hash_of(number * 100), layer)], Platform("linux", "amd64"), spec=spec
        )
        for blob in (image.config, image.manifest):  # not by the store, which waits for the disk
            (folder / "layout/blobs/sha256" / blob.descriptor.digest.hex).write_bytes(blob.read())
        tag = f"{name}-{version}-{hash_of(number * 100)}.spack"
        entries.append({**image.manifest.descriptor.to_json(), "annotations": {REF_NAME: tag}})
    # two thirds are images and no packages: they are in the list and not in an index
    entries += [
        {**entries[number % TAGS], "annotations": {REF_NAME: f"an-image-with-a-rather-long-name-of-its-own-{number}"}}
        for number in range(ENTRIES - TAGS)
    ]
    document = json.loads((folder / "layout/index.json").read_bytes()) | {"manifests": entries}
    (folder / "layout/index.json").write_text(json.dumps(document, separators=(",", ":")))
    os.utime(folder / "layout/index.json", (1, 1))
    (folder / "config.toml").touch()
    return Large(folder)


def test_every_job_with_a_layout_of_many_tags_takes_little_memory_and_time(many: Large) -> None:
    layout, copied = (f"oci-layout:{many.folder / name}" for name in ("layout", "copied"))
    peaks: dict[str, float] = {}

    def run(name: str, *words: object, code: int = 0) -> str:
        ended = many.run(*words)
        assert ended.code == code, (name, ended.err[-2000:])
        peaks[name] = ended.memory
        return ended.out

    assert f"{TAGS} packages" in run("rebuild", "index", "rebuild", layout)
    assert f"{TAGS} packages" in run("check", "index", "check", layout)
    assert run("inspect", "inspect", layout).count("\n") > ENTRIES
    assert run("copy of some", "copy", layout, copied, "package-70", "package-80").count("copied") == 2
    assert run("save-specs", "save-specs", "package-70", "--from", layout, "--output-dir", many.folder).count("\n") == 1
    too_large = {name: f"{peak:.0f} MiB" for name, peak in peaks.items() if peak > LIMIT_OF_TAGS}
    assert not too_large


def test_every_job_with_a_large_index_takes_little_memory(large: Large) -> None:
    """In one test, because the second half is about what the first has written."""
    peaks: dict[str, float] = {}

    def run(name: str, *words: object, code: int = 0) -> str:
        ended = large.run(*words)
        assert ended.code == code, (name, ended.err[-2000:])
        peaks[name] = ended.memory
        return ended.out

    some = "package-77"
    assert run("first search", "find", "--all-arch", some).count("\n") == 10
    assert run("search", "find", "--all-arch", f"^{some}").count("\n") == 29
    assert len(json.loads(run("listing", "find", "--all-arch", "--json"))) == PACKAGES
    assert run("find in a cache", "find", "--from", LAB, some).count("\n") == 10
    assert run("find by dependency", "find", "--from", LAB, f"^{some}").count("\n") == 29
    assert run("find by variant", "find", "--from", LAB, "option_1=True option_2=True").count("\n") > PACKAGES // 4.5
    assert len(json.loads(run("find all", "find", "--from", LAB, "--json"))) == PACKAGES
    run("resolve", "install", f"{some}@1.3", "--from", LAB, "--store", large.folder / "tree", code=6)
    assert "2 packages" in run("update", "index", "update", LAB)
    run("check", "index", "check", LAB, code=10)
    assert "2 packages" in run("update a view", "index", "update", LAB, "zlib", "curl", "--view", "some")
    run("rebuild", "index", "rebuild", LAB, code=1)  # most of what the index lists is not there
    too_large = {name: f"{peak:.0f} MiB" for name, peak in peaks.items() if peak > LIMIT}
    assert not too_large
