"""What a relocation did to a tree, and the error when it could not do all of it. Values."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter

from oci_binpkg.errors import RelocationError
from oci_binpkg.relocate.edits import FindingKind, RelocationFinding


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
    """A file worth knowing about, with a sentence why: it was left alone, or needs a look."""

    path: str
    reason: str


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
