"""The gpg program: started from here only, with nothing of its surroundings left to chance.

Source: GnuPG 2.2 and later: its manual and doc/DETAILS (status lines, colon listings).
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from oci_binpkg.disk import disk_refusal
from oci_binpkg.errors import Hint, KeyringError, Step

_STATUS: Final = "[GNUPG:] "
_FIXED: Final = ("--batch", "--no-tty", "--no-options", "--disable-dirmngr", "--no-auto-check-trustdb")
_SHOWN: Final = 300
_NO_AGENT: Final = 77
"""libgpg-error's GPG_ERR_NO_AGENT; the upper bits of a code name the part of gpg that found it."""


@dataclass(frozen=True, slots=True)
class ProgramResult:
    """What a program gave: exit code, both outputs."""

    code: int
    stdout: bytes
    stderr: bytes


Run = Callable[[Sequence[str], bytes, float], ProgramResult]
"""Runs a program: arguments (the program first), its standard input, the most seconds it may take.

Raises `OSError` if it cannot be started, `subprocess.TimeoutExpired` when it was ended after that time.
"""


def run_program(arguments: Sequence[str], stdin: bytes, timeout: float) -> ProgramResult:
    """Run a program to its end, or end it after `timeout` seconds."""
    done = subprocess.run(arguments, input=stdin, capture_output=True, timeout=timeout, check=False)
    return ProgramResult(done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True, slots=True)
class Status:
    """One status line of gpg: a keyword and its arguments."""

    keyword: str
    arguments: tuple[str, ...]

    @property
    def failed(self) -> bool:
        """Whether it reports a failure; its last argument is then libgpg-error's code."""
        return self.keyword in {"FAILURE", "ERROR"} and self.arguments[-1:] > () and self.arguments[-1].isdecimal()


@dataclass(frozen=True, slots=True)
class Gpg:
    """gpg on one keyring: the directory `home`, or with "" the user's own. `timeout` in seconds for one call."""

    home: str
    program: str = "gpg"
    run: Run = run_program
    timeout: float = 60.0

    def call(self, *arguments: str, stdin: bytes = b"", agent: bool = False) -> ProgramResult:
        """Run gpg, whatever its exit code. Without `agent` no agent is started, and secret keys cannot be used.

        Raises `KeyringError` if it cannot be run or takes too long.
        """
        where = ("--homedir", self.home) if self.home else ()
        # a configuration file could bring keyservers, other keyrings or weaker rules; for signing the user's own counts
        fixed = _FIXED if self.home else ("--batch",)
        autostart = () if agent else ("--no-autostart",)
        return self._run((self.program, *where, *fixed, *autostart, *arguments), stdin)

    def checked(self, *arguments: str, task: str, stdin: bytes = b"", agent: bool = False) -> bytes:
        """Run gpg and return its standard output. Raises `KeyringError` with gpg's own words if it fails."""
        outcome = self.call("--status-fd", "2", *arguments, stdin=stdin, agent=agent)
        if outcome.code != 0:
            raise KeyringError(f"cannot {task}: {words(outcome)}", hint=_hint(outcome))
        return outcome.stdout

    def end_agents(self) -> None:
        """End the agents that serve this directory; the user's own are left alone."""
        if self.home:
            self._run((_gpgconf(self.program), "--homedir", self.home, "--kill", "all"), b"")

    def _run(self, command: Sequence[str], stdin: bytes) -> ProgramResult:
        try:
            return self.run(command, stdin, self.timeout)
        except FileNotFoundError:
            raise KeyringError(
                f"signatures need GnuPG, and there is no program {command[0]!r}", hint="install the package gnupg"
            ) from None
        except subprocess.TimeoutExpired:
            raise KeyringError(f"gpg was ended after {self.timeout:g} seconds without an answer") from None
        except OSError as error:
            raise KeyringError(f"cannot run {command[0]!r}: {error.strerror or error}") from error


def statuses(output: bytes) -> list[Status]:
    """Return the status lines in an output of gpg that the option `status-fd` chose."""
    found = []
    for line in output.decode("utf-8", "replace").split("\n"):
        if line.startswith(_STATUS):
            keyword, *arguments = line.removeprefix(_STATUS).split() or [""]
            found.append(Status(keyword, tuple(arguments)))
    return found


def verifying(gpg: Gpg, *files: str, output: str = "", each: bool = False) -> ProgramResult:
    """Let gpg verify a document, or a file of signatures and then the file that they are over.

    What it finds is in the status lines on its standard output. A document's text is written to the file `output`. In
    batch mode gpg ends at the first bad signature; with `each` it goes on to the last.
    """
    options = ["--status-fd", "1", "--trust-model", "always", "--no-auto-key-retrieve"]
    options += ["--no-batch"] if each else []
    options += ["--output", output] if output else []
    return gpg.call(*options, "--verify", *files)


def workplace() -> tempfile.TemporaryDirectory[str]:
    """Return a new directory for what gpg is given. Raises `LocalDiskError`."""
    try:
        return tempfile.TemporaryDirectory(prefix="oci-binpkg-verify-")
    except OSError as error:
        raise disk_refusal("no place for temporary files", error) from error


def written(directory: str, name: str, data: bytes) -> str:
    """Write a new file, and return its path. Raises `LocalDiskError`."""
    path = os.path.join(directory, name)
    try:
        with open(path, "xb") as file:
            file.write(data)
    except OSError as error:
        raise disk_refusal(f"cannot write {path}", error) from error
    return path


def words(outcome: ProgramResult) -> str:
    """Return what gpg wrote to its standard error, printable and short."""
    lines = [line.removeprefix("gpg: ") for line in outcome.stderr.decode("utf-8", "replace").split("\n")]
    text = "; ".join(line.strip() for line in lines if line.strip() and not line.startswith(("WARNING: ", _STATUS)))
    printable = "".join(character for character in text if character.isprintable())
    return printable[-_SHOWN:] or f"gpg ended with code {outcome.code}"


def _hint(outcome: ProgramResult) -> str:
    found = statuses(outcome.stderr)
    keywords = {status.keyword for status in found}
    codes = {int(status.arguments[-1]) & 0xFFFF for status in found if status.failed}
    if keywords & {"INV_SGNR", "NO_SGNR"}:
        return Hint(Step.NAME_USABLE_SIGNING_KEY)
    if keywords & {"PINENTRY_LAUNCHED", "MISSING_PASSPHRASE", "BAD_PASSPHRASE"}:
        return "the key's passphrase could not be asked for: set GPG_TTY=$(tty), or unlock the key in gpg-agent first"
    if _NO_AGENT in codes:
        return "gpg-agent cannot be reached; the path of the keyring may be too long for its socket"
    return ""


def _gpgconf(program: str) -> str:
    head, slash, _ = program.rpartition("/")
    return f"{head}{slash}gpgconf"
