"""The order of the steps of a push: pack, send, publish, on two pools."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any, Final

from oci_binpkg.errors import BinpkgError, scarce_resource
from oci_binpkg.installs.protocol import InstallRecord
from oci_binpkg.model.content import Digest
from oci_binpkg.model.reference import PackageKey
from oci_binpkg.ops.push_report import PackageResult, PushOutcome
from oci_binpkg.ops.stack import PackedPackage, Stack
from oci_binpkg.transport.addresses import redact_text

SENDERS: Final = 4
_Step = tuple[Callable[[], Any], str, str]


@dataclass(slots=True)
class _Progress:
    """What is known of one package on its way."""

    record: InstallRecord
    waiting: set[str]
    packed: PackedPackage | None = None
    sent: bool = False
    settled: bool = False


class PushSchedule:
    """Runs the steps of each package on two pools: packing keeps the cores busy while sending waits for the network."""

    def __init__(
        self, stack: Stack, todo: Sequence[InstallRecord], *, publish: bool, needed: Sequence[InstallRecord] = ()
    ) -> None:
        self._stack = stack
        self._publish = publish
        self._progress: dict[str, _Progress] = {}
        self._results: dict[str, PackageResult] = {}
        names = {record.spec.hash for record in todo}
        lookups: dict[str, InstallRecord] = {}
        for record in todo:
            closure = stack.closure([record.spec]) if publish else []
            found = {r.spec.hash: r for r in closure if r.spec.hash not in names and stack.is_present(r.spec.hash)}
            lookups |= found
            waiting = {r.spec.hash for r in closure if r.spec.hash in names} | set(found) | {record.spec.hash}
            self._progress[record.spec.hash] = _Progress(record, waiting)
        lookups |= {r.spec.hash: r for r in needed if r.spec.hash not in names}
        self._lookups = lookups
        self._dependents: dict[str, list[str]] = {}
        for package_hash, progress in self._progress.items():
            for dependency in progress.waiting:
                self._dependents.setdefault(dependency, []).append(package_hash)

    def run(self, jobs: int) -> list[PackageResult]:
        """Run everything; return a result for each package, in order. An interrupt cancels what has not begun."""
        packers = ThreadPoolExecutor(max(1, jobs), "pack")
        senders = ThreadPoolExecutor(max(SENDERS, jobs), "send")
        # a queue, because looking through thousands of futures each time costs more than the steps themselves
        done: SimpleQueue[tuple[str, str, Future[Any]]] = SimpleQueue()
        running = 0

        def begin(pool: ThreadPoolExecutor, step: str, package_hash: str, call: Callable[[], Any]) -> None:
            pool.submit(call).add_done_callback(lambda future: done.put((step, package_hash, future)))

        try:
            for package_hash, record in self._lookups.items():
                begin(senders, "find", package_hash, partial(self._stack.find_or_miss, record))
                running += 1
            for package_hash, progress in self._progress.items():
                begin(packers, "pack", package_hash, partial(self._stack.pack, progress.record))
                running += 1
            while running:
                step, package_hash, future = done.get()
                running -= 1
                for call, following, subject in self._after(step, package_hash, future):
                    begin(senders, following, subject, call)
                    running += 1
        except BaseException:
            # what is under way sees that at its next chunk; without waiting for it, locks would be held on
            self._stack.cancel.cancel()
            self._stack.abandon()
            raise
        finally:
            packers.shutdown(cancel_futures=True)
            senders.shutdown(cancel_futures=True)
        return [self._results[package_hash] for package_hash in self._progress]

    def _after(self, step: str, package_hash: str, future: Future[Any]) -> list[_Step]:
        try:
            outcome = future.result()
        except Exception as error:  # noqa: BLE001 - the per-package boundary: one failure must not stop the others
            return self._fail(step, package_hash, error if isinstance(error, BinpkgError) else _unexpected(error))
        progress = self._progress.get(package_hash)
        if step == "pack" and progress is not None:
            progress.packed = outcome
            return [(lambda: self._stack.send(progress.record, outcome), "send", package_hash)]
        if step == "send" and progress is not None:
            progress.sent = outcome
        elif step == "publish" and progress is not None:
            digest, missing = outcome
            self._finish(progress, PushOutcome.PUSHED, digest=digest, missing=missing)
            return []
        return self._settle(package_hash)

    def _settle(self, package_hash: str) -> list[_Step]:
        """Publish what waited for nothing but this layer, which is in the cache now, or known to be missing."""
        ready = []
        for name in self._dependents.get(package_hash, ()):
            progress = self._progress[name]
            progress.waiting.discard(package_hash)
            if progress.waiting or progress.settled:
                continue
            progress.settled = True
            if self._publish:
                ready.append((_publishing(self._stack, progress.record), "publish", name))
            else:
                self._finish(progress, PushOutcome.PUSHED)
        return ready

    def _fail(self, step: str, package_hash: str, error: BinpkgError) -> list[_Step]:
        """Fail the package, and unless only its own image was refused, all that wait for its layer."""
        failed = [package_hash] if step == "publish" else self._dependents.get(package_hash, ())
        for name in failed:
            if name in self._results:
                continue
            progress = self._progress[name]
            progress.settled = True
            cause = error
            if name != package_hash and package_hash in self._progress:
                culprit = self._progress[package_hash].record.spec.short
                cause = BinpkgError(
                    f"{progress.record.spec.short} needs {culprit}, which failed", hint="mend that one and push again"
                )
            self._finish(progress, PushOutcome.FAILED, error=cause)
        return []

    def _finish(
        self,
        progress: _Progress,
        outcome: PushOutcome,
        *,
        digest: Digest | None = None,
        missing: tuple[str, ...] = (),
        error: BinpkgError | None = None,
    ) -> None:
        packed = progress.packed
        descriptor = packed.layer.blob.descriptor if packed else None
        result = PackageResult(
            progress.record.spec,
            outcome,
            PackageKey.of(progress.record.spec).tag if self._publish else "",
            digest,
            descriptor.digest if descriptor else None,
            descriptor.size if descriptor else 0,
            progress.sent,
            bool(packed and packed.reused),
            missing,
            error,
        )
        self._results[progress.record.spec.hash] = result
        self._stack.observe(result)


def _publishing(stack: Stack, record: InstallRecord) -> Callable[[], tuple[Digest, tuple[str, ...]]]:
    return lambda: stack.publish(record)


def _unexpected(error: Exception) -> BinpkgError:
    return scarce_resource(error) or BinpkgError(
        f"unexpected {type(error).__name__}: {redact_text(str(error))}",
        hint="this is a bug in oci-binpkg: please report it",
    )
