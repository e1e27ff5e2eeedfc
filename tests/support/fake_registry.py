"""A registry in this process: the whole distribution API in memory, on a real socket, with faults by script.

    with FakeRegistry() as registry:
        repository = parse_repository(f"{registry.host}/apps", scheme="http")
        registry.fault("PUT", r"/blobs/uploads/", nth=1, after=RESET)      # stored, but the answer is lost
        ...
        assert [x.method for x in registry.log] == ["HEAD", "POST", "PUT", "HEAD"]

- Content: `registry.repos[name]` has `blobs` {digest: bytes}, `manifests` {digest: (media type, bytes)}, `tags` {tag:
  digest}; read and change them at will (`collect` plays the garbage collector). `registry.add_blob`, `add_manifest`.
- Log: `registry.log`, one `Exchange` per request in order of arrival, also for the token endpoint and the CDN (`server`).
- Faults: `registry.fault(...)` adds a rule, see `fake_wire.Fault`. The first rule that matches and still fires wins.
- Quirks: attributes of `Profile`, given to the constructor or set later on `registry.profile`.
- Login: `auth=Basic(...)` or `auth=Bearer(...)`; tokens die by `registry.expire_tokens()` or after `Bearer.uses` requests.
- Nothing sleeps, nothing reads a clock.
"""

from __future__ import annotations

import re
import ssl
from typing import Any, ClassVar

from oci_binpkg import testing
from oci_binpkg.testing import Answer, Basic, Bearer, Exchange, Handler, Profile, Repo
from tests.support.fake_wire import CLOSE, RESET, Fault, FaultyHandler

__all__ = ["CLOSE", "RESET", "Answer", "Basic", "Bearer", "Exchange", "FakeRegistry", "Fault", "Profile", "Repo"]


class FakeRegistry(testing.FakeRegistry):
    """The registry that users get, with faults."""

    handler: ClassVar[type[Handler]] = FaultyHandler

    def __init__(
        self,
        *,
        auth: Basic | Bearer | None = None,
        profile: Profile | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(auth=auth, profile=profile, tls=tls)
        self._faults: list[Fault] = []

    def fault(self, method: str, path: str, **what: Any) -> Fault:
        """Add a fault and return it; its `fired` tells later how often it struck."""
        fault = Fault(method, path, **what)
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """Forget faults and log; content stays."""
        with self._lock:
            self._faults.clear()
            self.log.clear()

    def requests(self, method: str = ".*", path: str = "") -> list[Exchange]:
        """Return the logged requests that match."""
        return [x for x in list(self.log) if re.fullmatch(method, x.method) and re.search(path, x.target)]

    def add_blob(self, name: str, data: bytes) -> str:
        """Put a blob in place; return its digest."""
        digest = testing.sha256(data)
        self.repo(name).blobs[digest] = data
        return digest

    def add_manifest(self, name: str, media_type: str, data: bytes, *tags: str) -> str:
        """Put a manifest in place, and tags on it; return its digest."""
        digest = testing.sha256(data)
        repo = self.repo(name)
        repo.manifests[digest] = (media_type, data)
        repo.tags.update(dict.fromkeys(tags, digest))
        return digest

    def collect(self, name: str, digest: str) -> None:
        """Lose a blob or manifest, as garbage collection does."""
        self.repo(name).blobs.pop(digest, None)
        self.repo(name).manifests.pop(digest, None)

    def begin(self, exchange: Exchange) -> Fault | None:
        """Log a request and return the fault that strikes it, before its body is read."""
        with self._lock:
            self.log.append(exchange)
            return next((fault for fault in self._faults if fault.matches(exchange)), None)
