"""What a server asks for: `WWW-Authenticate` challenges and token scopes. Pure.

Source: RFC 9110 section 11 for the syntax, the token specification of the distribution registry for the parameters.
Servers send several challenges in one header, leave out quotes, mix cases and add schemes that nobody speaks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

_WORD_CHARACTERS: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_COMMA: Final = re.compile(r"[\s,]*,\s*|\s+")
_PARAMETER: Final = re.compile(
    rf'({_WORD_CHARACTERS})\s*+=\s*+(?:"((?:[^"\\]|\\.)*+)(?:"|\\?\Z)|([^\s,"]*+))', re.DOTALL
)
_WORD: Final = re.compile(rf"({_WORD_CHARACTERS})(?=[\s,]|\Z)")
_RUN: Final = re.compile(rf"{_WORD_CHARACTERS}|.", re.DOTALL)
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
_MAX_HEADER: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class Challenge:
    """One scheme (lower case) with its parameters (names in lower case)."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)

    @property
    def realm(self) -> str:
        """For Bearer: the address of the token server."""
        return self.parameters.get("realm", "")

    @property
    def service(self) -> str:
        """The name that the token server knows the registry by, or ""."""
        return self.parameters.get("service", "")

    @property
    def scopes(self) -> tuple[str, ...]:
        """The scopes asked for, in their order."""
        return tuple(self.parameters.get("scope", "").split())

    @property
    def error(self) -> str:
        """Why the last token was refused, e.g. `insufficient_scope`, or ""."""
        return self.parameters.get("error", "")


def parse_challenges(header: str) -> tuple[Challenge, ...]:
    """Parse a `WWW-Authenticate` value (several headers joined by commas). Never raises: the unreadable is skipped."""
    text = header[:_MAX_HEADER]
    found: list[tuple[str, dict[str, str]]] = []
    position, at_start = 0, True
    while position < len(text):
        if separator := _COMMA.match(text, position):
            at_start = at_start or "," in separator[0]
            position = separator.end()
        elif parameter := _PARAMETER.match(text, position):
            if found:
                found[-1][1].setdefault(parameter[1].lower(), _value(parameter))
            position, at_start = parameter.end(), False
        elif word := _WORD.match(text, position):
            if at_start:
                found.append((word[1].lower(), {}))
            position, at_start = word.end(), False
        else:
            # of a word that ends wrongly no rest ends better: to try each of them would take the square of its length
            unreadable = _RUN.match(text, position)
            position = unreadable.end() if unreadable else len(text)
    return tuple(Challenge(scheme, parameters) for scheme, parameters in found)


def _value(parameter: re.Match[str]) -> str:
    quoted: str | None = parameter[2]
    return _ESCAPE.sub(r"\1", quoted) if quoted is not None else parameter[3]


def choose(challenges: Iterable[Challenge], usable_realm: Callable[[str], bool]) -> Challenge | None:
    """Return the first Bearer challenge with a usable realm, else a Basic one, else None."""
    known = [challenge for challenge in challenges if challenge.scheme in {"bearer", "basic"}]
    for challenge in known:
        if challenge.scheme == "bearer" and usable_realm(challenge.realm):
            return challenge
    return next((challenge for challenge in known if challenge.scheme == "basic"), None)


def merge_scopes(scopes: Iterable[str]) -> tuple[str, ...]:
    """Merge the actions of scopes for the same resource, keeping the order of first appearance.

    The scope a server asked for goes first in a request: some read only that one.
    """
    actions: dict[str, list[str]] = {}
    for scope in scopes:
        resource, colon, wanted = scope.rpartition(":")
        known = actions.setdefault(resource if colon else scope, [])
        known.extend(action for action in wanted.split(",") if colon and action not in known)
    return tuple(f"{resource}:{','.join(wanted)}" if wanted else resource for resource, wanted in actions.items())


def repository_of(scopes: Iterable[str]) -> str:
    """Return the repository that the first `repository:NAME:ACTIONS` scope names, or ""."""
    for scope in scopes:
        if scope.startswith("repository:"):
            return scope.removeprefix("repository:").rpartition(":")[0]
    return ""
