"""What every test has: an environment of its own, and property tests that run the same way twice."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from oci_binpkg.times import Time
from tests.support.examples import load_profile
from tests.support.isolation import homes, isolated_home, isolated_session

__all__ = ["homes", "isolated_home", "isolated_session"]

load_profile()


@pytest.fixture(scope="session", autouse=True)
def short_pauses() -> Iterator[None]:
    """Wait a hundredth of the time between two rounds of changes to an index: in earnest, up to 2 s by chance."""
    between = Time.between
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Time, "between", lambda time, shortest, longest: between(time, shortest, longest) / 100)
        yield


def pytest_itemcollected(item: pytest.Item) -> None:
    """Let `-k B14` find the tests that a mark says cover it."""
    item.extra_keyword_matches.update(each for mark in item.iter_markers("covers") for each in mark.args)


def pytest_collection_finish() -> None:
    """Take what was collected from the sight of the garbage collector, which else walks over thousands of tests each time."""
    gc.collect()
    gc.freeze()
