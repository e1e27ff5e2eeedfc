"""Paths of a tree in its own text files: whether they lead somewhere. Cheap, and never more than a remark.

What is written under `var` at run time, and what goes on with a pattern or a variable, is not asked for.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Final

from oci_binpkg.runs.obstacles import Obstacle, ObstacleKind
from oci_binpkg.runs.view import FileView

LARGEST_TEXT: Final = 1024 * 1024
"""Longer texts are data, and are not read."""
MOST_SHOWN: Final = 3
"""So many paths of one file are named; the others are counted."""

_MOST_MENTIONS: Final = 1000
_TAIL: Final = rb"[^\x00-\x20\x7f\"'`:;,|<>()\[\]{}&*?$\\%@#!=^~]*"
_OPEN: Final = frozenset(b"*?$%@{[=#~")
"""What comes behind a path that is only the beginning of one."""
_PATH_CHARACTERS: Final = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.+~/-"
_MAY_BE_BEFORE: Final = re.compile(rb"|-[^/]*|.*//", re.DOTALL)
"""Before a path from the root stands nothing that belongs to it, an option such as -I, or the beginning of a URL."""
_MADE_LATER: Final = frozenset({"var", "tmp", "run"})
_LOOK_BACK: Final = 128
_EVERYBODYS: Final = frozenset({"/", "/usr", "/usr/local", "/opt", "/home", "/srv", "/mnt", "/var", "/tmp"})  # noqa: S108
_DEEP: Final = 4
_MOST_ROOTS: Final = 50


@dataclass(frozen=True, slots=True)
class Mentions:
    """Looks for mentions of the tree with these prefixes; what was found on the disk is kept."""

    view: FileView
    prefixes: frozenset[str]
    _known: dict[str, bool] = field(default_factory=dict)
    _roots: list[bytes] = field(default_factory=list)
    _finder: list[re.Pattern[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Find the folders that all prefixes lie in: one search goes through a text faster than many."""
        self._roots.extend(map(os.fsencode, _roots_of(self.prefixes)))
        if self._roots:
            self._finder.append(re.compile(b"(?:" + b"|".join(map(re.escape, self._roots)) + b")/" + _TAIL))

    def obstacles(self, path: str, text: bytes) -> Iterator[Obstacle]:
        """Yield the paths in a text that lead nowhere, the first few by name."""
        if not any(root in text for root in self._roots):
            return
        lost = [found for found in dict.fromkeys(self._paths(text)) if not self._leads(found)]
        for found in lost[:MOST_SHOWN]:
            yield Obstacle(path, ObstacleKind.PATH, found, f"names {found}, where nothing is", stops=False)
        if further := len(lost[MOST_SHOWN:]):
            reason = f"names {further} more paths where nothing is"
            yield Obstacle(path, ObstacleKind.PATH, "", reason, stops=False)

    def _paths(self, text: bytes) -> Iterator[str]:
        for number, found in enumerate(self._finder[0].finditer(text)):
            if number == _MOST_MENTIONS:
                return
            before = text[max(0, found.start() - _LOOK_BACK) : found.start()]
            if not _MAY_BE_BEFORE.fullmatch(before, len(before.rstrip(_PATH_CHARACTERS))):
                continue  # the end of another path
            name = found[0]
            if found.end() < len(text) and text[found.end()] in _OPEN:
                name = name[: name.rindex(b"/")]
            yield os.fsdecode(name.rstrip(b"./-")) if name[-1:] in b"./-" else os.fsdecode(name)

    def _leads(self, path: str) -> bool:
        if path not in self._known:
            self._known[path] = self._is_made_later(path) or self.view.status(path) is not None
        return self._known[path]

    def _is_made_later(self, path: str) -> bool:
        folder, inside = os.path.dirname(path), os.path.basename(path)
        while folder not in self.prefixes and folder != "/":
            folder, inside = os.path.split(folder)
        return folder in self.prefixes and inside in _MADE_LATER


def _roots_of(prefixes: Collection[str]) -> list[str]:
    """Return few folders that hold all prefixes, none of them one that holds everything else as well."""
    common = os.path.commonpath(list(prefixes)) if prefixes else ""
    if common and common not in _EVERYBODYS:
        return [common]
    roots = {"/".join(prefix.split("/")[:_DEEP]) for prefix in prefixes}
    return sorted(roots)[:_MOST_ROOTS]
