"""What a user may write for a cache or a base image."""

import pytest

from oci_binpkg.cache.both_layouts import BothLayoutsCache
from oci_binpkg.cache.mirror_v2 import MirrorV2Cache
from oci_binpkg.cache.open import Opener, Trust, parse_base, parse_location
from oci_binpkg.errors import SignatureError, UsageError
from oci_binpkg.model.content import Platform
from oci_binpkg.model.reference import Repository
from oci_binpkg.objects.directory import FileObjects
from oci_binpkg.signing.judge import BELIEVING
from oci_binpkg.store.copy import copy
from oci_binpkg.store.images import read_image
from oci_binpkg.store.layout import LayoutStore
from tests.support.golden import GOLDEN
from tests.support.memory_store import MemoryStore
from tests.support.signers import Verifies
from tests.support.stores import index_of, put_image, small_image

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "address", "reference"),
    [
        ("oci://registry.example/apps", "https://registry.example/apps", ""),
        ("oci://registry.example:5000/a/b:tag", "https://registry.example:5000/a/b", "tag"),
        ("oci+http://registry.example/apps/", "http://registry.example/apps", ""),
        (f"oci://registry.example/apps@{DIGEST}", "https://registry.example/apps", DIGEST),
        ("docker://registry.example/apps:x", "https://registry.example/apps", "x"),
    ],
)
def test_registries(text, address, reference):
    location = parse_location(text)
    assert location.repository.address == address
    assert location.reference == reference


@pytest.mark.parametrize(
    ("text", "path", "reference"),
    [
        ("oci-layout:/a/b", "/a/b", ""),
        ("oci-layout:/a/b:tag", "/a/b", "tag"),
        ("oci-layout:/a:b/c", "/a:b/c", ""),
        (f"oci-layout:/a/b@{DIGEST}", "/a/b", DIGEST),
    ],
)
def test_layouts(text, path, reference):
    location = parse_location(text)
    assert (location.path, location.reference) == (path, reference)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "apps",
        "xyz://x/y",
        "zip://x/y",
        "sftp://user:pw@x/y",
        "gs://",
        "https://user:pw@x/y",
        "https://x/y?z",
        "https:///y",
        "file://relative",
        "oci://",
        "oci://host",
        "oci-layout:",
        "oci-layout:/a:.bad",
    ],
)
def test_everything_else_is_refused(text):
    with pytest.raises(UsageError):
        parse_location(text)


@pytest.mark.parametrize(
    ("text", "address", "reference"),
    [
        ("debian:12", "https://docker.io/library/debian", "12"),
        ("quay.io/org/base", "https://quay.io/org/base", "latest"),
        ("oci://registry.example/base", "https://registry.example/base", "latest"),
        ("oci+http://127.0.0.1:5000/base:1", "http://127.0.0.1:5000/base", "1"),
        ("docker.io/debian:12", "https://docker.io/library/debian", "12"),
        ("oci://docker.io/debian", "https://docker.io/library/debian", "latest"),
        ("index.docker.io/debian:12", "https://docker.io/library/debian", "12"),
        ("docker://debian:12", "https://docker.io/library/debian", "12"),
        ("docker://quay.io/org/base:1", "https://quay.io/org/base", "1"),
        ("docker.io/someone/base:1", "https://docker.io/someone/base", "1"),
        ("debian@sha256:" + "a" * 64, "https://docker.io/library/debian", "sha256:" + "a" * 64),
        ("localhost/base", "https://localhost/base", "latest"),
    ],
)
def test_base_images_are_written_as_docker_takes_them(text, address, reference):
    location = parse_base(text)
    assert (location.repository.address, location.reference) == (address, reference)


@pytest.mark.parametrize(
    "text",
    [
        "https://registry.example/debian:12",
        "http://127.0.0.1/x",
        "file:///x",
        "s3://bucket/x",
        "gs://b/x",
        "HTTPS://x/y",
    ],
)
def test_a_url_is_no_base_image(text):
    with pytest.raises(UsageError, match="is a URL") as caught:
        parse_base(text)
    assert text in caught.value.message


def _refuse(_data, _signatures, what, **_):
    raise SignatureError(f"{what} is not signed")


ANYTHING = Trust(BELIEVING)
SIGNED = Trust(Verifies(judged=_refuse))


def opener(*, plain):
    opened = []

    def registry(repository: Repository):
        opened.append(repository)
        return MemoryStore(str(repository))

    return Opener(
        registry, lambda _host: plain, lambda url: FileObjects(url.removeprefix("file://")), lambda _turn: None
    ), opened


def test_only_a_registry_on_this_machine_may_turn_out_to_speak_plain_http():
    found, opened = opener(plain=True)
    found.store(parse_location("oci://127.0.0.1:5000/apps"), ANYTHING)
    found.store(parse_location("oci://registry.example/apps"), ANYTHING)
    found.cache(parse_location("oci+http://registry.example/apps"), ANYTHING)
    assert [repository.scheme for repository in opened] == ["http", "https", "http"]
    found, opened = opener(plain=False)
    found.store(parse_location("oci://localhost/apps"), ANYTHING)
    assert opened[0].scheme == "https"


def test_a_layout_needs_no_registry(tmp_path):
    found, opened = opener(plain=True)
    assert isinstance(found.store(parse_location(f"oci-layout:{tmp_path}"), ANYTHING), LayoutStore)
    assert not opened


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("v3-signed", BothLayoutsCache),
        ("v3-unsigned", BothLayoutsCache),
        ("v2-signed", MirrorV2Cache),
        ("new", BothLayoutsCache),
    ],
)
def test_the_layout_of_a_mirror_is_seen_from_what_lies_there(tmp_path, name, kind):
    found, _ = opener(plain=False)
    root = GOLDEN / name if name != "new" else tmp_path
    assert isinstance(found.cache(parse_location(f"file://{root}/"), ANYTHING), kind)


def test_a_mirror_keeps_no_images(tmp_path):
    found, _ = opener(plain=False)
    with pytest.raises(UsageError, match="no images"):
        found.images(parse_location(f"file://{tmp_path}"), ANYTHING)


def test_nothing_is_opened_without_saying_what_is_asked_of_signatures():
    found, _ = opener(plain=False)
    location = parse_location("oci://registry.example/apps")
    for verb in (found.store, found.images, found.cache):
        with pytest.raises(TypeError, match="trust"):
            verb(location)


def test_an_image_that_has_to_be_signed_is_read_nowhere_without_a_signature(tmp_path):
    image = small_image()
    put_image(LayoutStore(str(tmp_path)), image, "prod")
    location = parse_location(f"oci-layout:{tmp_path}:prod")
    found, _ = opener(plain=False)
    assert read_image(found.store(location, ANYTHING), "prod").descriptor == image.manifest.descriptor
    for store in (found.store(location, SIGNED), found.images(location, SIGNED).store):
        for reference in ("prod", str(image.manifest.descriptor.digest)):
            with pytest.raises(SignatureError, match="is not signed"):
                read_image(store, reference)
            with pytest.raises(SignatureError, match="is not signed"):
                copy(store, MemoryStore("target"), reference)
        with pytest.raises(SignatureError, match="is not signed"), store.open(image.manifest.descriptor):
            pass
        assert list(store.tags()) == ["prod"]


def test_what_a_signed_index_lists_is_read_and_what_another_lists_is_not(tmp_path):
    inner, other = small_image("a"), small_image("b")
    listed, unlisted = index_of(inner), index_of(other)
    plain = LayoutStore(str(tmp_path))
    for image in (inner, other):
        put_image(plain, image)
    plain.tag(listed, "good")
    plain.tag(unlisted, "bad")

    def judge(data, _signatures, what, **_):
        if data != listed.read():
            _refuse(data, (), what)

    found, _ = opener(plain=False)
    store = found.store(parse_location(f"oci-layout:{tmp_path}"), Trust(Verifies(judged=judge)))
    platform = Platform("linux", "amd64")
    assert read_image(store, "good", platform).descriptor.digest == inner.manifest.descriptor.digest
    for reference in ("bad", str(other.manifest.descriptor.digest)):
        with pytest.raises(SignatureError, match="is not signed"):
            read_image(store, reference, platform)
