"""Stopping an operation from outside, without ending the process.

An operation looks at its `Cancel` between chunks of bytes, between packages, between requests, and while it waits. The
exception that ends it derives from `BaseException`, as `KeyboardInterrupt` does, so that handlers of single packages'
failures let it pass.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from oci_binpkg.times import SYSTEM_TIME, Time

LOOKS: Final = 0.05
"""Seconds between two looks while an operation waits."""


class CancelledError(BaseException):
    """The operation was stopped because its caller asked for that. What was finished before stays."""

    def __init__(self, message: str = "the operation was cancelled") -> None:
        super().__init__(message)


class Cancel:
    """Stops operations: `cancel()` may be called from any thread, from an observer, and from a signal handler.

    There is no way back: what is cancelled stays so. With a `parent`, whatever cancels that cancels this, too. There is
    no lock in here, because a signal handler may run while the main thread holds it.
    """

    def __init__(self, parent: Cancel | None = None) -> None:
        self._parent = parent
        self._cancelled = False
        self._hurries: list[weakref.WeakMethod[Callable[[], None]]] = []

    @property
    def is_cancelled(self) -> bool:
        """Whether somebody has cancelled."""
        return self._cancelled or (self._parent is not None and self._parent.is_cancelled)

    def cancel(self) -> None:
        """Stop what runs with this object, soon; it raises `CancelledError` where it was called."""
        self._cancelled = True
        self.hurry()

    def hurry(self) -> None:
        """Wake what waits for other machines."""
        for reference in tuple(self._hurries):
            if (wake := reference()) is not None:
                wake()

    def when_cancelled(self, wake: Callable[[], None]) -> None:
        """Have a method called when somebody cancels; its object is not kept alive by that."""
        # a new list, because a signal handler may be looking through the old one
        self._hurries = [*(known for known in self._hurries if known() is not None), weakref.WeakMethod(wake)]
        if self._parent is not None:
            self._parent.when_cancelled(wake)

    def check(self) -> None:
        """Raise `CancelledError` if somebody has cancelled."""
        if self.is_cancelled:
            raise CancelledError

    def within(self, time: Time) -> Time:
        """Return a time whose sleep ends, with `CancelledError`, as soon as somebody cancels."""
        return replace(time, sleep=lambda seconds: self.sleep(seconds, time))

    def sleep(self, seconds: float, time: Time = SYSTEM_TIME) -> None:
        """Wait, in seconds. Raises `CancelledError` as soon as somebody cancels."""
        end = time.clock() + seconds
        self.check()
        while (left := end - time.clock()) > 0:
            time.sleep(min(left, LOOKS))
            self.check()
