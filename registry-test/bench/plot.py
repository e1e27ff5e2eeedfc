"""Horizontal bars in groups, as SVG. Colours are ones that can be read on white and on black."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

WIDTH: Final = 860
LEFT: Final = 270
LONGEST: Final = 440
BAR: Final = 14
STEP: Final = 20
HEAD: Final = 34
MARGIN: Final = 14
TEXT: Final = "#7d8590"
FILLS: Final = {
    "ours": 'fill="#2f81f7"',
    "peer": 'fill="#8b949e" fill-opacity="0.65"',
    "limit": 'fill="none" stroke="#8b949e" stroke-dasharray="3 2"',
}


@dataclass(frozen=True, slots=True)
class Bar:
    """`role` is one of those in `FILLS`; `label` stands behind the bar. One that was not `measured` sets no scale."""

    title: str
    seconds: float
    role: str
    label: str
    measured: bool = True


@dataclass(frozen=True, slots=True)
class Group:
    """Bars that share a scale: the longest one is as long as that of any other group."""

    title: str
    bars: tuple[Bar, ...]


def draw(groups: Sequence[Group]) -> str:
    """Return the document."""
    height = 2 * MARGIN + sum(HEAD + STEP * len(group.bars) for group in groups)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="{TEXT}">'
    )
    lines = [head, "<title>Seconds for each job; each group has a scale of its own</title>"]
    top = MARGIN
    for group in groups:
        lines += _group(group, top)
        top += HEAD + STEP * len(group.bars)
    return "\n".join([*lines, "</svg>", ""])


def _group(group: Group, top: int) -> Iterator[str]:
    yield f'<text x="{MARGIN}" y="{top + 20}" font-size="13" font-weight="600">{escape(group.title)}</text>'
    longest = max(bar.seconds for bar in group.bars if bar.measured) or 1
    for number, bar in enumerate(group.bars):
        y = top + HEAD + number * STEP
        width = min(LONGEST, max(1.0, LONGEST * bar.seconds / longest))
        yield f'<text x="{LEFT - 8}" y="{y + 11}" text-anchor="end">{escape(bar.title)}</text>'
        yield f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR}" rx="2" {FILLS[bar.role]}/>'
        if bar.seconds > longest:
            yield f'<text x="{LEFT + width - 26:.1f}" y="{y + 11}" fill="#ffffff" font-weight="600">&#8230;</text>'
        yield f'<text x="{LEFT + width + 6:.1f}" y="{y + 11}">{escape(bar.label)}</text>'
