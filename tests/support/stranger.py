"""Caches that have to be signed, in which a stranger has put another package in the place of a signed one.

`app` and the image `prod` hold the stranger's content (`EVIL`), and the index, which nobody has signed, lists it, and one
more package of the stranger's, `intruder`. `zlib` is as it was signed.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from oci_binpkg.signing.clearsign import is_clearsigned, split
from oci_binpkg.store.referrers import attach_signature
from tests.support.command_line import binpkg
from tests.support.fake_registry import FakeRegistry, Profile
from tests.support.gpg_keys import Home
from tests.support.signed_caches import REGISTRIES, manifest_at, package_at, ran, root_of, store_of
from tests.support.spack_trees import Sketch, Tree, spack_tree

Kind = Literal["registry", "layout", "mirror", "mirror of layout 2"]
KINDS: tuple[Kind, ...] = ("registry", "layout", "mirror", "mirror of layout 2")
EVIL = b"EVIL"


@dataclass(frozen=True)
class Place:
    """A cache with the stranger's package. `tree` has the packages as they should be; `key` signed them."""

    kind: Kind
    address: str
    tree: Tree
    key: str
    folder: Path

    @property
    def hash(self) -> str:
        return self.tree.hashes["app"]

    def evil_blobs(self) -> list[str]:
        """The digests of the stranger's layers."""
        return [
            hashlib.sha256(data).hexdigest() for data in contents(self.address, self.folder) if EVIL in unpacked(data)
        ]


def unpacked(data: bytes) -> bytes:
    """What is inside, if it is compressed."""
    return gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data


def contents(address: str, folder: Path) -> Iterator[bytes]:
    """Everything that a cache holds."""
    if address.startswith("oci://"):
        host, _, name = address.removeprefix("oci://").partition("/")
        yield from REGISTRIES[host].repos[name].blobs.values()
        return
    root = Path(address.removeprefix("oci-layout:").removeprefix("file://"))
    yield from (path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file())


def trees(folder: Path) -> tuple[Tree, Tree]:
    """The same packages twice: as they should be, and with the stranger's content."""

    def sketches(content: bytes) -> list[Sketch]:
        compiler = ("gcc", "12.2.0")
        return [
            Sketch("zlib", "1.3", files={"lib/z": b"z"}, compiler=compiler),
            Sketch("app", "2.0", files={"bin/a": b"#!/bin/sh\n" + content}, depends=["zlib"], compiler=compiler),
        ]

    good = spack_tree(folder / "t", sketches(b"good"))
    intruder = Sketch("intruder", "1.0", files={"bin/i": EVIL}, compiler=("gcc", "12.2.0"))
    evil = spack_tree(folder / "e", [*sketches(EVIL), intruder])
    assert good.hashes.items() <= evil.hashes.items()
    return good, evil


@contextmanager
def place(kind: Kind, folder: Path, home: Home, *, moved: bool) -> Iterator[Place]:
    """Make a cache. With `moved` the old signature stands over the new content, else there is none."""
    good, evil = trees(folder)
    key = home.make("alice")
    (folder / "alice.asc").write_bytes(home.public(key))
    ran("keys", "trust", folder / "alice.asc")
    with _address(kind, folder) as address:
        tags = [] if kind.startswith("mirror") else ["--tag", "prod"]
        ran("push", address, "--store", good.root, "--key", key, "--update-index", *tags)
        old = _kept(address)
        for name in ("intruder", "app"):
            words = ["push", address, name, "--only", "package", "--force", "--store", evil.root, "--unsigned"]
            ran(*words, *(tags if name == "app" else []))
        ran("index", "rebuild", address, "--no-check-signature")
        if moved:
            _move_signatures(address, old, home, key)
        is_old = kind == "mirror of layout 2"
        there = f"file://{_old_layout(root_of(address), folder / 'site' / 'old')}" if is_old else address
        found = Place(kind, there, good, key, folder)
        assert found.evil_blobs()
        yield found


@contextmanager
def _address(kind: Kind, folder: Path) -> Iterator[str]:
    if kind == "layout":
        yield f"oci-layout:{folder}/site/cache"
    elif kind.startswith("mirror"):
        yield f"file://{folder}/site/cache"
    else:
        with FakeRegistry(profile=Profile()) as registry:
            REGISTRIES[registry.host] = registry
            yield f"oci://{registry.host}/apps"
            del REGISTRIES[registry.host]


def _kept(address: str) -> dict[str, bytes]:
    places = [package_at(address, "app"), *([] if address.startswith("file:") else ["prod"])]
    return {each: manifest_at(address, each) for each in places}


def _move_signatures(address: str, old: dict[str, bytes], home: Home, key: str) -> None:
    """Put the signatures of what was there over what is there now."""
    for where, good in old.items():
        if address.startswith("file:"):
            path = root_of(address) / where
            path.write_bytes(home.clear(good, key).replace(good, path.read_bytes().rstrip(b"\n") + b"\n"))
            continue
        with store_of(address) as store:
            attach_signature(store, store.resolve(where), home.detached(good, key), pause=lambda _: None)


def _old_layout(root: Path, target: Path) -> Path:
    """Write the packages of a mirror of layout 3 as layout 2 has them, signed if they are."""
    folder = target / "build_cache"
    for path in root.glob("v3/manifests/spec/*/*"):
        data = path.read_bytes()
        signed = is_clearsigned(data)
        text = split(data, str(path))[0] if signed else data
        layer, spec = (_blob(root, record) for record in json.loads(text)["data"])
        document = json.loads(gzip.decompress(spec))
        node = document["spec"]["nodes"][0]
        arch = "linux-debian12-x86_64"
        name = f"{node['name']}-{node['version']}"
        stem = f"{arch}-gcc-12.2.0-{name}-{node['hash']}"
        archive = folder / arch / "gcc-12.2.0" / name / f"{stem}.spack"
        archive.parent.mkdir(parents=True)
        archive.write_bytes(layer)
        document |= {
            "buildcache_layout_version": 2,
            "binary_cache_checksum": {"hash_algorithm": "sha256", "hash": hashlib.sha256(layer).hexdigest()},
        }
        written = json.dumps(document, indent=0, separators=(",", ":")).encode() + b"\n"
        # a signature over something else, where there was one: the case is of documents that do not count
        whole = data.replace(text, written) if signed else written
        (folder / f"{stem}.spec.json{'.sig' if signed else ''}").write_bytes(whole)
    (index,) = (_blob(root, each) for each in json.loads(_index_text(root))["data"])
    (folder / "index.json").write_bytes(index)
    shutil.rmtree(root)
    return target


def _index_text(root: Path) -> bytes:
    return (root / "v3/manifests/index/index.manifest.json").read_bytes()


def _blob(root: Path, record: dict[str, Any]) -> bytes:
    digest = record["checksum"]
    return (root / "blobs" / "sha256" / digest[:2] / digest).read_bytes()


def inside(folder: Path) -> bytes:
    """All that is in a folder, unpacked."""
    files = [path for path in folder.rglob("*") if path.is_file()] if folder.exists() else []
    return b"\n".join(unpacked(path.read_bytes()) for path in files)


def find_evil(cache: str, folder: Path) -> bool:
    """Whether a cache holds the stranger's content."""
    return any(EVIL in unpacked(data) for data in contents(cache, folder))


__all__ = ["EVIL", "KINDS", "Kind", "Place", "binpkg", "find_evil", "inside", "place"]
