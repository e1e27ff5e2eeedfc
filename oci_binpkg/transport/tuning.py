"""The numbers and names that an HTTP client works with. All of them have defaults; times in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from oci_binpkg.transport.addresses import Neighbours, Origin, proxy_for
from oci_binpkg.transport.gate import GateLimits
from oci_binpkg.transport.retry import RetryPolicy

_UPLOAD_STEP: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long each stage may take.

    After an upload a registry may copy the whole blob before it answers (5 to 19 s per few hundred MB were seen at
    GHCR): `commit` seconds, one more for each 4 MiB, at most `commit_cap`. A body slower than `slow_bytes` per second
    over `slow_window` seconds is abandoned.
    """

    connect: float = 10.0
    idle: float = 60.0
    commit: float = 120.0
    commit_cap: float = 900.0
    token: float = 30.0
    slow_bytes: float = 1024.0
    slow_window: float = 60.0

    def header_wait(self, body_size: int | None) -> float:
        """Return how long an answer's headers may take after a body of so many bytes (None: no body)."""
        if body_size is None:
            return self.idle
        return min(self.commit_cap, self.commit + body_size / _UPLOAD_STEP)


@dataclass(frozen=True, slots=True)
class TransportSettings:
    """How to reach registries.

    `ca_files` maps `host` or `host:port` to a CA bundle, `ca_file` is for all other hosts ("" for the usual
    authorities). `insecure_hosts` may be asked over plain http; `internal_hosts` are hosts at private addresses that
    a registry may point to. `proxies` maps a scheme (`http`, `https`, `all`) to a proxy URL; hosts, `.suffixes` and
    networks in `no_proxy` are reached directly. `upload_rate` (bytes per second) is the guess by which a token is
    renewed before a long upload. `deadline` (on the client's clock) ends the whole run; `offline` forbids every
    request.
    """

    timeouts: Timeouts = field(default_factory=Timeouts)
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    gate: GateLimits = field(default_factory=GateLimits)
    ca_file: str = ""
    ca_files: Mapping[str, str] = field(default_factory=dict)
    insecure_hosts: frozenset[str] = frozenset()
    internal_hosts: frozenset[str] = frozenset()
    proxies: Mapping[str, str] = field(default_factory=dict)
    no_proxy: tuple[str, ...] = ()
    user_agent: str = "oci-binpkg"
    max_redirects: int = 5
    upload_rate: float = 1024.0 * 1024.0
    deadline: float | None = None
    offline: bool = False

    @property
    def neighbours(self) -> Neighbours:
        """Where registries may send us."""
        return Neighbours(self.insecure_hosts, self.internal_hosts)

    def verify(self, origin: Origin) -> str | bool:
        """Return the CA bundle for `origin`, or True for the usual authorities."""
        for name in (origin.netloc, f"{origin.host}:{origin.port}", origin.host):
            if name in self.ca_files:
                return self.ca_files[name]
        return self.ca_file or True

    def proxy(self, origin: Origin) -> str:
        """Return the proxy URL for `origin`, or ""."""
        return proxy_for(origin, self.proxies.items(), self.no_proxy)
