"""The store in memory, beyond what every store promises."""

from __future__ import annotations

import pytest

from oci_binpkg.errors import ContentError, NotFoundError
from oci_binpkg.model.content import Descriptor, Platform
from tests.support.memory_store import MemoryStore
from tests.support.stores import put_image, small_image


def test_names_itself() -> None:
    assert MemoryStore("a place").name == "a place"
    assert MemoryStore().address == ""


def test_errors_name_the_store_and_the_tag() -> None:
    store = MemoryStore("a place")
    with pytest.raises(NotFoundError, match=r"a place .*'1\.0'"):
        store.resolve("1.0")
    with pytest.raises(NotFoundError, match=r"a place .*'1\.0'"):
        store.remove("1.0")


@pytest.mark.covers("B07")
def test_a_malformed_digest_is_refused() -> None:
    with pytest.raises(ContentError, match="not a digest"):
        MemoryStore().resolve("sha256:../../x")


def test_what_pointed_to_a_manifest_is_not_kept_with_it() -> None:
    store = MemoryStore()
    image = small_image()
    found = image.manifest.descriptor
    put_image(store, image)
    pointed = Descriptor(found.media_type, found.digest, found.size, Platform("linux", "amd64"), {"a": "b"})
    store.tag(type(image.manifest)(pointed, image.manifest.open), "1.0")
    assert store.resolve("1.0") == found
