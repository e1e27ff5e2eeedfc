"""A content store in memory: for composing before anything is written, and for tests."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from oci_binpkg.errors import NotFoundError
from oci_binpkg.model.content import Blob, Descriptor, Digest
from oci_binpkg.store.verifying import VerifyingReader, verified_chunks


class MemoryStore:
    """Blobs, manifests and tags in dictionaries. Like a registry, it resolves digests of manifests only."""

    def __init__(self, name: str = "memory") -> None:
        self._name = name
        self._lock = threading.Lock()
        self._content: dict[Digest, bytes] = {}
        self._manifests: dict[Digest, Descriptor] = {}
        self._tags: dict[str, Descriptor] = {}

    @property
    def name(self) -> str:
        """The name given at construction."""
        return self._name

    @property
    def address(self) -> str:
        """Nothing: no other store can mount from here."""
        return ""

    def exists(self, descriptor: Descriptor) -> bool:
        """Return whether content of that digest and size is there."""
        content = self._content.get(descriptor.digest)
        return content is not None and len(content) == descriptor.size

    @contextmanager
    def open(self, descriptor: Descriptor) -> Iterator[BinaryIO]:
        """Open content, verified. Raises `NotFoundError`."""
        content = self._content.get(descriptor.digest)
        if content is None:
            raise NotFoundError(f"{self.name} does not hold {descriptor.digest}")
        with VerifyingReader(io.BytesIO(content), descriptor, self.name) as reader:
            yield reader

    def put(self, blob: Blob) -> bool:
        """Keep a copy of the bytes. Raises `ContentError` if they are not what the descriptor says."""
        descriptor = blob.descriptor
        present = self.exists(descriptor)
        if not present:
            content = b"".join(verified_chunks(blob, f"put into {self.name}"))
            with self._lock:
                present = descriptor.digest in self._content
                self._content[descriptor.digest] = content
        if descriptor.is_manifest:
            self._manifests.setdefault(descriptor.digest, _plain(descriptor))
        return not present

    def resolve(self, reference: str) -> Descriptor:
        """Return the manifest's descriptor. Raises `NotFoundError`."""
        by_digest = reference.startswith(("sha256:", "sha512:"))
        found = self._manifests.get(Digest.parse(reference)) if by_digest else self._tags.get(reference)
        if found is None:
            raise NotFoundError(f"{self.name} holds no manifest {reference[:200]!r}")
        return found

    def tag(self, manifest: Blob, tag: str) -> None:
        """Keep a manifest and point `tag` at it."""
        self.put(manifest)
        with self._lock:
            self._tags[tag] = _plain(manifest.descriptor)

    def tags(self) -> Iterator[str]:
        """Iterate over the tags there are now, sorted."""
        with self._lock:
            return iter(sorted(self._tags))

    def remove(self, tag: str) -> None:
        """Forget a tag; content stays. Raises `NotFoundError`."""
        with self._lock:
            if self._tags.pop(tag, None) is None:
                raise NotFoundError(f"{self.name} has no tag {tag[:200]!r}")


def _plain(descriptor: Descriptor) -> Descriptor:
    # platform and annotations belong to the pointer, not to the content
    return Descriptor(descriptor.media_type, descriptor.digest, descriptor.size)
