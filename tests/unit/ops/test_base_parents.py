"""Images on a base whose directories are not those that package layers speak of."""

import io
import json
import tarfile
from dataclasses import replace
from typing import Any

import pytest

from oci_binpkg.archive.codec import Codec, decompressor
from oci_binpkg.archive.layer_cache import LayerCache
from oci_binpkg.cache.oci import OciCache
from oci_binpkg.errors import BaseImageError
from oci_binpkg.events import Warned
from oci_binpkg.model.content import OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST, Blob, Digest
from oci_binpkg.model.image import BaseImage, Layer, bodies_of
from oci_binpkg.model.manifest import Manifest, parse_config
from oci_binpkg.model.reference import PackageKey
from oci_binpkg.ops.base_parents import BaseParents
from oci_binpkg.ops.layer_budget import LayerJoiner
from oci_binpkg.ops.layer_packer import LayerPacker
from oci_binpkg.ops.push import push, push_image
from oci_binpkg.ops.selection import select
from oci_binpkg.ops.stack import Composition
from oci_binpkg.store.images import read_image
from tests.support.memory_store import MemoryStore
from tests.support.spack_trees import Sketch, spack_tree

SKETCHES = [
    Sketch(
        f"p{n}",
        files={f"bin/p{n}": bytes([n]) * (n + 1) * 90, "lib/x": "-> ../bin"},
        depends=[f"p{n - 1}"] if n else [],
    )
    for n in range(6)
]


def base_of(*members):
    """Return a base image of one layer: (path, mode, owner) is a directory, (path, target) a link, a path a file."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, *rest in members:
            info = tarfile.TarInfo(path)
            if len(rest) == 2:
                info.type, info.mode, info.uid, info.mtime = tarfile.DIRTYPE, rest[0], rest[1], 1_000_000
            elif rest:
                info.type, info.linkname = tarfile.SYMTYPE, rest[0]
            archive.addfile(info, io.BytesIO())
    tar = stream.getvalue()
    document = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(tar))]}}
    config = Blob.from_bytes(json.dumps(document).encode(), OCI_CONFIG)
    blob = Blob.from_bytes(tar, "application/vnd.oci.image.layer.v1.tar")
    manifest = Manifest(OCI_MANIFEST, config.descriptor, (blob.descriptor,))
    return BaseImage(manifest, parse_config(config.read(), "base"), (Layer(blob, Digest.of(tar)),))


def flat(store, tag):
    """Return what the layers of an image make together, as engines do it: path -> (kind, mode, owner, target)."""
    found: dict[str, Any] = {}

    def put(path, what):
        if what[0] != "d" or found.get(path, what)[0] != "d":
            for known in [known for known in found if known.startswith(f"{path}/")]:
                del found[known]
        found[path] = what

    for descriptor in read_image(store, tag).manifest.layers:
        with store.open(descriptor) as stream:
            tar = decompressor(stream, "a layer").read()
        with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
            for info in archive:
                parts = info.name.split("/")
                for count in range(1, len(parts)):
                    above = "/".join(parts[:count])
                    if found.get(above, ("",))[0] != "d":
                        put(above, ("d", 0o755, 0, ""))
                kind = "d" if info.isdir() else "l" if info.issym() else "f"
                put(info.name, (kind, info.mode, info.uid, info.linkname))
    return found


class World:
    def __init__(self, folder, *, codec="gzip", strict=False, most=0):
        self.tree = spack_tree(folder / "store", SKETCHES)
        self.root = str(self.tree.root).strip("/")
        self.installs = self.tree.installs()
        self.layers = LayerCache(str(folder / "layers"), 2**30)
        self.cache = OciCache(MemoryStore(), pause=lambda _: None)
        self.events: list[Any] = []
        self.composition = Composition(
            max_layers=most,
            joiner=LayerJoiner(self.layers),
            parents=BaseParents(self.layers, self.events.append, strict=strict),
        )
        self.packer = LayerPacker(self.installs, self.layers, Codec.parse(codec))

    def run(self, what, base, **options):
        return what(
            self.installs,
            select(self.installs, []),
            self.cache,
            self.packer,
            base=lambda _platform: base,
            composition=self.composition,
            observer=self.events.append,
            **options,
        )

    def image(self, base):
        self.run(push_image, base, tag="all")
        return flat(self.cache.store, "all")

    @property
    def told(self):
        return [event.text for event in self.events if isinstance(event, Warned)]

    def own_layers(self):
        return [self.packer(record).layer.blob.descriptor.digest for record in self.installs.records()]


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_modes_and_owners_of_the_base_stay(tmp_path, codec):
    world = World(tmp_path, codec=codec)
    first, second = world.root.split("/")[:2]
    made = world.image(base_of((first, 0o1777, 0), (f"{first}/{second}", 0o2770, 1000), ("etc", 0o700, 0)))
    assert made[first][:3] == ("d", 0o1777, 0)
    assert made[f"{first}/{second}"][:3] == ("d", 0o2770, 1000)
    assert any(path.endswith("bin/p5") for path in made)
    stored = read_image(world.cache.store, "all")
    assert len(stored.manifest.layers) == 1 + 6 + 1
    assert stored.config.history[-1]["created_by"].startswith("oci-binpkg: directories")
    assert not world.told
    assert set(world.own_layers()) <= {layer.digest for layer in stored.manifest.layers}


def test_a_base_that_agrees_or_has_nothing_there_gets_no_further_layer(tmp_path):
    world = World(tmp_path)
    first = world.root.split("/")[0]
    for base in (base_of((first, 0o755, 0)), base_of(("etc", 0o700, 0))):
        world.image(base)
        assert len(read_image(world.cache.store, "all").manifest.layers) == 1 + 6


@pytest.mark.parametrize("most", [0, 5])
@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_packages_behind_a_link_of_the_base_leave_it_a_link(tmp_path, codec, most):
    world = World(tmp_path, codec=codec, most=most)
    first = world.root.split("/")[0]
    made = world.image(base_of(("var", 0o750, 0), ("var/real", 0o1777, 7), ("var/real/vendor",), (first, "var/real")))
    assert made[first] == ("l", 0o644, 0, "var/real")
    assert made["var/real/vendor"][0] == "f"
    assert made["var"][:3] == ("d", 0o750, 0)
    assert made["var/real"][:3] == ("d", 0o1777, 7)
    below = world.root.replace(first, "var/real", 1)
    programs = [
        path for path, (kind, *_) in made.items() if kind == "f" and path.startswith(below) and "/bin/p" in path
    ]
    assert len(programs) == len(SKETCHES)
    assert not [path for path in made if path.startswith(f"{first}/")]
    (told,) = [text for text in world.told if "link" in text]
    assert "6 packages have layers that are made for this base" in told
    layers = read_image(world.cache.store, "all").manifest.layers
    assert not most or len(layers) <= most
    assert bool(most) == any(bodies_of(layer, "x") for layer in layers)


def test_an_image_behind_a_link_is_the_same_each_time(tmp_path):
    world = World(tmp_path)
    base = base_of((world.root.split("/")[0], "var/real"))
    world.image(base)
    first = read_image(world.cache.store, "all").descriptor
    other = replace(world.composition, parents=BaseParents(LayerCache(str(tmp_path / "o"), 2**30), world.events.append))
    world.composition = other
    world.image(base)
    assert read_image(world.cache.store, "all").descriptor == first


def test_images_of_packages_keep_the_modes_of_the_base_and_the_package_last(tmp_path):
    world = World(tmp_path)
    first = world.root.split("/")[0]
    world.run(push, base_of((first, 0o1777, 3)))
    for number in (0, 5):
        key = PackageKey.of(world.tree.spec(f"p{number}"))
        assert flat(world.cache.store, key.tag)[first][:3] == ("d", 0o1777, 3)
        entry = world.cache.find(key)
        with entry.layer.blob.open() as stream, tarfile.open(fileobj=io.BytesIO(stream.read())) as archive:
            assert any(name.endswith(f"bin/p{number}") for name in archive.getnames())
    # what the cache has now is stacked, and joined, all the same
    world.composition = replace(world.composition, max_layers=4)
    assert world.image(base_of((first, 0o1777, 3)))[first][:3] == ("d", 0o1777, 3)


def test_images_of_packages_say_that_they_replace_a_link(tmp_path):
    world = World(tmp_path)
    world.run(push, base_of((world.root.split("/")[0], "var/real")))
    assert len([text for text in world.told if "replace that link" in text]) >= 1
    assert len(world.told) == len(set(world.told))


def test_other_layers_than_those_of_the_cache_can_be_refused(tmp_path):
    first = str(tmp_path).split("/")[1]
    with pytest.raises(BaseImageError, match="behind a link"):
        World(tmp_path / "a", strict=True).image(base_of((first, "var/real")))
    world = World(tmp_path / "b", strict=True)
    assert world.image(base_of((first, 0o1777, 0)))[first][1] == 0o1777, "a further layer changes no other one"


def test_a_base_that_cannot_be_read_is_said_and_used(tmp_path):
    world = World(tmp_path)
    base = base_of(("etc", 0o755, 0))
    odd = Layer(Blob.from_bytes(b"no tar" * 200, OCI_LAYER_GZIP), base.layers[0].diff_id)
    world.run(push_image, replace(base, layers=(odd,)), tag="all")
    assert any("not known" in text for text in world.told)


def test_the_layers_of_a_base_are_read_once(tmp_path):
    world = World(tmp_path)
    base = base_of(("tmp", 0o1777, 0))
    opened: list[int] = []
    layer = base.layers[0]
    counted = Blob(layer.blob.descriptor, lambda: opened.append(1) or layer.blob.open())
    world.image(replace(base, layers=(replace(layer, blob=counted),)))
    reads = len(opened)
    world.composition = replace(world.composition, parents=BaseParents(world.layers, world.events.append))
    world.image(replace(base, layers=(replace(layer, blob=counted),)))
    assert len(opened) == reads, "it is in the layer cache, and the layer itself in the cache"
