"""One upload session of a registry: its body, its chunks, and what its refusals mean."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import BinaryIO, Final

from oci_binpkg.errors import BinpkgError, LocalDiskError, NetworkError, RateLimitedError, ServerError, TransferError
from oci_binpkg.events import Observer
from oci_binpkg.model.content import Blob, Descriptor
from oci_binpkg.store.counting import counting
from oci_binpkg.store.registry.api import PUSH, Refusal, Remote
from oci_binpkg.store.verifying import VerifyingReader
from oci_binpkg.transport.http import Response

_READ: Final = 256 * 1024
BINARY: Final = {"Content-Type": "application/octet-stream"}
JUDGED: Final = frozenset({400, 403, 404, 405, 409, 410, 412, 413, 415, 416, 422, 501, 505})
"""Answers to an upload that are read here. The client makes errors of the others, and 5xx may be tried again."""

_FINAL: Final = frozenset({403, 405, 415, 501, 505})
_LOST_SESSION: Final = frozenset({404, 410, 416})
_AGAIN: Final = frozenset(
    {
        "BLOB_UPLOAD_INVALID",
        "BLOB_UPLOAD_UNKNOWN",
        "BLOB_UNKNOWN",
        "DIGEST_INVALID",
        "SIZE_INVALID",
        "UNKNOWN",
        "UNAVAILABLE",
    }
)
_SIZE_WORDS: Final = re.compile(r"too (?:large|big)|entity|exceed|maximum|size limit", re.IGNORECASE)
_WITH_SIZE_WORDS: Final = frozenset({400, 416})
"""Statuses that mean something else, with which some registries refuse a chunk for its size (GHCR 416, ECR 400)."""
_RANGE: Final = re.compile(r"(?:bytes[ =])?([0-9]{1,18})-([0-9]{1,18})", re.ASCII)


@dataclass(slots=True)
class UploadSession:
    """An open upload: where its next request goes, and the smallest chunk the registry takes."""

    url: str
    least: int = 0


class AttemptError(Exception):
    """One session failed. `definite`: it certainly stored nothing. `again`: another one may do better.

    `unknown`: a 404 that does not say of what. Some registries know a session only once it got a PATCH.
    """

    def __init__(
        self, cause: BinpkgError, *, definite: bool = False, again: bool = True, unknown: bool = False
    ) -> None:
        super().__init__(cause.message)
        self.cause = cause
        self.definite = definite
        self.again = again
        self.unknown = unknown


class BlobTooLargeError(Exception):
    """The registry does not take a blob of this size in one piece."""

    def __init__(self, cause: BinpkgError) -> None:
        super().__init__(cause.message)
        self.cause = cause


class SentBody:
    """A blob on its way out, counted once: `sent` is taken back when it is sent anew.

    The last bytes of content that changed under us are never given out.
    """

    def __init__(self, blob: Blob, observe: Observer) -> None:
        counted, self.sent = counting(blob, str(blob.descriptor.digest), observe)
        self.blob = Blob(blob.descriptor, self._open)
        self._source = counted.open

    @contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        descriptor = self.blob.descriptor
        with ExitStack() as stack:
            try:
                source = stack.enter_context(self._source())
            except OSError as error:  # it must not pass for a broken connection
                raise LocalDiskError(f"{descriptor.digest} cannot be read for its upload: {error}") from error
            with closing(VerifyingReader(source, descriptor, "the source of an upload")) as stream:
                yield stream


class ChunkSender:
    """Sends the body of one session in chunks. `counting`: a chunk that was taken counts whole, whatever Range says."""

    def __init__(
        self, remote: Remote, session: UploadSession, descriptor: Descriptor, *, counting: bool = False
    ) -> None:
        self._remote = remote
        self._counting = counting
        self._session = session
        self._descriptor = descriptor
        self._operation = f"upload a chunk of {descriptor.digest} to {remote.name}"

    def send(self, stream: BinaryIO, size: int) -> None:
        """Send all of `stream`. Chunks are as large as the registry asks for, and shrink if it finds one too large."""
        settings = self._remote.settings
        size = min(max(size, self._session.least), settings.largest_chunk)
        offset, pending = 0, bytearray()
        while True:
            while len(pending) < size and (data := stream.read(min(_READ, size - len(pending)))):
                pending += data
            if not pending:
                return
            try:
                stored = self._stored(bytes(pending[:size]), offset)
            except BlobTooLargeError as error:
                if size // 2 < max(self._session.least, settings.smallest_chunk):
                    raise AttemptError(error.cause, again=False) from None
                size //= 2
                continue
            offset += stored
            del pending[:stored]

    def _stored(self, piece: bytes, offset: int) -> int:
        """Send one chunk until the registry has some of it; return how many bytes it has."""
        for attempt in range(1, self._remote.settings.backoff.chunk_tries + 1):
            try:
                return self._patch(piece, offset)
            except (NetworkError, ServerError, RateLimitedError) as error:
                failure = error
            stored = self._status(len(piece), offset)
            if stored is None:
                break
            if stored:
                return stored
            delay = 0.5 * 2**attempt if attempt < self._remote.settings.backoff.chunk_tries else None
            if not self._remote.back_off(failure, delay, attempt):
                break
        raise AttemptError(failure, definite=True)

    def _patch(self, piece: bytes, offset: int) -> int:
        headers = {**BINARY, "Content-Range": f"{offset}-{offset + len(piece) - 1}"}
        with self._remote.send(
            "PATCH",
            self._session.url,
            self._operation,
            actions=PUSH,
            headers=headers,
            body=piece,
            accept=JUDGED,
            replay=False,
        ) as response:
            if response.status not in JUDGED:
                self._session.url = self._remote.location(response, self._session.url)
                # a Range that stands still or speaks of one chunk only is common (ECR, zot): then our own count holds
                return len(piece) if self._counting else _advance(response, len(piece), offset) or len(piece)
            refusal = Refusal.of(response)
        if _too_large(refusal):
            raise BlobTooLargeError(refusal.error(self._operation))
        if refusal.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise ServerError(f"{self._operation}: out of order at byte {offset}")
        raise judged(refusal, self._operation)

    def _status(self, length: int, offset: int) -> int | None:
        """Ask how much of the chunk at `offset` arrived; None if the registry does not say, or says the impossible."""
        try:
            with self._remote.send(
                "GET", self._session.url, f"ask for the state of {self._operation}", actions=PUSH, accept=JUDGED
            ) as response:
                if response.status != HTTPStatus.NO_CONTENT:
                    return None
                self._session.url = self._remote.location(response, self._session.url)
                return _advance(response, length, offset)
        except TransferError:
            return None


def _too_large(refusal: Refusal) -> bool:
    if refusal.status in _WITH_SIZE_WORDS:
        return _SIZE_WORDS.search(refusal.text) is not None and not refusal.is_quota()
    return refusal.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE


def _advance(response: Response, length: int, offset: int) -> int | None:
    """Return how much of the chunk of `length` bytes at `offset` the Range header says is stored; None if absurd."""
    match = _RANGE.fullmatch(response.headers.get("Range", "").strip())
    if match is None or (match[0].endswith("0-0") and length > 1):
        return 0 if offset == 0 else None  # an empty upload has `0-0`, `0--1`, or no Range at all
    stored = int(match[2]) + 1 - offset
    return stored if 0 <= stored <= length else None


def judged(refusal: Refusal, operation: str) -> AttemptError | BlobTooLargeError:
    """Return what a refused body means: another attempt, smaller pieces, or the end."""
    error = refusal.error(operation)
    if refusal.is_quota() or refusal.status in _FINAL or "NAME_UNKNOWN" in refusal.codes:
        return AttemptError(error, again=False)
    if refusal.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return BlobTooLargeError(error)
    if refusal.status in _LOST_SESSION:
        said = refusal.text or str(refusal.status)
        gone = ServerError(
            f"{operation}: the upload session is gone ({said})",
            hint="try again; if it stays so, the registry's own log may say why",
            **refusal.fields(operation),
        )
        unknown = refusal.status == HTTPStatus.NOT_FOUND and not refusal.codes
        return AttemptError(gone, definite=True, unknown=unknown)
    return AttemptError(error, definite=True, again=not refusal.codes or bool(refusal.codes & _AGAIN))
