"""What people see on stderr: plain lines in a log, live lines on a terminal."""

import io
import json
import re
import sys
from typing import Any

import pytest

from oci_binpkg.cli.progress import PlainProgress, progress
from oci_binpkg.cli.terminal import cleaned, escaped_json, unpadded
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
from oci_binpkg.times import Time
from tests.support.effort import cpu_within

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
    seconds, lines = iter(range(100)), list[Any]()
    observer = PlainProgress(lines.append, time=Time(clock=lambda: next(seconds) / 3))
    for event in [*STORY, Event()]:
        observer(event)
    assert lines == [
        "2 packages for this, 1 are there already",
        "warning: mind the gap",
        "registry.example: HTTP 503; trying again in 1.5 s (attempt 2)",
        "[1/2] pushed zlib@1.3/abc 600 B 300 B/s 2 s",
        "[2/2] failed app@2.0/def: no room",
        "pushed c",
    ]


@pytest.mark.covers("P19")
def test_a_log_tells_where_things_go_how_far_they_are_and_what_takes_long():
    now, lines = [0.0], list[Any]()
    observer = PlainProgress(lines.append, time=Time(clock=lambda: now[0]))
    observer(BatchStarted(2, 0, "registry.example/apps"))
    observer(PackageStarted("a", "gcc@13/abc"))
    for second in range(0, 100, 10):
        now[0] = second
        observer(BytesPacked("a", 10**8) if second < 50 else BytesSent("a", 10**7))
    observer(PackageFinished("a", "pushed"))
    observer(PackageStarted("b", "zlib@1.3/def"))
    observer(PackageFinished("b", "skipped"))
    assert lines == [
        "2 packages for registry.example/apps",
        "gcc@13/abc: 400.0 MB packed in 30 s",
        "gcc@13/abc: 20.0 MB sent in 60 s",
        "gcc@13/abc: 50.0 MB sent in 90 s",
        "[1/2] pushed gcc@13/abc 50.0 MB 555.6 kB/s 90 s",
        "[2/2] skipped zlib@1.3/def",
    ]


@pytest.mark.covers("P19")
def test_one_package_needs_no_numbers():
    lines: list[Any] = []
    observer = PlainProgress(lines.append)
    for event in (BatchStarted(1, 0, "here"), PackageStarted("a", "zlib@1.3/abc"), BytesSent("a", 5), STORY[-3]):
        observer(event)
    assert lines == ["pushed zlib@1.3/abc"]


def test_a_quiet_run_still_warns():
    lines: list[Any] = []
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


class _Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("live", [True, False])
def test_no_text_of_strangers_drives_the_terminal(live, monkeypatch):
    stderr = _Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "stderr", stderr)
    hostile = "\x1b]0;pwned\x07\x9b5m\u202e\u2066\u2028\r\n"
    with progress(live=live, color=False) as observer:
        for event in (
            BatchStarted(1, 0),
            PackageStarted("a", hostile),
            BytesPacked("a", 1),
            Warned(hostile),
            Retrying(hostile, hostile, 1.0, 2),
            PackageFinished("a", hostile, hostile),
        ):
            observer(event)
    shown = re.sub(r"\x1b\[[0-9;]*[mABK]|\x1b\[\?25[lh]|\r", "", stderr.getvalue())
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", shown)
    assert shown.count("\\x0d\\x0a") >= 6


def test_json_stays_json():
    assert json.loads(escaped_json(json.dumps(["\x9b\u202e\ud800"], ensure_ascii=False))) == ["\x9b\u202e\ud800"]
    assert escaped_json('"\x9b\u202e"') == '"\\u009b\\u202e"'


PAD = "/__spack_path_placeholder__"


@pytest.mark.covers("P21")
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            f"/opt{PAD}{PAD}/__spack_pa/linux/app",
            f"/opt/[padded-to-{len(f'/opt{PAD}{PAD}/__spack_pa')}-chars]/linux/app",
        ),
        (f"in {PAD}/x and /a{PAD}/y", f"in /[padded-to-{len(PAD)}-chars]/x and /a/[padded-to-{len(PAD) + 2}-chars]/y"),
        (f"/opt{PAD}/_mine/app", f"/opt/[padded-to-{len(PAD) + 4}-chars]/_mine/app"),
        (f"/opt{PAD}", f"/opt{PAD}"),
        (f"/opt{PAD}s/app", f"/opt{PAD}s/app"),
        ("/opt/apps", "/opt/apps"),
    ],
)
def test_padding_is_shown_as_spack_shows_it(text: str, shown: str) -> None:
    """Source: Spack's `padding_filter`, which replaces the padding and a last component that is its beginning."""
    assert unpadded(text) == shown


@pytest.mark.covers("P21")
def test_padding_costs_what_its_length_costs() -> None:
    with cpu_within(2):
        unpadded(f"{PAD * 4000}/x {PAD}/" * 4 + "/" * 100_000)
