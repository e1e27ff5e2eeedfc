"""Prefixes in text: where one is mentioned, and what stands there after relocation. Pure.

The text rule is Spack's: a prefix counts where neither a `/` nor a name of a longer path stands before it, so that
`-I/opt/a` and `PATH=/opt/a` mention `/opt/a`, and `/stage/opt/a` does not. What follows the prefix is not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from oci_binpkg.errors import UsageError

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
    """Old prefixes and what takes their place; the longest old prefix that fits wins. Identity pairs change nothing."""

    pairs: tuple[tuple[bytes, bytes], ...]

    @classmethod
    def of(cls, pairs: Mapping[str, str]) -> PrefixMap:
        """Collect pairs of absolute paths, longest old prefix first. Raises `UsageError` for a relative one."""
        encoded = {_encode(old): _encode(new) for old, new in pairs.items()}
        encoded.pop(b"", None)
        return cls(tuple((old, encoded[old]) for old in sorted(encoded, key=_longest_first) if old != encoded[old]))

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
        encoded = _bytes(target)
        for old, new in self.pairs:
            if encoded == old or encoded.startswith(old + b"/"):
                return (new + encoded[len(old) :]).decode("utf-8", "surrogateescape")
        return target


def text_pattern(prefixes: Iterable[bytes]) -> re.Pattern[bytes]:
    """Compile the text rule for `prefixes`, which are tried in the order given; none never match."""
    choices = b"|".join(re.escape(prefix) for prefix in prefixes) or rb"(?!)"
    return re.compile(rb"(?<![\w\-/])([\w\-]*?)(" + choices + rb")([\w\-/]*)")


def _longest_first(prefix: bytes) -> tuple[int, bytes]:
    return -len(prefix), prefix


def _bytes(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")


def _encode(prefix: str) -> bytes:
    if not prefix.startswith("/"):
        raise UsageError(f"not an absolute path: {prefix[:200]!r}")
    return _bytes(prefix.rstrip("/"))
