"""Facts that long operations report while they run.

An `Observer` is called with each event from any thread; it must be quick. It influences what happens in one way only:
an exception that it raises stops the operation, cleanly, and reaches the caller. The command line renders events; tests
collect them.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct


class Event(Struct, frozen=True):
    """Base of all events."""


class BatchStarted(Event, frozen=True):
    """A batch of `packages` packages begins; `skipped` more were found to be there already.

    `target` is where they go, "" if it has no name.
    """

    packages: int
    skipped: int
    target: str = ""


class PackageStarted(Event, frozen=True):
    """Work on one package begins. `key` identifies it in later events, `title` is for people."""

    key: str
    title: str


class BytesPacked(Event, frozen=True):
    """`count` more uncompressed bytes of package `key` were read and compressed."""

    key: str
    count: int


class BytesSent(Event, frozen=True):
    """`count` more bytes for `key` went over the wire (or into a layout). Negative when an attempt is thrown away."""

    key: str
    count: int


class PackageFinished(Event, frozen=True):
    """Package `key` is done; `outcome` is `pushed`, `skipped`, `failed`, ...; `detail` is a short remark."""

    key: str
    outcome: str
    detail: str = ""


class Retrying(Event, frozen=True):
    """A request to `host` failed with `reason`; attempt number `attempt` follows in `delay` seconds."""

    host: str
    reason: str
    delay: float
    attempt: int


class Warned(Event, frozen=True):
    """Something the user should know, never repeated with the same text in one run; `hint` is the next step, or ""."""

    text: str
    hint: str = ""


Observer = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Observe nothing."""


class Warnings:
    """Reports to an observer what the user should know, each text once."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._told: set[str] = set()

    def __call__(self, text: str, hint: str = "") -> None:
        """Warn of something, unless that was done before."""
        if text not in self._told:
            self._told.add(text)
            self._observer(Warned(text, hint))
