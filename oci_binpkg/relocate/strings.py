"""Prefixes in the constants of binaries, rewritten in place. Pure.

A constant cannot move, because code holds its address, so the new prefix has to do with the room of the old one. Three
facts decide how:

- A path may begin with any number of slashes. A shorter prefix is therefore padded with slashes *in front*, and the
  rest of the string stays where it is; slashes that stand before an old prefix, as an earlier relocation leaves them,
  are room for a longer one.
- Linkers merge a string into the end of a longer one (`SHF_MERGE | SHF_STRINGS`): code that says `"a"` may point into
  the last character of a path. Such a pointer cannot be seen, so the last `TAIL` characters of a string are left
  as they are, which in nearly all strings they are: a file name follows the prefix, or the prefix ends as before.
- Where the prefix is all but the whole string and ends in other characters, the string is instead ended early with a
  NUL. Its old tail stays behind that, and pointers into it stay good, if at least `TAIL` characters of it are
  left: the prefix must become more than `TAIL` bytes shorter.

What fits neither way is a finding and is left alone. With a new prefix of equal length (slashes before it counted) such
a string is rewritten all the same, and a finding says that its tail changed.

A mention counts wherever it stands, also in the middle of a word: strings of languages that store lengths follow one
another without separation, and compilers record their options glued together.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from mmap import MADV_DONTNEED, PAGESIZE, mmap
from typing import Final

from oci_binpkg.relocate.edits import Edited, FindingKind, Findings, Patch, RelocationFinding
from oci_binpkg.relocate.prefixes import Buffer, PrefixMap

TAIL: Final = 7
"""How many characters another string may share: what Spack assumes too. Longer ones do not end like a prefix."""

WINDOW: Final = 16 * 1024 * 1024
"""How much of a mapped file is looked at before its memory is given back."""
_LONGEST_SHOWN: Final = 4096
_URL: Final = re.compile(rb"(?<![\w/])[a-z][a-z0-9+.\-]*:$")
_LONGEST_SCHEME: Final = 20

Span = tuple[int, int]


def relocate_strings(
    data: Buffer, mapping: PrefixMap, *, start: int = 0, end: int | None = None, skip: Sequence[Span] = ()
) -> Edited:
    """Return the edits of `data[start:end]` outside the spans of `skip` (sorted). Sizes never change."""
    stop = len(data) if end is None else end
    patches: list[Patch] = []
    findings = Findings()
    low = start
    for at, old, new in _mentions(data, mapping, start, stop, skip):
        if old != new:
            patch, finding = _replace(data, mapping, at, low, stop)
            patches += [patch] if patch else []
            if finding:
                findings.add(finding)
        low = at + len(old)
    return Edited(tuple(patches), tuple(findings.kept), findings.further)


def remaining(
    data: Buffer, mapping: PrefixMap, *, start: int = 0, end: int | None = None, skip: Sequence[Span] = ()
) -> Iterator[int]:
    """Yield where old prefixes stand that are not part of a new one: none are left after a relocation."""
    stop = len(data) if end is None else end
    for at, old, _ in _mentions(data, mapping, start, stop, skip):
        if not mapping.is_new(data, at, old):
            yield at


def is_left(text: Buffer, mapping: PrefixMap) -> bool:
    """Return whether an old prefix stands anywhere in `text` that is not part of a new one."""
    return next(remaining(text, mapping), None) is not None


def _mentions(
    data: Buffer, mapping: PrefixMap, start: int, stop: int, skip: Sequence[Span]
) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield every place of an old prefix, with the longest pair that applies there."""
    if not mapping:
        return
    begins = [begin for begin, _ in skip]
    at = start
    while (at := _next(data, mapping, at, stop)) >= 0:
        place = bisect_right(begins, at) - 1
        if place >= 0 and at < skip[place][1]:
            at = skip[place][1]
            continue
        pair = mapping.pair_at(data, at)
        if pair is not None and at + len(pair[0]) <= stop:
            yield at, *pair
        at += len(pair[0]) if pair is not None else 1


def _next(data: Buffer, mapping: PrefixMap, at: int, stop: int) -> int:
    """Return where a prefix may stand next, -1 if nowhere.

    A mapped file is looked at in windows: what was read of it would count as memory until all of it is.
    """
    finder, overlap = mapping.old.finder, mapping.old.longest
    while at < stop:
        end = min(stop, at + WINDOW)
        found = finder.search(data, at, min(stop, end + overlap))
        place = found.start() if found else -1
        del found  # it would keep a mapped file from being closed
        if place >= 0:
            return place
        if isinstance(data, mmap):
            forget(data, end)
        at = end
    return -1


def forget(data: mmap, end: int) -> None:
    """Give back the memory of a mapped file up to a place; what is needed of it again is read again."""
    data.madvise(MADV_DONTNEED, 0, end // PAGESIZE * PAGESIZE)


def _replace(
    data: Buffer, mapping: PrefixMap, at: int, low: int, stop: int
) -> tuple[Patch | None, RelocationFinding | None]:
    """Decide about the mention at `at`; nothing before `low` or from `stop` on belongs to its string."""
    old, new = mapping.longest_at(data, at)
    slashes = _free_slashes(data, at, low)
    before, after = b"/" * slashes + old, new.rjust(slashes + len(old), b"/")
    if len(after) > len(before):
        return None, _finding(FindingKind.CANNOT_GROW, data, at, (old, new), len(before))
    behind = at + len(old)
    nul = data.find(b"\0", behind, min(behind + TAIL, stop))
    exposed = TAIL - (nul - behind) if nul >= 0 else 0
    if not exposed or before[-exposed:] == after[-exposed:]:
        return Patch(at - slashes, after), None
    if len(new) >= len(old):
        return Patch(at - slashes, after), _finding(FindingKind.TAIL_CHANGED, data, at, (old, new), len(before))
    rest = bytes(data[behind : nul + 1])
    if len(old) - len(new) > TAIL and not mapping.old.stands_in(rest):
        return Patch(at, new + rest), None
    return None, _finding(FindingKind.CANNOT_SHRINK, data, at, (old, new), len(old) - TAIL - 1)


def _free_slashes(data: Buffer, at: int, low: int) -> int:
    """Count the slashes before a prefix that mean nothing; the two of a URL do."""
    first = at
    while first > low and data[first - 1] == ord("/"):
        first -= 1
    if at - first > 1 and _URL.search(bytes(data[max(low, first - _LONGEST_SCHEME) : first])):
        return at - first - 2
    return at - first


def _finding(kind: FindingKind, data: Buffer, at: int, pair: tuple[bytes, bytes], room: int) -> RelocationFinding:
    first = data.rfind(b"\0", max(0, at - _LONGEST_SHOWN), at) + 1 or max(0, at - _LONGEST_SHOWN)
    last = data.find(b"\0", at, at + _LONGEST_SHOWN)
    string = bytes(data[first : last if last >= 0 else at + _LONGEST_SHOWN])
    return RelocationFinding(kind, at, string, *pair, room)
