"""A repository of an OCI registry as a content store."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import replace
from typing import BinaryIO, Final, TypeVar

from oci_binpkg.errors import (
    AuthError,
    ContentError,
    DeniedError,
    NotFoundError,
    TransferError,
    UnsupportedError,
)
from oci_binpkg.events import Observer, ignore
from oci_binpkg.model.content import Blob, Descriptor, Digest, Growing
from oci_binpkg.model.reference import Repository, check_tag
from oci_binpkg.store.registry.api import DEFAULTS, PUSH, RegistrySettings, Remote
from oci_binpkg.store.registry.download import CHUNK, Download, DownloadStream
from oci_binpkg.store.registry.lists import ask_registry, list_tags
from oci_binpkg.store.registry.manifests import ManifestPusher, ManifestReader, check_manifest, digest_of
from oci_binpkg.store.registry.presence import Presence
from oci_binpkg.store.registry.upload import Uploader
from oci_binpkg.times import SYSTEM_TIME, Time
from oci_binpkg.transport.http import HttpClient

_NO_DELETE: Final = frozenset({400, 401, 405, 501})
T = TypeVar("T")


class RegistryStore:
    """One repository of a registry, implementing `store.protocols.Store` over the distribution API. Thread-safe.

    `repair` is asked for the bytes of content that the registry lost; without an answer the blobs put in this run are
    used. What is there is remembered for this run only.
    """

    def __init__(
        self,
        client: HttpClient,
        repository: Repository,
        *,
        settings: RegistrySettings = DEFAULTS,
        time: Time = SYSTEM_TIME,
        observer: Observer = ignore,
        repair: Callable[[Descriptor], Blob | None] | None = None,
    ) -> None:
        self._remote = Remote(client, repository, settings, time, observer)
        self._presence = Presence(self._remote)
        self._uploader = Uploader(self._remote, self._presence)
        self._reader = ManifestReader(self._remote)
        self._pusher = ManifestPusher(self._remote, self._presence, self._reader.head, self._supply)
        self._repair = repair

        self._flights = _Flights()
        self._sent: dict[Digest, Blob] = {}
        self._tagged: set[str] = set()
        self._listed: set[str] | None = None
        self._takes_growing = True

    @property
    def name(self) -> str:
        """`host[:port]/name`."""
        return self._remote.name

    @property
    def address(self) -> str:
        """`scheme://host[:port]/name`."""
        return self._remote.repository.address

    def exists(self, descriptor: Descriptor) -> bool:
        """Return whether content is there with the right size. Raises `AuthError`, `DeniedError` if that is secret."""
        return self._presence.has(descriptor)

    def forget(self, digest: Digest | None = None) -> None:
        """Forget that one digest, or anything, was seen to be there."""
        self._presence.forget(digest)

    def head(self, reference: str) -> Descriptor | None:
        """Return what a tag or digest names, fetched only if the registry does not say; None if it names nothing."""
        return self._reader.head(reference)

    def resolve(self, reference: str) -> Descriptor:
        """Fetch the manifest that a tag or digest names, and check it; `open` of the descriptor then asks nothing more.

        A digest that was fetched lately is not asked for again.

        Raises `NotFoundError`, and `ContentError` if the bytes do not have the digest asked for or are no manifest.
        """
        wanted = digest_of(reference)
        if wanted is not None and (known := self._reader.remembered(wanted)):
            return known
        recent = reference in self._tagged or (wanted is not None and self._presence.knows(wanted))
        try:
            return self._patiently(recent, lambda: self._reader.fetch(reference))[0]
        except DeniedError as error:
            if wanted is None and self._is_unlisted(reference):
                raise NotFoundError(f"{self.name}:{reference} is denied, and it is not among the tags") from error
            raise

    def _is_unlisted(self, tag: str) -> bool:
        """Return whether a tag that is denied is simply not there: some registries (Artifactory) say 403 for both."""
        try:
            return tag not in self.tags()
        except (TransferError, ContentError):
            return False

    @contextmanager
    def open(self, descriptor: Descriptor) -> Iterator[BinaryIO]:
        """Open a blob or manifest. A broken transfer is resumed; size and digest are right when the end is reached.

        Raises `NotFoundError`, `ContentError` (also after a second transfer), `NetworkError`.
        """
        recent = self._presence.knows(descriptor.digest)
        if descriptor.is_manifest:
            data = self._patiently(recent, lambda: self._reader.read(descriptor))
            with io.BytesIO(data) as stream:
                yield stream
            return
        download = Download(self._remote, descriptor)
        self._patiently(recent, download.start)
        with closing(DownloadStream(download)) as raw, io.BufferedReader(raw, CHUNK) as stream:
            yield stream

    def put(self, blob: Blob) -> bool:
        """Store a blob, or a manifest by its digest. Threads that put the same content together send it once."""
        descriptor = blob.descriptor
        with self._flights.alone(descriptor.digest):
            self._sent[descriptor.digest] = blob
            if self._is_there(descriptor):
                return False
            return self._store(blob)

    def put_growing(self, content: Growing) -> bool:
        """Send a blob while it is being made; return whether it is there now. If not, `put` it when it is whole.

        A registry that did not take one is not asked again.
        """
        if not self._takes_growing:
            return False
        arrived = self._uploader.stream(content)
        if not arrived:
            with suppress(ContentError):  # what was never whole says nothing about the registry
                content.descriptor()
                self._takes_growing = False
        return arrived

    def tag(self, manifest: Blob, tag: str) -> None:
        """Store a manifest and point `tag` at it; nothing is sent if it points there already.

        Raises `DeniedError` if the tag is immutable, `NotFoundError` if a reference is missing and its bytes are not at
        hand.
        """
        check_tag(tag)
        check_manifest(manifest)
        digest = manifest.descriptor.digest
        self._sent[digest] = manifest
        if not self._points_at(tag, digest):
            self._pusher.push(manifest, tag)
        self._presence.remember(manifest.descriptor)
        self._tagged.add(tag)
        if self._listed is not None:
            self._listed.add(tag)

    def referrers(self, subject: Digest, artifact_type: str) -> tuple[Descriptor, ...] | None:
        """List what refers to a manifest; None where the registry has no such list."""
        return ask_registry(self._remote, subject, artifact_type)

    def tags(self) -> Iterator[str]:
        """Iterate over all tags, page by page; an absent repository has none."""
        listed = set()
        for tag in list_tags(self._remote):
            listed.add(tag)
            yield tag
        self._listed = listed

    def remove(self, tag: str) -> None:
        """Remove a tag. Where only whole manifests can be deleted, that is done if no other tag shares the manifest.

        Raises `NotFoundError`, or `UnsupportedError` if the registry deletes nothing or the manifest is shared.
        """
        check_tag(tag)
        found = self.head(tag)
        if found is None:
            raise NotFoundError(f"remove {tag} from {self.name}: there is no such tag")
        if not self._delete(tag):
            shared = sorted(other for other in self.tags() if other != tag and self._names(other, found.digest))
            if shared:
                raise UnsupportedError(
                    f"remove {tag} from {self.name}: the registry deletes only whole manifests, and this one is also "
                    + ", ".join(shared[:5])
                    + (f" and {len(shared) - 5} more" if len(shared) > 5 else ""),  # noqa: PLR2004
                    hint="remove those tags in the same way first, or delete the manifest with the registry's own tool",
                )
            if not self._delete(str(found.digest)):
                raise UnsupportedError(
                    f"remove {tag} from {self.name}: the registry does not delete",
                    hint="deletion is often off by default: ask the registry's administrator",
                )
        self._tagged.discard(tag)
        self._presence.forget(found.digest)

    def _delete(self, reference: str) -> bool:
        with self._remote.send(
            "DELETE",
            self._remote.url(f"manifests/{reference}"),
            f"remove {reference} from {self.name}",
            actions="pull,push,delete",
            accept=_NO_DELETE,
        ) as response:
            return response.status not in _NO_DELETE

    def _points_at(self, tag: str, digest: Digest) -> bool:
        """Return whether a tag is known to point at a manifest. A tag that was not just listed is not asked for.

        Should somebody else have made it meanwhile, it is replaced or refused: both are what would happen anyway.
        """
        if self._listed is not None and tag not in self._listed:
            return False
        try:
            return self._names(tag, digest)
        except (AuthError, DeniedError):
            return False  # some registries deny what is absent; the push itself will show it

    def _names(self, tag: str, digest: Digest) -> bool:
        found = self.head(tag)
        return found is not None and found.digest == digest

    def _is_there(self, descriptor: Descriptor) -> bool:
        try:
            return self._presence.has(descriptor, actions=PUSH)
        except (AuthError, DeniedError):
            return False  # one may write here without being allowed to read; the upload decides

    def _store(self, blob: Blob, *, mount: bool = True) -> bool:
        if blob.descriptor.is_manifest:
            self._pusher.push(blob)
            sent = True
        else:
            sent = self._uploader.upload(blob, mount=mount)
        self._presence.remember(blob.descriptor)
        return sent

    def _supply(self, descriptor: Descriptor) -> None:
        """Store the real bytes of lost content: no mount, which could bring back a link to nothing."""
        blob = (self._repair(descriptor) if self._repair else None) or self._sent.get(descriptor.digest)
        if blob is None:
            raise NotFoundError(
                f"{descriptor.digest} is not in {self.name} any more, and its bytes are not at hand",
                hint="push what it belongs to again",
            )
        with self._flights.alone(descriptor.digest):
            self._store(replace(blob, descriptor=descriptor), mount=False)

    def _patiently(self, recent: bool, ask: Callable[[], T]) -> T:
        """Ask again for what was stored in this run and is not visible yet."""
        for attempt, delay in enumerate(self._remote.settings.read_delays if recent else (), start=1):
            try:
                return ask()
            except NotFoundError as error:
                self._remote.wait(delay, error.message, attempt)
        return ask()


class _Flights:
    """One thread at a time per digest; the others wait and then find the work done."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._gates: dict[Digest, tuple[threading.Lock, int]] = {}

    def alone(self, digest: Digest) -> AbstractContextManager[None]:
        """Enter when no other thread is in here with the same digest."""
        return self._alone(digest)

    @contextmanager
    def _alone(self, digest: Digest) -> Iterator[None]:
        with self._lock:
            gate, users = self._gates.get(digest, (threading.Lock(), 0))
            self._gates[digest] = (gate, users + 1)
        try:
            with gate:
                yield
        finally:
            with self._lock:
                gate, users = self._gates[digest]
                if users > 1:
                    self._gates[digest] = (gate, users - 1)
                else:
                    del self._gates[digest]
