"""The protocol of a content store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import BinaryIO, Protocol, runtime_checkable

from oci_binpkg.model.content import Blob, Descriptor, Growing


class Store(Protocol):
    """One repository of content-addressed blobs and manifests, with tags. Thread-safe.

    The members below are the whole protocol; `name` and `address` are facts, the rest are its operations.
    """

    @property
    def name(self) -> str:
        """Its name in messages: `registry.example/apps`, `oci-layout:build`."""
        ...

    @property
    def address(self) -> str:
        """What identifies it to other stores of one registry (`https://host:port/repository`); "" if nothing mounts."""
        ...

    def exists(self, descriptor: Descriptor) -> bool:
        """Return whether the blob or manifest is there, with the right size."""
        ...

    def open(self, descriptor: Descriptor) -> AbstractContextManager[BinaryIO]:
        """Open content for reading. Size and digest are verified before the last byte is given out (`ContentError`).

        Raises `NotFoundError`.
        """
        ...

    def put(self, blob: Blob) -> bool:
        """Store a blob, or a manifest by its digest (the descriptor's media type decides). Idempotent.

        Returns whether bytes were sent: False when it was there already or could be mounted from `blob.origin`.
        """
        ...

    def resolve(self, reference: str) -> Descriptor:
        """Return the descriptor of the manifest that a tag or digest (`sha256:...`) names. Raises `NotFoundError`."""
        ...

    def tag(self, manifest: Blob, tag: str) -> None:
        """Store a manifest and point `tag` at it. Everything it references must be there already."""
        ...

    def tags(self) -> Iterator[str]:
        """Iterate over all tags, sorted or not; an absent repository has none."""
        ...

    def remove(self, tag: str) -> None:
        """Remove a tag. Raises `NotFoundError`, or `UnsupportedError` where the store cannot."""
        ...


@runtime_checkable
class TakesGrowing(Protocol):
    """A store that can take a blob while it is being made."""

    def put_growing(self, content: Growing) -> bool:
        """Read it to its end; return whether it is there now. If not, `put` it when it is whole."""
        ...


@runtime_checkable
class BatchesTags(Protocol):
    """A store in which many tags cost less if they are written together."""

    def batch(self) -> AbstractContextManager[None]:
        """Within the block, tags may be written late; all are written when it ends, also by an error."""
        ...


@runtime_checkable
class MendsContent(Protocol):
    """A store that can look at the bytes of what it has, and not only at their number."""

    def mend(self) -> None:
        """From now on `put` reads what is there, and replaces it if it is damaged."""
        ...


@runtime_checkable
class AsksForSignatures(Protocol):
    """A store that hands out signed manifests only."""

    @property
    def unverified(self) -> Store:
        """The store behind it, for lists that prove nothing."""
        ...
