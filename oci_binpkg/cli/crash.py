"""What becomes of an exception that nobody expected: one line for the user, and a file for whoever mends the fault.

The file says where it happened: file, line and function of each call, the type and the redacted message of each
exception. It holds neither values of variables nor arguments of the command, which may be secrets. The id of a fault
comes from its place, so the same fault has the same id, and its file is replaced.
"""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import re
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from oci_binpkg import __version__
from oci_binpkg.cli import terminal
from oci_binpkg.config.scene import Scene
from oci_binpkg.errors import BinpkgError, InternalError, LocalDiskError, UsageError, scarce_resource

_SECRET_NAME: Final = re.compile(r"TOKEN|SECRET|PASS|CREDENTIAL|_KEY|AUTH", re.IGNORECASE)
_SHORTEST_SECRET: Final = 4
_MAX_MESSAGE: Final = 300
_MAX_CAUSES: Final = 10
_MAX_CALLS: Final = 60
_PLACE: Final = 3
"""Calls that make the place of a fault: further out they are those of the command that met it."""
_PATTERNS: Final = (
    re.compile(r"(?<=://)[^\s/@'\"]+(?=@)"),  # user:password@ of any address
    re.compile(r"(?i)(?<=\bauthorization)(['\"]?\s*[:=,]\s*).*"),
    re.compile(r"(?i)(?<=\bbearer )\S+|(?<=\bbasic )\S+"),
    re.compile(
        r"(?i)(?<=password)(['\"]?\s*[:=,]\s*)\S+|(?<=token)(['\"]?\s*[:=,]\s*)\S+|(?<=secret)(['\"]?\s*[:=,]\s*)\S+"
    ),
    re.compile(r"\beyJ[\w-]+(?:\.[\w-]+)*|\b(?:gh[pousr]_|github_pat_|glpat-|dckr_pat_|AKIA|ASIA)[\w-]+"),
)
_PACKAGE: Final = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_OURS: Final = "oci_binpkg/"
_DISK: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOENT, errno.ENOTDIR}
    | {errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EEXIST, errno.ESTALE, errno.EILSEQ}
)


def explained(error: BaseException) -> BinpkgError | None:
    """Return an exception of the interpreter as our error where the machine is at fault; None if we are."""
    if found := scarce_resource(error):
        return found
    if isinstance(error, UnicodeEncodeError):
        return _not_text(error)
    if isinstance(error, ValueError) and "embedded null" in str(error):
        return UsageError("a path holds a NUL character", hint="look for \\0 or %00 in settings and arguments")
    if not isinstance(error, OSError) or error.errno not in _DISK:
        return None
    if error.filename is None:
        return _lost_folder() if error.errno == errno.ENOENT else None
    what = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else str(error.filename)
    return LocalDiskError(f"{what}: {error.strerror}", hint="check space and permissions there")


def _not_text(error: UnicodeEncodeError) -> BinpkgError:
    culprit = error.object[error.start]
    if "\ud800" <= culprit <= "\udfff":
        return UsageError(
            f"an argument, a setting or a document holds {terminal.cleaned(culprit)}, which is not text",
            hint="only paths on this machine may hold bytes that are not UTF-8",
        )
    return UsageError(
        f"the locale's encoding, {error.encoding}, has no {culprit}", hint="set LC_ALL to a UTF-8 locale, as C.UTF-8"
    )


def report(error: BaseException, scene: Scene) -> BinpkgError:
    """Write down what happened and return what to tell the user."""
    lines = list(_described(error, scene.environment))
    fault = hashlib.sha256("\n".join([type(error).__name__, *_calls(error)[-_PLACE:]]).encode()).hexdigest()[:8]
    message = f"internal error {fault} ({type(error).__name__}), a fault of oci-binpkg"
    if scene.debug:
        terminal.tell_text("\n".join(lines))
        return InternalError(message)
    path = scene.keep(f"crash-{fault}.txt", [f"internal error {fault}", *lines])
    where = f"{path} says where; please report it" if path else "run it again with --debug"
    return InternalError(f"{message}: {where}")


def redacted(text: str, environment: Mapping[str, str], longest: int = _MAX_MESSAGE) -> str:
    """Return a message on one line of so many characters, without logins and values of secret variables."""
    for name, value in environment.items():
        if _SECRET_NAME.search(name) and len(value) >= _SHORTEST_SECRET:
            text = text.replace(value, "***")
    for pattern in _PATTERNS:
        text = pattern.sub("***", text)
    return terminal.cleaned(text[:longest])


def _described(error: BaseException, environment: Mapping[str, str]) -> Iterator[str]:
    yield f"oci-binpkg {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    found: BaseException | None = error
    for _ in range(_MAX_CAUSES):
        if found is None:
            return
        yield f"{type(found).__module__}.{type(found).__qualname__}: {redacted(str(found), environment)}"
        yield from (f"  {call}" for call in _calls(found))
        following = found.__cause__ or (None if found.__suppress_context__ else found.__context__)
        if following is not None:
            yield "which came of"
        found = following


def _calls(error: BaseException) -> Sequence[str]:
    """Return the calls on the way to the exception, the last ones if they are many; text of the source is left out."""
    # `walk_tb` and not `extract_tb`, which reads the sources
    calls = [
        f"{_shown_path(frame.f_code.co_filename)}:{line} {frame.f_code.co_name}"
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    return calls[-_MAX_CALLS:]


def _shown_path(path: str) -> str:
    """Return a path without what says whose machine it is."""
    if path.startswith(f"{_PACKAGE}{os.sep}{_OURS}"):
        return path[len(_PACKAGE) + 1 :]
    return f".../{'/'.join(path.split(os.sep)[-2:])}" if os.path.isabs(path) else path


def _lost_folder() -> BinpkgError | None:
    try:
        os.getcwd()
    except OSError:
        return LocalDiskError("the working folder no longer exists", hint="change to another folder")
    return None
