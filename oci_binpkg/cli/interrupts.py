"""Ctrl-C, raised where the main thread can bear it.

Python raises `KeyboardInterrupt` wherever the main thread happens to be. Between taking a lock of `threading` and the
block that it guards, that leaves the lock taken for good: the threads of the command wait for it, and the command waits
for its threads. So an interrupt that arrives within the standard library's machinery of threads is looked at again a
moment later, unless the thread stands still there because it waits for others.

The first Ctrl-C also cancels what the command does, so that its threads end between two chunks and the command ends in
an orderly way. The second one does not wait for that: it ends the process where it is. Every file that was being
written is staged under another name, so that even then nothing is half there.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Final, Never

from oci_binpkg import Cancel

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

LOOK_AGAIN: Final = 0.005
"""Seconds until an interrupt that could not be raised is tried again."""

GRACE: Final = 10.0
"""Seconds that an interrupted command has for tidying up; then it is interrupted in that, too."""

PAIR: Final = 0.5
"""Seconds within which two interrupts are one: a terminal and a parent process both send it."""

INTERRUPTED: Final = 130
"""The exit code of a command that Ctrl-C ended, as shells have it."""

# by their names: importing all of them would cost each command some milliseconds
_LIBRARY: Final = os.path.dirname(threading.__file__)
_MACHINERY: Final = (
    *(f"{_LIBRARY}/{name}" for name in ("threading.py", "queue.py", "logging/", "concurrent/")),
    "<frozen importlib",
    __file__,
)
_WAITING: Final = frozenset({"wait", "join", "_wait_for_tstate_lock"})
_NEVER_LONG: Final = frozenset({"start", "submit"})


class Interrupts:
    """The handler of SIGINT while a command runs, and of the timer with which it looks again."""

    def __init__(self) -> None:
        self.cancel = Cancel()
        self._first: float | None = None
        self._last: tuple[FrameType, int] | None = None
        # interrupts come in pairs, from a terminal and a parent: nothing here may mind being interrupted itself
        self._before = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)
        self._ticking = False

    def hear(self, number: int, frame: FrameType | None) -> None:
        """Raise `KeyboardInterrupt`, now or in a moment. Called by the interpreter, on the main thread."""
        if number == signal.SIGINT:
            self._count(time.monotonic())
        if frame is not None and self._must_wait(frame):
            self._last = (frame, frame.f_lasti)
            self._hear_again(LOOK_AGAIN)
            return
        self._last = None
        self._hear_again(GRACE)
        raise KeyboardInterrupt

    def unraisable(self, lost: UnraisableHookArgs) -> None:
        """Take notice of an exception in a destructor: an interrupt there is tried again, not reported and dropped."""
        if issubclass(lost.exc_type, KeyboardInterrupt):
            self._hear_again(LOOK_AGAIN)
        else:
            sys.__unraisablehook__(lost)

    def end(self) -> None:
        """Give the timer back to whoever used it before."""
        if self._ticking:
            handler, timer = self._before
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, handler)
            signal.setitimer(signal.ITIMER_REAL, *timer)

    def _count(self, now: float) -> None:
        """Cancel what the command does; end the process if that was asked for before."""
        if self._first is None:
            self._first = now
            self.cancel.cancel()
        elif now - self._first > PAIR:
            leave_at_once()

    def _hear_again(self, seconds: float) -> None:
        self._ticking = True
        signal.signal(signal.SIGALRM, self.hear)
        signal.setitimer(signal.ITIMER_REAL, seconds)

    def _must_wait(self, frame: FrameType) -> bool:
        inside = [each for each in _stack(frame) if _is_machinery(each)]
        if not inside:
            return False
        if inside[0] is not frame or frame.f_code.co_name not in _WAITING:
            return True
        # at the same instruction as a moment ago: it waits for another thread there, and that may take long
        return self._last != (frame, frame.f_lasti) or any(each.f_code.co_name in _NEVER_LONG for each in inside)


@contextmanager
def orderly_interrupts() -> Iterator[None]:
    """Raise interrupts with care inside of this context, and at the first cancel what `cancelled_by_interrupt` returns.

    Nothing is changed on other threads than the main one, and where somebody else deals with SIGINT or it is ignored.
    """
    if threading.current_thread() is not threading.main_thread() or not _is_ours():
        yield
        return
    interrupts = Interrupts()
    handler = signal.signal(signal.SIGINT, interrupts.hear)
    hook, sys.unraisablehook = sys.unraisablehook, interrupts.unraisable
    try:
        yield
    finally:
        interrupts.end()
        sys.unraisablehook = hook
        signal.signal(signal.SIGINT, handler)


def cancelled_by_interrupt() -> Cancel:
    """Return what Ctrl-C cancels now: it belongs to whoever handles the signal."""
    handler = getattr(signal.getsignal(signal.SIGINT), "__self__", None)
    return handler.cancel if isinstance(handler, Interrupts) else Cancel()


def leave_at_the_next() -> None:
    """End the process at the next Ctrl-C: an interrupted command is on its way out, and its threads may take long."""
    if threading.current_thread() is threading.main_thread() and _is_ours():
        signal.signal(signal.SIGINT, lambda _number, _frame: leave_at_once())


def leave_at_once() -> Never:
    """End the process where it is. Nothing is written any more, and no thread is waited for."""
    os._exit(INTERRUPTED)


def comes_of_interrupt(error: BaseException) -> bool:
    """Return whether an exception is an interrupt, or was raised while one was on its way.

    Tidying up may fail because of where the interrupt came: `shutil.rmtree` then closes a folder twice.
    """
    found: BaseException | None = error
    while found is not None and not isinstance(found, KeyboardInterrupt):
        found = found.__context__
    return found is not None


def _is_ours() -> bool:
    return signal.getsignal(signal.SIGINT) is signal.default_int_handler


def _stack(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is_machinery(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(_MACHINERY)
