"""Search all configured caches at once, asking them as seldom as possible."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from oci_binpkg.errors import BinpkgError, ContentError, Hint, NoMatchError, NotFoundError, Step, TransferError
from oci_binpkg.events import Observer, Warned, ignore
from oci_binpkg.file_lock import Patience
from oci_binpkg.index.catalog import CacheState, Catalog
from oci_binpkg.index.catalog_database import (
    DamagedCatalogError,
    ForeignCatalogError,
    IndexReader,
    UnwritableCatalogError,
    replace_database,
)
from oci_binpkg.index.catalog_search import Match, near_names, search
from oci_binpkg.model.content import Digest
from oci_binpkg.model.query import Query
from oci_binpkg.model.spec import Spec
from oci_binpkg.ops.contents import DamageReport
from oci_binpkg.times import SYSTEM_TIME, Time

_Result = TypeVar("_Result")
DEFAULT_TTL: Final = 600.0
FAILURE_TTL: Final = 60.0
"""Seconds for which a cache that could not be read is left alone: a moment, since somebody may be mending it."""


@dataclass(frozen=True, slots=True)
class CatalogMatch:
    """A package in at least one cache; `caches` are their names in the order of the configuration.

    `is_deprecated`: one of them says that another package shall take its place.
    """

    spec: Spec
    caches: tuple[str, ...]
    is_deprecated: bool = False

    @property
    def name(self) -> str:
        """The package's name."""
        return self.spec.name

    @property
    def version(self) -> str:
        """The package's version."""
        return str(self.spec.version)

    @property
    def hash(self) -> str:
        """The package's 32-character hash."""
        return self.spec.hash

    def to_json(self) -> dict[str, Any]:
        """Return the JSON document."""
        spec = self.spec
        return {
            "name": spec.name,
            "version": spec.version,
            "hash": spec.hash,
            "arch": {"platform": spec.arch.platform, "os": spec.arch.os, "target": spec.arch.target},
            "spec": spec.describe(),
            "state": "deprecated" if self.is_deprecated else "cached",
            "caches": list(self.caches),
        }


@dataclass(frozen=True, slots=True)
class Refresh:
    """Brings the catalog at `path` up to date.

    `caches` are the configured ones, name -> URL. `read` gets the index of one of them. What was read less than `ttl`
    seconds ago is believed; `offline` believes all that there is. `only` is the one cache that matters, "" for all.
    `failures` gets the errors of the caches that were asked and could not be read.
    """

    path: str
    caches: Mapping[str, str]
    read: IndexReader
    ttl: float = DEFAULT_TTL
    offline: bool = False
    only: str = ""
    observer: Observer = ignore
    patience: Patience | None = None
    time: Time = SYSTEM_TIME
    failures: dict[str, BinpkgError] = field(default_factory=dict)

    def run(self) -> dict[str, CacheState]:
        """Refresh and return what is known of each cache. A cache that fails is reported; its old entries stay.

        Raises `LocalDiskError`.
        """
        return self.then(Catalog.states)

    def then(self, use: Callable[[Catalog], _Result]) -> _Result:
        """Refresh the catalog and use it; once more with a new one if the file turns out to be damaged.

        Where its folder cannot be written, a catalog in memory serves: it starts with what the file holds.
        """
        try:
            return self._once(use)
        except DamagedCatalogError as error:
            self.observer(Warned(error.message, error.hint))
            replace_database(self.path, self.patience)
            return self._once(use)
        except ForeignCatalogError as error:
            self.observer(Warned(f"{error.message}; what is read of the caches is not kept", error.hint))
            return self._once(use, kept=None)
        except UnwritableCatalogError as error:
            self.observer(Warned(f"{error.message}: what is read of the caches is not kept"))
            return self._once(use, kept=False)

    def _catalog(self, kept: bool | None) -> Catalog:
        """Open the catalog; if it is not kept, one in memory that begins as the kept one, with None an empty one."""
        if kept:
            return Catalog(self.path, patience=self.patience)
        return Catalog() if kept is None else Catalog(copy_of=self.path)

    def _once(self, use: Callable[[Catalog], _Result], *, kept: bool | None = True) -> _Result:
        with self._catalog(kept) as catalog:
            catalog.keep_only(self.caches)
            states = catalog.states()
            for name, url in self._wanted.items():
                state = states.get(name)
                if not self.offline and not self._is_fresh(state):
                    self._ask(catalog, name, url, state.digest if state else None)
            self._report(catalog.states())
            return use(catalog)

    @property
    def _wanted(self) -> Mapping[str, str]:
        return {self.only: self.caches[self.only]} if self.only else self.caches

    def _is_fresh(self, state: CacheState | None) -> bool:
        if state is None:
            return False
        # a clock that was set back makes the last check lie in the future: that says nothing about its age
        return 0 <= self.time.now() - state.checked < (min(self.ttl, FAILURE_TTL) if state.error else self.ttl)

    def _ask(self, catalog: Catalog, name: str, url: str, known: Digest | None) -> None:
        """Read the index of one cache into the catalog, whatever becomes of it."""
        try:
            index = self.read(name, known)
        except NotFoundError:
            catalog.note_absent(name, url, self.time.now())
            return
        except BinpkgError as error:
            self._failed(catalog, name, url, error)
            return
        if index is None:
            assert known is not None  # only a known index can be unchanged
            catalog.note_unchanged(name, url, self.time.now(), known)
            return
        assert index.digest is not None  # it was read
        if index.digest != known and catalog.was_replaced(name, index.digest):
            self.observer(Warned(_rollback(name)))
        try:
            report = DamageReport(name, self.observer)
            records = index.reporting(report).records
            catalog.store(name, url, self.time.now(), records, index.digest, known=known, notice=report)
        except ContentError as error:
            self._failed(catalog, name, url, error)

    def _failed(self, catalog: Catalog, name: str, url: str, error: BinpkgError) -> None:
        self.failures[name] = error
        catalog.note_failure(name, url, self.time.now(), error.message)

    def unanswered(self, states: Mapping[str, CacheState]) -> list[str]:
        """Return the caches that could not be read when they were last asked; none where nothing is asked."""
        return [] if self.offline else [name for name in self._wanted if name in states and states[name].error]

    def no_answer(self, states: Mapping[str, CacheState]) -> BinpkgError | None:
        """Return the error for a search in which no cache answered; None if one did."""
        silent = self.unanswered(states)
        if not silent or len(silent) < len(self._wanted):
            return None
        wrong = next((each for each in self.failures.values() if not isinstance(each, TransferError)), None)
        if len(silent) == 1 and silent[0] in self.failures:
            wrong = self.failures[silent[0]]
        if wrong is not None:
            return wrong.again()
        return TransferError(
            "no cache could be read",
            details=[f"{name}: {states[name].error}" for name in silent],
            hint=Hint(Step.SEARCH_OFFLINE),
        )

    def _report(self, states: Mapping[str, CacheState]) -> None:
        for name in self._wanted:
            state = states.get(name)
            if state is None:
                self.observer(Warned(f"{name} was never read", Hint(Step.ASK_ONLINE)))
            elif state.error:
                self.observer(Warned(f"{name} could not be read{_since(state)}: {state.error}"))
            elif not state.has_index:
                self.observer(Warned(f"{name} has no index: its packages are not searched", Hint(Step.UPDATE_INDEX)))


def find_in_catalog(refresh: Refresh, queries: Sequence[Query], *, family: str = "") -> list[CatalogMatch]:
    """Return the packages of all configured caches that match any query (all, without one).

    `family` is the only architecture to look at, as image manifests name it; "" is all. Raises `NoMatchError` with
    names that are near if there are queries and nothing matches; if no cache could be read and nothing is known that
    matches, the error of the only cache, or `TransferError` naming all of them; `LocalDiskError`.
    """

    def look(catalog: Catalog) -> list[Match]:
        found = search(catalog, queries, family=family, cache=refresh.only)
        if not found:
            states = catalog.states()
            if error := refresh.no_answer(states):
                raise error
            if queries:
                raise _no_match(catalog, queries, family, refresh.only, answered=not refresh.unanswered(states))
        return found

    position = {name: place for place, name in enumerate(refresh.caches)}
    return [
        CatalogMatch(
            match.spec,
            tuple(sorted(match.caches, key=lambda name: position.get(name, len(position)))),
            match.is_deprecated,
        )
        for match in refresh.then(look)
    ]


def holders(refresh: Refresh, queries: Sequence[Query]) -> frozenset[str]:
    """Return the names of the caches that the catalog knows to have a package which matches a query. Never raises."""
    try:
        found = refresh.then(lambda catalog: search(catalog, queries))
    except BinpkgError:
        return frozenset()
    return frozenset(name for match in found for name in match.caches)


def _no_match(catalog: Catalog, queries: Sequence[Query], family: str, cache: str, *, answered: bool) -> NoMatchError:
    asked = " or ".join(repr(query.text) for query in queries)
    elsewhere = search(catalog, queries, cache=cache) if family else []
    if elsewhere:
        others = ", ".join(sorted({match.spec.arch.go_architecture for match in elsewhere}))
        return NoMatchError(f"no package for {family} matches {asked}", hint=Hint(Step.ANY_ARCHITECTURE, found=others))
    near = near_names(catalog, queries)
    where = cache or ("the configured caches" if answered else "the caches that answered")
    return NoMatchError(
        f"no package in {where} matches {asked}",
        hint=f"did you mean {' or '.join(near)}?" if near else Hint(Step.LIST_CATALOG),
    )


def _rollback(name: str) -> str:
    return (
        f"the index of {name} is an old one again: a newer one was seen before. Unless packages were removed there, "
        "somebody put it back; what was added since is not found"
    )


def _since(state: CacheState) -> str:
    if state.confirmed is None:
        return ""
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(state.confirmed))
    return f"; its entries are those of {moment}"
