"""What is to be changed in a file, as values: bytes that take the place of others, bytes put at the end, findings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class FindingKind(StrEnum):
    """What is the matter with a string."""

    CANNOT_GROW = "cannot grow"
    CANNOT_SHRINK = "cannot shrink"
    TAIL_CHANGED = "tail changed"


@dataclass(frozen=True, slots=True)
class Finding:
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


@dataclass(frozen=True, slots=True)
class Patch:
    """Bytes that take the place of as many others. Beyond the end of the file they extend it."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Edited:
    """The changes to one file, none of which overlap, and what was found on the way."""

    patches: tuple[Patch, ...] = ()
    findings: tuple[Finding, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.patches)

    @property
    def stale(self) -> tuple[Finding, ...]:
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
    listed = list(parts)
    return Edited(
        tuple(patch for part in listed for patch in part.patches),
        tuple(found for part in listed for found in part.findings),
    )
