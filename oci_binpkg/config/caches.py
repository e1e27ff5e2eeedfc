"""Caches by name: where each is read and written, whether it is signed, and how to log in there.

In our configuration file a name is a table:

    [caches.lab]
    url = "s3://bucket/apps"              # or fetch and push, where they differ
    push = "s3://bucket/incoming"
    signed = false                        # nothing is checked, and what is written is signed only if a key is given
    signed_index = true                   # its index must be signed, too, and is written only if a key is given
    insecure = true                       # its address may be http://
    origins = ["oci://lab.example/apps"]  # places that it is a copy of: what was signed for them counts here
    view = "stable"                       # the part of a mirror whose index is used
    endpoint_url = "https://s3.lab.example"
    profile = "lab"
    access_key_id_variable = "LAB_ID"     # names of environment variables: secrets themselves are never in the file
    access_key_secret_variable = "LAB_SECRET"
    access_token_variable = "LAB_TOKEN"
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypedDict
from urllib.parse import urlsplit

from oci_binpkg.config.tables import Kinds, tables
from oci_binpkg.errors import Hint, Step, UsageError
from oci_binpkg.model.reference import check_view, is_loopback

KEYS: Final[Mapping[str, Kinds]] = {
    "url": (str,),
    "fetch": (str,),
    "push": (str,),
    "signed": (bool,),
    "signed_index": (bool,),
    "insecure": (bool,),
    "origins": (list,),
    "view": (str,),
    "endpoint_url": (str,),
    "profile": (str,),
    "access_key_id_variable": (str,),
    "access_key_secret_variable": (str,),
    "access_token_variable": (str,),
}


class CacheKeys(TypedDict, total=False):
    """The keys of `[caches.NAME]` as keyword arguments; see the module's text. None leaves a key out, or as it is."""

    url: str | None
    fetch: str | None
    push: str | None
    signed: bool | None
    signed_index: bool | None
    insecure: bool | None
    origins: Sequence[str] | None
    view: str | None
    endpoint_url: str | None
    profile: str | None
    access_key_id_variable: str | None
    access_key_secret_variable: str | None
    access_token_variable: str | None


_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_USERS: Final = frozenset({"sftp", "ssh", "ftp", "smb", "abfs", "abfss"})
"""Schemes whose part before the @ names an account or container, which is not secret."""
_RESERVED: Final = "oci-layout"
_LOGIN: Final = "use access_key_id_variable and its like"


@dataclass(frozen=True, slots=True)
class Access:
    """A login. `unset` are the variables that should hold it and that the environment lacks."""

    key_id: str = field(default="", repr=False)
    secret: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    unset: tuple[str, ...] = ()

    @property
    def is_known(self) -> bool:
        """Whether there is anything to log in with: an id with its secret, or a token."""
        return bool((self.key_id and self.secret) or self.token)


@dataclass(frozen=True, slots=True)
class CacheEndpoint:
    """One direction of a cache: its address and login. The usual defaults stand for "".

    An address from Spack's file may hold a login, and is refused when it is used: no traceback shows it before.
    """

    url: str = field(default="", repr=False)
    view: str = ""
    endpoint_url: str = field(default="", repr=False)
    profile: str = ""
    access: Access = field(default_factory=Access)


ANYWHERE: Final = CacheEndpoint()
"""Nothing in particular is configured."""


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """A cache by name. `signed` is None if it is not configured; `origin_file` is the file that it comes from.

    `signed_index`: its index counts only if it is signed. `merged_files` are those whose entries of this name the
    file's own was merged into. Signatures for the `origins` count here, and for no other place but its own addresses.
    """

    name: str
    fetch: CacheEndpoint
    push: CacheEndpoint
    signed: bool | None = None
    origin_file: str = ""
    signed_index: bool = False
    merged_files: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()

    @property
    def fetch_url(self) -> str:
        """Where it is read."""
        return self.fetch.url

    @property
    def push_url(self) -> str:
        """Where it is written."""
        return self.push.url

    def endpoint(self, *, writing: bool) -> CacheEndpoint:
        """Return where to read or write. Raises `UsageError` if that is not configured.

        Also if a variable of the login is unset and the cache is to be written; many caches are read without a login.
        """
        found = self.push if writing else self.fetch
        purpose, key = ("write to", "push") if writing else ("read from", "fetch")
        if not found.url:
            raise UsageError(
                f"{self.origin_file}: the cache {self.name} has no address to {purpose}", hint=f"set url or {key}"
            )
        if writing and found.access.unset:
            raise UsageError(self.unset_text(found), hint=f"set them, or change {self.origin_file}")
        return found

    def unset_text(self, endpoint: CacheEndpoint) -> str:
        """Return what is wrong if variables of the login are not set."""
        names = ", ".join(endpoint.access.unset)
        return f"the login of the cache {self.name} comes from variables that are not set: {names}"


@dataclass(frozen=True, slots=True)
class SpackPlaces:
    """What Spack's paths refer to: the home directory, Spack's own prefix ("" if unknown), and the environment."""

    home: str
    spack_root: str
    environment: Mapping[str, str]

    @property
    def environment_file(self) -> str:
        """The file of the active environment, "" without one."""
        active = self.environment.get("SPACK_ENV", "")
        return f"{active}/spack.yaml" if active else ""

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders of Spack's scopes, those that win first; what they include is not among them."""
        root = f"{self.spack_root}/etc/spack" if self.spack_root else ""
        if root and os.path.exists(f"{root}/include.yaml"):
            return root, f"{root}/defaults"  # since Spack 1.1 the file includes the other scopes
        found = [] if self._is_alone else [self._user]
        found += [root] if root else []
        found += [] if self._is_alone else [self.environment.get("SPACK_SYSTEM_CONFIG_PATH") or "/etc/spack"]
        found += [f"{root}/defaults"] if root else []
        return tuple(path for folder in found for path in (f"{folder}/linux", folder))

    def files_of(self, section: str) -> tuple[str, ...]:
        """Return the files that are looked at first for `mirrors`, ...; without any of them nothing is read."""
        names = [f"{folder}/{name}" for folder in self.folders for name in (f"{section}.yaml", "include.yaml")]
        return tuple(name for name in (self.environment_file, *names) if name)

    @property
    def _is_alone(self) -> bool:
        # the variable counts by being there, whatever its value
        return "SPACK_DISABLE_LOCAL_CONFIG" in self.environment

    @property
    def _user(self) -> str:
        named = self.environment.get("SPACK_USER_CONFIG_PATH")
        usual = f"{self.home}/.spack"
        newer = f"{self.home}/.config/spack"
        return named or (newer if os.path.isdir(newer) and not os.path.isdir(usual) else usual)


@dataclass(frozen=True, slots=True)
class SpackMirrors:
    """Spack's mirrors for binaries by name, and the parts of its configuration that were not read."""

    caches: Mapping[str, CacheSettings]
    remarks: Sequence[str] = ()


def parse_caches(
    document: Mapping[str, Any], path: str, environment: Mapping[str, str] | None = None
) -> dict[str, CacheSettings]:
    """Return the caches of a configuration file by name. Raises `UsageError` naming file and key."""
    env = environment or {}
    found = {}
    for name, table in tables(document, "caches", KEYS, path).items():
        check_name(name, path)
        _check_variables(table, f"{path}: caches.{name}")
        for key in ("url", "fetch", "push", "endpoint_url"):
            if has_login(table.get(key, "")):
                raise UsageError(f"{path}: caches.{name}.{key}: an address holds no login", hint=_LOGIN)
            if key != "endpoint_url" and not table.get("insecure"):
                _check_plain(table.get(key, ""), f"{path}: caches.{name}.{key}")
        if not any(table.get(key) for key in ("url", "fetch", "push")):
            raise UsageError(f"{path}: caches.{name} has no url", hint="set url, or fetch and push")
        _check_endpoint(table.get("endpoint_url", ""), f"{path}: caches.{name}.endpoint_url")
        _check_view(table.get("view", ""), f"{path}: caches.{name}.view")
        found[name] = CacheSettings(
            name,
            _endpoint(table, "fetch", env),
            _endpoint(table, "push", env),
            table.get("signed"),
            path,
            table.get("signed_index", False),
            origins=_origins(table.get("origins", []), f"{path}: caches.{name}.origins"),
        )
    return found


def _origins(values: Sequence[object], what: str) -> tuple[str, ...]:
    found = tuple(value for value in values if isinstance(value, str) and "://" in value)
    if len(found) != len(values):
        raise UsageError(f"{what}: a list of addresses is expected", hint='as ["oci://registry.example/apps"]')
    return found


def check_name(name: str, path: str) -> None:
    """Check the name of a cache: it must not look like an address. Raises `UsageError`."""
    if not _NAME.fullmatch(name) or name == _RESERVED:
        raise UsageError(f"{path}: {name[:200]!r} cannot be the name of a cache", hint="letters, digits and _ . - only")


def from_variables(env: Mapping[str, str], key_id: str, secret: str, token: str) -> Access:
    """Read a login from variables; "" is no variable."""
    named = (key_id, secret, token)
    values = [env.get(name, "") if name else "" for name in named]
    return Access(values[0], values[1], values[2], tuple(name for name in named if name and not env.get(name)))


def has_login(url: str) -> bool:
    """Return whether a URL has a password in it, or a user name where that is not part of the address."""
    scheme, separator, rest = url.partition("://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0] if separator else ""
    user, at, _ = authority.rpartition("@")
    return bool(at) and (scheme not in _USERS or ":" in user)


def shown(url: str) -> str:
    """Return a URL as it may be shown: without what stands before the host."""
    if not has_login(url):
        return url
    scheme, _, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}://***@{authority.rpartition('@')[2]}{slash}{path}"


def _endpoint(table: Mapping[str, Any], direction: str, env: Mapping[str, str]) -> CacheEndpoint:
    return CacheEndpoint(
        table.get(direction) or table.get("url", ""),
        table.get("view", ""),
        table.get("endpoint_url", ""),
        table.get("profile", ""),
        from_variables(
            env,
            table.get("access_key_id_variable", ""),
            table.get("access_key_secret_variable", ""),
            table.get("access_token_variable", ""),
        ),
    )


def _check_variables(table: Mapping[str, Any], where: str) -> None:
    for key in KEYS:
        if key.endswith("_variable") and key in table:
            check_variable(table[key], f"{where}.{key}")
    if ("access_key_id_variable" in table) != ("access_key_secret_variable" in table):
        raise UsageError(f"{where}: access_key_id_variable and access_key_secret_variable go together")


def check_variable(name: str, what: str) -> None:
    """Check the name of a variable. Raises `UsageError` that does not repeat it: it may be the secret itself."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise UsageError(
            f"{what} is not the name of an environment variable",
            hint="the variable holds the secret, the file only its name",
        )


def _check_plain(url: str, what: str) -> None:
    """Refuse plain http to another machine: everybody on the way could read and change packages and logins."""
    scheme, _, rest = url.partition("://")
    host = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if scheme.lower() == "http" and not is_loopback(host):
        raise UsageError(
            f"{what}: plain http, which anybody on the way can read and change",
            hint=Hint(Step.ALLOW_PLAIN_HTTP),
        )


def _check_view(view: str, what: str) -> None:
    try:
        if view:
            check_view(view)
    except UsageError as error:
        raise error.within(what) from error


def _check_endpoint(url: str, what: str) -> None:
    if not url:
        return
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        parts = None
    if parts is None or parts.scheme not in ("http", "https") or not parts.netloc:
        raise UsageError(f"{what} must be a URL", hint="as https://s3.example")
