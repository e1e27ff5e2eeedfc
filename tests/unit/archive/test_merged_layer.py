"""Layers of packages joined without compressing them again, and each of them taken out with its own digest."""

import gzip
import io
import json
import os
import shutil
import subprocess
import tarfile

import pytest

from oci_binpkg.archive import merged_layer
from oci_binpkg.archive.binary_distribution import Distribution
from oci_binpkg.archive.codec import Codec, _Gzip
from oci_binpkg.archive.layer import pack_layer
from oci_binpkg.archive.merged_layer import MergedPart, merge_layers
from oci_binpkg.errors import ContentError
from oci_binpkg.model.content import OCI_LAYER_GZIP, OCI_LAYER_ZSTD, Blob, Descriptor, Digest
from oci_binpkg.model.image import Body, Layer, bodies_json, bodies_of, parse_bodies
from oci_binpkg.ops.merged_source import MergedLayer
from oci_binpkg.relocate.scan import PrefixScanner

DISTRIBUTION = Distribution("/s", "/opt/spack", "/spack", "x", {})
NOISE = os.urandom(1_500_000)
FILES = {
    "tiny": {"bin/tiny": b"t"},
    "empty": {},
    "large": {"lib/large": NOISE, "share/doc/large": b"words\n" * 50_000},
    "odd": {"share/" + "n" * 120: b"a long name", "share/ä": b"a name"},
}


def packed(folder, name, codec="gzip", prefix=""):
    tree = folder / name
    for path, data in FILES[name].items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_bytes(data)
    tree.mkdir(exist_ok=True)
    path = str(folder / f"{name}.{codec}")
    made = pack_layer(
        str(tree),
        path,
        Codec.parse(codec),
        distribution=DISTRIBUTION,
        classifier=PrefixScanner([]),
        archive_prefix=prefix or f"/opt/spack/linux/{name}-1.0",
    )
    kind = OCI_LAYER_ZSTD if codec == "zstd" else OCI_LAYER_GZIP
    return Layer(Blob(Descriptor(kind, made.digest, made.size), lambda: open(path, "rb")), made.diff_id)


def part(layer, name, prefix=""):
    return MergedPart((name * 32)[:32].replace("p", "q"), prefix or f"/opt/spack/linux/{name}-1.0", layer)


@pytest.fixture(scope="module")
def layers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    return {name: packed(folder, name) for name in FILES}


@pytest.fixture(scope="module")
def merged(layers, tmp_path_factory):
    path = tmp_path_factory.mktemp("merged") / "layer"
    return merge_layers([part(layer, name) for name, layer in layers.items()], str(path))


def names_in(path):
    with tarfile.open(path, "r") as archive:
        return archive.getnames()


def test_every_path_is_there_once_and_the_digests_are_those_of_the_bytes(merged, layers):
    names = names_in(merged.path)
    assert len(names) == len(set(names))
    with open(merged.path, "rb") as file:
        data = file.read()
    assert merged.digest == Digest.of(data)
    assert merged.diff_id == Digest.of(gzip.decompress(data))
    assert (merged.size, merged.uncompressed_size) == (len(data), len(gzip.decompress(data)))
    own = [name for layer in layers.values() for name in names_of(layer)]
    assert set(names) == set(own)
    gnu = shutil.which("tar")
    assert gnu
    listed = subprocess.run([gnu, "tzf", merged.path], capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(listed) == len(set(listed)) == len(names)


def names_of(layer):
    with layer.blob.open() as stream, tarfile.open(fileobj=stream, mode="r") as archive:
        return archive.getnames()


def test_nothing_is_compressed_again(layers, tmp_path, monkeypatch):
    monkeypatch.setattr(_Gzip, "_compress", None)
    merge_layers([part(layer, name) for name, layer in layers.items()], str(tmp_path / "layer"))


def test_each_package_comes_out_as_its_own_layer(merged, layers):
    with open(merged.path, "rb") as file:
        blob = Blob.from_bytes(file.read(), OCI_LAYER_GZIP)
    taken = MergedLayer(blob, "a layer")
    for body, layer in zip(merged.bodies, layers.values(), strict=True):
        found = taken.layer_of(body)
        assert found
        assert found.blob.descriptor == layer.blob.descriptor
        assert found.blob.read() == layer.blob.read()
        assert found.blob.read() == layer.blob.read(), "it can be opened again"


@pytest.mark.parametrize("codec", ["zstd", "spack"])
def test_layers_of_another_form_are_compressed_anew_and_told_apart(codec, layers, tmp_path, merged):
    others = []
    for name, layer in layers.items():
        if codec == "zstd":
            others.append(part(packed(tmp_path, name, "zstd"), name))
            continue
        with layer.blob.open() as stream:
            data = gzip.compress(gzip.decompress(stream.read()), 6, mtime=0)
        others.append(part(Layer(Blob.from_bytes(data, OCI_LAYER_GZIP), layer.diff_id), name))
    again = merge_layers(others, str(tmp_path / "layer"))
    assert again.diff_id == merged.diff_id
    assert [body.digest for body in again.bodies] == [None] * len(layers)
    blob = Blob(Descriptor(OCI_LAYER_GZIP, again.digest, again.size), lambda: open(again.path, "rb"))  # noqa: SIM115
    assert MergedLayer(blob, "x").layer_of(again.bodies[0]) is None


def test_one_of_another_form_leaves_no_trace_of_the_attempt(layers, tmp_path):
    with layers["large"].blob.open() as stream:
        data = stream.read()
    cut = Layer(Blob.from_bytes(gzip.compress(gzip.decompress(data), 1), OCI_LAYER_GZIP), layers["large"].diff_id)
    given = [part(layers["tiny"], "tiny"), part(cut, "large"), part(layers["odd"], "odd")]
    made = merge_layers(given, str(tmp_path / "layer"))
    with open(made.path, "rb") as file:
        assert made.digest == Digest.of(file.read())
    assert [bool(body.digest) for body in made.bodies] == [True, False, True]
    assert len(names_in(made.path)) == len(set(names_in(made.path)))


def test_a_layer_at_another_prefix_is_an_error(layers, tmp_path):
    wrong = [part(layers["tiny"], "tiny", "/elsewhere/tiny-1.0")]
    with pytest.raises(ContentError, match="not that of a package at"):
        merge_layers(wrong, str(tmp_path / "layer"))


@pytest.mark.parametrize("damage", ["cut", "flip", "text", "more"])
def test_a_damaged_layer_is_an_error(layers, tmp_path, damage):
    with layers["large"].blob.open() as stream:
        data = bytearray(stream.read())
    if damage == "cut":
        del data[-2000:]
    elif damage == "flip":
        data[len(data) // 2] ^= 1
    elif damage == "text":
        data = bytearray(b"no layer at all" * 100)
    else:
        data += gzip.compress(b"more")
    layer = Layer(Blob.from_bytes(bytes(data), OCI_LAYER_GZIP), layers["large"].diff_id)
    with pytest.raises(ContentError):
        merge_layers([part(layer, "large")], str(tmp_path / "layer"))


def test_a_prefix_at_the_root_has_nothing_above_it(tmp_path):
    layer = packed(tmp_path, "tiny", prefix="/tiny")
    made = merge_layers([part(layer, "tiny", "/tiny")], str(tmp_path / "layer"))
    assert made.digest == layer.blob.descriptor.digest


def test_a_package_that_was_changed_in_a_merged_layer_is_noticed(merged):
    with open(merged.path, "rb") as file:
        blob = Blob.from_bytes(file.read(), OCI_LAYER_GZIP)
    body = merged.bodies[0]
    for wrong in (
        Body(body.hash, body.offset, body.length, Digest("sha256", "0" * 64), body.size),
        Body(body.hash, body.offset + 1, body.length, body.digest, body.size),
        Body(body.hash, body.offset, body.length + 10, body.digest, body.size),
        Body(body.hash, merged.bodies[1].offset, merged.bodies[1].length, body.digest, body.size),
    ):
        layer = MergedLayer(blob, "a layer").layer_of(wrong)
        assert layer
        with pytest.raises(ContentError):
            layer.blob.read()


def test_where_packages_lie_is_written_and_read(merged):
    assert parse_bodies(json.loads(json.dumps(bodies_json(merged.bodies))), "x") == merged.bodies
    hashes = [["a" * 32, 0, 1], ["b" * 32, 1, 2, "sha256:" + "0" * 64, 5]]
    assert bodies_json(parse_bodies(hashes, "x")) == hashes
    descriptor = Descriptor(OCI_LAYER_GZIP, Digest("sha256", "0" * 64), 10)
    assert bodies_of(descriptor, "x") == ()


@pytest.mark.parametrize(
    "text",
    [
        "", "{}", "[1]", "[[]]", '[["x", 0, 1]]', f'[["{"a" * 32}", -1, 1]]', f'[["{"a" * 32}", 0, 0]]', f'[["{"a" * 32}", 0, 11]]',
        f'[["{"a" * 32}", 0, 1, "sha256:1", 5]]', f'[["{"a" * 32}", 0, 1, "sha256:{"0" * 64}"]]', f'[["{"a" * 32}", 0, "1"]]',
        f'[["{"a" * 32}", 0, 1], ["{"a" * 32}", 1, 1]]', "[" * 5000, f'[["{"a" * 32}", 0, 1, "sha256:{"0" * 64}", 0]]',
    ],
)  # fmt: skip
def test_an_annotation_of_a_stranger_is_read_strictly(text):
    descriptor = Descriptor(
        OCI_LAYER_GZIP, Digest("sha256", "0" * 64), 10, annotations={"io.oci-binpkg.packages": text}
    )
    with pytest.raises(ContentError):
        bodies_of(descriptor, "x")


def test_a_stream_in_blocks_is_split_where_its_members_end():
    stream = io.BytesIO(gzip.compress(b"one") + gzip.compress(b"two" * 1000))
    found = list(merged_layer.members(stream, "x"))
    assert [content for _, content in found] == [b"one", b"two" * 1000]
    assert b"".join(raw for raw, _ in found) == stream.getvalue()
