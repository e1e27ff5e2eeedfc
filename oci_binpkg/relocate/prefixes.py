"""Prefixes in text: where one is mentioned, and what stands there after relocation. Pure.

The text rule is Spack's: a prefix counts where neither a `/` nor a name of a longer path stands before it, so that
`-I/opt/a` and `PATH=/opt/a` mention `/opt/a`, and `/stage/opt/a` does not. What follows the prefix is not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from mmap import mmap
from typing import Final

from oci_binpkg.errors import UsageError

Buffer = bytes | bytearray | mmap
"""What is searched: bytes in memory or a file mapped into it."""

WORD: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
"""The characters that may run up to a prefix, as the `I` and the `-` of `-I/opt/a`."""


@dataclass(frozen=True)
class PrefixSet:
    """Absolute directories to look for, as the bytes of their paths; empty ones and the root are left out."""

    prefixes: tuple[bytes, ...]

    @classmethod
    def of(cls, prefixes: Iterable[str]) -> PrefixSet:
        """Collect paths, longest first. Raises `UsageError` for a relative one."""
        encoded = {_encode(prefix) for prefix in prefixes} - {b""}
        return cls(tuple(sorted(encoded, key=_longest_first)))

    @cached_property
    def shortest(self) -> tuple[bytes, ...]:
        """The prefixes that begin with no other one: whatever mentions any prefix mentions one of these."""
        kept: list[bytes] = []
        for prefix in reversed(self.prefixes):
            if not prefix.startswith(tuple(kept)):
                kept.append(prefix)
        return tuple(kept)

    @cached_property
    def pattern(self) -> re.Pattern[bytes]:
        """The text rule: group 1 is the run of characters before, group 2 the prefix, group 3 the path that follows."""
        return text_pattern(self.prefixes)

    def mentioned_in(self, text: bytes) -> bool:
        """Tell whether `text` mentions one of the prefixes."""
        return any(prefix in text for prefix in self.shortest) and self.pattern.search(text) is not None

    def is_target(self, link: str) -> bool:
        """Tell whether the target of a symbolic link begins with one of the prefixes (as Spack looks at links)."""
        return _bytes(link).startswith(self.shortest)


@dataclass(frozen=True)
class PrefixMap:
    """Old prefixes and what takes their place; the longest old prefix that fits wins.

    Identity pairs are left out, but for those below another old prefix: such a package stays where it is although the
    tree around it moves.
    """

    pairs: tuple[tuple[bytes, bytes], ...]

    @classmethod
    def of(cls, pairs: Mapping[str, str]) -> PrefixMap:
        """Collect pairs of absolute paths, longest old prefix first. Raises `UsageError` for a relative one."""
        encoded = {_encode(old): _encode(new) for old, new in pairs.items()}
        encoded.pop(b"", None)
        moved = tuple(old for old, new in encoded.items() if old != new)
        kept = [old for old, new in encoded.items() if old != new or old.startswith(moved)]
        return cls(tuple((old, encoded[old]) for old in sorted(kept, key=_longest_first)))

    def __bool__(self) -> bool:
        return bool(self.pairs)

    @cached_property
    def old(self) -> PrefixSet:
        """The prefixes that are replaced."""
        return PrefixSet(tuple(old for old, _ in self.pairs))

    @cached_property
    def _new(self) -> dict[bytes, bytes]:
        return dict(self.pairs)

    def replace_text(self, text: bytes) -> bytes:
        """Return `text` with every mention of an old prefix replaced; the same object when there is none."""
        if not self.old.mentioned_in(text):
            return text
        return self.old.pattern.sub(lambda match: match[1] + self._new[match[2]] + match[3], text)

    def replace_link(self, target: str) -> str:
        """Return the target of a symbolic link, changed if it is an old prefix or within one."""
        return self.replace_path(_bytes(target)).decode("utf-8", "surrogateescape")

    def replace_path(self, path: bytes) -> bytes:
        """Return a single path, changed if it is an old prefix or within one; several slashes may stand before it."""
        plain = b"/" + path.lstrip(b"/") if path.startswith(b"/") else path
        for old, new in self.pairs:
            if plain == old or plain.startswith(old + b"/"):
                return path if old == new else new + plain[len(old) :]
        return path

    def longest_at(self, data: Buffer, at: int) -> tuple[bytes, bytes]:
        """Return the pair that applies where one of `old.shortest` was found."""
        for old, new in self.pairs:
            if data[at : at + len(old)] == old:
                return old, new
        raise LookupError(at)

    def is_new(self, data: Buffer, at: int, old: bytes) -> bool:
        """Tell whether the mention of `old` at this place is part of a new prefix, which may contain an old one."""
        return any(at >= back and data[at - back : at - back + len(new)] == new for back, new in self._within[old])

    @cached_property
    def _within(self) -> dict[bytes, list[tuple[int, bytes]]]:
        """Old prefix -> the new prefixes that contain it, each with the distance from its beginning."""
        news = sorted({new for _, new in self.pairs})
        return {old: [(at, new) for new in news for at in _places(new, old)] for old, _ in self.pairs}


def mapping_for(
    old: Mapping[str, str],
    new: Mapping[str, str],
    *,
    root: tuple[str, str] = ("", ""),
    sbang: tuple[str, str] = ("", ""),
) -> PrefixMap:
    """Combine what an archive records with where things are now: hash -> prefix on both sides, and pairs (old, new).

    A hash without a new prefix is left to the fallback, root to root. For a spliced package `new` gives, under the old
    dependency's hash, the prefix of the dependency that took its place. A pair with an empty side is left out.
    """
    pairs = dict([pair for pair in (root, sbang) if all(pair)])
    pairs.update((prefix, new[key]) for key, prefix in old.items() if prefix and new.get(key))
    return PrefixMap.of(pairs)


def text_pattern(prefixes: Iterable[bytes]) -> re.Pattern[bytes]:
    """Compile the text rule for `prefixes`, which are tried in the order given; none never match."""
    choices = b"|".join(re.escape(prefix) for prefix in prefixes) or rb"(?!)"
    return re.compile(rb"(?<![\w\-/])([\w\-]*?)(" + choices + rb")([\w\-/]*)")


def _places(text: bytes, part: bytes) -> list[int]:
    return [at for at in range(len(text) - len(part) + 1) if text.startswith(part, at)]


def _longest_first(prefix: bytes) -> tuple[int, bytes]:
    return -len(prefix), prefix


def _bytes(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")


def _encode(prefix: str) -> bytes:
    if not prefix.startswith("/"):
        raise UsageError(f"not an absolute path: {prefix[:200]!r}")
    return _bytes(prefix.rstrip("/"))
