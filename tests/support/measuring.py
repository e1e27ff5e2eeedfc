"""What a command costs: run in a process of its own, under limits that end it if the measure fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# Reads a line per command, and forks for it: it has loaded what commands need, which takes longer than most of them,
# and nothing else, because a process counts the memory of the one it was made from as its own.
_FORK = """
import gc, json, os, resource, runpy, signal, sys, tempfile
import oci_binpkg.cli.app, oci_binpkg.client, oci_binpkg.cache.open, oci_binpkg.ops.install, oci_binpkg.ops.push
gc.freeze()

def start(asked, out, err):
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    resource.setrlimit(resource.RLIMIT_CPU, (30, 30))
    signal.alarm(60)
    if asked["program"]:
        exec(asked["program"], {})
    else:
        sys.argv[1:] = asked["arguments"]
        runpy.run_module("oci_binpkg", run_name="__main__", alter_sys=True)

for line in sys.stdin:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if not child:
            start(json.loads(line), out, err)
            sys.exit(0)
        status, used = os.wait4(child, 0)[1:]
        code = os.waitstatus_to_exitcode(status)
        texts = [os.pread(file.fileno(), 1 << 26, 0).decode("utf-8", "replace") for file in (out, err)]
    ended = "did not end" if code == -signal.SIGALRM else code
    spent = used.ru_utime + used.ru_stime
    print(json.dumps([ended, used.ru_maxrss / 1024, spent, texts[0], texts[1][-4000:]]), flush=True)
"""


@dataclass(frozen=True)
class Cost:
    """How a command ended, its peak memory in MiB and its CPU time in seconds; what it printed, the end of it for errors."""

    code: int | str
    memory: float
    seconds: float
    out: str
    err: str


def measured(arguments: list[str], home: Path, environment: dict[str, str], *, program: str = "") -> Cost:
    """Run `oci-binpkg ARGUMENTS`, or else a program of Python, with homes of its own and measure it."""
    given = _unmeasured()
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
    server = _forking()
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps({"environment": given, "program": program, "arguments": arguments}) + "\n")
    server.stdin.flush()
    return Cost(*json.loads(server.stdout.readline()))


def _unmeasured() -> dict[str, str]:
    """Return the environment without what the user has set, and without what has coverage measured."""
    users = ("COV", "OCI_BINPKG", "SPACK", "DOCKER")
    return {name: value for name, value in os.environ.items() if not name.startswith(users)}


@cache
def _forking() -> subprocess.Popen[str]:
    """Return the process that starts all commands of this one. It ends when its input does, with this one."""
    command = [sys.executable, "-c", _FORK]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=_unmeasured())
