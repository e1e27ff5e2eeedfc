"""What every binary cache promises, whatever its layout and wherever it is."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from oci_binpkg.cache.protocol import WritableCache
from oci_binpkg.errors import ContentError, NotFoundError
from oci_binpkg.model.content import Digest
from oci_binpkg.model.image import known_diff_id
from oci_binpkg.model.reference import PackageKey
from oci_binpkg.signing.index_trust import IndexSignature
from tests.support.mirrors import CACHE_FACTORIES, CacheCase, index_for, layer_bytes, made_up, package_hash


@pytest.fixture(params=sorted(CACHE_FACTORIES))
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CacheCase]:
    with CACHE_FACTORIES[request.param](tmp_path) as found:
        yield found


@pytest.fixture
def cache(case: CacheCase) -> WritableCache:
    return case.cache


def names(cache: WritableCache) -> list[str]:
    index = cache.read_index()
    assert index is not None
    return sorted(spec.name for spec in index.packages())


def test_names_itself_for_people(cache: WritableCache) -> None:
    assert cache.name


def test_a_fresh_cache_is_empty_and_not_broken(case: CacheCase) -> None:
    with pytest.raises(NotFoundError):
        case.cache.find(made_up("zlib").key)
    with pytest.raises(NotFoundError):
        case.cache.read_index()
    if case.lists:
        assert case.cache.hashes() == {}


def test_what_was_published_is_found_as_it_was(cache: WritableCache) -> None:
    entry = made_up("curl", "8.1", needs=("zlib", "openssl"))
    cache.publish(entry)
    found = cache.find(entry.key)
    assert found.key == entry.key
    assert found.document.root.short == entry.document.root.short
    assert set(found.document.graph) == set(entry.document.graph)
    # a title for tools that make files of layers may be there, too
    assert replace(found.layer.blob.descriptor, annotations={}) == entry.layer.blob.descriptor
    assert layer_bytes(found.layer) == entry.layer.blob.read()
    assert known_diff_id(found.layer) in (None, entry.layer.diff_id)


@pytest.mark.covers("B14")
def test_another_package_of_that_name_is_not_there(cache: WritableCache) -> None:
    cache.publish(made_up("zlib"))
    for key in (
        PackageKey("zlib", "1.0", "z" * 32),
        PackageKey("zlib", "1.1", package_hash("zlib", "1.1")),
        PackageKey("zstd", "1.0", package_hash("zstd")),
    ):
        with pytest.raises(NotFoundError):
            cache.find(key)


def test_a_layer_is_sent_once(cache: WritableCache) -> None:
    entry = made_up("zlib")
    assert cache.upload(entry.layer) is True
    assert cache.upload(entry.layer) is False


def test_an_uploaded_layer_is_no_package_yet(case: CacheCase) -> None:
    entry = made_up("zlib")
    case.cache.upload(entry.layer)
    with pytest.raises(NotFoundError):
        case.cache.find(entry.key)
    if case.lists:
        assert case.cache.hashes() == {}


def test_publishing_again_changes_nothing(cache: WritableCache) -> None:
    entry = made_up("zlib")
    assert cache.publish(entry) == cache.publish(entry)
    assert layer_bytes(cache.find(entry.key).layer) == entry.layer.blob.read()


def test_a_package_is_replaced_by_publishing_another_layer(cache: WritableCache) -> None:
    first, second = made_up("zlib", text="first"), made_up("zlib", text="second")
    assert cache.publish(first) != cache.publish(second)
    assert layer_bytes(cache.find(first.key).layer) == second.layer.blob.read()


def test_packages_are_listed_and_each_can_be_had_from_the_list(case: CacheCase) -> None:
    entries = [made_up("zlib"), made_up("zlib", "2.0"), made_up("curl", needs=("zlib",))]
    for entry in entries:
        case.cache.publish(entry)
    case.cache.merge_index(index_for(*entries))
    hashes = case.cache.hashes()
    assert set(hashes) == {entry.key.hash for entry in entries}
    for entry in entries:
        assert case.cache.entry(hashes[entry.key.hash]).key == entry.key


def test_the_index_grows_by_merging_and_is_not_written_for_nothing(cache: WritableCache) -> None:
    first, second = made_up("curl", needs=("zlib",)), made_up("zlib")
    assert cache.merge_index(index_for(first)) is True
    assert names(cache) == ["curl"]
    assert cache.merge_index(index_for(second)) is True
    assert cache.merge_index(index_for(first, second)) is False
    assert names(cache) == ["curl", "zlib"]


def test_an_index_that_nobody_signed_says_so(cache: WritableCache) -> None:
    with pytest.raises(NotFoundError):
        cache.index_signature()
    cache.merge_index(index_for(made_up("zlib")))
    assert cache.index_signature() == IndexSignature(signer="", problem="")


def test_an_index_can_be_written_anew(cache: WritableCache) -> None:
    assert cache.merge_index(index_for(made_up("gone")), replace=True) is True
    assert names(cache) == ["gone"]
    assert cache.merge_index(index_for(made_up("curl", needs=("zlib",))), replace=True) is True
    assert names(cache) == ["curl"]
    assert cache.merge_index(index_for(made_up("zlib"))) is True
    assert names(cache) == ["curl", "zlib"]


def test_an_entry_tells_which_manifest_it_came_from(cache: WritableCache) -> None:
    entry = made_up("zlib")
    assert cache.publish(entry) == cache.find(entry.key).manifest


def test_a_known_index_is_not_read_again(case: CacheCase) -> None:
    case.cache.merge_index(index_for(made_up("zlib")))
    for reader in (case.cache, case.again()):
        index = reader.read_index()
        assert index is not None
        assert reader.read_index(index.digest) is None
        found = reader.read_index(Digest.of(b"another"))
        assert found is not None
        assert found.digest == index.digest
        assert found.present() == index.present()
    case.cache.merge_index(index_for(made_up("curl")))
    assert case.cache.read_index(index.digest) is not None


@pytest.mark.covers("B43")
@pytest.mark.parametrize("change", [lambda data: data[:-1] + b"?", lambda data: data[:-5], lambda data: data + b"more"])
def test_a_damaged_layer_is_found_out_before_its_last_byte(case: CacheCase, change) -> None:
    entry = made_up("zlib")
    case.cache.publish(entry)
    data = entry.layer.blob.read()
    case.damage(entry.layer.blob.descriptor.digest, change(data))
    received: list[bytes] = []
    found = case.again().find(entry.key)
    with pytest.raises(ContentError), found.layer.blob.open() as stream:
        received.extend(iter(lambda: stream.read(50), b""))
    assert len(b"".join(received)) < len(data)


def test_a_layer_that_is_not_what_it_says_is_not_published(case: CacheCase) -> None:
    entry = made_up("zlib")
    other = replace(entry.layer, blob=replace(entry.layer.blob, open=made_up("curl").layer.blob.open))
    image = replace(entry.image, layers=(other,)) if entry.image else None
    with pytest.raises(ContentError):
        case.cache.publish(replace(entry, layer=other, image=image))
    with pytest.raises(NotFoundError):
        case.cache.find(entry.key)
    case.cache.publish(entry)
    assert layer_bytes(case.cache.find(entry.key).layer) == entry.layer.blob.read()


def test_a_package_can_be_removed(case: CacheCase) -> None:
    if not case.removes:
        assert not hasattr(case.cache, "remove")
        return
    entries = [made_up("zlib"), made_up("curl", needs=("zlib",))]
    for entry in entries:
        case.cache.publish(entry)
    case.cache.merge_index(index_for(*entries))
    case.cache.remove(entries[0].key)  # type: ignore[attr-defined]
    with pytest.raises(NotFoundError):
        case.cache.find(entries[0].key)
    assert names(case.cache) == ["curl"]
    assert case.cache.find(entries[1].key).key == entries[1].key
    with pytest.raises(NotFoundError):
        case.cache.remove(entries[0].key)  # type: ignore[attr-defined]


def test_many_writers_lose_nothing(case: CacheCase) -> None:
    entries = [made_up(f"package-{n}", needs=("zlib",)) for n in range(10)]

    def push(entry) -> None:
        cache = case.again()
        cache.publish(entry)
        cache.merge_index(index_for(entry))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(push, entries))
    assert set(names(case.cache)) == {entry.key.name for entry in entries}
    assert set(case.cache.hashes()) == {entry.key.hash for entry in entries}
