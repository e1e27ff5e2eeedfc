"""What people see on stderr: plain lines in a log, live lines on a terminal."""

import io
import sys

import pytest

from oci_binpkg.cli.progress import PlainProgress, progress
from oci_binpkg.cli.terminal import cleaned
from oci_binpkg.events import (
    BatchStarted,
    BytesPacked,
    BytesSent,
    Event,
    PackageFinished,
    PackageStarted,
    Retrying,
    Warned,
)

STORY = [
    BatchStarted(2, 1),
    PackageStarted("a", "zlib@1.3/abc"),
    BytesPacked("a", 1000),
    PackageStarted("b", "app@2.0/def"),
    BytesSent("a", 500),
    BytesSent("a", -500),
    BytesSent("a", 600),
    Warned("mind the gap"),
    Warned("mind the gap"),
    Retrying("registry.example", "HTTP 503", 1.5, 2),
    PackageFinished("a", "pushed"),
    PackageFinished("b", "failed", "no room"),
    PackageFinished("c", "pushed"),
]


def test_plain_lines_tell_each_fact_once():
    lines = []
    observer = PlainProgress(lines.append)
    for event in [*STORY, Event()]:
        observer(event)
    assert lines == [
        "warning: mind the gap",
        "registry.example: HTTP 503; trying again in 1.5 s (attempt 2)",
        "pushed zlib@1.3/abc",
        "failed app@2.0/def: no room",
        "pushed c",
    ]


def test_a_quiet_run_still_warns():
    lines = []
    observer = PlainProgress(lines.append, quiet=True)
    for event in STORY:
        observer(event)
    assert lines[0] == "warning: mind the gap"
    assert not any("pushed" in line for line in lines)


@pytest.mark.parametrize("live", [True, False])
def test_a_whole_story_runs_through_either_kind(live, monkeypatch):
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    with progress(live=live, color=False) as observer:
        for event in STORY:
            observer(event)
    assert "mind the gap" in stderr.getvalue()
    assert "failed app@2.0/def: no room" in stderr.getvalue()
    assert "\x1b[31m" not in stderr.getvalue()


def test_escapes_are_made_visible():
    assert cleaned("a\x1b[31mb\nc") == "a\\x1b[31mb\\x0ac"
