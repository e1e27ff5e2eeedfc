"""Module files, for environment-modules and Lmod: what they do to variables, read without running them.

Source: the files that Spack generates, one command a line: `prepend-path --delim {:} NAME {VALUE}`, in older ones
`setenv NAME "VALUE"`, and `prepend_path("NAME", "VALUE", ":")` in Lua. Spack lists them in a `module-index.yaml`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Final

from oci_binpkg.disk import read_regular
from oci_binpkg.model.run_environment import Action, EnvironmentChange, RunEnvironment
from oci_binpkg.model.spec import Spec

_MAX_BYTES: Final = 1024 * 1024
_MAX_INDEX: Final = 64 * 1024 * 1024
_MOST_FOLDERS: Final = 200
_INDEX: Final = "module-index.yaml"
_ROOTS: Final = ("share/spack/modules", "share/spack/lmod")
_INSIDE: Final = ("share/modulefiles", "lib/modulefiles", "etc/modulefiles", "modulefiles")
_WORDS: Final = {
    "prepend": Action.PREPEND,
    "append": Action.APPEND,
    "setenv": Action.SET,
    "unsetenv": Action.UNSET,
}
_TCL: Final = re.compile(
    r"""\s*(?P<word>prepend-path|append-path|setenv|unsetenv)\s+
    (?:(?:--delim|-d)(?:\s+|=)(?P<delimiter>\{[^}]*\}|"[^"]*"|\S+)\s+)?
    (?P<name>\{[^}]*\}|"[^"]*"|[^\s;]+)
    (?:\s+(?P<value>\{[^{}]*\}|"[^"]*"|[^\s;{"]+))?\s*;?\s*""",
    re.ASCII | re.VERBOSE,
)
_LUA: Final = re.compile(
    r"""\s*(?P<word>prepend_path|append_path|setenv|unsetenv)\s*\(\s*"(?P<name>[^"\\]*)"
    (?:\s*,\s*"(?P<value>(?:[^"\\]|\\["\\])*)"(?:\s*,\s*"(?P<delimiter>[^"]*)")?)?\s*\)\s*;?\s*""",
    re.ASCII | re.VERBOSE,
)
_HASH: Final = re.compile(r"\s+['\"]?([a-z2-7]{32})['\"]?:\s*(?:\{path:\s*(?P<path>[^,}]+),.*\}\s*)?", re.ASCII)
_PATH: Final = re.compile(r"\s+path:\s*['\"]?(?P<path>[^'\"]+?)['\"]?\s*", re.ASCII)


def module_files(spack_prefix: str) -> Mapping[str, str]:
    """Return the module files that the Spack at a prefix generated, by hash; none where there is no index of them."""
    found: dict[str, str] = {}
    for index in _indices(spack_prefix):
        found |= {key: path for key, path in _listed(index) if key not in found}
    return found


def file_inside(prefix: str, spec: Spec) -> str:
    """Return the module file that a prefix has of its own package, "" without one."""
    names = [os.path.join(prefix, folder, spec.name, spec.version) for folder in _INSIDE]
    return next((path for name in names for path in (name, f"{name}.lua") if os.path.isfile(path)), "")


def read_module(path: str) -> RunEnvironment | None:
    """Return what a module file does to variables; None for one that cannot be read.

    What else is in it (conflicts, texts, other modules, variables of Tcl or Lua) is nothing that an environment holds.
    """
    text = _text(path, _MAX_BYTES)
    return None if text is None else tuple(_changes(text, _LUA if path.endswith(".lua") else _TCL))


def _changes(text: str, pattern: re.Pattern[str]) -> Iterator[EnvironmentChange]:
    for line in text.splitlines():
        match = pattern.fullmatch(line)
        if match is None or (match["delimiter"] or ":").strip('{}"') != ":":
            continue
        action = next(action for word, action in _WORDS.items() if match["word"].startswith(word))
        value = _plain(match["value"] or "", lua=pattern is _LUA)
        parts = value.split(":") if action in (Action.PREPEND, Action.APPEND) else [value]
        # of several paths on one line, the first is to be the first in the list
        for part in reversed(parts) if action is Action.PREPEND else parts:
            change = EnvironmentChange(_plain(match["name"]), part, action)
            if not change.problem and "$" not in part:
                yield change


def _plain(text: str, *, lua: bool = False) -> str:
    if lua:
        return text.replace('\\"', '"').replace("\\\\", "\\")
    return text[1:-1] if text[:1] in ("{", '"') and len(text) > 1 else text


def _indices(spack_prefix: str) -> Iterator[str]:
    for root in _ROOTS:
        folder = os.path.join(spack_prefix, root)
        try:
            names = sorted(os.listdir(folder))[:_MOST_FOLDERS]
        except OSError:
            continue
        yield from (os.path.join(folder, name, _INDEX) for name in names)


def _listed(index: str) -> Iterator[tuple[str, str]]:
    """Yield hash and path of what an index lists. It is large, and of a form that needs no YAML reader."""
    package_hash = ""
    for line in (_text(index, _MAX_INDEX) or "").splitlines():
        if match := _HASH.fullmatch(line):
            package_hash = match[1]
        elif not (match := _PATH.fullmatch(line)):
            continue
        if match["path"] and package_hash:
            yield package_hash, match["path"].strip("'\" ")


def _text(path: str, limit: int) -> str | None:
    try:
        return read_regular(path, limit).decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return None
