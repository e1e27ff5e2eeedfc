"""A clock that only moves when somebody sleeps."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from oci_binpkg.times import Time


@dataclass
class FakeTime:
    """`time` is to be handed to what waits; `slept` is the list of waits, in seconds."""

    seconds: float = 1000.0
    slept: list[float] = field(default_factory=list)
    started_at: float = 1_800_000_000.0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._begin = self.seconds

    @property
    def time(self) -> Time:
        """Return the clock as a value, without chance."""
        return Time(self.now, self.clock, self.sleep, lambda: 0.5)

    def clock(self) -> float:
        with self._lock:
            return self.seconds

    def now(self) -> float:
        """Seconds since 1970."""
        return self.started_at + self.clock() - self._begin

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.slept.append(seconds)
            self.seconds += seconds

    def advance(self, seconds: float) -> None:
        with self._lock:
            self.seconds += seconds
