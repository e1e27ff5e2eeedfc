"""What happens and why, for any listener: loggers below `oci_binpkg`.

`debug` has one line for each request and for what is found on the way, `info` the decisions: why something is sent,
skipped, packed again or tried again. Nothing is logged that the caller has not made fit for people; whoever logs an
address or a text of a server redacts it first.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import logging

DEBUG: Final = 10
INFO: Final = 20
"""The levels of the module `logging`, which is not imported here."""


class Log:
    """The logger `oci_binpkg.NAME`.

    A program that has not imported `logging` listens to nothing, so it is not imported here: some commands need it for
    nothing else, and start sooner.
    """

    def __init__(self, name: str) -> None:
        self._name = f"oci_binpkg.{name}"

    def info(self, text: str, *values: object) -> None:
        """Log a decision; `values` are put into `text` by `%`."""
        if logger := self._listener(INFO):
            logger.info(text, *values, stacklevel=2)

    def debug(self, text: str, *values: object) -> None:
        """Log a detail; `values` are put into `text` by `%`."""
        if logger := self._listener(DEBUG):
            logger.debug(text, *values, stacklevel=2)

    def hears_debug(self) -> bool:
        """Return whether `debug` does anything, for texts that take work."""
        return self._listener(DEBUG) is not None

    def _listener(self, level: int) -> logging.Logger | None:
        module = sys.modules.get("logging")
        if module is None or not hasattr(module, "getLogger"):  # another thread is importing it
            return None
        logger: logging.Logger = module.getLogger(self._name)
        return logger if logger.isEnabledFor(level) else None
