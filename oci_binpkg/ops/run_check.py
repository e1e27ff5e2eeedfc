"""Whether the packages of an install tree run on this machine: the last step of an install."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from oci_binpkg.installs.protocol import InstallTree
from oci_binpkg.runs.examine import examine
from oci_binpkg.runs.machine import Machine, this_machine
from oci_binpkg.runs.obstacles import Obstacle, Verdict
from oci_binpkg.runs.view import FolderView


def check_runs(
    installs: InstallTree,
    prefixes: Sequence[str],
    machine: Machine | None = None,
    go_on: Callable[[], None] = lambda: None,
) -> Verdict:
    """Look at all files below some prefixes of a tree; nothing is executed. Without a machine it is this one.

    The other packages of the tree, externals included, are those that scripts find programs in. `go_on` is called
    before each file and raises when the caller has cancelled.
    """
    tree = [
        record.prefix
        for record in installs.records()
        if record.prefix and (record.installed or record.spec.is_external)
    ]
    return examine(FolderView(), prefixes, machine or this_machine(), tree=tree, go_on=go_on)


def by_prefix(verdict: Verdict, prefixes: Sequence[str]) -> Mapping[str, tuple[Obstacle, ...]]:
    """Return the obstacles of each prefix; of prefixes in each other a file belongs to the innermost."""
    found: dict[str, list[Obstacle]] = {prefix: [] for prefix in prefixes}
    for obstacle in verdict.obstacles:
        folder = obstacle.path
        while folder not in found and folder not in {"", "/"}:
            folder = folder.rpartition("/")[0]
        if folder in found:
            found[folder].append(obstacle)
    return {prefix: tuple(obstacles) for prefix, obstacles in found.items()}
