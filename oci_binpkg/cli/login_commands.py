"""From words to values to operations: the commands about logins."""

from __future__ import annotations

from oci_binpkg.cli import render, terminal
from oci_binpkg.cli.running import observed
from oci_binpkg.config.settings import load_settings
from oci_binpkg.errors import UsageError
from oci_binpkg.model.reference import check_host


def login(host: str, username: str, *, password_stdin: bool, plain_http: bool) -> int:
    """Check a login and keep it."""
    settings = load_settings()
    check_host(host)
    if password_stdin:
        if not username:
            raise UsageError("--password-stdin needs --username")
        password = terminal.read_line()
    else:
        if not terminal.stdin_is_terminal():
            raise UsageError("no terminal to ask for the password on", hint="use --password-stdin")
        username = username or terminal.ask(f"username for {host}: ")
        password = terminal.ask_secret(f"password for {username} at {host}: ")
    if not username or not password:
        raise UsageError("a username and a password are needed", hint=f"nothing was stored for {host}")
    with observed(settings) as wiring:
        where = wiring.login(host, username, password, plain_http=plain_http)
    render.print_lines([f"logged in to {host} as {username}; kept in {where}"])
    return 0


def logout(host: str) -> int:
    """Forget a login."""
    settings = load_settings()
    check_host(host)
    with observed(settings) as wiring:
        where = wiring.logout(host)
    render.print_lines([f"logged out of {host}; removed from {where}" if where else f"no login for {host} was kept"])
    return 0
