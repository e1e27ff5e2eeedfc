"""The command line: its table of commands, what stands before them, and its beginning and end."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final, Never

import typer

from oci_binpkg import __version__
from oci_binpkg.cli import terminal
from oci_binpkg.cli.commands import CommandEntry, Commands
from oci_binpkg.cli.edge import run_command
from oci_binpkg.cli.options import DebugOption, JsonOption, LogFileOption, VerboseOption

_INDEX: Final = (
    CommandEntry("update", "Enter packages that the index lacks; only those are read.", "index:update"),
    CommandEntry("rebuild", "Read every package and write the index anew.", "index:rebuild"),
    CommandEntry("check", "Compare the index with what is there.", "index:check"),
)
_MIRROR: Final = (
    CommandEntry("add", "Give a cache a name, in the configuration file.", "mirror:add"),
    CommandEntry("set", "Change what is configured for a name; an empty value removes it.", "mirror:change"),
    CommandEntry("list", "List the caches that have names, also those in Spack's mirrors.yaml.", "mirror:list_mirrors"),
    CommandEntry("remove", "Forget a name; the cache itself stays as it is.", "mirror:remove"),
)
_KEYS: Final = (
    CommandEntry("list", "List the keys that are trusted.", "keys:list_keys"),
    CommandEntry("fetch", "Show the keys that a mirror publishes; it does not trust them.", "keys:fetch"),
    CommandEntry("trust", "Trust a key from now on.", "keys:trust"),
    CommandEntry("untrust", "Trust a key no longer.", "keys:untrust"),
    CommandEntry("publish", "Publish public keys on mirrors, for others to look at.", "keys:publish"),
)
_ARTIFACTS: Final = (
    CommandEntry("list", "List the artifacts of a package or an image.", "artifacts:list_artifacts"),
    CommandEntry("get", "Fetch the files of an artifact.", "artifacts:get"),
)
COMMANDS: Final[Mapping[str, Sequence[CommandEntry]]] = {
    "Build and share": (
        CommandEntry("push", "Push packages and what they need to a cache.", "push:push"),
        CommandEntry("image", "Push one image of several packages.", "push:image"),
        CommandEntry("copy", "Copy a cache, or some of its packages, to another.", "caches:copy"),
        CommandEntry("attach", "Attach files to a package or an image.", "artifacts:attach"),
        CommandEntry("save-specs", "Write the specs of packages, for the jobs of a pipeline.", "caches:save_specs"),
    ),
    "Get and run": (
        CommandEntry("install", "Install packages from a cache, relocated.", "install:install"),
        CommandEntry("install-image", "Install all packages of an image.", "install:install_image"),
        CommandEntry("run", "Run a command in an image.", "images:run"),
        CommandEntry("load", "Load an image into Docker or Podman.", "images:load"),
        CommandEntry("download", "Fetch a package's spec and archive.", "install:download"),
    ),
    "Look": (
        CommandEntry("find", "List packages of a tree, a cache, or all configured caches.", "find:find"),
        CommandEntry("search", "Search all configured caches.", "find:search"),
        CommandEntry("show", "Show one package of a cache.", "find:show"),
        CommandEntry("inspect", "Show what a cache or an image is made of.", "images:inspect"),
        CommandEntry("artifacts", "Look at what is attached to packages and images.", below=_ARTIFACTS),
        CommandEntry("check", "List the packages of a tree that caches lack.", "caches:check"),
    ),
    "Keep in order": (
        CommandEntry("index", "Look after the index of a cache.", below=_INDEX),
        CommandEntry("verify-store", "Compare the files of a tree with its records.", "install:verify_store"),
        CommandEntry("uninstall", "Remove packages from a tree.", "install:uninstall"),
    ),
    "Set up": (
        CommandEntry("login", "Check a registry login and keep it.", "login:login"),
        CommandEntry("logout", "Forget the login of a registry.", "login:logout"),
        CommandEntry("mirror", "Give caches names.", below=_MIRROR),
        CommandEntry("keys", "Look after the keys whose signatures count.", below=_KEYS),
        CommandEntry("version", "Print the version.", "app:version"),
    ),
}
"""Under each heading the most important first. The help is the first line of the function's own."""


class _Main(Commands):
    def __init__(self, **attributes: Any) -> None:
        super().__init__(listed=COMMANDS, **attributes)


app = typer.Typer(
    name="oci-binpkg",
    cls=_Main,
    help="Installed software as container layers: push packages to any registry, run them as images.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def before_the_command(
    verbose: VerboseOption = False, debug: DebugOption = False, log_file: LogFileOption = ""
) -> None:
    """Take the options that stand before the command, which `Commands` looks at."""


def version(json: JsonOption = False) -> None:
    """Print the version.

    \b
    Example:
      oci-binpkg version
    """
    terminal.print_lines([f'{{"version": "{__version__}"}}' if json else f"oci-binpkg {__version__}"])


def main(arguments: list[str] | None = None) -> Never:
    """Run the command line and exit: 0, an error's own exit code, or 130 after Ctrl-C."""
    with terminal.standard_streams():
        code = run_command(app, arguments)
    sys.exit(code)
