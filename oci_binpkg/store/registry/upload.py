"""Blobs to a registry: mount, or a session with one PUT or with chunks, tried again as a whole.

An upload session cannot be trusted after an error: what it stored is unknown. So a failed attempt asks for the
digest, and begins a new session if it is not there. The request-level retry of the client is off for the body.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from http import HTTPStatus
from typing import Final

from oci_binpkg.errors import (
    AuthError,
    BinpkgError,
    DeniedError,
    NetworkError,
    NotFoundError,
    RateLimitedError,
    ServerError,
    TransferError,
)
from oci_binpkg.log import Log
from oci_binpkg.model.content import Blob, Descriptor, Growing
from oci_binpkg.store.registry.api import PUSH, Refusal, Remote, with_query
from oci_binpkg.store.registry.presence import Presence
from oci_binpkg.store.registry.upload_session import (
    BINARY,
    JUDGED,
    AttemptError,
    BlobTooLargeError,
    ChunkSender,
    SentBody,
    UploadSession,
    judged,
)
from oci_binpkg.transport.http import Response

_log: Final = Log("registry")


class Uploader:
    """Sends blobs to one repository. Thread-safe."""

    def __init__(self, remote: Remote, presence: Presence) -> None:
        self._remote = remote
        self._presence = presence
        self._chunk = remote.settings.chunk_size

    def upload(self, blob: Blob, *, mount: bool = True) -> bool:
        """Bring a blob into the repository; return whether its bytes were sent (False: mounted).

        Raises `ContentError` if the source does not hold what it should, `NotFoundError` if the repository must be
        created first, `DeniedError` for quotas, and what the client raises.
        """
        body = SentBody(blob, self._remote.observe)
        started = self._remote.time.clock()
        chunk, guessed = self._chunk, None
        delays = self._delays(chunk)
        attempt = 1
        while True:
            try:
                # a Range that lied spoils the digest: every other attempt goes by its own count
                sent = self._attempt(body, blob.origin if mount else "", chunk, counting=attempt % 2 == 0)
            except ServerError as error:
                # chunks were a guess: what is wrong with the upload itself is what counts
                raise (guessed or error).within(digest=str(blob.descriptor.digest)) from error
            except BlobTooLargeError as error:
                if chunk:
                    raise error.cause.within(digest=str(blob.descriptor.digest)) from error.cause
                chunk = self._remote.settings.fallback_chunk
                delays = self._delays(chunk)
            except AttemptError as error:
                if not self._remote.back_off(error.cause, next(delays, None), attempt):
                    raise _final(error.cause, body, attempt, self._remote.time.clock() - started) from error.cause
                if error.unknown and not chunk:
                    chunk, guessed = self._remote.settings.fallback_chunk, error.cause
                attempt += 1
            else:
                if guessed:
                    self._chunk = chunk  # so that the blobs after this one need no guess
                return sent

    def stream(self, content: Growing) -> bool:
        """Bring content into the repository while it is being made; return whether it is there now, whole.

        One session and one PATCH with a body of unknown length, which is how Docker pushes. False, for whatever reason,
        means that what was stored is unknown: it is to be uploaded as usual once it is whole.
        """
        try:
            session = self._begin("a layer that is being made")
        except BinpkgError:
            return False
        try:
            self._patch(session, content)
            descriptor = content.descriptor()
            self._commit(session, descriptor, b"")
        except (AttemptError, BinpkgError, BlobTooLargeError):
            self._cancel(session)
            return False
        self._presence.remember(descriptor)
        return True

    def _patch(self, session: UploadSession, content: Growing) -> None:
        operation = f"upload a layer that is being made to {self._remote.name}"
        with self._remote.send(
            "PATCH", session.url, operation, actions=PUSH, headers=BINARY, body=content, accept=JUDGED, replay=False
        ) as response:
            if response.status in JUDGED:
                raise judged(Refusal.of(response), operation)
            session.url = self._remote.location(response, session.url)

    def _delays(self, chunk: int) -> Iterator[float]:
        settings = self._remote.settings
        return iter(
            settings.backoff.unit_delays[: settings.backoff.chunk_restarts] if chunk else settings.backoff.unit_delays
        )

    def _attempt(self, body: SentBody, origin: str, chunk: int, *, counting: bool) -> bool:
        descriptor = body.blob.descriptor
        session = self._mount(descriptor, origin) or self._begin(str(descriptor.digest))
        if session is True:
            _log.info("%s mounted into %s from %s", descriptor.digest, self._remote.name, origin)
            return False
        _log.info(
            "%s is sent to %s, which does not have it: %d bytes", descriptor.digest, self._remote.name, descriptor.size
        )
        try:
            self._send(session, body, chunk, counting=counting)
        except (NetworkError, ServerError, RateLimitedError) as error:
            # a registry that asks to come back later has stored nothing
            definite = isinstance(error, RateLimitedError) or body.sent.count < descriptor.size
            failure = AttemptError(error, definite=definite)
        except AttemptError as error:
            if not error.again:
                self._abort(session, body)
                raise error.cause.within(digest=str(descriptor.digest)) from error.cause
            failure = error
        except (BinpkgError, BlobTooLargeError):
            self._abort(session, body)
            raise
        else:
            return True
        if self._arrived(descriptor, definite=failure.definite):
            return True
        self._abort(session, body)
        raise failure

    def _mount(self, descriptor: Descriptor, origin: str) -> UploadSession | bool:
        """Take the blob over from another repository of this registry: True, or a session to go on with, or False."""
        prefix = f"{self._remote.repository.origin}/"
        if not origin.startswith(prefix) or origin == self._remote.repository.address:
            return False
        source = origin.removeprefix(prefix)
        url = with_query(self._remote.url("blobs/uploads/"), mount=str(descriptor.digest), **{"from": source})
        operation = f"mount {descriptor.digest} from {source} into {self._remote.name}"
        scope = (f"repository:{source}:pull",)
        try:
            with self._remote.send(
                "POST", url, operation, actions=PUSH, also=scope, body=b"", accept=JUDGED, replay=False
            ) as response:
                if response.status == HTTPStatus.ACCEPTED:
                    return self._session(response)
                mounted = response.status == HTTPStatus.CREATED
        except (AuthError, DeniedError, NetworkError, NotFoundError, RateLimitedError, ServerError):
            return False  # a mount is only a saving; whatever is wrong shows again in the plain upload
        # some registries answer 201 for a blob that they do not have
        return mounted and self._is_seen(descriptor, where_blind=True)

    def _begin(self, what: str) -> UploadSession:
        operation = f"begin the upload of {what} to {self._remote.name}"
        with self._remote.send(
            "POST", self._remote.url("blobs/uploads/"), operation, actions=PUSH, body=b"", accept=JUDGED
        ) as response:
            if response.status in JUDGED:
                raise Refusal.of(response).error(operation)
            return self._session(response)

    def _session(self, response: Response) -> UploadSession:
        text = response.headers.get("OCI-Chunk-Min-Length", "").strip()
        least = int(text) if re.fullmatch(r"[0-9]{1,18}", text, re.ASCII) else 0
        return UploadSession(
            self._remote.location(response), least if least <= self._remote.settings.largest_chunk else 0
        )

    def _send(self, session: UploadSession, body: SentBody, chunk: int, *, counting: bool) -> None:
        descriptor = body.blob.descriptor
        if not chunk:
            self._commit(session, descriptor, body.blob)
            return
        with body.blob.open() as stream:
            ChunkSender(self._remote, session, descriptor, counting=counting).send(stream, chunk)
        self._commit(session, descriptor, b"")

    def _commit(self, session: UploadSession, descriptor: Descriptor, body: Blob | bytes) -> None:
        """PUT the body, or the end of a chunked upload. Raises `AttemptError`, `BlobTooLargeError` and final errors."""
        operation = f"upload {descriptor.digest} to {self._remote.name}"
        with self._remote.send(
            "PUT",
            with_query(session.url, digest=str(descriptor.digest)),
            operation,
            actions=PUSH,
            headers=BINARY,
            body=body,
            accept=JUDGED,
            replay=False,
        ) as response:
            if response.status in JUDGED:
                raise judged(Refusal.of(response), operation)
            if response.status not in (201, 204):
                raise AttemptError(ServerError(f"{operation}: answered {response.status} instead of 201"))

    def _arrived(self, descriptor: Descriptor, *, definite: bool) -> bool:
        """Look for the blob of an upload that ended in an error; several times if it may still get into place."""
        for delay in self._remote.settings.commit_probes[: 1 if definite else None]:
            if delay:
                self._remote.time.sleep(delay)
            if self._is_seen(descriptor, where_blind=False):
                return True
        return False

    def _is_seen(self, descriptor: Descriptor, *, where_blind: bool) -> bool:
        """Look for a blob; `where_blind` is the answer for a login that may write and not read."""
        try:
            return self._presence.probe(descriptor, actions=PUSH)
        except (AuthError, DeniedError):
            return where_blind

    def _abort(self, session: UploadSession, body: SentBody) -> None:
        body.sent.discard()
        self._cancel(session)

    def _cancel(self, session: UploadSession) -> None:
        """Give the session back, so that the registry need not keep its parts; what it answers does not matter."""
        operation = f"cancel an upload to {self._remote.name}"
        try:
            self._remote.send(
                "DELETE", session.url, operation, actions=PUSH, accept=JUDGED | {401, 500, 502, 503}, replay=False
            ).close()
        except TransferError:
            return


def _final(cause: BinpkgError, body: SentBody, attempts: int, seconds: float) -> BinpkgError:
    """Return the error with what was sent, how often and how long it was tried."""
    effort = f"[{attempts} attempts in {seconds:.0f} s]" if attempts > 1 else ""
    return cause.within(after=effort, digest=str(body.blob.descriptor.digest))
