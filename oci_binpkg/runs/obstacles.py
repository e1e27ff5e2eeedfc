"""What keeps installed files from running, as values, and the verdict on a whole tree."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

SHOWN: Final = 8
"""How many directories or files a sentence lists before it counts the others."""


class ObstacleKind(StrEnum):
    """What is wrong with a file."""

    INTERPRETER = "interpreter"
    LIBRARY = "library"
    VERSION = "version"
    PLATFORM = "platform"
    LEVEL = "level"
    SCRIPT = "script"
    LINK = "link"
    PATH = "path"
    BYTECODE = "bytecode"
    DAMAGED = "damaged"
    UNREADABLE = "unreadable"


_COUNTED: Final = {
    ObstacleKind.INTERPRETER: "programs without their interpreter",
    ObstacleKind.LIBRARY: "libraries that are not found",
    ObstacleKind.VERSION: "symbol versions that are not defined",
    ObstacleKind.PLATFORM: "files for another platform",
    ObstacleKind.LEVEL: "files for a later processor",
    ObstacleKind.SCRIPT: "scripts without their interpreter",
    ObstacleKind.LINK: "links that lead nowhere",
    ObstacleKind.PATH: "paths in texts that lead nowhere",
    ObstacleKind.BYTECODE: "compiled Python files that are not current",
    ObstacleKind.DAMAGED: "damaged files",
    ObstacleKind.UNREADABLE: "files that cannot be read",
}


@dataclass(frozen=True, slots=True)
class Obstacle:
    """One thing that keeps a file from running, or is worth knowing about it.

    `needed` is what it asks for, `reason` the rest of the sentence, `looked` where that was looked for, `offered` the
    files that would have it or were refused. `by` is the file outside of the tree that asks, "" if it is the file
    itself. `stops` says that the file does not run or cannot be loaded; otherwise it may work.
    """

    path: str
    kind: ObstacleKind
    needed: str
    reason: str
    stops: bool = True
    looked: tuple[str, ...] = ()
    offered: tuple[str, ...] = ()
    by: str = ""

    @property
    def counted(self) -> str:
        """What several of its kind are called."""
        return _COUNTED[self.kind]

    def describe(self) -> str:
        """Return a sentence for people, which begins with the path."""
        text = f"{self.path}: {self.reason}"
        if self.by:
            text += f" (asked for by {self.by})"
        if self.looked:
            text += f"; looked for in {_listed(self.looked)}"
        if self.offered:
            text += f"; there is {_listed(self.offered)}"
        return text

    def to_json(self) -> dict[str, Any]:
        """Return the JSON document."""
        return {
            "path": self.path,
            "kind": self.kind.value,
            "needed": self.needed,
            "reason": self.reason,
            "stops": self.stops,
            "looked_in": list(self.looked),
            "offered": list(self.offered),
            "asked_by": self.by,
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was looked at, and what was found, sorted by path. `stopped` are programs and scripts that do not run."""

    programs: int = 0
    libraries: int = 0
    scripts: int = 0
    obstacles: tuple[Obstacle, ...] = ()
    stopped: tuple[str, ...] = ()

    @property
    def runs(self) -> bool:
        """Whether nothing was found that stops anything."""
        return not any(obstacle.stops for obstacle in self.obstacles)

    @property
    def stopping(self) -> tuple[Obstacle, ...]:
        """What keeps files from running."""
        return tuple(obstacle for obstacle in self.obstacles if obstacle.stops)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON document."""
        return {
            "runs": self.runs,
            "programs": self.programs,
            "libraries": self.libraries,
            "scripts": self.scripts,
            "stopped": list(self.stopped),
            "obstacles": [obstacle.to_json() for obstacle in self.obstacles],
        }


def _listed(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - SHOWN} more" if names[SHOWN:] else ""
    return ", ".join(names[:SHOWN]) + more
