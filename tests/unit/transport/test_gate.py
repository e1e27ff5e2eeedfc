from __future__ import annotations

import threading

import pytest

from oci_binpkg.errors import ServerError
from oci_binpkg.transport.gate import GateLimits, HostGate, HostGates
from tests.support.fake_time import FakeTime


def gate(time: FakeTime | None = None, **limits) -> HostGate:
    time = time or FakeTime()
    return HostGate("reg.example", GateLimits(**limits), time.time)


class Occupant(threading.Thread):
    """Holds a slot until told to leave."""

    def __init__(self, host: HostGate, *, upload: bool = False) -> None:
        super().__init__(daemon=True)
        self.inside, self.leave = threading.Event(), threading.Event()
        self._slot = host.slot(upload=upload)
        self.start()

    def run(self) -> None:
        with self._slot:
            self.inside.set()
            self.leave.wait(10)


@pytest.mark.covers("R44")
def test_at_most_the_limit_is_in_flight_and_of_it_few_uploads() -> None:
    host = gate(in_flight=3, uploads=1)
    first = Occupant(host, upload=True)
    assert first.inside.wait(5)
    second = Occupant(host, upload=True)
    reads = [Occupant(host), Occupant(host)]
    assert all(read.inside.wait(5) for read in reads)
    assert not second.inside.is_set()
    reads[0].leave.set()
    reads[0].join(5)
    assert not second.inside.wait(0.02), "one upload at a time"
    first.leave.set()
    assert second.inside.wait(5)
    for occupant in (second, *reads):
        occupant.leave.set()
        occupant.join(5)


def test_requests_start_in_the_order_in_which_they_came() -> None:
    host = gate(in_flight=1)
    first = Occupant(host)
    assert first.inside.wait(5)
    started: list[int] = []
    waiting = []
    for number in range(6):
        thread = threading.Thread(target=_note_start, args=(host, started, number), daemon=True)
        thread.start()
        waiting.append(thread)
        while len(host._queues[False]) <= number:
            thread.join(0.001)
    first.leave.set()
    for thread in waiting:
        thread.join(5)
    assert started == list(range(6))


def _note_start(host: HostGate, started: list[int], number: int) -> None:
    with host.slot():
        started.append(number)


def test_a_thread_inside_passes_again() -> None:
    host = gate(in_flight=1)
    with host.slot(upload=True), host.slot(), host.slot():
        pass
    with host.slot():
        pass


@pytest.mark.covers("F08", "R44")
def test_a_pause_stops_every_request_of_the_host() -> None:
    time = FakeTime()
    host = gate(time)
    host.pause(7.0)
    host.pause(3.0)
    with host.slot():
        assert time.slept == [7.0]


@pytest.mark.covers("F46", "R44")
def test_bursts_halve_the_limit_and_successes_raise_it() -> None:
    time = FakeTime()
    host = gate(time)
    for _ in range(2):
        host.overloaded()
    time.advance(11)
    host.overloaded()
    assert host.limit == 8, "three signs, but not within ten seconds"
    host.overloaded()
    host.overloaded()
    assert host.limit == 4
    for _ in range(20):
        host.succeeded()
    assert host.limit == 5
    for _ in range(200):
        host.succeeded()
    assert host.limit == 8


def test_a_host_that_fails_at_one_request_at_a_time_is_given_up() -> None:
    host = gate(in_flight=1)
    for _ in range(4):
        host.overloaded()
    host.succeeded()
    for _ in range(4):
        host.overloaded()
    with host.slot():
        pass
    host.overloaded()
    with pytest.raises(ServerError, match=r"reg\.example was given up"), host.slot():
        pass


def test_what_was_on_its_way_with_others_does_not_give_a_host_up() -> None:
    host = gate(in_flight=16, stop_after=3)
    together = threading.Barrier(16)

    def refused() -> None:
        with host.slot():
            together.wait(10)
        host.overloaded()

    workers = [threading.Thread(target=refused, daemon=True) for _ in range(16)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(10)
    assert host.limit == 1
    for _ in range(3):
        with host.slot():
            pass
        host.overloaded()
    with pytest.raises(ServerError, match="was given up"), host.slot():
        pass


def test_waiting_requests_learn_that_the_host_was_given_up() -> None:
    host = gate(in_flight=1, stop_after=1)
    holder = Occupant(host)
    assert holder.inside.wait(5)
    failed = threading.Event()

    def waiting() -> None:
        with pytest.raises(ServerError), host.slot(upload=True):
            pass
        failed.set()

    threading.Thread(target=waiting, daemon=True).start()
    host.overloaded()
    assert failed.wait(5)
    holder.leave.set()


def test_zero_never_gives_up() -> None:
    host = gate(in_flight=1, stop_after=0)
    for _ in range(50):
        host.overloaded()
    with host.slot():
        assert host.limit == 1


def test_clients_of_one_host_share_its_gate() -> None:
    time = FakeTime()
    gates = HostGates(GateLimits(), time.time)
    assert gates.of("a.example") is gates.of("a.example")
    assert gates.of("a.example") is not gates.of("a.example:5000")
