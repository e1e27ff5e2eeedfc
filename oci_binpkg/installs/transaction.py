"""A package on its way into an install tree: unpacked beside its final prefix, made right there, then renamed.

Nothing is visible under the final name before it is whole. A package is synced before it is renamed, and its folder
before the record is written: after a power cut, what is recorded is there with all its bytes.

A killed process leaves a hidden directory with a free lock; the next install removes it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Protocol

from oci_binpkg.disk import PrefixPath, disk_errors, exchange, read_regular, remove_tree, sync_tree
from oci_binpkg.errors import BinpkgError, Hint, InstallsError, LocalDiskError, SignatureError, Step
from oci_binpkg.file_lock import lock_folder
from oci_binpkg.installs.locking import prefix_lock_offset
from oci_binpkg.installs.protocol import InstallRecord, InstallTree
from oci_binpkg.installs.verifications import Verification, Verifications
from oci_binpkg.model.spec import Spec, SpecGraph

_STAGING: Final = ".oci-binpkg-"
_STAGED: Final = "prefix"
_PRIVATE: Final = 0o700
_OWN_FILES: Final = (".spack/binary_distribution", ".spack/spec.json")
_MOST_OF_A_FILE: Final = 16 * 1024 * 1024
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Addition:
    """A package to be recorded: its prefix is in place; `graph` has the nodes it depends on; time in seconds.

    `verification` says what was verified of it, None if it is the owner's own.
    """

    spec: Spec
    graph: SpecGraph
    prefix: str
    explicit: bool
    installation_time: float
    verification: Verification | None = None


class TreeChange(Protocol):
    """The record of a tree while its lock is held: its present and its future contents."""

    verified: list[Verification]
    """What is to be remembered of the packages that were entered."""

    def is_installed(self, package_hash: str) -> bool:
        """Return whether a package is installed, here or in an upstream, with what was added so far."""
        ...

    def with_added(self, addition: Addition) -> Mapping[str, Any]:
        """Return the record with a package. Raises `ContentError` for nodes that cannot be recorded."""
        ...

    def announce(self, verification: Verification) -> None:
        """Write down what was verified of a package before it takes the place of another."""
        ...

    def enter(self, addition: Addition, document: Mapping[str, Any]) -> None:
        """Take over the record that `with_added` returned for an addition."""
        ...

    def remove(self, package_hash: str) -> None:
        """Forget a package; a record that others depend on stays, as not installed."""
        ...


class ChangeableTree(InstallTree, Protocol):
    """A tree that packages are installed into and removed from, while other processes do the same."""

    @property
    def verifications(self) -> Verifications:
        """What was verified of the packages that came from caches."""
        ...

    def place_for(self, spec: Spec) -> PrefixPath:
        """Return where an install puts `spec`."""
        ...

    def path_of(self, record: InstallRecord) -> PrefixPath | None:
        """Return the prefix of a package of this very tree; None if it is recorded elsewhere."""
        ...

    def holds(self, record: InstallRecord) -> bool:
        """Return whether a package is installed below the root of this very tree."""
        ...

    def locked(self, spec: Spec) -> AbstractContextManager[None]:
        """Keep other processes from installing or removing `spec`. Raises `InstallsError` after a time of waiting."""
        ...

    def changing(self) -> AbstractContextManager[TreeChange]:
        """Hold the lock of the record, which is read anew; what was changed is written at the end.

        An exception leaves it as it is. Raises `InstallsError`, `LocalDiskError`.
        """
        ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where one package goes: its final prefix, and a directory beside it that is ours alone.

    `lock` is the descriptor of that directory; while it is open, the directory does not count as left over.
    """

    spec: Spec
    path: PrefixPath
    holder_name: str
    lock: int

    @property
    def final(self) -> str:
        """The final prefix."""
        return str(self.path)

    @property
    def holder(self) -> str:
        """The directory beside it."""
        return os.path.join(os.path.dirname(self.final), self.holder_name)

    @property
    def staged(self) -> str:
        """Where the package is made; it becomes the prefix."""
        return os.path.join(self.holder, _STAGED)

    def sync(self) -> None:
        """Let all that was staged outlive a power cut, so that no record names a prefix that is not whole.

        It is done before any lock of the tree is held. Raises `LocalDiskError`.
        """
        with disk_errors(self.final, "written"):
            sync_tree(_STAGED, self.lock)

    def discard(self) -> None:
        """Remove what is left: all that was staged, or the prefix that was replaced. Once."""
        with suppress(LocalDiskError), self.path.parent() as parent:
            remove_tree(self.holder_name, parent)
        os.close(self.lock)


def stage(spec: Spec, path: PrefixPath, *, swept: set[str] | None = None) -> Place:
    """Return a new place for a package whose prefix is to be `path`; to be discarded. Raises `LocalDiskError`.

    What killed processes left beside it is removed, unless its parent is in `swept`, to which it is added.
    """
    folder = os.path.dirname(str(path))
    with path.parent(create=True) as parent:
        if swept is None or folder not in swept:
            _sweep(parent)
        if swept is not None:
            swept.add(folder)
        while True:
            with disk_errors(folder, "written"):
                name = f"{_STAGING}{spec.hash[:7]}-{os.urandom(8).hex()}"
                os.mkdir(name, _PRIVATE, dir_fd=parent)
                lock = _locked_directory(name, parent)
            if lock is not None:
                return Place(spec, path, name, lock)
            # another install took it for a leaving before it was locked


def _locked_directory(name: str, parent: int) -> int | None:
    """Open a directory and lock it; None if it is gone meanwhile."""
    try:
        descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
    except FileNotFoundError:
        return None
    lock_folder(descriptor)
    with suppress(FileNotFoundError):
        if os.path.samestat(os.stat(name, dir_fd=parent, follow_symlinks=False), os.fstat(descriptor)):
            return descriptor
    os.close(descriptor)
    return None


@dataclass(frozen=True, slots=True)
class StagedPackage:
    """A package that is ready to be put in place: what to record of it, and whether it may replace another.

    It is not put in place unless the packages with the hashes `needs` are installed at that moment. `refuses` returns
    why nothing may build on an installed package, "" if it may; such a package is replaced, or stops its dependents.
    What stands at the prefix without a record stops the package; with `on_aside` it gets another name instead, and
    `on_aside` is called with its new path.
    """

    place: Place
    addition: Addition
    replace: bool
    needs: Collection[str] = ()
    refuses: Callable[[InstallRecord, Verifications], str] = lambda _record, _known: ""
    on_aside: Callable[[str], None] | None = None


def commit(staged: Sequence[StagedPackage], installs: ChangeableTree) -> tuple[list[bool], BinpkgError | None]:
    """Put packages in place, dependencies first, and record them in one change of the database.

    Returns, for as many as were dealt with, whether each was put there (False: another process did so in the meantime),
    and what stopped the one after them. Whatever is decided is decided under the locks of the prefixes and of the
    database, by what the database says then. The record is written after the prefixes are there. What an interrupted
    install left at a prefix is replaced, and with `replace` what stood there with a record; it goes when the place is
    discarded. Anything else that stands there is never removed.
    Raises `InstallsError` and `LocalDiskError` when the record cannot be written.
    """
    outcomes: list[bool] = []
    stopped: BinpkgError | None = None
    with ExitStack() as locks:
        # one order for all installs: otherwise two could wait for each other for ever
        for each in sorted(staged, key=lambda one: prefix_lock_offset(one.place.spec.hash)):
            locks.enter_context(installs.locked(each.place.spec))
        change = locks.enter_context(installs.changing())
        verified = cache(lambda: installs.verifications)
        for each in staged:
            try:
                outcomes.append(_put(each, installs, change, verified))
            except BinpkgError as error:
                stopped = error
                break
    return outcomes, stopped


@contextmanager
def hidden(path: PrefixPath) -> Iterator[None]:
    """Hide a prefix while the block runs, and remove it at the end; if the block fails, it comes back.

    Raises `LocalDiskError`.
    """
    name = f"{_STAGING}gone-{os.urandom(8).hex()}"
    with ExitStack() as held:
        parent = _parent_of(path, held)
        if parent is not None:
            with disk_errors(str(path), "removed"), suppress(FileNotFoundError):
                # it does not count as left over as long as it may have to come back
                with suppress(NotADirectoryError):
                    held.callback(os.close, descriptor := os.open(path.name, _DIRECTORY, dir_fd=parent))
                    lock_folder(descriptor, shared=True)
                os.rename(path.name, name, src_dir_fd=parent, dst_dir_fd=parent)
        try:
            if parent is not None:
                with disk_errors(str(path), "removed"):
                    os.fsync(parent)
            yield
        except BaseException:
            if parent is not None:
                with suppress(OSError):
                    os.rename(name, path.name, src_dir_fd=parent, dst_dir_fd=parent)
                    os.fsync(parent)
            raise
        if parent is not None:
            remove_tree(name, parent)


def _parent_of(path: PrefixPath, held: ExitStack) -> int | None:
    """Return the descriptor of the directory that holds a path, None if it is gone."""
    try:
        return held.enter_context(path.parent())
    except LocalDiskError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise


def _put(
    staged: StagedPackage, installs: ChangeableTree, change: TreeChange, verified: Callable[[], Verifications]
) -> bool:
    place = staged.place
    record = installs.record(place.spec.hash)
    is_there = record is not None and record.installed and record.is_present
    if record is not None and is_there and not staged.replace and not staged.refuses(record, verified()):
        return False
    _check_needs(staged, installs, change, verified)
    foreign = is_foreign(place.path, place.spec, record)
    if foreign and staged.on_aside is None:
        raise foreign_error(place.path, place.spec)
    document = change.with_added(staged.addition)
    if record is not None and staged.addition.verification is not None:
        change.announce(staged.addition.verification)
    with place.path.parent(create=True) as parent, disk_errors(place.final, "written"):
        aside = _set_aside(place, parent, staged.addition.installation_time) if foreign else ""
        _swap(place, parent)
        os.fsync(parent)  # before the record is written
    change.enter(staged.addition, document)
    if aside and staged.on_aside is not None:
        staged.on_aside(os.path.join(os.path.dirname(place.final), aside))
    return True


def _check_needs(
    staged: StagedPackage, installs: ChangeableTree, change: TreeChange, verified: Callable[[], Verifications]
) -> None:
    fresh = {each.hash for each in change.verified}
    for package_hash in staged.needs:
        record = installs.record(package_hash)
        if record is not None and package_hash not in fresh and (reason := staged.refuses(record, verified())):
            raise SignatureError(
                f"{staged.place.spec.short} needs {record.spec.short}, which was installed meanwhile: {reason}",
                hint="run the command again",
            )
        if not change.is_installed(package_hash):
            known = staged.addition.graph.get(package_hash)
            name = known.short if known is not None else package_hash[:7]
            raise InstallsError(
                f"{staged.place.spec.short} needs {name}, which was uninstalled from {installs.root} meanwhile",
                hint="install it again: what it needs comes along",
            )


def is_foreign(path: PrefixPath, spec: Spec, record: InstallRecord | None) -> bool:
    """Return whether something other than a package stands at a prefix, by its record and by its own files.

    `record` is that of `spec`. A package without a record is what an install left that was interrupted.
    """
    final = str(path)
    if record is not None and record.prefix == final and (record.installed or record.deprecated_for):
        return False
    return os.path.lexists(final) and not any(_names(os.path.join(final, each), spec.hash) for each in _OWN_FILES)


def foreign_error(path: PrefixPath, spec: Spec) -> InstallsError:
    """Return the error for a package whose prefix is taken by something without a record."""
    return InstallsError(
        f"{spec.short} is not installed: something else stands at {path}, and the tree has no record of it",
        hint=Hint(Step.SET_ASIDE),
    )


def _names(path: str, package_hash: str) -> bool:
    try:
        return package_hash.encode() in read_regular(path, _MOST_OF_A_FILE, follow=False)
    except OSError:
        return False


def _set_aside(place: Place, parent: int, moment: float) -> str:
    """Give what stands at the prefix another name beside it; return that name."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(moment))
    taken = set(os.listdir(parent))
    name = f"{place.path.name}.replaced-{stamp}"
    aside = next(each for each in (name, *(f"{name}-{n}" for n in range(2, len(taken) + 3))) if each not in taken)
    os.rename(place.path.name, aside, src_dir_fd=parent, dst_dir_fd=parent)
    return aside


def _swap(place: Place, parent: int) -> None:
    """Move what was staged to the prefix; anything that was there goes into the holder."""
    name = place.path.name
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        os.rename(_STAGED, name, src_dir_fd=place.lock, dst_dir_fd=parent)
        return
    if not exchange(_STAGED, place.lock, name, parent):
        os.rename(name, "old", src_dir_fd=parent, dst_dir_fd=place.lock)
        os.rename(_STAGED, name, src_dir_fd=place.lock, dst_dir_fd=parent)


def sweep(beside: PrefixPath) -> None:
    """Remove what killed processes left beside a prefix: our directories whose lock is free."""
    with suppress(LocalDiskError), beside.parent() as parent:
        _sweep(parent)


def _sweep(parent: int) -> None:
    with suppress(OSError):
        for name in os.listdir(parent):
            if name.startswith(_STAGING):
                _remove_leaving(name, parent)


def _remove_leaving(name: str, parent: int) -> None:
    with suppress(OSError):
        descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
        try:
            lock_folder(descriptor, wait=False)
            remove_tree(name, parent)
        finally:
            os.close(descriptor)
