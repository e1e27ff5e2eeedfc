"""No input of 1 MB costs more than 256 MiB of memory or 5 s of CPU, whatever it is and whichever command reads it.

A sample of the corpus; `make cost` runs all of it.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.support.costly_inputs import CASES, LARGEST, SAMPLE, Costly
from tests.support.costly_layouts import size_of
from tests.support.measuring import Cost, measured
from tests.support.raw_servers import serving

MEMORY = 256
SECONDS = 5.0
CODES = frozenset({0, *range(2, 27), 130})
"""The exit codes that are documented; 70 is an internal error, 1 an exception that nobody expected."""


def cost_of(case: Costly, base: Path) -> Cost:
    """Make the input of a case, run its command, and check that it was a fair case."""
    asked = case.make(base)
    with serving(case.server) if case.server else nullcontext("") as host:
        cost = measured([argument.replace("HOST", host) for argument in asked.arguments], base, asked.environment)
    assert size_of(base / "input") <= LARGEST
    return cost


def check(cost: Cost) -> None:
    left_out = cost.code == 1 and "listed, and not there" in cost.out  # what a rebuild of an index ends with
    assert cost.code in CODES or left_out, cost.err
    assert "Traceback" not in cost.err
    assert cost.memory <= MEMORY, f"{cost.memory:.0f} MiB: {cost.err}"
    assert cost.seconds <= SECONDS, f"{cost.seconds:.1f} s: {cost.err}"


@pytest.mark.parametrize("name", SAMPLE)
def test_an_input_of_one_megabyte_costs_no_more_than_the_budget(name: str, tmp_path: Path) -> None:
    check(cost_of(CASES[name], tmp_path))


def test_the_corpus_has_every_kind_and_verb() -> None:
    assert len(CASES) >= 200
    assert len(SAMPLE) >= 60
    assert set(SAMPLE) <= set(CASES)


def test_what_costs_too_much_is_seen(tmp_path: Path) -> None:
    """The measure itself: a program that takes 300 MiB and a second is not within the budget."""
    spent = measured(["--help"], tmp_path, {})
    assert (spent.code, spent.memory < MEMORY, spent.seconds < SECONDS) == (0, True, True)
    program = "import time\nx = bytearray(300 << 20)\nwhile time.process_time() < 1.2: pass\n"
    heavy = measured([], tmp_path, {}, program=program)
    assert heavy.memory > MEMORY
    assert heavy.seconds > 1
