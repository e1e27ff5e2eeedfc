"""Spack's YAML files, read strictly and without ever repeating a line of them: it may hold a secret."""

from __future__ import annotations

from typing import Any, Final

import yaml

from oci_binpkg.errors import UsageError

MAX_FILE_BYTES: Final = 4 * 1024**2
_ELSEWHERE: Final = 'repair it; spack_mirrors = "FILE" in the configuration names another, spack_mirrors = "" none'


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


def load_yaml(path: str) -> dict[str, Any] | None:
    """Return a file's mapping, its keys as texts; None if there is no such file. Raises `UsageError` with its name."""
    try:
        with open(path, "rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", hint=_ELSEWHERE) from None
    if len(data) > MAX_FILE_BYTES:
        raise UsageError(f"{path}: larger than {MAX_FILE_BYTES} bytes", hint=_ELSEWHERE)
    document = _parsed(data, path)
    if not isinstance(document, dict | None):
        raise UsageError(f"{path}: a mapping with the key mirrors is expected")
    return {str(key): value for key, value in (document or {}).items()}


def _parsed(data: bytes, path: str) -> Any:
    try:
        return yaml.load(data, Loader=_Loader)  # noqa: S506 - a safe loader
    except yaml.MarkedYAMLError as error:
        # the parser's own text shows the line, which may hold a secret
        mark = error.problem_mark
        place = f" (line {mark.line + 1})" if mark else ""
        raise UsageError(f"{path}: not valid YAML: {error.problem}{place}", hint=_ELSEWHERE) from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise UsageError(f"{path}: not valid YAML", hint=_ELSEWHERE) from None
