"""The table of commands: what help and completion show without loading anything, and what is loaded when one is called."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib import import_module
from inspect import getdoc
from pathlib import Path

import pytest

from oci_binpkg.cli.app import COMMANDS
from oci_binpkg.cli.commands import CommandEntry
from tests.support.command_line import binpkg, unmeasured_environment

ROOT = Path(__file__).parents[2]
NO_FAMILY = {
    f"oci_binpkg.cli.{name}" for name in ("app", "commands", "edge", "hints", "interrupts", "options", "terminal")
}
START = """
import atexit, os, sys
sys.argv[0] = "oci-binpkg"
atexit.register(lambda: os.write(int(os.environ["MODULES"]), " ".join(sys.modules).encode()))
from oci_binpkg.cli.app import main
main()
"""


def below(entries: Iterable[CommandEntry], words: str = "") -> Iterator[tuple[str, CommandEntry]]:
    for entry in entries:
        if entry.below:
            yield from below(entry.below, f"{words}{entry.name} ")
        else:
            yield words + entry.name, entry


ENTRIES = dict(below(entry for under in COMMANDS.values() for entry in under))


def loaded(*arguments: str, **variables: str) -> tuple[str, set[str]]:
    """What a command prints, and the modules of the command line that it loads."""
    reader, writer = os.pipe()
    with open(reader, encoding="utf-8") as names:
        done = subprocess.run(
            [sys.executable, "-c", START, *arguments],
            cwd=ROOT,
            env=unmeasured_environment() | variables | {"MODULES": str(writer)},
            pass_fds=[writer],
            check=False,
            capture_output=True,
            text=True,
        )
        os.close(writer)
        modules = names.read().split()
    return done.stdout, {name for name in modules if name.startswith("oci_binpkg.") and name != "oci_binpkg.cli"}


def completed(words: str) -> tuple[list[str], set[str]]:
    """What bash offers for the last of some words, and what is loaded for that."""
    number = len(words.split(" ")) - 1
    variables = {"_OCI_BINPKG_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(number)}
    out, modules = loaded(**variables)
    return out.splitlines(), modules


@pytest.mark.parametrize("name", ENTRIES)
def test_the_table_says_of_a_command_what_its_own_help_says(name: str) -> None:
    module, _, function = ENTRIES[name].at.partition(":")
    text = getdoc(getattr(import_module(f"oci_binpkg.cli.{module}"), function)) or ""
    first, *more = text.splitlines()
    assert first == ENTRIES[name].help
    assert not more or more[0] == ""


def test_a_line_of_help_fits_on_a_line() -> None:
    lines = binpkg("--help").lines
    assert [
        entry.help for under in COMMANDS.values() for entry in under if not any(entry.help in s for s in lines)
    ] == []


def test_commands_stand_under_headings_the_most_important_first() -> None:
    shown = binpkg("--help").out
    headings = [f"\n{heading}:\n" for heading in COMMANDS]
    assert [shown.count(heading) for heading in headings] == [1] * 5
    places = [shown.index(heading) for heading in headings]
    assert places == sorted(places)
    firsts = [shown[at:].splitlines()[2].split()[0] for at in places]
    assert firsts == ["push", "install", "find", "index", "login"]


@pytest.mark.parametrize("words", ["--help", "-h", "index --help", "mirror -h", "keys -h", "no-such-command", ""])
def test_help_and_typing_errors_load_no_command(words: str) -> None:
    _, modules = loaded(*words.split())
    own = {name for name in modules if name.startswith("oci_binpkg.cli.")}
    assert own == NO_FAMILY
    below = {name for name in modules - own if (ROOT / "oci_binpkg" / name.split(".")[1]).is_dir()}
    assert below == set()
    assert modules & {"oci_binpkg.client", "oci_binpkg.operation", "oci_binpkg.connections"} == set()


def test_nobody_pays_for_logging_who_asks_for_no_light() -> None:
    code = "import sys; from oci_binpkg.cli import app, push; print('logging' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"


def test_the_help_of_a_command_loads_its_family_and_nothing_below() -> None:
    out, modules = loaded("push", "--help")
    assert "Push packages and what they need to a cache." in out
    assert "oci_binpkg.cli.push" in modules
    assert not any(name.startswith(("oci_binpkg.client", "oci_binpkg.ops", "oci_binpkg.cache")) for name in modules)
    assert modules & {f"oci_binpkg.cli.{entry.at.partition(':')[0]}" for entry in ENTRIES.values()} == {
        "oci_binpkg.cli.push",
        "oci_binpkg.cli.app",
    }


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("oci-binpkg pu", ["push"]),
        ("oci-binpkg in", ["install", "install-image", "inspect", "index"]),
        ("oci-binpkg index ", ["update", "rebuild", "check"]),
        ("oci-binpkg --deb", ["--debug"]),
    ],
)
def test_names_are_completed_without_loading_a_command(words: str, offered: list[str]) -> None:
    found, modules = completed(words)
    assert found == offered
    assert {name for name in modules if name.startswith("oci_binpkg.cli.")} == NO_FAMILY


def test_options_of_a_command_are_completed() -> None:
    found, _ = completed("oci-binpkg push --upd")
    assert found == ["--update-index"]
    found, _ = completed("oci-binpkg index update --ch")
    assert found == ["--check-signature"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_can_be_told_to_complete(shell: str) -> None:
    out, modules = loaded("--show-completion", shell, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert "_OCI_BINPKG_COMPLETE" in out
    assert {name for name in modules if name.startswith("oci_binpkg.cli.")} == NO_FAMILY


def test_a_wrong_name_gets_those_that_are_like_it() -> None:
    ended = binpkg("indx")
    assert ended.code == 2
    assert ended.err.startswith("oci-binpkg: No such command 'indx'. Did you mean 'index', 'find'?\n")
    assert " index -h`" in binpkg("index", "updat").err


@pytest.mark.parametrize("name", ENTRIES)
def test_every_command_takes_what_all_of_them_take(name: str) -> None:
    shown = binpkg(*name.split(), "--help").out
    assert [option for option in ("--verbose", "--debug", "--log-file", "--help") if option not in shown] == []
    assert shown.splitlines()[-1].strip().startswith("-h, --help")
