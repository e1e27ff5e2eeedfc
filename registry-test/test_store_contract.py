"""The contract of content stores, over a real registry."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from oci_binpkg.errors import BinpkgError
from oci_binpkg.model.content import Blob, Digest
from oci_binpkg.model.reference import Repository
from oci_binpkg.store.registry.repository import RegistryStore
from oci_binpkg.transport.registry_client import RegistryHttpClient
from oci_binpkg.transport.retry import RetryPolicy
from oci_binpkg.transport.tuning import TransportSettings
from tests.contract.test_store_contract import *  # noqa: F403 - the same tests, with the fixture below
from tests.support.real.registry import RealRegistry
from tests.support.stores import StoreCase

pytestmark = pytest.mark.real

_NUMBERS = itertools.count()


@pytest.fixture  # type: ignore[no-redef]
def case(plain_registry: RealRegistry, tmp_path: Path) -> Iterator[StoreCase]:
    """A repository that no other test knows."""

    def damage(digest: Digest, data: bytes) -> None:
        (plain_registry.blobs / digest.algorithm / digest.hex[:2] / digest.hex / "data").write_bytes(data)

    settings = TransportSettings(retry=RetryPolicy(retries=3, cap=1.0))
    with RegistryHttpClient(plain_registry.url, settings=settings) as client:
        repository = Repository("http", plain_registry.host, f"contract/{next(_NUMBERS)}")
        yield StoreCase(RegistryStore(client, repository), damage)


def test_does_not_take_a_blob_for_a_manifest(case: StoreCase) -> None:  # type: ignore[no-redef]
    # Distribution 2.8 fails with 500 where it should not find anything; all that is promised is an error
    blob = Blob.from_bytes(b"just bytes")
    case.store.put(blob)
    with pytest.raises(BinpkgError):
        case.store.resolve(str(blob.descriptor.digest))
