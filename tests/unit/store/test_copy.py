"""Copying between stores, and reading one image."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from oci_binpkg.errors import ContentError, LocalDiskError, NetworkError, NotFoundError, PlatformError, RateLimitedError
from oci_binpkg.events import BytesSent, Event
from oci_binpkg.model.content import (
    DOCKER_FOREIGN_LAYER,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    Blob,
    Descriptor,
    Digest,
    Platform,
)
from oci_binpkg.model.manifest import Index, Manifest
from oci_binpkg.store import copy as copy_module
from oci_binpkg.store.copy import copy
from oci_binpkg.store.images import blob_of, image_of, read_image
from oci_binpkg.store.layout import LayoutStore
from tests.support.memory_store import MemoryStore
from tests.support.stores import image_of_layers, index_of, layer_of, put_image, small_image

GOLDEN = Path(__file__).parents[3] / "fixtures" / "golden" / "oci-layout"
AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")


class Recording(MemoryStore):
    """Remembers in which order things arrive."""

    def __init__(self) -> None:
        super().__init__("target")
        self.arrived: list[str] = []
        self._mutex = threading.Lock()

    def put(self, blob: Blob) -> bool:
        sent = super().put(blob)
        with self._mutex:
            self.arrived.append(str(blob.descriptor.digest))
        return sent

    def tag(self, manifest: Blob, tag: str) -> None:
        super().tag(manifest, tag)
        self.arrived.append(tag)


class FailingTarget(MemoryStore):
    """Fails after it has read a byte."""

    def put(self, blob: Blob) -> bool:
        with blob.open() as stream:
            stream.read(1)
            raise NetworkError("cut")


class Retrying(MemoryStore):
    """Throws the first attempt at every blob away."""

    def put(self, blob: Blob) -> bool:
        with blob.open() as stream:
            stream.read(5)
        return super().put(blob)


class FailingSource(MemoryStore):
    """Fails in the middle of a blob."""

    def __init__(self) -> None:
        super().__init__("origin")

    @contextmanager
    def open(self, descriptor: Descriptor) -> Iterator[BinaryIO]:
        if descriptor.media_type == OCI_LAYER_GZIP:
            yield Torn()
        else:
            with super().open(descriptor) as stream:
                yield stream


class Torn(io.BytesIO):
    def read(self, size: int | None = -1, /) -> bytes:
        raise RateLimitedError("later", seconds=60)


@pytest.fixture
def source() -> MemoryStore:
    return MemoryStore("origin")


def manifest_blob(media_type: str, **members: Any) -> Blob:
    document = {"schemaVersion": 2, "mediaType": media_type, **members}
    return Blob.from_bytes(json.dumps(document).encode(), media_type)


# copy


@pytest.mark.covers("R27")
def test_copies_an_image_content_first_and_the_tag_last(source: MemoryStore) -> None:
    image = small_image()
    put_image(source, image, "1.0")
    target = Recording()
    assert copy(source, target, "1.0") == image.manifest.descriptor
    *content, manifest, tag = target.arrived
    wanted = {str(d.digest) for d in (image.config.descriptor, *(la.blob.descriptor for la in image.layers))}
    assert set(content) == wanted
    assert (manifest, tag) == (str(image.manifest.descriptor.digest), "1.0")


def test_copies_an_index_with_its_images_and_each_content_once(source: MemoryStore) -> None:
    images = [small_image("a"), small_image("b", ARM64)]
    for image in images:
        put_image(source, image)
    index = index_of(*images)
    source.tag(index, "all")
    target = Recording()
    copy(source, target, "all", tag="other", jobs=1)
    assert list(target.tags()) == ["other"]
    assert len(target.arrived) == len(set(target.arrived))
    manifests = [str(image.manifest.descriptor.digest) for image in images]
    assert target.arrived[-4:] == [*manifests, str(index.descriptor.digest), "other"]
    with target.open(index.descriptor) as stream:
        assert stream.read() == index.read()


@pytest.mark.parametrize(("reference", "tag", "tags"), [("digest", None, []), ("1.0", "", []), ("digest", "x", ["x"])])
def test_copies_without_or_with_another_tag(
    source: MemoryStore, reference: str, tag: str | None, tags: list[str]
) -> None:
    descriptor = put_image(source, small_image(), "1.0")
    target = MemoryStore()
    copy(source, target, str(descriptor.digest) if reference == "digest" else reference, tag=tag)
    assert list(target.tags()) == tags
    assert target.resolve(str(descriptor.digest)) == descriptor


def test_copies_spacks_layout_byte_for_byte(tmp_path: Path) -> None:
    golden = LayoutStore(str(GOLDEN))
    target = LayoutStore(str(tmp_path / "copy"))
    for tag in golden.tags():
        copy(golden, target, tag)
    assert list(target.tags()) == list(golden.tags())
    names = sorted(p.name for p in (GOLDEN / "blobs/sha256").iterdir())
    assert sorted(p.name for p in (tmp_path / "copy/blobs/sha256").iterdir()) == names
    for name in names:
        assert (tmp_path / "copy/blobs/sha256" / name).read_bytes() == (GOLDEN / "blobs/sha256" / name).read_bytes()


@pytest.mark.covers("B11", "R25")
def test_foreign_layers_stay_where_they_are(source: MemoryStore) -> None:
    image = small_image()
    foreign = [
        Descriptor(kind, Digest.of(kind.encode()), 7, extra={"urls": ["http://169.254.169.254/x"]})
        for kind in (DOCKER_FOREIGN_LAYER, "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip")
    ]
    manifest = Manifest(OCI_MANIFEST, image.config.descriptor, (*foreign, image.layers[0].blob.descriptor))
    source.put(image.config)
    source.put(image.layers[0].blob)
    source.tag(Blob.from_bytes(manifest.to_bytes(), OCI_MANIFEST), "1.0")
    target = MemoryStore()
    copy(source, target, "1.0")
    assert not any(target.exists(descriptor) for descriptor in foreign)
    assert target.exists(image.layers[0].blob.descriptor)


@pytest.mark.covers("B11")
def test_content_within_a_descriptor_and_other_addresses_of_it_are_not_believed(source: MemoryStore) -> None:
    """`data` and `urls` stay as they were written; the bytes are those of the store, by their digest."""
    image = small_image()
    layer = image.layers[0].blob
    lies = {
        "data": base64.b64encode(b"something else").decode(),
        "urls": ["file:///etc/passwd", "http://169.254.169.254/"],
    }
    manifest = Manifest(OCI_MANIFEST, image.config.descriptor, (replace(layer.descriptor, extra=lies),))
    source.put(image.config)
    source.put(layer)
    source.tag(Blob.from_bytes(manifest.to_bytes(), OCI_MANIFEST), "1.0")
    target = MemoryStore()
    copied = copy(source, target, "1.0")
    with target.open(copied) as stream:
        assert stream.read() == manifest.to_bytes()
    with target.open(layer.descriptor) as stream:
        assert stream.read() == layer.read()


def test_entries_of_unknown_type_are_copied_as_they_are(source: MemoryStore) -> None:
    odd = Blob.from_bytes(b"anything", "application/vnd.example.thing")
    source.put(odd)
    source.tag(Blob.from_bytes(Index(OCI_INDEX, (odd.descriptor,)).to_bytes(), OCI_INDEX), "1.0")
    target = MemoryStore()
    copy(source, target, "1.0")
    assert target.exists(odd.descriptor)


@pytest.mark.covers("B09")
def test_an_index_may_be_nested_three_deep(source: MemoryStore) -> None:
    blob = small_image().manifest
    put_image(source, small_image(), "level-0")
    for level in range(1, 5):
        entry = replace(blob.descriptor, platform=AMD64)
        blob = Blob.from_bytes(Index(OCI_INDEX, (entry,)).to_bytes(), OCI_INDEX)
        source.tag(blob, f"level-{level}")
    copy(source, MemoryStore(), "level-3")
    assert read_image(source, "level-3", AMD64).descriptor.digest == small_image().manifest.descriptor.digest
    with pytest.raises(ContentError, match="more than 3 deep"):
        copy(source, MemoryStore(), "level-4")
    with pytest.raises(ContentError, match="more than 3 deep"):
        read_image(source, "level-4", AMD64)


@pytest.mark.covers("B09")
def test_the_number_of_contents_is_bounded(source: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    put_image(source, small_image(), "1.0")
    monkeypatch.setattr(copy_module, "MAX_CONTENTS", 3)
    with pytest.raises(ContentError, match="more than 3 things"):
        copy(source, MemoryStore(), "1.0")


@pytest.mark.covers("B09")
def test_an_index_in_itself_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    # only a store that does not verify can hold such a thing
    digest = Digest.of(b"made up")
    data = Index(OCI_INDEX, (Descriptor(OCI_INDEX, digest, 1, AMD64),)).to_bytes()
    itself = Descriptor(OCI_INDEX, digest, len(data), AMD64)

    class Lying(MemoryStore):
        def resolve(self, reference: str) -> Descriptor:
            return itself

    monkeypatch.setattr(copy_module, "read_manifest", lambda *_: (data, Index(OCI_INDEX, (itself,))))
    with pytest.raises(ContentError, match="in itself"):
        copy(Lying(), MemoryStore(), "x")


def test_what_is_no_manifest_is_not_copied() -> None:
    class Odd(MemoryStore):
        def resolve(self, reference: str) -> Descriptor:
            return Blob.from_bytes(b"x", "application/vnd.example").descriptor

    with pytest.raises(ContentError, match="no image and no index"):
        copy(Odd(), MemoryStore(), "x")


def test_errors_name_the_side_that_failed(source: MemoryStore) -> None:
    put_image(source, small_image(), "1.0")
    with pytest.raises(NotFoundError, match=r"^source origin: .*'2\.0'"):
        copy(source, MemoryStore(), "2.0")
    with pytest.raises(NetworkError, match=r"^destination target: cut"):
        copy(source, FailingTarget("target"), "1.0")


def test_a_source_that_fails_while_the_target_writes_is_the_source(tmp_path: Path) -> None:
    source = FailingSource()
    put_image(source, small_image(), "1.0")
    with pytest.raises(RateLimitedError, match=r"^source origin: later") as caught:
        copy(source, LayoutStore(str(tmp_path / "layout")), "1.0")
    assert caught.value.seconds == 60
    assert str(caught.value) == caught.value.message


def test_a_blob_missing_at_the_source_is_the_source(source: MemoryStore) -> None:
    image = small_image()
    put_image(source, image, "1.0")
    del source._content[image.layers[1].blob.descriptor.digest]
    target = Recording()
    with pytest.raises(NotFoundError, match=r"^source origin: "):
        copy(source, target, "1.0")
    assert list(target.tags()) == []
    assert str(image.manifest.descriptor.digest) not in target.arrived


def test_a_full_disk_is_the_destination(source: MemoryStore, tmp_path: Path) -> None:
    put_image(source, small_image(), "1.0")
    (tmp_path / "file").write_text("")
    with pytest.raises(LocalDiskError, match=r"^destination oci-layout:"):
        copy(source, LayoutStore(str(tmp_path / "file")), "1.0")


def totals_of(events: list[Event]) -> dict[str, int]:
    totals: dict[str, int] = {}
    for event in events:
        assert isinstance(event, BytesSent)
        totals[event.key] = totals.get(event.key, 0) + event.count
    return totals


@pytest.mark.parametrize("kind", [MemoryStore, Retrying])
def test_reports_the_bytes_that_count(source: MemoryStore, kind: type[MemoryStore]) -> None:
    image = small_image()
    put_image(source, image, "1.0")
    events: list[Event] = []
    copy(source, kind("target"), "1.0", observer=events.append)
    descriptors = [image.config.descriptor, *(layer.blob.descriptor for layer in image.layers)]
    assert totals_of(events) == {str(d.digest): d.size for d in descriptors}


def test_reports_nothing_for_what_is_there(source: MemoryStore) -> None:
    put_image(source, small_image(), "1.0")
    target = MemoryStore()
    copy(source, target, "1.0")
    events: list[Event] = []
    copy(source, target, "1.0", observer=events.append)
    assert events == []


def test_blobs_know_where_they_come_from() -> None:
    class Addressed(MemoryStore):
        @property
        def address(self) -> str:
            return "https://reg.example/apps"

    store = Addressed()
    image = small_image()
    put_image(store, image, "1.0")
    blob = blob_of(store, image.config.descriptor)
    assert blob.origin == "https://reg.example/apps"
    assert blob.read() == blob.read() == image.config.read()
    origins = []

    class Asking(MemoryStore):
        def put(self, blob: Blob) -> bool:
            if not blob.descriptor.is_manifest:
                origins.append(blob.origin)
            return super().put(blob)

    copy(store, Asking(), "1.0")
    assert origins == ["https://reg.example/apps"] * 3


# read_image


def test_reads_an_image_and_keeps_its_bytes(source: MemoryStore) -> None:
    image = small_image()
    put_image(source, image, "1.0")
    stored = read_image(source, "1.0", AMD64)
    assert stored == read_image(source, "1.0")
    assert stored.descriptor == image.manifest.descriptor
    assert stored.manifest_bytes == image.manifest.read()
    assert stored.config_bytes == image.config.read()
    assert stored.config.env == ("PATH=/bin",)
    again = image_of(source, stored)
    assert again.manifest.descriptor == image.manifest.descriptor
    assert again.config.descriptor == image.config.descriptor
    assert [(la.blob.read(), la.diff_id) for la in again.layers] == [
        (la.blob.read(), la.diff_id) for la in image.layers
    ]


def test_reads_the_images_that_spack_made() -> None:
    golden = LayoutStore(str(GOLDEN))
    for tag in golden.tags():
        if tag == "index.spack":
            with pytest.raises(ContentError, match="rootfs"):
                read_image(golden, tag)
        else:
            stored = read_image(golden, tag, AMD64)
            for layer in image_of(golden, stored).layers:
                assert len(layer.blob.read()) == layer.blob.descriptor.size


@pytest.mark.covers("B10")
def test_selects_by_platform(source: MemoryStore) -> None:
    images = [small_image("a"), small_image("b", ARM64)]
    for image in images:
        put_image(source, image)
    source.tag(index_of(*images), "all")
    assert read_image(source, "all", ARM64).config.platform == ARM64
    with pytest.raises(PlatformError, match="offered: linux/amd64, linux/arm64"):
        read_image(source, "all", Platform("linux", "s390x"))
    with pytest.raises(PlatformError, match="is an index") as caught:
        read_image(source, "all")
    assert caught.value.hint


def test_an_image_for_another_platform_is_refused(source: MemoryStore) -> None:
    put_image(source, small_image(), "1.0")
    with pytest.raises(PlatformError, match="for linux/amd64, not for linux/arm64"):
        read_image(source, "1.0", ARM64)


def test_an_entry_without_a_platform_is_read_to_see_what_it_is_for(source: MemoryStore) -> None:
    images = [small_image("a"), small_image("b", ARM64)]
    for image in images:
        put_image(source, image)
    bare = tuple(image.manifest.descriptor for image in images)
    source.tag(Blob.from_bytes(Index(OCI_INDEX, bare).to_bytes(), OCI_INDEX), "bare")
    nested = Blob.from_bytes(Index(OCI_INDEX, bare).to_bytes(), OCI_INDEX)
    source.put(nested)
    source.tag(Blob.from_bytes(Index(OCI_INDEX, (nested.descriptor,)).to_bytes(), OCI_INDEX), "nested")
    for tag in ("bare", "nested"):
        assert read_image(source, tag, ARM64).config.platform == ARM64
        with pytest.raises(PlatformError):
            read_image(source, tag, Platform("linux", "s390x"))


def test_an_artifact_beside_the_image_is_passed_over(source: MemoryStore) -> None:
    image = small_image()
    put_image(source, image)
    config = Blob.from_bytes(b"{}", "application/vnd.amazon.soci.index.v2+json")
    source.put(config)
    artifact = Blob.from_bytes(Manifest(OCI_MANIFEST, config.descriptor, ()).to_bytes(), OCI_MANIFEST)
    source.put(artifact)
    entries = tuple(replace(each.descriptor, platform=AMD64) for each in (artifact, image.manifest))
    source.tag(Blob.from_bytes(Index(OCI_INDEX, entries).to_bytes(), OCI_INDEX), "both")
    assert read_image(source, "both", AMD64).descriptor.digest == image.manifest.descriptor.digest


def test_only_so_many_entries_are_read(source: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    image = small_image("b", ARM64)
    put_image(source, image)
    entries = tuple(replace(image.manifest.descriptor, annotations={"n": str(n)}) for n in range(500))
    source.tag(Blob.from_bytes(Index(OCI_INDEX, entries).to_bytes(), OCI_INDEX), "many")
    opened: list[Descriptor] = []
    read = source.open
    monkeypatch.setattr(source, "open", lambda descriptor: opened.append(descriptor) or read(descriptor))
    with pytest.raises(PlatformError):
        read_image(source, "many", AMD64)
    assert 64 <= len(opened) < 200


@pytest.mark.covers("B13")
def test_layers_and_diff_ids_must_be_as_many(source: MemoryStore) -> None:
    image = small_image()
    put_image(source, image)
    short = Manifest(OCI_MANIFEST, image.config.descriptor, (image.layers[0].blob.descriptor,))
    source.tag(Blob.from_bytes(short.to_bytes(), OCI_MANIFEST), "short")
    with pytest.raises(ContentError, match="describes 2 layers, the manifest 1"):
        read_image(source, "short")


def test_a_history_that_does_not_tell_of_every_layer_is_for_the_caller_to_judge(source: MemoryStore) -> None:
    layers = [layer_of({"a": b"1"}), layer_of({"b": b"2"})]
    put_image(source, image_of_layers(*layers, history=3), "wrong")
    assert len(read_image(source, "wrong").config.history) == 3


@pytest.mark.covers("B13", "B06")
@pytest.mark.parametrize("config", [b"{}", b"[]", b"\x89PNG", b'{"rootfs": {"type": "other", "diff_ids": []}}'])
def test_the_artefact_of_another_tool_is_no_image(source: MemoryStore, config: bytes) -> None:
    blob = Blob.from_bytes(config, OCI_CONFIG)
    source.put(blob)
    manifest = Manifest(OCI_MANIFEST, blob.descriptor, ())
    source.tag(Blob.from_bytes(manifest.to_bytes(), OCI_MANIFEST), "1.0")
    with pytest.raises(ContentError, match="the configuration sha256:"):
        read_image(source, "1.0")


@pytest.mark.covers("B05")
def test_a_manifest_of_another_type_than_its_descriptor_is_refused(source: MemoryStore) -> None:
    inner = manifest_blob(OCI_MANIFEST, config=small_image().config.descriptor.to_json(), layers=[])
    source.put(inner)
    entry = replace(inner.descriptor, media_type=OCI_INDEX, platform=AMD64)
    source.tag(Blob.from_bytes(Index(OCI_INDEX, (entry,)).to_bytes(), OCI_INDEX), "1.0")
    with pytest.raises(ContentError, match="was promised"):
        read_image(source, "1.0", AMD64)
    with pytest.raises(ContentError, match=r"^source origin: .*was promised"):
        copy(source, MemoryStore(), "1.0")


@pytest.mark.covers("B08")
def test_a_manifest_that_says_it_is_huge_is_not_read(source: MemoryStore) -> None:
    entry = Descriptor(OCI_MANIFEST, Digest.of(b"x"), 2**40, AMD64)
    source.tag(Blob.from_bytes(Index(OCI_INDEX, (entry,)).to_bytes(), OCI_INDEX), "1.0")
    with pytest.raises(ContentError, match="at most"):
        read_image(source, "1.0", AMD64)
