"""What `--verbose`, `--debug` and `--log-file` show: the lines that the package logs, on stderr and in a file.

Loggers stand in many rooms; this is the only one with handlers. Lines of strangers are cleaned, and what looks like a
login is taken out, though nobody should have put it in.
"""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, TextIO

from oci_binpkg import __version__
from oci_binpkg.cli import terminal
from oci_binpkg.cli.crash import redacted
from oci_binpkg.config.scene import Scene
from oci_binpkg.errors import LocalDiskError

MAX_LINE: Final = 2000
"""Characters of a line: an address may be long, and a document is not wanted here."""

_LOG: Final = logging.getLogger("oci_binpkg")


@contextmanager
def shown(command: str, scene: Scene, *, verbose: bool, log_file: str) -> Iterator[None]:
    """Show what is logged inside of this context: decisions, and with `scene.debug` requests; a file gets both.

    Raises `LocalDiskError` if the file cannot be opened.
    """

    def clean(text: str) -> str:
        return redacted(text, scene.environment, MAX_LINE)

    handlers: list[logging.Handler] = []
    if verbose or scene.debug:
        handlers.append(_OnStderr(logging.DEBUG if scene.debug else logging.INFO, clean))
    if log_file:
        handlers.append(_InFile(_opened(log_file), clean))
    before = _LOG.level, _LOG.propagate
    _LOG.setLevel(min(handler.level for handler in handlers))
    _LOG.propagate = False
    for handler in handlers:
        _LOG.addHandler(handler)
    try:
        system = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
        _LOG.info("%s: oci-binpkg %s, %s", command, __version__, system)
        yield
    except BaseException as error:
        _LOG.debug("%s ended with %s: %s", command, type(error).__name__, error)
        raise
    finally:
        for handler in handlers:
            _LOG.removeHandler(handler)
            handler.close()
        _LOG.setLevel(before[0])
        _LOG.propagate = before[1]


class _OnStderr(logging.Handler):
    """One line for each record, as warnings have."""

    def __init__(self, level: int, clean: Callable[[str], str]) -> None:
        super().__init__(level)
        self._clean = clean

    def emit(self, record: logging.LogRecord) -> None:
        terminal.tell(f"{record.levelname.lower()}: {self._clean(record.getMessage())}")


class _InFile(logging.Handler):
    """One line for each record: time (UTC), level, room and thread before the message."""

    def __init__(self, file: TextIO, clean: Callable[[str], str]) -> None:
        super().__init__(logging.DEBUG)
        self._file = file
        self._clean = clean

    def emit(self, record: logging.LogRecord) -> None:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        where = f"{at}.{int(record.msecs):03}Z {record.levelname} {record.name} {record.threadName}"
        try:
            self._file.write(f"{terminal.cleaned(where)}: {self._clean(record.getMessage())}\n")
            self._file.flush()
        except (OSError, ValueError) as error:  # the work is done all the same
            self.setLevel(logging.CRITICAL)
            terminal.tell(f"warning: the log file lacks lines: {error}")

    def close(self) -> None:
        super().close()
        with suppress(OSError):
            self._file.close()


def _opened(path: str) -> TextIO:
    """Open a file to add lines to; a new one is for its owner alone, as addresses say much of a site."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    try:
        return os.fdopen(os.open(path, flags, 0o600), "a", encoding="utf-8", errors="backslashreplace")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise LocalDiskError(f"{path}: the log cannot be written: {reason}", hint="name another --log-file") from None
