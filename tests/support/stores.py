"""Fresh stores for tests, one factory per kind, and small images to put into them."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oci_binpkg.model.content import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    Blob,
    Descriptor,
    Digest,
    Platform,
)
from oci_binpkg.model.image import Image, Layer
from oci_binpkg.model.manifest import Index, Manifest
from oci_binpkg.store.layout import LayoutStore
from oci_binpkg.store.protocol import Store
from oci_binpkg.times import Time
from oci_binpkg.transport.registry_client import RegistryHttpClient
from tests.support.fake_registry import FakeRegistry
from tests.support.memory_store import MemoryStore
from tests.support.registry_store import Bench


@dataclass(frozen=True)
class StoreCase:
    """A fresh store and what can be asked of it.

    `damage(digest, data)` puts other bytes in the place of a stored blob, where that can be done. `removes`: tags can be
    removed. `sha512`: blobs may be known by that digest.
    """

    store: Store
    damage: Callable[[Digest, bytes], None] | None = None
    removes: bool = True
    sha512: bool = True


StoreFactory = Callable[[Path], AbstractContextManager[StoreCase]]


@contextmanager
def memory_store(path: Path) -> Iterator[StoreCase]:
    store = MemoryStore(f"memory:{path.name}")
    yield StoreCase(store, store._content.__setitem__)


@contextmanager
def layout_store(path: Path) -> Iterator[StoreCase]:
    directory = path / "layout"

    def damage(digest: Digest, data: bytes) -> None:
        (directory / "blobs" / digest.algorithm / digest.hex).write_bytes(data)

    yield StoreCase(LayoutStore(os.fspath(directory)), damage)


@contextmanager
def fake_registry_store(path: Path) -> Iterator[StoreCase]:
    waits: list[float] = []
    with (
        FakeRegistry() as registry,
        RegistryHttpClient(
            registry.url, time=Time(clock=lambda: sum(waits), sleep=waits.append, random=lambda: 0.5, now=lambda: 0.0)
        ) as client,
    ):

        def damage(digest: Digest, data: bytes) -> None:
            registry.repos["apps"].blobs[str(digest)] = data

        yield StoreCase(Bench(registry, client).store("apps"), damage)


# a kind of store joins the contract by adding its factory here
STORE_FACTORIES: dict[str, StoreFactory] = {
    "memory": memory_store,
    "layout": layout_store,
    "fake registry": fake_registry_store,
}


def layer_of(files: dict[str, bytes]) -> Layer:
    """A gzip layer with these files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    tar = buffer.getvalue()
    return Layer(Blob.from_bytes(gzip.compress(tar, mtime=0), OCI_LAYER_GZIP), Digest.of(tar))


def image_of_layers(*layers: Layer, platform: Platform | None = None, history: int | None = None) -> Image:
    """An image of these layers; the bytes depend on nothing else."""
    platform = platform or Platform("linux", "amd64")
    document: dict[str, Any] = {
        "architecture": platform.architecture,
        "os": platform.os,
        "config": {"Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [str(layer.diff_id) for layer in layers]},
    }
    if history is not None:
        document["history"] = [{"created_by": "test"}] * history
    config = Blob.from_bytes(json.dumps(document).encode(), OCI_CONFIG)
    manifest = Manifest(OCI_MANIFEST, config.descriptor, tuple(layer.blob.descriptor for layer in layers))
    return Image(Blob.from_bytes(manifest.to_bytes(), OCI_MANIFEST), config, tuple(layers))


def small_image(text: str = "hello", platform: Platform | None = None) -> Image:
    """An image of two small layers that differ with `text`."""
    return image_of_layers(layer_of({"etc/base": b"base\n"}), layer_of({"etc/text": text.encode()}), platform=platform)


def index_of(*images: Image) -> Blob:
    """An index over images; the platforms are `linux/amd64`, `linux/arm64`, `linux/ppc64le`, ..."""
    names = ("amd64", "arm64", "ppc64le", "riscv64")
    entries = []
    for image, name in zip(images, names, strict=False):
        found = image.manifest.descriptor
        entries.append(Descriptor(found.media_type, found.digest, found.size, Platform("linux", name)))
    return Blob.from_bytes(Index(OCI_INDEX, tuple(entries)).to_bytes(), OCI_INDEX)


def put_image(store: Store, image: Image, tag: str = "") -> Descriptor:
    """Store an image, in the order that registries want."""
    for layer in image.layers:
        store.put(layer.blob)
    store.put(image.config)
    if tag:
        store.tag(image.manifest, tag)
    else:
        store.put(image.manifest)
    return image.manifest.descriptor
