"""Prefixes to look for, and what of them is searched for. Pure."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from oci_binpkg.errors import ContentError, UsageError
from oci_binpkg.relocate.boundaries import Buffer, follows_slash, path_end
from oci_binpkg.relocate.spellings import SpelledFinder, is_safe

LONGEST: Final = 4095
"""Bytes of a path that the kernel takes."""
DEEPEST: Final = 64
"""How many prefixes may lie within one another, as a root, a tree in it, a package do."""
_FEW: Final = 32


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
        found = {encoded(prefix) for prefix in prefixes} - {b""}
        return cls(tuple(sorted(found, key=longest_first)))

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
    def spelled(self) -> SpelledFinder:
        """Finds the prefixes in other spellings, or rather the needles."""
        return SpelledFinder(self.needles, special=not self.are_safe)

    @cached_property
    def are_ascii(self) -> bool:
        """Whether no prefix has characters beyond ASCII."""
        return all(map(bytes.isascii, self.prefixes))

    @cached_property
    def are_safe(self) -> bool:
        """Whether all prefixes are written alike everywhere, but for their slashes."""
        return all(map(is_safe, self.prefixes))

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

    def may_be_spelled_in(self, text: bytes) -> bool:
        """Return whether a prefix may stand anywhere in `text` in some spelling."""
        return any(mark in text for mark in self.spelled.marks)

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
        return self.longest_of(path_bytes(link)) is not None


def text_pattern(prefixes: Iterable[bytes]) -> re.Pattern[bytes]:
    """Compile the text rule for `prefixes`, which are tried in the order given; none never match."""
    choices = b"|".join(re.escape(prefix) for prefix in prefixes) or rb"(?!)"
    return re.compile(rb"(?<![\w\-/])([\w\-]*?)(" + choices + rb")([\w\-/]*)")


def longest_first(prefix: bytes) -> tuple[int, bytes]:
    """Sort prefixes by this."""
    return -len(prefix), prefix


def path_bytes(path: str) -> bytes:
    """Return a path as the bytes that the kernel knows."""
    return path.encode("utf-8", "surrogateescape")


def encoded(prefix: str) -> bytes:
    """Return the bytes of a prefix without slashes at its end. Raises `UsageError`, `ContentError`."""
    if not prefix.startswith("/"):
        raise UsageError(f"not an absolute path: {prefix[:200]!r}")
    path = path_bytes(prefix.rstrip("/"))
    if len(path) > LONGEST:
        raise ContentError(f"a prefix of {len(path)} bytes, where a path has at most {LONGEST}: {prefix[:80]!r}...")
    return path
