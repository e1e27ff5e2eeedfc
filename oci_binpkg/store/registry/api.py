"""The registry API as values: addresses, scopes, numbers, and how its refusals are read.

Source: OCI distribution-spec 1.1 and the token scopes of the distribution project.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final
from urllib.parse import quote, urldefrag, urljoin

from oci_binpkg.backoff import USUAL, Backoff
from oci_binpkg.errors import (
    BinpkgError,
    ContentError,
    DeniedError,
    Fields,
    NotFoundError,
    RateLimitedError,
    ServerError,
    TransferError,
)
from oci_binpkg.events import Observer, Retrying, Warned
from oci_binpkg.log import Log
from oci_binpkg.model.content import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    MANIFEST_TYPES,
    OCI_INDEX,
    OCI_MANIFEST,
    Blob,
    Descriptor,
    Digest,
    Growing,
)
from oci_binpkg.model.reference import DOCKER_HUB, Repository
from oci_binpkg.times import Time
from oci_binpkg.transport.addresses import Origin, UnsafeAddressError, printable
from oci_binpkg.transport.failures import MAX_ERROR_BODY, parse_error_body
from oci_binpkg.transport.http import HttpClient, Request, Response

ACCEPT: Final = f"{OCI_MANIFEST}, {OCI_INDEX}, {DOCKER_MANIFEST}, {DOCKER_LIST}"
"""Without this list old registries answer with schema 1."""

PUSH: Final = "pull,push"
"""The token actions of every step of a push: one token for all of them."""

_log: Final = Log("registry")
MIB: Final = 1024 * 1024
_HUB_API: Final = "https://registry-1.docker.io"
_LOST: Final = frozenset({"MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN"})
_LOSES: Final = "the registry loses what was just stored: push again, or ask whoever runs it"
_NOT_ACCEPTED: Final = "the registry does not accept this; its own log may say why"
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}(?![0-9a-f])", re.ASCII)
_QUOTA: Final = re.compile(
    r"quota|upper limit|storage (?:limit|is full)|insufficient storage|not enough (?:space|storage)", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """Numbers of the registry client. Sizes in bytes, delays and waits in seconds; delays vary by a fifth either way.

    `chunk_size` asks for chunked uploads from the start; 0 sends a blob in one piece, and in pieces of `fallback_chunk`
    where the registry finds that too large. `backoff`: what is tried again. `commit_probes`: when to look for a blob
    whose upload ended without an answer. `read_delays`: how long to wait for what was just stored to become visible;
    both are there without retries, too, since nothing has failed. `upload_origins`: other origins
    (`https://host[:port]`) that uploads may be sent to, without login.
    `held_back`: blobs up to this size are verified whole before the first byte is given out.
    """

    chunk_size: int = 0
    fallback_chunk: int = 8 * MIB
    largest_chunk: int = 64 * MIB
    smallest_chunk: int = 64 * 1024
    commit_probes: tuple[float, ...] = (0.0, 1.0, 4.0)
    read_delays: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    repair_rounds: int = 2
    repair_delay: float = 1.0
    resume_progress: int = MIB
    backoff: Backoff = USUAL
    push_manifest_limit: int = 4 * MIB
    pull_manifest_limit: int = 16 * MIB
    manifest_memory: int = 8 * MIB
    held_back: int = 4 * MIB
    page_limit: int = 16 * MIB
    page_size: int = 1000
    most_pages: int = 10_000
    most_tags: int = 1_000_000
    upload_origins: frozenset[str] = frozenset()


DEFAULTS: Final = RegistrySettings()


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that is not success: the status, the registry's (code, message) pairs, and a printable excerpt.

    `named` are the digests that stand in it, wherever the registry put them.
    """

    status: int
    errors: tuple[tuple[str, str], ...] = ()
    text: str = ""
    named: frozenset[Digest] = frozenset()
    host: str = ""

    @classmethod
    def of(cls, response: Response) -> Refusal:
        """Read at most 64 KiB of a refusal's body; one that cannot be read says nothing."""
        try:
            body = response.read(MAX_ERROR_BODY)
        except (ContentError, TransferError):
            body = b""
        errors = parse_error_body(body)
        text = printable("; ".join(": ".join(filter(None, pair)) for pair in errors))
        named = frozenset(Digest.parse(found) for found in _DIGEST.findall(body.decode("utf-8", "replace")))
        return cls(response.status, errors, text, named, host_of(response.url))

    @property
    def codes(self) -> frozenset[str]:
        """The registry's error codes."""
        return frozenset(code for code, _ in self.errors if code)

    def is_quota(self) -> bool:
        """Whether the registry says that there is no room left."""
        return bool(_QUOTA.search(self.text))

    def error(self, operation: str) -> BinpkgError:
        """Return the error about this refusal."""
        said = f"{operation}: the registry answers {self.status}" + (f" ({self.text})" if self.text else "")
        kind, hint = self._judged()
        return kind(said, hint=hint, **self.fields(operation))

    def fields(self, operation: str) -> Fields:
        """Return what an error about this refusal knows."""
        codes = tuple(code for code, _ in self.errors if code)
        return {"operation": operation, "host": self.host, "status": self.status, "codes": codes}

    def _judged(self) -> tuple[type[BinpkgError], str]:
        if self.is_quota():
            return DeniedError, "the quota is used up: delete something there, or ask for more room"
        if "NAME_UNKNOWN" in self.codes:
            return NotFoundError, "create the repository first: this registry does not create one on push"
        if self.status == HTTPStatus.NOT_FOUND and not self.codes & _LOST:
            return NotFoundError, "check the repository's name, and that the login may push to it"
        if self.status == HTTPStatus.FORBIDDEN:
            return DeniedError, "the login may not do this here: check its rights on the repository"
        if self.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return DeniedError, "the registry takes no body of this size"
        return ServerError, _LOSES if self.codes & _LOST else _NOT_ACCEPTED


def content_length(headers: Mapping[str, str]) -> int | None:
    """Return the Content-Length, or None if it is absent or not a number."""
    text = headers.get("Content-Length", "").strip()
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text, re.ASCII) else None


def content_digest(headers: Mapping[str, str]) -> Digest | None:
    """Return the Docker-Content-Digest, or None where it is absent or not a digest."""
    try:
        return Digest.parse(headers.get("Docker-Content-Digest", "").strip())
    except ContentError:
        return None


def manifest_type(headers: Mapping[str, str]) -> str:
    """Return the Content-Type without parameters if it is a manifest's, else "" (then the document decides)."""
    text = headers.get("Content-Type", "").split(";")[0].strip().lower()
    return text if text in MANIFEST_TYPES else ""


def contradicts(headers: Mapping[str, str], digest: Digest) -> bool:
    """Whether Docker-Content-Digest names other content. One of another algorithm says nothing."""
    told = content_digest(headers)
    return told is not None and told.algorithm == digest.algorithm and told != digest


def origin_of(url: str) -> Origin | None:
    """Return the origin of an address a registry gave; None if it is not http(s) or holds a login."""
    try:
        return Origin.parse(url)
    except UnsafeAddressError:
        return None


def host_of(url: str) -> str:
    """Return the host, with its port, of an address that was asked; "" for an invalid address."""
    origin = origin_of(url)
    return origin.netloc if origin else ""


def resolved(response: Response, target: str) -> str:
    """Return the absolute address that an answer means by `target`, "" for an invalid address."""
    try:
        return str(urljoin(response.url, target))
    except ValueError:
        return ""


@dataclass(frozen=True, slots=True)
class Remote:
    """One repository over one client, with the surroundings every part of the registry store needs."""

    client: HttpClient
    repository: Repository
    settings: RegistrySettings
    time: Time
    observe: Observer
    _warned: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def name(self) -> str:
        """The repository's name for people."""
        return str(self.repository)

    @property
    def api(self) -> str:
        """The origin requests go to. Docker Hub's API is at another host than its references say."""
        return _HUB_API if self.repository.host == DOCKER_HUB else self.repository.origin

    def url(self, tail: str) -> str:
        """Return the address of `tail` in the repository."""
        return f"{self.api}/v2/{self.repository.name}/{tail}"

    def content_url(self, descriptor: Descriptor) -> str:
        """Return the address of a blob or of a manifest by its digest."""
        return self.url(f"{'manifests' if descriptor.is_manifest else 'blobs'}/{descriptor.digest}")

    def scope(self, actions: str) -> str:
        """Return the token scope for actions on this repository."""
        return f"repository:{self.repository.name}:{actions}"

    def send(  # one parameter for each way a request of this API can differ
        self,
        method: str,
        url: str,
        operation: str,
        *,
        actions: str = "pull",
        also: tuple[str, ...] = (),
        headers: Mapping[str, str] | None = None,
        body: Blob | Growing | bytes | None = None,
        accept: frozenset[int] = frozenset(),
        replay: bool = True,
    ) -> Response:
        """Send a request for `actions` on this repository (and the scopes in `also`); raises as `HttpClient.send`."""
        scopes = (self.scope(actions), *also)
        return self.client.send(
            Request(method, url, headers or {}, body, scopes, accept, replay=replay, operation=operation)
        )

    def location(self, response: Response, previous: str = "") -> str:
        """Return the absolute upload address of a response, its query kept byte for byte.

        `previous` stands in for an absent header. Raises `ServerError` without an address, or if it leads to an origin
        that is neither the registry nor allowed.
        """
        values = set(filter(None, response.headers.get("Location", "").strip().split(", ")))
        if not values and previous:
            return previous
        if len(values) != 1:
            raise ServerError(
                f"upload to {self.name}: {len(values) or 'no'} upload addresses where there must be one",
                hint="the registry, or a proxy before it, does not follow the protocol: ask whoever runs it",
            )
        try:
            url = urldefrag(urljoin(response.url, values.pop())).url
        except ValueError:
            url = ""
        origin = origin_of(url)
        if origin is None or (origin != origin_of(self.api) and str(origin) not in self.settings.upload_origins):
            host = self.repository.host
            hint = f'if that server is meant, name it in `servers` of [registries."{host}"] in the settings'
            raise ServerError(
                f"upload to {self.name}: the registry sends uploads to {origin or 'an invalid address'}",
                hint=hint if origin else f"ask whoever runs {host}: it does not follow the protocol",
            )
        return url

    def wait(self, delay: float, reason: str, attempt: int) -> None:
        """Report that attempt `attempt` failed and wait about `delay` seconds."""
        seconds = delay * (0.8 + 0.4 * self.time.random())
        _log.info("%s: attempt %d failed (%s), the next one follows in %.1f s", self.name, attempt, reason, seconds)
        self.observe(Retrying(self.repository.host, reason, seconds, attempt))
        self.time.sleep(seconds)

    def back_off(self, error: BinpkgError, delay: float | None, attempt: int) -> bool:
        """Wait about `delay` seconds before another whole attempt, longer if the registry asks for it.

        False, without a wait, if `delay` is None (no attempt is left) or the registry asks for more than the longest
        wait.
        """
        asked = (error.seconds if isinstance(error, RateLimitedError) else None) or 0.0
        if delay is None or asked > self.settings.backoff.longest_wait:
            return False
        jitter = self.time.random()
        seconds = max(delay * (0.8 + 0.4 * jitter), asked * (1 + 0.1 * jitter))
        _log.info("%s: attempt %d failed (%s), all of it again in %.1f s", self.name, attempt, error.message, seconds)
        self.observe(Retrying(self.repository.host, error.message, seconds, attempt))
        self.time.sleep(seconds)
        return True

    def warn(self, text: str) -> None:
        """Warn the user, once of each text."""
        with self._lock:
            if text in self._warned:
                return
            self._warned.add(text)
        self.observe(Warned(text))


def with_query(url: str, **values: str) -> str:
    """Append query members without touching what is there."""
    members = "&".join(f"{key}={quote(value, safe='')}" for key, value in values.items())
    return f"{url}{'&' if '?' in url else '?'}{members}"
