"""Manifests from a registry: what a tag names, and the exact bytes, checked."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from http import HTTPStatus

from oci_binpkg.errors import ContentError, NetworkError, NotFoundError
from oci_binpkg.model.content import Descriptor, Digest
from oci_binpkg.model.manifest import parse_manifest
from oci_binpkg.model.reference import check_tag
from oci_binpkg.store.distribution import (
    ACCEPT,
    Remote,
    content_digest,
    content_length,
    contradicts,
    manifest_type,
)
from oci_binpkg.store.presence import NO_HEAD


class ManifestReader:
    """Reads manifests of one repository and remembers the last ones, so that resolving and opening is one request."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self._memory = _Memory(remote.settings.manifest_memory)

    def head(self, reference: str) -> Descriptor | None:
        """Return what a tag or digest names, fetched only where the registry cannot tell; None if it names nothing."""
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
                if not isinstance(error, _BrokenBodyError) or attempt >= settings.resume_failures:
                    raise
                reason = error.message
            except _DamagedError as error:
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
                raise _BrokenBodyError(error.message, hint=error.hint) from error
            if length is not None and len(data) < length:
                raise _BrokenBodyError(f"{what}: the body ended after {len(data)} of {length} bytes", hint="try again")
            headers = response.headers
        algorithm = wanted.algorithm if wanted else "sha256"
        digest = Digest(algorithm, hashlib.new(algorithm, data).hexdigest())
        if wanted is not None and (digest != wanted or contradicts(headers, wanted)):
            raise _DamagedError(f"{what}: the content has digest {digest}, or is said to have another than asked for")
        if wanted is None and contradicts(headers, digest):
            self._remote.warn(f"{what}: the registry gives a wrong digest for it; its content, {digest}, counts")
        parsed = parse_manifest(data, what, media_type=manifest_type(headers))
        found = Descriptor(parsed.media_type, digest, len(data)), data
        self._memory.keep(digest, found)
        return found


class _BrokenBodyError(NetworkError):
    """The answer began well and its body did not arrive whole: not covered by the client's own retries."""


class _DamagedError(ContentError):
    """The bytes are not those asked for. A second request is worth while: it may have happened on the way."""


def digest_of(reference: str) -> Digest | None:
    """Tell a digest from a tag; neither goes into an address unchecked. Raises `ContentError`, `UsageError`."""
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
