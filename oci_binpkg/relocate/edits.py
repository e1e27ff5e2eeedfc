"""The changes of a file, and the results of relocating a tree. Values.

Edits are bytes that take the place of others, or that are put at the end. Findings are strings that were left as they
are. A report sums up a whole tree, and becomes the error if some of it could not be changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from operator import attrgetter
from typing import Any, Final

from oci_binpkg.errors import RelocationError

FIRST_FILES: Final = 5
"""Names of files that a remark about many gives."""
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
    """Findings in order: the first hundred, and the number of the others. The tightest one is always kept."""

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

    `further` counts findings that were not kept, `unread` the old prefixes left where no program reads them.
    """

    patches: tuple[Patch, ...] = ()
    findings: tuple[RelocationFinding, ...] = ()
    further: int = 0
    unread: int = 0

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
    unread = 0
    for part in parts:
        patches += part.patches
        findings.further += part.further
        unread += part.unread
        for found in part.findings:
            findings.add(found)
    return Edited(tuple(patches), tuple(findings.kept), findings.further, unread)


def _tightness(finding: RelocationFinding) -> tuple[bool, int]:
    return finding.is_stale, finding.missing


@dataclass(frozen=True, slots=True)
class StaleString:
    """A string in a file (relative to the prefix) that still holds an old prefix, or whose tail changed."""

    path: str
    finding: RelocationFinding

    @property
    def missing(self) -> int:
        """How many bytes the new prefix is too long by."""
        return self.finding.missing


@dataclass(frozen=True, slots=True)
class Remark:
    """A file worth knowing about, with a sentence why: it was left alone, or needs a look.

    `kind` is what several such files do, as `mention an old prefix`; without it they share the reason up to its colon.
    """

    path: str
    reason: str
    kind: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class RelocationReport:
    """All paths are relative to the prefix, in sorted order.

    `changed` holds files and links. `stale` strings still hold an old prefix; `tails` were changed, in a place that
    another string of the same program might use too. `reported` files mention an old prefix and were not changed, or
    are remarkable otherwise.
    """

    changed: tuple[str, ...] = ()
    stale: tuple[StaleString, ...] = ()
    tails: tuple[StaleString, ...] = ()
    reported: tuple[Remark, ...] = ()


def remarks_of(report: RelocationReport) -> Iterator[Remark]:
    """Yield what people may want to know of each file, those with old paths first."""
    for stale in report.stale:
        text = stale.finding.string[:200].decode("utf-8", "replace")
        reason = f"still holds {text!r}: at most {stale.finding.room} bytes fit there"
        yield Remark(stale.path, reason, "still hold an old path, where the new one does not fit")
    for tail in report.tails:
        reason = f"the end of a string at byte {tail.finding.offset} moved, which another string might share"
        yield Remark(tail.path, reason, "hold a string whose end moved, which another one might share")
    yield from report.reported


@dataclass(frozen=True, slots=True)
class CountedRemark:
    """All remarks of a kind: how many there are, the first files that they are about, and a line that says it.

    One that is about a package as a whole names no files.
    """

    kind: str
    count: int
    files: tuple[str, ...]
    line: str

    @classmethod
    def of_package(cls, reason: str) -> CountedRemark:
        """Return a remark on a package as a whole."""
        return cls(reason, 1, (), reason)

    def __str__(self) -> str:
        return self.line

    def to_json(self) -> dict[str, Any]:
        """Return the JSON document."""
        return {"kind": self.kind, "count": self.count, "files": list(self.files)}


def counted_remarks(report: RelocationReport) -> tuple[CountedRemark, ...]:
    """Return what is to be remarked by kind: how many files it is about; a single file is named with its reason."""
    kinds: dict[str, list[Remark]] = {}
    for remark in remarks_of(report):
        kinds.setdefault(remark.kind or f": {remark.reason.partition(': ')[0]}", []).append(remark)
    return tuple(_counted(kind, remarks) for kind, remarks in kinds.items())


def _counted(kind: str, remarks: Sequence[Remark]) -> CountedRemark:
    paths = dict.fromkeys(remark.path for remark in remarks)
    if len(remarks) == 1:
        line = f"{remarks[0].path}: {remarks[0].reason}"
    else:
        files = f"{len(paths):,} files" if len(paths) > 1 else f"{len(remarks):,} strings of {remarks[0].path}"
        line = f"{files}{kind if kind.startswith(':') else f' {kind}'}"
    return CountedRemark(kind.removeprefix(": "), len(remarks), tuple(paths)[:FIRST_FILES], line)


def stale_error(stale: tuple[StaleString, ...], *, prefix: str, root: str, further: int = 0) -> RelocationError:
    """Return the error for constants that cannot be changed: the tightest of them, and the lengths that would fit.

    `prefix` is where the package was to go, `root` the install root it lies in ("" if unknown), `further` how many
    others were only counted.
    """
    worst = max(stale, key=attrgetter("missing"))
    finding = worst.finding
    longest_root = _longest_root(stale, root)
    text = finding.string.decode("utf-8", "replace")
    shown = text if len(text) <= 300 else f"...{text[:300]}..."  # noqa: PLR2004
    what = "no room for" if finding.kind is FindingKind.CANNOT_GROW else "a tail that others may share, and not"
    message = (
        f"{prefix or 'package'}: {worst.path}: the constant {shown!r} at byte {finding.offset} has {what} "
        f"{finding.new.decode('utf-8', 'replace')} ({len(finding.new)} bytes); at most {finding.room} bytes fit there"
    )
    if len(stale) + further > 1:
        message += f"; {len(stale) + further} such constants in {len({one.path for one in stale})} files"
    return RelocationError(
        message, hint=_hint(longest_root, root, finding), longest_prefix=finding.room, longest_root=longest_root
    )


def _longest_root(stale: tuple[StaleString, ...], root: str) -> int | None:
    """Return the longest install root with which all constants would fit."""
    size = len(root.rstrip("/").encode("utf-8", "surrogateescape"))
    inside = root.rstrip("/").encode("utf-8", "surrogateescape")
    found = [size - one.missing for one in stale if root and one.finding.new.startswith(inside)]
    return min(found, default=None) if len(found) == len(stale) else None


def _hint(longest_root: int | None, root: str, finding: RelocationFinding) -> str:
    otherwise = "build the package below a padded root, or allow stale constants if nothing uses them"
    if longest_root is None:
        return f"install to a place where this prefix has at most {finding.room} bytes, {otherwise}"
    if longest_root < len("/x"):
        return otherwise[0].upper() + otherwise[1:]
    have = len(root.rstrip("/").encode("utf-8", "surrogateescape"))
    return f"install below a root of at most {longest_root} bytes ({root} has {have}), {otherwise}"
