"""What people see on stderr while a command runs: live lines on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Protocol

from oci_binpkg.cli import terminal
from oci_binpkg.cli.hints import words
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
    """One line per finished package, warning and retry; the same warning once."""

    def __init__(self, show: Lines, *, quiet: bool = False) -> None:
        self._show = show
        self._quiet = quiet
        self._lock = Lock()
        self._titles: dict[str, str] = {}
        self._warned: set[str] = set()

    def __call__(self, event: Event) -> None:
        """Show an event."""
        with self._lock:
            match event:
                case PackageStarted(key, title):
                    self._titles[key] = title
                case PackageFinished(key, outcome, detail) if not self._quiet:
                    self._show(f"{outcome} {self._titles.pop(key, key)}{f': {detail}' if detail else ''}")
                case Warned(text, hint) if text not in self._warned:
                    self._warned.add(text)
                    self._show(f"warning: {text}{f' ({words(hint)})' if hint else ''}")
                case Retrying(host, reason, delay, attempt):
                    self._show(f"{host}: {reason}; trying again in {delay:.1f} s (attempt {attempt})")
                case _:
                    pass


@contextmanager
def _live(*, color: bool) -> Iterator[Observer]:
    with terminal.live_display(color=color) as display:
        yield _LiveProgress(display)


class _LiveProgress:
    """A line for each package at work, with bytes and rate, and one for all of them."""

    def __init__(self, display: terminal.LiveDisplay) -> None:
        self._display = display
        self._plain = PlainProgress(display.tell)
        self._lock = Lock()
        self._tasks: dict[str, tuple[TaskID, bool]] = {}
        self._total = display.add("total", "", visible=False)
        self._done = self._all = 0

    def __call__(self, event: Event) -> None:
        """Show an event."""
        with self._lock:
            match event:
                case BatchStarted(packages, _):
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
