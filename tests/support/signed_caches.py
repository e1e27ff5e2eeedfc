"""Caches of every kind that can be signed, and what somebody with write access to one could do to it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from oci_binpkg.model.content import OCI_MANIFEST, Blob, Descriptor, Digest
from oci_binpkg.model.reference import INDEX_TAG, Repository
from oci_binpkg.signing.clearsign import is_clearsigned, split
from oci_binpkg.store.images import blob_of
from oci_binpkg.store.layout import LayoutStore
from oci_binpkg.store.protocol import Store
from oci_binpkg.store.referrers import attach_signature
from oci_binpkg.store.registry.repository import RegistryStore
from oci_binpkg.transport.registry_client import RegistryHttpClient
from tests.support.command_line import binpkg
from tests.support.fake_registry import FakeRegistry, Profile
from tests.support.gpg_keys import Home
from tests.support.spack_trees import Sketch, spack_tree

REGISTRIES: dict[str, FakeRegistry] = {}
"""Those that are running, by their address."""

KINDS = ["mirror", "layout", "registry", "registry without a list of referrers"]


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """The user's own keyring."""
    with tempfile.TemporaryDirectory(prefix="g", dir="/tmp") as folder:
        Path(folder).chmod(0o700)
        monkeypatch.setenv("GNUPGHOME", folder)
        own = Home(folder)
        yield own
        own.end()


@pytest.fixture
def tree(tmp_path: Path) -> Any:
    """An install tree with `app`, and `zlib` that it links to."""
    sketches = [
        Sketch("zlib", "1.3", files={"lib/z": b"z"}),
        Sketch("app", "2.0", files={"bin/a": b"a"}, depends=["zlib"]),
    ]
    return spack_tree(tmp_path / "store", sketches)


@pytest.fixture(params=KINDS)
def cache(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a cache that is not there yet."""
    monkeypatch.setenv("OCI_BINPKG_RETRIES", "0")
    if request.param == "mirror":
        yield f"file://{tmp_path}/cache"
    elif request.param == "layout":
        yield f"oci-layout:{tmp_path}/cache"
    else:
        with FakeRegistry(profile=Profile()) as registry:
            if "without" in request.param:
                registry.fault("GET", "/referrers/", times=10**6, status=404)
            REGISTRIES[registry.host] = registry
            yield f"oci://{registry.host}/apps"
            del REGISTRIES[registry.host]


def ran(*arguments: object) -> Any:
    """Run a command that must end well."""
    ended = binpkg(*arguments)
    assert ended.code == 0, ended.err
    return ended


def trust(home: Home, key: str, tmp_path: Path) -> None:
    """Trust a key, or what is new in it."""
    (tmp_path / "key.asc").write_bytes(home.public(key))
    ran("keys", "trust", tmp_path / "key.asc")


def is_mirror(cache: str) -> bool:
    return cache.startswith("file:")


def root_of(mirror: str) -> Path:
    return Path(mirror.removeprefix("file://"))


@contextmanager
def store_of(cache: str) -> Iterator[Store]:
    """The store behind a registry or layout."""
    if cache.startswith("oci-layout:"):
        yield LayoutStore(cache.removeprefix("oci-layout:"))
        return
    host, _, name = cache.removeprefix("oci://").partition("/")
    with RegistryHttpClient(f"http://{host}") as client:
        yield RegistryStore(client, Repository("http", host, name))


def package_at(cache: str, name: str) -> str:
    """Path or tag of a package's manifest."""
    if is_mirror(cache):
        (path,) = root_of(cache).glob(f"v3/manifests/spec/{name}/*")
        return str(path.relative_to(root_of(cache)))
    with store_of(cache) as store:
        (tag,) = (tag for tag in store.tags() if tag.startswith(f"{name}-") and tag.endswith(".spack"))
    return tag


def index_at(cache: str, view: str = "") -> str:
    """Path or tag of the index's manifest."""
    return f"v3/manifests/index/{f'{view}/' if view else ''}index.manifest.json" if is_mirror(cache) else INDEX_TAG


def manifest_at(cache: str, place: str) -> bytes:
    """A manifest as it is stored, what it was signed with left off."""
    if is_mirror(cache):
        data = (root_of(cache) / place).read_bytes()
        return split(data, place)[0] if is_clearsigned(data) else data
    with store_of(cache) as store:
        return blob_of(store, store.resolve(place)).read()


def put_manifest(cache: str, place: str, data: bytes) -> None:
    """Put another manifest in place, without a signature."""
    if is_mirror(cache):
        (root_of(cache) / place).write_bytes(data)
        return
    with store_of(cache) as store:
        store.tag(Blob.from_bytes(data, OCI_MANIFEST), place)


def sign_manifest(
    cache: str,
    place: str,
    clear: Callable[[bytes], bytes],
    beside: Callable[[bytes], bytes],
) -> None:
    """Sign a manifest that is there: a mirror's in `clear`, others by a signature `beside` it."""
    data = manifest_at(cache, place)
    if is_mirror(cache):
        (root_of(cache) / place).write_bytes(clear(data))
        return
    with store_of(cache) as store:
        attach_signature(store, store.resolve(place), beside(data), pause=lambda _: None)


def is_signed(cache: str, place: str) -> bool:
    """Whether a signature stands where readers look for it."""
    from oci_binpkg.store.referrers import signatures

    if is_mirror(cache):
        return is_clearsigned((root_of(cache) / place).read_bytes())
    with store_of(cache) as store:
        return bool(signatures(store, store.resolve(place)))


def changed(data: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """A JSON document changed, in the form in which it can be clear-signed."""
    document = json.loads(data)
    change(document)
    return json.dumps(document, indent=0, separators=(",", ":")).encode()


def blobs_named_by(cache: str, place: str) -> list[Descriptor]:
    """What a manifest names."""
    document = json.loads(manifest_at(cache, place))
    if is_mirror(cache):
        return [
            Descriptor(one["mediaType"], Digest("sha256", one["checksum"]), one["contentLength"])
            for one in document["data"]
        ]
    named = [document["config"], *document["layers"]]
    return [Descriptor(one["mediaType"], Digest.parse(one["digest"]), one["size"]) for one in named]


def damage(cache: str, digest: Digest, change: Callable[[bytes], bytes]) -> None:
    """Change what is stored under a digest, behind everybody's back."""
    if cache.startswith("oci://"):
        host, _, name = cache.removeprefix("oci://").partition("/")
        blobs = REGISTRIES[host].repos[name].blobs
        blobs[str(digest)] = change(blobs[str(digest)])
        return
    folder = f"{digest.hex[:2]}/" if is_mirror(cache) else ""
    root = root_of(cache) if is_mirror(cache) else Path(cache.removeprefix("oci-layout:"))
    path = root / "blobs" / "sha256" / f"{folder}{digest.hex}"
    path.write_bytes(change(path.read_bytes()))
