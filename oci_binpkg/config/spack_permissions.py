"""What Spack's `packages.yaml` says of the permissions of installed files.

Source: Spack's documentation, "Package permissions": `read`, `write` and `group` of a package go before those of `all`;
by default all may read and the owner may write. `config:allow_sgid` is on unless it is turned off.
"""

from __future__ import annotations

import grp
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from oci_binpkg.config.caches import SpackPlaces
from oci_binpkg.config.spack_scopes import SpackFiles, load_yaml
from oci_binpkg.config.tables import type_name
from oci_binpkg.errors import UsageError
from oci_binpkg.installs.permissions import Permissions

_READ: Final = {"user": 0, "group": 0o050, "world": 0o055}
_WRITE: Final = {"user": 0, "group": 0o020, "world": 0o022}
_OWNER: Final = 0o700
_ALL: Final = "all"


@dataclass(frozen=True, slots=True)
class PermissionRules:
    """What files say, the highest first: the path of each, and its packages. Nothing that is Spack's own default."""

    sections: Sequence[tuple[str, Mapping[str, Any]]]
    allow_sgid: bool = True

    def of(self, name: str) -> Permissions | None:
        """Return the permissions of a package's files; None where nothing says any.

        Raises `UsageError` naming file and key for a value that Spack does not take, and for an unknown group.
        """
        read, write, group = (self._value(name, key) for key in ("read", "write", "group"))
        if not (read or write or group):
            return None
        readable = _READ[_level(read or ("", "world"), "read")]
        writable = _WRITE[_level(write or ("", "user"), "write")]
        if writable << 1 & ~readable:
            raise UsageError(f"{_where(write)}: write is wider than read for {name}", hint="let read be as wide")
        if self.allow_sgid and writable & 0o002:
            hint = "config:allow_sgid: false turns that bit off"
            raise UsageError(f"{_where(write)}: write: world, with folders that pass their group on", hint=hint)
        return Permissions(_OWNER | readable | writable, _group_id(group), self.allow_sgid)

    def _value(self, name: str, key: str) -> tuple[str, str] | None:
        """Return the file and the text of the first rule; a package goes before `all`, whatever the file."""
        for package in (name, _ALL):
            for path, value in _chain(self.sections, (package, "permissions", key)):
                if value not in (None, ""):
                    return f"{path}: packages.{package}.permissions.{key}", str(value)
        return None


def read_permission_rules(places: SpackPlaces | None, file: str = "") -> PermissionRules:
    """Read `packages.yaml` of Spack's scopes and the active environment; of `file` alone, if one is named.

    Raises `UsageError` naming file and key.
    """
    if file:
        document = load_yaml(file)
        if document is None:
            raise UsageError(f"{file}: no such file")
        entries = document.get("packages", document.get("packages:"))
        if not isinstance(entries, dict):
            raise UsageError(f"{file}: packages must be a mapping, not {type_name(type(entries))}")
        return PermissionRules([(file, {str(key): value for key, value in entries.items()})])
    if places is None:
        return PermissionRules([])
    sgid = [value for _, value in _chain(_scopes(places, "config"), ("allow_sgid",))]
    return PermissionRules(_scopes(places, "packages"), allow_sgid=sgid[0] is not False if sgid else True)


def _scopes(places: SpackPlaces, section: str) -> list[tuple[str, Mapping[str, Any]]]:
    files = SpackFiles(places, section)
    files.read_all()
    found: list[tuple[str, Mapping[str, Any]]] = []
    for each in files.sections:
        if not each.path.startswith(f"{places.spack_root}/etc/spack/defaults/"):
            found.append((each.path, each.entries))
        if each.overrides:
            break
    return found


def _chain(sections: Sequence[tuple[str, Any]], keys: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Yield file and value of nested keys, the highest first; a key with a colon at its end ends the lower ones."""
    for key in keys:
        below: list[tuple[str, Any]] = []
        for path, mapping in sections:
            if not isinstance(mapping, Mapping):
                continue
            if f"{key}:" in mapping:
                below.append((path, mapping[f"{key}:"]))
                break
            if key in mapping:
                below.append((path, mapping[key]))
        sections = below
    yield from sections


def _level(rule: tuple[str, str], key: str) -> str:
    where, value = rule
    if value not in _READ:
        raise UsageError(f"{where}: {value[:80]!r}, where user, group or world is expected for {key}")
    return value


def _where(rule: tuple[str, str] | None) -> str:
    return rule[0] if rule else "packages.yaml"


def _group_id(rule: tuple[str, str] | None) -> int:
    if rule is None:
        return -1
    try:
        return grp.getgrnam(rule[1]).gr_gid
    except (KeyError, ValueError):
        raise UsageError(f"{rule[0]}: this machine has no group {rule[1][:80]!r}") from None
