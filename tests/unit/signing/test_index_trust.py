"""Signed indices with many writers, with registries that list signatures late, and with writers that do not sign."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oci_binpkg.cache.mirror import MirrorCache
from oci_binpkg.cache.oci import OciCache
from oci_binpkg.cache.protocol import WritableCache
from oci_binpkg.cli.hints import words
from oci_binpkg.errors import KeyringError, NotFoundError, SignatureError, UsageError
from oci_binpkg.model.content import Descriptor
from oci_binpkg.signing.index_trust import IndexSignature, IndexTrust
from oci_binpkg.signing.keyring import Keyring
from oci_binpkg.signing.sign import KeySigner
from oci_binpkg.store.layout import LayoutStore
from oci_binpkg.store.referrers import signatures
from tests.support.gpg_keys import Keys, gpg_keys
from tests.support.memory_store import MemoryStore
from tests.support.mirrors import file_mirror, index_for, made_up, patient
from tests.support.signers import Signs

__all__ = ["gpg_keys"]  # a fixture


@pytest.fixture
def keyring(gpg_keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Keyring:
    """The key `good` is trusted; the secret keys are the user's own."""
    monkeypatch.setenv("GNUPGHOME", gpg_keys.home.path)
    keyring = Keyring(os.fspath(tmp_path / "keys"))
    keyring.trust(gpg_keys.home.public(gpg_keys.good))
    return keyring


Opener = Callable[..., WritableCache]


@pytest.fixture(params=["mirror", "layout"])
def opened(request: pytest.FixtureRequest, tmp_path: Path, keyring: Keyring) -> Opener:
    """Open the cache: with a `key` to sign with, and what is asked of an index's signature."""

    def again(key: str = "", **asked: Any) -> MirrorCache | OciCache:
        keys = (keyring, keyring.own(key)) if key else (keyring,)
        trust = replace(IndexTrust(keys, check=True), **asked)
        signer = KeySigner(key, keyring) if key else None
        if request.param == "mirror":
            return file_mirror(tmp_path / "cache", signer=signer, trust=trust)
        return OciCache(LayoutStore(str(tmp_path / "cache")), pause=patient, signer=signer, trust=trust)

    return again


def names(cache: WritableCache) -> set[str]:
    index = cache.read_index()
    assert index is not None
    return {spec.name for spec in index.packages()}


def test_many_signers_lose_nothing_and_nobody_ever_finds_an_index_without_a_signature(
    opened: Opener, gpg_keys: Keys
) -> None:
    first = made_up("first")
    opened(gpg_keys.good).publish(first)
    opened(gpg_keys.good).merge_index(index_for(first))
    entries = [made_up(f"package-{n}") for n in range(6)]

    def push(entry) -> None:
        cache = opened(gpg_keys.good, require=True)
        cache.publish(entry)
        cache.merge_index(index_for(entry))

    def look(_number: int) -> IndexSignature:
        assert "first" in names(opened(require=True))
        return opened().index_signature()

    with ThreadPoolExecutor(8) as pool:
        pushed = [pool.submit(push, entry) for entry in entries]
        looks = list(pool.map(look, range(10)))
        for each in pushed:
            each.result()
    assert names(opened(require=True)) == {"first", *(entry.key.name for entry in entries)}
    assert {*looks, opened().index_signature()} == {IndexSignature(gpg_keys.good)}


def test_a_signer_among_writers_that_do_not_sign_vouches_for_nothing_of_theirs(opened: Opener, gpg_keys: Keys) -> None:
    said: list[str] = []
    for number, key in enumerate([gpg_keys.good, "", gpg_keys.good]):
        entry = made_up(f"package-{number}")
        cache = opened(key, warn=lambda text, hint: said.append(f"{text} ({words(hint)})"))
        cache.publish(entry)
        cache.merge_index(index_for(entry))
    assert names(opened()) == {"package-0", "package-1", "package-2"}
    assert opened().index_signature() == IndexSignature()
    assert len(said) == 1
    assert "index rebuild" in said[0]
    opened(gpg_keys.good).merge_index(index_for(made_up("package-1")), replace=True)
    assert opened(require=True).index_signature().signer == gpg_keys.good


def test_an_index_that_has_to_be_signed_is_not_written_without_a_key(opened: Opener) -> None:
    for anew in (False, True):
        with pytest.raises(UsageError, match="has to be signed") as caught:
            opened(require=True).merge_index(index_for(made_up("zlib")), replace=anew)
        assert "--key" in words(caught.value.hint)
    with pytest.raises(NotFoundError):
        opened().read_index()


@pytest.mark.covers("B32")
@pytest.mark.parametrize(("name", "reason"), [("other", "not trusted"), ("expired", "has expired")])
def test_the_reason_is_told_why_a_signature_of_an_index_does_not_count(
    opened: Opener, gpg_keys: Keys, keyring: Keyring, tmp_path: Path, name: str, reason: str
) -> None:
    if name != "other":
        keyring.trust(gpg_keys.home.public(getattr(gpg_keys, name)))
    at = "20200101T060000" if name == "expired" else ""
    key = getattr(gpg_keys, name)
    cache = opened("nobody")
    if isinstance(cache, MirrorCache):
        cache = file_mirror(tmp_path / "cache", signer=Signs(lambda data, **_: gpg_keys.home.clear(data, key, at=at)))
    else:
        assert isinstance(cache, OciCache)
        cache = OciCache(
            cache.store,
            pause=patient,
            signer=Signs(lambda data, **_: gpg_keys.home.detached(data, key, at=at)),
        )
    cache.merge_index(index_for(made_up("zlib")))
    with pytest.raises(SignatureError, match=reason) as caught:
        opened().read_index()
    assert caught.value.message.startswith("the index of ")
    assert reason in opened().index_signature().problem
    with pytest.raises(SignatureError, match=reason):
        opened(gpg_keys.good).merge_index(index_for(made_up("curl")))


def test_only_own_keys_of_the_name_one_signs_with_are_believed_besides(
    opened: Opener, gpg_keys: Keys, keyring: Keyring
) -> None:
    opened(gpg_keys.other).merge_index(index_for(made_up("zlib")))
    opened(gpg_keys.other).merge_index(index_for(made_up("curl")))
    opened("other@example.org").merge_index(index_for(made_up("xz")))
    assert names(opened(check=False)) == {"zlib", "curl", "xz"}
    with pytest.raises(SignatureError, match="not trusted"):
        opened(gpg_keys.good).merge_index(index_for(made_up("bzip2")))
    with pytest.raises(KeyringError, match="nobody"):
        keyring.own("nobody@example.org").fingerprints()


def test_without_keys_to_check_with_nothing_is_believed(opened: Opener, gpg_keys: Keys) -> None:
    opened(gpg_keys.good).merge_index(index_for(made_up("zlib")))
    with pytest.raises(SignatureError, match="no keys are known"):
        opened(keyrings=()).read_index()


class ListsLate(MemoryStore):
    """Says at first that nothing refers to anything."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def resolve(self, tag: str) -> Descriptor:
        if tag.startswith("sha256-") and self.times:
            self.times -= 1
            raise NotFoundError(tag)
        return super().resolve(tag)


@pytest.mark.parametrize(("times", "found"), [(1, True), (2, True), (10, False)])
def test_a_signature_that_is_listed_late_is_waited_for_where_it_has_to_be_there(
    gpg_keys: Keys, keyring: Keyring, times: int, found: bool
) -> None:
    store, rounds = ListsLate(0), list[int]()
    signer = KeySigner(gpg_keys.good, keyring)
    OciCache(store, pause=patient, signer=signer).merge_index(index_for(made_up("zlib")))
    store.times = times
    cache = OciCache(store, pause=rounds.append, trust=IndexTrust((keyring,), check=True, require=True))
    if found:
        assert names(cache) == {"zlib"}
        assert names(cache) == {"zlib"}  # known by now, and not asked again
        assert rounds == list(range(times))
        return
    with pytest.raises(SignatureError, match="not signed, and a signed index is asked for"):
        cache.read_index()
    assert rounds == [0, 1]


def test_the_signature_is_there_before_the_tag(gpg_keys: Keys, keyring: Keyring) -> None:
    seen: list[int] = []

    class Watched(MemoryStore):
        def tag(self, manifest, tag):
            if tag == "index.spack":
                seen.append(len(signatures(self, manifest.descriptor)))
            return super().tag(manifest, tag)

    signer = KeySigner(gpg_keys.good, keyring)
    cache = OciCache(Watched(), pause=patient, signer=signer, trust=IndexTrust((keyring,), check=True))
    for name in ("zlib", "curl"):
        cache.merge_index(index_for(made_up(name)))
    assert seen == [1, 1]
