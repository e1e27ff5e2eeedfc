"""Measures what every input of the corpus of costly ones costs, two at a time: `make cost`.

An argument is a text: the cases that have it in their names. Prints those beyond the budget, and the dearest ones.
"""

from __future__ import annotations

import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.cli.test_cost import MEMORY, SECONDS, check, cost_of
from tests.support.costly_inputs import CASES
from tests.support.measuring import Cost

SHOWN = 10


def measure(name: str) -> tuple[str, Cost, str]:
    """Return the name of a case, what it cost, and what is wrong with that."""
    with tempfile.TemporaryDirectory(prefix="cost-") as base:
        cost = cost_of(CASES[name], Path(base))
    try:
        check(cost)
    except AssertionError as error:
        return name, cost, str(error).splitlines()[0]
    return name, cost, ""


def shown(name: str, cost: Cost) -> str:
    return f"{cost.seconds:5.1f} s {cost.memory:5.0f} MiB  exit {cost.code}  {name}"


def main() -> int:
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    names = [name for name in CASES if wanted in name]
    began = time.monotonic()
    with ThreadPoolExecutor(2) as workers:
        found = list(workers.map(measure, names))
    bad = [(name, cost, wrong) for name, cost, wrong in found if wrong]
    for name, cost, wrong in bad:
        print(f"BEYOND  {shown(name, cost)}: {wrong}")
    print(
        f"{len(found)} inputs in {time.monotonic() - began:.0f} s; the budget is {SECONDS} s and {MEMORY} MiB; dearest:"
    )
    for key in (lambda each: each[1].seconds, lambda each: each[1].memory):
        for name, cost, _ in sorted(found, key=key, reverse=True)[:SHOWN]:
            print(f"  {shown(name, cost)}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
