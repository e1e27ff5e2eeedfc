"""Connections to registries and mirrors, made from the settings; one client for each origin."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from oci_binpkg.backoff import Backoff, configured
from oci_binpkg.cancel import Cancel
from oci_binpkg.config.caches import ANYWHERE, Access, CacheEndpoint
from oci_binpkg.config.settings import Settings, patience
from oci_binpkg.disk import kind_of
from oci_binpkg.errors import UsageError
from oci_binpkg.events import Observer, Warnings
from oci_binpkg.model.reference import Repository, is_loopback
from oci_binpkg.store.registry.api import RegistrySettings
from oci_binpkg.store.registry.repository import RegistryStore
from oci_binpkg.times import SYSTEM_TIME, Time
from oci_binpkg.transport.auth import TokenCache
from oci_binpkg.transport.credentials import Credential, CredentialFiles, Keychain
from oci_binpkg.transport.gate import GateLimits, HostGates
from oci_binpkg.transport.registry_client import RegistryHttpClient
from oci_binpkg.transport.retry import RetryPolicy
from oci_binpkg.transport.tuning import Timeouts, TransportSettings

if TYPE_CHECKING:
    from oci_binpkg.objects.protocol import Objects
    from oci_binpkg.objects.s3 import S3Settings

_LOGINS: Final = {
    **dict.fromkeys(("sftp", "ssh", "ftp", "smb"), ("username", "password")),
    **dict.fromkeys(("abfs", "abfss", "az", "adl"), ("account_name", "account_key")),
}
"""What fsspec calls an id and a secret."""


class Connections:
    """Everything that leads elsewhere. `credentials` are logins by host, which go before what is in files."""

    def __init__(
        self,
        settings: Settings,
        observer: Observer,
        credentials: Mapping[str, Credential] | None = None,
        cancel: Cancel | None = None,
        time: Time = SYSTEM_TIME,
    ) -> None:
        self._settings = settings
        self._credentials = credentials or {}
        self._cancel = cancel or Cancel()
        self._time = time
        self._observer = observer
        self._clients: dict[tuple[str, Access], RegistryHttpClient] = {}
        self._warn = Warnings(observer)

    def registry(self, repository: Repository, endpoint: CacheEndpoint = ANYWHERE) -> RegistryStore:
        """Connect to a repository of a registry; the login of a configured cache goes before what is in files."""
        host = "registry-1.docker.io" if repository.host == "docker.io" else repository.host
        servers = self._settings.servers.get(repository.host, ())
        settings = RegistrySettings(backoff=self._backoff, upload_origins=frozenset(map(str, servers)))
        client = self._client(f"{repository.scheme}://{host}", endpoint.access)
        return RegistryStore(client, repository, settings=settings, observer=self._observer, time=self._time)

    def objects(self, url: str, endpoint: CacheEndpoint = ANYWHERE) -> Objects:
        """Open the files of a mirror at a `file://`, `http(s)://` or `s3://` URL, or one that fsspec knows."""
        parts = urlsplit(url)
        if parts.scheme == "file":
            from oci_binpkg.objects.directory import FileObjects

            waiting = patience(self._settings.lock_timeout, self._observer, self._time)
            return FileObjects(unquote(parts.path), time=self._time, patience=waiting, go_on=self._cancel.check)
        if parts.scheme == "s3":
            from oci_binpkg.objects.logged import LoggedObjects
            from oci_binpkg.objects.s3 import open_s3

            return LoggedObjects(open_s3(url, s3_settings(endpoint, self._settings)), self._time)
        if parts.scheme not in ("http", "https"):
            from oci_binpkg.objects.fsspec import open_fsspec
            from oci_binpkg.objects.logged import LoggedObjects

            options, once = fsspec_options(parts.scheme, endpoint), self._backoff.retries == 0
            return LoggedObjects(open_fsspec(url, options, once=once), self._time)
        from oci_binpkg.objects.web import HttpObjects

        access = endpoint.access
        if parts.scheme == "http" and not is_loopback(parts.netloc):
            self._warn(f"{url} is read without encryption: what is not signed may have been changed on the way")
            access = Access()  # a login would be readable by everybody on the way
        return HttpObjects(url, self._client(f"{parts.scheme}://{parts.netloc}", access))

    def transport(self, host: str, *, plain: bool) -> TransportSettings:
        """Return how to reach `host[:port]`; `plain` allows http."""
        settings = self._settings
        ca_file = _certificates(settings.ca_file_of(host))
        named = settings.servers.get("docker.io" if host == "registry-1.docker.io" else host, ())
        insecure = {origin.netloc for origin in named if origin.scheme == "http"}
        return TransportSettings(
            timeouts=timeouts(settings.timeout),
            retry=RetryPolicy.of(self._backoff),
            ca_files={host: ca_file} if ca_file else {},
            ca_file=_certificates(settings.ca_file),
            insecure_hosts=frozenset({host, *insecure} if plain else insecure),
            internal_hosts=frozenset(origin.netloc for origin in named),
            proxies=settings.proxies,
            no_proxy=tuple(part.strip() for part in settings.no_proxy.split(",") if part.strip()),
        )

    @property
    def _backoff(self) -> Backoff:
        return configured(self._settings.retries)

    @cached_property
    def _gates(self) -> HostGates:
        return HostGates(GateLimits(), self._time)

    @cached_property
    def _tokens(self) -> TokenCache:
        return TokenCache(self._time)

    @cached_property
    def files(self) -> CredentialFiles:
        """Where docker and podman keep logins."""
        settings = self._settings
        runtime = f"{settings.runtime_dir}/containers/auth.json" if settings.runtime_dir else ""
        podman = (settings.auth_file, runtime, f"{settings.home}/.config/containers/auth.json")
        docker = f"{settings.docker_config}/config.json"
        return CredentialFiles(docker, tuple(path for path in podman if path), settings.auth_file or docker)

    @cached_property
    def keychain(self) -> Keychain:
        """The logins."""
        waiting = patience(self._settings.lock_timeout, self._observer, self._time)
        return Keychain(self.files, explicit=self._credentials, observer=self._observer, patience=waiting)

    def _keychain_with(self, host: str, access: Access) -> Keychain:
        if not access.is_known:
            return self.keychain
        login = access.key_id and access.secret
        credential = Credential(access.key_id, access.secret) if login else Credential(registry_token=access.token)
        return Keychain(self.files, explicit={**self._credentials, host: credential}, observer=self._observer)

    def _client(self, origin: str, access: Access) -> RegistryHttpClient:
        key = (origin, access)
        if key not in self._clients:
            scheme, _, host = origin.partition("://")
            self._clients[key] = RegistryHttpClient(
                origin,
                credentials=self._keychain_with(host, access),
                settings=self.transport(host, plain=scheme == "http"),
                observer=self._observer,
                gates=self._gates,
                tokens=self._tokens,
                time=self._time,
                cancel=self._cancel,
            )
        return self._clients[key]


def timeouts(seconds: float | None) -> Timeouts:
    """Return how long each stage may take, if nobody waits longer than so many seconds (None: as usual).

    What a server does between an upload and its answer keeps its own limit: it copies the whole blob.
    """
    usual = Timeouts()
    if seconds is None:
        return usual
    return replace(
        usual,
        connect=min(usual.connect, seconds),
        idle=seconds,
        token=min(usual.token, seconds),
        slow_window=min(usual.slow_window, seconds),
    )


def fsspec_options(scheme: str, endpoint: CacheEndpoint) -> dict[str, str]:
    """Return the options of fsspec for a scheme: a login if the cache names one, else the storage's own tools decide.

    Raises `UsageError` for a login that this scheme has no place for.
    """
    access = endpoint.access
    found = {"endpoint_url": endpoint.endpoint_url} if endpoint.endpoint_url else {}
    if not access.is_known:
        return found
    names = _LOGINS.get(scheme)
    if names is None or not (access.key_id and access.secret):
        raise UsageError(
            f"{scheme}:// takes no such login from the configuration",
            hint="leave it out: the storage's own tools and variables decide",
        )
    return found | dict(zip(names, (access.key_id, access.secret), strict=True))


def s3_settings(endpoint: CacheEndpoint, settings: Settings | None = None) -> S3Settings:
    """Return how to reach a bucket: as configured for the cache, what is left out as the AWS tools have it."""
    from oci_binpkg.objects.s3 import S3Settings

    settings = settings or Settings()
    limits = timeouts(settings.timeout)
    backoff = configured(settings.retries)
    access = endpoint.access
    key_id, secret = (access.key_id, access.secret) if access.key_id and access.secret else ("", "")
    return S3Settings(
        endpoint_url=endpoint.endpoint_url,
        profile=endpoint.profile,
        key=key_id,
        secret=secret,
        token=access.token,
        connect_timeout=limits.connect,
        read_timeout=limits.idle,
        retries=backoff.retries,
        body_retries=backoff.body_retries,
        ca_file=_certificates(settings.ca_file),
    )


def _certificates(path: str) -> str:
    """Return where certificates are: a file or folder. Raises `UsageError` for what OpenSSL would never have read."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return path  # a missing file is reported by its name when it is used
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise UsageError(
            f"{path}: is {kind_of(mode)}, not a file with certificates",
            hint="ca_file, OCI_BINPKG_CA_FILE, REQUESTS_CA_BUNDLE or SSL_CERT_FILE names it",
        )
    return path
