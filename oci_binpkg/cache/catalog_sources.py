"""Reads the index of a cache for the catalog: the bytes and nothing made of them."""

from __future__ import annotations

from oci_binpkg.cache.catalog_reading import IndexBytes
from oci_binpkg.cache.index import MAX_INDEX_BYTES
from oci_binpkg.cache.mirror import MirrorCache, open_verified
from oci_binpkg.cache.mirror_manifest import MAX_MANIFEST_BYTES, decompressed, index_path
from oci_binpkg.cache.oci import OciCache
from oci_binpkg.cache.protocol import BinaryCache
from oci_binpkg.model.content import Blob, Descriptor, Digest
from oci_binpkg.store.copy import blob_of
from oci_binpkg.transport.objects import Objects


def index_bytes(cache: BinaryCache, known: Digest | None, view: str = "") -> IndexBytes | None:
    """Return the bytes of a cache's index; None if its digest is `known`.

    `view` is the part of a mirror whose index is meant. Where the bytes cannot be had, the index is parsed and written
    again. Raises `NotFoundError` if the cache has no index.
    """
    if isinstance(cache, OciCache):
        return _of_images(cache, known)
    if isinstance(cache, MirrorCache):
        return _of_mirror(cache, index_path(view), known)
    index = cache.read_index(known)
    if index is None:
        return None
    data = index.to_bytes()
    return IndexBytes(data, index.digest or Digest.of(data))


def _of_images(cache: OciCache, known: Digest | None) -> IndexBytes | None:
    layer = cache.index_layer()
    if layer.digest == known:
        return None
    return IndexBytes(blob_of(cache.store, layer).read(limit=MAX_INDEX_BYTES), layer.digest)


def _of_mirror(cache: MirrorCache, path: str, known: Digest | None) -> IndexBytes | None:
    objects = cache.objects
    what = f"{objects.name}/{path}"
    found = objects.read(path, limit=MAX_MANIFEST_BYTES)
    assert found is not None  # no version was named
    record, _ = cache.opened_index(found.data)
    if record.digest == known:
        return None
    data = _stored(objects, record.path, record.descriptor()).read(limit=MAX_INDEX_BYTES)
    return IndexBytes(decompressed(data, record.compression, what, MAX_INDEX_BYTES), record.digest)


def _stored(objects: Objects, path: str, descriptor: Descriptor) -> Blob:
    return Blob(descriptor, lambda: open_verified(objects, path, descriptor))
