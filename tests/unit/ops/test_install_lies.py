"""An index and tags that say something else than what is there: what they claim is never installed under that name."""

from __future__ import annotations

import json

import pytest

from oci_binpkg.errors import ContentError, NotFoundError
from oci_binpkg.model.content import Blob
from oci_binpkg.model.manifest import parse_manifest
from oci_binpkg.model.reference import PackageKey
from oci_binpkg.store.layout import LayoutStore
from tests.support.memory_store import MemoryStore
from tests.unit.ops.test_install import cache, installed, outcomes, pushed, target, tree

__all__ = ["cache", "tree"]


def tag_of(tree, name):
    return PackageKey.of(tree.spec(name)).tag


def read(store, descriptor):
    with store.open(descriptor) as stream:
        return stream.read()


def manifest_of(store, tag):
    return parse_manifest(read(store, store.resolve(tag)), tag)


def exchange(store, tag, other):
    """Let a tag lead to the manifest of another."""
    descriptor = store.resolve(other)
    store.tag(Blob.from_bytes(read(store, descriptor), descriptor.media_type), tag)


@pytest.mark.covers("B14")
def test_a_tag_whose_manifest_was_deleted_is_not_there(tree, tmp_path):
    layout = tmp_path / "layout"
    cache = pushed(tree, tmp_path, LayoutStore(str(layout)))
    digest = cache.store.resolve(tag_of(tree, "zlib")).digest
    (layout / "blobs/sha256" / digest.hex).unlink()
    with pytest.raises(NotFoundError, match="zlib@1"):
        installed(cache, target(tmp_path))
    assert not (tmp_path / "new").exists()


@pytest.mark.covers("B14", "B15")
@pytest.mark.parametrize("whole", [False, True])
def test_a_tag_that_leads_to_another_package_installs_neither(tree, cache, tmp_path, whole):
    """Also where the user named the package by its whole hash."""
    exchange(cache.store, tag_of(tree, "zlib"), tag_of(tree, "cfg"))
    query = f"zlib@=1.3/{tree.spec('zlib').hash}" if whole else "zlib"
    with pytest.raises(ContentError, match="another package"):
        installed(cache, target(tmp_path), query)
    assert not (tmp_path / "new").exists()


@pytest.mark.covers("B14")
def test_a_damaged_entry_is_passed_over_with_a_report_if_another_cache_has_it(tree, cache, tmp_path):
    lying = pushed(tree, tmp_path, MemoryStore("lying"))
    exchange(lying.store, tag_of(tree, "zlib"), tag_of(tree, "cfg"))
    report = installed([lying, cache], target(tmp_path), "zlib")
    assert outcomes(report) == {"zlib": "installed"}
    assert report.packages[0].cache == "first"
    assert "another package" in report.packages[0].passed_over[0]


@pytest.mark.covers("B14")
@pytest.mark.parametrize(
    ("members", "shown"),
    [({"arch": {"platform": "linux", "platform_os": "debian12", "target": "s390x"}}, "target=s390x"), ({"name": "evil"}, "evil@=1.3")],
)  # fmt: skip
def test_a_package_that_is_not_what_the_index_says_is_not_installed(tree, cache, tmp_path, members, shown):
    """Another architecture or another name, under the right hash."""
    store, tag = cache.store, tag_of(tree, "zlib")
    document = json.loads(read(store, store.resolve(tag)))
    old = manifest_of(store, tag).config
    config = json.loads(read(store, old))
    config["spec"]["nodes"][0].update(members)
    changed = Blob.from_bytes(json.dumps(config).encode(), old.media_type)
    store.put(changed)
    document["config"] = changed.descriptor.to_json()
    store.tag(Blob.from_bytes(json.dumps(document).encode(), document["mediaType"]), tag)
    with pytest.raises(ContentError, match=shown):
        installed(cache, target(tmp_path), "zlib")
    assert not (tmp_path / "new").exists()


@pytest.mark.covers("B15", "B36")
def test_other_content_for_a_pinned_hash_is_not_installed(tree, tmp_path):
    """The layer of another package stands under the right digest."""
    layout = tmp_path / "layout"
    cache = pushed(tree, tmp_path, LayoutStore(str(layout)))
    names = [manifest_of(cache.store, tag_of(tree, name)).layers[-1].digest.hex for name in ("zlib", "cfg")]
    right, other = (layout / "blobs/sha256" / name for name in names)
    right.write_bytes(other.read_bytes())
    new = target(tmp_path)
    report = installed(cache, new, "zlib")
    assert outcomes(report) == {"zlib": "failed"}
    assert isinstance(report.packages[0].error, ContentError)
    assert [record for record in new.records() if record.installed] == []
