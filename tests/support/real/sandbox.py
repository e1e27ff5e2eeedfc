"""Programs are started where they can change nothing: all file systems are read-only, no network, no other processes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_SCRIPT = """
mount --make-rprivate / && mount -o remount,bind,ro / || exit 9
for place in /run /dev/shm /home; do mount -t tmpfs none $place || exit 9; done
exec setpriv --bounding-set=-all --inh-caps=-all --no-new-privs "$1" -S -E -c "$2"
"""
_EACH = """
import json, os, signal, subprocess, sys
paths, arguments, seconds = json.load(sys.stdin)
env = {"PATH": "/usr/bin:/bin", "HOME": "/home", "TMPDIR": "/home", "LC_ALL": "C"}
ended = []
for path in paths:
    try:
        one = subprocess.Popen([path, *arguments], stdin=-3, stdout=-3, stderr=-3, env=env, cwd="/home",
                               start_new_session=True)
    except OSError as error:
        # what a shell says of a program that is not there, since one may stand before it now
        ended.append("127" if error.errno == 2 else "error %d" % error.errno)
        continue
    try:
        ended.append(str(one.wait(seconds)))
    except subprocess.TimeoutExpired:
        ended.append("no end")
    try:
        os.killpg(one.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    one.wait()
json.dump(ended, sys.stdout)
"""


def endings(paths: Sequence[Path], *arguments: str, seconds: float = 5) -> list[str]:
    """Start programs one after the other; return the exit code of each, or why there is none. Root only."""
    argv = ["unshare", "--net", "--mount", "--pid", "--ipc", "--fork", "--mount-proc"]
    argv += ["bash", "-c", _SCRIPT, "sandbox", sys.executable, _EACH]
    wanted = json.dumps([[str(path) for path in paths], arguments, seconds])
    done = subprocess.run(argv, input=wanted, check=False, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr[-1000:]
    return list(json.loads(done.stdout))
