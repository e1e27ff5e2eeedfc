"""A Spack install tree: `ROOT/.spack-db/index.json` and the prefixes it names.

Reading needs no Spack, no write access and no lock; changing takes the locks that Spack takes and leaves what its
running processes look at: the replaced index and a new verifier, by which they notice the change.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from oci_binpkg.errors import InstallsError, LocalDiskError
from oci_binpkg.installs.database import (
    Database,
    empty_document,
    encode_database,
    parse_database,
    with_package,
    without_package,
)
from oci_binpkg.installs.locking import LockFile, Patience, prefix_lock_offset, replace_file
from oci_binpkg.installs.protocol import Record
from oci_binpkg.model.spec import Spec, SpecGraph

DATABASE_FOLDER: Final = ".spack-db"
INDEX: Final = f"{DATABASE_FOLDER}/index.json"
_DEFAULT_TREE: Final = "/opt/spack"  # of a Spack clone, relative to it
_SHAPE: Final = f"a Spack install tree has {INDEX} in it"
_PLACES: Final = ("opt/spack", "opt", "store", "spack/opt/spack", "install", "installs")


@dataclass(frozen=True, slots=True)
class Addition:
    """A package to be recorded: its prefix is in place; `graph` has the nodes it depends on; time in seconds."""

    spec: Spec
    graph: SpecGraph
    prefix: str
    explicit: bool
    installation_time: float


class SpackInstalls:
    """The tree at `root`, read once when it is opened and again after each change.

    `spack_prefix` is where the Spack that built it is; trees do not say, so it is guessed for a tree inside a clone and
    else is the root. `upstreams` are roots of trees that packages here depend on. Raises `InstallsError`.
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
    ) -> None:
        self._root = os.path.abspath(root)
        self._spack_prefix = spack_prefix or self._root.removesuffix(_DEFAULT_TREE) or self._root
        self._new_verifier = new_verifier
        folder = os.path.join(self._root, DATABASE_FOLDER)
        self._lock = LockFile(os.path.join(folder, "lock"), patience)
        self._prefix_lock = LockFile(os.path.join(folder, "prefix_lock"), patience)
        self._upstreams = tuple(SpackInstalls(each, patience=patience) for each in upstreams)
        self._create = create
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
        """`ROOT/bin/sbang`."""
        return os.path.join(self._root, "bin", "sbang")

    @property
    def graph(self) -> SpecGraph:
        """All specs of this tree and of its upstreams."""
        return self._graph

    @property
    def version(self) -> str:
        """The version of the database."""
        return self._database.version

    def records(self) -> tuple[Record, ...]:
        """Return the records of this tree, then those that only upstreams have."""
        return tuple(self._records.values())

    def record(self, package_hash: str) -> Record | None:
        """Return the record of a hash, of this tree or else of an upstream."""
        return self._records.get(package_hash)

    def prefix_for(self, spec: Spec) -> str:
        """Return the recorded prefix, or `ROOT/PLATFORM-TARGET/NAME-VERSION-HASH`, Spack's default since 1.0."""
        known = self.record(spec.hash)
        if known is not None and known.prefix:
            return known.prefix
        version = spec.version.replace("/", "_").replace("=", "_")
        return os.path.join(
            self._root, f"{spec.arch.platform}-{spec.arch.target}", f"{spec.name}-{version}-{spec.hash}"
        )

    @contextmanager
    def locked(self, spec: Spec) -> Iterator[None]:
        """Hold the lock that Spack takes while it installs or removes a prefix."""
        self._make_folder()
        with self._prefix_lock.exclusive(prefix_lock_offset(spec.hash), 1):
            yield

    def add(self, spec: Spec, graph: SpecGraph, *, prefix: str, explicit: bool, installation_time: float) -> None:
        """Record a package whose prefix is in place. Raises `InstallsError`, `LocalDiskError`."""
        self.add_all([Addition(spec, graph, prefix, explicit, installation_time)])

    def add_all(self, additions: Sequence[Addition]) -> None:
        """Record several packages in one change of the database, dependencies first."""
        elsewhere = {r.spec.hash for up in self._upstreams for r in up.records() if r.installed}

        def change(document: Mapping[str, Any]) -> Mapping[str, Any]:
            for each in additions:
                document = with_package(
                    document,
                    each.spec,
                    each.graph,
                    prefix=each.prefix,
                    explicit=each.explicit,
                    installation_time=each.installation_time,
                    prefix_for=self.prefix_for,
                    elsewhere=elsewhere,
                )
            return document

        self._change(change)

    def reload(self) -> None:
        """Read the database again: other processes may have changed it. Raises `InstallsError`."""
        self._take(self._read())

    def remove(self, package_hash: str) -> None:
        """Forget a package. Raises `InstallsError`, `LocalDiskError`."""
        self._change(lambda document: without_package(document, package_hash))

    def _change(self, change: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> None:
        """Change the database as it is now, not as it was read: other processes write it too."""
        self._make_folder()
        path = os.path.join(self._root, INDEX)
        with self._lock.exclusive():
            data = encode_database(change(self._load(path).document))
            changed = parse_database(data, path)
            replace_file(path, data)
            replace_file(os.path.join(self._root, DATABASE_FOLDER, "index_verifier"), self._new_verifier().encode())
        self._take(changed)

    def _read(self) -> Database:
        with self._lock.shared():
            return self._load(os.path.join(self._root, INDEX))

    def _load(self, path: str) -> Database:
        try:
            with open(path, "rb") as file:
                data = file.read()
        except (FileNotFoundError, NotADirectoryError):
            if self._create:
                return parse_database(encode_database(empty_document()), path)
            raise InstallsError(f"{self._root}: not a Spack install tree", hint=tree_hint(self._root)) from None
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
                    self._records[record.spec.hash] = record
        self._graph = SpecGraph(record.spec for record in self._records.values())

    def _make_folder(self) -> None:
        folder = os.path.join(self._root, DATABASE_FOLDER)
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise LocalDiskError(
                f"{folder}: cannot be made: {error.strerror}", hint="check the free space and the permissions there"
            ) from error


def is_spack_tree(path: str) -> bool:
    """Tell whether `path` is the root of an install tree."""
    return os.path.isfile(os.path.join(path, INDEX))


def tree_hint(path: str) -> str:
    """Say what a tree looks like and, if there is one in the usual places around `path`, where."""
    around = [os.path.join(path, place) for place in _PLACES]
    parent = os.path.abspath(path)
    while parent != os.path.dirname(parent):
        parent = os.path.dirname(parent)
        around.append(parent)
    found = next((place for place in around if is_spack_tree(place)), "")
    return f"{_SHAPE}; did you mean {found}?" if found else _SHAPE
