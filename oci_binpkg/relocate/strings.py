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
from dataclasses import replace
from typing import Final

from oci_binpkg.relocate.boundaries import Buffer
from oci_binpkg.relocate.edits import Edited, FindingKind, Findings, Patch, RelocationFinding, merged
from oci_binpkg.relocate.passes import next_match
from oci_binpkg.relocate.prefixes import PathMention, PrefixMap
from oci_binpkg.relocate.spellings import BACKSLASHED
from oci_binpkg.relocate.wide import WideString, wide_strings

TAIL: Final = 7
"""How many characters another string may share: what Spack assumes too. Longer ones do not end like a prefix."""
_LONGEST_SHOWN: Final = 4096
_URL: Final = re.compile(rb"(?<![\w/])[a-z][a-z0-9+.\-]*:$")
_LONGEST_SCHEME: Final = 20

Span = tuple[int, int]


def relocate_strings(
    data: Buffer, mapping: PrefixMap, *, start: int = 0, end: int | None = None, skip: Sequence[Span] = ()
) -> Edited:
    """Return the edits of `data[start:end]` outside the spans of `skip` (sorted). Sizes never change."""
    stop = len(data) if end is None else end
    narrow = _relocate(data, mapping, start, stop, skip)
    return merged(
        (
            narrow,
            *(
                _widened(_relocate(each.text, mapping, 0, len(each.text), ()), each)
                for each in _wide(data, mapping, start, stop, skip)
            ),
        )
    )


def _relocate(data: Buffer, mapping: PrefixMap, start: int, stop: int, skip: Sequence[Span]) -> Edited:
    patches: list[Patch] = []
    findings = Findings()
    low = start
    for found in _mentions(data, mapping, start, stop, skip):
        if bytes(data[found.start : found.end]) != found.new:
            patch, finding = _replace(data, mapping, found, low, stop)
            patches += [patch] if patch else []
            if finding:
                findings.add(finding)
        low = found.end
    return Edited(tuple(patches), tuple(findings.kept), findings.further)


def _wide(data: Buffer, mapping: PrefixMap, start: int, stop: int, skip: Sequence[Span]) -> Iterator[WideString]:
    return wide_strings(data, mapping.old.spelled.wide_marks, start, stop, skip)


def _widened(edited: Edited, string: WideString) -> Edited:
    patches = tuple(Patch(string.place(patch.offset), string.encoded(patch.data)) for patch in edited.patches)
    findings = tuple(replace(found, offset=string.place(found.offset)) for found in edited.findings)
    return replace(edited, patches=patches, findings=findings)


def remaining(
    data: Buffer, mapping: PrefixMap, *, start: int = 0, end: int | None = None, skip: Sequence[Span] = ()
) -> Iterator[int]:
    """Yield where old prefixes stand that are not part of a new one: none are left after a relocation."""
    stop = len(data) if end is None else end
    yield from _remaining(data, mapping, start, stop, skip)
    for string in _wide(data, mapping, start, stop, skip):
        yield from map(string.place, _remaining(string.text, mapping, 0, len(string.text), ()))


def _remaining(data: Buffer, mapping: PrefixMap, start: int, stop: int, skip: Sequence[Span]) -> Iterator[int]:
    for found in _mentions(data, mapping, start, stop, skip):
        if not mapping.is_new(data, found):
            yield found.start


def wide_encoding_of(data: Buffer, mapping: PrefixMap) -> str:
    """Return the encoding in which an old prefix stands in `data` first, if that is UTF-16 or UTF-32, "" otherwise."""
    return next(
        (
            string.encoding
            for string in _wide(data, mapping, 0, len(data), ())
            if next(_mentions(string.text, mapping, 0, len(string.text), ()), None)
        ),
        "",
    )


def is_left(text: Buffer, mapping: PrefixMap) -> bool:
    """Return whether an old prefix stands anywhere in `text` that is not part of a new one."""
    return next(remaining(text, mapping), None) is not None


def _mentions(data: Buffer, mapping: PrefixMap, start: int, stop: int, skip: Sequence[Span]) -> Iterator[PathMention]:
    """Yield every mention of an old prefix, with the longest pair that applies there."""
    if not mapping:
        return
    begins = [begin for begin, _ in skip]
    spelled = mapping.spelled(data, start, stop, stop, in_text=False)
    other = next(spelled, None)
    at = start
    while found := _next_exact(data, mapping, at, stop if other is None else other.start + 1, stop) or other:
        place = bisect_right(begins, found.start) - 1
        if place >= 0 and found.start < skip[place][1]:
            at = skip[place][1]
        else:
            yield found
            at = found.end
        while other is not None and other.start < at:
            other = next(spelled, None)


def _next_exact(data: Buffer, mapping: PrefixMap, at: int, limit: int, stop: int) -> PathMention | None:
    finder, longest = mapping.old.finder, mapping.old.longest
    while (at := next_match(data, finder, at, min(stop, limit + longest), longest)) >= 0 and at < limit:
        old = mapping.standing_at(data, at)
        if old is not None and at + len(old) <= stop:
            return mapping.mention_of(data, at, old, stop)
        at += 1
    return None


def _replace(
    data: Buffer, mapping: PrefixMap, found: PathMention, low: int, stop: int
) -> tuple[Patch | None, RelocationFinding | None]:
    """Decide about a mention; nothing before `low` or from `stop` on belongs to its string."""
    at, behind, new = found.start, found.end, found.new
    old = bytes(data[at:behind])
    slashes = _free_slashes(data, at, low) if old.startswith(b"/") else 0
    before, after = b"/" * slashes + old, _padded(found, slashes + len(old))
    if len(after) > len(before):
        return None, _finding(FindingKind.CANNOT_GROW, data, found, len(before))
    nul = data.find(b"\0", behind, min(behind + TAIL, stop))
    exposed = TAIL - (nul - behind) if nul >= 0 else 0
    if not exposed or before[-exposed:] == after[-exposed:]:
        return Patch(at - slashes, after), None
    if len(new) >= len(old):
        return Patch(at - slashes, after), _finding(FindingKind.TAIL_CHANGED, data, found, len(before))
    rest = bytes(data[behind : nul + 1])
    if len(old) - len(new) > TAIL and not mapping.old.stands_in(rest):
        return Patch(at, new + rest), None
    return None, _finding(FindingKind.CANNOT_SHRINK, data, found, len(old) - TAIL - 1)


def _padded(found: PathMention, size: int) -> bytes:
    """Return the new path with as many slashes before it as fill its place.

    Escaped ones stand before an escaped path; where their length does not do, a plain one, which means the same.
    """
    unit = found.separators[0] if found.spelling is BACKSLASHED else b"/"
    units, rest = divmod(max(0, size - len(found.new)), len(unit))
    return b"/" * rest + unit * units + found.new


def _free_slashes(data: Buffer, at: int, low: int) -> int:
    """Count the slashes before a prefix that mean nothing; the two of a URL do."""
    first = at
    while first > low and data[first - 1] == ord("/"):
        first -= 1
    if at - first > 1 and _URL.search(bytes(data[max(low, first - _LONGEST_SCHEME) : first])):
        return at - first - 2
    return at - first


def _finding(kind: FindingKind, data: Buffer, mention: PathMention, room: int) -> RelocationFinding:
    at = mention.start
    first = data.rfind(b"\0", max(0, at - _LONGEST_SHOWN), at) + 1 or max(0, at - _LONGEST_SHOWN)
    last = data.find(b"\0", at, at + _LONGEST_SHOWN)
    string = bytes(data[first : last if last >= 0 else at + _LONGEST_SHOWN])
    return RelocationFinding(kind, at, string, mention.old, mention.new, room)
