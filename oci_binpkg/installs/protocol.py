"""What an install tree is to the rest: packages in prefixes, each with a spec."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final, Protocol

from oci_binpkg.errors import UsageError
from oci_binpkg.model.run_environment import RunEnvironment
from oci_binpkg.model.spec import Spec, SpecGraph

PACKAGES_FILE: Final = "packages.toml"
"""Describes the prefixes of a folder that Spack did not make."""
PADDING: Final = "__spack_path_placeholder__"
"""Components of a root that Spack has made longer, so that prefixes fit anywhere; the last one is cut to measure."""
_SHORTEST_CUT: Final = len("__spack_")


def has_packages_file(path: str) -> bool:
    """Return whether `path` is a folder with a `packages.toml`."""
    return os.path.lexists(os.path.join(path, PACKAGES_FILE))


def check_root(path: str) -> str:
    """Return the root of a tree. Raises `UsageError` for one that would be two directories in a list of paths."""
    if ":" in path:
        raise UsageError(
            f"{path}: a root with a colon cannot stand in PATH and similar lists", hint="choose a directory without one"
        )
    return path


def without_padding(root: str) -> str:
    """Return a root as it was named before Spack padded it: its `bin/sbang` lies there."""
    path, _, last = root.rpartition("/")
    if not path or not PADDING.startswith(last):
        return root
    if len(last) < _SHORTEST_CUT and not path.endswith(f"/{PADDING}"):
        return root
    while path.endswith(f"/{PADDING}"):
        path = path.removesuffix(f"/{PADDING}")
    return path or root


@dataclass(frozen=True, slots=True)
class InstallRecord:
    """One package of a tree.

    `prefix` is absolute, or empty where the tree names none; `installed` is what the tree says, `is_present` what the
    disk says; `installation_time` is in seconds since 1970 (0.0: not known); `deprecated_for` is a hash or empty.
    `upstream` is the root of the upstream tree that has it, "" for this very tree.
    `environment` is what the tree itself says that the package adds to the environment.
    """

    spec: Spec
    prefix: str
    installed: bool = True
    explicit: bool = False
    installation_time: float = 0.0
    ref_count: int = 0
    deprecated_for: str = ""
    environment: RunEnvironment = ()
    upstream: str = ""

    @property
    def is_present(self) -> bool:
        """Whether the prefix is a directory right now; not that of a successor, to which a link leads."""
        return bool(self.prefix) and os.path.isdir(self.prefix) and not self.is_replaced

    @property
    def is_replaced(self) -> bool:
        """Whether the package is deprecated and gone: its prefix is a link to that of its successor."""
        return bool(self.deprecated_for and self.prefix) and os.path.islink(self.prefix)


class InstallTree(Protocol):
    """A tree of prefixes with a record of what is in it. Reading raises `InstallsError`.

    What can also be changed is a `transaction.ChangeableTree`.
    """

    @property
    def root(self) -> str:
        """The absolute path of the tree: the `buildpath` of its packages."""

    @property
    def spack_prefix(self) -> str:
        """Where the Spack that built the packages is; the root if that is not known."""

    @property
    def sbang_path(self) -> str:
        """The script that stands in for interpreter lines that are too long; it need not exist."""

    @property
    def graph(self) -> SpecGraph:
        """All specs, externals and upstream ones included."""

    def records(self) -> tuple[InstallRecord, ...]:
        """Return all records in the order of the tree, also of packages whose prefix is gone."""

    def record(self, package_hash: str) -> InstallRecord | None:
        """Return the record of a hash."""

    def prefix_for(self, spec: Spec) -> str:
        """Return the recorded prefix of `spec`, or the one that an install would give it."""

    def check_prefix(self, record: InstallRecord) -> None:
        """Raise `InstallsError` or `LocalDiskError` if the recorded prefix is not a place of its own in the tree."""
