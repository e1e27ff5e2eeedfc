"""What every test has: an environment of its own, and property tests that run the same way twice."""

from __future__ import annotations

import pytest

from tests.support.examples import load_profile
from tests.support.isolation import homes, isolated_home, isolated_session

__all__ = ["homes", "isolated_home", "isolated_session"]

load_profile()


def pytest_itemcollected(item: pytest.Item) -> None:
    """Let `-k B14` find the tests that a mark says cover it."""
    item.extra_keyword_matches.update(each for mark in item.iter_markers("covers") for each in mark.args)
