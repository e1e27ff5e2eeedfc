"""What people see on stderr while a command runs: live lines on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Protocol

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


class Lines(Protocol):
    """Where finished lines go."""

    def __call__(self, text: str) -> None:
        """Show one line."""
        ...


@contextmanager
def progress(*, live: bool, color: bool, quiet: bool = False) -> Iterator[Observer]:
    """Yield an observer that shows events on stderr. `live` draws a line per package with bytes and rate."""
    if live and not quiet:
        with _live(color=color) as observer:
            yield observer
    else:
        yield PlainProgress(_to_stderr, quiet=quiet)


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
                case Warned(text) if text not in self._warned:
                    self._warned.add(text)
                    self._show(f"warning: {text}")
                case Retrying(host, reason, delay, attempt):
                    self._show(f"{host}: {reason}; trying again in {delay:.1f} s (attempt {attempt})")
                case _:
                    pass


@contextmanager
def _live(*, color: bool) -> Iterator[Observer]:
    from rich.console import Console  # noqa: PLC0415 - only a terminal pays for rich
    from rich.progress import FileSizeColumn, Progress, TaskID, TextColumn, TransferSpeedColumn  # noqa: PLC0415

    console = Console(stderr=True, no_color=not color, highlight=False)
    columns = (
        TextColumn("{task.description}", markup=False),
        TextColumn("{task.fields[step]}"),
        FileSizeColumn(),
        TransferSpeedColumn(),
    )
    bars = Progress(*columns, console=console, transient=True)
    plain = PlainProgress(lambda text: console.print(text, markup=False))
    lock = Lock()
    tasks: dict[str, tuple[TaskID, bool]] = {}
    total = bars.add_task("total", total=None, step="", visible=False)
    counts = {"done": 0, "all": 0}

    def show(event: Event) -> None:
        with lock:
            match event:
                case BatchStarted(packages, _):
                    counts["all"] = packages
                    bars.update(total, visible=packages > 0, step=f"0/{packages}")
                case PackageStarted(key, title):
                    tasks[key] = bars.add_task(title, total=None, step="packing"), False
                case BytesPacked(key, count) if key in tasks and not tasks[key][1]:
                    bars.advance(tasks[key][0], count)
                case BytesSent(key, count) if key in tasks:
                    task, sending = tasks[key]
                    if not sending:
                        bars.reset(task, step="sending")
                        tasks[key] = task, True
                    bars.advance(task, count)
                    bars.advance(total, count)
                case PackageFinished(key):
                    counts["done"] += 1
                    bars.update(total, step=f"{counts['done']}/{counts['all']}")
                    if key in tasks:
                        bars.remove_task(tasks.pop(key)[0])
                case _:
                    pass
        plain(event)

    with bars:
        yield show


def _to_stderr(text: str) -> None:
    sys.stderr.write(printable(text) + "\n")


def printable(text: str) -> str:
    """Return text from elsewhere with control characters (terminal escapes) made visible."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\n" else f"\\x{ord(char):02x}" for char in text)
