"""Clocks, waiting and chance: one value, so that tests set the time and do not wait."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_RANDOM_BYTES: Final = 7


def _random() -> float:
    # `random` takes longer to import than some commands take to run
    return int.from_bytes(os.urandom(_RANDOM_BYTES), "big") / 2.0 ** (8 * _RANDOM_BYTES)


@dataclass(frozen=True, slots=True)
class Time:
    """Everything that waits or reads a clock takes this. All times are in seconds.

    `now` returns the time since 1970, `clock` that of a clock which is never set, `random` a number from 0 up to 1.
    """

    now: Callable[[], float] = time.time
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    random: Callable[[], float] = _random

    def between(self, shortest: float, longest: float) -> float:
        """Return a random number of seconds."""
        return shortest + (longest - shortest) * self.random()


SYSTEM_TIME: Final = Time()
