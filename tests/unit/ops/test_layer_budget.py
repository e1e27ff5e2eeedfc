"""Images of more packages than layers: what they stack, and that everything can be had from them again."""

import gzip
import io
import json
import tarfile
from typing import Any

import pytest

from oci_binpkg.archive.codec import Codec, _Gzip
from oci_binpkg.archive.layer_cache import LayerCache
from oci_binpkg.cache.oci import OciCache
from oci_binpkg.errors import UsageError
from oci_binpkg.events import Warned
from oci_binpkg.installs.spack import SpackInstalls
from oci_binpkg.model.image import bodies_of
from oci_binpkg.model.reference import PackageKey
from oci_binpkg.ops.install import InstallOptions, install_resolved
from oci_binpkg.ops.layer_budget import LayerJoiner, _nested
from oci_binpkg.ops.layer_packer import LayerPacker
from oci_binpkg.ops.push import PushOptions, push, push_image
from oci_binpkg.ops.push_report import PushOutcome
from oci_binpkg.ops.selection import select
from oci_binpkg.ops.sources import Sources
from oci_binpkg.ops.stack import Composition
from oci_binpkg.store.images import read_image
from tests.support.memory_store import MemoryStore
from tests.support.spack_trees import Sketch, spack_tree

COUNT = 14
MOST = 6
SKETCHES = [
    Sketch(f"p{n}", files={f"bin/p{n}": bytes([n]) * (1 + n * 10)}, depends=[f"p{n - 1}"] if n else [])
    for n in range(COUNT)
]


class World:
    """A tree, a cache with its packages, and an image of them all."""

    def __init__(self, folder):
        self.tree = spack_tree(folder / "store", SKETCHES)
        self.layers = LayerCache(str(folder / "layers"), 2**30)
        self.cache = OciCache(MemoryStore(), pause=lambda _: None)
        self.installs = self.tree.installs()
        self.composition = Composition(max_layers=MOST, joiner=LayerJoiner(self.layers))
        self.packer = LayerPacker(self.installs, self.layers, Codec.parse("gzip"))
        self.events: list[Any] = []

    def push(self):
        options = PushOptions(update_index=True, jobs=1)
        return push(
            self.installs,
            select(self.installs, []),
            self.cache,
            self.packer,
            options=options,
            composition=self.composition,
        )

    def image(self, cache=None, composition=None, **options):
        return push_image(
            self.installs,
            select(self.installs, []),
            cache or self.cache,
            self.packer,
            "all",
            composition=composition or self.composition,
            observer=self.events.append,
            **options,
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made = World(tmp_path_factory.mktemp("world"))
    made.push()
    made.image()
    return made


def files_of(cache, tag):
    """Return the paths of each layer of an image, bottom first."""
    found = []
    for descriptor in read_image(cache.store, tag).manifest.layers:
        with cache.store.open(descriptor) as stream, tarfile.open(fileobj=io.BytesIO(stream.read())) as archive:
            found.append(archive.getnames())
    return found


def test_an_image_has_the_layers_it_may_have_and_every_package(world):
    stored = read_image(world.cache.store, "all")
    assert len(stored.manifest.layers) <= MOST
    layers = files_of(world.cache, "all")
    assert all(len(names) == len(set(names)) for names in layers)
    programs = [name for names in layers for name in names if "/bin/p" in name]
    assert len(programs) == len(set(programs)) == COUNT
    for descriptor, diff_id in zip(stored.manifest.layers, stored.config.diff_ids, strict=True):
        with world.cache.store.open(descriptor) as stream:
            data = gzip.decompress(stream.read())
        assert diff_id.of(data) == diff_id


def test_the_largest_keep_the_layer_that_the_cache_has(world):
    layers = {layer.digest for layer in read_image(world.cache.store, "all").manifest.layers}
    own = [world.cache.find(PackageKey.of(world.tree.spec(f"p{n}"))).layer.blob.descriptor for n in range(COUNT)]
    kept = [layer for layer in own if layer.digest in layers]
    assert len(kept) >= MOST - 2
    assert min(layer.size for layer in kept) >= max(layer.size for layer in own if layer.digest not in layers) - 20


def test_history_and_annotation_tell_what_shares_a_layer(world):
    stored = read_image(world.cache.store, "all")
    shared = [bodies_of(layer, "x") for layer in stored.manifest.layers]
    assert any(len(bodies) > 1 for bodies in shared)
    for bodies, entry in zip(shared, stored.config.history, strict=True):
        if bodies:
            assert entry["comment"] == "packages " + " ".join(f"/{body.hash}" for body in bodies)
        else:
            assert entry["comment"].startswith("package /")


def test_the_image_of_a_package_ends_with_its_own_layer(world):
    last = world.tree.spec(f"p{COUNT - 1}")
    stored = read_image(world.cache.store, PackageKey.of(last).tag)
    assert len(stored.manifest.layers) <= MOST
    entry = world.cache.find(PackageKey.of(last))
    assert not bodies_of(stored.manifest.layers[-1], "x")
    with entry.layer.blob.open() as stream, tarfile.open(fileobj=io.BytesIO(stream.read())) as archive:
        assert any(name.endswith(f"bin/p{COUNT - 1}") for name in archive.getnames())


def test_again_and_elsewhere_it_is_the_same_image(world, tmp_path):
    digest = read_image(world.cache.store, "all").descriptor.digest
    assert world.image().image.digest == digest
    layers = LayerCache(str(tmp_path / "other"), 2**30)
    composition = Composition(max_layers=MOST, joiner=LayerJoiner(layers))
    empty = OciCache(MemoryStore(), pause=lambda _: None)
    assert world.image(empty, composition, jobs=3).image.digest == digest


def test_nothing_is_compressed_twice(world, tmp_path, monkeypatch):
    monkeypatch.setattr(_Gzip, "_compress", None)
    layers = LayerCache(str(tmp_path / "other"), 2**30)
    world.image(composition=Composition(max_layers=MOST, joiner=LayerJoiner(layers)))


@pytest.mark.parametrize("indexed", [True, False])
def test_all_packages_of_an_image_can_be_installed(world, tmp_path, indexed):
    cache = world.cache
    if not indexed:
        cache = OciCache(cache.store, pause=lambda _: None)
        cache.read_index = lambda known=None: None  # type: ignore[method-assign]
    sources = Sources([cache])
    target = SpackInstalls(str(tmp_path / "new"), create=True)
    report = install_resolved(target, sources, sources.resolve_image("all"), InstallOptions(jobs=1))
    assert len(report.packages) == COUNT
    assert not report.exit_code
    for number in range(COUNT):
        (found,) = (tmp_path / "new").glob(f"**/bin/p{number}")
        assert found.read_bytes() == bytes([number]) * (1 + number * 10)


def test_what_shares_layers_is_said_where_no_engine_would_run_it_otherwise(world):
    assert not [event for event in world.events if isinstance(event, Warned)]


@pytest.mark.parametrize("most", [1, 126, -1])
def test_a_number_of_layers_that_no_engine_runs_is_refused(world, most):
    with pytest.raises(UsageError, match="2 to 125"):
        world.image(composition=Composition(max_layers=most))


def test_prefixes_within_others_are_found():
    prefixes = {"a": "/o/a", "b": "/o/a/b", "c": "/o/ab", "d": "/o/d", "e": "/o/d/x/y", "f": "/o/a/b/c"}
    assert _nested(prefixes) == {"a", "b", "d", "e", "f"}
    assert _nested({}) == set()


def test_a_push_reports_no_failure(world):
    assert json.dumps(world.push().to_json())
    assert not world.push().by(PushOutcome.FAILED)
