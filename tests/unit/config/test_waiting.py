"""The wait for a lock is an event, so that it is shown as everything else is."""

import fcntl
import os
from pathlib import Path

import pytest

from oci_binpkg.cli.progress import PlainProgress
from oci_binpkg.config.settings import load_lock_timeout, load_settings, patience
from oci_binpkg.events import Event, Warned
from oci_binpkg.file_lock import LockTimeoutError, Patience, locked
from oci_binpkg.times import Time


def test_a_long_wait_is_an_event_that_is_shown_once(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    events: list[Event] = []
    lines: list[str] = []
    show = PlainProgress(lines.append)

    def observe(event: Event) -> None:
        events.append(event)
        show(event)

    waiting = patience(20.0, observe)
    held = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(held, fcntl.LOCK_EX)
    with (
        pytest.raises(LockTimeoutError, match="for 20 seconds"),
        locked(str(path), Patience(waiting.timeout, waiting.tell, Time(clock=lambda: now[0], sleep=sleep))),
    ):
        pass
    os.close(held)
    assert events == [Warned(f"waiting for another process that holds {path}")]
    assert len(lines) == 1
    assert f"waiting for another process that holds {path}" in lines[0]


@pytest.mark.parametrize("given", ["file", "environment"])
def test_the_time_is_a_setting(tmp_path: Path, given: str) -> None:
    config = tmp_path / "config.toml"
    config.write_text("lock_timeout = 7\nshared = true\n")
    env = {"HOME": str(tmp_path), "OCI_BINPKG_CONFIG": str(config)}
    if given == "environment":
        env |= {"OCI_BINPKG_LOCK_TIMEOUT": "2.5", "OCI_BINPKG_SHARED": "no"}
    expected = 7.0 if given == "file" else 2.5
    assert load_settings(env).lock_timeout == expected
    assert load_lock_timeout(env) == expected
    assert load_settings(env).shared is (given == "file")
    assert load_lock_timeout({"HOME": str(tmp_path)}) == 120.0
