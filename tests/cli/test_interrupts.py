"""Ctrl-C waits until the main thread is out of the machinery of threads, unless it waits for others there."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from oci_binpkg.cli.interrupts import GRACE, LOOK_AGAIN, Interrupts, comes_of_interrupt, orderly_interrupts


@pytest.fixture(autouse=True)
def _interruptible() -> Iterator[None]:
    """What is started in the background of a shell ignores interrupts."""
    before, alarm = signal.signal(signal.SIGINT, signal.default_int_handler), signal.getsignal(signal.SIGALRM)
    yield
    signal.signal(signal.SIGINT, before)
    signal.signal(signal.SIGALRM, alarm)


@pytest.fixture
def timers(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the timer was set to, instead of setting it."""
    asked: list[float] = []

    monkeypatch.setattr(signal, "getitimer", lambda _: (60.0, 0.0))
    monkeypatch.setattr(signal, "setitimer", lambda _, seconds, _interval=0.0: asked.append(seconds))
    return asked


def frame_within(name: str, call: Callable[[], object]) -> FrameType:
    """The frame of a function of `threading` called `name`, as it is while `call` runs."""
    found: list[FrameType] = []

    def look(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_name == name:
            found.append(frame)

    sys.setprofile(look)
    try:
        call()
    finally:
        sys.setprofile(None)
    return found[0]


def test_raised_at_once_in_a_commands_own_code(timers: list[float]) -> None:
    with pytest.raises(KeyboardInterrupt):
        Interrupts().hear(signal.SIGINT, sys._getframe())
    assert timers == [GRACE]


def test_looked_at_again_while_a_lock_is_taken(timers: list[float]) -> None:
    taking = frame_within("__enter__", threading.Condition().__enter__)
    Interrupts().hear(signal.SIGINT, taking)
    assert timers == [LOOK_AGAIN]


def test_raised_where_the_thread_waits_for_others(timers: list[float]) -> None:
    event = threading.Event()
    waiting = frame_within("wait", lambda: event.wait(0))
    interrupts = Interrupts()
    interrupts.hear(signal.SIGINT, waiting)
    assert timers == [LOOK_AGAIN]
    with pytest.raises(KeyboardInterrupt):
        interrupts.hear(signal.SIGALRM, waiting)  # at the same instruction still


def test_a_lost_interrupt_is_tried_again(timers: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    class Lost:
        exc_type = KeyboardInterrupt

    Interrupts().unraisable(Lost())  # type: ignore[arg-type]
    assert timers == [LOOK_AGAIN]
    assert capsys.readouterr().err == ""


def test_an_error_of_tidying_up_is_an_interrupt_still() -> None:
    def closes_twice() -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise OSError("closed twice")

    with pytest.raises(OSError, match="twice") as caught:
        closes_twice()
    assert comes_of_interrupt(caught.value)
    assert not comes_of_interrupt(OSError("of its own"))


def handlers() -> tuple[Any, ...]:
    return signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGALRM), sys.unraisablehook


def test_handlers_and_timer_are_given_back(timers: list[float]) -> None:
    before = handlers()
    with pytest.raises(KeyboardInterrupt), orderly_interrupts():
        signal.raise_signal(signal.SIGINT)
    assert handlers() == before
    assert timers == [GRACE, 0, 60.0]


def test_nobodys_timer_is_touched_without_an_interrupt(timers: list[float]) -> None:
    alarm = signal.getsignal(signal.SIGALRM)
    with orderly_interrupts():
        assert signal.getsignal(signal.SIGALRM) is alarm
    assert timers == []


def test_an_ignored_signal_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with orderly_interrupts():
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


STUCK = """
import os, signal, threading
from oci_binpkg.cli import app, interrupts
interrupts.GRACE = 0.1
signal.signal(signal.SIGINT, signal.default_int_handler)

def tidy_for_ever(**_):
    try:
        signal.raise_signal(signal.SIGINT)
    finally:
        threading.Event().wait()

app.app = tidy_for_ever
app.main([])
"""


def test_tidying_up_that_never_ends_is_interrupted_too() -> None:
    done = subprocess.run([sys.executable, "-c", STUCK], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 130
    assert done.stderr == "\noci-binpkg: interrupted; what was sent stays there, run the command again to go on\n"
