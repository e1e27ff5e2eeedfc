"""What is to be changed in a file, as values: bytes that take the place of others, bytes put at the end, findings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

MOST_FINDINGS: Final = 100
"""Findings of one file that are kept."""


class FindingKind(StrEnum):
    """What is the matter with a string."""

    CANNOT_GROW = "cannot grow"
    CANNOT_SHRINK = "cannot shrink"
    TAIL_CHANGED = "tail changed"


@dataclass(frozen=True, slots=True)
class RelocationFinding:
    """A string that holds an old prefix and was not, or not safely, changed.

    `offset` is the place of the prefix in the file, `string` the whole string around it (cut if very long), `room` how
    many bytes a new prefix may have there.
    """

    kind: FindingKind
    offset: int
    string: bytes
    old: bytes
    new: bytes
    room: int

    @property
    def is_stale(self) -> bool:
        """Whether the old prefix is still there."""
        return self.kind is not FindingKind.TAIL_CHANGED

    @property
    def missing(self) -> int:
        """How many bytes the new prefix is too long by."""
        return len(self.new) - self.room


@dataclass(slots=True)
class Findings:
    """Findings as they come: the first hundred, of the others the number. The tightest one is among those kept."""

    kept: list[RelocationFinding] = field(default_factory=list)
    further: int = 0

    def add(self, finding: RelocationFinding) -> None:
        """Take the next one."""
        if len(self.kept) < MOST_FINDINGS:
            self.kept.append(finding)
            return
        self.further += 1
        tightest = max(self.kept, key=_tightness)
        if _tightness(finding) > _tightness(tightest):
            self.kept[-1] = finding


@dataclass(frozen=True, slots=True)
class Patch:
    """Bytes that take the place of as many others. Beyond the end of the file they extend it."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Edited:
    """The changes to one file, none of which overlap, and what was found on the way.

    `further` counts findings that were not kept.
    """

    patches: tuple[Patch, ...] = ()
    findings: tuple[RelocationFinding, ...] = ()
    further: int = 0

    def __bool__(self) -> bool:
        return bool(self.patches)

    @property
    def stale(self) -> tuple[RelocationFinding, ...]:
        """The findings that leave an old prefix behind."""
        return tuple(finding for finding in self.findings if finding.is_stale)

    def apply(self, data: bytes) -> bytes:
        """Return the changed bytes; a gap before a patch beyond the end is filled with zeros."""
        changed = bytearray(data)
        for patch in self.patches:
            changed.extend(bytes(max(0, patch.offset - len(changed))))
            changed[patch.offset : patch.offset + len(patch.data)] = patch.data
        return bytes(changed)


def merged(parts: Iterable[Edited]) -> Edited:
    """Return several edits of one file as one."""
    patches: list[Patch] = []
    findings = Findings()
    for part in parts:
        patches += part.patches
        findings.further += part.further
        for found in part.findings:
            findings.add(found)
    return Edited(tuple(patches), tuple(findings.kept), findings.further)


def _tightness(finding: RelocationFinding) -> tuple[bool, int]:
    return finding.is_stale, finding.missing
