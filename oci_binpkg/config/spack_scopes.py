"""Where Spack keeps its configuration, and which file goes before which.

Source: Spack's documentation of configuration scopes. From the highest: the active environment, then (since 1.1, whose
own `include.yaml` says so) `$spack/etc/spack`, the user's folder, the site's, the system's, and the defaults; before
1.1 the user's folder goes first, and `$spack/etc/spack` is the site's. A file goes before what it includes, and of what
it includes the first goes first.
"""

from __future__ import annotations

import os
import pwd
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from oci_binpkg.archive.yaml_events import YamlError, YamlLimits, read_yaml
from oci_binpkg.config.caches import SpackPlaces
from oci_binpkg.config.tables import type_name
from oci_binpkg.disk import read_regular
from oci_binpkg.errors import UsageError

_DEEPEST: Final = 16
_PLATFORM: Final = "linux"
_ENVIRONMENT_FILE: Final = "spack.yaml"
_VARIABLE: Final = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_CONDITION: Final = re.compile(r"""\s*["'](\w+)["']\s+(not\s+)?in\s+env\s*""")
_URL: Final = re.compile(r"[a-z][a-z0-9+.-]*://")


@dataclass(frozen=True, slots=True)
class SpackSection:
    """A section of one file, as its mirrors: name -> entry. `overrides`: lower files do not count (`mirrors::`)."""

    path: str
    entries: Mapping[str, Any]
    overrides: bool = False


def expanded(text: str, places: SpackPlaces) -> str:
    """Return a path with the variables replaced that Spack knows, then those of the environment, then `~`."""

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        return _spack_variable(name.lower(), places) or places.environment.get(name) or str(found[0])

    path = _VARIABLE.sub(value, text)
    return places.home + path[1:] if path == "~" or path.startswith("~/") else path


def _spack_variable(name: str, places: SpackPlaces) -> str:
    environment = places.environment
    if name == "user":
        return pwd.getpwuid(os.geteuid()).pw_name
    if name == "tempdir":
        return tempfile.gettempdir()
    known = {
        "spack": places.spack_root,
        "env": environment.get("SPACK_ENV", ""),
        "platform": _PLATFORM,
        "spack_home": environment.get("SPACK_HOME") or places.home,
        "user_cache_path": environment.get("SPACK_USER_CACHE_PATH") or f"{places.home}/.spack",
    }
    return known.get(name, "")


def upstream_trees(files: Sequence[str], places: SpackPlaces) -> tuple[str, ...]:
    """Return the roots of the trees that files `upstreams.yaml` name, each once; of a name the first file's counts.

    Raises `UsageError` naming file and key. Source: Spack's documentation of chained installations.
    """
    found: dict[str, str] = {}
    for path in files:
        entries = (load_yaml(path) or {}).get("upstreams") or {}
        if not isinstance(entries, dict):
            raise UsageError(f"{path}: upstreams must be a mapping, not {type_name(type(entries))}")
        for name, entry in entries.items():
            tree = entry.get("install_tree") if isinstance(entry, dict) else None
            if not isinstance(tree, str):
                raise UsageError(f"{path}: upstreams.{name}.install_tree must be a path")
            found.setdefault(str(name), expanded(tree, places))
    return tuple(dict.fromkeys(found.values()))


@dataclass(slots=True)
class SpackFiles:
    """Reads Spack's files. `sections` has what they say, the highest first; `remarks` what is not read, and why.

    `section` is the name of what is read, and of the file that has it: `mirrors`, `packages` or `config`.
    """

    places: SpackPlaces
    section: str = "mirrors"
    sections: list[SpackSection] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    _seen: set[str] = field(default_factory=set)

    def read_all(self) -> None:
        """Read every scope. Raises `UsageError` naming file and key."""
        places = self.places
        if places.environment_file:
            self._file(places.environment_file)
        for folder in places.folders:
            self._folder(folder)

    def read_one(self, path: str) -> None:
        """Read a file and what it includes. Raises `UsageError`, also if it is not there."""
        if not self._file(path):
            raise UsageError(f"{path}: no such file", hint="spack_mirrors in the configuration names it")

    def _folder(self, folder: str, depth: int = 0) -> None:
        self._file(f"{folder}/{self.section}.yaml", depth)
        self._file(f"{folder}/include.yaml", depth)

    def _file(self, path: str, depth: int = 0) -> bool:
        if path in self._seen:
            return True
        document = load_yaml(path)
        if document is None:
            return False
        self._seen.add(path)
        if os.path.basename(path) == _ENVIRONMENT_FILE:
            document = self._mapping(document.get("spack"), f"{path}: spack")
        name = self.section
        overrides = f"{name}:" in document
        entries = self._mapping(document.get(f"{name}:" if overrides else name), f"{path}: {name}")
        if entries or overrides:
            self.sections.append(SpackSection(path, entries, overrides))
        for entry in self._includes(document, path):
            self._include(entry, path, depth + 1)
        return True

    def _mapping(self, value: Any, what: str) -> dict[str, Any]:
        if not isinstance(value, dict | None):
            raise UsageError(f"{what} must be a mapping, not {type_name(type(value))}")
        return {str(key): each for key, each in (value or {}).items()}

    def _includes(self, document: Mapping[str, Any], path: str) -> Sequence[Any]:
        found = document.get("include", document.get("include:")) or []
        if not isinstance(found, list):
            raise UsageError(f"{path}: include must be a list, not {type_name(type(found))}")
        return found

    def _include(self, entry: Any, by: str, depth: int) -> None:
        """Read what a file includes: a file or folder on this machine."""
        if isinstance(entry, str):
            entry = {"path": entry}
        if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
            self.remarks.append(f"{by}: an include without a path on this machine is not read")
            return
        if not self._wanted(entry, by):
            return
        override = self.places.environment.get(str(entry.get("path_override_env_var", "")), "")
        text = expanded(override or entry["path"], self.places).removeprefix("file://")
        if _URL.match(text) or "git" in entry:
            self.remarks.append(f"{by}: the include {entry['path']} is not read: it is not on this machine")
            return
        path = os.path.normpath(os.path.join(os.path.dirname(by), text))
        if depth > _DEEPEST:
            raise UsageError(f"{by}: includes are nested more than {_DEEPEST} deep")
        if os.path.isdir(path):
            self._folder(path, depth)
        elif not self._file(path, depth) and not entry.get("optional"):
            self.remarks.append(f"{by}: the include {path} does not exist")

    def _wanted(self, entry: Mapping[str, Any], by: str) -> bool:
        """Judge `when`, of which one form is understood: whether the environment has a variable."""
        condition = entry.get("when", True)
        if isinstance(condition, bool):
            return condition
        match = _CONDITION.fullmatch(str(condition))
        if match is None:
            self.remarks.append(f"{by}: the include {entry['path']} is not read: its condition is not understood here")
            return False
        return (match[1] in self.places.environment) is not bool(match[2])


MAX_FILE_BYTES: Final = 4 * 1024**2
_LIMITS: Final = YamlLimits(nodes=200_000, depth=50, tags=False)
_LONGEST_NUMBER: Final = 64
_ELSEWHERE: Final = 'repair it; spack_mirrors = "FILE" in the configuration names another, spack_mirrors = "" none'
_PREFIX: Final = "tag:yaml.org,2002:"
_TEXT: Final = frozenset(f"{_PREFIX}{name}" for name in ("str", "timestamp", "value", "merge"))
_RESOLVER: Final[Any] = yaml.resolver.Resolver()
_VALUES: Final = yaml.constructor.SafeConstructor()


def load_yaml(path: str) -> dict[str, Any] | None:
    """Return a file's mapping, its keys as texts; None if there is no such file. Raises `UsageError` with its name."""
    try:
        data = read_regular(path, MAX_FILE_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", hint=_ELSEWHERE) from None
    document = _parsed(data, path)
    if not isinstance(document, dict | None):
        raise UsageError(f"{path}: a mapping with the key mirrors is expected")
    return {str(key): value for key, value in (document or {}).items()}


def _parsed(data: bytes, path: str) -> Any:
    try:
        return read_yaml(data, scalar=_value, limits=_LIMITS)
    except YamlError as error:
        place = f" (line {error.line})" if error.line else ""
        raise UsageError(f"{path}: not valid YAML: {error.problem}{place}", hint=_ELSEWHERE) from None


def _value(event: Any) -> Any:
    """Return a text, number, boolean or nothing, as YAML 1.1 has it. Dates and the like stay what was written."""
    text, tag = event.value, event.tag
    if tag is None or tag == "!":
        tag = _RESOLVER.resolve(yaml.ScalarNode, text, event.implicit)
    if tag in _TEXT or len(text) > _LONGEST_NUMBER:
        return text
    node = yaml.ScalarNode(tag, text)
    try:
        match tag.removeprefix(_PREFIX):
            case "null":
                return None
            case "bool":
                return _VALUES.construct_yaml_bool(node)
            case "int":
                return _VALUES.construct_yaml_int(node)
            case "float":
                return _VALUES.construct_yaml_float(node)
    except (ValueError, KeyError, OverflowError):
        pass
    raise YamlError("a value of a kind that is not known", event.start_mark.line + 1)
