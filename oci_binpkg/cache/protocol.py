"""What every binary cache holds and does, whatever its layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from oci_binpkg.index.document import IndexDocument
from oci_binpkg.model.content import Digest
from oci_binpkg.model.image import Image, Layer
from oci_binpkg.model.reference import PackageKey
from oci_binpkg.model.spec_document import SpecDocument
from oci_binpkg.model.spec_hash import HashState
from oci_binpkg.signing.index_trust import IndexSignature
from oci_binpkg.signing.statement import Signed


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One package in a cache: its spec document, its layer, and the image that carries it where caches keep images.

    `prefix` is where the layer has the package, "" if the cache does not tell without the layer being read. `manifest`
    is the digest of the manifest it was read from, `stack` those of all layers of its image; `env` is the image's
    environment. `signed` tells whose signature was verified, None if nobody's was.
    """

    key: PackageKey
    document: SpecDocument
    layer: Layer
    image: Image | None = None
    prefix: str = ""
    manifest: Digest | None = None
    stack: tuple[Digest, ...] = ()
    env: tuple[str, ...] = ()
    signed: Signed | None = None

    @property
    def is_unverified(self) -> bool:
        """Whether nothing but the cache says that this is the package of that hash: no signature, and no rule."""
        return self.signed is None and self.document.root.hash_state is not HashState.VERIFIED


class IndexSource(Protocol):
    """Something with an index. Its states have digests, so that one that is known need not be read again."""

    def read_index(self, known: Digest | None = None) -> IndexDocument | None:
        """Return the index, or None if its digest is `known`. Raises `NotFoundError` if the cache has none.

        Raises `SignatureError` if a signature is asked for and there is none that is good.
        """
        ...

    def index_signature(self) -> IndexSignature:
        """Tell who signed the index, whatever is asked of its signature. Raises `NotFoundError` without an index."""
        ...


class BinaryCache(IndexSource, Protocol):
    """Packages kept in a store or on a URL mirror. Thread-safe."""

    @property
    def name(self) -> str:
        """How errors and reports call this cache."""
        ...

    @property
    def verifies(self) -> bool:
        """Whether a package counts only with a good signature of its own: what is listed says nothing yet."""
        ...

    @property
    def proves_listing(self) -> bool:
        """Whether what a listing, or an index without a signature, names counts only after it has been looked at."""
        ...

    def hashes(self) -> Mapping[str, str]:
        """Return the hashes of all packages, each with its tag or path. One listing, nothing else read."""
        ...

    def find(self, key: PackageKey) -> CacheEntry:
        """Return a package. Raises `NotFoundError`, or `ContentError` if what is there is not that package."""
        ...

    def entry(self, locator: str) -> CacheEntry:
        """Return the package at a tag or path that `hashes` gave. Raises like `find`."""
        ...

    def upload(self, layer: Layer) -> bool:
        """Store a layer ahead of publishing it. Returns whether bytes were sent."""
        ...

    def publish(self, entry: CacheEntry) -> Digest:
        """Make a package visible, everything it needs first. Returns the digest of its manifest."""
        ...

    def merge_index(self, added: IndexDocument, *, replace: bool = False) -> bool:
        """Merge records into the index; concurrent writers lose nothing. Returns whether it had to be written.

        With `replace` the records take the place of all that were there.
        """
        ...
