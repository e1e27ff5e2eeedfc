"""The time that stands in for that of the build."""

import pytest

from oci_binpkg.config.settings import load_settings
from oci_binpkg.errors import UsageError
from oci_binpkg.model.inherited import source_date


def test_seconds_become_a_time():
    assert source_date("") == ""
    assert source_date("0") == "1970-01-01T00:00:00+00:00"
    assert source_date("1750000000") == "2025-06-15T15:06:40+00:00"


@pytest.mark.parametrize("text", ["-1", "1e9", "yesterday", "999999999999", "1" * 400, "1.5", " 1"])
def test_anything_else_is_refused(text):
    with pytest.raises(UsageError, match="SOURCE_DATE_EPOCH"):
        source_date(text)


def test_it_comes_from_the_environment_and_is_judged_when_it_is_needed():
    assert load_settings({"HOME": "/nowhere", "SOURCE_DATE_EPOCH": "bad"}).source_date == "bad"
