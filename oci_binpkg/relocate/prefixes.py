"""Prefixes in text: where one is mentioned, and what stands there after relocation. Pure.

The text rule is Spack's: a prefix counts where neither a `/` nor a name of a longer path stands before it, so that
`-I/opt/a` and `PATH=/opt/a` mention `/opt/a`, and `/stage/opt/a` does not. What follows the prefix is not looked at, if
the prefix holds a hash. Others may be part of other paths, as `/opt/a` is of `/opt/a-b` and `/etc/opt/a`: these count
as whole paths only.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from mmap import mmap
from typing import Final

from oci_binpkg.errors import ContentError, UsageError

Buffer = bytes | bytearray | mmap
"""What is searched: bytes in memory or a file mapped into it."""

WORD: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
"""The characters that may run up to a prefix, as the `I` and the `-` of `-I/opt/a`."""
LONGEST: Final = 4095
"""Bytes of a path that the kernel takes."""
DEEPEST: Final = 64
"""How many prefixes may lie within one another, as a root, a tree in it, a package do."""
_FEW: Final = 32
_PATH: Final = WORD + b"/"
_LOOK_BACK: Final = 256
NEAR: Final = 260
"""How many bytes around a prefix decide whether it is a whole path."""
_SHORT_HASH: Final = 7
_NAME: Final = WORD + b".+@~"
_GOES_ON: Final = rb"(?:[\w+@~\-]|\.[\w+@~\-]|[\xc3-\xe1\xe4-\xf4]|\xe2(?![\x80\x81])|\xe3(?!\x80))"
"""What continues a name: no punctuation, in UTF-8 neither."""
_LONGER_NAME: Final = re.compile(_GOES_ON)
_COMPONENT: Final = re.compile(rb"/+((?:[\w+@~\-]|\.(?=[\w+@~\-./])|[\x80-\xff])+)")
_SCHEME: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.\-]{0,30}:$")
_HASHED: Final = re.compile(rb"(?<![a-z0-9])[a-z2-7]{32}(?![a-z0-9])")


@dataclass(frozen=True)
class PrefixSet:
    """Absolute directories to look for, as the bytes of their paths; empty ones and the root are left out.

    A hundred thousand cost no more passes over a text than one: what is looked for are the beginnings that all of them
    share (`needles`), and which prefix stands there is found in a sorted list.
    """

    prefixes: tuple[bytes, ...]

    @classmethod
    def of(cls, prefixes: Iterable[str]) -> PrefixSet:
        """Collect paths, longest first. Raises `UsageError` for a relative path, `ContentError` for an invalid one."""
        encoded = {_encode(prefix) for prefix in prefixes} - {b""}
        return cls(tuple(sorted(encoded, key=_longest_first)))

    @cached_property
    def shortest(self) -> tuple[bytes, ...]:
        """The prefixes that begin with no other one: whatever mentions any prefix mentions one of these."""
        paths, parents = self._chains
        return tuple(path for path, parent in zip(paths, parents, strict=True) if parent < 0)

    @cached_property
    def longest(self) -> int:
        """The length of the longest prefix."""
        return max(map(len, self.prefixes), default=0)

    @cached_property
    def needles(self) -> tuple[bytes, ...]:
        """A few beginnings, one of which stands wherever a prefix does: `shortest`, if these are few."""
        if len(self.shortest) <= _FEW:
            return self.shortest
        few, many = 1, max(map(len, self.shortest))  # so long they are few, so long they are many
        while many - few > 1:
            middle = (few + many) // 2
            if len({prefix[:middle] for prefix in self.shortest}) <= _FEW:
                few = middle
            else:
                many = middle
        return tuple(sorted({prefix[:few] for prefix in self.shortest}))

    @cached_property
    def are_exact(self) -> bool:
        """Whether a prefix stands wherever a needle does."""
        return self.needles is self.shortest

    @cached_property
    def finder(self) -> re.Pattern[bytes]:
        """Finds the next needle."""
        return re.compile(b"|".join(map(re.escape, self.needles)) or rb"(?!)")

    @cached_property
    def pattern(self) -> re.Pattern[bytes]:
        """The text rule: group 1 is the run of characters before, group 2 the prefix, group 3 the path that follows."""
        return text_pattern(self.prefixes)

    @cached_property
    def _chains(self) -> tuple[list[bytes], list[int]]:
        """The prefixes sorted, and for each the place of the longest other one that it begins with, -1 for none."""
        paths, parents = sorted(self.prefixes), list[int]()
        open_: list[int] = []
        for place, path in enumerate(paths):
            while open_ and not path.startswith(paths[open_[-1]]):
                open_.pop()
            parents.append(open_[-1] if open_ else -1)
            open_.append(place)
            if len(open_) > DEEPEST:
                raise ContentError(f"more than {DEEPEST} prefixes lie within one another")
        return paths, parents

    def longest_at(self, data: Buffer, at: int) -> bytes | None:
        """Return the longest prefix that stands at a place."""
        return self.longest_of(data[at : at + self.longest])

    def longest_of(self, text: bytes | bytearray) -> bytes | None:
        """Return the longest prefix that `text` begins with."""
        paths, parents = self._chains
        place = bisect_right(paths, text) - 1
        while place >= 0:
            if text.startswith(paths[place]):
                return paths[place]
            place = parents[place]
        return None

    def all_of(self, text: bytes) -> Iterator[bytes]:
        """Yield every prefix that `text` begins with."""
        found = self.longest_of(text)
        while found is not None:
            yield found
            paths, parents = self._chains
            parent = parents[bisect_right(paths, found) - 1]
            found = paths[parent] if parent >= 0 else None

    def stands_in(self, text: bytes) -> bool:
        """Return whether a prefix may stand anywhere in `text`, be it a mention or not."""
        return any(needle in text for needle in self.needles)

    def count_in(self, text: bytes) -> int:
        """Count the places in `text` where a prefix may stand."""
        return sum(map(text.count, self.needles))

    def mentions(self, text: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield the place and the prefix of every mention in `text`."""
        if self.are_exact:
            yield from ((match.start(2), match[2]) for match in self.pattern.finditer(text))
            return
        at = 0
        while found := self.finder.search(text, at):
            at = found.start()
            prefix = None if follows_slash(text, at) else self.longest_at(text, at)
            if prefix is None:
                at += 1
                continue
            yield at, prefix
            at = path_end(text, at + len(prefix))

    def is_target(self, link: str) -> bool:
        """Return whether the target of a symbolic link begins with one of the prefixes (as Spack looks at links)."""
        return self.longest_of(_bytes(link)) is not None


@dataclass(frozen=True)
class PrefixMap:
    """Old prefixes and what takes their place; the longest old prefix that fits wins.

    Identity pairs are left out, but for those below another old prefix: such a package stays where it is although the
    tree around it moves.
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
        encoded = {_encode(old): _encode(new) for old, new in pairs.items()}
        encoded.pop(b"", None)
        moved = PrefixSet(tuple(old for old, new in encoded.items() if old != new))
        kept = [old for old, new in encoded.items() if old != new or moved.longest_of(old) is not None]
        ordered = tuple((old, encoded[old]) for old in sorted(kept, key=_longest_first))
        bases = tuple(_encode(root) for root in roots if root)
        paths = [_encode(path) for path in inside if path]
        known = {
            path[: _end_of_name(path, len(base) + 1)]
            for base in bases
            for path in paths
            if path.startswith(base + b"/")
        }
        return cls(ordered, frozenset(map(_encode, bounded)) & encoded.keys(), bases, frozenset(known))

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

    def replace_text(self, text: bytes) -> bytes:
        """Return `text` with every mention of an old prefix replaced; the same object if it has no mention."""
        if not self.old.stands_in(text):
            return text
        if self.old.are_exact and not self.bounded:
            new, pattern = self.new, self.old.pattern
            if pattern.search(text) is None:
                return text
            return pattern.sub(lambda match: match[1] + new[match[2]] + match[3], text)
        pieces, end = list[bytes](), 0
        for at, old in self.mentions(text):
            pieces += (text[end:at], self.new[old])
            end = at + len(old)
        return b"".join((*pieces, text[end:])) if pieces else text

    def mentions(self, text: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield the place and the old prefix of every mention in `text`."""
        if not self.bounded:
            yield from self.old.mentions(text)
            return
        at = 0
        while found := self.old.finder.search(text, at):
            at = found.start()
            old = self.mention_at(text, at)
            if old is None:
                at += 1
                continue
            yield at, old
            at = path_end(text, at + len(old))

    def mention_at(self, text: bytes, at: int, *, before: bool = False) -> bytes | None:
        """Return the old prefix that a text mentions at a place.

        `before`: whether the run of word characters that ends where `text` begins follows a slash.
        """
        if not self.bounded:
            return None if follows_slash(text, at, before=before) else self.old.longest_at(text, at)
        spoken = not follows_slash(text, at, before=before) or _follows_empty_slashes(text, at)
        for old in self._standing(text, at):
            if spoken and (old not in self.bounded or self._is_whole(text, at, old, in_text=True)):
                return old
        return None

    def _standing(self, data: Buffer, at: int) -> Iterator[bytes]:
        return self.old.all_of(bytes(data[at : at + self.old.longest]))

    def _is_whole(self, data: Buffer, at: int, old: bytes, *, in_text: bool) -> bool:
        """Return whether a prefix stands at a place as a whole path, or as the beginning of one in it."""
        behind = at + len(old)
        if _LONGER_NAME.match(data, behind) is not None:
            return False
        is_root = old in self.roots
        if is_root and not self._has_entry(old, bytes(data[behind : behind + NEAR])):
            return False
        return _begins_path(data, at, strict=is_root, in_text=in_text)

    def _has_entry(self, root: bytes, rest: bytes) -> bool:
        """Return whether a root is known to have what follows it, which is nothing, or a slash and a name."""
        name = _COMPONENT.match(rest)
        if name is None or not self.inside:
            return True
        return root + b"/" + name[1].rstrip(b".") in self.inside or _HASHED.search(name[1]) is not None

    def replace_link(self, target: str) -> str:
        """Return the target of a symbolic link, changed if it is an old prefix or within one."""
        return self.replace_path(_bytes(target)).decode("utf-8", "surrogateescape")

    def replace_path(self, path: bytes) -> bytes:
        """Return a single path, changed if it is an old prefix or within one; several slashes may stand before it."""
        plain = b"/" + path.lstrip(b"/") if path.startswith(b"/") else path
        # no old prefix is longer, and each ends where a component does
        end = len(plain) if len(plain) <= self.old.longest else plain.rfind(b"/", 0, self.old.longest + 1)
        while end > 0:
            old = plain[:end]
            new = self.new.get(old)
            if new is not None and (old not in self.roots or self._has_entry(old, plain[end:])):
                return path if old == new else new + plain[end:]
            end = plain.rfind(b"/", 0, end)
        return path

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

    def pair_at(self, data: Buffer, at: int) -> tuple[bytes, bytes] | None:
        """Return the pair that applies at a place, None if no old prefix stands there."""
        if not self.bounded:
            old = self.old.longest_at(data, at)
            return None if old is None else (old, self.new[old])
        for old in self._standing(data, at):
            if old not in self.bounded or self._is_whole(data, at, old, in_text=False):
                return old, self.new[old]
        return None

    def longest_at(self, data: Buffer, at: int) -> tuple[bytes, bytes]:
        """Return the pair that applies where an old prefix was found. Raises `LookupError`."""
        pair = self.pair_at(data, at)
        if pair is None:
            raise LookupError(at)
        return pair

    def is_new(self, data: Buffer, at: int, old: bytes) -> bool:
        """Return whether the mention of `old` at this place is part of a new prefix, which may contain an old one."""
        within = self._within.get(old, ())
        return any(at >= back and data[at - back : at - back + len(new)] == new for back, new in within)

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


def follows_slash(text: bytes, at: int, *, before: bool = False) -> bool:
    """Return whether the run of word characters before a place, which may be empty, follows a slash.

    `before` is the answer for the place where `text` begins.
    """
    reach = _LOOK_BACK
    while True:
        start = max(0, at - reach)
        head = text[start:at].rstrip(WORD)
        if head:
            return head.endswith(b"/")
        if not start:
            return before
        reach *= 16


def mapping_for(
    old: Mapping[str, str],
    new: Mapping[str, str],
    *,
    root: tuple[str, str] = ("", ""),
    sbang: tuple[str, str] = ("", ""),
    real: Mapping[str, str] | None = None,
    real_root: str = "",
) -> PrefixMap:
    """Combine what an archive records with where things are now: hash -> prefix on both sides, and pairs (old, new).

    `real` and `real_root` are where the old prefixes and the old root were with links resolved. A hash without a new
    prefix is left to the fallback, root to root, which counts for entries of the old root that the record names and for
    those named by a hash. A prefix without its hash counts as a whole path only, as the root does. For a spliced
    package `new` gives, under the old dependency's hash, the prefix of the dependency that took its place. A pair with
    an empty side is left out.
    """
    pairs = dict([pair for pair in ((real_root, root[1]), root, sbang) if all(pair)])
    known = [*(real or {}).items(), *old.items()]
    pairs.update((prefix, new[key]) for key, prefix in known if prefix and new.get(key))
    hashed = {prefix for key, prefix in known if key[:_SHORT_HASH] in prefix.rpartition("/")[2]}
    return PrefixMap.of(
        pairs,
        bounded=[each for each in pairs if each not in hashed],
        roots=(root[0], real_root),
        inside=(*(prefix for _, prefix in known), sbang[0]),
    )


def text_pattern(prefixes: Iterable[bytes]) -> re.Pattern[bytes]:
    """Compile the text rule for `prefixes`, which are tried in the order given; none never match."""
    choices = b"|".join(re.escape(prefix) for prefix in prefixes) or rb"(?!)"
    return re.compile(rb"(?<![\w\-/])([\w\-]*?)(" + choices + rb")([\w\-/]*)")


def path_end(text: bytes, at: int) -> int:
    """Return where the path ends that goes on at a place."""
    reach = _LOOK_BACK
    while True:
        rest = text[at : at + reach]
        size = len(rest) - len(rest.lstrip(_PATH))
        if size < reach:
            return at + size
        at, reach = at + size, reach * 16


def _begins_path(data: Buffer, at: int, *, strict: bool, in_text: bool) -> bool:
    """Return whether an absolute path begins at a place, and not the rest of one that began before.

    In binaries strings follow one another without separation: there a file name may end before it, but for the root.
    """
    head = bytes(data[max(0, at - NEAR + 4) : at])
    run = head[len(head.rstrip(_NAME)) :]
    before = head[: len(head) - len(run)][-1:]
    if _follows_empty_slashes(data, at):
        return True
    if not run:
        return before != b"/" and not (strict and before in (b"}", b")"))
    if before == b"/":
        return False
    escaped = before == b"\\" and len(run) == 1
    return escaped or run.startswith(b"-") or not (in_text or strict)


def _follows_empty_slashes(data: Buffer, at: int) -> bool:
    """Return whether only slashes that mean nothing stand before a place: those of `file://`, or doubled ones."""
    head = bytes(data[max(0, at - NEAR + 4) : at])
    if head.endswith(b"file://localhost"):
        return True
    rest = head.rstrip(b"/")
    if len(rest) == len(head) or rest.endswith(b"file:"):
        return len(rest) < len(head)
    return not rest or (rest[-1:] not in _NAME and _SCHEME.search(rest) is None)


def _end_of_name(path: bytes, at: int) -> int:
    end = path.find(b"/", at)
    return end if end >= 0 else len(path)


def _longest_first(prefix: bytes) -> tuple[int, bytes]:
    return -len(prefix), prefix


def _bytes(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")


def _encode(prefix: str) -> bytes:
    if not prefix.startswith("/"):
        raise UsageError(f"not an absolute path: {prefix[:200]!r}")
    path = _bytes(prefix.rstrip("/"))
    if len(path) > LONGEST:
        raise ContentError(f"a prefix of {len(path)} bytes, where a path has at most {LONGEST}: {prefix[:80]!r}...")
    return path
