"""The commands about logins."""

from __future__ import annotations

from typing import Annotated

import typer

from oci_binpkg.cli import render, terminal
from oci_binpkg.cli.context import bare
from oci_binpkg.cli.options import HostArgument
from oci_binpkg.errors import UsageError


def login(
    host: HostArgument,
    username: Annotated[str, typer.Option("--username", "-u", metavar="USER", help="asked for if not given")] = "",
    *,
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="read the password from stdin")] = False,
    plain_http: Annotated[bool, typer.Option("--plain-http", help="the registry speaks http only")] = False,
) -> int:
    """Check a registry login and keep it.

    The login is kept where docker and podman keep theirs.

    \b
    Examples:
      oci-binpkg login registry.example
      echo "$TOKEN" | oci-binpkg login registry.example -u ci --password-stdin
    """
    chosen = [username]

    def ask() -> tuple[str, str]:
        chosen[0], password = _read(username) if password_stdin else _asked(host, username)
        if not chosen[0] or not password:
            raise UsageError("a username and a password are needed", hint=f"nothing was stored for {host}")
        return chosen[0], password

    file = bare().login(host, ask=ask, plain_http=plain_http)
    render.print_lines([f"logged in to {host} as {chosen[0]}; kept in {file}"])
    return 0


def logout(host: HostArgument) -> int:
    """Forget the login of a registry.

    \b
    Example:
      oci-binpkg logout registry.example
    """
    file = bare().logout(host)
    render.print_lines([f"logged out of {host}; removed from {file}" if file else f"no login for {host} was kept"])
    return 0


def _read(username: str) -> tuple[str, str]:
    if not username:
        raise UsageError("--password-stdin needs --username")
    return username, terminal.read_line()


def _asked(host: str, username: str) -> tuple[str, str]:
    if not terminal.stdin_is_terminal():
        raise UsageError("no terminal to ask for the password on", hint="use --password-stdin")
    username = username or terminal.ask(f"username for {host}: ")
    return username, terminal.ask_secret(f"password for {username} at {host}: ")
