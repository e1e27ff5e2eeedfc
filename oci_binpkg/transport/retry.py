"""When to try again: the policy (pure), and its use through tenacity with an injected clock, sleep and randomness.

The numbers follow what registries and their clients were seen to need: full jitter so that parallel workers spread out,
`Retry-After` obeyed and never clamped, no retry of answers that cannot change.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Final, TypeVar

import tenacity

from oci_binpkg.backoff import Backoff
from oci_binpkg.errors import BinpkgError
from oci_binpkg.times import Time

T = TypeVar("T")

_SECONDS: Final = re.compile(r"[0-9]+", re.ASCII)
_LONGEST: Final = 1e9
_DATE_CHARACTERS: Final = 64
"""An HTTP date has 29; older forms have a little more."""
RETRIED_STATUSES: Final = frozenset({408, 429, 499, 500, 502, 503, 504, *range(520, 525)})
RETRIED_CODES: Final = frozenset({"UNKNOWN", "UNAVAILABLE", "TOOMANYREQUESTS"})
FINAL_STATUSES: Final = frozenset({401, 403, 404, 405, 410, 413, 415, 416, 501, 505})
TOO_MANY_REQUESTS: Final = 429
SERVICE_UNAVAILABLE: Final = 503


class Failure(Enum):
    """Why there is no usable answer. The value is for people."""

    CONNECT = "could not connect"
    NAME = "the host name does not exist"
    NAME_TEMPORARY = "the host name cannot be looked up now"
    TIMEOUT = "no answer in time"
    SLOW = "the transfer is too slow"
    DROPPED = "the connection was cut"
    GARBLED = "the answer is not HTTP"
    ENCODED = "the body arrived with a Content-Encoding that was not asked for"
    PROXY = "the proxy refused"
    TLS = "no TLS connection could be agreed on"
    PLAIN = "the server does not speak TLS on this port"
    CERTIFICATE = "the server's certificate is not trusted"

    @property
    def lasting(self) -> bool:
        """Whether trying again is pointless."""
        return self in {Failure.CERTIFICATE, Failure.TLS, Failure.PLAIN}


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """How one attempt ended badly: an HTTP status with the registry's error codes, or a failure without an answer.

    `retry_after` is in seconds from now.
    """

    status: int = 0
    failure: Failure | None = None
    retry_after: float | None = None
    codes: tuple[str, ...] = ()

    @property
    def overloaded(self) -> bool:
        """Whether the server shows signs of being asked too much at once."""
        return self.status in {TOO_MANY_REQUESTS, SERVICE_UNAVAILABLE} or self.failure is Failure.DROPPED

    @property
    def stops_host(self) -> bool:
        """Whether every worker that asks this host should wait, not only this one."""
        return self.status == TOO_MANY_REQUESTS or (self.status == SERVICE_UNAVAILABLE and self.retry_after is not None)

    @property
    def names_a_time(self) -> bool:
        """Whether the server says when it wants to be asked again."""
        return self.retry_after is not None and self.status in {TOO_MANY_REQUESTS, SERVICE_UNAVAILABLE}

    def __str__(self) -> str:
        if self.failure is not None:
            return self.failure.value
        return f"HTTP {self.status}" + (f" {self.codes[0]}" if self.codes else "")


@dataclass(frozen=True, slots=True)
class RetryPolicy(Backoff):
    """What the numbers of a `Backoff` mean for a failed request: whether it is sent again, and when."""

    statuses: frozenset[int] = RETRIED_STATUSES
    codes: frozenset[str] = RETRIED_CODES

    @classmethod
    def of(cls, backoff: Backoff) -> RetryPolicy:
        """Return the policy with these numbers."""
        return cls(**{field.name: getattr(backoff, field.name) for field in fields(Backoff)})

    def delay(self, attempt: int, outcome: FailedAttempt, *, elapsed: float, jitter: float) -> float | None:
        """Return the seconds to wait after failed attempt number `attempt` (from 1), or None to give up.

        `elapsed` is what of the budget is used up; `jitter` is a random number from 0 up to 1.
        """
        if attempt > self.retries or not self.retryable(outcome):
            return None
        if outcome.failure is Failure.NAME and attempt > self.name_retries:
            return None
        if outcome.retry_after is not None and outcome.names_a_time:
            if outcome.retry_after > self.longest_wait:
                return None
            return max(self.floor, outcome.retry_after * (1 + self.spread * jitter))
        delay = self._growing(attempt, jitter, limited=outcome.status == TOO_MANY_REQUESTS)
        return delay if elapsed + delay <= self.budget else None

    def _growing(self, attempt: int, jitter: float, *, limited: bool) -> float:
        exponent = min(attempt - 1, 60)
        if limited:
            return float(min(self.limited_cap, self.limited_base * 2.0**exponent) * (1 + self.spread * jitter))
        return max(self.floor, jitter * min(self.cap, self.base * 2.0**exponent))

    def retryable(self, outcome: FailedAttempt) -> bool:
        """Return whether the same request may end better later."""
        if outcome.failure is not None:
            return not outcome.failure.lasting
        if outcome.status in self.statuses:
            return True
        return outcome.status not in FINAL_STATUSES and not self.codes.isdisjoint(outcome.codes)


def parse_retry_after(value: str | None, *, now: float) -> float | None:
    """Return the seconds that a Retry-After header (seconds or an HTTP date) asks for, or None if it says nothing.

    `now` is the current time in seconds since 1970.
    """
    text = (value or "").strip()
    if _SECONDS.fullmatch(text):
        return min(float(text), _LONGEST)
    moment = parse_http_date(text)
    return None if moment is None else min(max(0.0, moment - now), _LONGEST)


def parse_http_date(text: str) -> float | None:
    """Return an HTTP date in seconds since 1970, or None for another text."""
    if len(text) > _DATE_CHARACTERS:
        return None
    try:
        moment = parsedate_to_datetime(text)
        return (moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment).timestamp()
    except (ValueError, OverflowError):
        return None


class FailedAttemptError(Exception):
    """One attempt failed. `explain(attempts, seconds)` makes the error for the user when it was the last."""

    def __init__(self, outcome: FailedAttempt, explain: Callable[[int, float], BinpkgError]) -> None:
        super().__init__(str(outcome))
        self.outcome = outcome
        self.explain = explain


@dataclass(frozen=True, slots=True)
class Timing:
    """The time that waiting takes, and when (on its `clock`) the whole run must end."""

    time: Time
    deadline: float | None = None


@dataclass(slots=True)
class _RetrySchedule:
    """Tenacity's `wait` and `stop` answered by the policy, asked once for each failed attempt.

    `free` are the seconds so far that the server asked for.
    """

    policy: RetryPolicy
    timing: Timing
    started: float
    queued: Callable[[], float]
    decided: tuple[int, float | None] = (0, None)
    free: float = 0.0

    def _decide(self, state: tenacity.RetryCallState) -> float | None:
        if self.decided[0] != state.attempt_number:
            self.decided = (state.attempt_number, self._delay(state))
        return self.decided[1]

    def _delay(self, state: tenacity.RetryCallState) -> float | None:
        now = self.timing.time.clock()
        outcome = failure_of(state).outcome
        elapsed = now - self.started - self.free - self.queued()
        delay = self.policy.delay(state.attempt_number, outcome, elapsed=elapsed, jitter=self.timing.time.random())
        if delay is None or (self.timing.deadline is not None and now + delay > self.timing.deadline):
            return None
        self.free += delay if outcome.names_a_time else 0.0
        return delay

    def wait(self, state: tenacity.RetryCallState) -> float:
        return self._decide(state) or 0.0

    def stop(self, state: tenacity.RetryCallState) -> bool:
        return self._decide(state) is None


def failure_of(state: tenacity.RetryCallState) -> FailedAttemptError:
    """Return the failure that tenacity is deciding about."""
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, FailedAttemptError)
    return error


def call_with_retries(
    attempt: Callable[[], T],
    policy: RetryPolicy,
    timing: Timing,
    *,
    before_wait: Callable[[FailedAttempt, int, float], None] = lambda _outcome, _attempt, _delay: None,
    queued: Callable[[], float] = lambda: 0.0,
) -> T:
    """Call `attempt` until it does not raise `FailedAttemptError`, or the policy gives up.

    `before_wait(outcome, attempt, delay)` is called before each wait. `queued()` counts seconds that attempts spend
    waiting for their turn: many workers must not use up each other's tries. Raises what the last failure's `explain`
    makes.
    """
    started, before = timing.time.clock(), queued()
    schedule = _RetrySchedule(policy, timing, started, lambda: queued() - before)

    def announce(state: tenacity.RetryCallState) -> None:
        before_wait(failure_of(state).outcome, state.attempt_number, schedule.wait(state))

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(FailedAttemptError),
        wait=schedule.wait,
        stop=schedule.stop,
        sleep=timing.time.sleep,
        before_sleep=announce,
        reraise=True,
    )
    try:
        return retrying(attempt)
    except FailedAttemptError as failed:
        raise failed.explain(schedule.decided[0], timing.time.clock() - started) from None
