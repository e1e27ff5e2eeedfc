"""How property tests run: the same way twice where it matters, with few examples by day and many by night."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

NIGHTLY = 100
"""The examples of a property that asks for no number of its own, in the profile `nightly`; by day, a quarter."""


def load_profile() -> None:
    """Load the profile that HYPOTHESIS_PROFILE names; else `ci` where CI is true, and `development`."""
    # Shared machines are slow at times, so no deadline. In CI the examples are derived from the test itself: a failure
    # there is the same failure everywhere.
    slow = [HealthCheck.too_slow]
    settings.register_profile("development", deadline=None, suppress_health_check=slow, max_examples=NIGHTLY // 4)
    settings.register_profile("ci", settings.get_profile("development"), derandomize=True, print_blob=True)
    settings.register_profile("nightly", settings.get_profile("development"), max_examples=NIGHTLY, print_blob=True)
    ci = os.environ.get("CI", "").lower() in {"true", "1"}
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if ci else "development"))


def examples(nightly: int) -> settings:
    """Return what decorates a test that tries so many examples in the profile `nightly`, and a quarter of them by day."""
    return settings(max_examples=max(nightly * settings().max_examples // NIGHTLY, 10))


def nightly() -> bool:
    """Whether there is time for what takes long."""
    return os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
