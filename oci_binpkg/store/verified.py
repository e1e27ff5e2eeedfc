"""A store that hands out only manifests with a signature by a trusted key.

Whatever reads an image begins with a tag or a digest, and reads the manifest; configuration and layers are named by
digest in the manifest's bytes. So the manifest is the one place where a signature is required.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import BinaryIO, Final, Generic, TypeVar

from oci_binpkg.model.content import Blob, Descriptor, Digest
from oci_binpkg.model.manifest import MAX_MANIFEST_BYTES, Index, parse_manifest
from oci_binpkg.store.images import blob_of
from oci_binpkg.store.protocol import Store
from oci_binpkg.store.referrers import iter_signatures

_T = TypeVar("_T")
Judge = Callable[[bytes, Iterable[bytes], str, str], _T]
"""`judge(manifest, signatures, tag, what)` raises `SignatureError` unless one of the signatures is good for that tag.

The tag is "" where a manifest is named by its digest.
"""
_MOST_KEPT: Final = 64


class VerifiedStore(Generic[_T]):
    """A store for reading. Writing passes through; a manifest without a good signature is not read.

    What a signed index lists counts as signed: the index names it by digest. Thread-safe.
    """

    def __init__(self, store: Store, judge: Judge[_T]) -> None:
        self._store = store
        self._judge = judge
        self._lock = threading.Lock()
        self._judged: dict[tuple[Digest, str], _T] = {}
        self._vouched: dict[str, Descriptor] = {}
        self._read: dict[Digest, bytes] = {}

    @property
    def name(self) -> str:
        """The name of the store behind it."""
        return self._store.name

    @property
    def address(self) -> str:
        """The address of the store behind it."""
        return self._store.address

    @property
    def unverified(self) -> Store:
        """The store behind it, for lists that prove nothing."""
        return self._store

    def exists(self, descriptor: Descriptor) -> bool:
        """Return whether content is there, signed or not."""
        return self._store.exists(descriptor)

    def open(self, descriptor: Descriptor) -> AbstractContextManager[BinaryIO]:
        """Open content. Raises `SignatureError` for a manifest without a signature by a trusted key."""
        if not descriptor.is_manifest:
            return self._store.open(descriptor)
        with self._lock:
            data = self._read.pop(descriptor.digest, None)
            vouched = str(descriptor.digest) in self._vouched
        if not vouched:
            self.judged(descriptor)
            return self.open(descriptor)
        if data is None:
            data = self._bytes(descriptor)
            self._note(descriptor, data)
        return nullcontext(io.BytesIO(data))

    def put(self, blob: Blob) -> bool:
        """Store content."""
        return self._store.put(blob)

    def resolve(self, reference: str) -> Descriptor:
        """Return the descriptor of a manifest. Raises `SignatureError` without a signature by a trusted key for it."""
        with self._lock:
            known = self._vouched.get(reference)
        if known is not None:
            return known
        descriptor = self._store.resolve(reference)
        self.judged(descriptor, "" if reference == str(descriptor.digest) else reference)
        return descriptor

    def tag(self, manifest: Blob, tag: str) -> None:
        """Store a manifest and point a tag at it."""
        self._store.tag(manifest, tag)

    def tags(self) -> Iterator[str]:
        """Iterate over all tags, whatever is under them."""
        return self._store.tags()

    def remove(self, tag: str) -> None:
        """Remove a tag."""
        self._store.remove(tag)

    def judged(self, descriptor: Descriptor, tag: str = "", what: str = "") -> _T:
        """Return the judgement of a manifest under a tag, which is made once. Raises `SignatureError`.

        `what` is how an error calls it. The bytes are kept for the next one to open the manifest, mostly at once.
        """
        with self._lock:
            if (descriptor.digest, tag) in self._judged:
                return self._judged[descriptor.digest, tag]
        data = self._bytes(descriptor)
        what = what or (f"{self.name}:{tag}" if tag else f"{self.name}@{descriptor.digest}")
        found = self._judge(data, iter_signatures(self._store, descriptor), tag, what)
        self._note(descriptor, data)
        with self._lock:
            self._judged[descriptor.digest, tag] = found
            self._judged.setdefault((descriptor.digest, ""), found)
            if len(self._read) >= _MOST_KEPT:
                self._read.clear()
            self._read[descriptor.digest] = data
        return found

    def _bytes(self, descriptor: Descriptor) -> bytes:
        return blob_of(self._store, descriptor).read(MAX_MANIFEST_BYTES)

    def _note(self, descriptor: Descriptor, data: bytes) -> None:
        """Remember that a manifest is signed, and what it lists if it is an index."""
        manifest = parse_manifest(data, f"{self.name}@{descriptor.digest}", media_type=descriptor.media_type)
        listed = manifest.manifests if isinstance(manifest, Index) else ()
        with self._lock:
            self._vouched.update((str(each.digest), each) for each in (descriptor, *listed))
