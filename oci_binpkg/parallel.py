"""Reading many things with several threads, as many as are needed soon."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Final, TypeVar

READERS: Final = 8
_TURN: Final = 32 * READERS
_Result = TypeVar("_Result")


def in_turns(read: Callable[[str], _Result], names: Iterable[str]) -> Iterator[_Result]:
    """Read several at a time and yield them in order; only so many are in memory as are read in a turn."""
    waiting = iter(names)
    with ThreadPoolExecutor(READERS) as readers:
        while some := list(islice(waiting, _TURN)):
            yield from readers.map(read, some)
