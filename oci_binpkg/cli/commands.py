"""The commands by name: each is loaded when it is called, so that help and completion answer at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, Final, NamedTuple, cast

import typer
from typer.core import TyperCommand, TyperGroup

LIGHT: Final = ("verbose", "debug", "log_file")
"""The options that every command takes, before its name and after it."""


class CommandEntry(NamedTuple):
    """A command as help and completion list it.

    `at` is MODULE:FUNCTION below `oci_binpkg.cli`; a command that only groups others has these in `below` instead.
    """

    name: str
    help: str
    at: str = ""
    below: Sequence[CommandEntry] = ()

    def load(self) -> Any:
        """Return the command with its options and arguments, for which its module is imported."""
        if self.below:
            return Commands(
                listed={"Commands": self.below},
                name=self.name,
                help=self.help,
                no_args_is_help=True,
                rich_markup_mode=None,
            )
        module, _, function = self.at.partition(":")
        alone = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        alone.command(self.name, cls=Verb)(getattr(import_module(f"oci_binpkg.cli.{module}"), function))
        return typer.main.get_command(alone)


class Asked:
    """What the options that every command takes say."""

    def __init__(self) -> None:
        self.verbose = self.debug = False
        self.log_file = ""

    def take(self, options: Mapping[str, Any]) -> None:
        """Add what is said before the name of the command, or after it."""
        self.verbose |= bool(options.get("verbose"))
        self.debug |= bool(options.get("debug"))
        self.log_file = options.get("log_file") or self.log_file


class Commands(TyperGroup):
    """Commands under headings. Help and completion see their names and first lines only."""

    def __init__(self, *, listed: Mapping[str, Sequence[CommandEntry]], **attributes: Any) -> None:
        super().__init__(**attributes)
        self.listed = listed
        self.commands = cast("Any", _ByName({each.name: each for under in listed.values() for each in under}))

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - the signature is click's
        """Return the names of the commands."""
        return list(self.commands)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - likewise
        """Return what help and completion show of a command, None for an unknown name."""
        found = [each for under in self.listed.values() for each in under if each.name == cmd_name]
        return TyperCommand(cmd_name, short_help=found[0].help) if found else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Load the command that is called."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, self.commands[name] if name else command, rest

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options, `--help` last."""
        return _with_light(self, ctx, super().get_params(ctx))

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - likewise
        """Write the commands into a help text, under their headings and in one column."""
        width = max(map(len, self.commands))
        for heading, commands in self.listed.items():
            with formatter.section(heading):
                formatter.write_dl([(each.name.ljust(width), each.help) for each in commands])

    def invoke(self, ctx: Any) -> Any:
        """Run a command. Typer ends without a word where any pipe breaks; that of a program of ours is a failure."""
        if isinstance(ctx.obj, Asked):
            ctx.obj.take(ctx.params)
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise ChildProcessError("a program that was started no longer reads") from error


class Verb(TyperCommand):
    """A command that also takes the options which every command takes."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options and arguments, `--help` last."""
        return _with_light(self, ctx, super().get_params(ctx))

    def invoke(self, ctx: Any) -> Any:
        """Run the command, with the light that was asked for."""
        asked = ctx.obj if isinstance(ctx.obj, Asked) else Asked()
        asked.take({name: ctx.params.pop(name, None) for name in LIGHT})
        from oci_binpkg.config.scene import crash_scene  # noqa: PLC0415 - help knows no settings

        scene = crash_scene(debug=asked.debug)
        if not (scene.debug or asked.verbose or asked.log_file):
            return super().invoke(ctx)
        from oci_binpkg.cli.logs import shown  # noqa: PLC0415 - few commands are watched

        with shown(ctx.command_path, scene, verbose=asked.verbose, log_file=asked.log_file):
            return super().invoke(ctx)


def _with_light(command: Any, ctx: Any, params: list[Any]) -> list[Any]:
    """Return a command's parameters, and before `--help` those options of the first command that all of them take."""
    root = ctx.find_root().command
    if root is command:
        return params
    light = [each for each in root.params if each.name in LIGHT]
    return [*command.params, *light, *params[len(command.params) :]]


class _ByName(Mapping[str, Any]):
    """Commands by name, each loaded when it is looked at."""

    def __init__(self, listed: Mapping[str, CommandEntry]) -> None:
        self._listed = listed

    def __getitem__(self, name: str) -> Any:
        return self._listed[name].load()

    def __iter__(self) -> Iterator[str]:
        return iter(self._listed)

    def __len__(self) -> int:
        return len(self._listed)
