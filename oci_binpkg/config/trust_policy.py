"""Which caches have to be signed, and by whose keys: the section `[trust]` of our configuration file.

[trust]
    default = "require-signature"         # for every cache; or by kind:
    #default = { registry = "accept-unsigned", layout = "accept-unsigned", mirror = "require-signature" }
    keys = ["4736BEAE..."]                # only these keys count, where a scope does not name its own

[trust.scopes."registry.example/lab"] # a host, or a host and the beginning of a repository's name
    rule = "require-signature"
    keys = ["4736BEAE..."]                # only these keys count there, and they count only where they are named
    [trust.scopes."file:///srv/mirror"]   # the beginning of an address; oci-layout:PATH for a layout
    rule = "accept-unsigned"
    [trust.scopes.lab]                    # a cache by its name, however it is written

Of the scopes that a cache is in, the longest decides. What `[trust]` asks for, no flag and no other setting takes back.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from urllib.parse import quote, unquote, urlsplit

from oci_binpkg.cache.open import LAYOUT, REGISTRY, Location, parse_location
from oci_binpkg.config.caches import CacheSettings
from oci_binpkg.config.tables import check_table
from oci_binpkg.errors import Hint, Step, UsageError
from oci_binpkg.model.reference import DOCKER_HUB, check_host, is_loopback, parse_repository

Kind = Literal["registry", "layout", "mirror"]
KINDS: Final[tuple[Kind, ...]] = ("registry", "layout", "mirror")
REQUIRE: Final = "require-signature"
ACCEPT: Final = "accept-unsigned"
USUAL: Final[Mapping[str, bool]] = {"registry": False, "layout": False, "mirror": True}
"""The default rules: Spack signs mirrors, and nothing else."""

_RULES: Final = (REQUIRE, ACCEPT)
_PORTS: Final = {"https": ":443", "http": ":80"}
_ALIASES: Final = {"gcs": "gs", "ssh": "sftp", "az": "abfs", "abfss": "abfs", "arrow_hdfs": "hdfs"}
"""Schemes that lead to the same storage under another name."""
_LOGINS: Final = frozenset({"sftp", "ftp", "smb"})
"""Where the name before the @ is that of a user; the files are the same for all of them."""
_HUBS: Final = frozenset({DOCKER_HUB, "index.docker.io", "registry-1.docker.io"})
_FINGERPRINT: Final = re.compile(r"(?:[0-9A-F]{40}|[0-9A-F]{64})", re.ASCII)
_WRITE: Final = (
    "write HOST, HOST/REPOSITORY, oci-layout:PATH, the beginning of a mirror's URL, or the name of a configured cache"
)

Address = tuple[str, ...]
"""Where a cache is, from the outside in, with one spelling for each place: `("registry", "host:5000", "team")`."""


@dataclass(frozen=True, slots=True)
class Scope:
    """The rule for the caches below an address; with `whole`, for the cache at this address alone.

    `require` and `keys` are None if they are not configured; `where` names file and key.
    """

    address: Address
    require: bool
    keys: frozenset[str] | None
    where: str
    whole: bool = False

    def holds(self, address: Address) -> bool:
        """Return whether a cache at `address` is in this scope."""
        return address == self.address if self.whole else address[: len(self.address)] == self.address


@dataclass(frozen=True, slots=True)
class Rule:
    """The rule for one cache. `keys` are the only ones that count; None: all but those of scopes.

    `explicit`: it is configured, not the default. `firm`: `[trust]` requires signatures, and no flag takes that back.
    `where` names file and key.
    """

    require: bool
    keys: frozenset[str] | None = None
    explicit: bool = False
    firm: bool = False
    where: str = ""


@dataclass(frozen=True, slots=True)
class TrustPolicy:
    """The section `[trust]`, read. `defaults` has the kinds that it configures."""

    defaults: Mapping[str, bool] = field(default_factory=dict)
    keys: frozenset[str] | None = None
    scopes: tuple[Scope, ...] = ()
    path: str = ""

    @property
    def reserved(self) -> frozenset[str]:
        """The keys that count only where they are named."""
        named = frozenset().union(*(scope.keys for scope in self.scopes if scope.keys is not None))
        return named - (self.keys or frozenset())

    def rule(self, location: Location, name: str = "", caches: Mapping[str, CacheSettings] | None = None) -> Rule:
        """Return what is required of the cache at a location, opened by `name` or ("") by its address.

        `caches` are the configured ones: their entries in our own file hold for the address, too.
        """
        address = address_of(location)
        scope = self._decisive(address)
        said = _said(address, name, caches or {}, self.path)
        kind = kind_of(location)
        keys = scope.keys if scope and scope.keys is not None else self.keys
        asked = scope.require if scope is not None else self.defaults.get(kind)
        where = scope.where if scope is not None else f"{self.path}: trust.default"
        if asked:
            return Rule(require=True, keys=keys, explicit=True, firm=True, where=where)
        if said and said[0]:
            return Rule(require=True, keys=keys, explicit=True, where=said[1])
        if asked is not None:
            return Rule(require=False, keys=keys, explicit=True, where=where)
        if said:
            return Rule(require=False, keys=keys, explicit=True, where=said[1])
        return Rule(USUAL[kind], keys)

    def _decisive(self, address: Address) -> Scope | None:
        """Return the longest scope that an address is in; of equal ones, the strictest rule."""
        found = [scope for scope in self.scopes if scope.holds(address)]
        if not found:
            return None
        longest = max((len(scope.address), scope.whole) for scope in found)
        first, *others = (scope for scope in found if (len(scope.address), scope.whole) == longest)
        for other in others:
            both = [keys for keys in (first.keys, other.keys) if keys is not None]
            keys = frozenset.intersection(*both) if both else None
            strict = first if first.require else other
            first = Scope(first.address, strict.require, keys, strict.where, first.whole)
        return first


def parse_trust(document: Mapping[str, Any], path: str, caches: Mapping[str, CacheSettings]) -> TrustPolicy:
    """Read the section `[trust]`. Raises `UsageError` naming file, key, and what is allowed."""
    table = document.get("trust", {})
    check_table(table, {"default": (str, dict), "keys": (list,), "scopes": (dict,)}, path, "trust.")
    scopes: list[Scope] = []
    for text, entry in table.get("scopes", {}).items():
        where = f"{path}: trust.scopes.{text!r}"
        if not isinstance(entry, dict):
            raise UsageError(f"{where} must be a table", hint="keys: rule, keys")
        check_table(entry, {"rule": (str,), "keys": (list,)}, path, f"trust.scopes.{text!r}.")
        if not entry:
            raise UsageError(f"{where} says nothing", hint="set rule, keys, or both")
        require = _rule(entry.get("rule", REQUIRE), f"{where}.rule")
        keys = _keys(entry["keys"], f"{where}.keys") if "keys" in entry else None
        scopes += _scopes(text, Scope((), require, keys, where), caches)
    top = _keys(table["keys"], f"{path}: trust.keys") if "keys" in table else None
    return TrustPolicy(_defaults(table.get("default", {}), path), top, tuple(scopes), path)


def kind_of(location: Location) -> Kind:
    """Return what kind of cache is at a location."""
    if location.url:
        return "mirror"
    return "registry" if location.repository is not None else "layout"


def address_of(location: Location) -> Address:
    """Return the one spelling of where a cache is: hosts in lower case, links followed, no escapes, no usual ports."""
    if location.url:
        return _mirror(location.url)
    if location.repository is None:
        return ("layout", *_folders(location.path))
    host = _host(location.repository.host, location.repository.scheme)
    name = location.repository.name
    if host == DOCKER_HUB and "/" not in name:
        name = f"library/{name}"
    return ("registry", host, *name.split("/"))


def place_name(location: Location) -> str:
    """Return how signatures name a place, in its one spelling and without a login; "" for a path on this machine."""
    kind, *parts = address_of(location)
    if kind in ("layout", "file"):
        return ""
    scheme = {"registry": "oci", "web": "https"}.get(kind, kind)
    host, *rest = parts
    return "/".join((f"{scheme}://{host.rpartition('@')[2]}", *(quote(part) for part in rest)))


def _mirror(url: str) -> Address:
    parts = urlsplit(url)
    scheme = _ALIASES.get(parts.scheme, parts.scheme)
    if scheme == "file":
        return ("file", *_folders(unquote(parts.path)))
    path = (part for part in unquote(parts.path).split("/") if part not in ("", "."))
    if scheme in _PORTS:
        # the same files, encrypted on the way or not
        return ("web", _host(parts.netloc, scheme), *_without_dots(path))
    place = parts.netloc.rpartition("@")[2].lower() if scheme in _LOGINS else parts.netloc
    return (scheme, place, *path)


def _without_dots(parts: Iterable[str]) -> list[str]:
    kept: list[str] = []
    for part in parts:
        if part != "..":
            kept.append(part)
        elif kept:
            kept.pop()
    return kept


def _folders(path: str) -> list[str]:
    return [part for part in os.path.realpath(path).split("/") if part]


def _host(text: str, scheme: str) -> str:
    host = text.lower().removesuffix(_PORTS.get(scheme, ":443"))
    name, colon, port = host.rpartition(":") if re.search(r":[0-9]+$", host) else (host, "", "")
    name = name.rstrip(".")
    if name in _HUBS:
        return DOCKER_HUB
    return ("localhost" if is_loopback(name) else name) + colon + port


def _scopes(text: str, said: Scope, caches: Mapping[str, CacheSettings]) -> list[Scope]:
    """Return the scopes that a text in the file means: an address, and those of the cache with this name."""
    found = []
    if text in caches:
        addresses = _addresses(caches[text])
        found += [Scope(each, said.require, said.keys, said.where, whole=True) for each in sorted(addresses)]
    looks_like_host = "/" in text or ":" in text or "." in text or text == "localhost"
    if looks_like_host or not found:
        try:
            found.append(Scope(_scope_address(text), said.require, said.keys, said.where))
        except UsageError as error:
            if not found:
                raise error.within(said.where, hint=error.hint or _WRITE) from error
    return found


def _scope_address(text: str) -> Address:
    scheme = next((prefix for prefix in REGISTRY if text.startswith(prefix)), "")
    if not scheme and (text.startswith(LAYOUT) or "://" in text):
        if text.rstrip("/") in ("file:", "file:/"):
            return ("file",)
        location = parse_location(text)
        if text.startswith(LAYOUT) and not text.removeprefix(LAYOUT).startswith(("/", "~")):
            raise UsageError("a relative path is another place in each folder", hint="write the whole path")
        if location.reference:
            raise UsageError("a scope names caches, not an image", hint="leave out what follows the last colon")
        return address_of(location)
    host, slash, name = text.removeprefix(scheme).rstrip("/").partition("/")
    if not scheme and not ("." in host or ":" in host or host == "localhost"):
        raise UsageError(f"no cache is named {text[:200]!r}, and it is no address", hint=_WRITE)
    protocol = REGISTRY.get(scheme, "https")
    if slash:
        return address_of(Location(text, parse_repository(f"{host}/{name}", scheme=protocol)))
    return ("registry", _host(check_host(host), protocol))


def _addresses(cache: CacheSettings) -> set[Address]:
    found = set()
    for url in (cache.fetch_url, cache.push_url):
        try:
            found.add(address_of(parse_location(url)))
        except UsageError:
            continue  # it cannot be opened either, which is reported then
    return found


def _said(address: Address, name: str, caches: Mapping[str, CacheSettings], path: str) -> tuple[bool, str] | None:
    """Return `signed` of a configured cache, and where it stands; the strictest of several.

    That a cache is signed holds by every name and by its address, if it stands in our own file; that it is not, only by
    the name that says so. Entries of Spack's files speak for their names alone: an environment's may be a stranger's.
    """
    found = []
    for cache in caches.values():
        if cache.signed is None:
            continue
        if cache.name == name or (cache.signed and cache.origin_file == path and address in _addresses(cache)):
            found.append((cache.signed, f"{cache.origin_file}: caches.{cache.name}.signed"))
    return max(found, key=lambda each: each[0], default=None)


def _defaults(said: str | Mapping[str, Any], path: str) -> dict[str, bool]:
    if isinstance(said, str):
        return dict.fromkeys(KINDS, _rule(said, f"{path}: trust.default"))
    check_table(said, dict.fromkeys(KINDS, (str,)), path, "trust.default.")
    return {kind: _rule(word, f"{path}: trust.default.{kind}") for kind, word in said.items()}


def _rule(word: str, what: str) -> bool:
    if word not in _RULES:
        raise UsageError(f"{what}: {word[:100]!r} is not a rule", hint=f"allowed: {', '.join(_RULES)}")
    return word == REQUIRE


def _keys(listed: Iterable[object], what: str) -> frozenset[str]:
    found = set()
    for each in listed:
        text = re.sub(r"[ :]", "", each).upper().removeprefix("0X") if isinstance(each, str) else ""
        if not _FINGERPRINT.fullmatch(text):
            raise UsageError(
                f"{what}: {str(each)[:100]!r} is not a fingerprint",
                hint=Hint(Step.LIST_KEYS),
            )
        found.add(text)
    if not found:
        raise UsageError(f"{what} is empty", hint="name at least one fingerprint, or leave the key out")
    return frozenset(found)
