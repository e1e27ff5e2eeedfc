"""What binary caches hold, and what each of them can do, whatever its layout.

Every cache is read (`ReadableCache`). Some are also written to, and some of those keep images: a cache says so itself,
so that no caller looks at its class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from oci_binpkg.index.document import IndexDocument
from oci_binpkg.model.content import Blob, Descriptor, Digest, Growing
from oci_binpkg.model.image import Image, Layer
from oci_binpkg.model.reference import PackageKey
from oci_binpkg.model.run_environment import RunEnvironment
from oci_binpkg.model.spec_document import SpecDocument
from oci_binpkg.model.spec_hash import HashState
from oci_binpkg.signing.index_trust import IndexSignature
from oci_binpkg.signing.statement import Signed
from oci_binpkg.store.protocol import Store


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One package in a cache: its spec document, its layer, and the image that carries it where caches keep images.

    `prefix` is where the layer has the package, "" if only the layer itself shows it. `manifest`
    is the digest of the manifest it was read from, `layers` are all layers of its image; `env` is the image's
    environment. `environment` is what the package adds to the environment of what uses it, with placeholders for
    prefixes. `signed` is the signature that was verified, None without one.
    """

    key: PackageKey
    document: SpecDocument
    layer: Layer
    image: Image | None = None
    prefix: str = ""
    manifest: Digest | None = None
    layers: tuple[Descriptor, ...] = ()
    env: tuple[str, ...] = ()
    environment: RunEnvironment = ()
    signed: Signed | None = None

    @property
    def stack(self) -> tuple[Digest, ...]:
        """The digests of all layers of its image."""
        return tuple(each.digest for each in self.layers)

    @property
    def is_unverified(self) -> bool:
        """Whether only the cache claims that this is the package of that hash: no signature, and no rule."""
        return self.signed is None and self.document.root.hash_state is not HashState.VERIFIED


@dataclass(frozen=True, slots=True)
class Parts:
    """What a look at a package's manifest shows: the first part that is not there (""), and what its image lacks.

    `lacking` are the short names of dependencies whose layers were not there when the image was made.
    """

    absent: str = ""
    lacking: tuple[str, ...] = ()


class IndexSource(Protocol):
    """Something with an index. Its states have digests, so that one that is known need not be read again."""

    def read_index(self, known: Digest | None = None) -> IndexDocument | None:
        """Return the index, or None if its digest is `known`. Raises `NotFoundError` if the cache has none.

        Raises `SignatureError` if a signature is required and no good one is there.
        """
        ...

    def index_signature(self) -> IndexSignature:
        """Return who signed the index, required or not. Raises `NotFoundError` without an index."""
        ...


class ReadableCache(IndexSource, Protocol):
    """Packages kept in a store or on a URL mirror. Thread-safe."""

    @property
    def name(self) -> str:
        """How errors and reports call this cache."""
        ...

    @property
    def verifies(self) -> bool:
        """Whether a package counts only with a good signature of its own, not because it is listed."""
        ...

    @property
    def proves_listing(self) -> bool:
        """Whether a package that a listing or an unsigned index names counts only after it was verified."""
        ...

    @property
    def images(self) -> KeepsImages | None:
        """The cache as one that keeps images; None for a mirror, which keeps packages alone."""
        ...

    @property
    def is_local(self) -> bool:
        """Whether it lies on a disk of this machine, so that a look at each package costs no request."""
        ...

    @property
    def has_views(self) -> bool:
        """Whether the cache may have further indices, each over a part of it."""
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

    def blobs(self, entry: CacheEntry) -> tuple[Blob, ...]:
        """Return what a package needs beside its documents: its layer, and the others of its image."""
        ...

    def parts(self, locator: str) -> Parts:
        """Look at the parts of a package at a tag or path that `hashes` gave: its documents and its own layer.

        Nothing but the manifest is read, and no signature is asked for. Raises `NotFoundError`, `ContentError`.
        """
        ...

    def holds(self, blob: Descriptor) -> bool:
        """Return whether a blob is there, with the right size; nothing of it is read."""
        ...


class WritableCache(ReadableCache, Protocol):
    """A cache that packages can be published to."""

    @property
    def upload_growing(self) -> Callable[[Growing], bool] | None:
        """Send a layer while it is being made; returns whether it arrived. None where that saves nothing."""
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

    def mend(self) -> None:
        """From now on read content that is there, where the cache can do so itself, and replace what is damaged."""
        ...

    def batch(self) -> AbstractContextManager[None]:
        """Publish many packages within the block. Where it costs less, the last of them are visible at its end only."""
        ...


class KeepsImages(WritableCache, Protocol):
    """A cache in a content store: a package is an image under a tag, and images of several packages have others."""

    @property
    def store(self) -> Store:
        """The store behind the cache, for images under tags of their own, with the same signatures required."""
        ...

    @property
    def signs(self) -> bool:
        """Whether what is published is signed."""
        ...

    def entry(self, locator: str, manifest: Digest | None = None) -> CacheEntry:
        """Return the package under a tag; `manifest` if the tag was resolved already. Raises like `find`."""
        ...

    def publish_image(self, image: Image, tag: str) -> None:
        """Store an image and tag it: layers that are not there yet, config, manifest, signature if we sign, tag."""
        ...

    def put_image(self, image: Image) -> None:
        """Store an image by its digest only, to be listed in an index."""
        ...

    def publish_manifest(self, manifest: Blob, tag: str, signatures: Sequence[bytes] = ()) -> None:
        """Tag a manifest or index of which all content is there, with these signatures of it, and ours if we sign.

        With the tag "" it is stored by its digest alone.
        """
        ...

    def signatures(self, manifest: Descriptor) -> list[bytes]:
        """Return all signatures that are attached to a manifest, by any key."""
        ...

    def index_layer(self) -> Descriptor:
        """Return the layer that is the index. Raises `SignatureError` if it must not be believed, `NotFoundError`."""
        ...
