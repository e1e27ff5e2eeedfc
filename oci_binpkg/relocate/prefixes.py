"""Prefixes in text: where one is mentioned, and what stands there after relocation. Pure.

The text rule is Spack's: a prefix counts where neither a `/` nor a name of a longer path stands before it, so that
`-I/opt/a` and `PATH=/opt/a` mention `/opt/a`, and `/stage/opt/a` does not. What follows the prefix is not looked at, if
the prefix holds a hash. Others may be part of other paths, as `/opt/a` is of `/opt/a-b` and `/etc/opt/a`: these count
as whole paths only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from oci_binpkg.relocate.boundaries import (
    LONGER_NAME,
    NEAR,
    Buffer,
    begins_path,
    follows_empty_slashes,
    follows_slash,
    path_end,
)
from oci_binpkg.relocate.prefix_set import PrefixSet, encoded, longest_first, path_bytes
from oci_binpkg.relocate.spellings import (
    BACKSLASHED,
    LONGEST_SPELLED,
    PLAIN,
    URL,
    WITH_SPECIALS,
    SpelledPath,
    Spelling,
    heads,
    in_address,
    is_odd,
    normal,
    plain_head,
    read_path,
    shorter_readings,
)

_SHORT_HASH: Final = 7
_COMPONENT: Final = re.compile(rb"/+((?:[\w+@~\-]|\.(?=[\w+@~\-./])|[\x80-\xff])+)")
_TAIL: Final = re.compile(rb"(?:(?:/|%2[fF])[\w.+@~%\-\x80-\xff]*)*")
_HASHED: Final = re.compile(rb"(?<![a-z0-9])[a-z2-7]{32}(?![a-z0-9])")


@dataclass(frozen=True, slots=True)
class PathMention:
    """Bytes of a file that mention an old prefix, `[start, end)`, and what takes their place.

    `old` is the prefix, whatever it looks like there; `plain_new` what it becomes, as a path.
    """

    start: int
    end: int
    old: bytes
    new: bytes
    plain_new: bytes
    spelling: Spelling = PLAIN
    separators: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class PrefixMap:
    """Old prefixes and what takes their place; the longest old prefix that fits wins.

    Identity pairs are left out, but for those below another old prefix: such a package stays where it is although the
    tree around it moves. Where none is bounded, texts follow Spack's rule alone, without other spellings.
    """

    pairs: tuple[tuple[bytes, bytes], ...]
    bounded: frozenset[bytes] = frozenset()
    roots: tuple[bytes, ...] = ()
    inside: frozenset[bytes] = frozenset()

    @classmethod
    def of(
        cls,
        pairs: Mapping[str, str],
        *,
        bounded: Iterable[str] = (),
        roots: Iterable[str] = (),
        inside: Iterable[str] = (),
    ) -> PrefixMap:
        """Collect pairs of absolute paths, longest old prefix first.

        Old prefixes in `bounded` count as whole paths only. Those in `roots` count by themselves and for the entries
        that they are known to have: the paths of `inside` begin with these. Without any they count for all.

        Raises `UsageError` for a relative path, `ContentError` for one that is invalid or lies too deep in others.
        """
        known_pairs = {encoded(old): encoded(new) for old, new in pairs.items()}
        known_pairs.pop(b"", None)
        moved = PrefixSet(tuple(old for old, new in known_pairs.items() if old != new))
        kept = [old for old, new in known_pairs.items() if old != new or moved.longest_of(old) is not None]
        ordered = tuple((old, known_pairs[old]) for old in sorted(kept, key=longest_first))
        bases = tuple(filter(None, (encoded(root) for root in roots if root)))
        paths = [encoded(path) for path in inside if path]
        known = {
            path[: _end_of_name(path, len(base) + 1)]
            for base in bases
            for path in paths
            if path.startswith(base + b"/")
        }
        return cls(ordered, frozenset(map(encoded, bounded)) & known_pairs.keys(), bases, frozenset(known))

    def __bool__(self) -> bool:
        return bool(self.pairs)

    @cached_property
    def old(self) -> PrefixSet:
        """The prefixes that are replaced."""
        return PrefixSet(tuple(old for old, _ in self.pairs))

    @cached_property
    def new(self) -> Mapping[bytes, bytes]:
        """Old prefix -> what takes its place."""
        return dict(self.pairs)

    @cached_property
    def longest_new(self) -> int:
        """The length of the longest new prefix."""
        return max((len(new) for _, new in self.pairs), default=0)

    def replace_text(self, text: bytes, seen: bytes | None = None) -> bytes:
        """Return `text` with every mention of an old prefix replaced; the same object if it has no mention.

        `seen` is the text with other characters in the place of some, if these look like parts of paths.
        """
        shown = text if seen is None else seen
        if not self.old.stands_in(shown) and not (self.bounded and self.old.may_be_spelled_in(shown)):
            return text
        pieces, end = list[bytes](), 0
        for found in self.mentions(shown):
            pieces += (text[end : found.start], found.new)
            end = found.end
        return b"".join((*pieces, text[end:])) if pieces else text

    def mentions(
        self, text: bytes, *, start: int = 0, limit: int | None = None, before: bool = False
    ) -> Iterator[PathMention]:
        """Yield, in order, the mentions of old prefixes that begin in `text[start:limit]`.

        `before`: whether the run of word characters that ends where `text` begins follows a slash.
        """
        stop = len(text) if limit is None else limit
        spelled = self.spelled(text, start, len(text), stop, in_text=True)
        other = next(spelled, None)
        at = start
        while True:
            exact = self._next_exact(text, at, stop if other is None else other.start + 1, before=before)
            found = exact or other
            if found is None:
                return
            yield found
            at = path_end(text, found.end)
            while other is not None and other.start < at:
                other = next(spelled, None)

    def _next_exact(self, text: bytes, at: int, limit: int, *, before: bool) -> PathMention | None:
        while (found := self.old.finder.search(text, at)) and found.start() < limit:
            at = found.start()
            old = self.mention_at(text, at, before=before)
            if old is not None:
                return self.mention_of(text, at, old, len(text))
            at += 1
        return None

    def spelled(self, data: Buffer, start: int, stop: int, limit: int, *, in_text: bool) -> Iterator[PathMention]:
        """Yield, in order, the mentions in other spellings that begin in `data[start:limit]` and end before `stop`."""
        if not self.bounded:
            return
        done = start
        for place, readings in self.old.spelled.find(data, start, stop, limit):
            tried = done
            for path in readings if place >= done else ():
                found = self._spelled_mention(data, path, in_text=in_text) if path.start >= done else None
                if found is not None and found.start < limit:
                    yield found
                    tried = found.end
                    break
                # what stands further on in a path is no beginning; with blanks in it that is less certain
                tried = max(tried, path.end) if self.old.are_safe else tried
            done = tried

    def _spelled_mention(self, data: Buffer, path: SpelledPath, *, in_text: bool) -> PathMention | None:
        found = self._resolved(path)
        if found is None or self._goes_on_plainly(data, path, *found[:2]):
            return None
        size, old, new = found
        head = plain_head(data, path.start, path.spelling)
        if not begins_path(head + path.path, len(head), strict=old in self.roots, in_text=in_text):
            return None
        return self._written(path, size, old, new)

    def mention_of(self, data: Buffer, at: int, old: bytes, stop: int) -> PathMention:
        """Return the mention of an old prefix that stands at a place; what follows may lead to another one.

        It ends before `stop`.
        """
        end = at + len(old)
        rest = bytes(data[end : min(stop, end + LONGEST_SPELLED)]) if self.bounded else b""
        rest = rest[: _end_of_tail(rest)]
        spellings: tuple[Spelling, ...] = (PLAIN,) if is_odd(rest) else ()
        if rest and (not self.old.are_safe or b"%" in rest):
            spellings += WITH_SPECIALS if not self.old.are_safe else (URL,)
        for spelling in spellings:
            path = read_path(data, at, spelling, stop)
            found = self._resolved(path)
            if found is not None and path.ends.get(found[0], 0) > end:
                return self._written(path, *found)
        new = self.new[old]
        return PathMention(at, end, old, in_address(data, at, new), new)

    def _resolved(self, path: SpelledPath) -> tuple[int, bytes, bytes] | None:
        found = (self.resolved(text) for text in shorter_readings(path.path))
        return next((each for each in found if each is not None), None)

    def _goes_on_plainly(self, data: Buffer, path: SpelledPath, size: int, old: bytes) -> bool:
        """Return whether the backslash before a root of one name does not belong to the path, which goes on without."""
        end = path.ends[size]
        rest = bytes(data[end : end + NEAR])
        is_short = path.spelling is BACKSLASHED and old.count(b"/") == 1 and rest.startswith(b"/")
        return is_short and _COMPONENT.match(rest) is not None and self._has_entry(old, rest)

    def _written(self, path: SpelledPath, size: int, old: bytes, new: bytes) -> PathMention:
        end = path.ends[size]
        separators = tuple(text for at, text in path.separators if at < end)
        written = path.spelling.written(new, separators)
        return PathMention(path.start, end, old, written, new, path.spelling, separators)

    def mention_at(self, text: bytes, at: int, *, before: bool = False) -> bytes | None:
        """Return the old prefix that a text mentions at a place.

        `before`: whether the run of word characters that ends where `text` begins follows a slash.
        """
        if not self.bounded:
            return None if follows_slash(text, at, before=before) else self.old.longest_at(text, at)
        spoken = not follows_slash(text, at, before=before) or follows_empty_slashes(text, at)
        for old in self._standing(text, at):
            if spoken and (old not in self.bounded or self._is_whole(text, at, old, in_text=True)):
                return old
        return None

    def _standing(self, data: Buffer, at: int) -> Iterator[bytes]:
        return self.old.all_of(bytes(data[at : at + self.old.longest]))

    def _is_whole(self, data: Buffer, at: int, old: bytes, *, in_text: bool) -> bool:
        """Return whether a prefix stands at a place as a whole path, or as the beginning of one in it."""
        behind = at + len(old)
        if LONGER_NAME.match(data, behind) is not None:
            return False
        is_root = old in self.roots
        if is_root and not self._has_entry(old, bytes(data[behind : behind + NEAR])):
            return False
        return begins_path(data, at, strict=is_root, in_text=in_text)

    def _has_entry(self, root: bytes, rest: bytes) -> bool:
        """Return whether a root is known to have what follows it, which is nothing, or a slash and a name."""
        if is_odd(rest):
            path = normal(root + rest[: _end_of_tail(rest)])
            if path == root:
                return True
            if not path.startswith(root + b"/"):
                return False
            rest = path[len(root) :]
        name = _COMPONENT.match(rest)
        if name is None or not self.inside:
            return True
        return root + b"/" + name[1].rstrip(b".") in self.inside or _HASHED.search(name[1]) is not None

    def replace_link(self, target: str) -> str:
        """Return the target of a symbolic link, changed if it is an old prefix or within one."""
        return self.replace_path(path_bytes(target)).decode("utf-8", "surrogateescape")

    def replace_path(self, path: bytes) -> bytes:
        """Return a single path, changed if it is an old prefix or within one; several slashes may stand before it."""
        found = self.resolved(path)
        if found is None:
            return path
        size, old, new = found
        return path if old == new and path[:size].lstrip(b"/") == old[1:] else new + path[size:]

    def resolved(self, path: bytes) -> tuple[int, bytes, bytes] | None:
        """Return how much of a path is to be replaced, the old prefix, and the new path; None if it is in none.

        What has empty components, `.` or `..` leads to where these say. As much of that as can stay stays.
        """
        literal = self._literal(path)
        if not path.startswith(b"/") or not is_odd(path.lstrip(b"/")):
            return literal
        whole = normal(path)
        found = self._literal(whole)
        if found is not None:
            target = found[2] + whole[found[0] :]
        elif literal is not None and self.roots and not any(whole.startswith(root + b"/") for root in self.roots):
            target = whole
        else:
            return literal
        for end in heads(path):
            plain = normal(path[:end])
            head = self._literal(plain)
            if head is not None:
                made = head[2] + plain[head[0] :]
                if normal(made + path[end:]) == target:
                    return end, head[1], made
        return len(path.rstrip(b"/")), (found or literal or (0, b""))[1], target

    def _literal(self, path: bytes) -> tuple[int, bytes, bytes] | None:
        plain = b"/" + path.lstrip(b"/") if path.startswith(b"/") else path
        # no old prefix is longer, and each ends where a component does
        end = len(plain) if len(plain) <= self.old.longest else plain.rfind(b"/", 0, self.old.longest + 1)
        while end > 0:
            old = plain[:end]
            new = self.new.get(old)
            if new is not None and (old not in self.roots or self._has_entry(old, plain[end:])):
                return len(path) - len(plain) + end, old, new
            end = plain.rfind(b"/", 0, end)
        return None

    def replace_relative(self, path: bytes, old_place: bytes, new_place: bytes) -> bytes:
        """Return a relative path that stands in a file of the directory `old_place`, for one of `new_place`.

        It leads to where the same thing is now. What lies in no old prefix is taken to stay where it is, unless it lies
        in the old root: such a path stays as it is, as does one that is right already. Both places are absolute.
        """
        target = os.path.normpath(os.path.join(old_place, path))
        moved = self.replace_path(target)
        if moved == target and any(target.startswith(root + b"/") for root in self.roots):
            return path
        if os.path.normpath(os.path.join(new_place, path)) == moved:
            return path
        return os.path.relpath(moved, new_place) + (b"/" if path.endswith(b"/") else b"")

    def standing_at(self, data: Buffer, at: int) -> bytes | None:
        """Return the old prefix that bytes which are no text mention at a place."""
        if not self.bounded:
            return self.old.longest_at(data, at)
        for old in self._standing(data, at):
            if old not in self.bounded or self._is_whole(data, at, old, in_text=False):
                return old
        return None

    def is_new(self, data: Buffer, found: PathMention) -> bool:
        """Return whether a mention is part of a new prefix, which may contain an old one."""
        at, write = found.start, found.spelling.written
        for back, new in self._within.get(found.old, ()):
            text, before = write(new, found.separators), len(write(new[:back], found.separators)) if back else 0
            for written, head in ((text, before), (in_address(data, at - back, new), back)):
                if at >= head and data[at - head : at - head + len(written)] == written:
                    return True
        return False

    @cached_property
    def _within(self) -> Mapping[bytes, list[tuple[int, bytes]]]:
        """Old prefix -> the new prefixes that contain it, each with the distance from its beginning."""
        found: dict[bytes, list[tuple[int, bytes]]] = {}
        for new in sorted({new for _, new in self.pairs}):
            at = 0
            while place := self.old.finder.search(new, at):
                at = place.start()
                for old in self.old.all_of(new[at:]):
                    found.setdefault(old, []).append((at, new))
                at += 1
        return found


def mapping_for(
    old: Mapping[str, str],
    new: Mapping[str, str],
    *,
    root: tuple[str, str] = ("", ""),
    sbang: tuple[str, str] = ("", ""),
    real: Mapping[str, str] | None = None,
    real_root: str = "",
    other_roots: Sequence[str] = (),
) -> PrefixMap:
    """Combine what an archive records with where things are now: hash -> prefix on both sides, and pairs (old, new).

    `real` and `real_root` are where the old prefixes and the old root were with links resolved. A hash without a new
    prefix is left to the fallback, root to root, which counts for entries of the old root that the record names and for
    those named by a hash. A prefix without its hash counts as a whole path only, as the root does. For a spliced
    package `new` gives, under the old dependency's hash, the prefix of the dependency that took its place. A pair with
    an empty side is left out. `other_roots` are further paths of the old root.
    """
    roots = [each for each in (*other_roots, real_root) if each]
    pairs = dict([pair for pair in (*((each, root[1]) for each in roots), root, sbang) if all(pair)])
    inner = [
        (key, prefix[len(root[0]) :]) for key, prefix in old.items() if root[0] and prefix.startswith(f"{root[0]}/")
    ]
    linked = [(key, each + path) for each in other_roots for key, path in inner]
    known = [*linked, *(real or {}).items(), *old.items()]
    pairs.update((prefix, new[key]) for key, prefix in known if prefix and new.get(key))
    hashed = {prefix for key, prefix in known if key[:_SHORT_HASH] in prefix.rpartition("/")[2]}
    return PrefixMap.of(
        pairs,
        bounded=[each for each in pairs if each not in hashed],
        roots=(root[0], *roots),
        inside=(*(prefix for _, prefix in known), sbang[0]),
    )


def _end_of_name(path: bytes, at: int) -> int:
    end = path.find(b"/", at)
    return end if end >= 0 else len(path)


def _end_of_tail(text: bytes) -> int:
    found = _TAIL.match(text)
    return found.end() if found else 0
