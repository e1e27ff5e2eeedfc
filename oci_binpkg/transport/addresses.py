"""URLs: which server they name, where a registry may send us, and how they are shown to people.

A registry's answers name other addresses (redirect, upload location, next page, token realm). Followed blindly they
make this machine a tool for asking its own network, so every one of them is judged here. No I/O, no name resolution.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from oci_binpkg.model.reference import is_loopback

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_SAFE_KEYS: Final = frozenset({"digest", "mount", "from", "n", "last", "tag", "service", "scope"})
_URL: Final = re.compile(r"https?://[^\s\"'<>]+", re.IGNORECASE)
_AUTHORIZATION: Final = re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_NUMERIC_HOST: Final = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)(?:\.(?:0x[0-9a-f]*|[0-9]+)){0,3}", re.ASCII | re.IGNORECASE)
_SHORTEST_SECRET: Final = 3
MAX_SHOWN: Final = 300
_VISIBLE: Final = re.compile(r"[!-~]*")


class UnsafeAddressError(ValueError):
    """An address that will not be asked; the text says why. `nameable`: it would be, were it named in the settings."""

    def __init__(self, reason: str, *, nameable: bool = False) -> None:
        super().__init__(reason)
        self.nameable = nameable


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port of a server: what credentials belong to."""

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, url: str) -> Origin:
        """Return the origin of an absolute http(s) URL without a login in it. Raises `UnsafeAddressError`."""
        if not _VISIBLE.fullmatch(url):
            raise UnsafeAddressError("it holds characters that no address has")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise UnsafeAddressError("it is not a valid address") from None
        scheme, host = parts.scheme.lower(), (parts.hostname or "").lower()
        if scheme not in _DEFAULT_PORTS or not host:
            raise UnsafeAddressError("it is not an http or https address")
        if "@" in parts.netloc:
            raise UnsafeAddressError("it holds a login")
        return cls(scheme, host, _DEFAULT_PORTS[scheme] if port is None else port)

    @property
    def netloc(self) -> str:
        """`host` or `host:port`, without the scheme's default port: for people and for credential lookup."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    def named_in(self, names: Collection[str]) -> bool:
        """Return whether a list of `host` or `host:port` names this server."""
        return self.host in names or self.netloc in names or f"{self.host}:{self.port}" in names

    def __str__(self) -> str:
        return f"{self.scheme}://{self.netloc}"


def is_internal(host: str) -> bool:
    """Return whether `host` is written as an address of this machine or of a private network.

    Numeric short forms (`127.1`, `0x7f000001`, `2130706433`) count, since resolvers accept them. Names are not
    resolved.
    """
    bare = host.strip("[]").rstrip(".").partition("%")[0].lower()
    if bare == "localhost" or bare.endswith(".localhost"):
        return True
    address = _literal(bare)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address is not None and (
        address.is_private or address.is_loopback or address.is_link_local or address.is_unspecified
    )


def _literal(bare: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(bare)
    except ValueError:
        pass
    if _NUMERIC_HOST.fullmatch(bare):
        try:
            return ipaddress.IPv4Address(socket.inet_aton(bare))
        except OSError:
            return None
    return None


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Where a registry may send us besides public https addresses.

    `insecure`: hosts (`host` or `host:port`) that may be asked over plain http. `internal`: hosts at loopback,
    link-local or private addresses that the registry may point to; the registry's own host always counts.
    """

    insecure: frozenset[str] = frozenset()
    internal: frozenset[str] = frozenset()

    def check_target(self, url: str, home: Origin, previous: Origin) -> Origin:
        """Return the origin of a redirect, location or link given by `previous`, a server that `home` led to.

        Raises `UnsafeAddressError`: not http(s), a step down from https to http, plain http to a host not named
        insecure, an internal address that is not the registry's own host.
        """
        origin = Origin.parse(url)
        if origin == home:
            return origin
        if origin.scheme == "http" and previous.scheme == "https":
            raise UnsafeAddressError("it goes from https to plain http")
        plain_allowed = origin.host == home.host or is_loopback(origin.host) or origin.named_in(self.insecure)
        if origin.scheme == "http" and not plain_allowed:
            raise UnsafeAddressError("it is plain http to another host", nameable=True)
        self._check_internal(origin, home)
        return origin

    def check_realm(self, url: str, registry: Origin) -> Origin:
        """Return the origin of a token realm, to which a password may go.

        Raises `UnsafeAddressError` for plain http unless the registry itself is plain http or this machine, and for
        internal addresses that are not the registry's own host.
        """
        origin = Origin.parse(url)
        if origin.scheme == "http" and registry.scheme == "https" and not is_loopback(registry.host):
            raise UnsafeAddressError("it is plain http")
        self._check_internal(origin, registry)
        return origin

    def _check_internal(self, origin: Origin, home: Origin) -> None:
        if not is_internal(origin.host) or origin.host == home.host or origin.named_in(self.internal):
            return
        if is_loopback(origin.host) and is_loopback(home.host):
            return
        raise UnsafeAddressError("it is an address inside this machine or a private network", nameable=True)


def request_target(url: str) -> str:
    """Return path and query exactly as written: libraries normalise escapes, which signed queries do not survive."""
    rest = url.partition("://")[2].partition("#")[0]
    start = min((index for index in (rest.find("/"), rest.find("?")) if index >= 0), default=len(rest))
    target = rest[start:]
    return target if target.startswith("/") else f"/{target}"


def proxy_for(origin: Origin, proxies: Iterable[tuple[str, str]], no_proxy: Collection[str]) -> str:
    """Return the proxy URL for `origin` from (scheme, proxy) pairs, or "". This machine is always reached directly."""
    if is_loopback(origin.host) or any(_bypassed(origin, entry.strip().lower()) for entry in no_proxy):
        return ""
    table = dict(proxies)
    return table.get(origin.scheme) or table.get("all", "")


def _bypassed(origin: Origin, entry: str) -> bool:
    if not entry:
        return False
    if entry == "*" or entry in {origin.host, f"{origin.host}:{origin.port}"}:
        return True
    if "/" in entry:
        try:
            return ipaddress.ip_address(origin.host) in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    name, _, port = entry.partition(":")
    suffix = "." + name.removeprefix("*").lstrip(".")
    return origin.host.endswith(suffix) and port in {"", str(origin.port)}


def redact_url(url: str) -> str:
    """Return `url` fit for people: no login, and of the query only what is never secret (signed URLs are passwords)."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "<unreadable address>"
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    query = [
        f"{key}={value if key in _SAFE_KEYS else '***'}"
        for key, value in parse_qsl(parts.query, keep_blank_values=True)
    ]
    if not query and parts.query:
        query = ["***"]
    return printable(shown + ("?" + "&".join(query) if query else ""))


def redact_text(text: str, secrets: Iterable[str] = ()) -> str:
    """Return `text` without `secrets`, signed queries and authorization values."""
    for secret in secrets:
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "***")
    text = _URL.sub(lambda match: redact_url(match[0]), text)
    return _AUTHORIZATION.sub(lambda match: f"{match[1]} ***", text)


def printable(text: str, limit: int = MAX_SHOWN) -> str:
    """Return the first `limit` characters of `text` on one line, control and formatting characters as spaces."""
    shown = "".join(character if character.isprintable() else " " for character in text[: 8 * limit])
    return " ".join(shown.split())[:limit]
