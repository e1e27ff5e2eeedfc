"""Writes the pages of the reference that follow from the code: `python registry-test/tools/reference_pages.py`.

The commands come from the parser of the command line, the exit codes from `errors.py`. A test says whether the pages are current.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from oci_binpkg import errors  # noqa: E402
from oci_binpkg.cli.app import app  # noqa: E402

REFERENCE = ROOT / "docs" / "reference"
AGAIN = "<!-- Written by registry-test/tools/reference_pages.py; do not edit. -->"
MORE_CODES = (
    (0, "The work is done."),
    (130, "Interrupted (Ctrl-C). The next run goes on where this one stopped."),
    (141, "The reader of the output closed it."),
)
"""The codes that no error has."""


def root_command() -> Any:
    """Return the command line as the parser's own tree of commands."""
    if hasattr(app, "list_commands"):
        return app
    import typer

    return typer.main.get_command(app)


def commands(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield each command that does something, with the words that call it, in the order of the help."""
    group = root_command() if group is None else group
    for name, command in group.commands.items():
        if hasattr(command, "list_commands"):
            yield from commands(command, (*path, name))
        elif not command.hidden:
            yield (*path, name), command


def usage(words: tuple[str, ...], command: Any) -> str:
    """Return the line that says how a command is called."""
    shown = []
    for each in command.params:
        if each.param_type_name == "argument":
            name = each.metavar or each.name.upper()
            shown.append(f"{name if each.required else f'[{name}]'}{'...' if each.nargs == -1 else ''}")
    return " ".join(["oci-binpkg", *words, "[OPTION]...", *shown])


def _text(command: Any) -> tuple[list[str], list[str]]:
    """Return the paragraphs of a command's help, and its examples."""
    help_text = inspect.cleandoc(command.help or "").replace("\f", "")
    prose, _, examples = re.sub(r"\b[Ee]xamples?:\n", "\0", help_text).partition("\0")
    paragraphs = [" ".join(each.split()) for each in prose.replace("\b", "").split("\n\n") if each.strip()]
    return paragraphs, [line.strip() for line in examples.splitlines() if line.strip()]


def examples(command: Any) -> list[str]:
    """Return the examples in a command's help."""
    return _text(command)[1]


def _cell(text: str | None) -> str:
    return (text or "").replace("|", "\\|")


def _table(params: list[Any]) -> list[str]:
    """Return the arguments and options of a command as one table; none where it has neither."""
    rows = [
        f"| `{_cell(each.metavar or each.name.upper())}` | {_cell(each.help)} |"
        for each in params
        if _is_argument(each)
    ]
    for option in params:
        if _is_argument(option) or option.hidden or "--help" in option.opts:
            continue
        names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
        rows.append(f"| {names}{f' `{_cell(option.metavar)}`' if option.metavar else ''} | {_cell(option.help)} |")
    return ["\n".join(["| | |", "|---|---|", *rows])] if rows else []


def _is_argument(param: Any) -> bool:
    return bool(param.param_type_name == "argument")


def command_page() -> str:
    """Return the page with all commands."""
    parts = [
        f"# Commands\n\n{AGAIN}",
        "Every command also takes `-h`. [Caches](caches.md) and [queries](queries.md) have pages of their own.",
        "Every command takes these options, before its name or after it. The two of completion stand alone:",
        *_table(root_command().params),
    ]
    headings = {under[0].name: heading for heading, under in root_command().listed.items()}
    for words, command in commands():
        if words[0] in headings:
            parts.append(f"## {headings.pop(words[0])}")
        paragraphs, shown = _text(command)
        parts += [
            f"### {' '.join(words)}",
            *paragraphs,
            f"```text\n{usage(words, command)}\n```",
            *_table(command.params),
        ]
        if shown:
            parts.append("\n".join(["```text", *shown, "```"]))
    return "\n\n".join(parts) + "\n"


def error_classes() -> list[type[errors.BinpkgError]]:
    """Return the errors that have an exit code of their own, by code; where several share one, the most general."""
    found: dict[int, type[errors.BinpkgError]] = {}
    for each in vars(errors).values():
        if not inspect.isclass(each) or not issubclass(each, errors.BinpkgError) or each is errors.BinpkgError:
            continue
        if "exit_code" not in vars(each):
            continue
        known = found.get(each.exit_code)
        if known is None or (issubclass(each, errors.TransferError) and known is errors.TransferError):
            found[each.exit_code] = each
    return [found[code] for code in sorted(found)]


def exit_code_page() -> str:
    """Return the page with all exit codes."""
    rows = [(each.exit_code, _sentence(each)) for each in error_classes()]
    lines = [f"| {code} | {text} |" for code, text in sorted([*rows, *MORE_CODES])]
    return EXIT_CODES.format(again=AGAIN, rows="\n".join(lines))


def _sentence(error: type[errors.BinpkgError]) -> str:
    first = inspect.cleandoc(error.__doc__ or "").split("\n\n", maxsplit=1)[0]
    return " ".join(first.split())


EXIT_CODES = """# Exit codes

{again}

Exit codes are stable. 20 to 26 come from the other side; 20, 24 and 25 may pass by themselves, so a later try can help. `run` exits with the code of
the command in the container.

| code | meaning |
|---|---|
{rows}

After an internal error (70), a file in `~/.local/state/oci-binpkg` (or below `XDG_STATE_HOME`) says where it happened: the calls and the types of the
exceptions, without logins, arguments and values. `--debug` or `OCI_BINPKG_DEBUG=1` prints it instead.
"""
PAGES = {"commands.md": command_page, "exit-codes.md": exit_code_page}


def main() -> None:
    """Write the pages."""
    for name, made in PAGES.items():
        (REFERENCE / name).write_text(made(), encoding="utf-8")


if __name__ == "__main__":
    main()
