"""A registry store over the fake registry, with recorded waits and events instead of time."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

from oci_binpkg.events import Event, Warned
from oci_binpkg.model.content import OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST, Blob, Descriptor, Digest
from oci_binpkg.model.manifest import Manifest
from oci_binpkg.model.reference import Repository, parse_repository
from oci_binpkg.store.registry.api import DEFAULTS, RegistrySettings
from oci_binpkg.store.registry.repository import RegistryStore
from oci_binpkg.times import Time
from oci_binpkg.transport.http import HttpClient
from tests.support.fake_registry import FakeRegistry

KIB = 1024


@dataclass
class Bench:
    """A fake registry and what is needed to make stores on it. `waits` are the seconds that were not slept."""

    registry: FakeRegistry
    client: HttpClient
    waits: list[float] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    client_waits: list[float] = field(default_factory=list)

    def store(
        self,
        name: str = "apps",
        *,
        settings: RegistrySettings = DEFAULTS,
        repair: Callable[[Descriptor], Blob | None] | None = None,
    ) -> RegistryStore:
        return RegistryStore(
            self.client,
            self.repository(name),
            settings=settings,
            time=Time(clock=lambda: sum(self.waits), sleep=self.waits.append, random=lambda: 0.5),
            observer=self.events.append,
            repair=repair,
        )

    def repository(self, name: str = "apps") -> Repository:
        return parse_repository(f"{self.registry.host}/{name}", scheme="http")

    def methods(self) -> list[str]:
        """The methods of all requests so far, in order."""
        return [exchange.method for exchange in self.registry.log]

    def warnings(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Warned)]


@functools.cache
def content(size: int, seed: int = 1) -> bytes:
    """Return `size` bytes without a short period, so that no shift of them looks alike."""
    block = b"".join(
        ((seed * 7919 + n) * 2654435761 % 2**32).to_bytes(4, "big") for n in range(min(size, 65536) // 4 + 1)
    )
    return b"".join(block[n % 4096 :] + n.to_bytes(4, "big") for n in range(size // 60000 + 1))[:size]


def layer(size: int = 3000, seed: int = 1) -> Blob:
    """Return a blob typed as a layer."""
    return Blob.from_bytes(content(size, seed), OCI_LAYER_GZIP)


def image(*layers: Blob, config: bytes = b'{"a":1}') -> tuple[Blob, Blob]:
    """Return (manifest, config) over layers."""
    config_blob = Blob.from_bytes(config, OCI_CONFIG)
    document = Manifest(OCI_MANIFEST, config_blob.descriptor, tuple(one.descriptor for one in layers))
    return Blob.from_bytes(document.to_bytes(), OCI_MANIFEST), config_blob


def placed(registry: FakeRegistry, blob: Blob, name: str = "apps", *tags: str) -> Blob:
    """Put a blob or manifest into the registry behind the store's back."""
    data = blob.read()
    if blob.descriptor.is_manifest:
        registry.add_manifest(name, blob.descriptor.media_type, data, *tags)
    else:
        registry.add_blob(name, data)
    return blob


def fetch(store: RegistryStore, descriptor: Descriptor, piece: int = -1) -> bytes:
    """Read content whole, in pieces of `piece` bytes."""
    with store.open(descriptor) as stream:
        return b"".join(iter(lambda: stream.read(piece), b"")) if piece > 0 else stream.read()


def digest_text(data: bytes) -> str:
    return str(Digest.of(data))
