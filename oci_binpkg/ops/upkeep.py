"""Upkeep of an install tree: packages removed, files compared with what was recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from oci_binpkg.errors import Hint, InstallsError, LocalDiskError, Step, UsageError
from oci_binpkg.installs.install_manifest import Difference, compare
from oci_binpkg.installs.protocol import InstallRecord, InstallTree
from oci_binpkg.installs.transaction import ChangeableTree, hidden
from oci_binpkg.installs.verifications import Verification, Verifications
from oci_binpkg.model.query import Query, matching, one
from oci_binpkg.model.spec import Spec
from oci_binpkg.ops.run_check import by_prefix, check_runs
from oci_binpkg.runs.obstacles import Obstacle


@dataclass(frozen=True, slots=True)
class Verified:
    """How the files of one package compare with its record. `unverifiable` says why nothing could be compared.

    `verification` says what was verified of it when it came from a cache. `obstacles` are what keeps its files from
    running and what is worth knowing of them; None where that was not asked.
    """

    spec: Spec
    prefix: str
    findings: tuple[Difference, ...] = ()
    unverifiable: str = ""
    verification: Verification | None = None
    obstacles: tuple[Obstacle, ...] | None = None

    @property
    def runs(self) -> bool:
        """Whether nothing was found that keeps a file from running."""
        return not any(obstacle.stops for obstacle in self.obstacles or ())

    @property
    def is_good(self) -> bool:
        """Whether everything is as it was recorded and, where that was asked, runs."""
        return not self.findings and not self.unverifiable and self.runs

    def to_json(self) -> dict[str, Any]:
        """Return the JSON document."""
        document: dict[str, Any] = {
            "name": self.spec.name,
            "version": self.spec.version,
            "hash": self.spec.hash,
            "prefix": self.prefix,
            "good": self.is_good,
            "findings": [{"path": finding.path, "problem": finding.problem} for finding in self.findings],
            "unverifiable": self.unverifiable,
            "verified": self.verification.to_json() if self.verification else None,
        }
        if self.obstacles is not None:
            document |= {"runs": self.runs, "obstacles": [obstacle.to_json() for obstacle in self.obstacles]}
        return document


def uninstall(installs: ChangeableTree, queries: Sequence[Query], *, dependents: bool = False) -> list[Spec]:
    """Remove packages, each query meaning exactly one; with `dependents` also what needs them. Dependents go first.

    Raises `InstallsError` naming what still needs them otherwise.
    """
    installed = {record.spec.hash: record for record in installs.records() if installs.holds(record)}
    candidates = [record.spec for record in installed.values()]
    wanted = {one(query, candidates, installs.graph).hash for query in queries}
    if not wanted:
        raise UsageError("no package named", hint=Hint(Step.LIST_INSTALLED))
    needing = {
        record.spec.hash: record.spec
        for record in installed.values()
        if record.spec.hash not in wanted and _needs(installs, record.spec, wanted)
    }
    if needing and not dependents:
        raise InstallsError(
            f"still needed by {', '.join(sorted(spec.short for spec in needing.values()))}",
            hint=Hint(Step.NAME_DEPENDENTS),
        )
    order = installs.graph.closure([installed[each].spec for each in (*wanted, *needing)], types=None)
    removed = [spec for spec in reversed(order) if spec.hash in wanted or spec.hash in needing]
    for spec in removed:
        _remove(installs, spec)
    return removed


def _remove(installs: ChangeableTree, spec: Spec) -> None:
    """Remove one package, if nothing needs it by what the database says under its lock."""
    with installs.locked(spec), ExitStack() as removing, installs.changing() as change:
        record = installs.record(spec.hash)
        path = installs.path_of(record) if record is not None and record.installed else None
        if path is None:
            return  # another process has removed it
        needing = _dependents(installs.records(), spec.hash)
        if needing:
            names = ", ".join(sorted(each.short for each in needing))
            raise InstallsError(
                f"{spec.short} is needed by {names}, which was installed meanwhile",
                hint=Hint(Step.NAME_DEPENDENTS),
            )
        removing.enter_context(hidden(path))
        change.remove(spec.hash)
        for each in installs.records():
            if each.deprecated_for == spec.hash and each.is_replaced and not each.installed:
                _remove_link(installs, each, removing)
                change.remove(each.spec.hash)


def _remove_link(installs: ChangeableTree, record: InstallRecord, removing: ExitStack) -> None:
    """Remove the link that stands at the prefix of a deprecated package, and leads to one that is being removed."""
    path = installs.path_of(record)
    if path is not None:
        removing.enter_context(hidden(path))


def _dependents(records: Sequence[InstallRecord], package_hash: str) -> list[Spec]:
    """Return installed packages that link to or run a package, or something that is not installed but needs it."""
    needed, found = {package_hash}, dict[str, Spec]()
    while needed:
        needing = {
            record.spec.hash: record
            for record in records
            if record.spec.hash not in found
            and any(each.hash in needed for each in record.spec.dependencies_of(("link", "run")))
        }
        found |= {key: record.spec for key, record in needing.items() if record.installed}
        needed = {key for key, record in needing.items() if not record.installed and key not in needed}
    return list(found.values())


def verify_store(
    installs: InstallTree,
    queries: Sequence[Query] = (),
    go_on: Callable[[], None] = lambda: None,
    *,
    run: bool = False,
) -> list[Verified]:
    """Compare the files of all packages (or those that match a query) with their records.

    With `run` it is also checked whether they run on this machine; nothing is executed.
    `go_on` is called before each package and raises when the caller has cancelled. Raises `NoMatchError` for a query
    that nothing matches.
    """
    records = [record for record in installs.records() if not record.spec.is_external and record.installed]
    if queries:
        chosen = set(matching(queries, [record.spec for record in records], installs.graph))
        records = [record for record in records if record.spec in chosen]
    with ThreadPoolExecutor() as readers:
        compared = list(readers.map(partial(_verify, installs, go_on), records))
    known = Verifications(installs.root)
    verified = [replace(each, verification=known.of(record)) for each, record in zip(compared, records, strict=True)]
    return _with_obstacles(installs, verified, records, go_on) if run else verified


def _with_obstacles(
    installs: InstallTree, verified: list[Verified], records: list[InstallRecord], go_on: Callable[[], None]
) -> list[Verified]:
    prefixes = [record.prefix for record in records if _is_a_place(installs, record)]
    found = by_prefix(check_runs(installs, prefixes, go_on=go_on), prefixes)
    return [replace(each, obstacles=found.get(each.prefix)) for each in verified]


def _is_a_place(installs: InstallTree, record: InstallRecord) -> bool:
    """Tell whether a prefix is a place in the tree; behind a link, files of others would be looked at."""
    try:
        installs.check_prefix(record)
    except (InstallsError, LocalDiskError):
        return False
    return record.is_present


def _verify(installs: InstallTree, go_on: Callable[[], None], record: InstallRecord) -> Verified:
    go_on()
    try:
        installs.check_prefix(record)
        if not record.is_present:
            return Verified(record.spec, record.prefix, unverifiable="the prefix is gone")
        return Verified(record.spec, record.prefix, tuple(compare(record.prefix)))
    except (InstallsError, LocalDiskError) as error:
        return Verified(record.spec, record.prefix, unverifiable=error.message)


def _needs(installs: ChangeableTree, spec: Spec, wanted: set[str]) -> bool:
    return any(each.hash in wanted for each in installs.graph.closure([spec]) if each.hash != spec.hash)
