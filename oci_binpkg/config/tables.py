"""Tables of our configuration file: which keys there are, and of which type and size their values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from oci_binpkg.errors import UsageError

Kinds = tuple[type, ...]
MAX_BYTES: Final = 2**63 - 1
_MAX_COUNT: Final = 10_000
_TYPES: Final = {
    str: "text",
    int: "a number",
    bool: "true or false",
    dict: "a table",
    float: "a fraction",
    list: "a list",
}


def check_table(table: Mapping[str, Any], allowed: Mapping[str, Kinds], path: str, where: str) -> None:
    """Check keys, types and numbers of a table. `where` is its name with a dot, "" for the whole file.

    Raises `UsageError` naming file, key, and what is allowed; values are not repeated, they may be secrets that were
    pasted in the wrong place.
    """
    for key, value in table.items():
        if key not in allowed:
            raise UsageError(f"{path}: unknown key {where + key!r}", hint=f"allowed: {', '.join(allowed)}")
        kinds = allowed[key]
        if type(value) not in kinds:
            wanted = " or ".join(type_name(kind) for kind in kinds)
            raise UsageError(f"{path}: {where + key} must be {wanted}, not {type_name(type(value))}")
        if isinstance(value, str) and any(character < " " or character == "\x7f" for character in value):
            raise UsageError(f"{path}: {where + key} holds control characters", hint="write it on one line")
        if isinstance(value, int):
            _check_number(value, MAX_BYTES if str in kinds else _MAX_COUNT, f"{path}: {where + key}")


def tables(document: Mapping[str, Any], key: str, allowed: Mapping[str, Kinds], path: str) -> dict[str, dict[str, Any]]:
    """Return the tables below `key` by name, checked. Raises `UsageError`."""
    found: dict[str, dict[str, Any]] = document.get(key, {})
    for name, table in found.items():
        if not isinstance(table, dict):
            raise UsageError(f"{path}: {key}.{name} must be a table", hint=f"keys: {', '.join(allowed)}")
        check_table(table, allowed, path, f"{key}.{name}.")
    return found


def type_name(kind: type) -> str:
    """Return what a type is called in a configuration file."""
    return _TYPES.get(kind, kind.__name__)


def _check_number(value: int, limit: int, what: str) -> None:
    if value < 0:
        raise UsageError(f"{what} must not be negative")
    if value > limit:
        raise UsageError(f"{what} is too large", hint=f"at most {limit}")
