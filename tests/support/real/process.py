"""Programs started by the tests: servers that cannot outlive them, and tools that must succeed."""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from tests.support.real.components import SYSTEM_PATH, command_path

T = TypeVar("T")


class StartError(RuntimeError):
    """A real server did not come up; the message ends with the last lines of its log."""


def clean_environment(home: Path, **extra: str) -> dict[str, str]:
    """An environment with nothing of the user's in it: no proxies, no logins, no locale surprises."""
    return {
        "PATH": f"{SYSTEM_PATH}:/usr/local/bin",
        "HOME": str(home),
        "LC_ALL": "C.UTF-8",
        "TMPDIR": str(home),
        "XDG_RUNTIME_DIR": str(home),
        **extra,
    }


class Daemon:
    """A server in a process group of its own, ended by `stop`, at interpreter exit, or by the kernel.

    setpriv asks the kernel to send SIGTERM when the starting process is gone, so a test run that is killed outright
    leaves no server behind either.
    """

    def __init__(self, argv: Sequence[str], *, log: Path, env: Mapping[str, str]) -> None:
        self.name = Path(argv[0]).name
        self.log = log
        guarded = [command_path("setpriv"), "--pdeathsig", "TERM", "--", *argv]
        with log.open("ab") as sink:
            self._process = subprocess.Popen(
                guarded, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, env=dict(env), start_new_session=True
            )
        atexit.register(self.stop)

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until(self, check: Callable[[], T | None], *, seconds: float) -> T:
        """Poll `check` until it gives something; StartError when the server ends or the time is over."""
        deadline = time.monotonic() + seconds
        while True:
            found = check()
            if found is not None:
                return found
            if self._process.poll() is not None:
                self._fail(f"ended with status {self._process.returncode}")
            if time.monotonic() > deadline:
                self._fail(f"did not answer within {seconds:.0f} s")
            time.sleep(0.05)

    def _fail(self, what: str) -> None:
        self.stop()
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
        message = f"{self.name} {what}\n{tail}"
        raise StartError(message)

    def stop(self, *, grace: float = 15) -> None:
        """End the whole process group, politely first. Safe to call again."""
        atexit.unregister(self.stop)
        for kind, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
            with contextlib.suppress(ProcessLookupError):
                if self._process.poll() is None or kind is signal.SIGKILL:
                    os.killpg(self._process.pid, kind)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=seconds)


def run_tool(
    argv: Sequence[str], *, env: Mapping[str, str], check: bool = True, seconds: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run one tool to its end and return its output as text; AssertionError with that output when it fails."""
    __tracebackhide__ = True
    done = subprocess.run(
        list(argv),
        env=dict(env),
        check=False,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds,
        stdin=subprocess.DEVNULL,
    )
    if check and done.returncode != 0:
        shown = " ".join(argv)
        message = f"{shown}\nended with status {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
        raise AssertionError(message)
    return done


@contextlib.contextmanager
def short_directory() -> Iterator[Path]:
    """A temporary directory with a short name, gone afterwards together with anything mounted in it.

    Short because a Unix socket's path ends at 107 bytes and Podman's run root at 50; letters and digits only because
    Podman and buildah make an image name of a layout's path.
    """
    directory = Path("/tmp") / f"ocb-{secrets.token_hex(4)}"
    directory.mkdir(mode=0o700)
    try:
        yield directory
    finally:
        remove_with_mounts(directory)


def remove_with_mounts(directory: Path) -> None:
    """Unmount what an engine left mounted below the directory, then delete it."""
    for mount in mounts_below(directory):
        subprocess.run([command_path("umount"), "-l", mount], check=False, capture_output=True)
    shutil.rmtree(directory, ignore_errors=True)


def mounts_below(directory: Path) -> list[str]:
    """Mount points under the directory, the deepest first."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [line.split()[4] for line in lines]
    return sorted((point for point in points if point.startswith(f"{directory}/")), key=len, reverse=True)
