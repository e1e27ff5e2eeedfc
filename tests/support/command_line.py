"""Runs the command line in this process, as a user would type it."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import pty
import struct
import termios
import threading
from dataclasses import dataclass
from typing import Any, cast
from unittest import mock

from oci_binpkg.cli.app import main


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


class _Stdin(io.TextIOWrapper):
    def __init__(self, text: str, *, terminal: bool) -> None:
        super().__init__(io.BytesIO(text.encode()))
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


def binpkg(*arguments: object, stdin: str = "", terminal: bool = False) -> Ended:
    """Run `oci-binpkg ARGUMENTS`; return exit code and what was printed."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
    code = 0
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch("sys.stdin", _Stdin(stdin, terminal=terminal)),
    ):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
    texts = []
    for stream in (out, err):
        stream.flush()
        buffer = stream.detach()
        texts.append(buffer.getvalue().decode("utf-8"))
    return Ended(code, *texts)


def binpkg_on_terminal(*arguments: object, stdin: str = "", columns: int = 200) -> Ended:
    """Run `oci-binpkg ARGUMENTS` with stdin, stdout and stderr on one terminal; `out` is all that it was sent."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    received: list[bytes] = []
    reader = threading.Thread(target=_drain, args=(master, received))
    reader.start()
    try:
        with open(slave, "r+b", buffering=0) as device:
            stream = io.TextIOWrapper(io.BufferedWriter(cast("io.RawIOBase", device)), "utf-8", write_through=True)
            with (
                contextlib.redirect_stdout(stream),
                contextlib.redirect_stderr(stream),
                mock.patch("sys.stdin", _Stdin(stdin, terminal=True)),
            ):
                try:
                    main([str(argument) for argument in arguments])
                except SystemExit as ended:
                    code = ended.code if isinstance(ended.code, int) else 1
            stream.flush()
            stream.detach().detach()
    finally:
        reader.join()
        os.close(master)
    return Ended(code, b"".join(received).decode("utf-8", "surrogateescape"), "")


def _drain(master: int, received: list[bytes]) -> None:
    with contextlib.suppress(OSError):  # the other end is closed
        while data := os.read(master, 65536):
            received.append(data)


def unmeasured_environment() -> dict[str, str]:
    """Return the environment without what has coverage measured in programs that are started.

    Coverage loads modules of its own, and has locks of its own: an interrupt may leave one of these taken for good.
    """
    return {name: value for name, value in os.environ.items() if not name.startswith("COV")}
