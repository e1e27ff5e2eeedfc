"""Registry logins: where they are looked up, in which order, and where `login` and `logout` put them.

Order: logins given explicitly, docker's `config.json`, podman's `auth.json` files. In each file the most specific key
wins (podman knows `HOST/NAMESPACE`), hosts and ports match exactly, and a broken entry concerns its own host alone.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Protocol

from oci_binpkg.errors import AuthError, LocalDiskError, UsageError
from oci_binpkg.events import Observer, Warned, ignore
from oci_binpkg.file_lock import Patience
from oci_binpkg.model.reference import DOCKER_HUB, check_host
from oci_binpkg.transport.credential_file import AuthFile, change_auth_file, read_auth_file
from oci_binpkg.transport.credential_helper import CredentialHelper

_HUB_ALIASES: Final = frozenset({DOCKER_HUB, "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"})
_HUB_KEY: Final = "https://index.docker.io/v1/"
_TOKEN_USER: Final = "<token>"  # noqa: S105 - the user name by which helpers mark an identity token
_HEADER_TEXT: Final = re.compile(r"[!-~]*")
_API_PATHS: Final = frozenset({"v1", "v2"})


@dataclass(frozen=True, slots=True)
class Credential:
    """A login: user name and password, or an identity token (traded for access tokens), or a ready registry token."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)

    @classmethod
    def of_login(cls, username: str, secret: str) -> Credential:
        """Interpret a user name and secret as helpers give them: the user `<token>` means an identity token."""
        if username == _TOKEN_USER:
            return cls(identity_token=secret)
        return cls(username, secret)

    @property
    def identity(self) -> str:
        """A name for this login that gives nothing away: tokens are cached by it."""
        parts = [self.username, self.password, self.identity_token, self.registry_token]
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    @property
    def basic(self) -> str:
        """The value of a Basic `Authorization` header, or "" when there is no password."""
        if not self.username or not self.password:
            return ""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must never be shown."""
        encoded = self.basic.removeprefix("Basic ")
        return tuple(part for part in (self.password, self.identity_token, self.registry_token, encoded) if part)


class CredentialSource(Protocol):
    """Where a client gets its login from."""

    def find(self, host: str, repository: str = "") -> Credential | None:
        """Return the login for a repository on `host[:port]`, or None. Raises `AuthError` if its entry is broken."""
        ...


@dataclass(frozen=True, slots=True)
class FixedCredential:
    """The same login for every host it is asked about; None for anonymous."""

    credential: Credential | None = None

    def find(self, host: str, repository: str = "") -> Credential | None:  # noqa: ARG002 - the protocol's signature
        """Return the login."""
        return self.credential


@dataclass(frozen=True, slots=True)
class CredentialFiles:
    """Where docker and podman keep logins: paths, "" for none. `write_to` is what `login` changes, by default docker's.

    `helper_path` is the search path for helper programs, "" the process's own; `helper_timeout` in seconds.
    """

    docker_config: str = ""
    podman_auth: tuple[str, ...] = ()
    write_to: str = ""
    helper_path: str = ""
    helper_timeout: float = 30.0

    @property
    def readable(self) -> tuple[str, ...]:
        """The files in the order they are read."""
        return tuple(dict.fromkeys(path for path in (self.docker_config, *self.podman_auth) if path))

    @property
    def writable(self) -> str:
        """The file that is written."""
        return self.write_to or self.docker_config


def normalise_key(key: str) -> str:
    """Return `host[:port][/namespace]` for a key of an auth file: no scheme, API path or `:443`; one name for Hub."""
    scheme, separator, rest = key.strip().rpartition("://")
    host, _, path = rest.partition("/")
    path = path.strip("/")
    if (separator and scheme) or path in _API_PATHS:
        path = ""
    host = host.lower().removesuffix(":443")
    host = DOCKER_HUB if host in _HUB_ALIASES else host
    return f"{host}/{path}" if path else host


def _candidates(host: str, repository: str) -> Iterator[str]:
    base = normalise_key(host)
    parts = repository.split("/") if repository else []
    for count in range(len(parts), -1, -1):
        yield "/".join((base, *parts[:count]))


class Keychain:
    """Finds, stores and erases logins. Files are read at every call: another program may have logged in meanwhile."""

    def __init__(
        self,
        files: CredentialFiles,
        *,
        explicit: Mapping[str, Credential] = MappingProxyType({}),
        observer: Observer = ignore,
        patience: Patience | None = None,
    ) -> None:
        self._files = files
        self._explicit = {normalise_key(key): credential for key, credential in explicit.items()}
        self._observer = observer
        self._patience = patience
        self._warned: set[str] = set()

    def find(self, host: str, repository: str = "") -> Credential | None:
        """Return the login for a repository on `host[:port]`, or None.

        Raises `AuthError` naming file and key when the entry for this host is broken. A file that cannot be read at
        all is passed over with a warning.
        """
        candidates = tuple(_candidates(host, repository))
        for candidate in candidates:
            if candidate in self._explicit:
                return self._explicit[candidate]
        for path in self._files.readable:
            found = self._find_in(path, candidates)
            if found is not None:
                return found
        return None

    def _find_in(self, path: str, candidates: tuple[str, ...]) -> Credential | None:
        try:
            file = read_auth_file(path)
        except LocalDiskError as error:
            self._warn(f"no logins are read from there: {error.message}")
            return None
        if file.exposed and file.table("auths"):
            self._warn(f"{path} holds registry logins and other users may read it: chmod 600 it")
        if file.changeable:
            self._warn(f"{path} says which programs keep logins and other users may change it: chmod 600 it")
        for candidate in candidates:
            found = self._from_helper(file, candidate) or _from_auths(file, candidate)
            if found is not None:
                return found
        return self._from_store(file, candidates)

    def _warn(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            self._observer(Warned(text))

    def _from_helper(self, file: AuthFile, candidate: str) -> Credential | None:
        for key, name in file.table("credHelpers").items():
            if normalise_key(key) == candidate:
                login = self._helper(file, name, f"credHelpers[{key!r}]").get(key)
                return Credential.of_login(*login) if login else None
        return None

    def _from_store(self, file: AuthFile, candidates: tuple[str, ...]) -> Credential | None:
        """Ask the helper for everything; its failure matters only to hosts that docker noted as stored there."""
        if not file.store:
            return None
        noted = [key for key in file.table("auths") if normalise_key(key) in candidates]
        server = noted[0] if noted else _server_of(candidates[-1])
        try:
            login = self._helper(file, file.store, "credsStore").get(server)
        except AuthError as error:
            if noted:
                raise
            self._warn(error.message)
            return None
        return Credential.of_login(*login) if login else None

    def _helper(self, file: AuthFile, name: Any, where: str) -> CredentialHelper:
        return CredentialHelper(
            name if isinstance(name, str) else "",
            f"{file.path}: {where}",
            self._files.helper_path,
            self._files.helper_timeout,
        )

    def store(self, host: str, credential: Credential) -> None:
        """Keep a login where docker and podman find it: with the configured helper, else in the file.

        Raises `AuthError` (the helper failed), `LocalDiskError`, `UsageError` (no file to write is known).
        """
        if not _is_text(credential.username + credential.password):
            raise UsageError(f"the login for {host} is not UTF-8", hint="write user name and password as UTF-8")
        key = _server_of(normalise_key(check_host(host)))
        entry = _entry_of(credential)
        helper = self._helper_for_writing(host)
        if helper is not None:
            username = credential.username if credential.password else _TOKEN_USER
            helper.store(key, username, credential.password or credential.identity_token)
            entry = {}
        self._change(lambda auths: _set(auths, key, entry))

    def erase(self, host: str) -> None:
        """Forget the login for `host`. Nothing happens without one. Raises as `store` does."""
        wanted = normalise_key(check_host(host))
        helper = self._helper_for_writing(host)
        if helper is not None:
            helper.erase(_server_of(wanted))
        if any(normalise_key(key) == wanted for key in read_auth_file(self._writable()).table("auths")):
            self._change(lambda auths: _set(auths, wanted, None))

    def _helper_for_writing(self, host: str) -> CredentialHelper | None:
        file = read_auth_file(self._writable())
        for key, name in file.table("credHelpers").items():
            if normalise_key(key) == normalise_key(host):
                return self._helper(file, name, f"credHelpers[{key!r}]")
        return self._helper(file, file.store, "credsStore") if file.store else None

    def _writable(self) -> str:
        if not self._files.writable:
            raise UsageError("there is no file to keep the login in", hint="set DOCKER_CONFIG or REGISTRY_AUTH_FILE")
        return self._files.writable

    def _change(self, change: Callable[[dict[str, Any]], None]) -> None:
        def apply(document: dict[str, Any]) -> None:
            auths = document.get("auths")
            document["auths"] = auths = dict(auths) if isinstance(auths, dict) else {}
            change(auths)

        change_auth_file(self._writable(), apply, self._patience)


def _set(auths: dict[str, Any], key: str, entry: dict[str, str] | None) -> None:
    """Replace whatever stands for the same host by `entry`, or by nothing."""
    for old in [known for known in auths if normalise_key(known) == normalise_key(key)]:
        del auths[old]
    if entry is not None:
        auths[key] = entry


def _server_of(candidate: str) -> str:
    return _HUB_KEY if candidate == DOCKER_HUB else candidate


def _entry_of(credential: Credential) -> dict[str, str]:
    entry = {"auth": base64.b64encode(f"{credential.username}:{credential.password}".encode()).decode()}
    if credential.identity_token:
        entry["identitytoken"] = credential.identity_token
    if credential.registry_token:
        entry["registrytoken"] = credential.registry_token
    return entry


def _from_auths(file: AuthFile, candidate: str) -> Credential | None:
    for key, entry in file.table("auths").items():
        if normalise_key(key) != candidate:
            continue
        credential = _parse_entry(entry, f"{file.path}: auths[{key!r}]")
        if credential is not None:
            return credential
    return None


def _parse_entry(entry: Any, where: str) -> Credential | None:
    """Parse one login; None for the empty entry by which docker notes that a helper keeps it."""
    if not isinstance(entry, dict):
        raise _broken_entry(where, "is not an object")
    names = ("auth", "username", "password", "identitytoken", "registrytoken")
    if not all(isinstance(entry.get(name) or "", str) for name in names):
        raise _broken_entry(where, "holds something that is not text")
    auth, username, password, identity_token, registry_token = (entry.get(name) or "" for name in names)
    if auth:
        username, password = _decode(auth, where)
    if not (_is_text(f"{username}{password}{identity_token}") and _HEADER_TEXT.fullmatch(registry_token)):
        raise _broken_entry(where, "holds characters that no login has")
    if identity_token:
        return Credential(username, "", identity_token)
    if registry_token:
        return Credential(registry_token=registry_token)
    return Credential.of_login(username, password) if username and password else None


def _is_text(text: str) -> bool:
    """Return whether a text can be sent: JSON and command lines may hold half surrogates, which no encoding has."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _decode(auth: str, where: str) -> tuple[str, str]:
    try:
        text = base64.b64decode(auth, validate=True).decode()
    except (binascii.Error, ValueError):
        raise _broken_entry(where, "has an `auth` that is not base64 text") from None
    username, colon, password = text.partition(":")
    if not colon:
        raise _broken_entry(where, "has an `auth` without a colon")
    return username, password.strip("\0")


def _broken_entry(where: str, what: str) -> AuthError:
    return AuthError(f"{where} {what}", hint="log in again, or remove the entry")
