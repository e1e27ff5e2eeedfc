"""Scripts: the interpreter that their first line names, as the kernel and `env` look for it.

Linux: fs/binfmt_script.c; GNU env(1). sbang: the script that stands in for lines too long for the kernel.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from oci_binpkg.errors import LocalDiskError
from oci_binpkg.runs.obstacles import Obstacle, ObstacleKind
from oci_binpkg.runs.view import FileView

HEAD: Final = 4096
"""Bytes at the beginning of a script that are looked at."""
LONGEST_LINE: Final = 255
"""Bytes of an interpreter line that Linux reads since 5.1; what is beyond is cut off."""
SEARCHED: Final = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
"""Where `env` finds programs unless PATH says otherwise."""

_MOST_SCRIPTS: Final = 4  # an interpreter may be a script, whose interpreter may be one; Linux follows so many
_SECOND_LINE: Final = re.compile(rb"(?:#!|//!|--!|<\?php #!)\s*([^\s?]+)")
_LAUNCHED: Final = re.compile(rb"[^\n]*?#![ \t]*([^\s?]+)")
_SH_STARTS: Final = re.compile(rb"""(?:[^\n]*\n){1,2}(?:'''exec'|exec) "(/[^"\n]+)" [^\n]*"\$0" "\$@"(?:\n|$)""")
"""What runs a script in another language by sh, in line 2 or 3."""
_STARTERS: Final = {"sbang": _SECOND_LINE, "sbang-launch": _LAUNCHED}
_ASSIGNMENT: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_ENV_TAKES: Final = {"-u", "--unset", "-C", "--chdir"}


@dataclass(frozen=True, slots=True)
class Scripts:
    """Judges scripts in a view. `path` are the directories in which `env` looks for programs."""

    view: FileView
    path: Sequence[str] = SEARCHED
    _known: dict[str, bool] = field(default_factory=dict)

    def obstacle(self, script: str, head: bytes, depth: int = 0) -> Obstacle | None:
        """Return why a script that begins with `head` does not start, None if it does."""
        line = head[2:].partition(b"\n")[0]
        # a carriage return is no blank to the kernel, but a part of the name
        interpreter, _, argument = os.fsdecode(line).strip(" \t").replace("\t", " ").partition(" ")
        argument = argument.strip(" ")
        if not interpreter or b"\0" in line:
            return None
        if len(line) + 2 > LONGEST_LINE and len(os.fsencode(interpreter)) + 2 > LONGEST_LINE:
            return _obstacle(script, interpreter, f"the kernel cuts its first line after {LONGEST_LINE} bytes")
        if found := self._program(script, interpreter, depth):
            return found
        return self._through(script, head, os.path.basename(interpreter), argument)

    def _program(self, script: str, interpreter: str, depth: int) -> Obstacle | None:
        """Return why a program cannot be started as an interpreter."""
        if not interpreter.startswith("/"):
            return _obstacle(script, interpreter, f"its interpreter {interpreter!r} is not a path from the root")
        status = self.view.status(interpreter)
        shown = interpreter if interpreter.isprintable() else repr(interpreter)
        if status is None:
            return _obstacle(script, interpreter, f"its interpreter {shown} is not there")
        if not status.is_executable:
            return _obstacle(script, interpreter, f"its interpreter {shown} is not executable")
        with suppress(LocalDiskError), self.view.opened(interpreter) as read:
            head = read(0, HEAD)
            if head[:2] == b"#!" and depth < _MOST_SCRIPTS and (found := self.obstacle(interpreter, head, depth + 1)):
                return _obstacle(script, interpreter, f"its interpreter {shown} is a script: {found.reason}")
        return None

    def _through(self, script: str, head: bytes, name: str, argument: str) -> Obstacle | None:
        """Look behind `env` and `sbang`, which start another program."""
        if name == "env":
            for wanted in _env_names(argument):
                return self._named(script, wanted)
        if name in {"sh", "dash", "bash"}:
            return self._through_shell(script, head, argument)
        return None

    def _through_shell(self, script: str, head: bytes, argument: str) -> Obstacle | None:
        """Look behind a shell that starts what the next lines name: by itself, or by a program for long lines."""
        starter = argument.partition(" ")[0]
        pattern = _STARTERS.get(os.path.basename(starter))
        if pattern is None:
            started = None if argument else _SH_STARTS.match(head)
            return self._program(script, os.fsdecode(started[1]), 0) if started else None
        if self.view.status(starter) is None:
            return _obstacle(script, starter, f"the script {starter} that starts it is not there")
        second = pattern.match(head.partition(b"\n")[2])
        wanted = os.fsdecode(second[1]) if second else ""
        if os.path.basename(wanted) != "env" and wanted:
            return self._program(script, wanted, 0)
        return None

    def _named(self, script: str, name: str) -> Obstacle | None:
        if "/" in name:
            return self._program(script, name, 0) if name.startswith("/") else None
        if name not in self._known:
            found = (self.view.status(f"{directory}/{name}") for directory in self.path)
            self._known[name] = any(status is not None and status.is_executable for status in found)
        if self._known[name]:
            return None
        shown = name if name.isprintable() else repr(name)
        reason = f"its interpreter {shown} is not found by env"
        return Obstacle(script, ObstacleKind.SCRIPT, name, reason, looked=tuple(self.path))


def body_of(text: bytes) -> bytes:
    """Return a text without the lines that name a script's interpreter, which are judged as such."""
    if text[:2] != b"#!":
        return text
    first, _, body = text.partition(b"\n")
    return body.partition(b"\n")[2] if b"/sbang" in first else body


def _env_names(argument: str) -> Iterator[str]:
    """Yield the program that the arguments of `env` name, if any: options and variables come first."""
    words = [argument] if argument else []  # the kernel passes one argument, blanks and all
    if argument.startswith(("-S", "--split-string", "-vS")):
        with suppress(ValueError):
            words = shlex.split(re.sub(r"^(-v?S|--split-string=?)", "", argument))
    skip = False
    for word in words:
        if skip or word.startswith("-") or _ASSIGNMENT.match(word):
            skip = word in _ENV_TAKES
            continue
        yield word
        return


def _obstacle(script: str, needed: str, reason: str) -> Obstacle:
    return Obstacle(script, ObstacleKind.SCRIPT, needed, reason)
