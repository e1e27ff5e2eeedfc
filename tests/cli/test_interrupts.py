"""Ctrl-C waits until the main thread is out of the machinery of threads, unless it waits for others there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import PIPE
from types import FrameType
from typing import Any

import pytest

from oci_binpkg.cli.interrupts import (
    GRACE,
    LOOK_AGAIN,
    PAIR,
    Interrupts,
    cancelled_by_interrupt,
    comes_of_interrupt,
    orderly_interrupts,
)
from tests.support.command_line import unmeasured_environment
from tests.support.fake_registry import Answer, FakeRegistry
from tests.support.spack_trees import Sketch, spack_tree

SOON = GRACE - 1
"""Seconds on a busy machine; whoever is waited for longer than that is interrupted once more."""


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


def test_the_first_interrupt_cancels_what_the_command_does(timers: list[float]) -> None:
    with orderly_interrupts():
        cancel = cancelled_by_interrupt()
        assert not cancel.is_cancelled
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert cancel.is_cancelled
    assert not cancelled_by_interrupt().is_cancelled  # of nobody


def test_two_interrupts_at_once_are_one_and_a_later_one_ends_the_process(
    timers: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal and a parent process send one each."""
    moments = iter([0.0, PAIR / 2, PAIR * 2])
    monkeypatch.setattr("oci_binpkg.cli.interrupts.time", type("Clock", (), {"monotonic": lambda: next(moments)}))

    class Left(BaseException):
        pass

    def leave() -> None:
        raise Left

    monkeypatch.setattr("oci_binpkg.cli.interrupts.leave_at_once", leave)
    interrupts = Interrupts()
    for expected in (KeyboardInterrupt, KeyboardInterrupt, Left):
        with pytest.raises(expected):
            interrupts.hear(signal.SIGINT, sys._getframe())


PUSHING = """
import atexit, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from oci_binpkg.cli.app import main
atexit.register(print, "the end")
main(sys.argv[1:])
"""


@pytest.mark.parametrize("stalled", ["POST", "PUT"])
def test_an_interrupted_push_ends_in_order_and_at_once(tmp_path: Path, stalled: str) -> None:
    """Whatever it waits for: an answer to a request of any kind."""
    tree = spack_tree(tmp_path / "opt", [Sketch(f"part{n}", files={"data": os.urandom(1 << 20)}) for n in range(6)])
    asked, hold = threading.Event(), threading.Event()

    def never(_: Any) -> Answer:
        asked.set()
        hold.wait(60)
        return Answer(503)

    with FakeRegistry() as registry:
        registry.fault(stalled, "/blobs/uploads/", times=0, answer=never)
        words = ["push", f"oci+http://{registry.host}/apps", "--store", str(tree.root)]
        layers = tmp_path / "layers"
        environment = {**unmeasured_environment(), "OCI_BINPKG_LAYER_CACHE": str(layers)}
        argv = [sys.executable, "-c", PUSHING, *words]
        with subprocess.Popen(argv, stdout=PIPE, stderr=PIPE, text=True, env=environment) as process:
            assert asked.wait(60)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=SOON)
        hold.set()
    assert process.returncode == 130, err
    assert err.endswith("oci-binpkg: interrupted; what was sent stays there, run the command again to go on\n")
    assert "Traceback" not in err
    assert "the end" in out  # the interpreter went its whole way out


STAYING = """
import signal, threading
from oci_binpkg.cli import app
signal.signal(signal.SIGINT, signal.default_int_handler)

def stay(**_):
    threading.Thread(target=threading.Event().wait).start()
    signal.raise_signal(signal.SIGINT)

app.app = stay
app.main([])
"""


def test_a_second_interrupt_does_not_wait_for_threads() -> None:
    with subprocess.Popen([sys.executable, "-c", STAYING], stderr=PIPE, text=True) as process:
        assert process.stderr
        assert process.stderr.readline() == "\n"
        assert "interrupted" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=SOON) == 130
        assert process.stderr.read() == ""
