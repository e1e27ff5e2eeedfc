"""The edge of the command line: whatever ends a command becomes an exit code and words for the user."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any, Final

import typer

from oci_binpkg import CancelledError
from oci_binpkg.cli import terminal
from oci_binpkg.cli.commands import Asked
from oci_binpkg.cli.interrupts import (
    INTERRUPTED,
    cancelled_by_interrupt,
    comes_of_interrupt,
    leave_at_the_next,
    orderly_interrupts,
)
from oci_binpkg.errors import BinpkgError, OutputError, UsageError

_OPTIONAL_VALUE: Final = frozenset({"--allow-stale"})


def run_command(app: typer.Typer, arguments: list[str] | None) -> int:
    """Run a command; return its exit code, or that of the error it ended with, which is shown."""
    asked = Asked()
    try:
        with orderly_interrupts():
            cancel = cancelled_by_interrupt()
            code = app(
                args=_with_values(sys.argv[1:] if arguments is None else arguments), standalone_mode=False, obj=asked
            )
        if code == INTERRUPTED and cancel.is_cancelled:  # typer has caught the interrupt
            return _interrupted()
        terminal.flush_results()
    except terminal.ReaderGoneError as error:
        return error.exit_code
    except (Exception, KeyboardInterrupt, CancelledError) as error:  # noqa: BLE001 - the command's edge
        if isinstance(error, typer.Abort | CancelledError) or comes_of_interrupt(error):
            return _interrupted()
        return _complain(_in_words(error, debug=asked.debug))
    return code if isinstance(code, int) else 0


def _with_values(arguments: list[str]) -> list[str]:
    """Return the arguments with `*` as the value of an option that may come without one, as it once did."""
    given: list[str] = []
    for at, argument in enumerate(arguments):
        if argument == "--":
            return [*given, *arguments[at:]]
        follows = arguments[at + 1 : at + 2]
        bare = argument in _OPTIONAL_VALUE and (not follows or follows[0].startswith("-"))
        given.append(f"{argument}=*" if bare else argument)
    return given


def _interrupted() -> int:
    leave_at_the_next()  # threads that are still at work end between two chunks, and the interpreter waits for them
    terminal.tell("")
    terminal.tell("oci-binpkg: interrupted; what was sent stays there, run the command again to go on")
    return INTERRUPTED


def _complain(error: BinpkgError) -> int:
    with suppress(OutputError):  # what was printed before stands above the error
        terminal.flush_results()
    terminal.tell_error(error)
    return error.exit_code


def _in_words(error: BaseException, *, debug: bool) -> BinpkgError:
    """Return an exception as an error for the user; what nobody expected is written down."""
    if isinstance(error, BinpkgError):
        return error
    if hasattr(error, "format_message"):
        return _usage(error)
    from oci_binpkg.cli import crash  # noqa: PLC0415 - few commands fail so
    from oci_binpkg.config.scene import crash_scene  # noqa: PLC0415 - likewise

    return crash.explained(error) or crash.report(error, crash_scene(debug=debug))


def _usage(error: Any) -> UsageError:
    """Return a wrong flag or argument as the command line parser words it."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "oci-binpkg"
    if type(error).__name__ == "NoArgsIsHelpError" and context is not None:
        terminal.tell_text(context.get_help())
        return UsageError("a command is missing", hint=f"try `{command} -h`")
    return UsageError(error.format_message(), hint=f"try `{command} -h`")
