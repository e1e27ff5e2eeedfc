"""Manifests from a registry: what a tag names, and the exact bytes, checked."""

from __future__ import annotations

import hashlib
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

from oci_binpkg.errors import (
    AuthError,
    ContentError,
    DeniedError,
    NetworkError,
    NotFoundError,
    RateLimitedError,
    ServerError,
)
from oci_binpkg.model.content import MANIFEST_TYPES, Blob, Descriptor, Digest
from oci_binpkg.model.manifest import parse_manifest
from oci_binpkg.model.reference import check_tag
from oci_binpkg.store.registry.api import (
    ACCEPT,
    PUSH,
    Refusal,
    Remote,
    content_digest,
    content_length,
    contradicts,
    manifest_type,
)
from oci_binpkg.store.registry.presence import NO_HEAD, Presence


class ManifestReader:
    """Reads manifests of one repository and remembers the last ones, so that resolving and opening is one request."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self._memory = _Memory(remote.settings.manifest_memory)

    def head(self, reference: str) -> Descriptor | None:
        """Return what a tag or digest names, fetched only if the registry does not say; None if it names nothing."""
        wanted = digest_of(reference)
        with self._remote.send(
            "HEAD",
            self._remote.url(f"manifests/{reference}"),
            f"look for {reference} in {self._remote.name}",
            headers={"Accept": ACCEPT},
            accept=NO_HEAD | {404},
        ) as response:
            status, headers = response.status, response.headers
        if status == HTTPStatus.NOT_FOUND:
            return None
        size, kind, digest = content_length(headers), manifest_type(headers), wanted or content_digest(headers)
        if status not in NO_HEAD and size and kind and digest and not contradicts(headers, digest):
            return Descriptor(kind, digest, size)
        try:
            return self.fetch(reference)[0]
        except NotFoundError:
            return None

    def read(self, descriptor: Descriptor) -> bytes:
        """Return the bytes of a manifest, from memory if it was fetched lately."""
        _, data = self._memory.get(descriptor.digest) or self.fetch(str(descriptor.digest))
        if len(data) != descriptor.size:
            raise ContentError(f"{descriptor.digest}: {len(data)} bytes, but {descriptor.size} were promised")
        return data

    def remembered(self, digest: Digest) -> Descriptor | None:
        """Return the descriptor of a manifest that was fetched lately."""
        found = self._memory.get(digest)
        return found[0] if found else None

    def fetch(self, reference: str) -> tuple[Descriptor, bytes]:
        """Get a manifest and check it. Damage and broken bodies are tried again here: the client is done by then."""
        settings, what = self._remote.settings, f"manifest {reference} of {self._remote.name}"
        wanted = digest_of(reference)
        attempt, damaged = 1, False
        while True:
            try:
                return self._fetch_once(reference, wanted, what)
            except NetworkError as error:
                if not isinstance(error, _BrokenBodyError) or attempt >= settings.backoff.resume_failures:
                    raise
                reason = error.message
            except _WrongBytesError as error:
                if damaged:
                    raise
                damaged, reason = True, error.message
            self._remote.wait(0.75 * 2 ** (attempt - 1), reason, attempt)
            attempt += 1

    def _fetch_once(self, reference: str, wanted: Digest | None, what: str) -> tuple[Descriptor, bytes]:
        limit = self._remote.settings.pull_manifest_limit
        with self._remote.send(
            "GET", self._remote.url(f"manifests/{reference}"), f"fetch {what}", headers={"Accept": ACCEPT}
        ) as response:
            length = content_length(response.headers)
            if length is not None and length > limit:
                raise ContentError(f"{what}: {length} bytes; at most {limit} are accepted")
            try:
                data = response.read(limit)
            except NetworkError as error:
                raise _BrokenBodyError(error.message, hint=error.hint, **error.fields) from error
            if length is not None and len(data) < length:
                raise _BrokenBodyError(f"{what}: the body ended after {len(data)} of {length} bytes", hint="try again")
            headers = response.headers
        algorithm = wanted.algorithm if wanted else "sha256"
        digest = Digest(algorithm, hashlib.new(algorithm, data).hexdigest())
        if wanted is not None and (digest != wanted or contradicts(headers, wanted)):
            raise _WrongBytesError(
                f"{what}: the content has digest {digest}, or the registry names another digest than was asked for"
            )
        if wanted is None and contradicts(headers, digest):
            self._remote.warn(f"{what}: the registry gives a wrong digest for it; its content, {digest}, counts")
        parsed = parse_manifest(data, what, media_type=manifest_type(headers))
        found = Descriptor(parsed.media_type, digest, len(data)), data
        self._memory.keep(digest, found)
        return found


class _BrokenBodyError(NetworkError):
    """The answer began well and its body did not arrive whole: not covered by the client's own retries."""


class _WrongBytesError(ContentError):
    """The bytes are not those asked for. A second request is worth while: it may have happened on the way."""


def digest_of(reference: str) -> Digest | None:
    """Return a digest, None for a tag; neither goes into an address unchecked. Raises `ContentError`, `UsageError`."""
    if ":" in reference:
        return Digest.parse(reference)
    check_tag(reference)
    return None


@dataclass(slots=True)
class _Memory:
    """The manifests last seen, up to a number of bytes."""

    limit: int
    _items: OrderedDict[Digest, tuple[Descriptor, bytes]] = field(default_factory=OrderedDict)
    _size: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, digest: Digest) -> tuple[Descriptor, bytes] | None:
        with self._lock:
            if digest in self._items:
                self._items.move_to_end(digest)
            return self._items.get(digest)

    def keep(self, digest: Digest, found: tuple[Descriptor, bytes]) -> None:
        with self._lock:
            old = self._items.pop(digest, None)
            self._size += len(found[1]) - (len(old[1]) if old else 0)
            self._items[digest] = found
            while self._size > self.limit:
                self._size -= len(self._items.popitem(last=False)[1][1])


_JUDGED: Final = frozenset({400, 403, 404, 405, 409, 412, 413, 415, 422, 501})
_MISSING: Final = frozenset({"MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN", "MANIFEST_UNKNOWN"})
_REFUSED_CHANGE: Final = frozenset({400, 403, 409, 412})
_IMMUTABLE: Final = re.compile(
    r"immutab|already exist|cannot be (?:overwritten|updated)|overwrit|TAG_INVALID", re.IGNORECASE
)

Head = Callable[[str], Descriptor | None]
Supply = Callable[[Descriptor], None]


class ManifestPusher:
    """Stores manifests under their digest or a tag. Thread-safe.

    `head` returns what a tag or digest names now. `supply` stores the real bytes of something the registry lost, and
    raises `NotFoundError` if they are not available.
    """

    def __init__(self, remote: Remote, presence: Presence, head: Head, supply: Supply) -> None:
        self._remote = remote
        self._presence = presence
        self._head = head
        self._supply = supply

    def push(self, manifest: Blob, tag: str = "") -> None:
        """Store `manifest` by its digest, or under `tag`, and confirm that it is there.

        Raises `DeniedError` for a tag that may not change and for quotas, `NotFoundError` for a missing repository or a
        lost reference, `ContentError` if the registry stored something else.
        """
        descriptor = manifest.descriptor
        data = manifest.read(self._remote.settings.push_manifest_limit)
        reference = tag or str(descriptor.digest)
        operation = f"push manifest {descriptor.digest} to {self._remote.name}" + (f":{tag}" if tag else "")
        repairs = 0
        while (refusal := self._put(data, descriptor, reference, operation)) is not None:
            if not refusal.codes & _MISSING or repairs == self._remote.settings.repair_rounds:
                if self._refused(refusal, descriptor, tag, operation):
                    break
                raise refusal.error(operation).within(digest=str(descriptor.digest))
            repairs += 1
            self._repair(data, descriptor, refusal, last=repairs == self._remote.settings.repair_rounds)
            self._remote.wait(self._remote.settings.repair_delay, refusal.text, repairs)
        self._confirm(descriptor, operation)

    def _put(self, data: bytes, descriptor: Descriptor, reference: str, operation: str) -> Refusal | None:
        """Send the manifest; a lost answer is settled by looking. Only by digest may the client repeat the request."""
        by_digest = ":" in reference
        delays = iter(() if by_digest else self._remote.settings.backoff.manifest_delays)
        attempt = 1
        while True:
            try:
                return self._put_once(data, descriptor, reference, operation)
            except (NetworkError, ServerError, RateLimitedError) as error:
                failure = error
            now = None if isinstance(failure, RateLimitedError) else self._current(reference)
            if now is not None and now.digest == descriptor.digest:
                return None
            if not self._remote.back_off(failure, next(delays, None), attempt):
                raise failure.again() from failure
            attempt += 1

    def _put_once(self, data: bytes, descriptor: Descriptor, reference: str, operation: str) -> Refusal | None:
        with self._remote.send(
            "PUT",
            self._remote.url(f"manifests/{reference}"),
            operation,
            actions=PUSH,
            headers={"Content-Type": descriptor.media_type, "Accept": ACCEPT},
            body=data,
            accept=_JUDGED,
            replay=":" in reference,
        ) as response:
            if response.status in _JUDGED:
                return Refusal.of(response)
            if contradicts(response.headers, descriptor.digest):
                raise ContentError(
                    f"{operation}: the registry stored it as {response.headers['Docker-Content-Digest'][:80]!r}",
                    hint="it does not keep manifests byte for byte; what it holds cannot be trusted",
                )
            return None

    def _refused(self, refusal: Refusal, descriptor: Descriptor, tag: str, operation: str) -> bool:
        """Judge the refusal to change a tag: True if it points to this manifest already. ECR refuses even that.

        Raises `DeniedError` if the tag is kept at something else; False for any other refusal.
        """
        if not tag or refusal.status not in _REFUSED_CHANGE or refusal.is_quota():
            return False
        now = self._current(tag)
        if now is None:
            return False
        if now.digest == descriptor.digest:
            return True
        if refusal.status in (409, 412) or _IMMUTABLE.search(refusal.text):
            raise DeniedError(
                f"{operation}: the tag is immutable and points to {now.digest} ({refusal.text or refusal.status})",
                hint="use another tag, or remove this one if the registry lets you",
                **refusal.fields(operation),
            ).within(digest=str(descriptor.digest))
        return False

    def _current(self, reference: str) -> Descriptor | None:
        try:
            return self._head(reference)
        except (AuthError, DeniedError):
            return None

    def _repair(self, data: bytes, descriptor: Descriptor, refusal: Refusal, *, last: bool) -> None:
        """Store again what the registry lost between our look and the manifest (garbage collection).

        Its HEAD may still speak of lost blobs, so those it names are sent in any case, and in the last round all.
        """
        references = parse_manifest(data, str(descriptor.digest), media_type=descriptor.media_type).references
        wanted = {reference.digest: reference for reference in references}
        for reference in wanted.values():
            self._presence.forget(reference.digest)
        missing = [
            one for one in wanted.values() if one.digest in refusal.named or not self._presence.probe(one, actions=PUSH)
        ]
        for reference in missing or (wanted.values() if last else ()):
            self._presence.forget(reference.digest)
            self._supply(reference)

    def _confirm(self, descriptor: Descriptor, operation: str) -> None:
        """Look for the manifest by its digest until it shows; some registries take seconds."""
        if self._visible(descriptor):
            return
        for attempt, delay in enumerate(self._remote.settings.read_delays, start=1):
            self._remote.wait(delay, "the manifest is not visible yet", attempt)
            if self._visible(descriptor):
                return
        raise ServerError(f"{operation}: accepted, but the registry does not have it", hint="try again in a minute")

    def _visible(self, descriptor: Descriptor) -> bool:
        try:
            return self._presence.probe(descriptor, actions=PUSH)
        except (AuthError, DeniedError):
            return True  # one may write here without being allowed to read


def check_manifest(manifest: Blob) -> None:
    """Raise `ContentError` if a blob to be tagged is no manifest."""
    if manifest.descriptor.media_type not in MANIFEST_TYPES:
        raise ContentError(
            f"{manifest.descriptor.digest}: {manifest.descriptor.media_type[:100]!r} is not a manifest's type"
        )
