"""Which packages of an install tree an operation is about."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from oci_binpkg.errors import Hint, InstallsError, NoMatchError, Step
from oci_binpkg.installs.protocol import InstallRecord, InstallTree
from oci_binpkg.model.query import Query, one
from oci_binpkg.model.spec import Spec


class Only(StrEnum):
    """Restricts a push to the packages named, or to what they need."""

    PACKAGE = "package"
    DEPENDENCIES = "dependencies"


@dataclass(frozen=True, slots=True)
class Selection:
    """What an operation is about: the packages asked for, and all that is to be in the cache, dependencies first.

    `gone` are records that the tree lists but whose prefix is not there any more.
    """

    roots: tuple[Spec, ...]
    wanted: tuple[InstallRecord, ...]
    gone: tuple[InstallRecord, ...]


def select(installs: InstallTree, queries: Sequence[Query], only: Only | None = None) -> Selection:
    """Select by queries, each of which must mean exactly one package; without any, all explicitly installed packages.

    What upstream trees have counts as needed, and by its name, but not as what was installed here.

    Raises `NoMatchError` and `AmbiguousQueryError`, naming near names or the candidates; `InstallsError` for a named
    package that is recorded and gone from the disk, unless only what it needs is meant.
    """
    roots = _roots(installs, queries)
    closure = installs.graph.closure(roots)
    named = {root.hash for root in roots}
    if queries and only is not Only.DEPENDENCIES:
        _require_present(installs, roots)
    if only is Only.PACKAGE:
        closure = tuple(spec for spec in closure if spec.hash in named)
    elif only is Only.DEPENDENCIES:
        closure = tuple(spec for spec in closure if spec.hash not in named)
    records = [record for spec in closure if (record := installs.record(spec.hash)) is not None]
    wanted = tuple(record for record in records if record.is_present)
    gone = tuple(record for record in records if not record.is_present)
    return Selection(roots, wanted, gone)


_GONE: Final = "install it again, or put the prefix back"


def _require_present(installs: InstallTree, roots: Iterable[Spec]) -> None:
    records = [record for root in roots if (record := installs.record(root.hash)) is not None]
    lacking = [record for record in records if not record.is_present and not record.deprecated_for]
    gone = [f"{record.spec.short}: {record.prefix} is not there" for record in lacking]
    if len(gone) == 1:
        raise InstallsError(f"{gone[0]}, though {installs.root} records it", hint=_GONE)
    if gone:
        raise InstallsError(
            f"{len(gone)} packages are recorded in {installs.root} and not there", details=gone, hint=_GONE
        )


def _roots(installs: InstallTree, queries: Sequence[Query]) -> tuple[Spec, ...]:
    records = _packages(installs.records())
    if queries:
        # a deprecated package is meant only by who names its hash
        every, current = ([r.spec for r in records if full or not r.deprecated_for] for full in (True, False))
        return tuple(
            dict.fromkeys(one(query, every if query.constraint.hash else current, installs.graph) for query in queries)
        )
    roots = tuple(r.spec for r in records if r.explicit and r.is_present and not r.deprecated_for and not r.upstream)
    if not roots:
        raise NoMatchError(
            f"no package in {installs.root} is explicitly installed",
            hint=Hint(Step.NAME_PACKAGES),
        )
    return roots


def _packages(records: Iterable[InstallRecord]) -> list[InstallRecord]:
    return [record for record in records if not record.spec.is_external]
