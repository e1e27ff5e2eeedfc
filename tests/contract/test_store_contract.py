"""What every content store promises, whatever holds the bytes."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from oci_binpkg.errors import BinpkgError, ContentError, NotFoundError
from oci_binpkg.model.content import Blob, Descriptor, Digest
from oci_binpkg.store.protocol import Store
from tests.support.stores import STORE_FACTORIES, StoreCase, index_of, put_image, small_image


@pytest.fixture(params=sorted(STORE_FACTORIES))
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StoreCase]:
    with STORE_FACTORIES[request.param](tmp_path) as found:
        yield found


@pytest.fixture
def store(case: StoreCase) -> Store:
    return case.store


def read(store: Store, descriptor: Descriptor) -> bytes:
    with store.open(descriptor) as stream:
        return stream.read()


def test_names_itself_for_people(store: Store) -> None:
    assert store.name
    assert store.address == "" or "://" in store.address


def test_gives_back_what_was_put(store: Store) -> None:
    blob = Blob.from_bytes(b"some bytes")
    assert not store.exists(blob.descriptor)
    assert store.put(blob) is True
    assert store.exists(blob.descriptor)
    assert read(store, blob.descriptor) == b"some bytes"


def test_putting_twice_sends_nothing_the_second_time(store: Store) -> None:
    opened = 0
    blob = Blob.from_bytes(b"some bytes")

    def counting() -> io.BytesIO:
        nonlocal opened
        opened += 1
        return io.BytesIO(b"some bytes")

    counted = Blob(blob.descriptor, counting)
    assert store.put(counted) is True
    assert store.put(counted) is False
    assert opened == 1


def test_exists_compares_the_size(store: Store) -> None:
    blob = Blob.from_bytes(b"some bytes")
    store.put(blob)
    assert not store.exists(replace(blob.descriptor, size=11))


def test_reads_in_pieces(store: Store) -> None:
    data = bytes(range(256)) * 10
    blob = Blob.from_bytes(data)
    store.put(blob)
    with store.open(blob.descriptor) as stream:
        pieces = [stream.read(100), stream.read(1), stream.read(0), stream.read(9999), stream.read(1)]
    assert b"".join(pieces) == data
    assert pieces[0] == data[:100]


def test_can_be_opened_again_and_partly_read(store: Store) -> None:
    blob = Blob.from_bytes(b"0123456789" * 1000)
    store.put(blob)
    for _ in range(3):
        with store.open(blob.descriptor) as stream:
            assert stream.read(5) == b"01234"


def test_holds_an_empty_blob(store: Store) -> None:
    blob = Blob.from_bytes(b"")
    store.put(blob)
    assert store.exists(blob.descriptor)
    assert read(store, blob.descriptor) == b""
    assert store.put(blob) is False


def test_streams_a_large_blob(store: Store) -> None:
    piece = hashlib.sha512(b"seed").digest() * 1024
    data = piece * 80  # 5 MiB
    blob = Blob.from_bytes(data)
    store.put(blob)
    digest, largest = hashlib.sha256(), 0
    with store.open(blob.descriptor) as stream:
        while chunk := stream.read(300_000):
            digest.update(chunk)
            largest = max(largest, len(chunk))
    assert digest.hexdigest() == blob.descriptor.digest.hex
    assert largest <= 300_000


def test_holds_a_blob_known_by_its_sha512(case: StoreCase) -> None:
    if not case.sha512:
        pytest.skip("this store knows sha256 only")
    store = case.store
    descriptor = Descriptor("text/plain", Digest("sha512", hashlib.sha512(b"long").hexdigest()), 4)
    store.put(Blob(descriptor, lambda: io.BytesIO(b"long")))
    assert read(store, descriptor) == b"long"


def test_what_is_not_there_is_not_found(store: Store) -> None:
    put_image(store, small_image(), "here")
    absent = Blob.from_bytes(b"never put").descriptor
    assert not store.exists(absent)
    with pytest.raises(NotFoundError, match=absent.digest.hex[:12]), store.open(absent) as stream:
        stream.read()
    with pytest.raises(NotFoundError, match="elsewhere"):
        store.resolve("elsewhere")
    with pytest.raises(NotFoundError):
        store.resolve(str(absent.digest))


def test_a_fresh_store_is_empty_and_not_broken(store: Store) -> None:
    blob = Blob.from_bytes(b"never put")
    assert list(store.tags()) == []
    assert not store.exists(blob.descriptor)
    with pytest.raises(NotFoundError):
        store.resolve("latest")
    with pytest.raises(NotFoundError), store.open(blob.descriptor) as stream:
        stream.read()


@pytest.mark.covers("B08")
@pytest.mark.parametrize("data", [b"some bytez", b"some byte", b"some bytes!", b""])
def test_refuses_bytes_that_are_not_those_of_the_descriptor(store: Store, data: bytes) -> None:
    descriptor = Blob.from_bytes(b"some bytes").descriptor
    with pytest.raises(BinpkgError):
        store.put(Blob(descriptor, lambda: io.BytesIO(data)))
    assert not store.exists(descriptor)
    assert store.put(Blob.from_bytes(b"some bytes")) is True
    assert read(store, descriptor) == b"some bytes"


@pytest.mark.covers("B43")
@pytest.mark.parametrize("data", [b"some bytez", b"some byte", b"some bytes!", b""])
def test_verifies_before_the_last_byte_is_given_out(case: StoreCase, data: bytes) -> None:
    if case.damage is None:
        pytest.skip("content of this store cannot be damaged from here")
    blob = Blob.from_bytes(b"some bytes")
    case.store.put(blob)
    case.damage(blob.descriptor.digest, data)
    received: list[bytes] = []
    with pytest.raises(ContentError, match=blob.descriptor.digest.hex), case.store.open(blob.descriptor) as stream:
        received.extend(iter(lambda: stream.read(4), b""))
    assert len(b"".join(received)) < 10


def test_keeps_a_manifest_under_its_tag_byte_for_byte(store: Store) -> None:
    image = small_image()
    descriptor = put_image(store, image, "1.0")
    assert store.resolve("1.0") == descriptor
    assert store.exists(descriptor)
    assert read(store, descriptor) == image.manifest.read()
    assert list(store.tags()) == ["1.0"]


def test_resolves_a_manifest_by_digest_with_and_without_a_tag(store: Store) -> None:
    tagged = put_image(store, small_image("tagged"), "1.0")
    untagged = put_image(store, small_image("untagged"))
    assert store.resolve(str(tagged.digest)) == tagged
    assert store.resolve(str(untagged.digest)) == untagged
    assert list(store.tags()) == ["1.0"]


def test_does_not_take_a_blob_for_a_manifest(store: Store) -> None:
    blob = Blob.from_bytes(b"no manifest")
    put_image(store, small_image(), "1.0")
    store.put(blob)
    with pytest.raises(NotFoundError):
        store.resolve(str(blob.descriptor.digest))


def test_keeps_an_index_over_images(store: Store) -> None:
    images = [small_image("one"), small_image("two")]
    for image in images:
        put_image(store, image)
    index = index_of(*images)
    store.tag(index, "all")
    assert store.resolve("all") == index.descriptor
    assert read(store, index.descriptor) == index.read()
    assert list(store.tags()) == ["all"]


def test_a_tag_moves_and_several_tags_share_a_manifest(store: Store) -> None:
    first, second = small_image("first"), small_image("second")
    for tag in ("a", "b"):
        put_image(store, first, tag)
    put_image(store, second, "a")
    put_image(store, second, "a")
    assert store.resolve("a") == second.manifest.descriptor
    assert store.resolve("b") == first.manifest.descriptor
    assert sorted(store.tags()) == ["a", "b"]


def test_a_tag_can_be_removed(case: StoreCase) -> None:
    if not case.removes:
        pytest.skip("this store cannot remove tags")
    store = case.store
    put_image(store, small_image("kept"), "kept")
    put_image(store, small_image("gone"), "gone")
    store.remove("gone")
    assert list(store.tags()) == ["kept"]
    with pytest.raises(NotFoundError):
        store.resolve("gone")
    with pytest.raises(NotFoundError):
        store.remove("gone")


def test_many_threads_put_the_same_and_other_blobs(store: Store) -> None:
    blobs = [Blob.from_bytes(f"blob {n % 10}".encode() * 1000) for n in range(40)]
    with ThreadPoolExecutor(8) as pool:
        sent = list(pool.map(store.put, blobs))
    assert sum(sent) >= 10
    assert all(read(store, blob.descriptor) == blob.read() for blob in blobs)


def test_many_threads_tag_and_no_tag_is_lost(store: Store) -> None:
    image = small_image()
    put_image(store, image)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: store.tag(image.manifest, f"tag-{n}"), range(24)))
    assert set(store.tags()) == {f"tag-{n}" for n in range(24)}
