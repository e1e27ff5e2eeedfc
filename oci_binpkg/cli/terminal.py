r"""The only way to a terminal: whatever a command shows passes here, and none of it can drive the terminal.

Names, versions, messages and addresses are written by strangers. A terminal obeys what it is sent: escape sequences set
its title, move its cursor and answer its questions; bidirectional marks reorder a line. So text is shown, not sent:
`cleaned` writes each character that cannot be seen as `\x1b` or `\u202e`, line feeds too. The lines of a message are
separate arguments, so that only this module breaks lines.

`standard_streams` holds for everything else: while a command runs, `sys.stdout` and `sys.stderr` clean what libraries
write to them, and say in our words what cannot be written.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Protocol, TextIO, cast

from oci_binpkg.cli.hints import words
from oci_binpkg.errors import BinpkgError, OutputError, UsageError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

DRIVING: Final = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal obeys instead of showing it, but for the line feed; and half surrogates, which no encoding has."""

_PAD: Final = "/__spack_path_placeholder__"
_CUT: Final = "|".join(_PAD[:length] for length in range(len(_PAD) - 1, 1, -1))
_PADDING: Final = re.compile(f"(?:{_PAD})+(?:{_CUT})?(?=/)")
"""Padding with its end, which is cut to the length that a root is to have."""

MAX_INPUT: Final = 64 * 1024
"""Bytes that are read of an answer on standard input."""

_CONTROLS: Final = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_BYTES_THAT_ARE_NO_TEXT: Final = range(0xDC80, 0xDD00)
"""The half surrogates that stand for bytes of a path or an argument that is not UTF-8."""
_ONE_BYTE, _TWO_BYTES = 0x100, 0x10000
_BRANCHES: Final = str.maketrans({"├": "|", "└": "`", "─": "-", "│": "|"})


class ReaderGoneError(OutputError):
    """Whoever read the output has seen enough: nothing is said, and nothing more is written."""

    exit_code = 141


class Raw(Protocol):
    """What is asked of a stream of text."""

    def write(self, text: str, /) -> int:
        """Write a text."""
        ...

    def flush(self) -> None:
        """Send what is buffered."""
        ...


def cleaned(text: str) -> str:
    """Return a text on one line that shows characters which cannot be seen, and those that drive a terminal."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _visible(char) for char in text)


def unpadded(text: str) -> str:
    """Return a text in which padded paths are short: `/a/[padded-to-200-chars]/b`, as Spack shows them.

    The number counts the characters of the path up to the end of the padding.
    """
    if _PAD not in text:
        return text
    parts, end = [], 0
    for found in _PADDING.finditer(text):
        word = max(text.rfind(blank, end, found.start()) for blank in " \t\n")
        begin = text.find("/", max(word, end), found.start() + 1)
        parts += [text[end : found.start()], f"/[padded-to-{found.end() - begin}-chars]"]
        end = found.end()
    return "".join([*parts, text[end:]])


def shown(text: str) -> str:
    """Return a text as people see it: on one line, `cleaned`, with padded paths cut short."""
    return cleaned(unpadded(text))


def escaped_json(text: str) -> str:
    """Return JSON with escapes for what drives a terminal: JSON itself asks for those below the blank alone."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def print_lines(lines: Iterable[str]) -> None:
    """Print lines of a result for people. Raises `OutputError`."""
    sys.stdout.writelines(f"{shown(line)}\n" for line in lines)


def print_paths(paths: Iterable[str]) -> None:
    """Print paths, one a line, which programs may read: whole, also where they are padded. Raises `OutputError`."""
    sys.stdout.writelines(f"{cleaned(path)}\n" for path in paths)


def print_json_text(pieces: Iterable[str]) -> None:
    """Print JSON, in pieces as they come. Raises `OutputError`."""
    sys.stdout.writelines(map(escaped_json, pieces))


def flush_results() -> None:
    """Send the results that are printed, so that what follows on stderr stands below them. Raises `OutputError`."""
    sys.stdout.flush()


def tell(line: str, *below: str) -> None:
    """Show a line on stderr, and below it others, indented. Where stderr is closed or full nothing happens."""
    _to_stderr("\n  ".join(map(shown, (line, *below))) + "\n")


def tell_error(error: BinpkgError) -> None:
    """Show an error as the last words of a command."""
    first, *below = error.lines
    tell(f"oci-binpkg: {first}", *below, *filter(None, [words(error.hint)]))


def tell_text(text: str) -> None:
    """Show a text of our own, such as the help of a command, line by line."""
    for line in text.splitlines():
        tell(line)


def stderr_is_terminal() -> bool:
    """Return whether people watch: progress is drawn only then."""
    return _is_terminal(sys.stderr)


def stdin_is_terminal() -> bool:
    """Return whether somebody can be asked."""
    return _is_terminal(sys.stdin)


def ask(prompt: str) -> str:
    """Ask for a line. Raises `UsageError` where the answer cannot be read."""
    _to_stderr(cleaned(prompt))
    try:
        return input("")
    except UnicodeError:
        raise UsageError("the answer is not UTF-8", hint="type it again") from None
    except EOFError:
        return ""


def ask_secret(prompt: str) -> str:
    """Ask for a password, which is not shown. Raises `UsageError` where it cannot be read."""
    import getpass  # noqa: PLC0415 - few commands ask

    try:
        return getpass.getpass(cleaned(prompt))
    except UnicodeError:
        raise UsageError("the password is not UTF-8", hint="type it again") from None
    except EOFError:
        return ""


def read_line() -> str:
    """Return the next line of standard input, "" at its end. Raises `UsageError`."""
    try:
        data: bytes = sys.stdin.buffer.readline(MAX_INPUT + 1)
        if len(data) > MAX_INPUT:
            raise UsageError(f"the line on standard input is longer than {MAX_INPUT} bytes", hint="write one line")
        return data.decode().rstrip("\r\n")
    except UnicodeError:
        raise UsageError("the line on standard input is not UTF-8", hint="write it as UTF-8") from None
    except AttributeError:
        raise UsageError("standard input is closed", hint="write one line to it") from None
    except OSError as error:
        raise UsageError(f"standard input cannot be read: {error.strerror}", hint="write one line to it") from None


def container_streams() -> tuple[BinaryIO, BinaryIO]:
    """Return where the output of a container goes, byte by byte as docker and podman hand it on.

    That is the only output which is not cleaned: the user asked for that program. Raises `OutputError` where one is
    closed.
    """
    try:
        return sys.stdout.buffer, sys.stderr.buffer
    except AttributeError:
        raise OutputError("standard output or standard error is closed", hint="open both, or use /dev/null") from None


class LiveDisplay:
    """Lines on stderr that change while a command runs. Titles, steps and messages are cleaned."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars

    def add(self, title: str, step: str, *, visible: bool = True) -> TaskID:
        """Add a line; return what it is known by."""
        return self._bars.add_task(cleaned(title), total=None, step=cleaned(step), visible=visible)

    def show(self, task: TaskID, step: str, *, visible: bool | None = None) -> None:
        """Change what a line says."""
        self._bars.update(task, step=cleaned(step), visible=visible)

    def restart(self, task: TaskID, step: str) -> None:
        """Count from zero, in another step."""
        self._bars.reset(task, step=cleaned(step))

    def advance(self, task: TaskID, count: int) -> None:
        """Count bytes."""
        self._bars.advance(task, count)

    def remove(self, task: TaskID) -> None:
        """Take a line away."""
        self._bars.remove_task(task)

    def tell(self, line: str) -> None:
        """Show a line above the others, to stay."""
        self._bars.console.print(shown(line), markup=False, emoji=False, soft_wrap=True)


@contextmanager
def live_display(*, color: bool) -> Iterator[LiveDisplay]:
    """Draw on stderr inside of this context."""
    from rich.console import Console  # noqa: PLC0415 - only a terminal pays for rich
    from rich.progress import FileSizeColumn, Progress, TextColumn, TransferSpeedColumn  # noqa: PLC0415

    stream: Any = sys.stderr.drawing() if isinstance(sys.stderr, _Cleaning) else sys.stderr
    console = Console(file=stream, no_color=not color, highlight=False, emoji=False)
    title = TextColumn("{task.description}", markup=False)
    step = TextColumn("{task.fields[step]}", markup=False)
    columns = (title, step, FileSizeColumn(), TransferSpeedColumn())
    before = sys.stderr
    with Progress(*columns, console=console, transient=True, redirect_stderr=False) as bars:
        display = LiveDisplay(bars)
        sys.stderr = cast("TextIO", _AboveLines(display, before))
        try:
            yield display
        finally:
            sys.stderr = before


class _AboveLines:
    """Standard error while lines are drawn: each line that is written stands above them, unbroken."""

    def __init__(self, display: LiveDisplay, stream: Any) -> None:
        self._display, self._stream = display, stream
        self._lock = threading.Lock()
        self._begun = ""

    def write(self, text: str) -> int:
        with self._lock:
            *lines, self._begun = (self._begun + text).split("\n")
            for line in lines:
                self._display.tell(line)
        return len(text)

    def flush(self) -> None:
        """Do nothing: a line is sent when it ends."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def standard_streams() -> Iterator[None]:
    """Make the standard streams fit for a command inside of this context.

    Descriptors that are closed lead to /dev/null: the next file that is opened does not take their place. What is
    written to stdout and cannot be raises `OutputError`; on stderr it is dropped, and the work is done all the same.
    """
    _occupy_descriptors()
    before = sys.stdout, sys.stderr, threading.excepthook, sys.unraisablehook
    sys.stdout = _Cleaning(before[0], _output_failed)
    sys.stderr = _Cleaning(before[1], _dropped)
    threading.excepthook = _say_nothing
    sys.unraisablehook = _say_nothing
    try:
        yield
    finally:
        sys.stdout, sys.stderr, threading.excepthook, sys.unraisablehook = before


class _Cleaning:
    """A stream of text that shows what would drive a terminal. `raw` is None where the stream is closed."""

    def __init__(self, raw: Any, failed: Callable[[OSError, Any], None], *, clean: bool = True) -> None:
        self._raw, self._failed, self._clean = raw, failed, clean
        self._error = OSError(errno.EBADF, "it is closed") if raw is None else None
        self._plain = raw is not None and not _has_branches(raw)
        if self._plain and hasattr(raw, "reconfigure"):
            raw.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError("a text is expected")
        if text:
            shown = DRIVING.sub(lambda found: _visible(found[0]), text) if self._clean else text
            self._do(lambda: self._raw.write(shown.translate(_BRANCHES) if self._plain else shown))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if self._raw is not None:
            self._do(self._raw.flush)

    def _do(self, step: Callable[[], object]) -> None:
        """Take a step, and fail; once it failed each time: a library may not pass the first failure on."""
        if self._error is None:
            try:
                step()
            except OSError as error:
                self._error = error
        if self._error is not None:
            self._failed(self._error, self._raw)

    def drawing(self) -> _Cleaning:
        """Return the stream for what draws: its escape sequences are our own."""
        return _Cleaning(self._raw, self._failed, clean=False)

    def isatty(self) -> bool:
        return _is_terminal(self._raw)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)


def _to_stderr(text: str) -> None:
    if sys.stderr is not None:  # it is where the descriptor was closed
        with suppress(OSError):
            sys.stderr.write(text)
            sys.stderr.flush()


def _visible(char: str) -> str:
    code = ord(char)
    if code in _BYTES_THAT_ARE_NO_TEXT:
        return f"\\x{code - 0xDC00:02x}"
    if code < _ONE_BYTE:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < _TWO_BYTES else f"\\U{code:08x}"


def _has_branches(raw: Any) -> bool:
    """Return whether a stream's encoding has the lines that trees are drawn with."""
    try:
        "├└─│".encode(getattr(raw, "encoding", None) or "utf-8")
    except (UnicodeError, LookupError):
        return False
    return True


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError, OSError):  # None or closed
        return False


def _output_failed(error: OSError, raw: Any) -> None:
    _discard(raw)
    if isinstance(error, BrokenPipeError):
        raise ReaderGoneError("nobody reads the output")
    raise OutputError(
        f"standard output cannot be written: {error.strerror}",
        hint="what the command did stands; only its output is lost",
    )


def _dropped(_error: OSError, raw: Any) -> None:
    _discard(raw)


def _discard(raw: Any) -> None:
    """Let what is buffered go nowhere: the interpreter tries it again when it ends, and complains."""
    with suppress(OSError, AttributeError, ValueError):
        descriptor = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.dup2(descriptor, raw.fileno())
        finally:
            os.close(descriptor)


def _occupy_descriptors() -> None:
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            with suppress(OSError):
                os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free


def _say_nothing(_lost: object) -> None:
    """Drop an exception of a destructor or of a thread that draws: it changes no result."""
