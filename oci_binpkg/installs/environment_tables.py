"""The `environment` tables of a `packages.toml`: what a package adds to the environment of what uses it.

[package.environment]
set = {ZLIB_HOME = "{prefix}", CFG_HOME = "{prefix:cfg}"}
prepend_path = {PYTHONPATH = "lib/python"}        # relative to the prefix; several in a list, the first in front
append_path = {MANPATH = "{prefix}/doc/man"}
unset = ["ZLIB_DEBUG"]
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from oci_binpkg.errors import InstallsError
from oci_binpkg.model.run_environment import Action, EnvironmentChange, RunEnvironment

_NAMED: Final = re.compile(r"\{prefix:([A-Za-z0-9_.+-]+)\}", re.ASCII)


def read_environment(table: Mapping[str, Any], where: str) -> RunEnvironment:
    """Return the changes of a table; other packages stand in them by name. Raises `InstallsError` naming `where`."""
    where = f"{where}: environment"
    for key in table:
        if key not in set(Action):
            raise InstallsError(f"{where}: unknown key {key!r}", hint=f"allowed are {', '.join(Action)}")
    changes = tuple(change for action in Action for change in _changes(table.get(action.value), action, where))
    for change in changes:
        if problem := change.problem:
            raise InstallsError(f"{where}: {change.action.value}: {problem}")
    return changes


def _changes(found: object, action: Action, where: str) -> Iterator[EnvironmentChange]:
    where = f"{where}: {action.value}"
    if found is None:
        return
    if action is Action.UNSET:
        if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
            raise InstallsError(f"{where}: a list of names is expected")
        yield from (EnvironmentChange(name, "", action) for name in found)
        return
    if not isinstance(found, dict):
        raise InstallsError(f"{where}: a table of names and values is expected")
    for name, value in found.items():
        if action is Action.SET:
            if not isinstance(value, str):
                raise InstallsError(f"{where}.{name}: a text in quotes is expected")
            yield EnvironmentChange(name, value, action)
            continue
        paths = [value] if isinstance(value, str) else value
        if not isinstance(paths, list) or not all(isinstance(path, str) and path for path in paths):
            raise InstallsError(f"{where}.{name}: a path or a list of paths is expected")
        # what is put in front last is the first in the end
        for path in reversed(paths) if action is Action.PREPEND else paths:
            yield EnvironmentChange(name, path if path[0] in "/{" else f"{{prefix}}/{path}", action)


def with_hashes(changes: RunEnvironment, hashes: Mapping[str, str], where: str) -> RunEnvironment:
    """Return changes that name other packages by hash. Raises `InstallsError` for one that `hashes` does not have."""

    def hash_of(match: re.Match[str]) -> str:
        if match[1] not in hashes:
            known = ", ".join(sorted(hashes))
            raise InstallsError(
                f"{where}: environment: {match[0]} names no package it depends on", hint=f"it can name {known}"
            )
        return f"{{prefix:{hashes[match[1]]}}}"

    return tuple(replace(change, value=_NAMED.sub(hash_of, change.value)) for change in changes)
