"""A mirror that may have both layouts: layout 3 is asked first, and layout 2 for what is not there.

Whoever pushes to a mirror of layout 2 writes layout 3 beside it, as Spack does. The packages of before stay where they
are.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import cached_property

from oci_binpkg.cache.mirror import MirrorCache
from oci_binpkg.cache.mirror_v2 import FOLDER, MirrorV2Cache
from oci_binpkg.cache.protocol import CacheEntry, Parts
from oci_binpkg.errors import NotFoundError
from oci_binpkg.index.document import IndexDocument
from oci_binpkg.model.content import Blob, Descriptor, Digest
from oci_binpkg.model.reference import PackageKey
from oci_binpkg.signing.index_trust import IndexSignature


class BothLayoutsCache:
    """The packages of both layouts of a mirror, read only. `old` opens layout 2 or returns None; it is called once."""

    def __init__(self, new: MirrorCache, old: Callable[[], MirrorV2Cache | None]) -> None:
        self._new = new
        self._open_old = old
        self._lock = threading.Lock()
        self._from_old: set[Digest] = set()
        self.images = None

    @property
    def name(self) -> str:
        """The mirror's URL."""
        return self._new.name

    @property
    def verifies(self) -> bool:
        """Whether a package counts only with a good signature."""
        return self._new.verifies

    @property
    def proves_listing(self) -> bool:
        """Whether a package that a listing or an unsigned index names counts only after it was verified."""
        return self._new.proves_listing

    @property
    def is_local(self) -> bool:
        """Whether it is a folder."""
        return self._new.is_local

    @property
    def has_views(self) -> bool:
        """Say yes: layout 3 has them."""
        return True

    @cached_property
    def _old_cache(self) -> MirrorV2Cache | None:
        return self._open_old()

    @property
    def _old(self) -> MirrorV2Cache | None:
        with self._lock:
            return self._old_cache

    def hashes(self) -> Mapping[str, str]:
        """Return hash and path of every package; what both layouts have counts as layout 3's."""
        old = self._old
        if old is None:
            return self._new.hashes()
        try:
            new = self._new.hashes()
        except NotFoundError:
            new = {}
        return {**old.hashes(), **new}

    def find(self, key: PackageKey) -> CacheEntry:
        """Return a package. Raises `NotFoundError`, or `ContentError` if what is there is not that package."""
        try:
            return self._new.find(key)
        except NotFoundError:
            old = self._old
            if old is None:
                raise
        return self._noted(old.find(key))

    def entry(self, locator: str) -> CacheEntry:
        """Return the package at a path."""
        old = self._old_at(locator)
        return self._new.entry(locator) if old is None else self._noted(old.entry(locator))

    def parts(self, locator: str) -> Parts:
        """Look at the parts of a package."""
        return (self._old_at(locator) or self._new).parts(locator)

    def blobs(self, entry: CacheEntry) -> tuple[Blob, ...]:
        """Return the package's layer."""
        return self._new.blobs(entry)

    def holds(self, blob: Descriptor) -> bool:
        """Return whether a blob is there; an entry of layout 2 has been found with its archive."""
        with self._lock:
            known = blob.digest in self._from_old
        return known or self._new.holds(blob)

    def read_index(self, known: Digest | None = None) -> IndexDocument | None:
        """Return the indices of both layouts as one; None if its digest is `known`. Raises `NotFoundError`."""
        old = self._old
        if old is None:
            return self._new.read_index(known)
        found = [index for index in (_index_of(self._new), _index_of(old)) if index is not None]
        if not found:
            raise NotFoundError(f"{self.name} has no index")
        digest = Digest.of(" ".join(str(index.digest) for index in found).encode())
        if len(found) == 1:
            digest = found[0].digest or digest
        if digest == known:
            return None
        merged = found[0] if len(found) == 1 else found[0].merged(found[1])
        damaged = {key: error for index in found for key, error in index.damaged.items()}
        return IndexDocument(merged.version, merged.records, digest, merged.extra, damaged)

    def index_signature(self) -> IndexSignature:
        """Return who signed the index of layout 3; without one, that of layout 2 counts, which has no signature."""
        try:
            return self._new.index_signature()
        except NotFoundError:
            old = self._old
            if old is None:
                raise
            return old.index_signature()

    def _old_at(self, locator: str) -> MirrorV2Cache | None:
        return self._old if locator.startswith(f"{FOLDER}/") else None

    def _noted(self, entry: CacheEntry) -> CacheEntry:
        with self._lock:
            self._from_old.add(entry.layer.blob.descriptor.digest)
        return entry


def _index_of(cache: MirrorCache | MirrorV2Cache) -> IndexDocument | None:
    try:
        return cache.read_index()
    except NotFoundError:
        return None
