"""Packages in a content store: what Spack wrote is read, what is wrong is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from oci_binpkg.backoff import configured
from oci_binpkg.cache.oci import OciCache
from oci_binpkg.cache.protocol import CacheEntry
from oci_binpkg.cli.hints import words
from oci_binpkg.errors import ContentError, NotFoundError, TransferError
from oci_binpkg.index.document import index_of
from oci_binpkg.model.content import OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST, Blob, Digest, Platform
from oci_binpkg.model.image import Layer, PackageLayer, PackageSpec, compose
from oci_binpkg.model.manifest import Manifest
from oci_binpkg.model.reference import PackageKey
from oci_binpkg.model.spec_document import parse_spec_document
from oci_binpkg.store.layout import LayoutStore
from tests.support.memory_store import MemoryStore

LAYOUT = Path(__file__).parents[3] / "fixtures" / "golden" / "oci-layout"
GREET = PackageKey("greet", "2.0", "6fytamqgzio2shuhlaie55hiv2m2stdw")


def no_pause(_round: int) -> None:
    raise AssertionError("no other writer is there")


def golden() -> OciCache:
    return OciCache(LayoutStore(str(LAYOUT)), pause=no_pause)


def package(key: PackageKey = GREET, payload: bytes = b"layer") -> CacheEntry:
    node = {
        "name": key.name,
        "version": key.version,
        "hash": key.hash,
        "arch": {"platform": "linux", "platform_os": "debian12", "target": "x86_64"},
    }
    document = parse_spec_document({"spec": {"_meta": {"version": 5}, "nodes": [node]}}, "made up")
    layer = Layer(Blob.from_bytes(payload, OCI_LAYER_GZIP), Digest.of(b"tar" + payload))
    image = compose(
        [PackageLayer(key.name, key.version, key.hash, layer)],
        Platform("linux", "amd64"),
        spec=PackageSpec({"_meta": {"version": 5}, "nodes": [node]}, key.name),
    )
    return CacheEntry(key, document, layer, image)


def test_the_golden_cache_lists_five_packages():
    hashes = golden().hashes()
    assert len(hashes) == 5
    assert hashes[GREET.hash] == "greet-2.0-6fytamqgzio2shuhlaie55hiv2m2stdw.spack"


def test_a_golden_package_is_found_with_its_spec_and_layer():
    entry = golden().find(GREET)
    assert entry.document.root.name == "greet"
    assert str(entry.layer.blob.descriptor.digest).startswith("sha256:d14f294f")
    assert str(entry.layer.diff_id).startswith("sha256:7ca42ba8")
    assert len(entry.layer.blob.read()) == 7438


def test_the_golden_index_is_read_and_known_when_asked_again():
    index = golden().read_index()
    assert sorted(f"{spec.name}@{spec.version}" for spec in index.packages()) == [
        "greet@2.0",
        "greet@2.1",
        "greetcfg@0.9",
        "greetlib@1.2.0",
        "greetlib@1.3.0",
    ]
    assert golden().read_index(known=index.digest) is None


def test_what_was_published_is_found_again():
    cache = OciCache(MemoryStore(), pause=no_pause)
    entry = package()
    assert cache.upload(entry.layer)
    assert not cache.upload(entry.layer)
    digest = cache.publish(entry)
    assert cache.store.resolve(GREET.tag).digest == digest
    assert cache.find(GREET).layer.diff_id == entry.layer.diff_id
    assert cache.hashes() == {GREET.hash: GREET.tag}
    assert cache.entry(GREET.tag).key == GREET


def test_an_entry_without_an_image_cannot_be_published():
    with pytest.raises(ValueError, match="image"):
        OciCache(MemoryStore(), pause=no_pause).publish(replace(package(), image=None))


@pytest.mark.covers("B14")
def test_another_package_under_the_tag_is_refused():
    store = MemoryStore()
    cache = OciCache(store, pause=no_pause)
    other = package(PackageKey("greet", "2.0", "z" * 32))
    cache.publish_image(other.image, GREET.tag)  # type: ignore[arg-type]
    with pytest.raises(ContentError, match="another package"):
        cache.find(GREET)


@pytest.mark.covers("B13")
def test_an_image_that_is_no_package_is_told_apart():
    cache = OciCache(MemoryStore(), pause=no_pause)
    image = compose([PackageLayer("a", "1", "h", package().layer)], Platform("linux", "amd64"))
    cache.publish_image(image, GREET.tag)
    with pytest.raises(ContentError, match="not a package"):
        cache.find(GREET)


@pytest.mark.covers("B13")
def test_a_config_that_names_another_layer_is_refused():
    cache = OciCache(MemoryStore(), pause=no_pause)
    entry = package()
    config = json.loads(entry.image.config.read())
    config["binary_cache_checksum"]["hash"] = "0" * 64
    blob = Blob.from_bytes(json.dumps(config).encode(), OCI_CONFIG)
    manifest = Manifest(OCI_MANIFEST, blob.descriptor, (entry.layer.blob.descriptor,))
    assert entry.image is not None
    lying = replace(entry.image, config=blob, manifest=Blob.from_bytes(manifest.to_bytes(), OCI_MANIFEST))
    cache.publish_image(lying, GREET.tag)
    with pytest.raises(ContentError, match="another layer"):
        cache.find(GREET)


@pytest.mark.covers("B13")
def test_a_package_whose_history_skips_a_layer_is_refused():
    cache = OciCache(MemoryStore(), pause=no_pause)
    entry = package()
    config = json.loads(entry.image.config.read())
    config["history"] *= 2
    blob = Blob.from_bytes(json.dumps(config).encode(), OCI_CONFIG)
    manifest = Manifest(OCI_MANIFEST, blob.descriptor, (entry.layer.blob.descriptor,))
    assert entry.image is not None
    lying = replace(entry.image, config=blob, manifest=Blob.from_bytes(manifest.to_bytes(), OCI_MANIFEST))
    cache.publish_image(lying, GREET.tag)
    with pytest.raises(ContentError, match="a history of 2 layers"):
        cache.find(GREET)


def test_an_absent_package_is_not_found():
    with pytest.raises(NotFoundError):
        OciCache(MemoryStore(), pause=no_pause).find(GREET)


def index_for(*entries: CacheEntry):
    return index_of((entry.document.root, entry.document.graph) for entry in entries)


def test_the_index_grows_by_merging_and_is_not_written_for_nothing():
    cache = OciCache(MemoryStore(), pause=no_pause)
    with pytest.raises(NotFoundError):
        cache.read_index()
    first, second = package(), package(PackageKey("zlib", "1.3", "q" * 32))
    assert cache.merge_index(index_for(first))
    assert cache.merge_index(index_for(second))
    assert not cache.merge_index(index_for(first, second))
    assert sorted(spec.name for spec in cache.read_index().packages()) == ["greet", "zlib"]


class Rival(MemoryStore):
    """Another writer replaces the index after each of our writes, `times` times, from what it read before."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times
        self.busy = False

    def tag(self, manifest: Blob, tag: str) -> None:
        super().tag(manifest, tag)
        if self.times and not self.busy:
            self.times -= 1
            self.busy = True
            rival = OciCache(self, pause=no_pause)
            rival._write_index(index_for(package(PackageKey("rival", "1", "r" * 31 + str(self.times % 10)))))
            self.busy = False


def test_two_writers_end_with_both_entries():
    rounds: list[int] = []
    cache = OciCache(Rival(2), pause=rounds.append)
    assert cache.merge_index(index_for(package()))
    assert {"greet", "rival"} <= {spec.name for spec in cache.read_index().packages()}
    assert rounds == [0, 1]


def test_an_endless_rival_is_an_error_that_says_what_to_do():
    cache = OciCache(Rival(100), pause=lambda _: None)
    with pytest.raises(TransferError, match="replaced by other writers") as caught:
        cache.merge_index(index_for(package()))
    assert "index update" in words(caught.value.hint)


def test_without_retries_an_index_is_merged_once():
    rival = Rival(100)
    rounds: list[int] = []
    with pytest.raises(TransferError, match="replaced by other writers 1 times"):
        OciCache(rival, pause=rounds.append, backoff=configured(0)).merge_index(index_for(package()))
    assert (rival.times, rounds) == (99, [])
    cache = OciCache(MemoryStore(), pause=no_pause, backoff=configured(0))
    assert cache.merge_index(index_for(package()))


class Overtaken(MemoryStore):
    """Another writer pushes a package and enters it, and is gone, between our read of the index and our write."""

    def __init__(self, other: CacheEntry) -> None:
        super().__init__()
        self.other: CacheEntry | None = other

    def tag(self, manifest: Blob, tag: str) -> None:
        other, self.other = self.other, None
        if other is not None:
            rival = OciCache(self, pause=no_pause)
            rival.publish(other)
            assert rival.merge_index(index_for(other))
        super().tag(manifest, tag)


def test_a_write_from_an_old_read_is_made_good_by_the_writer():
    other, ours = package(PackageKey("zlib", "1.3", "q" * 32)), package()
    cache = OciCache(Overtaken(other), pause=lambda _: None)
    assert cache.merge_index(index_for(ours))
    assert sorted(spec.name for spec in cache.read_index().packages()) == ["greet", "zlib"]


@pytest.mark.parametrize("broken", ["image without a spec", "package of another hash"])
def test_tags_that_are_no_sound_packages_do_not_keep_an_index_from_being_written(broken):
    cache = OciCache(MemoryStore(), pause=lambda _: None)
    tag = PackageKey("zlib", "1.3", "q" * 32).tag
    layers = [PackageLayer("zlib", "1.3", "q" * 32, package().layer)]
    image = package().image if broken.startswith("package") else compose(layers, Platform("linux", "amd64"))
    cache.publish_image(image, tag)  # type: ignore[arg-type]
    assert cache.merge_index(index_for(package()))
    assert [spec.name for spec in cache.read_index().packages()] == ["greet"]


def test_an_index_of_the_wrong_shape_is_refused():
    cache = OciCache(MemoryStore(), pause=no_pause)
    image = compose([PackageLayer("a", "1", "h", package().layer)] * 2, Platform("linux", "amd64"))
    cache.publish_image(image, "index.spack")
    with pytest.raises(ContentError, match="not an index"):
        cache.read_index()
