"""How often and after which wait what failed is tried again: all the numbers, in one value."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self


@dataclass(frozen=True, slots=True)
class Backoff:
    """Numbers of tries, and waits in seconds.

    Requests: `retries` are the tries after the first. Delays grow from `base` to `cap` with full jitter, never below
    `floor`; attempts and delays together stay within `budget`, which neither a queue here nor a Retry-After uses up. A
    429 without Retry-After waits `limited_base` doubling up to `limited_cap`. A Retry-After up to `longest_wait` is
    obeyed plus at most `spread` of itself, a longer one is not waited for. A host without an address is asked for
    `name_retries` times more.

    Content: `unit_delays` are the waits before the next upload of a blob as a whole, `manifest_delays` the same for
    manifests; `chunk_tries` is how often one piece of an upload is sent, `chunk_restarts` how often an upload in pieces
    begins again. A download goes on where it broke off until `resume_failures` answers in a row brought little. An
    object of S3 whose body broke off is asked for `body_retries` times more.

    Other writers: an index is merged `merge_rounds` times, a list of what refers to a manifest `list_rounds` times,
    before their versions win; `merge_pause` are the shortest and the longest wait between two rounds.
    """

    retries: int = 5
    base: float = 0.5
    cap: float = 30.0
    floor: float = 0.1
    budget: float = 120.0
    limited_base: float = 2.0
    limited_cap: float = 60.0
    longest_wait: float = 120.0
    spread: float = 0.1
    name_retries: int = 1
    unit_delays: tuple[float, ...] = (1.0, 3.0, 9.0)
    manifest_delays: tuple[float, ...] = (1.0, 3.0, 9.0)
    chunk_tries: int = 5
    chunk_restarts: int = 2
    resume_failures: int = 5
    body_retries: int = 1
    merge_rounds: int = 20
    list_rounds: int = 5
    merge_pause: tuple[float, float] = (0.2, 2.0)

    def without_retries(self) -> Self:
        """Return the numbers with which everything is tried once, and nothing is waited for."""
        return replace(
            self,
            retries=0,
            unit_delays=(),
            manifest_delays=(),
            chunk_tries=1,
            chunk_restarts=0,
            resume_failures=0,
            body_retries=0,
            merge_rounds=1,
            list_rounds=1,
            merge_pause=(0.0, 0.0),
        )


USUAL: Backoff = Backoff()


def configured(retries: int | None) -> Backoff:
    """Return the numbers for so many tries of a request after the first, None: as usual. 0 is for all of them."""
    if retries is None:
        return USUAL
    return USUAL.without_retries() if retries == 0 else replace(USUAL, retries=retries)
