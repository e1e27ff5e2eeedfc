"""What the tests of the faults stand on: the real registry behind the proxy, and our client on a clock of its own."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from proxy.log import Log, Logged
from proxy.quirks import BLOB, COMMIT, MANIFEST, TAG, TAGS, UPLOAD
from proxy.rules import Action, Answer, Asked, Rule, refusal
from proxy.server import FaultProxy
from proxy.tokens import TokenPolicy, Tokens

from oci_binpkg.events import Event, Warned
from oci_binpkg.model.content import Blob, Descriptor
from oci_binpkg.model.reference import Repository, parse_repository
from oci_binpkg.store.registry.api import ACCEPT, RegistrySettings
from oci_binpkg.store.registry.repository import RegistryStore
from oci_binpkg.times import Time
from oci_binpkg.transport.credentials import Credential, FixedCredential
from oci_binpkg.transport.http import Request
from oci_binpkg.transport.registry_client import RegistryHttpClient
from oci_binpkg.transport.tuning import TransportSettings
from tests.support.fake_time import FakeTime
from tests.support.real.registry import RealRegistry
from tests.support.registry_store import content, digest_text, fetch, image, layer

__all__ = [
    "BLOB",
    "COMMIT",
    "MANIFEST",
    "MIB",
    "TAG",
    "TAGS",
    "UPLOAD",
    "USER",
    "Action",
    "Answer",
    "Asked",
    "FaultBench",
    "Rule",
    "content",
    "digest_text",
    "fetch",
    "image",
    "layer",
    "refusal",
]

MIB = 1024 * 1024
USER = Credential("user", "secret")
_NUMBERS = itertools.count()


@dataclass
class FaultBench:
    """One repository of the real registry, behind the proxy. `time.slept` are the seconds that were not waited."""

    registry: RealRegistry
    stack: contextlib.ExitStack
    time: FakeTime = field(default_factory=FakeTime)
    events: list[Event] = field(default_factory=list)
    log: Log = field(default_factory=Log)
    tokens: Tokens | None = None

    def __post_init__(self) -> None:
        self.name = f"faults/{next(_NUMBERS)}"
        self.proxy = self.another("registry", self.registry.url)

    # ---- the servers

    def another(self, role: str, upstream: str = "", **options: Any) -> FaultProxy:
        """Start one more proxy; its requests are in the same log."""
        return self.stack.enter_context(FaultProxy(upstream, role=role, log=self.log, **options))

    def on(self, action: Action, method: str = "", path: str = "", **more: Any) -> None:
        """Add a rule to the registry's proxy."""
        self.proxy.add(Rule(action, method, path, **more))

    def ask_for_tokens(self, **policy: Any) -> FaultProxy:
        """Let the registry want Bearer tokens, and start a server that gives them: `user` with `secret` may do all."""
        made = TokenPolicy(users={"user": "secret"}, **policy)
        self.tokens = Tokens(made, clock=self.time.clock)
        server = self.another("tokens")
        server.add(Rule(Action(answer=self.tokens.give), times=0))
        self.proxy.keep_login = False
        self.on(Action(answer=self.tokens.gate(f"{server.url}/token")), times=0)
        return server

    # ---- our side

    def client(
        self,
        origin: str = "",
        *,
        credential: Credential | None = None,
        random: Callable[[], float] = lambda: 0.5,
        sleep: Callable[[float], None] | None = None,
        clock: Callable[[], float] | None = None,
        **settings: Any,
    ) -> RegistryHttpClient:
        made = RegistryHttpClient(
            origin or self.proxy.url,
            credentials=FixedCredential(credential),
            settings=TransportSettings(**settings),
            time=Time(self.time.now, clock or self.time.clock, sleep or self.time.sleep, random),
            observer=self.events.append,
        )
        self.stack.callback(made.close)
        return made

    def store(self, name: str = "", client: RegistryHttpClient | None = None, **settings: Any) -> RegistryStore:
        return RegistryStore(
            client or self.client(),
            self.repository(name),
            settings=RegistrySettings(**settings),
            time=self.time.time,
            observer=self.events.append,
        )

    def repository(self, name: str = "") -> Repository:
        return parse_repository(f"{self.proxy.host}/{name or self.name}", scheme=self.proxy.url.partition(":")[0])

    def placed(self, *blobs: Blob, tag: str = "", name: str = "") -> Descriptor:
        """Store blobs in the registry past the proxy; the last one under a tag."""
        with RegistryHttpClient(self.registry.url) as client:
            store = RegistryStore(client, Repository("http", self.registry.host, name or self.name))
            for blob in blobs[:-1] if tag else blobs:
                store.put(blob)
            if tag:
                store.tag(blobs[-1], tag)
        return blobs[-1].descriptor

    def published(self, tag: str = "1.0") -> tuple[Blob, Blob]:
        """Store an image of one layer past the proxy; return the layer and the manifest."""
        one = layer()
        manifest, config = image(one)
        self.placed(one, config, manifest, tag=tag)
        return one, manifest

    def pushed(self, store: RegistryStore | None = None, tag: str = "1.0", size: int = 3000) -> Blob:
        """Push an image through the proxy; return its manifest."""
        store = store or self.store()
        one = layer(size)
        manifest, config = image(one)
        for blob in (one, config):
            store.put(blob)
        store.tag(manifest, tag)
        return manifest

    def get(self, path: str, method: str = "GET", **more: Any) -> Request:
        return Request(method, f"{self.proxy.url}/v2/{self.name}{path}", {"Accept": ACCEPT}, **more)

    # ---- what was seen

    def seen(self, method: str = "", path: str = "", role: str = "") -> list[Logged]:
        return self.log.seen(method, path, role=role)

    def methods(self, path: str = "") -> list[str]:
        return self.log.methods(path, role="registry")

    def warnings(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Warned)]

    def holds(self, blob: Blob, name: str = "") -> bool:
        """Tell whether the registry behind really has a blob."""
        return self.registry.get(f"/v2/{name or self.name}/blobs/{blob.descriptor.digest}") == 200
