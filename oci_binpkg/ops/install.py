"""Install packages from caches into a tree: verified, relocated, recorded.

Different packages are fetched, unpacked and relocated at the same time; they are put in place one after the other,
dependencies first. A package whose dependency failed is not put in place.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from itertools import takewhile
from threading import Event as Flag
from typing import Any, Final

from oci_binpkg.archive.layer_cache import LayerCache
from oci_binpkg.archive.received import keep
from oci_binpkg.cancel import Cancel
from oci_binpkg.errors import (
    PUSH_AGAIN,
    BinpkgError,
    ContentError,
    Hint,
    InstallsError,
    LocalDiskError,
    NotFoundError,
    SignatureError,
    Step,
    TransferError,
)
from oci_binpkg.events import BatchStarted, BytesPacked, Observer, PackageFinished, PackageStarted, Warned, ignore
from oci_binpkg.installs.permissions import Permissions
from oci_binpkg.installs.protocol import InstallRecord
from oci_binpkg.installs.transaction import (
    Addition,
    ChangeableTree,
    Place,
    StagedPackage,
    commit,
    foreign_error,
    is_foreign,
    stage,
    sweep,
)
from oci_binpkg.installs.verifications import Verifications
from oci_binpkg.log import Log
from oci_binpkg.model.query import Query
from oci_binpkg.model.spec import Spec
from oci_binpkg.ops.run_check import check_runs
from oci_binpkg.ops.sources import FoundEntry, Resolution, Sources
from oci_binpkg.ops.standing import check_present, older_than_known, verification_of, why_not
from oci_binpkg.ops.unpack import Unpacked, unpack
from oci_binpkg.parallel import READERS
from oci_binpkg.relocate.edits import CountedRemark
from oci_binpkg.runs.machine import Machine
from oci_binpkg.runs.obstacles import Verdict
from oci_binpkg.times import SYSTEM_TIME, Time

_log: Final = Log("install")
MOST_AT_ONCE: Final = 256
SHOWN: Final = 5
BETWEEN_WRITES: Final = 0.5
"""The least seconds between two changes of the database; at least four times as long as the last one took."""


class Installed(StrEnum):
    """How an install of a package ended."""

    INSTALLED = "installed"
    PRESENT = "present"
    MISSING = "missing"
    FAILED = "failed"
    PLANNED = "planned"


@dataclass(frozen=True, slots=True)
class InstallOptions:
    """How to install. `jobs` packages are unpacked at a time.

    `force` replaces the packages that are named, and sets aside what stands at a prefix without a record.

    Where all caches are signed, an installed package without a good signature is not built on, unless with
    `accept_present`; `signers` returns the fingerprints of the keys that count now (None: not asked). `pin_newest`
    refuses an older signed build than the one that is installed. Layers are kept in `layers`, for a push that sends
    them on as they came. `permissions` returns those of a package's files by its name, None for the usual ones. What is
    installed is to run on `machine` (None: this one). `cancel` is cancelled when the install ends early, so that its
    threads end soon.
    """

    force: bool = False
    allow_missing: bool = False
    allow_stale: bool | Sequence[str] = False
    dry_run: bool = False
    jobs: int = 2
    layers: LayerCache | None = None
    accept_present: bool = False
    pin_newest: bool = False
    signers: Callable[[], frozenset[str]] | None = None
    machine: Machine | None = None
    permissions: Callable[[str], Permissions | None] = lambda _: None
    time: Time = SYSTEM_TIME
    cancel: Cancel = field(default_factory=Cancel)


@dataclass(frozen=True, slots=True)
class InstallResult:
    """One package: where it came from, why other caches did not serve it, and what relocation did and could not do.

    `remarks` are about single files, at most a hundred; `counted` has one value for each kind of them.
    """

    spec: Spec
    outcome: Installed
    prefix: str = ""
    cache: str = ""
    passed_over: tuple[str, ...] = ()
    relocated: int = 0
    remarks: tuple[str, ...] = ()
    error: BinpkgError | None = None
    counted: tuple[CountedRemark, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the JSON document."""
        document: dict[str, Any] = {
            "name": self.spec.name,
            "version": self.spec.version,
            "hash": self.spec.hash,
            "outcome": self.outcome.value,
            "prefix": self.prefix,
            "cache": self.cache,
            "passed_over": list(self.passed_over),
            "relocated_files": self.relocated,
            "remarks": [remark.to_json() for remark in self.counted],
        }
        if self.error:
            document |= self.error.to_json()
        return document


@dataclass(frozen=True, slots=True)
class InstallReport:
    """All packages of an install, dependencies first.

    `choices` say which builds were taken of several, and why. `verdict` answers whether what was put in place runs
    here; None if nothing was.
    """

    root: str
    packages: tuple[InstallResult, ...]
    verdict: Verdict | None = None
    choices: tuple[str, ...] = ()

    @property
    def runs(self) -> bool:
        """Whether nothing was found that keeps the new files from running."""
        return self.verdict is None or self.verdict.runs

    def by(self, outcome: Installed) -> tuple[InstallResult, ...]:
        """Return the packages with an outcome."""
        return tuple(result for result in self.packages if result.outcome is outcome)

    @property
    def exit_code(self) -> int:
        """0; 1 if some packages failed; an error's own code if that was the only reason and nothing was installed."""
        failed = self.by(Installed.FAILED)
        own = {result.error.exit_code for result in failed if result.error and result.error.exit_code != 1}
        if failed and not self.by(Installed.INSTALLED) and len(own) == 1:
            return own.pop()
        return 1 if failed else 0

    def to_json(self) -> dict[str, Any]:
        """Return the JSON document."""
        document: dict[str, Any] = {"root": self.root, "packages": [result.to_json() for result in self.packages]}
        if self.verdict is not None:
            document["run_check"] = self.verdict.to_json()
        return document | ({"choices": list(self.choices)} if self.choices else {})


def install(
    installs: ChangeableTree,
    sources: Sources,
    queries: Sequence[Query],
    options: InstallOptions | None = None,
    observer: Observer = ignore,
) -> InstallReport:
    """Install what the queries mean and all it links to or runs.

    Raises `NotFoundError` if a dependency is in no cache (unless `allow_missing`): nothing is installed then.
    """
    report = install_resolved(installs, sources, sources.resolve(queries), options, observer)
    return replace(report, choices=tuple(map(str, sources.choices)))


def install_resolved(
    installs: ChangeableTree,
    sources: Sources,
    resolution: Resolution,
    options: InstallOptions | None = None,
    observer: Observer = ignore,
) -> InstallReport:
    """Install packages that are known already."""
    options = options or InstallOptions()
    job = _Install(installs, sources, resolution, options, observer)
    todo, results = job.plan()
    observer(BatchStarted(len(todo), len(results), installs.root))
    if options.dry_run:
        planned = (InstallResult(spec, Installed.PLANNED, str(installs.place_for(spec))) for spec in todo)
        return InstallReport(installs.root, (*results, *planned))
    _sweep_beside(results, installs)
    results += job.run(todo)
    return InstallReport(installs.root, tuple(results), _look_again(installs, results, options, observer))


def _look_again(
    installs: ChangeableTree, results: Sequence[InstallResult], options: InstallOptions, observer: Observer
) -> Verdict | None:
    """Check whether what was put in place runs, and warn of what does not."""
    prefixes = [result.prefix for result in results if result.outcome is Installed.INSTALLED]
    if not prefixes:
        return None
    verdict = check_runs(installs, prefixes, options.machine, options.cancel.check)
    if stopping := verdict.stopping:
        first, more = stopping[0], f"; and {len(stopping) - 1} more" if stopping[1:] else ""
        observer(Warned(f"not all that was installed runs here: {first.path}: {first.reason}{more}"))
    return verdict


def _sweep_beside(results: Sequence[InstallResult], installs: ChangeableTree) -> None:
    """Remove what installs left that were killed when all was in place: nothing is staged there any more."""
    beside = {os.path.dirname(result.prefix): result for result in results if result.outcome is Installed.PRESENT}
    for result in beside.values():
        record = installs.record(result.spec.hash)
        with suppress(InstallsError):
            if record is not None and (path := installs.path_of(record)) is not None:
                sweep(path)


@dataclass(slots=True)
class _Install:
    installs: ChangeableTree
    sources: Sources
    resolution: Resolution
    options: InstallOptions
    observer: Observer
    stopped: Flag = field(default_factory=Flag)
    swept: set[str] = field(default_factory=set)
    expected: set[str] = field(default_factory=set)  # what is in the tree in the end, unless it fails

    @property
    def demands(self) -> bool:
        """Whether the install takes only signed packages, and so builds only on these."""
        caches = self.sources.caches
        return not self.options.accept_present and bool(caches) and all(cache.verifies for cache in caches)

    def plan(self) -> tuple[list[Spec], list[InstallResult]]:
        """Return what is to be installed, dependencies first, and the results of what is not."""
        roots = {root.hash for root in self.resolution.roots}
        todo: list[Spec] = []
        results: list[InstallResult] = []
        for spec in self.resolution.graph.closure(self.resolution.roots):
            record = self.installs.record(spec.hash)
            there = record is not None and record.installed and record.is_present
            if there and record and not record.spec.agrees_with(spec):
                raise InstallsError(
                    f"{self.installs.root}: another package has the hash of {spec.short}: {record.spec.describe()}",
                    hint=Hint(Step.REMOVE_FIRST, hash=spec.hash[:7]),
                )
            if there and record and not (self.options.force and spec.hash in roots):
                results.append(InstallResult(spec, Installed.PRESENT, record.prefix))
            else:
                todo.append(spec)
        if self.demands:
            present = [self.installs.record(each.spec.hash) for each in results]
            check_present(filter(None, present), self.installs.verifications, self.options.signers)
        lacking = self._lacking(todo)
        for spec, reason in lacking.items():
            self.observer(Warned(f"{spec.short} is in no cache and left out: {reason}"))
            results.append(InstallResult(spec, Installed.MISSING, passed_over=(reason,)))
        todo = [spec for spec in todo if spec not in lacking]
        kept = (result.spec for result in results if result.outcome is Installed.PRESENT)
        self.expected.update(spec.hash for spec in (*todo, *kept))
        self._tell_unverified(todo)
        for spec in todo:
            self.options.permissions(spec.name)  # an unknown group is said before anything is written
        return todo, results

    def _tell_unverified(self, todo: Sequence[Spec]) -> None:
        unverified = self.sources.unverified(todo)
        if unverified:
            names = ", ".join(spec.short for spec in unverified[:SHOWN])
            more = f" and {len(unverified) - SHOWN} more" if unverified[SHOWN:] else ""
            self.observer(
                Warned(f"the hash of {names}{more} cannot be verified: only the cache says that these are its contents")
            )

    def _lacking(self, todo: Sequence[Spec]) -> Mapping[Spec, str]:
        roots = set(self.resolution.roots)
        with ThreadPoolExecutor(READERS) as readers:
            reasons = dict(zip(todo, readers.map(self._why_absent, todo), strict=True))
        absent = {spec: reason for spec, reason in reasons.items() if reason}
        if absent and (not self.options.allow_missing or roots & set(absent)):
            refused = next(
                (self.sources.failures[spec.hash] for spec in absent if spec.hash in self.sources.failures), None
            )
            if refused is not None:
                raise refused.again() from refused
            listed = "; ".join(f"{spec.short} ({reason})" for spec, reason in absent.items())
            raise NotFoundError(
                f"not in any cache: {listed}",
                hint=Hint(Step.ALLOW_MISSING),
            )
        return absent

    def _why_absent(self, spec: Spec) -> str:
        passed: list[str] = []
        found = next(self.sources.candidates(spec, passed, self.resolution.graph), None)
        return "" if found else "; ".join(passed)

    def run(self, todo: Sequence[Spec]) -> list[InstallResult]:
        """Unpack on several threads; commit in order on this one, as many at a time as are ready."""
        results: dict[str, InstallResult] = {}
        pool = ThreadPoolExecutor(max(1, self.options.jobs), "unpack")
        running: dict[str, Future[_UnpackedPackage]] = {}
        try:
            for spec in todo:
                running[spec.hash] = pool.submit(self._stage, spec)
            queue = list(todo)
            pause = 0.0
            while queue:
                wait([running[queue[0].hash]])
                wait([running[spec.hash] for spec in queue[:MOST_AT_ONCE]], timeout=pause)
                ready = list(takewhile(lambda spec: running[spec.hash].done(), queue[:MOST_AT_ONCE]))
                started = self.options.time.clock()
                for result in self._finish(ready, running, results):
                    results[result.spec.hash] = result
                    _discard(running.pop(result.spec.hash))
                    self.observer(PackageFinished(result.spec.hash, result.outcome.value, _detail(result)))
                queue = [spec for spec in queue if spec.hash not in results]
                pause = max(BETWEEN_WRITES, 4 * (self.options.time.clock() - started))
        except BaseException:
            self.options.cancel.cancel()
            raise
        finally:
            self.stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)
            for staged in running.values():
                _discard(staged)
        return list(results.values())

    def _finish(
        self,
        ready: Sequence[Spec],
        running: Mapping[str, Future[_UnpackedPackage]],
        results: Mapping[str, InstallResult],
    ) -> list[InstallResult]:
        """Deal with packages whose unpacking has ended, up to the first that fails."""
        first = ready[0]
        if error := self._obstacle(first, running, results):
            return [InstallResult(first, Installed.FAILED, error=error)]
        sound = list(takewhile(lambda spec: not self._obstacle(spec, running, results), ready))
        staged = [running[spec.hash].result() for spec in sound]
        try:
            outcomes, stopped = commit(
                [self._to_commit(spec, each) for spec, each in zip(sound, staged, strict=True)], self.installs
            )
        except BinpkgError as error:
            return [InstallResult(spec, Installed.FAILED, error=error) for spec in sound]
        done = [
            self._committed(spec, each, was_put=was_put)
            for spec, each, was_put in zip(sound, staged, outcomes, strict=False)
        ]
        if stopped is not None:
            done.append(InstallResult(sound[len(done)], Installed.FAILED, error=stopped))
        return done

    def _obstacle(
        self, spec: Spec, running: Mapping[str, Future[_UnpackedPackage]], results: Mapping[str, InstallResult]
    ) -> BinpkgError | None:
        """Return why a package whose unpacking has ended cannot be put in place."""
        for dependency in spec.dependencies_of(("link", "run")):
            if dependency.hash in results and results[dependency.hash].outcome is Installed.FAILED:
                hint = "mend that one, then install again"
                return BinpkgError(f"{spec.short} needs {dependency.name}, which failed", hint=hint)
        error = running[spec.hash].exception()
        if error is None or isinstance(error, BinpkgError):
            return error
        running[spec.hash].result()  # raises it: nobody expected it
        return None

    def _to_commit(self, spec: Spec, done: _UnpackedPackage) -> StagedPackage:
        named = spec in self.resolution.roots
        now, entry = self.options.time.now(), done.found.entry
        verification = verification_of(entry, done.found.cache, now)
        addition = Addition(spec, entry.document.graph, done.place.final, named, now, verification)
        needs = [each.hash for each in spec.dependencies_of(("link", "run")) if each.hash in self.expected]
        on_aside = partial(self._tell_aside, spec) if self.options.force else None
        staged = StagedPackage(done.place, addition, self.options.force and named, needs, on_aside=on_aside)
        return replace(staged, refuses=self._refuses) if self.demands else staged

    def _tell_aside(self, spec: Spec, path: str) -> None:
        self.observer(Warned(f"what stood at the prefix of {spec.short} without a record is kept as {path}"))

    def _refuses(self, record: InstallRecord, known: Verifications) -> str:
        return why_not(known.of(record), self.options.signers)

    def _committed(self, spec: Spec, done: _UnpackedPackage, *, was_put: bool) -> InstallResult:
        unpacked = done.unpacked
        if was_put and self.options.layers is not None and not self.options.layers.shared and unpacked.layer:
            try:
                keep(
                    self.options.layers,
                    done.found.entry.layer,
                    unpacked.layer,
                    unpacked.extracted,
                    package_hash=spec.hash,
                    prefix=done.place.final,
                )
            except LocalDiskError as error:
                self.observer(Warned(f"the layer of {spec.short} is not kept: {error.message}"))
        return InstallResult(
            spec,
            Installed.INSTALLED if was_put else Installed.PRESENT,
            done.place.final,
            done.found.cache,
            done.passed_over,
            unpacked.relocated,
            unpacked.remarks,
            counted=unpacked.counted,
        )

    def _stage(self, spec: Spec) -> _UnpackedPackage:
        """Fetch, unpack and relocate a package; from the first cache that has a good copy."""
        self.observer(PackageStarted(spec.hash, spec.short))
        final = self.installs.place_for(spec)
        if not self.options.force and is_foreign(final, spec, self.installs.record(spec.hash)):
            raise foreign_error(final, spec)  # before anything is fetched
        passed: list[str] = []
        last: BinpkgError | None = None
        for found in self.sources.candidates(spec, passed, self.resolution.graph):
            self._go_on()
            if told := self._older(found):
                passed.append(told)
                last = SignatureError(told, hint=Hint(Step.ACCEPT_OLDER))
                continue
            place = stage(spec, final, swept=self.swept)
            _log.info("%s comes from %s", spec.short, found.cache)
            try:
                unpacked = unpack(
                    found.entry,
                    place,
                    self.installs,
                    allow_stale=self.options.allow_stale,
                    permissions=self.options.permissions(spec.name),
                    keep_layer=self.options.layers is not None,
                    on_bytes=lambda count: self._count(spec, count),
                )
            except (ContentError, TransferError, NotFoundError) as error:
                passed.append(f"{found.cache}: {error.message}")
                _log.info("%s from %s is not used: %s", spec.short, found.cache, error.message)
                self.observer(Warned(f"{spec.short} from {found.cache} is unusable: {error.message}"))
                last = _damage(error)
                place.discard()
                continue
            except BaseException:
                place.discard()
                raise
            return _UnpackedPackage(place, found, tuple(passed), unpacked)
        if last is not None:
            raise last.again() from last
        raise NotFoundError(f"{spec.short} is in no cache any more: {'; '.join(passed)}")

    def _older(self, found: FoundEntry) -> str:
        """Report a build older than the one that is installed; return the report if it is not to be taken."""
        record = self.installs.record(found.entry.key.hash)
        known = self.installs.verifications.of(record) if record is not None else None
        told = older_than_known(found.entry, known, found.cache)
        if told and not self.options.pin_newest:
            self.observer(Warned(told))
        return told if self.options.pin_newest else ""

    def _count(self, spec: Spec, count: int) -> None:
        self._go_on()
        self.observer(BytesPacked(spec.hash, count))

    def _go_on(self) -> None:
        if self.stopped.is_set():
            raise BinpkgError("interrupted")


@dataclass(frozen=True, slots=True)
class _UnpackedPackage:
    place: Place
    found: FoundEntry
    passed_over: tuple[str, ...]
    unpacked: Unpacked


def _discard(staged: Future[_UnpackedPackage]) -> None:
    if not staged.cancelled() and staged.exception() is None:
        staged.result().place.discard()


def _damage(error: BinpkgError) -> BinpkgError:
    """Return the error with a next step; a package without its layer is damaged, not absent."""
    if isinstance(error, NotFoundError):
        return ContentError(error.message, hint=PUSH_AGAIN, **error.fields)
    return error.within(hint=error.hint or PUSH_AGAIN) if isinstance(error, ContentError) else error


def _detail(result: InstallResult) -> str:
    return result.error.message if result.error else f"from {result.cache}" if result.cache else ""
