"""Strict reading of JSON documents that came from somewhere else, with the path of the field in every error.

Stricter than `json.loads`: UTF-8 without BOM, no duplicate keys (also not up to case, which Go's reader would merge),
no half surrogates, no NaN or Infinity, bounded numbers and nesting. Two readers that understand one document
differently are an attack (CVE-2021-41190).

A value takes some hundred bytes of memory whatever it takes in the text (`[]` has two), so values are counted before
any is made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Never

from oci_binpkg.errors import ContentError

MOST_VALUES: Final = 500_000
"""Values and keys of one document: about 50 MB. The spec document of a thousand packages has a fifth of that."""
DEEPEST: Final = 100
"""How deep objects and lists may be nested; no document that is read here comes near."""
_LONGEST_NUMBER: Final = 1000
_VALUE: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"?|([,:\[{])', re.DOTALL)
_CONTAINERS: Final = frozenset((dict, list))
_COMPACT: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)
_MARKUP: Final = "a proxy or a login page may have answered in its place: open the address in a browser"
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(data: bytes, what: str, *, fold_case: bool = True, most_values: int = MOST_VALUES) -> dict[str, Any]:
    """Parse a JSON object from bytes. Raises `ContentError` naming `what`.

    `fold_case=False` allows keys that differ only in case: free-form maps of other tools have them. More than
    `most_values` values and keys, or `DEEPEST` levels, are refused before they cost anything.
    """
    check_values(data, what, most_values)

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        document = dict(items)
        keys = {key.lower() for key in document} if fold_case else document
        if len(keys) != len(items):
            raise ContentError(f"{what}: a key stands twice in one object")
        return document

    def constant(text: str) -> Never:
        raise ContentError(f"{what}: {text} is not JSON")

    def number(text: str) -> float:
        if len(text) > _LONGEST_NUMBER:
            raise ContentError(f"{what}: a number of {len(text)} characters")
        value = float(text)
        if value in (float("inf"), float("-inf")):
            raise ContentError(f"{what}: the number {text[:40]} is out of range")
        return value

    try:
        text = data.decode("utf-8")
        document = json.loads(text, object_pairs_hook=pairs, parse_constant=constant, parse_float=number)
        if _SURROGATE.search(text):
            # an escape may have made half a character, which no other encoder would write back
            json.dumps(document, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise ContentError(f"{what}: nested too deeply") from None
    except (UnicodeError, ValueError) as error:
        raise _not_json(data, what, error) from None
    return _checked(document, what)


def check_values(data: bytes, what: str, most: int = MOST_VALUES) -> None:
    """Raise `ContentError` if a JSON text has more than `most` values and keys. Linear, at the speed of memory."""
    # the first count takes characters within texts for values too, and is all that nearly every document needs
    if sum(map(data.count, (b",", b":", b"[", b"{"))) <= most:
        return
    count = 0
    for match in _VALUE.finditer(data):
        count += match[1] is not None
        if count > most:
            raise ContentError(f"{what}: a document of more than {most} values")


def _checked(document: Any, what: str) -> dict[str, Any]:
    """Return what was parsed, if it is an object that is not nested too deeply."""
    if not isinstance(document, dict):
        raise ContentError(f"{what}: a JSON object is expected, not {type(document).__name__}")
    level: list[Any] = [document]
    for _ in range(DEEPEST):
        # by type: twice as fast as `isinstance`, and a parser makes no others
        level = [
            value
            for each in level
            for value in (each.values() if isinstance(each, dict) else each)
            if type(value) in _CONTAINERS
        ]
        if not level:
            return document
    raise ContentError(f"{what}: nested too deeply")


def _not_json(data: bytes, what: str, error: ValueError) -> ContentError:
    if data.lstrip()[:1] == b"<":
        return ContentError(f"{what}: a web page or XML, not JSON", hint=_MARKUP)
    if not isinstance(error, UnicodeError | json.JSONDecodeError):
        # the interpreter's own limit, 4300 of them
        return ContentError(f"{what}: not valid JSON: a whole number of too many digits")
    return ContentError(f"{what}: not valid JSON: {str(error)[:200]}")


def text_of(document: Mapping[str, Any], key: str, what: str, *, default: str | None = None) -> str:
    """Return a string member; `default` makes it optional."""
    value = document.get(key, default)
    if not isinstance(value, str):
        raise ContentError(f"{what}.{key}: text is expected, not {_kind(value)}")
    return value


def integer_of(document: Mapping[str, Any], key: str, what: str, *, maximum: int = 2**53) -> int:
    """Return an integer member from 0 to `maximum`; booleans and 12.0 are not integers."""
    value = document.get(key)
    if type(value) is not int or not 0 <= value <= maximum:
        raise ContentError(f"{what}.{key}: an integer from 0 to {maximum} is expected, not {str(value)[:40]!r}")
    return value


def object_of(document: Mapping[str, Any], key: str, what: str, *, optional: bool = False) -> dict[str, Any]:
    """Return an object member; when `optional`, an absent or null one is an empty object."""
    value = document.get(key)
    if value is None and optional:
        return {}
    if not isinstance(value, dict):
        raise ContentError(f"{what}.{key}: an object is expected, not {_kind(value)}")
    return value


def list_of(document: Mapping[str, Any], key: str, what: str, *, optional: bool = False) -> list[Any]:
    """Return a list member; when `optional`, an absent or null one is an empty list."""
    value = document.get(key)
    if value is None and optional:
        return []
    if not isinstance(value, list):
        raise ContentError(f"{what}.{key}: a list is expected, not {_kind(value)}")
    return value


def texts_of(document: Mapping[str, Any], key: str, what: str) -> tuple[str, ...]:
    """Return an optional list of strings."""
    return all_text(list_of(document, key, what, optional=True), f"{what}.{key}")


def all_text(values: Sequence[Any], what: str) -> tuple[str, ...]:
    """Return `values` as a tuple of strings. Raises `ContentError` naming the first that is not a string."""
    for position, value in enumerate(values):
        if not isinstance(value, str):
            raise ContentError(f"{what}[{position}]: text is expected, not {_kind(value)}")
    return tuple(values)


def refuse_case_variants(document: Mapping[str, Any], names: Sequence[str], what: str) -> None:
    """Raise `ContentError` for a key that differs from one of `names` only in case.

    Go's reader takes `Layers` for `layers`: what we read and what an engine reads must be the same.
    """
    folded = {name.lower(): name for name in names}
    for key in document:
        name = folded.get(key.lower(), key)
        if key != name:
            raise ContentError(f"{what}: the key {key[:40]!r} differs from {name!r} only in case")


def canonical_json(document: Mapping[str, Any]) -> bytes:
    """Encode a document of our own: compact, UTF-8, keys in the order given.

    Raises `ContentError` for a document, taken over from somewhere else, that is nested too deeply.
    """
    try:
        return _COMPACT.encode(document).encode("utf-8")
    except RecursionError:
        raise ContentError("a JSON document is nested too deeply to be written") from None


def _kind(value: object) -> str:
    return "nothing" if value is None else type(value).__name__
