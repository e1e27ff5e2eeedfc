"""Copying an image or index from one store to another.

Order as the distribution specification wants it: blobs, configuration, child manifests, the index, the tag last. The
target names nothing that is incomplete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO, Final, cast

from oci_binpkg.errors import BinpkgError, ContentError, Side
from oci_binpkg.events import Observer, ignore
from oci_binpkg.model.content import INDEX_TYPES, Blob, Descriptor, Digest
from oci_binpkg.store.counting import counted
from oci_binpkg.store.images import MAX_DEPTH, blob_of, read_manifest
from oci_binpkg.store.protocol import Store

MAX_CONTENTS: Final = 100_000


@dataclass(slots=True)
class _Plan:
    """What a copy consists of: plain blobs, and manifests so that each stands after those it lists."""

    blobs: list[Descriptor] = field(default_factory=list)
    manifests: list[Blob] = field(default_factory=list)
    seen: set[Digest] = field(default_factory=set)


def copy(
    source: Store,
    target: Store,
    reference: str,
    *,
    tag: str | None = None,
    observer: Observer = ignore,
    key: str = "",
    jobs: int = 4,
) -> Descriptor:
    """Copy what `reference` (a tag or a digest) names, with everything it refers to, and return its descriptor.

    `tag` is the name in the target: None means the same name, "" (or None with a digest) means none. Layers that may
    not be distributed are left where their `urls` point. At most `jobs` blobs travel at once; `observer` gets
    `BytesSent` for `key`, or for a blob's digest without one. Errors begin with the side that failed; `ContentError`
    for an index nested more than three deep.
    """
    with _failing_at("source", source):
        root = source.resolve(reference)
        if not root.is_manifest:
            raise ContentError(f"{reference[:200]!r} is no image and no index, but {root.media_type[:100]!r}")
        plan = _Plan()
        _collect(source, root, plan, ())
    _in_parallel(jobs, (_putter(source, target, descriptor, key, observer) for descriptor in plan.blobs))
    name = tag if tag is not None else "" if reference.startswith(("sha256:", "sha512:")) else reference
    with _failing_at("target", target):
        *children, last = plan.manifests
        for child in children:
            target.put(child)
        if name:
            target.tag(last, name)
        else:
            target.put(last)
    return root


def _collect(source: Store, descriptor: Descriptor, plan: _Plan, above: tuple[Digest, ...]) -> None:
    if descriptor.digest in above or (len(above) >= MAX_DEPTH and descriptor.media_type in INDEX_TYPES):
        raise ContentError(f"{above[0]} is an index nested more than {MAX_DEPTH} deep, or in itself")
    if descriptor.digest in plan.seen:
        return
    plan.seen.add(descriptor.digest)
    if len(plan.seen) > MAX_CONTENTS:
        raise ContentError(f"{(*above, descriptor.digest)[0]} refers to more than {MAX_CONTENTS} things")
    if not descriptor.is_manifest:
        plan.blobs.append(descriptor)
        return
    data, manifest = read_manifest(source, descriptor)
    for reference in manifest.references:
        if not reference.is_foreign:
            _collect(source, reference, plan, (*above, descriptor.digest))
    plan.manifests.append(Blob.from_bytes(data, descriptor.media_type))


def _putter(source: Store, target: Store, descriptor: Descriptor, key: str, observer: Observer) -> Callable[[], None]:
    def put() -> None:
        watched = _Watched(blob_of(source, descriptor))
        blob = Blob(descriptor, watched.open, source.address)
        try:
            target.put(counted(blob, key or str(descriptor.digest), observer))
        except BinpkgError as error:
            if watched.failure is not None and any(each is watched.failure for each in _causes(error)):
                raise _blamed("source", source, error) from error
            raise _blamed("target", target, error) from error

    return put


class _Watched:
    """Opens a blob of the source, and remembers if it was the source that failed."""

    def __init__(self, blob: Blob) -> None:
        self.failure: BinpkgError | None = None
        self._blob = blob

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open the blob."""
        with ExitStack() as stack:
            with self.remembering():
                stream = stack.enter_context(self._blob.open())
            yield cast("BinaryIO", _WatchedStream(stream, self))

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """Note what the source raises."""
        try:
            yield
        except BinpkgError as error:
            self.failure = error
            raise


class _WatchedStream:
    """What readers of blobs need of a stream: `read` and `close`."""

    def __init__(self, stream: BinaryIO, watched: _Watched) -> None:
        self._stream = stream
        self._watched = watched

    def read(self, size: int = -1, /) -> bytes:
        with self._watched.remembering():
            return self._stream.read(size)

    def close(self) -> None:
        self._stream.close()


def _in_parallel(jobs: int, tasks: Iterable[Callable[[], None]]) -> None:
    executor = ThreadPoolExecutor(max_workers=max(1, jobs), thread_name_prefix="copy")
    try:
        futures = [executor.submit(task) for task in tasks]
        wait(futures, return_when=FIRST_EXCEPTION)
    finally:
        executor.shutdown(cancel_futures=True)
    for future in futures:
        if not future.cancelled():
            future.result()


@contextmanager
def _failing_at(side: Side, store: Store) -> Iterator[None]:
    try:
        yield
    except BinpkgError as error:
        raise _blamed(side, store, error) from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__


def _blamed(side: Side, store: Store, error: BinpkgError) -> BinpkgError:
    place = "destination" if side == "target" else side
    return error.within(f"{place} {store.name}", side=side)
