"""Play a registry's quirks before a registry of one's own: `make proxy PROFILE=ghcr UPSTREAM=http://127.0.0.1:5000`."""

from __future__ import annotations

import argparse
import contextlib
import signal
import ssl
import sys
import threading
from collections.abc import Sequence
from typing import TextIO

from proxy.log import Log
from proxy.profiles import PROFILES, Profile, standing


def main(arguments: Sequence[str] | None = None, *, stop: threading.Event | None = None) -> int:
    """Serve until interrupted; `stop` ends it from within a program."""
    parser = argparse.ArgumentParser(prog="proxy", description="A registry with the quirks of another.")
    parser.add_argument("--profile", choices=["none", *PROFILES], help="whose quirks")
    parser.add_argument("--upstream", default="http://127.0.0.1:5000", help="a registry that asks for no login")
    parser.add_argument("--port", type=int, default=0, help="port of loopback (0: a free one)")
    parser.add_argument("--user", default="user:secret", help="who may log in, as NAME:PASSWORD")
    parser.add_argument("--repository", action="append", help="one that exists, where they are made by hand")
    parser.add_argument("--tls", nargs=2, metavar=("CERT", "KEY"), help="serve https with this certificate")
    parser.add_argument("--log", default="-", help="file for one line of JSON a request (-: standard output)")
    parser.add_argument("--list", action="store_true", help="say what the profiles do")
    given = parser.parse_args(arguments)
    if given.list or not given.profile:
        describe(sys.stdout)
        return 0
    stop = stop or threading.Event()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
    with contextlib.ExitStack() as stack:
        sink = sys.stdout if given.log == "-" else stack.enter_context(open(given.log, "a", encoding="utf-8"))
        log = Log(watch=lambda entry: print(entry.as_json(), file=sink, flush=True))
        name, _, password = given.user.partition(":")
        stage = standing(
            PROFILES.get(given.profile, Profile("the registry as it is")),
            given.upstream,
            users={name: password},
            repositories=given.repository,
            port=given.port,
            tls=_context(*given.tls) if given.tls else None,
            log=log,
        )
        played = stack.enter_context(stage)
        print(f"{given.profile} before {given.upstream} at {played.proxy.url}", file=sys.stderr, flush=True)
        stop.wait()
    return 0


def describe(out: TextIO) -> None:
    """Print the profiles and their quirks."""
    for name, profile in PROFILES.items():
        login = {"bearer": "; Bearer login", "basic": "; Basic login"}.get(profile.login, "")
        print(f"{name}: {profile.title}{login}", file=out)
        for why, _ in profile.quirks:
            print(f"  {why}", file=out)


def _context(certificate: str, key: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


if __name__ == "__main__":
    sys.exit(main())
