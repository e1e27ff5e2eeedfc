"""Spack's `mirrors.yaml` and its kin, read and merged as Spack does it.

Source: Spack's configuration schema for mirrors. A mirror is a text (its URL) or a mapping with `url`, `fetch` and
`push` (a text or a mapping each); what such a mapping says of its direction goes before what the mirror says of both.
Entries of one name in several files are merged key by key, unless a key ends in a second colon. Other keys (`source`,
`autopush`, later ones) are ignored: the files are Spack's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from oci_binpkg.config.caches import (
    Access,
    CacheEndpoint,
    CacheSettings,
    SpackMirrors,
    SpackPlaces,
    check_variable,
    from_variables,
)
from oci_binpkg.config.spack_scopes import SpackFiles, SpackSection, expanded
from oci_binpkg.config.tables import type_name
from oci_binpkg.errors import UsageError

_TEXTS: Final = ("url", "view", "endpoint_url", "profile", "access_token", "access_token_variable")
_FLAGS: Final = ("signed", "binary", "source", "autopush")
_DIRECTIONS: Final = ("fetch", "push", "pull")
_MARKS: Final = ":+-"
"""What may follow a key: it overrides, or its text stands before or behind that of the lower file."""


def read_spack_mirrors(places: SpackPlaces, only: str = "") -> SpackMirrors:
    """Read Spack's configuration, or one file of it. Raises `UsageError` naming file and key."""
    files = SpackFiles(places)
    if only:
        files.read_one(only)
    else:
        files.read_all()
    found = {}
    for name, (entry, paths) in _merged_sections(files.sections, places).items():
        cache = _Mirror(name, paths[0], places).settings(entry, paths[1:])
        if cache is not None:
            found[name] = cache
    return SpackMirrors(found, tuple(files.remarks))


def _merged_sections(sections: Sequence[SpackSection], places: SpackPlaces) -> dict[str, tuple[Any, tuple[str, ...]]]:
    """Return each mirror's entry, and the files that it comes from, the highest first."""
    found: dict[str, tuple[Any, tuple[str, ...]]] = {}
    for section in reversed(sections):
        if section.overrides:
            found.clear()
        for key, entry in section.entries.items():
            name = key.removesuffix(":")
            entry = _Mirror(name, section.path, places).read(entry)  # noqa: PLW2901 - the same, checked
            low, paths = (None, ()) if key.endswith(":") else found.get(name, (None, ()))
            merges = isinstance(low, dict) and isinstance(entry, dict)
            found[name] = (_merged(low, entry), (section.path, *(paths if merges else ())))
    return found


def _merged(low: Any, high: Any) -> Any:
    """Return two files merged. Lists are not joined: the only list here is a pair."""
    if not isinstance(high, dict):
        return high
    found = dict(low) if isinstance(low, dict) else {}
    for marked, value in high.items():
        key, mark = _split(marked)
        known = found.get(key)
        if mark == ":":
            found[key] = _merged(None, value)
        elif mark and isinstance(known, str) and isinstance(value, str):
            found[key] = value + known if mark == "+" else known + value
        else:
            found[key] = _merged(known, value)
    return found


def _split(key: str) -> tuple[str, str]:
    return (key[:-1], key[-1]) if key and key[-1] in _MARKS else (key, "")


@dataclass(frozen=True, slots=True)
class _Mirror:
    """A mirror in one file."""

    name: str
    path: str
    places: SpackPlaces

    def read(self, entry: Any) -> Any:
        """Return the contents of the file, checked, with paths made URLs: they are relative to this file."""
        if isinstance(entry, str):
            return self._url(entry)
        found = self._checked(entry, "")
        for marked, value in found.items():
            key, mark = _split(marked)
            if key in _DIRECTIONS and isinstance(value, dict):
                found[marked] = self._with_url(self._checked(value, f"{key}."))
            elif key in _DIRECTIONS and value is not None and not isinstance(value, str):
                wrong = type_name(type(value))
                raise UsageError(f"{self._where(key)} must be a URL or a mapping, not {wrong}")
            elif key in _DIRECTIONS and isinstance(value, str) and mark in ("", ":"):
                found[marked] = self._url(value)
        return self._with_url(found)

    def _with_url(self, table: dict[str, Any]) -> dict[str, Any]:
        for key in ("url", "url:"):
            if isinstance(table.get(key), str):
                table[key] = self._url(table[key])
        return table

    def settings(self, entry: Any, merged_files: tuple[str, ...]) -> CacheSettings | None:
        """Return the cache of a merged entry; None if it is for sources alone."""
        entry = {"url": entry} if isinstance(entry, str) else entry
        if entry.get("binary") is False:
            return None
        directions = [{**entry, **self._direction(entry, key)} for key in ("fetch", "push")]
        if not any(direction.get("url") for direction in directions):
            raise UsageError(f"{self._where('')} has no url", hint="it needs url, or fetch and push")
        fetch, push = (self._endpoint(direction) for direction in directions)
        # Spack signs nothing in registries, whatever is said
        signed = None if fetch.url.startswith("oci") else entry.get("signed")
        return CacheSettings(self.name, fetch, push, signed, self.path, merged_files=merged_files)

    def _where(self, key: str) -> str:
        return f"{self.path}: mirrors.{self.name}" + (f".{key}" if key else "")

    def _checked(self, table: Any, where: str) -> dict[str, Any]:
        if not isinstance(table, dict):
            raise UsageError(
                f"{self._where(where.rstrip('.'))} must be a URL or a mapping, not {type_name(type(table))}"
            )
        found = {str(key): value for key, value in table.items()}
        for marked, value in found.items():
            key = _split(marked)[0]
            kind = str if key in _TEXTS else bool if key in _FLAGS else type(value)
            if value is not None and type(value) is not kind:
                wrong = type_name(type(value))
                raise UsageError(f"{self._where(where + key)} must be {type_name(kind)}, not {wrong}")
            if key == "access_pair":
                self._check_pair(value)
        return found

    def _direction(self, entry: Mapping[str, Any], key: str) -> dict[str, Any]:
        # "pull" is what Spack once called it
        value = entry.get(key, entry.get("pull") if key == "fetch" else None)
        if value is None:
            return {}
        if isinstance(value, str):
            return {"url": value}
        return {name: each for name, each in value.items() if each is not None}

    def _endpoint(self, table: Mapping[str, Any]) -> CacheEndpoint:
        return CacheEndpoint(
            registry_url(table.get("url") or ""),
            table.get("view") or "",
            table.get("endpoint_url") or "",
            table.get("profile") or "",
            self._access(table),
        )

    def _access(self, table: Mapping[str, Any]) -> Access:
        pair = self._pair(table.get("access_pair"))
        variables = {"token": table.get("access_token_variable") or ""}
        variables |= {key: pair.get(f"{key}_variable", "") for key in ("id", "secret")}
        for key, name in variables.items():
            if name:
                check_variable(
                    name, self._where("access_token_variable" if key == "token" else f"access_pair.{key}_variable")
                )
        read = from_variables(self.places.environment, variables["id"], variables["secret"], variables["token"])
        return Access(
            read.key_id or pair.get("id", ""),
            read.secret or pair.get("secret", ""),
            read.token or ("" if variables["token"] else table.get("access_token") or ""),
            read.unset,
        )

    def _check_pair(self, pair: Any) -> None:
        """Check an `access_pair`: two texts, or a mapping of texts."""
        where = self._where("access_pair")
        if isinstance(pair, list):
            if len(pair) != 2 or not all(isinstance(part, str | None) for part in pair):  # noqa: PLR2004 - a pair
                raise UsageError(f"{where} must be a list of two texts: id and secret")
        elif pair is not None and not (
            isinstance(pair, dict) and all(isinstance(value, str | None) for value in pair.values())
        ):
            raise UsageError(f"{where} must be a list of two texts, or a mapping of texts", hint=_PAIR)

    def _pair(self, pair: Any) -> dict[str, str]:
        """Return the parts of an `access_pair`: `id` and `secret`, each or its variable."""
        if pair is None:
            return {}
        if isinstance(pair, list):
            return dict(zip(("id", "secret"), (part or "" for part in pair), strict=True))
        found = {key: value for key, value in pair.items() if value is not None}
        if not ("id" in found or "id_variable" in found) or not ("secret" in found or "secret_variable" in found):
            raise UsageError(f"{self._where('access_pair')} lacks an id or a secret", hint=_PAIR)
        return found

    def _url(self, text: str) -> str:
        """Return a URL; a path becomes one, relative to the file, with the variables that Spack knows replaced."""
        is_file = text.startswith("file://")
        if not text or (re.match(r"[a-z][a-z0-9+.-]*://", text) and not (is_file and re.search(r"\$|://~", text))):
            return text
        path = expanded(text.removeprefix("file://"), self.places)
        return "file://" + quote(os.path.normpath(os.path.join(os.path.dirname(self.path), path)))


def registry_url(text: str) -> str:
    """Return an address of a registry as Spack understands it, with the host that is meant; any other URL as it is.

    As in `docker pull`, a first part without a dot or colon is no host, and the image is Docker Hub's; names are
    lowered. Source: Spack's `ImageReference.from_string`.
    """
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in ("oci", "oci+http"):
        return text
    host, slash, name = rest.partition("/")
    if not slash:
        host, name = _HUB, f"library/{host}"
    elif not re.search(r"[.:\[]", host) and host != "localhost" and host == host.lower():
        host, name = _HUB, f"{host}/{name}"
    name, colon, tag = name.partition(":")
    return f"{scheme}://{host}/{name.lower()}{colon}{tag}"


_HUB: Final = "docker.io"
_PAIR: Final = "as {id: NAME, secret_variable: VARIABLE} or {id_variable: VARIABLE, secret_variable: VARIABLE}"
