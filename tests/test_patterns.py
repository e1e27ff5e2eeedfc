"""Every regular expression of the package takes time in proportion to its text, whatever that is."""

from __future__ import annotations

import importlib
import re
import string
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PACKAGE = Path(__file__).parents[1] / "oci_binpkg"
SIZE = 10_000
"""A pattern that takes the square of a text of so many characters needs a second, a linear one a millisecond."""
SECONDS = 0.25
SEARCHES = re.compile(r"\b(\w+)\.(?=(?:search|finditer|findall|sub|split)\()")


def patterns() -> Iterator[tuple[str, re.Pattern[Any], tuple[str, ...]]]:
    """Yield each pattern of a module, with the ways in which the package uses it."""
    source = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    searched = set(SEARCHES.findall(source))
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "re.compile(" not in text:
            continue
        module = importlib.import_module(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts))
        for name, value in vars(module).items():
            if isinstance(value, re.Pattern):
                among = set(SEARCHES.findall(text)) if name.startswith("_") else searched
                uses = ("match", "fullmatch", *(["search"] if name in among else []))
                yield f"{module.__name__}.{name}", value, uses


def pumped(pattern: re.Pattern[Any]) -> Iterator[str]:
    """Yield texts that are a piece again and again: of the pattern's own characters, and of every kind of character."""
    own = [each for each in dict.fromkeys(str(pattern.pattern)) if each not in "\\()?+*|{}"]
    kinds = [*" \t\n,;:=\"'\\/.@-_~+<>", "a", "A", "0", *own[:20]]
    pieces = [
        *kinds,
        "a.",
        "a/",
        "a-",
        "a,",
        "a ",
        " ,",
        "1.",
        '\\"',
        "a=",
        "1:",
        "a@",
        "299 a ",
        "a:1-",
        "]2",
        '"a":',
        "x{",
    ]
    words = re.findall(r"[A-Za-z0-9]{2,}", str(pattern.pattern))
    for piece in dict.fromkeys([*pieces, *words[:8]]):
        for head in ("", *words[:2]):
            yield head + piece * (SIZE // len(piece)) + "\x01"


def seconds(use: Callable[[Any], object], subject: Any) -> float:
    """Return the CPU time of one use of a pattern."""
    before = time.process_time()
    use(subject)
    return time.process_time() - before


@pytest.mark.parametrize(
    ("name", "pattern", "uses"), list(patterns()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_no_pattern_takes_the_square_of_a_text(name: str, pattern: re.Pattern[Any], uses: tuple[str, ...]) -> None:
    for text in pumped(pattern):
        subject: Any = text.encode() if isinstance(pattern.pattern, bytes) else text
        for use in uses:
            spent = seconds(getattr(pattern, use), subject)
            if spent >= SECONDS:  # a machine that is busy may be slow once
                spent = min(spent, seconds(getattr(pattern, use), subject))
            assert spent < SECONDS, f"{name} takes {spent:.1f} s for {SIZE} characters: {text[:20]!r}..., by {use}"


def test_a_pattern_that_takes_the_square_is_seen() -> None:
    slow = re.compile(r"\s*<?([^<>;,\s]+)>?\s*((?:;[^,]*)?)<")
    longest = 0.0
    for text in (string.whitespace[0] * 4_000, ";" * 4_000):
        before = time.process_time()
        slow.search(text)
        longest = max(longest, time.process_time() - before)
    assert longest > 0.05
