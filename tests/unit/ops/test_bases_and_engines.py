"""Base images for each architecture, and images on their way into an engine."""

import io

import pytest

from oci_binpkg.cache.oci import OciCache
from oci_binpkg.errors import BaseImageError, EngineError, NotFoundError, PlatformError, UsageError
from oci_binpkg.model.arch import this_platform
from oci_binpkg.model.content import OCI_INDEX, OCI_LAYER_GZIP, Blob, Descriptor, Digest, Platform
from oci_binpkg.model.image import Layer, PackageLayer, compose
from oci_binpkg.model.manifest import Index
from oci_binpkg.ops.engines import ContainerEngine, engine_name, load_image, run_image
from oci_binpkg.ops.run_options import RunOptions
from oci_binpkg.store.images import BaseImages
from tests.support.memory_store import MemoryStore

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")


def image(platform, name="base"):
    blob = Blob.from_bytes(f"{name} {platform}".encode(), OCI_LAYER_GZIP)
    return compose([PackageLayer(name, "1", "h" * 32, Layer(blob, Digest.of(b"tar" + blob.read())))], platform)


def store_with(*platforms):
    store = MemoryStore("memory")
    cache = OciCache(store, pause=lambda _: None)
    entries = []
    for platform in platforms:
        made = image(platform)
        cache.put_image(made)
        known = made.manifest.descriptor
        entries.append(Descriptor(known.media_type, known.digest, known.size, platform))
    store.tag(Blob.from_bytes(Index(OCI_INDEX, tuple(entries)).to_bytes(), OCI_INDEX), "latest")
    if platforms:
        cache.publish_image(image(platforms[0]), "single")
    return store


def test_the_base_is_chosen_by_architecture_and_read_once():
    bases = BaseImages(store_with(AMD64, ARM64), "latest")
    assert bases(AMD64).config.architecture == "amd64"
    assert bases(ARM64).config.architecture == "arm64"
    assert bases(AMD64) is bases(AMD64)


@pytest.mark.parametrize("tag", ["latest", "single"])
def test_a_missing_architecture_names_what_there_is(tag):
    with pytest.raises(PlatformError, match="linux/amd64") as caught:
        BaseImages(store_with(AMD64), tag)(ARM64)
    assert caught.value.exit_code == 8
    assert "base image memory" in caught.value.message


def test_an_absent_base_is_said_to_be_the_base():
    with pytest.raises(BaseImageError, match="base image memory:nothing"):
        BaseImages(store_with(AMD64), "nothing")(AMD64)


def test_a_base_that_is_no_image_is_refused():
    store = MemoryStore("memory")
    config = Blob.from_bytes(b"{}", "application/vnd.oci.image.config.v1+json")
    store.put(config)
    from oci_binpkg.model.content import OCI_MANIFEST
    from oci_binpkg.model.manifest import Manifest

    store.tag(Blob.from_bytes(Manifest(OCI_MANIFEST, config.descriptor, ()).to_bytes(), OCI_MANIFEST), "odd")
    with pytest.raises(BaseImageError, match="unusable"):
        BaseImages(store, "odd")(AMD64)


class StubClient:
    """An engine that takes every archive and knows the image afterwards."""

    def __init__(self, image_id):
        self.image_id = image_id
        self.loads = 0
        self.known = {}

    def load_image(self, data):
        for _ in data:
            pass
        self.loads += 1
        self.known = {"Id": self.image_id}
        return iter(())

    def inspect_image(self, _name):
        if not self.known:
            import docker.errors

            raise docker.errors.ImageNotFound("none")
        return self.known


def test_an_image_is_loaded_once_under_the_name_a_pull_would_give_it():
    store = store_with(this_platform())
    config = image(this_platform()).config.descriptor.digest
    client = StubClient(str(config))
    engine = ContainerEngine("docker", "unix:///x", client)
    loaded = load_image(engine, store, "single")
    assert (loaded.engine, loaded.image_id) == ("docker", str(config))
    assert load_image(engine, store, "single") == loaded
    assert client.loads == 1


def test_an_absent_tag_names_those_there_are():
    with pytest.raises(NotFoundError) as caught:
        load_image(ContainerEngine("docker", "x", StubClient("")), store_with(this_platform()), "nothing")
    assert "latest, single" in caught.value.hint
    with pytest.raises(NotFoundError):
        load_image(ContainerEngine("docker", "x", StubClient("")), MemoryStore(), "nothing")


def test_an_engine_that_holds_another_image_is_an_error():
    engine = ContainerEngine("podman", "x", StubClient("sha256:" + "0" * 64))
    with pytest.raises(EngineError):
        run_image(engine, store_with(this_platform()), "single", RunOptions(), stdout=io.BytesIO(), stderr=io.BytesIO())


@pytest.mark.parametrize(
    ("store", "reference", "name"),
    [
        ("registry.example/apps", "tag", "registry.example/apps:tag"),
        ("oci-layout:/data/My Cache", "tag", "localhost/my-cache:tag"),
        ("oci-layout:cache/", "tag", "localhost/cache:tag"),
        ("registry.example/apps", "sha256:" + "a" * 64, "registry.example/apps:aaaaaaaaaaaa"),
    ],
)
def test_names_in_an_engine(store, reference, name):
    assert engine_name(store, reference) == name


def test_a_folder_without_a_name_has_none_in_an_engine():
    with pytest.raises(UsageError, match="letters"):
        engine_name("oci-layout:/___", "tag")
