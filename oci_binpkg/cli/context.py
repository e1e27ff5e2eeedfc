"""What the commands share: the client with progress on stderr, and pairs of words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from oci_binpkg.cli.interrupts import cancelled_by_interrupt
from oci_binpkg.cli.progress import PlainProgress, progress
from oci_binpkg.cli.terminal import stderr_is_terminal, tell
from oci_binpkg.errors import UsageError

if TYPE_CHECKING:
    from oci_binpkg import Client


@contextmanager
def opened(json: bool = False, *, quiet: bool = False) -> Iterator[Client]:
    """Yield a client of the user's settings, with progress on stderr inside of this context. Raises `UsageError`."""
    # imported here, so that the help of a command and the completion of its options answer at once
    from oci_binpkg import Client, load_settings  # noqa: PLC0415

    settings = load_settings()
    live = stderr_is_terminal() and not json
    with (
        progress(live=live, color=settings.color, quiet=quiet) as observer,
        Client(config=settings, observer=observer, cancel=cancelled_by_interrupt()) as client,
    ):
        yield client


def bare() -> Client:
    """Return a client that shows warnings alone, and reads no more of the configuration than a verb needs."""
    from oci_binpkg import Client  # noqa: PLC0415 - as above

    return Client(observer=PlainProgress(tell), cancel=cancelled_by_interrupt())


def pairs(texts: Iterable[str], flag: str) -> Iterable[tuple[str, str]]:
    """Yield key and value of each `K=V`. Raises `UsageError` naming the flag."""
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise UsageError(f"{flag} {text!r}: K=V is expected")
        yield key, value
