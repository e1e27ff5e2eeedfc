"""A Spack install tree: `ROOT/.spack-db/index.json` and the prefixes it names.

Reading needs no Spack, no write access and takes no lock; changing takes the locks that Spack takes and leaves what its
running processes look at: the replaced index and a new verifier, by which they notice the change.
"""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, Final

from oci_binpkg.disk import (
    NOT_REGULAR_HINT,
    FileTooLargeError,
    NotRegularError,
    PrefixPath,
    Root,
    disk_errors,
    kind_of,
    make_folder,
    read_regular,
    replacing,
)
from oci_binpkg.errors import ContentError, InstallsError, LocalDiskError
from oci_binpkg.file_lock import Patience
from oci_binpkg.installs import verifications
from oci_binpkg.installs.database import (
    Database,
    empty_document,
    encode_database,
    parse_database,
    with_package,
    without_package,
)
from oci_binpkg.installs.locking import LockFile, prefix_lock_offset
from oci_binpkg.installs.protocol import InstallRecord, check_root, without_padding
from oci_binpkg.installs.transaction import Addition
from oci_binpkg.installs.verifications import Verification, Verifications
from oci_binpkg.model.documents import parse_json
from oci_binpkg.model.spec import Spec, SpecGraph
from oci_binpkg.model.spec_document import parse_spec_document

DATABASE_FOLDER: Final = ".spack-db"
INDEX: Final = f"{DATABASE_FOLDER}/index.json"
_SPEC_FILE: Final = ".spack/spec.json"
_MAX_SPEC_BYTES: Final = 16 * 1024 * 1024
_MAX_BYTES: Final = 1024 * 1024 * 1024
_DEFAULT_TREE: Final = "/opt/spack"  # of a Spack clone, relative to it
_SHAPE: Final = f"a Spack install tree has {INDEX} in it"
_PLACES: Final = ("opt/spack", "opt", "store", "spack/opt/spack", "install", "installs")


class SpackInstalls:
    """The tree at `root`, read once when it is opened and again after each change.

    `spack_prefix` is where the Spack that built it is; trees do not say, so it is guessed for a tree inside a clone and
    else is the root. `upstreams` are roots of trees that packages here depend on. With `complete`, what
    no database knows is in the graph as the packages themselves describe it. Raises `InstallsError`.
    """

    def __init__(
        self,
        root: str,
        *,
        spack_prefix: str = "",
        upstreams: Sequence[str] = (),
        patience: Patience | None = None,
        new_verifier: Callable[[], str] = lambda: str(uuid.uuid4()),
        create: bool = False,
        complete: bool = False,
    ) -> None:
        self._below = Root.of(check_root(root))
        self._root = self._below.path
        self._spack_prefix = spack_prefix or self._root.removesuffix(_DEFAULT_TREE) or self._root
        self._new_verifier = new_verifier
        folder = os.path.join(self._root, DATABASE_FOLDER)
        self._lock = LockFile(os.path.join(folder, "lock"), patience)
        self._prefix_lock = LockFile(os.path.join(folder, "prefix_lock"), patience)
        self._upstreams = tuple(SpackInstalls(each, patience=patience) for each in upstreams)
        self._create = create
        self._complete = complete
        self._version: tuple[int, ...] | None = None  # of the index that was written here last
        self._graph: SpecGraph | None = None  # made when it is asked for
        self._take(self._read())

    @property
    def root(self) -> str:
        """The absolute path of the tree."""
        return self._root

    @property
    def spack_prefix(self) -> str:
        """Where the Spack that built the packages is, as given or guessed."""
        return self._spack_prefix

    @property
    def sbang_path(self) -> str:
        """`ROOT/bin/sbang`, below the root without its padding."""
        return os.path.join(without_padding(self._root), "bin", "sbang")

    @property
    def graph(self) -> SpecGraph:
        """All specs of this tree and of its upstreams."""
        if self._graph is None:
            graph = SpecGraph(record.spec for record in self._records.values())
            self._graph = self._completed(graph) if self._complete else graph
        return self._graph

    def _completed(self, graph: SpecGraph) -> SpecGraph:
        """Return a graph with the dependencies that no database knows: prefixes hold whole spec documents.

        So it is for a tree without its upstream, and for build dependencies that were removed.
        """
        lacking = {spec.hash for spec, _ in graph.missing(graph.values())}
        found: dict[str, Spec] = {}
        for record in (self._records[each] for each in lacking):
            path = os.path.join(record.prefix, _SPEC_FILE)
            if record.is_present:
                with suppress(OSError, ContentError):
                    text = parse_json(read_regular(path, _MAX_SPEC_BYTES, follow=False), path, fold_case=False)
                    document = parse_spec_document(text, path)
                    found |= dict(document.graph) if document.root.hash == record.spec.hash else {}
        known = {spec.hash for spec in graph.values()}
        return SpecGraph((*graph.values(), *(each for key, each in found.items() if key not in known)))

    @property
    def version(self) -> str:
        """The version of the database."""
        return self._database.version

    def records(self) -> tuple[InstallRecord, ...]:
        """Return the records of this tree, then those that only upstreams have."""
        return tuple(self._records.values())

    def record(self, package_hash: str) -> InstallRecord | None:
        """Return the record of a hash, of this tree or else of an upstream."""
        return self._records.get(package_hash)

    @property
    def verifications(self) -> Verifications:
        """What was verified of the packages of this tree, as it is written there now."""
        return Verifications(self._root)

    def prefix_for(self, spec: Spec) -> str:
        """Return the recorded prefix, or `ROOT/PLATFORM-TARGET/NAME-VERSION-HASH`, Spack's default since 1.0.

        The record of a package that is not installed only says where an install would put it. Raises
        `ContentError` for a spec whose fields make no path below the root.
        """
        known = self.record(spec.hash)
        return known.prefix if known is not None and known.installed and known.prefix else str(self.place_for(spec))

    def place_for(self, spec: Spec) -> PrefixPath:
        """Return where an install puts `spec`: where this tree has it recorded, if that is below its root.

        What is recorded elsewhere (an upstream, an external, a tree that was moved) is not ours to write: the package
        gets the prefix that a new one would get. Raises `ContentError` as `prefix_for`, `InstallsError` as `path_of`.
        """
        own = self._database.records.get(spec.hash)
        path = self.path_of(own) if own is not None else None
        return path or self._projected(spec)

    def path_of(self, record: InstallRecord) -> PrefixPath | None:
        """Return the prefix of a package of this very tree, None for one that is not below its root.

        Raises `InstallsError` if the prefix of another package is the same, or lies around or inside of it.
        """
        path = self._own_path(record)
        if path is not None and (other := self._database.entangled(record)):
            raise InstallsError(
                f"{self._root}: {record.spec.short} and {other} are recorded in one place: {record.prefix}",
                hint="`spack reindex` rebuilds a damaged database",
            )
        return path

    def holds(self, record: InstallRecord) -> bool:
        """Return whether a package is installed below the root of this very tree."""
        return record.installed and self._own_path(record) is not None

    def check_prefix(self, record: InstallRecord) -> None:
        """Raise `InstallsError` if a package of this tree is recorded elsewhere; `LocalDiskError` behind a link."""
        if record.spec.is_external or record.spec.hash not in self._database.records:
            return
        path = self.path_of(record)
        if path is None:
            raise InstallsError(f"the recorded prefix is not below {self._root}")
        found = path.status()
        if found is not None and not stat.S_ISDIR(found.st_mode):
            raise InstallsError(f"the prefix is {kind_of(found.st_mode)}, not a directory")

    def _own_path(self, record: InstallRecord) -> PrefixPath | None:
        if record.spec.is_external or record.spec.hash not in self._database.records:
            return None
        try:
            return self._below.below(record.prefix)
        except ContentError:
            return None

    def _projected(self, spec: Spec) -> PrefixPath:
        version = spec.version.replace("/", "_").replace("=", "_")
        return PrefixPath(
            self._below, (f"{spec.arch.platform}-{spec.arch.target}", f"{spec.name}-{version}-{spec.hash}")
        )

    @contextmanager
    def locked(self, spec: Spec) -> Iterator[None]:
        """Hold the lock that Spack takes while it installs or removes a prefix."""
        self._make_folder()
        with self._prefix_lock.exclusive(prefix_lock_offset(spec.hash), 1):
            yield

    @contextmanager
    def changing(self) -> Iterator[DatabaseChange]:
        """Hold the lock of the database, for decisions about what it says; what was changed is written at the end.

        It is read anew: other processes write it, too. An exception leaves it as it is. Raises `InstallsError`,
        `LocalDiskError`.
        """
        self._make_folder()
        path = os.path.join(self._root, INDEX)
        with self._lock.exclusive():
            if _version_of(path) != self._version:
                self._take(self._load(path))
            change = DatabaseChange(self, self._database.document, self._elsewhere())
            yield change
            if change.document is self._database.document:
                return
            data = encode_database(change.document)
            changed = parse_database(data, path)
            # a line too many belongs to no install; a line too few would make a package its owner's own
            verifications.change(self._root, change.verified)
            self._write(path, data)
            verifications.change(self._root, (), change.forgotten)
            self._take(changed)
            self._version = _version_of(path)

    def _write(self, path: str, data: bytes) -> None:
        """Replace the index, then the verifier by which running Spack processes notice; neither if one is refused."""
        verifier = os.path.join(self._root, DATABASE_FOLDER, "index_verifier")
        with (
            replacing(verifier, failing=lambda: disk_errors(verifier, "written")) as write_verifier,
            replacing(path, failing=lambda: disk_errors(path, "written")) as write_index,
        ):
            write_verifier(self._new_verifier().encode())
            write_index(data)

    def _elsewhere(self) -> frozenset[str]:
        return frozenset(r.spec.hash for up in self._upstreams for r in up.records() if r.installed)

    def _read(self) -> Database:
        return self._load(os.path.join(self._root, INDEX))

    def _load(self, path: str) -> Database:
        try:
            data = read_regular(path, _MAX_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            if self._create:
                return parse_database(encode_database(empty_document()), path)
            raise InstallsError(f"{self._root}: not a Spack install tree", hint=tree_hint(self._root)) from None
        except (NotRegularError, FileTooLargeError) as error:
            raise InstallsError(f"{path}: cannot be read: {error.strerror}", hint=NOT_REGULAR_HINT) from error
        except OSError as error:
            raise InstallsError(f"{path}: cannot be read: {error.strerror}") from error
        return parse_database(data, path)

    def _take(self, database: Database) -> None:
        self._database = database
        self._records = dict(database.records)
        for upstream in self._upstreams:
            for record in upstream.records():
                known = self._records.get(record.spec.hash)
                if known is None or (record.installed and not known.installed):
                    self._records[record.spec.hash] = replace(record, upstream=record.upstream or upstream.root)
        self._graph = None

    def _make_folder(self) -> None:
        folder = os.path.join(self._below.real, DATABASE_FOLDER)
        with disk_errors(folder, "made"):
            make_folder(folder)
        if os.path.islink(folder):
            raise LocalDiskError(
                f"{folder} is a symbolic link: inside of a tree no link is followed",
                hint="put the directory itself there (a mount may stand in for the link)",
            )


class DatabaseChange:
    """A database that is being changed, while its lock is held: what it says now, and what it shall say."""

    def __init__(self, installs: SpackInstalls, document: Mapping[str, Any], elsewhere: frozenset[str]) -> None:
        self._installs = installs
        self._elsewhere = elsewhere
        self.document = document
        self.verified: list[Verification] = []
        self.forgotten: set[str] = set()

    def is_installed(self, package_hash: str) -> bool:
        """Return whether a package is installed, here or in an upstream, with what was added so far."""
        record = (self.document["database"].get("installs") or {}).get(package_hash)
        return (record is not None and record.get("installed") is True) or package_hash in self._elsewhere

    def with_added(self, addition: Addition) -> Mapping[str, Any]:
        """Return the document with a package. Raises `ContentError` for nodes that cannot be recorded."""
        return with_package(
            self.document,
            addition.spec,
            addition.graph,
            prefix=addition.prefix,
            explicit=addition.explicit,
            installation_time=addition.installation_time,
            prefix_for=self._installs.prefix_for,
            elsewhere=self._elsewhere,
        )

    def announce(self, verification: Verification) -> None:
        """Write down what was verified of a package before it takes the place of another.

        If the write is interrupted, the old package does not count as verified.
        """
        verifications.change(self._installs.root, [verification])

    def enter(self, addition: Addition, document: Mapping[str, Any]) -> None:
        """Take over the document that `with_added` gave for an addition."""
        self.document = document
        if addition.verification is not None:
            self.verified.append(addition.verification)
        else:
            self.forgotten.add(addition.spec.hash)

    def remove(self, package_hash: str) -> None:
        """Forget a package."""
        self.document = without_package(self.document, package_hash)
        self.forgotten.add(package_hash)


def _version_of(path: str) -> tuple[int, ...]:
    """Return what identifies a state of a file: every change of the index puts a new file in its place."""
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def is_spack_tree(path: str) -> bool:
    """Return whether `path` is the root of an install tree."""
    return os.path.lexists(os.path.join(path, INDEX))


def tree_hint(path: str) -> str:
    """Say what a tree looks like and, if there is one in the usual places around `path`, where."""
    around = [os.path.join(path, place) for place in _PLACES]
    parent = os.path.abspath(path)
    while parent != os.path.dirname(parent):
        parent = os.path.dirname(parent)
        around.append(parent)
    found = next((place for place in around if is_spack_tree(place)), "")
    return f"{_SHAPE}; did you mean {found}?" if found else _SHAPE
