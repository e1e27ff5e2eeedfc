"""Puts the parts together for a command: the only place that knows them all."""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import BinaryIO, Final

from oci_binpkg.archive.codec import Codec
from oci_binpkg.archive.layercache import LayerCache
from oci_binpkg.cache.oci import OciCache
from oci_binpkg.cache.open import FORMS, Location, Opener, parse_base, parse_location
from oci_binpkg.cli.settings import Settings
from oci_binpkg.errors import EngineError, UsageError
from oci_binpkg.events import Observer
from oci_binpkg.installs.protocol import Installs
from oci_binpkg.model.reference import Repository, check_host, is_loopback
from oci_binpkg.ops.bases import BaseImages
from oci_binpkg.ops.engines import Loaded, load_image, run_image
from oci_binpkg.ops.packing import LayerPacker
from oci_binpkg.store.distribution import RegistrySettings
from oci_binpkg.store.engine import Engine, Kind, connect
from oci_binpkg.store.registry import RegistryStore
from oci_binpkg.transport.auth import TokenCache
from oci_binpkg.transport.client import RegistryHttpClient
from oci_binpkg.transport.credentials import Credential, CredentialFiles, Keychain
from oci_binpkg.transport.gate import GateLimits, HostGates
from oci_binpkg.transport.probe import check_login, plain_http_on_loopback
from oci_binpkg.transport.retry import RetryPolicy
from oci_binpkg.transport.settings import TransportSettings

DEFAULT_COMPRESSION: Final = "gzip"
_KINDS: Final[tuple[Kind, ...]] = ("docker", "podman")


class Wiring:
    """The parts of one run of the command line, made when they are needed."""

    def __init__(self, settings: Settings, observer: Observer) -> None:
        self._settings = settings
        self.observer = observer
        self._clients: dict[str, RegistryHttpClient] = {}

    def location(self, text: str) -> Location:
        """Return where a CACHE or CACHE:TAG is; a configured name stands for its address."""
        name, colon, tag = text.partition(":")
        if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name) and not tag.startswith("//") and name != "oci-layout":
            if name not in self._settings.caches:
                known = ", ".join(sorted(self._settings.caches)) or "none"
                raise UsageError(f"no cache named {name!r}", hint=f"configured names: {known}; or write {FORMS}")
            return parse_location(self._settings.caches[name] + colon + tag)
        return parse_location(text)

    def cache(self, text: str) -> OciCache:
        """Open a cache."""
        location = self.location(text)
        if location.reference:
            raise UsageError(
                f"{text} names an image, a cache is expected", hint="leave out what follows the last colon"
            )
        return self.cache_at(location)

    def cache_at(self, location: Location) -> OciCache:
        """Open the cache at a location."""
        return self._opener.cache(location)

    def packer(self, installs: Installs, compression: str) -> LayerPacker:
        """Return what makes layers of the packages of a tree."""
        settings = self._settings
        return LayerPacker(
            installs,
            self.layer_cache,
            Codec.parse(compression or settings.compression or DEFAULT_COMPRESSION),
            threads=os.cpu_count() or 1,
            observer=self.observer,
        )

    @cached_property
    def layer_cache(self) -> LayerCache:
        """The layers kept on disk."""
        return LayerCache(self._settings.layer_cache, self._settings.layer_cache_size, clock=time.time)

    def jobs(self, wanted: int) -> int:
        """Return how many packages are packed at a time: as asked, as configured, else one for each core."""
        return wanted or self._settings.jobs or os.cpu_count() or 1

    def base_images(self, text: str) -> BaseImages:
        """Return the base images under a reference."""
        location = parse_base(text)
        return BaseImages(self._opener.store(location), location.reference)

    def load(self, image: str, engine: str) -> Loaded:
        """Load an image into an engine."""
        location = self._image(image)
        return load_image(self._engine(engine), self._opener.store(location), location.reference)

    def run(
        self,
        image: str,
        command: Sequence[str],
        *,
        engine: str,
        network: str,
        limits: Mapping[str, int],
        stdout: BinaryIO,
        stderr: BinaryIO,
    ) -> int:
        """Run a command in an image; return its exit code."""
        location = self._image(image)
        store = self._opener.store(location)
        return run_image(
            self._engine(engine),
            store,
            location.reference,
            command,
            stdout=stdout,
            stderr=stderr,
            network=network,
            limits=limits,
        )

    def login(self, host: str, username: str, password: str, *, plain_http: bool) -> str:
        """Check a login and keep it; return the file it is kept in."""
        credential = Credential(username, password)
        plain = plain_http or (is_loopback(host) and plain_http_on_loopback(host))
        scheme = "http" if plain else "https"
        check_login(f"{scheme}://{check_host(host)}", credential, settings=self._transport(host, plain=plain))
        self._keychain.store(host, credential)
        return self._files.writable

    def logout(self, host: str) -> str:
        """Forget a login; return the file it was in, "" if there was none."""
        if self._keychain.find(host) is None:
            return ""
        self._keychain.erase(host)
        return self._files.writable

    def _image(self, text: str) -> Location:
        location = self.location(text)
        if not location.reference:
            raise UsageError(f"{text} names no image: a tag is missing", hint=f"`oci-binpkg inspect {text}` lists them")
        return location

    def _engine(self, wanted: str) -> Engine:
        if wanted and wanted not in _KINDS:
            raise UsageError(f"--engine {wanted!r}: docker or podman is expected")
        failures = []
        for kind in _KINDS:
            if wanted in ("", kind):
                try:
                    return connect(kind, self._settings.engine_sockets[kind])
                except EngineError as error:
                    failures.append(error)
        if len(failures) == 1:
            raise failures[0]
        raise EngineError("; ".join(error.message for error in failures), hint=failures[-1].hint)

    @cached_property
    def _opener(self) -> Opener:
        return Opener(self._registry, plain_http_on_loopback, lambda turn: time.sleep(random.uniform(0.2, 2.0)))  # noqa: ARG005, S311 - spreads writers

    def _registry(self, repository: Repository) -> RegistryStore:
        host = "registry-1.docker.io" if repository.host == "docker.io" else repository.host
        origin = f"{repository.scheme}://{host}"
        if origin not in self._clients:
            plain = repository.scheme == "http"
            self._clients[origin] = RegistryHttpClient(
                origin,
                credentials=self._keychain,
                settings=self._transport(host, plain=plain),
                observer=self.observer,
                gates=self._gates,
                tokens=self._tokens,
            )
        # without retries an upload as a whole has one try too
        once = RegistrySettings(unit_delays=(), manifest_delays=(), resume_failures=0)
        settings = once if self._settings.retries == 0 else RegistrySettings()
        return RegistryStore(self._clients[origin], repository, settings=settings, observer=self.observer)

    def _transport(self, host: str, *, plain: bool) -> TransportSettings:
        settings = self._settings
        ca_file = settings.ca_file_of(host)
        retry = RetryPolicy() if settings.retries is None else RetryPolicy(retries=settings.retries)
        return TransportSettings(
            retry=retry,
            ca_files={host: ca_file} if ca_file else {},
            ca_file=settings.ca_file,
            insecure_hosts=frozenset({host}) if plain else frozenset(),
            proxies=settings.proxies,
            no_proxy=tuple(part.strip() for part in settings.no_proxy.split(",") if part.strip()),
        )

    @cached_property
    def _gates(self) -> HostGates:
        return HostGates(GateLimits(), clock=time.monotonic, sleep=time.sleep)

    @cached_property
    def _tokens(self) -> TokenCache:
        return TokenCache(time.monotonic)

    @cached_property
    def _files(self) -> CredentialFiles:
        settings = self._settings
        runtime = f"{settings.runtime_dir}/containers/auth.json" if settings.runtime_dir else ""
        podman = (settings.auth_file, runtime, f"{settings.home}/.config/containers/auth.json")
        docker = f"{settings.docker_config}/config.json"
        return CredentialFiles(docker, tuple(path for path in podman if path), settings.auth_file or docker)

    @cached_property
    def _keychain(self) -> Keychain:
        return Keychain(self._files, observer=self.observer)
