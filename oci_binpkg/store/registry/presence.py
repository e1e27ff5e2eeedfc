"""What a registry is known to have: asked once, remembered for this run only."""

from __future__ import annotations

import re
import threading
from http import HTTPStatus
from typing import Final

from oci_binpkg.log import Log
from oci_binpkg.model.content import Descriptor, Digest
from oci_binpkg.store.registry.api import ACCEPT, Remote, content_length, contradicts
from oci_binpkg.transport.http import Response

_log: Final = Log("registry")
NO_HEAD: Final = frozenset({401, 403, 405, 501})
"""Answers to HEAD that say nothing about the content: storage behind a redirect often signs GET only (GHCR, S3)."""

_TOTAL: Final = re.compile(r"bytes (?:0-0|\*)/([0-9]{1,18})", re.ASCII)


class Presence:
    """Finds out whether blobs and manifests are in the repository. Thread-safe.

    Only positive answers are remembered, and never beyond the run: registries collect unreferenced blobs.
    """

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self._known: dict[Digest, int] = {}
        self._lock = threading.Lock()

    def knows(self, digest: Digest) -> bool:
        """Return whether the content was seen or stored in this run."""
        with self._lock:
            return digest in self._known

    def remember(self, descriptor: Descriptor) -> None:
        """Note that the content is there, in this size."""
        with self._lock:
            self._known[descriptor.digest] = descriptor.size

    def forget(self, digest: Digest | None = None) -> None:
        """Forget one digest, or everything: the registry turned out to have lost something."""
        with self._lock:
            if digest is None:
                self._known.clear()
            else:
                self._known.pop(digest, None)

    def has(self, descriptor: Descriptor, *, actions: str = "pull") -> bool:
        """Return whether the content is there with the right size, asking only where that is not known."""
        with self._lock:
            size = self._known.get(descriptor.digest)
        return size == descriptor.size if size is not None else self.probe(descriptor, actions=actions)

    def probe(self, descriptor: Descriptor, *, actions: str = "pull") -> bool:
        """Ask the registry. Raises `AuthError` and `DeniedError` when reading is refused altogether."""
        with self._remote.send(
            "HEAD",
            self._remote.content_url(descriptor),
            f"look for {descriptor.digest} in {self._remote.name}",
            actions=actions,
            headers={"Accept": ACCEPT} if descriptor.is_manifest else {},
            accept=NO_HEAD | {404},
        ) as response:
            refused = response.status in NO_HEAD
            found = response.status != HTTPStatus.NOT_FOUND and _fits(response, descriptor)
        if refused:
            found = self._probe_by_get(descriptor, actions)
        _log.debug("%s is %s %s", descriptor.digest, "in" if found else "not in", self._remote.name)
        if found:
            self.remember(descriptor)
        else:
            self.forget(descriptor.digest)
        return found

    def _probe_by_get(self, descriptor: Descriptor, actions: str) -> bool:
        # one byte is enough to learn the size; a server without ranges answers with the whole, which is not read
        headers = {"Accept": ACCEPT} if descriptor.is_manifest else {"Range": "bytes=0-0"}
        with self._remote.send(
            "GET",
            self._remote.content_url(descriptor),
            f"look for {descriptor.digest} in {self._remote.name}",
            actions=actions,
            headers=headers,
            accept=frozenset({404, 416}),
        ) as response:
            if response.status == HTTPStatus.NOT_FOUND:
                return False
            if response.status == HTTPStatus.OK:
                return _fits(response, descriptor)
            total = _TOTAL.fullmatch(response.headers.get("Content-Range", "").strip())
            return int(total[1]) == descriptor.size if total else response.status == HTTPStatus.PARTIAL_CONTENT


def _fits(response: Response, descriptor: Descriptor) -> bool:
    length = content_length(response.headers)
    return length in (None, descriptor.size) and not contradicts(response.headers, descriptor.digest)
