"""What the environment says before any setting is read: where reports of faults go, and whether requests are shown."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from oci_binpkg.errors import LocalDiskError


@dataclass(frozen=True, slots=True)
class Scene:
    """Where crash files go, the environment whose secrets they must not hold, and whether the user wants to see it."""

    folder: str
    environment: Mapping[str, str]
    debug: bool

    def keep(self, name: str, lines: Iterable[str]) -> str:
        """Write a file of lines for its owner alone; return its path, "" if the folder does not take it."""
        from oci_binpkg.disk import make_folder, replace_file  # noqa: PLC0415 - few commands end so

        path = os.path.join(self.folder, name)
        try:
            make_folder(self.folder, 0o700)
            replace_file(path, "".join(f"{line}\n" for line in lines).encode(), mode=0o600)
        except (OSError, ValueError, LocalDiskError):
            return ""
        return path


def crash_scene(environment: Mapping[str, str] | None = None, *, debug: bool = False) -> Scene:
    """Return what is needed to write down an unexpected exception. `OCI_BINPKG_DEBUG=1` is the same as `debug`."""
    env = os.environ if environment is None else environment
    state = env.get("XDG_STATE_HOME") or f"{home_in(env)}/.local/state"
    return Scene(f"{state}/oci-binpkg", env, debug or env.get("OCI_BINPKG_DEBUG", "") not in {"", "0"})


def home_in(environment: Mapping[str, str]) -> str:
    """Return the user's folder."""
    return environment.get("HOME") or os.path.expanduser("~")
