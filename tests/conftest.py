"""What every test has: an environment of its own, and property tests that run the same way twice."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

from tests.support.isolation import homes, isolated_home, isolated_session

__all__ = ["homes", "isolated_home", "isolated_session"]

# Shared machines are slow at times, so no deadline. In CI the examples are derived from the test itself: a failure
# there is the same failure everywhere.
settings.register_profile("development", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("development"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI", "").lower() in {"true", "1"} else "development")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Let `-k B14` find the tests that a mark says cover it."""
    item.extra_keyword_matches.update(each for mark in item.iter_markers("covers") for each in mark.args)
