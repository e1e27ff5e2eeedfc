"""The `Link` header of an answer (RFC 8288): where the next page is. Pure, and linear in the header's length."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

MAX_LINK: Final = 16 * 1024
"""Characters of the header that are looked at: an address and its parameters take a few hundred."""
_CLOSED_BY: Final = {"<": ">", '"': '"'}


def next_page(header: str) -> str:
    """Return the target of the first link to the next page, "" without one. Never raises.

    A link without parameters counts as one, and the target may stand without `<>`: some registries write it so.
    """
    for target, *parameters in _links(header[:MAX_LINK]):
        plain = target.strip()
        plain = plain[1:-1] if plain.startswith("<") and plain.endswith(">") else plain
        if plain and not any(mark in plain for mark in "<> \t") and (not any(parameters) or _is_next(parameters)):
            return plain
    return ""


def _is_next(parameters: list[str]) -> bool:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "rel" and "next" in value.strip().strip('"').lower().split():
            return True
    return False


def _links(text: str) -> Iterator[list[str]]:
    """Yield each link as its target and its parameters. What stands in `<>` or in quotes is not cut."""
    parts, start, closing, escaped = list[str](), 0, "", False
    for at, character in enumerate(text):
        if escaped:
            escaped = False
        elif closing:
            escaped = character == "\\" and closing == '"'
            closing = "" if character == closing else closing
        elif character in _CLOSED_BY:
            closing = _CLOSED_BY[character]
        elif character in ",;":
            parts.append(text[start:at])
            start = at + 1
            if character == ",":
                yield parts
                parts = []
    yield [*parts, text[start:]]
