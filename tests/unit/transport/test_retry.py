from __future__ import annotations

from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oci_binpkg.errors import NetworkError
from oci_binpkg.transport.retry import (
    FailedAttempt,
    FailedAttemptError,
    Failure,
    RetryPolicy,
    Timing,
    call_with_retries,
    parse_http_date,
    parse_retry_after,
)
from tests.support.fake_time import FakeTime

POLICY = RetryPolicy()
OUTCOMES = st.builds(
    FailedAttempt,
    status=st.integers(400, 530),
    failure=st.none() | st.sampled_from(Failure),
    retry_after=st.none() | st.floats(0, 1e6),
    codes=st.lists(st.sampled_from(["UNKNOWN", "DENIED", "TOOMANYREQUESTS"])).map(tuple),
)


def delay(outcome: FailedAttempt, attempt: int = 1, *, elapsed: float = 0.0, jitter: float = 0.5) -> float | None:
    return POLICY.delay(attempt, outcome, elapsed=elapsed, jitter=jitter)


@pytest.mark.covers("F06")
@pytest.mark.parametrize("status", [408, 429, 499, 500, 502, 503, 504, 520, 522, 524])
def test_passing_troubles_are_retried(status: int) -> None:
    assert delay(FailedAttempt(status)) is not None


@pytest.mark.covers("F07")
@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 410, 412, 413, 415, 416, 501, 505])
def test_lasting_refusals_are_not(status: int) -> None:
    assert delay(FailedAttempt(status)) is None


@pytest.mark.covers("F05", "R06")
def test_certificates_are_never_retried_and_cut_tls_is() -> None:
    assert delay(FailedAttempt(failure=Failure.CERTIFICATE)) is None
    assert delay(FailedAttempt(failure=Failure.PLAIN)) is None
    assert delay(FailedAttempt(failure=Failure.DROPPED)) is not None


@pytest.mark.covers("F03")
def test_an_unknown_name_gets_two_tries_and_a_lookup_failure_all() -> None:
    assert delay(FailedAttempt(failure=Failure.NAME), 1) is not None
    assert delay(FailedAttempt(failure=Failure.NAME), 2) is None
    assert delay(FailedAttempt(failure=Failure.NAME_TEMPORARY), 5) is not None


def test_error_codes_make_a_status_retryable_unless_it_is_final() -> None:
    assert delay(FailedAttempt(400, codes=("UNKNOWN",))) is not None
    assert delay(FailedAttempt(404, codes=("UNKNOWN",))) is None
    assert delay(FailedAttempt(400, codes=("MANIFEST_INVALID",))) is None


@pytest.mark.covers("F08")
@given(asked=st.floats(0, 120), jitter=st.floats(0, 1, exclude_max=True), attempt=st.integers(1, 5))
def test_retry_after_is_obeyed_plus_at_most_a_tenth(asked: float, jitter: float, attempt: int) -> None:
    waited = POLICY.delay(attempt, FailedAttempt(429, retry_after=asked), elapsed=500.0, jitter=jitter)
    assert waited is not None
    assert asked <= waited <= max(0.1, asked * 1.1)


@pytest.mark.covers("F09")
def test_a_long_retry_after_is_not_waited_for() -> None:
    assert delay(FailedAttempt(429, retry_after=21600)) is None
    assert RetryPolicy(longest_wait=30000).delay(1, FailedAttempt(429, retry_after=21600), elapsed=0, jitter=0) == 21600


@pytest.mark.covers("F10")
def test_429_without_a_time_doubles_from_two_seconds_to_a_minute() -> None:
    waits = [RetryPolicy(retries=9, budget=1e9).delay(n, FailedAttempt(429), elapsed=0, jitter=0) for n in range(1, 8)]
    assert waits == [2, 4, 8, 16, 32, 60, 60]


@given(outcome=OUTCOMES, attempt=st.integers(1, 100), elapsed=st.floats(0, 1e4), jitter=st.floats(0, 1))
def test_delays_are_bounded_and_end(outcome: FailedAttempt, attempt: int, elapsed: float, jitter: float) -> None:
    waited = POLICY.delay(attempt, outcome, elapsed=elapsed, jitter=jitter)
    if attempt > POLICY.retries:
        assert waited is None
    assert POLICY.without_retries().delay(attempt, outcome, elapsed=elapsed, jitter=jitter) is None
    assert waited is None or 0.1 <= waited <= 132.0


def test_growth_has_full_jitter_a_floor_and_a_budget() -> None:
    broken = FailedAttempt(500)
    assert [delay(broken, n, jitter=1.0) for n in range(1, 6)] == [0.5, 1, 2, 4, 8]
    assert delay(broken, 5, jitter=0.0) == 0.1
    assert delay(broken, 5, elapsed=119.0, jitter=1.0) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2", 2.0),
        (" 120 ", 120.0),
        (formatdate(1000.0 + 30, usegmt=True), 30.0),
        (formatdate(500.0, usegmt=True), 0.0),
        ("9" * 400, 1e9),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 1e9),
        ("Thu, 01 Jan 1970 00:17:10", 30.0),
        ("soon", None),
        ("-1", None),
        ("1.5", None),
        ("", None),
        (None, None),
    ],
)
@pytest.mark.covers("F08")
def test_retry_after_forms(text: str | None, seconds: float | None) -> None:
    assert parse_retry_after(text, now=1000.0) == seconds


@given(st.text())
def test_odd_dates_never_raise(text: str) -> None:
    parse_http_date(text)
    parse_retry_after(text, now=0.0)


def failing(times: int, outcome: FailedAttempt, log: list[int]):
    def attempt() -> str:
        log.append(1)
        if len(log) <= times:
            raise FailedAttemptError(outcome, lambda tries, seconds: NetworkError(f"{tries} tries, {seconds:g} s"))
        return "done"

    return attempt


def timing(time: FakeTime, **kwargs) -> Timing:
    return Timing(time.time, **kwargs)


def test_attempts_are_repeated_until_one_succeeds() -> None:
    log: list[Any] = []
    told: list[Any] = []
    time = FakeTime()
    result = call_with_retries(
        failing(3, FailedAttempt(500), log),
        POLICY,
        timing(time),
        before_wait=lambda outcome, attempt, delay: told.append((str(outcome), attempt, delay)),
    )
    assert result == "done"
    assert time.slept == [0.25, 0.5, 1.0]
    assert told == [("HTTP 500", 1, 0.25), ("HTTP 500", 2, 0.5), ("HTTP 500", 3, 1.0)]


def test_giving_up_raises_the_explanation_with_attempts_and_time() -> None:
    log: list[int] = []
    with pytest.raises(NetworkError, match=r"^6 tries, 7.75 s$") as caught:
        call_with_retries(failing(99, FailedAttempt(failure=Failure.DROPPED), log), POLICY, timing(FakeTime()))
    assert len(log) == 6
    assert caught.value.__suppress_context__, "inner exceptions may hold signed addresses"


def test_no_retries_and_the_end_of_the_run() -> None:
    log: list[int] = []
    with pytest.raises(NetworkError, match="1 tries"):
        call_with_retries(failing(9, FailedAttempt(500), log), POLICY.without_retries(), timing(FakeTime()))
    with pytest.raises(NetworkError, match="2 tries"):
        call_with_retries(failing(9, FailedAttempt(500), log), POLICY, timing(FakeTime(), deadline=1000.5))


def test_what_was_waited_for_others_is_not_taken_from_the_budget() -> None:
    time, log = FakeTime(), []
    queued = 0.0

    def attempt() -> str:
        nonlocal queued
        queued += 500.0  # a queue of other workers' requests
        time.advance(500.0)
        log.append(1)
        if len(log) < 4:
            asked = FailedAttempt(429, retry_after=100.0) if len(log) < 3 else FailedAttempt(502)
            raise FailedAttemptError(asked, lambda tries, seconds: NetworkError(f"{tries} tries"))
        return "done"

    assert call_with_retries(attempt, POLICY, timing(time), queued=lambda: queued) == "done"
    log.clear()
    with pytest.raises(NetworkError, match="3 tries"):
        call_with_retries(attempt, RetryPolicy(budget=60.0), timing(time))  # here the attempt itself took so long


def test_other_exceptions_pass_at_once() -> None:
    def attempt() -> None:
        raise NetworkError("final")

    with pytest.raises(NetworkError, match="final"):
        call_with_retries(attempt, POLICY, timing(FakeTime()))


def test_outcomes_are_readable() -> None:
    assert str(FailedAttempt(429, codes=("TOOMANYREQUESTS",))) == "HTTP 429 TOOMANYREQUESTS"
    assert str(FailedAttempt(failure=Failure.DROPPED)) == "the connection was cut"
    assert FailedAttempt(429).stops_host
    assert FailedAttempt(503, retry_after=1.0).stops_host
    assert not FailedAttempt(503).stops_host
