"""What a command costs: run in a process of its own, under limits that end it if the measure fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_RUN = """
import json, resource, subprocess, sys
def limits():
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    resource.setrlimit(resource.RLIMIT_CPU, (30, 30))
try:
    done = subprocess.run(sys.argv[1:], preexec_fn=limits, capture_output=True, timeout=60, stdin=subprocess.DEVNULL)
    code, out, err = done.returncode, done.stdout, done.stderr
except subprocess.TimeoutExpired as late:
    code, out, err = "did not end", late.stdout or b"", late.stderr or b""
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([code, used.ru_maxrss / 1024, used.ru_utime + used.ru_stime, out[:2000].decode("utf-8", "replace"), err[-4000:].decode("utf-8", "replace")]))
"""


@dataclass(frozen=True)
class Cost:
    """How a command ended, its peak memory in MiB and its CPU time in seconds; what it printed, cut."""

    code: int | str
    memory: float
    seconds: float
    out: str
    err: str


def measured(arguments: list[str], home: Path, environment: dict[str, str], *, program: str = "") -> Cost:
    """Run `oci-binpkg ARGUMENTS`, or else a program of Python, with homes of its own and measure it.

    A small process starts it, because a process counts the memory of the one it was made from as its own.
    """
    given = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("COV", "OCI_BINPKG", "SPACK", "DOCKER"))
    }
    homes = {
        "HOME": "home",
        "XDG_CACHE_HOME": "cache",
        "XDG_CONFIG_HOME": "config",
        "XDG_DATA_HOME": "data",
        "GNUPGHOME": "gnupg",
    }
    for name, folder in homes.items():
        (home / folder).mkdir(mode=0o700, exist_ok=True)
        given[name] = str(home / folder)
    given |= {"OCI_BINPKG_LAYER_CACHE": str(home / "layers"), "SPACK_DISABLE_LOCAL_CONFIG": "1", **environment}
    run = ["-c", program] if program else ["-m", "oci_binpkg", *arguments]
    command = [sys.executable, "-S", "-E", "-c", _RUN, sys.executable, *run]
    done = subprocess.run(command, capture_output=True, env=given, check=True)
    return Cost(*json.loads(done.stdout))
