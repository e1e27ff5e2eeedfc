"""Accesses to mirrors of S3 and fsspec are logged, one line each."""

from __future__ import annotations

import logging

import pytest

from oci_binpkg.config.settings import Settings
from oci_binpkg.connections import Connections
from oci_binpkg.errors import NotFoundError
from oci_binpkg.times import Time


def test_each_access_is_one_line_with_outcome_and_time(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "oci_binpkg")
    ticks = iter(range(100))
    connections = Connections(Settings(), lambda event: None, time=Time(clock=lambda: float(next(ticks))))
    objects = connections.objects("memory://logged/mirror")
    objects.write("v3/layout.json", b"{}")
    version = objects.read("v3/layout.json")
    assert version
    assert objects.read("v3/layout.json", known_etag=version.etag) is None
    assert objects.write("v3/layout.json", b"[]", if_match="0") is False
    with objects.open("v3/layout.json") as stream:
        assert stream.read() == b"{}"
    assert objects.size("v3/layout.json") == 2
    assert list(objects.list("")) == ["v3/layout.json"]
    objects.remove("v3/layout.json")
    with pytest.raises(NotFoundError):
        objects.read("v3/layout.json")
    layout = "memory://logged/mirror/v3/layout.json"
    assert [record.getMessage() for record in caplog.records if record.name == "oci_binpkg.objects"] == [
        f"write {layout}: 2 bytes in 1.000 s",
        f"read {layout}: 2 bytes in 1.000 s",
        f"read {layout}: not changed in 1.000 s",
        f"write {layout}: another version is there in 1.000 s",
        f"open {layout}: done in 1.000 s",
        f"size of {layout}: 2 bytes in 1.000 s",
        "list memory://logged/mirror/: done in 1.000 s",
        f"remove {layout}: done in 1.000 s",
        f"read {layout}: NotFoundError in 1.000 s",
    ]
