"""Spack's `mirrors.yaml`, read as Spack reads it.

Source: Spack's configuration schema for mirrors. A mirror is a text (its URL) or a mapping with `url`, `fetch` and
`push` (a text or a mapping each); what such a mapping says of its direction goes before what the mirror says of both.
Keys that we have no use for (`source`, `autopush`, whatever comes next) are passed over: the file is Spack's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import yaml

from oci_binpkg.cli.mirrors import Access, CacheEndpoint, CacheSettings, SpackPlaces, check_variable, from_variables
from oci_binpkg.cli.tables import type_name
from oci_binpkg.errors import UsageError

MAX_FILE_BYTES: Final = 4 * 1024**2
_TEXTS: Final = ("url", "view", "endpoint_url", "profile", "access_token", "access_token_variable")
_FLAGS: Final = ("signed", "binary", "source", "autopush")


class _Loader(yaml.SafeLoader):
    """Safe YAML in which no key comes twice, and dates and the like stay what was written."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    found: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str | int | float | bool | None) or key in found:
            line = key_node.start_mark.line + 1
            raise yaml.MarkedYAMLError(problem=f"line {line}: the key {key!r} comes twice or is no text")
        found[key] = loader.construct_object(value_node, deep=True)
    return found


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def read_spack_mirrors(paths: Sequence[str], places: SpackPlaces, *, required: bool) -> dict[str, CacheSettings]:
    """Return the mirrors for binaries of all these files by name; where a name comes twice, the first file's wins.

    A file that does not exist is passed over unless it is `required`. Raises `UsageError` naming file and key.
    """
    found: dict[str, CacheSettings | None] = {}
    for path in paths:
        entries, last = _entries(path, required=required)
        for name, entry in entries.items():
            # also a mirror without binaries hides one of its name in a later file
            found.setdefault(name, _Mirror(name, entry, path, places).settings())
        if last:
            break
    return {name: cache for name, cache in found.items() if cache is not None}


def _entries(path: str, *, required: bool) -> tuple[Mapping[str, Any], bool]:
    """Return the mirrors of a file, and whether it wants (`mirrors::`) the files after it to be passed over."""
    document = _load(path, required=required)
    if document is None:
        return {}, False
    if not isinstance(document, dict):
        raise UsageError(f"{path}: a mapping with the key mirrors is expected")
    last = "mirrors:" in document
    entries = document.get("mirrors:" if last else "mirrors") or {}
    if not isinstance(entries, dict):
        raise UsageError(f"{path}: mirrors must be a mapping, not {type_name(type(entries))}")
    return {str(name).removesuffix(":"): entry for name, entry in entries.items()}, last


def _load(path: str, *, required: bool) -> Any:
    try:
        with open(path, "rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        if required:
            raise UsageError(f"{path}: no such file", hint="spack_mirrors in the configuration names it") from None
        return None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", hint=_ELSEWHERE) from None
    if len(data) > MAX_FILE_BYTES:
        raise UsageError(f"{path}: larger than {MAX_FILE_BYTES} bytes", hint=_ELSEWHERE)
    try:
        return yaml.load(data, Loader=_Loader)  # noqa: S506 - a safe loader
    except yaml.MarkedYAMLError as error:
        # the parser's own text shows the line, which may hold a secret
        mark = error.problem_mark
        place = f" (line {mark.line + 1})" if mark else ""
        raise UsageError(f"{path}: not valid YAML: {error.problem}{place}", hint=_ELSEWHERE) from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise UsageError(f"{path}: not valid YAML", hint=_ELSEWHERE) from None


_ELSEWHERE: Final = 'repair it; spack_mirrors = "FILE" in the configuration names another, spack_mirrors = "" none'


@dataclass(frozen=True, slots=True)
class _Mirror:
    """One entry of a file."""

    name: str
    entry: Any
    path: str
    places: SpackPlaces

    def settings(self) -> CacheSettings | None:
        """Return what it says; None if it is for sources alone."""
        entry = self._checked({"url": self.entry} if isinstance(self.entry, str) else self.entry, "")
        if entry.get("binary") is False:
            return None
        directions = [{**entry, **self._direction(entry, key)} for key in ("fetch", "push")]
        if not any(direction.get("url") for direction in directions):
            raise UsageError(f"{self._where('')} has no url", hint="it needs url, or fetch and push")
        fetch, push = (self._endpoint(direction) for direction in directions)
        # Spack signs nothing in registries, whatever is said
        signed = None if fetch.url.startswith("oci") else entry.get("signed")
        return CacheSettings(self.name, fetch, push, signed, self.path)

    def _where(self, key: str) -> str:
        return f"{self.path}: mirrors.{self.name}" + (f".{key}" if key else "")

    def _checked(self, table: Any, where: str) -> dict[str, Any]:
        if not isinstance(table, dict):
            raise UsageError(
                f"{self._where(where.rstrip('.'))} must be a URL or a mapping, not {type_name(type(table))}"
            )
        known = {key: value for key, value in table.items() if value is not None}
        for keys, kind in ((_TEXTS, str), (_FLAGS, bool)):
            for key in keys:
                if key in known and type(known[key]) is not kind:
                    wrong = type_name(type(known[key]))
                    raise UsageError(f"{self._where(where + key)} must be {type_name(kind)}, not {wrong}")
        return known

    def _direction(self, entry: Mapping[str, Any], key: str) -> dict[str, Any]:
        # "pull" is what Spack once called it
        value = entry.get(key, entry.get("pull") if key == "fetch" else None)
        if value is None:
            return {}
        return {"url": value} if isinstance(value, str) else self._checked(value, f"{key}.")

    def _endpoint(self, table: Mapping[str, Any]) -> CacheEndpoint:
        return CacheEndpoint(
            self._url(table.get("url", "")),
            table.get("view", ""),
            table.get("endpoint_url", ""),
            table.get("profile", ""),
            self._access(table),
        )

    def _access(self, table: Mapping[str, Any]) -> Access:
        pair = self._pair(table.get("access_pair"))
        variables = {"token": table.get("access_token_variable", "")}
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
            read.token or ("" if variables["token"] else table.get("access_token", "")),
            read.unset,
        )

    def _pair(self, pair: Any) -> dict[str, str]:
        """Return the parts of an `access_pair`: two texts, or a mapping of `id`, `secret`, each or its variable."""
        where = self._where("access_pair")
        if pair is None:
            return {}
        if isinstance(pair, list):
            pair = [part or "" for part in pair]
            if len(pair) != 2 or not all(isinstance(part, str) for part in pair):  # noqa: PLR2004 - a pair
                raise UsageError(f"{where} must be a list of two texts: id and secret")
            return dict(zip(("id", "secret"), pair, strict=True))
        if not isinstance(pair, dict) or not all(isinstance(value, str) for value in pair.values()):
            raise UsageError(f"{where} must be a list of two texts, or a mapping of texts", hint=_PAIR)
        if not ("id" in pair or "id_variable" in pair) or not ("secret" in pair or "secret_variable" in pair):
            raise UsageError(f"{where} lacks an id or a secret", hint=_PAIR)
        return pair

    def _url(self, text: str) -> str:
        """Return a URL; a path becomes one, relative to the file, with the variables that Spack knows replaced."""
        if not text or re.match(r"[a-z][a-z0-9+.-]*://", text):
            return text
        known = {**self.places.environment, "spack": self.places.spack_root}
        path = re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda found: known.get(found[1] or found[2]) or str(found[0]), text)
        if path == "~" or path.startswith("~/"):
            path = self.places.home + path[1:]
        return "file://" + quote(os.path.normpath(os.path.join(os.path.dirname(self.path), path)))


_PAIR: Final = "as {id: NAME, secret_variable: VARIABLE} or {id_variable: VARIABLE, secret_variable: VARIABLE}"
