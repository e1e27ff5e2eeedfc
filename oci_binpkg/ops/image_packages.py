"""The packages that an image stacks, from the image and the cache's index together: no request for each package.

An image that we made says in its history which package each layer is; the index has the packages' specs, and the image
itself digest, size and diff_id of their layers. An image that lacks this is read package by package.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from oci_binpkg.cache.protocol import CacheEntry, KeepsImages
from oci_binpkg.errors import BinpkgError, ContentError, SignatureError
from oci_binpkg.index.document import IndexDocument
from oci_binpkg.model.content import Descriptor, Digest
from oci_binpkg.model.image import BASE_LAYER, Layer, bodies_of
from oci_binpkg.model.manifest import MAX_MANIFEST_BYTES, ImageConfig, Index, Manifest, parse_manifest
from oci_binpkg.model.reference import PackageKey
from oci_binpkg.model.spec import Spec, SpecGraph
from oci_binpkg.model.spec_document import SpecDocument, refuse_wrong_hash
from oci_binpkg.parallel import in_turns
from oci_binpkg.store.images import StoredImage, blob_of

_HASH: Final = re.compile(r"/([a-z2-7]{32})", re.ASCII)
_PACKAGES: Final = re.compile(r"package /[a-z2-7]{32}|packages( /[a-z2-7]{32})++", re.ASCII)
_WORTH_A_PACKAGE: Final = 64 * 1024
"""The size of an index that costs less than reading one package: two requests, and a configuration to parse."""


def stacked(cache: KeepsImages, image: StoredImage) -> list[CacheEntry]:
    """Return the packages of an image of `cache`, bottom first; nothing if one of its layers remains unknown.

    The entries do not name images of these packages, so where signatures are required the packages are read.
    """
    hashes = [] if cache.verifies else _hashes(image)
    wanted = {found for each in hashes for found in each}
    if not wanted:
        return []
    try:
        layer = cache.index_layer()
        if layer.size > _WORTH_A_PACKAGE * len(wanted):
            return []
        index = cache.read_index()
        if index is None or not wanted <= index.present():
            return []
        graph = _below(index, wanted)
        for spec in graph.values():
            refuse_wrong_hash(spec, f"the index of {cache.name}")
        layers = _layers(cache, image, hashes)
        if set(layers) != wanted:
            return []
        return [_entry(graph, graph[package_hash], layer) for package_hash, layer in layers.items()]
    except BinpkgError:
        return []  # a bad index counts as absent


def _layers(cache: KeepsImages, image: StoredImage, hashes: Sequence[Sequence[str]]) -> dict[str, Layer]:
    """Return the layer of each package, those that share one included."""
    found: dict[str, Layer] = {}
    for names, descriptor, diff_id in zip(hashes, image.manifest.layers, image.config.diff_ids, strict=True):
        blob = blob_of(cache.store, descriptor)
        if bodies := bodies_of(descriptor, f"{cache.name}: {descriptor.digest}"):
            from oci_binpkg.ops.merged_source import MergedLayer  # noqa: PLC0415 - few images have such layers

            merged = MergedLayer(blob, f"{cache.name}: {descriptor.digest}")
            layers = {body.hash: merged.layer_of(body) for body in bodies if body.hash in names}
            found |= {key: layer for key, layer in layers.items() if layer is not None}
        elif len(names) == 1:
            found[names[0]] = Layer(blob, diff_id)
    return found


def _hashes(image: StoredImage) -> list[list[str]]:
    """Return the package hashes of each layer, none for those of a base image; nothing if the history lacks them."""
    filled = [entry for entry in image.config.history if not entry.get("empty_layer")]
    if len(filled) != len(image.manifest.layers) or any(entry.get("created_by") == BASE_LAYER for entry in filled):
        return []
    matches = [_PACKAGES.fullmatch(str(entry.get("comment", ""))) for entry in filled]
    return [_HASH.findall(match[0]) if match else [] for match in matches]


def _below(index: IndexDocument, wanted: set[str]) -> SpecGraph:
    """Return the specs of packages and of all they depend on, and no others: most of an index may be about others."""
    found = {}
    pending = list(wanted)
    while pending:
        package_hash = pending.pop()
        record = index.records.get(package_hash)
        if record is not None and package_hash not in found:
            found[package_hash] = record.spec
            pending += record.needs
    return SpecGraph(found.values())


def _entry(graph: SpecGraph, root: Spec, layer: Layer) -> CacheEntry:
    closure = SpecGraph(graph.breadth_first(root, None))
    if closure.missing() or any(spec.build_spec for spec in closure.values()):
        raise ContentError(f"the index has not all that the document of {root.short} has")
    return CacheEntry(PackageKey.of(root), SpecDocument(root.format_version, root, closure), layer)


def package_tags(cache: KeepsImages, config: ImageConfig) -> dict[Digest, tuple[str, Digest]]:
    """Return tag and manifest of the packages that an image may hold, by the digest of their layer.

    The image's environment and history mention the hashes; each of those packages' manifests is read. Raises
    `SignatureError` if one of them has to be signed and is unsigned.
    """
    text = "\n".join([*config.env, *(str(entry.get("comment", "")) for entry in config.history)])
    tags = [tag for package_hash, tag in cache.hashes().items() if package_hash in text]

    def layer(tag: str) -> tuple[Digest, tuple[str, Digest]] | None:
        try:
            descriptor, package = manifest_at(cache, tag)
        except SignatureError:
            raise  # what the image holds must not depend on a package that was replaced
        except BinpkgError:
            return None
        if not isinstance(package, Manifest) or not package.layers:
            return None
        return package.layers[-1].digest, (tag, descriptor.digest)

    return dict(found for found in in_turns(layer, tags) if found)


def manifest_at(cache: KeepsImages, reference: str) -> tuple[Descriptor, Manifest | Index]:
    """Return the manifest or index under a tag or digest, and its descriptor."""
    descriptor = cache.store.resolve(reference)
    data = blob_of(cache.store, descriptor).read(limit=MAX_MANIFEST_BYTES)
    return descriptor, parse_manifest(data, f"{cache.name}:{reference}", media_type=descriptor.media_type)
