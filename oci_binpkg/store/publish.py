"""Manifests to a registry: exact bytes, confirmed, and what they need put back where the registry lost it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from oci_binpkg.errors import (
    AuthError,
    ContentError,
    DeniedError,
    NetworkError,
    RateLimitedError,
    ServerError,
)
from oci_binpkg.model.content import MANIFEST_TYPES, Blob, Descriptor
from oci_binpkg.model.manifest import parse_manifest
from oci_binpkg.store.distribution import ACCEPT, PUSH, Refusal, Remote, contradicts
from oci_binpkg.store.presence import Presence

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

    `head` tells what a tag or digest names now. `supply` stores the real bytes of something the registry lost, and
    raises `NotFoundError` if nobody has them.
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
                raise refusal.error(operation)
            repairs += 1
            self._repair(data, descriptor, refusal, last=repairs == self._remote.settings.repair_rounds)
            self._remote.wait(self._remote.settings.repair_delay, refusal.text, repairs)
        self._confirm(descriptor, operation)

    def _put(self, data: bytes, descriptor: Descriptor, reference: str, operation: str) -> Refusal | None:
        """Send the manifest; a lost answer is settled by looking. Only by digest may the client repeat the request."""
        by_digest = ":" in reference
        delays = iter(() if by_digest else self._remote.settings.manifest_delays)
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
                raise failure
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
            )
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
