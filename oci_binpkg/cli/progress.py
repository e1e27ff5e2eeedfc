"""What people see on stderr while a command runs: live lines on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Final, Protocol

from oci_binpkg.cli import terminal
from oci_binpkg.cli.hints import words
from oci_binpkg.cli.render import size_text
from oci_binpkg.events import (
    BatchStarted,
    BytesPacked,
    BytesSent,
    Event,
    Observer,
    PackageFinished,
    PackageStarted,
    Retrying,
    Warned,
)
from oci_binpkg.times import SYSTEM_TIME, Time

if TYPE_CHECKING:
    from rich.progress import TaskID


class Lines(Protocol):
    """Where finished lines go."""

    def __call__(self, line: str, /) -> None:
        """Show one line."""
        ...


@contextmanager
def progress(*, live: bool, color: bool, quiet: bool = False) -> Iterator[Observer]:
    """Yield an observer that shows events on stderr. `live` draws a line per package with bytes and rate."""
    if live and not quiet:
        with _live(color=color) as observer:
            yield observer
    else:
        yield PlainProgress(terminal.tell, quiet=quiet)


class PlainProgress:
    """Lines for a log: what begins, each finished package with its number, size, rate and time, and what takes long.

    Warnings and retries, the same warning once. Without `numbers` finished packages are named and nothing more.
    """

    def __init__(self, show: Lines, *, quiet: bool = False, numbers: bool = True, time: Time = SYSTEM_TIME) -> None:
        self._show = show
        self._quiet = quiet
        self._numbers = numbers and not quiet
        self._time = time
        self._lock = Lock()
        self._work: dict[str, _Progressing] = {}
        self._warned: set[str] = set()
        self._all = self._done = 0

    def __call__(self, event: Event) -> None:
        """Show an event."""
        with self._lock:
            match event:
                case BatchStarted():
                    self._begin(event)
                case PackageStarted(key, title):
                    self._work[key] = _Progressing(title, self._time.clock())
                case BytesPacked(key, count) | BytesSent(key, count) if key in self._work:
                    self._advance(self._work[key], count, sent=isinstance(event, BytesSent))
                case PackageFinished() if not self._quiet:
                    self._finish(event)
                case Warned(text, hint) if text not in self._warned:
                    self._warned.add(text)
                    self._show(f"warning: {text}{f' ({words(hint)})' if hint else ''}")
                case Retrying(host, reason, delay, attempt):
                    self._show(f"{host}: {reason}; trying again in {delay:.1f} s (attempt {attempt})")
                case _:
                    pass

    def _begin(self, event: BatchStarted) -> None:
        self._all, self._done = event.packages, 0
        if self._numbers and event.packages > 1:
            there = f", {event.skipped} are there already" if event.skipped else ""
            self._show(f"{event.packages} packages for {event.target or 'this'}{there}")

    def _advance(self, work: _Progressing, count: int, *, sent: bool) -> None:
        if sent:
            work.sent += count
        else:
            work.packed += count
        now = self._time.clock()
        if self._numbers and now - work.told >= _EVERY:
            work.told = now
            did = f"{size_text(work.sent)} sent" if work.sent > 0 else f"{size_text(work.packed)} packed"
            self._show(f"{work.title}: {did} in {now - work.began:.0f} s")

    def _finish(self, event: PackageFinished) -> None:
        work = self._work.pop(event.key, None)
        self._done += 1
        number = f"[{self._done}/{self._all}] " if self._numbers and 1 < self._all >= self._done else ""
        detail = f": {event.detail}" if event.detail else ""
        cost = "" if event.outcome == "failed" else self._cost(work)  # the reason is what counts then
        self._show(f"{number}{event.outcome} {work.title if work else event.key}{detail}{cost}")

    def _cost(self, work: _Progressing | None) -> str:
        """Return size, rate and time of what was sent; nothing of what took no time or no bytes."""
        if work is None or work.sent <= 0 or not self._numbers or self._all < _SEVERAL:
            return ""
        seconds = self._time.clock() - work.began
        rate = f" {size_text(round(work.sent / seconds))}/s" if seconds > 0 else ""
        return f" {size_text(work.sent)}{rate} {seconds:.0f} s"


@dataclass(slots=True)
class _Progressing:
    """A package at work: when it began, when something was last said of it, and how many bytes there were."""

    title: str
    began: float
    told: float = field(init=False)
    packed: int = 0
    sent: int = 0

    def __post_init__(self) -> None:
        self.told = self.began


_EVERY: Final = 30.0
"""Seconds after which a package that is still at work is named."""
_SEVERAL: Final = 2


@contextmanager
def _live(*, color: bool) -> Iterator[Observer]:
    with terminal.live_display(color=color) as display:
        yield _LiveProgress(display)


class _LiveProgress:
    """A line for each package at work, with bytes and rate, and one for all of them."""

    def __init__(self, display: terminal.LiveDisplay) -> None:
        self._display = display
        self._plain = PlainProgress(display.tell, numbers=False)
        self._lock = Lock()
        self._tasks: dict[str, tuple[TaskID, bool]] = {}
        self._total = display.add("total", "", visible=False)
        self._done = self._all = 0

    def __call__(self, event: Event) -> None:
        """Show an event."""
        with self._lock:
            match event:
                case BatchStarted(packages):
                    self._all = packages
                    self._display.show(self._total, f"0/{packages}", visible=packages > 0)
                case PackageStarted(key, title):
                    self._tasks[key] = self._display.add(title, "packing"), False
                case BytesPacked(key, count) if key in self._tasks and not self._tasks[key][1]:
                    self._display.advance(self._tasks[key][0], count)
                case BytesSent(key, count) if key in self._tasks:
                    self._sent(key, count)
                case PackageFinished(key):
                    self._done += 1
                    self._display.show(self._total, f"{self._done}/{self._all}")
                    if key in self._tasks:
                        self._display.remove(self._tasks.pop(key)[0])
                case _:
                    pass
        self._plain(event)

    def _sent(self, key: str, count: int) -> None:
        task, sending = self._tasks[key]
        if not sending:
            self._display.restart(task, "sending")
            self._tasks[key] = task, True
        self._display.advance(task, count)
        self._display.advance(self._total, count)
