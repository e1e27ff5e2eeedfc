"""The contract of binary caches, over a real registry and over a mirror behind a real web server; many writers at once."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from oci_binpkg.cache.mirror import MirrorCache
from oci_binpkg.cache.oci import OciCache
from oci_binpkg.cache.protocol import WritableCache
from oci_binpkg.errors import SignatureError
from oci_binpkg.model.content import Digest
from oci_binpkg.model.reference import Repository
from oci_binpkg.objects.web import HttpObjects
from oci_binpkg.ops.index import check_index
from oci_binpkg.signing.index_trust import IndexTrust
from oci_binpkg.signing.keyring import Keyring
from oci_binpkg.signing.sign import KeySigner
from oci_binpkg.store.registry.repository import RegistryStore
from oci_binpkg.transport.registry_client import RegistryHttpClient
from oci_binpkg.transport.retry import RetryPolicy
from oci_binpkg.transport.tuning import TransportSettings
from tests.contract.test_cache_contract import *  # noqa: F403 - the same tests, with the fixture below
from tests.support.gpg_keys import Keys, gpg_keys
from tests.support.mirrors import CacheCase, Split, damage_in, file_mirror, index_for, made_up, patient
from tests.support.real.components import RealParts
from tests.support.real.registry import RealRegistry
from tests.support.real.web_server import WebServer, web_server

__all__ = ["gpg_keys"]  # a fixture

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

WRITERS = 16
PACKAGES = 20
ROUNDS = {"registry": 2, "mirror": 10}  # a round on the registry takes 15 s on two cores
SETTINGS = TransportSettings(retry=RetryPolicy(retries=3, cap=1.0))
_NUMBERS = itertools.count()


@pytest.fixture
def nginx(parts: RealParts, workroot: Path) -> Iterator[WebServer]:
    parts.require("nginx")
    directory = workroot / f"nginx-{next(_NUMBERS)}"
    with web_server(directory, directory / "mirror") as server:
        yield server


@pytest.fixture(params=["oci registry", "mirror behind nginx"])  # type: ignore[no-redef]
def case(request: pytest.FixtureRequest, plain_registry: RealRegistry) -> Iterator[CacheCase]:
    """A cache that no other test knows."""
    if request.param == "oci registry":
        with RegistryHttpClient(plain_registry.url, settings=SETTINGS) as client:
            yield from _registry_case(client, plain_registry)
    else:
        nginx = request.getfixturevalue("nginx")
        directory = nginx.root
        with RegistryHttpClient(nginx.url, settings=SETTINGS) as client:
            objects = HttpObjects(f"{nginx.url}/", client)

            def again() -> Split:
                return Split(file_mirror(directory), MirrorCache(objects, pause=patient))

            yield CacheCase(again(), again, damage_in(directory), lists=False)


def _registry_case(client: RegistryHttpClient, registry: RealRegistry) -> Iterator[CacheCase]:
    repository = Repository("http", registry.host, f"caches/{next(_NUMBERS)}")
    sound: dict[Path, bytes] = {}

    def damage(digest: Digest, data: bytes) -> None:
        path = registry.blobs / digest.algorithm / digest.hex[:2] / digest.hex / "data"
        sound.setdefault(path, path.read_bytes())
        path.write_bytes(data)

    def again() -> OciCache:
        return OciCache(RegistryStore(client, repository), pause=patient)

    yield CacheCase(again(), again, damage, removes=False)
    # one file holds the blob for all repositories
    for path, data in sound.items():
        path.write_bytes(data)


def test_an_index_is_read_again_only_when_it_changed(nginx: WebServer) -> None:
    file_mirror(nginx.root).publish(made_up("zlib"))
    file_mirror(nginx.root).merge_index(index_for(made_up("zlib")))
    for manifest in (nginx.root / "v3" / "manifests" / "index").iterdir():
        os.utime(manifest, (0, 0))
    with RegistryHttpClient(nginx.url, settings=SETTINGS) as client:
        cache = MirrorCache(HttpObjects(f"{nginx.url}/", client), pause=patient)
        index = cache.read_index()
        assert index is not None
        before = nginx.requests()
        assert cache.read_index(index.digest) is None
        assert [status for _, _, status, _ in nginx.requests()[len(before) :]] == [304]


Opener = Callable[[int], WritableCache]


def _write(
    openers: Opener, rounds: int, writer: int, barrier: Barrier, failures: multiprocessing.SimpleQueue[str]
) -> None:
    """Be one of the writers: in each round push packages nobody else has, one entry of the index at a time or all."""
    try:
        for turn in range(rounds):
            cache = openers(turn)
            barrier.wait(timeout=300)
            entries = [made_up(f"package-{writer}-{n}", needs=("zlib",)) for n in range(PACKAGES)]
            for entry in entries:
                cache.publish(entry)
            cache.merge_index(index_for(*entries))
    except BaseException as error:
        failures.put(f"writer {writer}: {error!r}")
        barrier.abort()
        raise


def _wait_a_moment(_round: int) -> None:
    time.sleep(random.uniform(0.01, 0.2))


def _all_present(openers: Opener, rounds: int) -> None:
    processes = multiprocessing.get_context("fork")
    barrier, failures = processes.Barrier(WRITERS), processes.SimpleQueue()
    writers = [processes.Process(target=_write, args=(openers, rounds, n, barrier, failures)) for n in range(WRITERS)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert failures.empty(), failures.get()
    wanted = {f"package-{writer}-{n}" for writer in range(WRITERS) for n in range(PACKAGES)}
    for turn in range(rounds):
        cache = openers(turn)
        index = cache.read_index()
        assert index is not None
        assert {spec.name for spec in index.packages()} == wanted, f"round {turn}"
        assert check_index(cache).is_true


def test_sixteen_writers_of_one_registry_lose_nothing(plain_registry: RealRegistry) -> None:
    number = next(_NUMBERS)

    def opener(turn: int) -> OciCache:
        client = RegistryHttpClient(plain_registry.url, settings=SETTINGS)
        repository = Repository("http", plain_registry.host, f"crowd/{number}-{turn}")
        return OciCache(RegistryStore(client, repository), pause=_wait_a_moment)

    _all_present(opener, ROUNDS["registry"])


def test_sixteen_writers_of_one_mirror_lose_nothing(tmp_path: Path) -> None:
    _all_present(lambda turn: file_mirror(tmp_path / str(turn), pause=_wait_a_moment), ROUNDS["mirror"])


def test_signers_at_once_leave_a_signed_index_on_a_registry(
    plain_registry: RealRegistry, gpg_keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GNUPGHOME", gpg_keys.home.path)
    keyring = Keyring(os.fspath(tmp_path / "keys"))
    keyring.trust(gpg_keys.home.public(gpg_keys.good))
    trust = IndexTrust((keyring,), check=True, require=True)
    repository = Repository("http", plain_registry.host, f"signed/{next(_NUMBERS)}")
    with RegistryHttpClient(plain_registry.url, settings=SETTINGS) as client:
        store = RegistryStore(client, repository)
        signer = KeySigner(gpg_keys.good, keyring)

        def push(name: str) -> None:
            cache = OciCache(store, pause=_wait_a_moment, signer=signer, trust=trust)
            cache.publish(made_up(name))
            cache.merge_index(index_for(made_up(name)))

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(push, [f"package-{n}" for n in range(8)]))
        reader = OciCache(store, pause=_wait_a_moment, trust=trust)
        index = reader.read_index()
        assert index is not None
        assert {spec.name for spec in index.packages()} == {f"package-{n}" for n in range(8)}
        assert reader.index_signature().signer == gpg_keys.good
        # an index that nobody signed in its place, which the signature of the good one does not cover
        OciCache(store, pause=patient).merge_index(index_for(made_up("evil")), replace=True)
        with pytest.raises(SignatureError, match="not signed, and a signed index is asked for"):
            OciCache(store, pause=patient, trust=trust).read_index()
