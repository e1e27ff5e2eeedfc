"""Registry logins: where they are looked up, in which order, and where `login` and `logout` put them.

Order: logins given explicitly, docker's `config.json`, podman's `auth.json` files. In each file the most specific key
wins (podman knows `HOST/NAMESPACE`), hosts and ports match exactly, and a broken entry concerns its own host alone.

Passwords may be kept by programs: `docker-credential-NAME get|store|erase`. Source: the credential helper protocol of
docker-credential-helpers: the server address on stdin, JSON on stdout.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Protocol

from oci_binpkg.disk import (
    FileTooLargeError,
    NotRegularError,
    disk_refusal,
    make_folder,
    open_file,
    read_descriptor,
    replace_file,
)
from oci_binpkg.errors import AuthError, LocalDiskError, UsageError
from oci_binpkg.events import Observer, Warned, ignore
from oci_binpkg.file_lock import Patience, locked
from oci_binpkg.model.reference import DOCKER_HUB, check_host

_MAX_FILE: Final = 16 * 1024 * 1024
_SECRET_MODE: Final = 0o600
_ELSEWHERE: Final = "remove it; DOCKER_CONFIG and REGISTRY_AUTH_FILE name other places"


@dataclass(frozen=True, slots=True)
class AuthFile:
    """A docker `config.json` or podman `auth.json`: path and JSON object as found; an absent file has no members.

    `exposed` is true when other users of the machine may read the file, `changeable` when they may write it.
    """

    path: str
    document: Mapping[str, Any] = field(default_factory=dict)
    exposed: bool = False
    changeable: bool = False

    def table(self, member: str) -> Mapping[str, Any]:
        """Return an object member (`auths`, `credHelpers`), empty when absent or not an object."""
        value = self.document.get(member)
        return value if isinstance(value, dict) else {}

    @property
    def store(self) -> str:
        """The name of the helper that keeps all logins, or ""."""
        value = self.document.get("credsStore")
        return value if isinstance(value, str) else ""


def read_auth_file(path: str) -> AuthFile:
    """Read the file. Raises `LocalDiskError` naming it when it cannot be read or is not a JSON object."""
    try:
        with open_file(path) as stream:
            mode = os.fstat(stream.fileno()).st_mode
            data = read_descriptor(stream.fileno(), _MAX_FILE, path)
    except FileNotFoundError:
        return AuthFile(path)
    except (NotRegularError, FileTooLargeError) as error:
        raise disk_refusal(f"{path}", error, hint=_ELSEWHERE) from error
    except OSError as error:
        raise disk_refusal(f"{path}", error) from error
    try:
        document = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        raise LocalDiskError(
            f"{path} is not valid JSON", hint="repair or remove it; docker and podman read it too"
        ) from None
    if not isinstance(document, dict):
        raise LocalDiskError(f"{path} does not hold a JSON object")
    return AuthFile(
        path, document, bool(mode & (stat.S_IRGRP | stat.S_IROTH)), bool(mode & (stat.S_IWGRP | stat.S_IWOTH))
    )


def change_auth_file(path: str, change: Callable[[dict[str, Any]], None], patience: Patience | None = None) -> None:
    """Apply `change` to the document and put it back, mode 0600, everything else kept.

    Writers exclude one another through a lock file beside it; readers see the old or the new file, never half of one.
    Raises `LocalDiskError`, also when the present content is not JSON: what cannot be understood is not overwritten.
    """
    target = os.path.realpath(path)
    try:
        make_folder(os.path.dirname(target), 0o700)
        with locked(f"{target}.lock", patience, mode=_SECRET_MODE):
            document = dict(read_auth_file(target).document)
            change(document)
            replace_file(target, _encoded(document), mode=_SECRET_MODE)
    except NotRegularError as error:
        raise disk_refusal(f"{error.filename}", error, hint=_ELSEWHERE) from error
    except OSError as error:
        raise disk_refusal(f"{path} cannot be written", error) from error


def _encoded(document: dict[str, Any]) -> bytes:
    try:
        return json.dumps(document, indent="\t", ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # half surrogates in somebody else's entry, which only escapes can express
        return json.dumps(document, indent="\t").encode() + b"\n"


_NAME: Final = re.compile(r"[A-Za-z0-9_.-]+", re.ASCII)
_ABSENT: Final = "credentials not found"
_MAX_ANSWER: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class CredentialHelper:
    """One helper program. `path` is a search path for it, "" the process's own; `timeout` in seconds.

    `configured_by` says which file and key name it, for errors. Every method raises `AuthError` when the program has
    a name that no helper has, is missing, fails, hangs, or answers junk; what it printed is never shown, it may be a
    secret.
    """

    name: str
    configured_by: str
    path: str = ""
    timeout: float = 30.0

    def get(self, server: str) -> tuple[str, str] | None:
        """Return user name and secret for `server`, or None if the helper has none."""
        status, answer = self._run("get", server.encode())
        if status != 0:
            if _ABSENT in answer.decode("utf-8", "replace").lower():
                return None
            raise self._broken(f"ended with status {status}")
        try:
            document = json.loads(answer)
        except (ValueError, RecursionError):
            raise self._broken("did not answer with JSON") from None
        if not isinstance(document, dict):
            raise self._broken("did not answer with a JSON object")
        username, secret = document.get("Username"), document.get("Secret")
        if not isinstance(username, str) or not isinstance(secret, str):
            raise self._broken("answered without Username and Secret")
        return (username, secret) if secret else None

    def store(self, server: str, username: str, secret: str) -> None:
        """Keep a secret for `server`."""
        document = {"ServerURL": server, "Username": username, "Secret": secret}
        status, _ = self._run("store", json.dumps(document).encode())
        if status != 0:
            raise self._broken(f"could not store (status {status})")

    def erase(self, server: str) -> None:
        """Forget the secret for `server`, if there is one."""
        status, answer = self._run("erase", server.encode())
        if status != 0 and _ABSENT not in answer.decode("utf-8", "replace").lower():
            raise self._broken(f"could not erase (status {status})")

    def _run(self, action: str, data: bytes) -> tuple[int, bytes]:
        if not _NAME.fullmatch(self.name):
            raise self._broken("has a name that no credential helper has")
        program = shutil.which(f"docker-credential-{self.name}", path=self.path or None)
        if program is None:
            raise self._broken("is not installed")
        try:
            done = subprocess.run([program, action], input=data, capture_output=True, timeout=self.timeout, check=False)
        except subprocess.TimeoutExpired:
            raise self._broken(f"did not answer within {self.timeout:g} s") from None
        except OSError as error:
            raise self._broken(f"could not be started: {error.strerror}") from None
        answer = done.stdout if done.returncode == 0 else done.stdout + done.stderr
        return done.returncode, answer[:_MAX_ANSWER]

    def _broken(self, what: str) -> AuthError:
        return AuthError(
            f"credential helper docker-credential-{self.name[:60]!r} {what}",
            hint=f"it is configured in {self.configured_by}; repair or remove that entry",
        )


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
