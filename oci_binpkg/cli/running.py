"""What the commands share: parts that are wired together while one runs, install trees, queries, pairs of words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from oci_binpkg.cli.progress import progress
from oci_binpkg.cli.terminal import stderr_is_terminal
from oci_binpkg.client import Wiring
from oci_binpkg.config.settings import Settings
from oci_binpkg.errors import UsageError
from oci_binpkg.model.query import Query

if TYPE_CHECKING:
    from oci_binpkg.installs.protocol import InstallTree


class observed:  # noqa: N801 - reads as the statement it is
    """Everything wired together, with progress on stderr while the block runs."""

    def __init__(self, settings: Settings, json: bool = False, *, quiet: bool = False) -> None:
        self._settings = settings
        live = stderr_is_terminal() and not json
        self._progress = progress(live=live, color=settings.color, quiet=quiet)

    def __enter__(self) -> Wiring:
        self._wiring = Wiring(self._settings, self._progress.__enter__())
        return self._wiring

    def __exit__(self, *exc: object) -> None:
        self._wiring.close()
        self._progress.__exit__(None, None, None)


def installs_at(settings: Settings, store: str) -> InstallTree:
    """Open the install tree that a flag or the settings name. Raises `UsageError`, `InstallsError`."""
    path = store or settings.store
    if not path:
        raise UsageError("no install tree named", hint="use --store DIR, or set store in the configuration")
    from oci_binpkg.installs.open import open_installs

    return open_installs(path, spack_prefix=settings.spack_prefix)


def parse_queries(texts: Sequence[str]) -> list[Query]:
    """Return the queries. Raises `QueryError`."""
    return [Query.parse(text) for text in texts]


def pairs(texts: Iterable[str], flag: str) -> Iterable[tuple[str, str]]:
    """Yield key and value of each `K=V`. Raises `UsageError` naming the flag."""
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise UsageError(f"{flag} {text!r}: K=V is expected")
        yield key, value
