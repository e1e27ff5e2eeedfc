"""Modes and group of a package's files, as Spack sets them after an install where its configuration says so.

Source: Spack, `package_prefs.py` (`get_package_dir_permissions`) and `hooks/permissions_setters.py`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from oci_binpkg.disk import disk_refusal

_EXECUTE: Final = 0o111
_GROUP: Final = 0o070
_KEPT: Final = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX


@dataclass(frozen=True, slots=True)
class Permissions:
    """`mode` are the rights to folders and programs; other files are not executable. `group` is a number, -1 for none.

    With `passes_group_on`, folders that their group may use get the set-group-ID bit.
    """

    mode: int
    group: int = -1
    passes_group_on: bool = True

    def apply(self, tree: str, closed: Mapping[str, int]) -> None:
        """Set modes and group of all that is in a staged tree, links left out.

        `closed` are the bits, by relative path, that a file or folder keeps from others. Raises `LocalDiskError`.
        """
        for relative, path in _entries(tree):
            self.apply_to(path, closed.get(relative, 0))

    def apply_to(self, path: str, closed: int = 0) -> None:
        """Set mode and group of one file or folder, never through a link. Raises `LocalDiskError`."""
        try:
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                return
            mode = self._mode(status.st_mode) & ~closed
            if self.group >= 0 and self.group != status.st_gid:
                os.chown(path, -1, self.group, follow_symlinks=False)  # takes bits away, so it comes first
            if mode != stat.S_IMODE(status.st_mode) or self.group >= 0:
                os.chmod(path, mode)
        except OSError as error:
            raise disk_refusal(
                f"{path}: its permissions cannot be set", error, hint="the user must be a member of the group"
            ) from error

    def _mode(self, present: int) -> int:
        mode = self.mode | present & _KEPT
        if stat.S_ISDIR(present):
            return mode | (stat.S_ISGID if self.passes_group_on and mode & _GROUP else 0)
        return mode if present & _EXECUTE else mode & ~_EXECUTE


def _entries(tree: str) -> Iterator[tuple[str, str]]:
    """Yield relative and whole path of a tree itself and of all files and folders in it."""
    yield "", tree
    for folder, folders, files in os.walk(tree):
        relative = os.path.relpath(folder, tree)
        for name in (*folders, *files):
            yield (name if relative == "." else f"{relative}/{name}"), os.path.join(folder, name)
