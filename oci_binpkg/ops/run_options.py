"""What a run is asked for, whatever runs it: an engine or this machine's kernel."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from oci_binpkg.errors import UsageError

_USER: Final = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.-]*(:[A-Za-z0-9_.][A-Za-z0-9_.-]*)?", re.ASCII)
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class RunOptions:
    """`command` takes the place of the image's, `entrypoint` that of its entrypoint (and its command, as in docker).

    `environment` is added to the image's. `volumes` are SOURCE:TARGET[:ro]. `user` is a name or number, with a group
    after a colon. `network` is an engine's network mode, `limits` are as for `ulimit`.
    """

    command: Sequence[str] = ()
    entrypoint: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    volumes: Sequence[str] = ()
    user: str = ""
    workdir: str = ""
    network: str = ""
    limits: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.environment:
            if not _NAME.fullmatch(name):
                raise UsageError(f"{name[:80]!r} is not the name of a variable", hint="write NAME=VALUE")
        if self.user and not _USER.fullmatch(self.user):
            raise UsageError(f"{self.user[:80]!r} is not a user", hint="write NAME, UID, or UID:GID")
        if self.workdir and not self.workdir.startswith("/"):
            raise UsageError(f"{self.workdir[:200]!r} is not an absolute path", hint="name a directory of the image")
        self.bound()

    def bound(self) -> list[tuple[str, str, bool]]:
        """Return the volumes: source and target as absolute paths, and whether it is only read.

        Raises `UsageError` for text of another form, and for a missing source.
        """
        return [_volume(text) for text in self.volumes]


def _volume(text: str) -> tuple[str, str, bool]:
    source, _, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    path = os.path.abspath(os.path.expanduser(source))
    if not source or not target.startswith("/") or mode not in ("", "ro", "rw") or ".." in target.split("/"):
        raise UsageError(f"{text[:200]!r} is not a volume", hint="write DIR:PATH or DIR:PATH:ro; PATH is absolute")
    if not os.path.exists(path):
        raise UsageError(f"{path}: no such file or directory for a volume", hint="make the directory first")
    return path, os.path.normpath(target), mode == "ro"
