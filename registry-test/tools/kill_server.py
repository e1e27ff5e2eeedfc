"""Runs the command line in forked children and kills them: one line of JSON in, one out.

A program of its own, because it must have one thread only when it forks. Everything is imported before the first fork,
so that a child begins with its work at once and a moment chosen at random falls into that work: started anew, three
quarters of the moments would fall into the interpreter's start, and each kill would cost three times as much.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import pkgutil
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

import oci_binpkg

PATIENCE = 60.0


def import_all() -> None:
    for found in pkgutil.walk_packages(oci_binpkg.__path__, "oci_binpkg."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)


def run(asked: dict[str, Any]) -> NoReturn:
    """In the child: what `python -m oci_binpkg ARGUMENTS` does, but for the interpreter's long way out."""
    try:
        os._exit(command(asked))
    except KeyboardInterrupt:
        os._exit(130)  # before the command has begun, or when it was over


def command(asked: dict[str, Any]) -> int:
    from oci_binpkg.cli.app import main

    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    nothing, output = os.open(os.devnull, os.O_RDONLY), os.open(asked["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.environ.update(asked["environment"])
    try:
        with looked_at(asked):
            main(asked["arguments"])
    except SystemExit as ended:
        sys.stdout.flush()
        sys.stderr.flush()
        return ended.code if isinstance(ended.code, int) else 1


@contextmanager
def looked_at(asked: dict[str, Any]) -> Iterator[None]:
    """Write down the places that the main thread comes to (`places`: a file), or interrupt it at the nth (`at`)."""
    places: dict[tuple[Any, ...], int] = {}
    steps = itertools.count()

    def look(frame: FrameType, event: str, _: object) -> None:
        step, code = next(steps), frame.f_code
        if step == asked.get("at"):
            sys.setprofile(None)
            os.kill(os.getpid(), signal.SIGINT)
        elif asked.get("places"):
            places.setdefault((code.co_filename, code.co_name, frame.f_lasti, event), step)

    if asked.get("places") or asked.get("at") is not None:
        sys.setprofile(look)
    try:
        yield
    finally:
        sys.setprofile(None)
        if asked.get("places"):
            with open(asked["places"], "w", encoding="utf-8") as file:
                json.dump([[*place, step] for place, step in places.items()], file)


def watch(child: int, asked: dict[str, Any]) -> dict[str, Any]:
    """Wait for a child, kill it when its moment comes; tell how it ended."""
    started = time.monotonic()
    handle = os.pidfd_open(child)
    after = asked["after"]
    killed = not select.select([handle], [], [], PATIENCE if after is None else after)[0]
    if killed:
        signal.pidfd_send_signal(handle, signal.SIGKILL if after is None else asked["signal"])
    stuck = killed and (after is None or not select.select([handle], [], [], PATIENCE)[0])
    if stuck:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    os.close(handle)
    ended = {"code": os.waitstatus_to_exitcode(status), "seconds": time.monotonic() - started}
    return ended | {"killed": killed, "stuck": stuck}


def serve() -> None:
    import_all()
    assert threading.active_count() == 1
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if child == 0:
            run(asked)
        print(json.dumps(watch(child, asked)), flush=True)


if __name__ == "__main__":
    serve()
