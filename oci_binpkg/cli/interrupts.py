"""Ctrl-C, raised where the main thread can bear it.

Python raises `KeyboardInterrupt` wherever the main thread happens to be. Between taking a lock of `threading` and the
block that it guards, that leaves the lock taken for good: the threads of the command wait for it, and the command waits
for its threads. So an interrupt that arrives within the standard library's machinery of threads is looked at again a
moment later, unless the thread stands still there because it waits for others.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

LOOK_AGAIN: Final = 0.005
"""Seconds until an interrupt that could not be raised is tried again."""

GRACE: Final = 10.0
"""Seconds that an interrupted command has for tidying up; then it is interrupted in that, too."""

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
        self._last: tuple[FrameType, int] | None = None
        # interrupts come in pairs, from a terminal and a parent: nothing here may mind being interrupted itself
        self._before = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)
        self._ticking = False

    def hear(self, _number: int, frame: FrameType | None) -> None:
        """Raise `KeyboardInterrupt`, now or in a moment. Called by the interpreter, on the main thread."""
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
    """Raise interrupts with care inside of this context.

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
