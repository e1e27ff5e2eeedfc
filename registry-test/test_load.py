"""Many workers against a registry that has enough of them, and a long run in which one request of a hundred goes wrong.

The clock is the test's own where waits would take long; connections, bytes and threads are real.
"""

from __future__ import annotations

import bisect
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import pytest
from fault_bench import USER, Action, Answer, Asked, FaultBench, Rule, fetch, image, layer, refusal

from oci_binpkg.events import Event, Retrying
from oci_binpkg.model.content import Blob
from oci_binpkg.model.reference import Repository
from oci_binpkg.store.registry.repository import RegistryStore
from oci_binpkg.times import Time
from oci_binpkg.transport.credentials import FixedCredential
from oci_binpkg.transport.gate import GateLimits, HostGates
from oci_binpkg.transport.registry_client import RegistryHttpClient
from oci_binpkg.transport.retry import RetryPolicy
from oci_binpkg.transport.tuning import Timeouts, TransportSettings
from tests.support.real.registry import RealRegistry

pytestmark = [pytest.mark.real, pytest.mark.timeout(1800)]

WORKERS = 40
SOAK = int(os.environ.get("OCI_BINPKG_SOAK", "300"))
SEED = int(os.environ.get("OCI_BINPKG_SOAK_SEED", "20260701"))


class QuickTime:
    """A clock that runs `factor` times as fast as the real one: 40 workers wait in it together, as they would for long."""

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self._begin = time.monotonic()
        self.time = Time(self.now, self.clock, self.sleep, random.Random(SEED).random)

    def clock(self) -> float:
        return 1000.0 + (time.monotonic() - self._begin) * self.factor

    def now(self) -> float:
        return 1_800_000_000.0 + self.clock()

    def sleep(self, seconds: float) -> None:
        time.sleep(max(0.0, seconds) / self.factor)

    def settings(self, **timeouts: float) -> TransportSettings:
        """The usual settings. Sockets wait by the machine's clock, and so does the budget for tries that it bounds: else
        one answer that a busy machine is slow to give uses up all of it.
        """
        usual = RetryPolicy()
        policy = replace(usual, budget=usual.budget * self.factor)
        return TransportSettings(timeouts=Timeouts(**timeouts), retry=policy)


@dataclass
class Crowd:
    """Forty workers that share one client, and when the registry was asked, in their time."""

    bench: FaultBench
    quick: QuickTime
    client: RegistryHttpClient
    gates: HostGates
    events: list[Event] = field(default_factory=list)
    asked: list[float] = field(default_factory=list)

    def store(self) -> RegistryStore:
        return RegistryStore(
            self.client,
            self.bench.repository(),
            time=self.quick.time,
            observer=self.events.append,
        )

    def push(self, count: int) -> list[Blob]:
        """Push so many small blobs by all workers; return them."""
        store, blobs = self.store(), [layer(2000, 1000 + seed) for seed in range(count)]
        with ThreadPoolExecutor(WORKERS) as workers:
            list(workers.map(store.put, blobs))
        return blobs

    def most_within(self, seconds: float) -> int:
        """Return how many requests came at most within any stretch of so many seconds."""
        moments = sorted(self.asked)
        return max(bisect.bisect_right(moments, moment + seconds) - n for n, moment in enumerate(moments))

    @property
    def limit(self) -> int:
        return self.gates.of(self.bench.proxy.host).limit


def crowd(bench: FaultBench, factor: float, *, limits: GateLimits | None = None, **timeouts: float) -> Crowd:
    quick = QuickTime(factor)
    gates = HostGates(limits or GateLimits(), quick.time)
    settings = quick.settings(**timeouts)
    events: list[Event] = []
    client = RegistryHttpClient(
        bench.proxy.url, time=quick.time, gates=gates, settings=settings, observer=events.append,
    )  # fmt: skip
    bench.stack.callback(client.close)
    made = Crowd(bench, quick, client, gates, events)
    bench.on(Action(prepare=lambda _asked: made.asked.append(quick.clock())), times=0)
    return made


class Bucket:
    """Lets `rate` requests a second through, and `burst` at once; refuses the others with 429."""

    def __init__(self, clock: Callable[[], float], rate: float, burst: int, retry_after: str) -> None:
        self._clock, self._rate, self._burst, self._retry_after = clock, rate, burst, retry_after
        self._lock = threading.Lock()
        self._left, self._last = float(burst), clock()
        self.refused = 0
        self.refused_uploads = 0

    def answer(self, asked: Asked) -> Answer | None:
        with self._lock:
            now = self._clock()
            self._left = min(self._burst, self._left + (now - self._last) * self._rate)
            self._last = now
            if self._left >= 1:
                self._left -= 1
                return None
            self.refused += 1
            self.refused_uploads += asked.method == "PUT"
        headers = (("Retry-After", self._retry_after),) if self._retry_after else ()
        return refusal(429, "TOOMANYREQUESTS", headers=headers)


@pytest.mark.parametrize("retry_after", ["2", ""])
def test_forty_workers_and_a_registry_that_throttles(bench: FaultBench, retry_after: str) -> None:
    """Five requests a second are allowed -> all arrives, and the registry is asked little more often than it allows."""
    many = crowd(bench, factor=10)
    bucket = Bucket(many.quick.clock, rate=5, burst=10, retry_after=retry_after)
    bench.on(Action(answer=bucket.answer), times=0)
    blobs = many.push(60)
    assert all(bench.holds(blob) for blob in blobs)
    assert bucket.refused > 0
    spent = len(many.asked) - bucket.refused
    most = 3 * len(blobs) + 3 * bucket.refused_uploads
    assert spent <= most, "an upload that is refused is looked for once, given back and begun anew"
    assert bucket.refused <= 0.3 * 3 * len(blobs)
    assert many.most_within(1) <= 10 + 5 + 8, "a burst, a second's worth, and one round of requests on their way"
    assert many.limit < 8


def test_no_worker_asks_while_the_registry_wants_rest(bench: FaultBench) -> None:
    """429 with five seconds to wait -> for five seconds nobody asks, but for what was on its way already."""
    many = crowd(bench, factor=2)
    refused_at: list[float] = []
    answer = refusal(429, "TOOMANYREQUESTS", headers=(("Retry-After", "5"),))
    bench.on(Action(answer=answer, prepare=lambda _asked: refused_at.append(many.quick.clock())), nth=30)
    blobs = many.push(40)
    assert all(bench.holds(blob) for blob in blobs)
    # forty threads of one interpreter need a moment to hear of it: a second of theirs is half of one here
    assert [moment for moment in many.asked if refused_at[0] + 2 < moment < refused_at[0] + 4.5] == []
    assert len(many.asked) <= 3 * len(blobs) + 16, "no more than what was on its way is asked again"


def test_forty_workers_and_resets(bench: FaultBench) -> None:
    """Every tenth request is reset -> fewer at a time, everything arrives, in not much more than was needed."""
    many = crowd(bench, factor=30, limits=GateLimits(stop_after=0))
    counter = iter(range(10**6))
    limits: list[int] = []

    def every_tenth(_asked: Asked) -> bool:
        limits.append(many.limit)
        return next(counter) % 10 == 9

    bench.on(Action(forward=False, drop=True, reset=True), "HEAD|POST|PUT", times=0, when=every_tenth)
    blobs = many.push(100)
    assert all(bench.holds(blob) for blob in blobs)
    assert len(many.asked) <= 1.5 * 3 * len(blobs)
    assert min(limits) < 8, "at the end it may have recovered, on a machine that is busy"


def test_forty_workers_and_slow_answers(bench: FaultBench) -> None:
    """Every answer takes long -> never more than eight are waited for, none is given up, and none is asked twice."""
    many = crowd(bench, factor=1)
    inside, most, lock = [0], [0], threading.Lock()

    def enter(_asked: Asked) -> None:
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        bench.proxy.pause(0.02)

    def leave(_asked: Asked, answer: Answer) -> Answer:
        with lock:
            inside[0] -= 1
        return answer

    bench.on(Action(prepare=enter, edit=leave), times=0)
    blobs = many.push(60)
    assert all(bench.holds(blob) for blob in blobs)
    assert len(many.asked) == 3 * len(blobs)
    assert most[0] <= 8
    assert [event for event in many.events if isinstance(event, Retrying)] == []


def test_a_registry_that_stays_down_is_not_stormed(bench: FaultBench) -> None:
    """503 to everything -> forty workers ask a few dozen times in all, and the run ends with an error."""
    many = crowd(bench, factor=60)
    bench.on(Action(answer=refusal(503, "UNAVAILABLE")), times=0)
    store = many.store()

    def work(seed: int) -> str:
        try:
            store.put(layer(2000, seed))
        except Exception as error:  # noqa: BLE001 - what it is does not matter here
            return type(error).__name__
        return ""

    with ThreadPoolExecutor(WORKERS) as workers:
        assert set(workers.map(work, range(WORKERS))) == {"ServerError"}
    assert len(many.asked) <= 2 * WORKERS
    assert many.limit == 1


# ---- the long run


FAULTS: dict[str, Action] = {
    "reset before": Action(forward=False, drop=True, reset=True),
    "reset after": Action(drop=True, reset=True),
    "lost answer": Action(drop=True),
    "500": Action(answer=Answer(500)),
    "502": Action(answer=Answer(502, (), b"<html>Bad Gateway</html>")),
    "503": Action(answer=refusal(503, "UNAVAILABLE")),
    "503 after": Action(status=503),
    "429": Action(answer=refusal(429, "TOOMANYREQUESTS")),
    "429 with a time": Action(answer=refusal(429, "TOOMANYREQUESTS", headers=(("Retry-After", "1"),))),
    "cut body": Action(cut_after=20),
}


class Weather:
    """Strikes one request of a hundred, by a seed. `struck` counts what it did."""

    def __init__(self, bench: FaultBench, seed: int, share: float) -> None:
        self._random = random.Random(seed)
        self._share = share
        self._lock = threading.Lock()
        self._chosen: dict[int, str] = {}
        self._asked, self._over_at = 0, 0
        self.struck: Counter[str] = Counter()
        tokens = bench.tokens
        assert tokens is not None
        kinds = {
            **FAULTS,
            "token over": Action(prepare=tokens.revoke),
            "all tokens over": Action(prepare=lambda _asked: tokens.forget()),
        }
        self._names = list(kinds)
        for name, action in kinds.items():
            bench.proxy.add(_rule(action, self._is(name)))

    def _one(self) -> str:
        """Choose a fault. No token is over that is younger than 200 requests: no server gives out shorter ones."""
        name = self._random.choice(self._names)
        if "over" in name:
            if self._asked - self._over_at < 200:
                return "lost answer"
            self._over_at = self._asked
        return name

    def _is(self, name: str) -> Callable[[Asked], bool]:
        def wanted(asked: Asked) -> bool:
            with self._lock:
                if name == self._names[0]:  # the first rule decides, the others follow
                    self._asked += 1
                    strikes = self._random.random() < self._share
                    self._chosen[id(asked)] = self._one() if strikes else ""
                    self.struck.update([self._chosen[id(asked)]] if strikes else [])
                return self._chosen[id(asked)] == name

        return wanted


def _rule(action: Action, when: Callable[[Asked], bool]) -> Rule:
    return Rule(action, "HEAD|GET|POST|PUT|PATCH", "/v2/.+/", times=0, role="registry", when=when)


@dataclass
class Soak:
    """What a run of pushes and pulls left behind."""

    requests: int
    seconds: float
    slowest: int
    wrong: list[str]


def soak(registry: RealRegistry, stack: ExitStack, count: int, share: float) -> tuple[Soak, Weather]:
    """Push so many tiny packages by forty workers, each with a layer, a config and a tagged manifest, and read each back."""
    bench = FaultBench(registry, stack)
    bench.ask_for_tokens(lifetime=10**6)
    quick = QuickTime(20)
    gates = HostGates(GateLimits(), quick.time)
    client = RegistryHttpClient(
        bench.proxy.url, credentials=FixedCredential(USER), time=quick.time, gates=gates, settings=quick.settings(),
    )  # fmt: skip
    stack.callback(client.close)
    store = RegistryStore(client, bench.repository(), time=quick.time)
    weather = Weather(bench, SEED, share)

    def work(seed: int) -> str:
        one = layer(500, 10_000 + seed)
        manifest, config = image(one, config=b'{"number":%d}' % seed)
        store.put(one)
        store.put(config)
        store.tag(manifest, f"p{seed}")
        return "" if fetch(store, one.descriptor) == one.read() else f"p{seed} read back"

    started = time.monotonic()
    with ThreadPoolExecutor(WORKERS) as workers:
        wrong = [text for text in workers.map(work, range(count)) if text]
    seconds = time.monotonic() - started
    wrong += _wrong_in(registry, bench.name, count)
    asked = [one for one in bench.seen(role="registry") if one.path.startswith("/v2/")]
    return Soak(len(asked), seconds, gates.of(bench.proxy.host).limit, wrong), weather


def _wrong_in(registry: RealRegistry, name: str, count: int) -> list[str]:
    """Return what the registry behind does not hold, or holds with another digest; asked without the proxy."""
    wrong = []
    with RegistryHttpClient(registry.url) as client:
        store = RegistryStore(client, Repository("http", registry.host, name))
        for seed in range(count):
            one = layer(500, 10_000 + seed)
            manifest, config = image(one, config=b'{"number":%d}' % seed)
            if store.resolve(f"p{seed}") != manifest.descriptor:
                wrong.append(f"p{seed}")
            wrong += [
                f"{b.descriptor.digest}" for b in (one, config, manifest) if fetch(store, b.descriptor) != b.read()
            ]
    return wrong


def test_soak(plain_registry: RealRegistry, capsys: pytest.CaptureFixture[str]) -> None:
    """One request of a hundred goes wrong, in twelve ways -> every digest is right in the end, by less than 1.3 times
    the requests of a run without faults.
    """
    with ExitStack() as stack:
        calm, _ = soak(plain_registry, stack, SOAK, 0.0)
        rough, weather = soak(plain_registry, stack, SOAK, 0.01)
    with capsys.disabled():
        print(
            f"\nsoak of {SOAK} packages: {rough.requests} requests in {rough.seconds:.0f} s, {calm.requests} in "
            f"{calm.seconds:.0f} s without faults ({rough.requests / calm.requests:.3f} x), "
            f"{sum(weather.struck.values())} faults: {dict(weather.struck)}"
        )
    assert calm.wrong == rough.wrong == []
    assert sum(weather.struck.values()) >= 0.007 * rough.requests
    assert len(weather.struck) >= 10
    assert rough.requests < 1.3 * calm.requests
