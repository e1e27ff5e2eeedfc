"""One measurement: seconds, memory, requests and bytes of a run; and what several of them say together."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

BENCH = Path(__file__).parent
ROOT = BENCH.parents[1]
LONGEST = 1800
"""Seconds after which a run is given up."""

Role = Literal["ours", "peer", "limit"]
Command = Sequence[str]


class RunError(RuntimeError):
    """A measured command failed."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One run. `peak` is in MiB, `size` the bytes of all blobs that the registry then has; None: has no meaning here.

    `server` are the seconds that the registry computed, on all cores together. `parts` are seconds of steps that are told apart.
    """

    seconds: float
    peak: float | None = None
    requests: int | None = None
    size: int | None = None
    parts: Mapping[str, float] | None = None
    server: float | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """One way to do a job. `note` says what a reader has to know; `extrapolated` marks figures that were multiplied."""

    key: str
    title: str
    role: Role
    run: Callable[[], Sample]
    note: str = ""
    extrapolated: int = 1


@dataclass(frozen=True, slots=True)
class Figures:
    """What several samples say: medians, and the shortest and longest time."""

    seconds: float
    shortest: float
    longest: float
    peak: float | None
    requests: float | None
    size: float | None
    parts: Mapping[str, float]
    server: float | None


def figures(samples: Sequence[Mapping[str, Any]], factor: int = 1) -> Figures:
    """Sum up samples as `as_json` gives them; times, requests and bytes are multiplied by `factor`."""
    times = [sample["seconds"] * factor for sample in samples]
    names = list(samples[0].get("parts") or ())

    def middle(name: str, times: int = 1) -> float | None:
        found = [sample[name] for sample in samples if sample.get(name) is not None]
        return statistics.median(found) * times if found else None

    return Figures(
        statistics.median(times),
        min(times),
        max(times),
        middle("peak"),
        middle("requests", factor),
        middle("size", factor),
        {name: statistics.median(sample["parts"][name] for sample in samples) for name in names},
        middle("server", factor),
    )


def as_json(sample: Sample) -> dict[str, Any]:
    """Return the sample for a JSON document."""
    return {name: value for name, value in asdict(sample).items() if value is not None}


def timed(commands: Sequence[Command], *, env: Mapping[str, str]) -> Sample:
    """Run commands one after the other. `peak` is that of the largest process. Raises `RunError`."""
    launcher = [sys.executable, "-S", "-E", str(BENCH / "launcher.py"), json.dumps([list(each) for each in commands])]
    seconds, kibibytes = json.loads(_output(launcher, env))
    return Sample(seconds, kibibytes / 1024)


def task(name: str, *arguments: str, env: Mapping[str, str]) -> Sample:
    """Run one of `tasks.py`, which measures itself: what it has to prepare does not count. Raises `RunError`."""
    found = json.loads(_output([sys.executable, str(BENCH / "tasks.py"), name, *arguments], env).splitlines()[-1])
    return Sample(found["seconds"], found["peak"], parts=found.get("parts"))


def _output(command: Command, env: Mapping[str, str]) -> str:
    done = subprocess.run(
        list(command), env=dict(env), cwd=ROOT, check=False, capture_output=True, text=True, timeout=LONGEST
    )
    if done.returncode:
        message = f"a run failed\n{done.stdout[-1000:]}{done.stderr[-4000:]}"
        raise RunError(message)
    return done.stdout


class DaemonMemory:
    """The memory of a daemon and of the processes it has started, from now on."""

    def __init__(self, pid: int) -> None:
        self._pids = _descendants(pid)
        for each in self._pids:
            # 5: begin anew with the peak (proc(5)); the kernel keeps counting from what is resident now
            Path(f"/proc/{each}/clear_refs").write_text("5")

    def peak(self) -> float:
        """Return the sum of the peaks in MiB. Processes that came and went meanwhile are not in it."""
        return sum(_high_water(pid) for pid in self._pids) / 1024


def cpu_seconds(pid: int) -> float:
    """Return the seconds for which a process has computed, in its own code and in the kernel's (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _high_water(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")), 0)


def _descendants(pid: int) -> list[int]:
    found = [pid]
    for each in found:
        for listed in Path(f"/proc/{each}/task").glob("*/children"):
            found += [int(child) for child in listed.read_text().split()]
    return found
