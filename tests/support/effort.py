"""Bounds on CPU time that hold on a slow machine, too: a known loop beside the work says how slow this run is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

_STEPS = 20_000
_USUAL = 0.004
"""Seconds that the loop takes on a machine of today; with coverage, on a busy or an emulated one it takes more."""


def _step(number: int) -> int:
    return number + 1


def _slowness() -> float:
    before, number = time.process_time(), 0
    for _ in range(_STEPS):
        number = _step(number)
    return max(1.0, (time.process_time() - before) / _USUAL)


@contextmanager
def cpu_within(seconds: float) -> Iterator[None]:
    """Fail if the body takes more CPU time than `seconds` of a usual machine: as often more as a plain loop does."""
    slowness, before = _slowness(), time.process_time()
    yield
    spent = time.process_time() - before
    allowed = seconds * max(slowness, _slowness())
    assert spent < allowed, f"{spent:.2f} s of CPU time, {allowed:.2f} s allowed"
