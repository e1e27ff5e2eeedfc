"""What a push does to a cache, seen from the cache and the report."""

import io
import json
from typing import Any

import pytest

from oci_binpkg.cache.oci import OciCache
from oci_binpkg.errors import DeniedError, NetworkError, NoMatchError, PackError
from oci_binpkg.events import BytesSent, PackageFinished, Warned
from oci_binpkg.model.content import (
    DOCKER_CONFIG,
    DOCKER_FOREIGN_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    Blob,
    Descriptor,
    Digest,
)
from oci_binpkg.model.image import MISSING_KEY, BaseImage, Layer
from oci_binpkg.model.manifest import Manifest, parse_config
from oci_binpkg.model.query import Query
from oci_binpkg.model.reference import PackageKey
from oci_binpkg.ops.push import PushOptions, plan, push, push_image
from oci_binpkg.ops.push_report import PushOutcome
from oci_binpkg.ops.selection import Only, select
from oci_binpkg.ops.stack import Composition
from oci_binpkg.store.images import read_image
from oci_binpkg.times import Time
from tests.support.memory_store import MemoryStore
from tests.support.packing import TextPacker
from tests.support.spack_trees import Sketch, spack_tree

SKETCHES = [
    Sketch("glibc", external="/usr", explicit=False),
    Sketch("zlib", "1.3", files={"lib/libz.so": b"z"}, depends=["glibc"], explicit=False),
    Sketch("ssl", "3.1", files={"bin/ssl": b"s"}, depends=["zlib"], explicit=False),
    Sketch("app", "2.0", files={"bin/app": b"a"}, depends=["ssl", "zlib"]),
    Sketch("other", "1.0", files={"bin/other": b"o"}),
]


@pytest.fixture
def tree(tmp_path):
    return spack_tree(tmp_path / "store", SKETCHES)


@pytest.fixture
def cache():
    return OciCache(MemoryStore(), pause=lambda _: None)


def names(results):
    return sorted(result.spec.name for result in results)


def pushed(tree, cache, *queries, only=None, packer=None, observer=None, base=None, **options):
    installs = tree.installs()
    selection = select(installs, [Query.parse(query) for query in queries], only)
    extra = {"observer": observer} if observer else {}
    if base:
        extra["base"] = base
    return push(installs, selection, cache, packer or TextPacker(), options=PushOptions(**options), **extra)


def config(cache, tag):
    return read_image(cache.store, tag).config


def test_without_a_query_everything_explicit_and_what_it_needs_is_pushed(tree, cache):
    report = pushed(tree, cache)
    assert names(report.by(PushOutcome.PUSHED)) == ["app", "other", "ssl", "zlib"]
    assert sorted(tag.split("-")[0] for tag in cache.store.tags()) == ["app", "other", "ssl", "zlib"]
    entry = cache.find(PackageKey.of(tree.spec("app")))
    assert entry.document.root == tree.spec("app")


def test_an_image_holds_its_closure_dependencies_first(tree, cache):
    pushed(tree, cache, "app")
    image = config(cache, PackageKey.of(tree.spec("app")).tag)
    assert [entry["created_by"] for entry in image.history] == [
        "oci-binpkg zlib@1.3",
        "oci-binpkg ssl@3.1",
        "oci-binpkg app@2.0",
    ]
    path = next(text for text in image.env if text.startswith("PATH="))
    assert path == f"PATH={tree.prefix('app')}/bin:{tree.prefix('ssl')}/bin:/bin:/usr/bin"
    assert image.document["archive_timestamp"] == "2023-11-14T22:13:20+00:00"


def test_what_is_there_is_skipped_and_nothing_is_packed(tree, cache):
    pushed(tree, cache)
    packer = TextPacker()
    report = pushed(tree, cache, packer=packer)
    assert names(report.by(PushOutcome.SKIPPED)) == ["app", "other", "ssl", "zlib"]
    assert not packer.counts
    assert not report.by(PushOutcome.PUSHED)


def test_force_pushes_again_but_sends_no_layer_twice(tree, cache):
    pushed(tree, cache)
    report = pushed(tree, cache, force=True)
    assert len(report.by(PushOutcome.PUSHED)) == 4
    assert report.bytes_sent == 0
    assert report.bytes_saved > 0


def test_a_new_package_is_stacked_on_layers_that_are_there(tree, cache):
    pushed(tree, cache, "ssl")
    packer = TextPacker()
    pushed(tree, cache, "app", packer=packer)
    assert packer.counts == {"app": 1}
    assert len(config(cache, PackageKey.of(tree.spec("app")).tag).diff_ids) == 3


def test_only_package_and_only_dependencies(tree, cache):
    report = pushed(tree, cache, "app", only=Only.DEPENDENCIES)
    assert names(report.by(PushOutcome.PUSHED)) == ["ssl", "zlib"]
    report = pushed(tree, cache, "app", only=Only.PACKAGE)
    assert names(report.by(PushOutcome.PUSHED)) == ["app"]
    assert report.packages[0].missing == ()


def test_only_package_without_its_dependencies_is_marked_incomplete(tree, cache):
    report = pushed(tree, cache, "app", only=Only.PACKAGE)
    (result,) = report.packages
    assert [text.split("/")[0] for text in result.missing] == ["zlib@1.3", "ssl@3.1"]
    label = config(cache, result.tag).labels[MISSING_KEY]
    assert label.startswith("zlib@1.3/")


def test_a_prefix_that_is_gone_is_reported_once_and_left_out(tree, cache):
    (tree.prefix("zlib") / "lib/libz.so").unlink()
    for folder in ("lib", ".spack"):
        for path in sorted((tree.prefix("zlib") / folder).rglob("*"), reverse=True):
            path.unlink()
        (tree.prefix("zlib") / folder).rmdir()
    tree.prefix("zlib").rmdir()
    events: list[Any] = []
    report = pushed(tree, cache, observer=events.append)
    assert names(report.by(PushOutcome.GONE)) == ["zlib"]
    assert names(report.by(PushOutcome.PUSHED)) == ["app", "other", "ssl"]
    assert next(event.text for event in events if isinstance(event, Warned)).startswith("zlib@1.3")
    app = next(result for result in report.packages if result.spec.name == "app")
    assert app.missing[0].startswith("zlib@1.3/")


def test_one_failure_stops_what_needs_it_and_nothing_else(tree, cache):
    error = PackError("ssl: bin/ssl changed while it was read")
    report = pushed(tree, cache, packer=TextPacker({"ssl": error}))
    assert names(report.by(PushOutcome.PUSHED)) == ["other", "zlib"]
    failed = {result.spec.name: result.error for result in report.by(PushOutcome.FAILED)}
    assert failed["ssl"] is error
    assert "needs ssl@3.1" in failed["app"].message
    assert not any(tag.startswith("app") for tag in cache.store.tags())
    again = pushed(tree, cache)
    assert names(again.by(PushOutcome.PUSHED)) == ["app", "ssl"]


def test_an_unexpected_error_is_reported_as_a_bug_of_that_package(tree, cache):
    report = pushed(tree, cache, "other", packer=TextPacker({"other": RuntimeError("odd")}))
    (result,) = report.by(PushOutcome.FAILED)
    assert "RuntimeError: odd" in result.error.message


class Refusing(MemoryStore):
    """Refuses tags that begin with `refused`."""

    def __init__(self, refused: str) -> None:
        super().__init__()
        self.refused = refused

    def tag(self, manifest, tag):
        if tag.startswith(self.refused):
            raise NetworkError("the registry went away")
        super().tag(manifest, tag)


class Unlisted(MemoryStore):
    """Shows each tag, and no list of them."""

    def tags(self):
        raise DeniedError("the tags of unlisted may not be listed")


def test_where_tags_may_not_be_listed_each_is_looked_for(tree):
    cache, warnings = OciCache(Unlisted("unlisted"), pause=lambda _: None), []
    observer = lambda event: warnings.append(event.text) if isinstance(event, Warned) else None  # noqa: E731
    assert {each.outcome.value for each in pushed(tree, cache, observer=observer).packages} == {"pushed"}
    again = pushed(tree, cache, observer=observer)
    assert {each.outcome.value for each in again.packages} == {"skipped"}
    assert warnings == ["the tags of unlisted may not be listed; each package is looked for by its tag"] * 2


def test_a_refused_tag_fails_that_package_alone(tree):
    report = pushed(tree, OciCache(Refusing("zlib"), pause=lambda _: None))
    assert names(report.by(PushOutcome.FAILED)) == ["zlib"]
    assert names(report.by(PushOutcome.PUSHED)) == ["app", "other", "ssl"]


def test_a_damaged_dependency_in_the_cache_makes_the_image_incomplete_and_says_so(tree, cache):
    pushed(tree, cache, "ssl")
    tag = PackageKey.of(tree.spec("zlib")).tag
    cache.publish_image(cache_image(tree), tag)
    events: list[Any] = []
    report = pushed(tree, cache, "app", observer=events.append)
    (app,) = report.by(PushOutcome.PUSHED)
    assert [text.split("@")[0] for text in app.missing] == ["zlib"]
    assert any(isinstance(event, Warned) and "cannot be stacked" in event.text for event in events)


def cache_image(tree):
    other = OciCache(MemoryStore(), pause=lambda _: None)
    pushed(tree, other, "other")
    image = read_image(other.store, PackageKey.of(tree.spec("other")).tag)
    from oci_binpkg.store.images import image_of

    return image_of(other.store, image)


def test_the_index_holds_what_was_pushed_and_what_was_there(tree, cache):
    pushed(tree, cache, "ssl")
    report = pushed(tree, cache, update_index=True)
    assert report.index_written
    assert sorted(spec.name for spec in cache.read_index().packages()) == ["app", "other", "ssl", "zlib"]
    assert not pushed(tree, cache, update_index=True).index_written


def test_a_dry_run_writes_nothing(tree, cache):
    report = pushed(tree, cache, dry_run=True, update_index=True, tag="all")
    assert names(report.by(PushOutcome.PLANNED)) == ["app", "other", "ssl", "zlib"]
    assert not list(cache.store.tags())


@pytest.mark.parametrize("force", [False, True])
def test_a_plan_says_what_becomes_of_each_package_and_a_push_does_that(tree, cache, force):
    pushed(tree, cache, "ssl")
    chosen = select(tree.installs(), [])
    ssl, other = (tree.spec(name).hash for name in ("ssl", "other"))
    found = plan(chosen, dict(cache.hashes()), force=force, elsewhere={other})
    assert [record.spec.name for record in found.todo] == (["zlib", "ssl", "app"] if force else ["app"])
    assert sorted(record.spec.name for record in found.there) == ([] if force else ["ssl", "zlib"])
    assert [record.spec.name for record in found.elsewhere] == ["other"]
    assert found.places[ssl] == cache.hashes()[ssl]
    planned = pushed(tree, cache, dry_run=True, force=force, elsewhere=frozenset({other}))
    assert len(cache.hashes()) == 2
    done = pushed(tree, cache, force=force, elsewhere=frozenset({other}))
    assert names(planned.by(PushOutcome.PLANNED)) == names(done.by(PushOutcome.PUSHED))
    for outcome in (PushOutcome.SKIPPED, PushOutcome.ELSEWHERE, PushOutcome.GONE):
        assert planned.by(outcome) == done.by(outcome)


def test_a_tag_makes_one_image_of_all_roots(tree, cache):
    pushed(tree, cache, "ssl")
    report = pushed(tree, cache, "app", "other", tag="all")
    assert report.image.layers == 4
    assert "spec" not in config(cache, "all").document
    assert json.loads(json.dumps(report.to_json()))["image"]["tag"] == "all"


def test_progress_counts_each_layer_once(tree, cache):
    events: list[Any] = []
    report = pushed(tree, cache, observer=events.append)
    sent = sum(event.count for event in events if isinstance(event, BytesSent))
    assert sent == report.bytes_sent == sum(result.size for result in report.packages)
    assert len([event for event in events if isinstance(event, PackageFinished)]) == 4


def test_the_same_tree_gives_the_same_digests(tree):
    caches = [OciCache(MemoryStore(), pause=lambda _: None) for _ in range(2)]
    digests = [sorted((r.spec.name, str(r.digest)) for r in pushed(tree, cache).packages) for cache in caches]
    assert digests[0] == digests[1]


def test_a_tree_without_explicit_packages_needs_a_query(tmp_path, cache):
    tree = spack_tree(tmp_path / "store", [Sketch("zlib", explicit=False)])
    with pytest.raises(NoMatchError, match="explicitly installed"):
        pushed(tree, cache)
    assert names(pushed(tree, cache, "zlib").by(PushOutcome.PUSHED)) == ["zlib"]


def test_a_closure_too_deep_for_docker_is_said(tmp_path, cache):
    sketches = [Sketch("p0")] + [Sketch(f"p{n}", depends=[f"p{n - 1}"]) for n in range(1, 128)]
    events: list[Any] = []
    pushed(spack_tree(tmp_path / "deep", sketches), cache, "p127", observer=events.append)
    assert any(isinstance(event, Warned) and "Docker runs at most 125" in event.text for event in events)


def image(tree, cache, *queries, packer=None, **options):
    installs = tree.installs()
    selection = select(installs, [Query.parse(query) for query in queries])
    return push_image(installs, selection, cache, packer or TextPacker(), "both", **options)


def test_an_image_of_several_packages_uses_what_is_there(tree, cache):
    pushed(tree, cache, "ssl")
    packer = TextPacker()
    report = image(tree, cache, "app", "other", packer=packer)
    assert packer.counts == {"app": 1, "other": 1}
    assert report.image.layers == 4
    assert "both" in set(cache.store.tags())


def docker_base(kind):
    """A base with Docker's media types and one layer of a type; its bytes are nowhere."""
    layer = Descriptor(kind, Digest.of(b"base"), 4, extra={"urls": ["https://example.org/base"]})
    text = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(b"x"))]}}
    config = Blob.from_bytes(json.dumps(text).encode(), DOCKER_CONFIG)
    manifest = Manifest(DOCKER_MANIFEST, config.descriptor, (layer,))
    blob = Blob(layer, lambda: io.BytesIO(b"base"))
    return BaseImage(manifest, parse_config(config.read(), "base"), (Layer(blob, Digest.of(b"x")),))


def test_an_image_in_a_layout_has_oci_types_whatever_the_base_has(tree, cache):
    report = image(tree, cache, "app", base=lambda _platform: docker_base(DOCKER_LAYER_GZIP))
    manifest = read_image(cache.store, "both").manifest
    assert manifest.media_type == OCI_MANIFEST
    assert {layer.media_type for layer in manifest.layers} == {OCI_LAYER_GZIP}
    assert report.image.layers == 4


def test_a_layer_that_may_not_be_passed_on_stays_where_its_address_says(tree, cache):
    image(tree, cache, "app", base=lambda _platform: docker_base(DOCKER_FOREIGN_LAYER))
    first = read_image(cache.store, "both").manifest.layers[0]
    assert first.extra["urls"] == ["https://example.org/base"]
    assert not cache.store.exists(first)


def test_the_time_of_an_image_can_be_given(tree, cache):
    image(tree, cache, "app", composition=Composition("2025-06-15T00:00:00+00:00"))
    assert read_image(cache.store, "both").config.document["created"] == "2025-06-15T00:00:00+00:00"


def test_an_image_with_a_failed_layer_is_not_tagged(tree, cache):
    from oci_binpkg.errors import PartialFailureError

    with pytest.raises(PartialFailureError, match="1 of its layers could not be pushed; no room"):
        image(tree, cache, "app", packer=TextPacker({"ssl": PackError("no room")}))
    assert not list(cache.store.tags())


def test_packages_of_two_architectures_become_an_index(tmp_path, cache):
    sketches = [Sketch("app", "1"), Sketch("arm", "1", target="neoverse_v1")]
    report = image(spack_tree(tmp_path / "store", sketches), cache, "app", "arm")
    assert report.image.platforms == ("linux/amd64", "linux/arm64")
    from oci_binpkg.model.content import Platform

    assert read_image(cache.store, "both", Platform("linux", "arm64")).config.architecture == "arm64"


def test_an_image_dry_run(tree, cache):
    pushed(tree, cache, "ssl")
    report = image(tree, cache, "app", dry_run=True)
    assert (names(report.by(PushOutcome.PLANNED)), names(report.by(PushOutcome.SKIPPED))) == (["app"], ["ssl", "zlib"])
    assert "both" not in set(cache.store.tags())


def test_a_layer_that_was_made_for_another_place_makes_the_image_incomplete_and_says_so(tmp_path, cache):
    from oci_binpkg.archive.codec import Codec
    from oci_binpkg.archive.layer_cache import LayerCache
    from oci_binpkg.ops.layer_packer import LayerPacker

    layers = LayerCache(str(tmp_path / "layers"), 2**30, time=Time(now=lambda: 0.0))
    here, there = (spack_tree(tmp_path / name / "store", SKETCHES) for name in ("here", "there"))
    pushed(here, cache, "zlib", packer=LayerPacker(here.installs(), layers, Codec.parse("gzip")))
    events: list[Any] = []
    packer = LayerPacker(there.installs(), layers, Codec.parse("gzip"))
    report = pushed(there, cache, "ssl", packer=packer, observer=events.append)
    (ssl,) = report.by(PushOutcome.PUSHED)
    assert ssl.missing == (there.spec("zlib").short,)
    warning = next(event.text for event in events if isinstance(event, Warned))
    assert str(there.prefix("zlib")) in warning
    assert str(here.prefix("zlib")) in warning
