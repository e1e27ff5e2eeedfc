"""How many requests one host gets at a time, and the pause that all its workers share.

A registry that answers 429 or 503 means all of us: one worker backing off while seven others keep asking prolongs the
ban.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from oci_binpkg.errors import ServerError
from oci_binpkg.times import Time


@dataclass(frozen=True, slots=True)
class GateLimits:
    """Requests in flight per host, of them uploads; how they shrink and grow.

    `burst` overload signs within `burst_seconds` halve the limit; `recovery` successes raise it by one. At a limit of
    one, `stop_after` overload signs in a row give the host up for this run (0: never).
    """

    in_flight: int = 8
    uploads: int = 4
    burst: int = 3
    burst_seconds: float = 10.0
    recovery: int = 20
    stop_after: int = 5


class HostGate:
    """Lets requests to one host through, at most `limit` at a time. Thread-safe.

    A request counts from before it is sent until its answer's headers are there. A thread that already holds a slot
    passes freely: streaming an upload from a blob of the same registry asks for the blob from inside the upload.
    """

    def __init__(self, host: str, limits: GateLimits, time: Time) -> None:
        self._host = host
        self._limits = limits
        self._time = time
        self._condition = threading.Condition()
        self._held = threading.local()
        self._limit = max(1, limits.in_flight)
        self._queues: dict[bool, list[object]] = {False: [], True: []}
        self._active = 0
        self._uploads = 0
        self._not_before = float("-inf")
        self._signs: list[float] = []
        self._successes = 0
        self._failed_in_row = 0

    @property
    def limit(self) -> int:
        """How many requests may be in flight now."""
        return self._limit

    @property
    def queued(self) -> float:
        """How many seconds the calling thread has waited for its turns here, all together."""
        return float(getattr(self._held, "queued", 0.0))

    @contextmanager
    def slot(self, *, upload: bool = False) -> Iterator[None]:
        """Hold one of the host's slots. Raises `ServerError` when the host was given up."""
        if getattr(self._held, "depth", 0):
            yield
            return
        came = self._time.clock()
        self._enter(upload)
        self._held.queued = self.queued + self._time.clock() - came
        self._held.depth = 1
        try:
            yield
        finally:
            self._held.depth = 0
            with self._condition:
                self._active -= 1
                self._uploads -= upload
                self._condition.notify_all()

    def _enter(self, upload: bool) -> None:
        # in order of arrival: a request that is overtaken again and again arrives with an expired token
        place, queue = object(), self._queues[upload]
        with self._condition:
            queue.append(place)
        try:
            while True:
                self._sit_out_pause()
                with self._condition:
                    self._condition.wait_for(
                        lambda: (queue[0] is place and self._free(upload)) or self._given_up,
                    )
                    self._check_alive()
                    if self._time.clock() >= self._not_before:
                        self._active += 1
                        self._uploads += upload
                        self._held.alone = self._limit == 1
                        return
        finally:
            with self._condition:
                queue.remove(place)
                self._condition.notify_all()

    def _sit_out_pause(self) -> None:
        while (left := self._not_before - self._time.clock()) > 0:
            self._time.sleep(left)

    def _free(self, upload: bool) -> bool:
        return self._active < self._limit and (not upload or self._uploads < self._upload_limit)

    @property
    def _upload_limit(self) -> int:
        return max(1, self._limits.uploads * self._limit // max(1, self._limits.in_flight))

    @property
    def _given_up(self) -> bool:
        return 0 < self._limits.stop_after <= self._failed_in_row

    def _check_alive(self) -> None:
        if self._given_up:
            raise ServerError(
                f"{self._host} was given up for this run: it kept failing with one request at a time",
                hint="try again later; what was transferred so far is not sent again",
                host=self._host,
            )

    def pause(self, seconds: float) -> None:
        """Let no request start before `seconds` from now."""
        with self._condition:
            self._not_before = max(self._not_before, self._time.clock() + seconds)

    def overloaded(self) -> None:
        """Note a sign of overload: 429, 503, a cut connection. Called by the thread that had the slot."""
        with self._condition:
            now = self._time.clock()
            # requests that were under way before the limit fell say nothing about one at a time
            if self._limit == 1 and getattr(self._held, "alone", True):
                self._failed_in_row += 1
            self._signs = [moment for moment in self._signs if now - moment <= self._limits.burst_seconds] + [now]
            if len(self._signs) >= self._limits.burst:
                self._signs = []
                self._limit = max(1, self._limit // 2)
            self._condition.notify_all()

    def succeeded(self) -> None:
        """Note a proper answer."""
        with self._condition:
            self._failed_in_row = 0
            self._successes += 1
            if self._successes >= self._limits.recovery:
                self._successes = 0
                self._limit = min(max(1, self._limits.in_flight), self._limit + 1)
                self._condition.notify_all()


class HostGates:
    """The gates of all hosts of a run, one each: clients of one registry share its gate."""

    def __init__(self, limits: GateLimits, time: Time) -> None:
        self._limits = limits
        self._time = time
        self._lock = threading.Lock()
        self._gates: dict[str, HostGate] = {}

    def of(self, host: str) -> HostGate:
        """Return the gate of `host[:port]`."""
        with self._lock:
            if host not in self._gates:
                self._gates[host] = HostGate(host, self._limits, self._time)
            return self._gates[host]
