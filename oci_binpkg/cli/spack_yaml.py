"""Spack's YAML files, read strictly and without ever repeating a line of them: it may hold a secret."""

from __future__ import annotations

from typing import Any, Final

import yaml

from oci_binpkg.archive.yaml_events import YamlError, YamlLimits, read_yaml
from oci_binpkg.disk import read_regular
from oci_binpkg.errors import UsageError

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
