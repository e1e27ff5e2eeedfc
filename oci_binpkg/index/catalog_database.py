"""The catalog's file: a SQLite database that is made anew when it is damaged or of another version.

Readers do not wait for the one who writes (write-ahead log); who writes waits for other writers.

Its rows are the records of an index with what a query may ask of them. Hundreds of thousands of nodes are read, of
which many are alike: what describes a package beside its name, version and dependencies is parsed once for all nodes in
which it stands with the same bytes. A node of an unusual shape is left to the strict reader, which reads every shape or
says what is wrong.
"""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from oci_binpkg.disk import NotRegularError, disk_refusal, foreign_writers, open_regular, private_folder
from oci_binpkg.errors import ContentError, LocalDiskError
from oci_binpkg.file_lock import LockTimeoutError, Patience, locked
from oci_binpkg.index.document import IndexDocument
from oci_binpkg.index.records import Notice, Records, refuse
from oci_binpkg.model.arch import Arch
from oci_binpkg.model.content import Digest
from oci_binpkg.model.documents import parse_json
from oci_binpkg.model.identifiers import is_hash, is_name, is_version
from oci_binpkg.model.spec import Spec
from oci_binpkg.model.spec_document import parse_node

SCHEMA_VERSION: Final = 3
BUSY_SECONDS: Final = 120.0
_APPLICATION: Final = 0x62706B67  # "bpkg", in the file's header
_REFUSED: Final = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM})
_LOCK_MODE: Final = 0o600
_MAKE_IT_YOURS: Final = "make it yours alone (chown, chmod go-w), or set XDG_CACHE_HOME to another folder"
_OTHER_PLACE: Final = "check space and permissions there, or set XDG_CACHE_HOME to another folder"
_NOT_OURS_TO_WRITE: Final = frozenset({errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENOENT})
_ROOM: Final = 1024 * 1024
_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_PAGE_BYTES: Final = 16384
_MEMORY_KIB: Final = 32768
_SCHEMA: Final = f"""
BEGIN IMMEDIATE;
CREATE TABLE caches (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, url TEXT NOT NULL, digest TEXT, has_index INTEGER NOT NULL,
    checked REAL NOT NULL, confirmed REAL, error TEXT NOT NULL
);
CREATE TABLE replaced (cache INTEGER NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (cache, digest)) WITHOUT ROWID;
CREATE TABLE kinds (
    id INTEGER PRIMARY KEY, namespace TEXT NOT NULL, arch TEXT NOT NULL, family TEXT NOT NULL, compiler TEXT NOT NULL,
    UNIQUE (namespace, arch, compiler)
);
CREATE TABLE parameters (id INTEGER PRIMARY KEY, document TEXT NOT NULL UNIQUE);
CREATE TABLE packages (
    id INTEGER PRIMARY KEY, hash TEXT NOT NULL UNIQUE, name TEXT NOT NULL, version TEXT NOT NULL,
    kind INTEGER NOT NULL, parameters INTEGER NOT NULL
);
CREATE INDEX packages_by_name ON packages (name);
CREATE INDEX packages_by_version ON packages (version);
CREATE TABLE virtuals (id INTEGER PRIMARY KEY, names TEXT NOT NULL UNIQUE);
CREATE TABLE targets (
    id INTEGER PRIMARY KEY, hash TEXT NOT NULL, name TEXT NOT NULL, virtuals INTEGER NOT NULL,
    UNIQUE (hash, name, virtuals)
);
CREATE INDEX targets_by_name ON targets (name);
CREATE INDEX targets_by_virtuals ON targets (virtuals);
CREATE TABLE edges (target INTEGER NOT NULL, parent INTEGER NOT NULL, PRIMARY KEY (target, parent)) WITHOUT ROWID;
CREATE INDEX edges_by_parent ON edges (parent);
CREATE TABLE holdings (
    cache INTEGER NOT NULL, package INTEGER NOT NULL, in_cache INTEGER NOT NULL, PRIMARY KEY (package, cache)
) WITHOUT ROWID;
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""


class DamagedCatalogError(LocalDiskError):
    """The catalog's file is not what was written. Nothing in it is lost for good: the caches have it all."""


class ForeignCatalogError(LocalDiskError):
    """Others may have written what is in the catalog: nothing of it counts, and nothing is kept there."""


class UnwritableCatalogError(LocalDiskError):
    """The catalog's folder cannot be written: a catalog in memory serves as well, only slower."""


def open_database(path: str, patience: Patience | None = None) -> sqlite3.Connection:
    """Open the database, made anew if it is damaged or of another version; "" is a new one without a name.

    For one thread.

    Raises `LocalDiskError`; `UnwritableCatalogError` where nothing can be kept.
    """
    if not path:
        return _opened(path)
    with in_catalog(path):
        private_folder(os.path.dirname(path))
        _check_ours(path)
        with locked(f"{path}.lock", patience, mode=_LOCK_MODE):
            try:
                return _opened(path)
            except DamagedCatalogError:
                _remove(path)
                return _opened(path)


def memory_database(path: str) -> sqlite3.Connection:
    """Return a database that is not kept, with what the one at `path` holds, as far as that can be read."""
    database = _connect("")
    with (
        suppress(sqlite3.Error),
        closing(sqlite3.connect(f"{Path(path).absolute().as_uri()}?immutable=1", uri=True)) as kept,
    ):
        kept.backup(database)
    try:
        with in_catalog(""):
            _lay_out(database, "")
    except DamagedCatalogError:
        database.close()
        return _opened("")
    return database


def replace_database(path: str, patience: Patience | None = None) -> None:
    """Remove a database that turned out to be damaged, unless another process has done so already."""
    with in_catalog(path), locked(f"{path}.lock", patience, mode=_LOCK_MODE):
        if not _is_whole(path):
            _remove(path)


def _check_ours(path: str) -> None:
    """Raise `ForeignCatalogError` where others may have written, `NotRegularError` for anything but a file."""
    folder = os.path.dirname(path)
    if reason := foreign_writers(folder, os.getuid()):
        raise ForeignCatalogError(f"the catalog in {folder} is not used: it {reason}", hint=_MAKE_IT_YOURS)
    for each in (path, f"{path}-wal", f"{path}-shm"):
        with suppress(FileNotFoundError):
            descriptor = open_regular(each, follow=False)
            owner = os.fstat(descriptor).st_uid
            os.close(descriptor)
            if owner not in (os.getuid(), 0):
                raise ForeignCatalogError(f"{each} is not used: it belongs to the user {owner}", hint=_MAKE_IT_YOURS)


@contextmanager
def in_catalog(path: str) -> Iterator[None]:
    """Say errors of the database in our words: damage, or what is wrong with the disk."""
    try:
        yield
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF in _DAMAGE:
            raise DamagedCatalogError(f"{path} is damaged: {error}", hint="it is made anew from the caches") from error
        raise _disk_error(error, path) from error
    except NotRegularError as error:
        raise disk_refusal(
            f"{error.filename}", error, hint="remove it: the catalog is made anew from the caches"
        ) from error
    except OSError as error:
        kind = UnwritableCatalogError if error.errno in _NOT_OURS_TO_WRITE else LocalDiskError
        raise kind(f"{path}: {error.strerror}", hint=_OTHER_PLACE) from error


def _disk_error(error: sqlite3.Error, path: str) -> LocalDiskError:
    """Say what the disk refused. Shared memory that finds no room is an I/O error to SQLite."""
    path = path or os.path.join(tempfile.gettempdir(), "a catalog without a name")
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and not _has_room(path)):
        reason = os.strerror(errno.ENOSPC)
        return LocalDiskError(f"{path}: {reason}", hint=_OTHER_PLACE)
    if code in _REFUSED:
        kind = LocalDiskError if os.path.isdir(path) else UnwritableCatalogError
        return kind(f"{path}: {error}", hint=_OTHER_PLACE)
    return LocalDiskError(f"{path}: {error}", hint="the catalog may be deleted: it is made anew")


def _has_room(path: str) -> bool:
    found = os.statvfs(os.path.dirname(path))
    return found.f_bavail * found.f_frsize >= _ROOM


@contextmanager
def writing(database: sqlite3.Connection, path: str, patience: Patience | None = None) -> Iterator[None]:
    """Hold the only right to write; what was written becomes visible as a whole, or not at all."""
    patience = patience or Patience()
    with in_catalog(path):
        if patience.until(lambda: _begun(database), path) is None:
            raise LockTimeoutError(
                f"{path}: another process has held this catalog for {patience.timeout:g} seconds",
                hint="wait until it has ended, or set a longer `lock_timeout`",
            )
        try:
            yield
        except BaseException:
            with suppress(sqlite3.Error):
                database.execute("ROLLBACK")
            raise
        database.execute("COMMIT")


def _begun(database: sqlite3.Connection) -> bool | None:
    database.execute("PRAGMA busy_timeout = 0")
    try:
        database.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise
        return None
    finally:
        database.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")
    return True


def _opened(path: str) -> sqlite3.Connection:
    database = _connect(path)
    try:
        with in_catalog(path):
            _lay_out(database, path)
    except BaseException:
        database.close()
        raise
    return database


def _lay_out(database: sqlite3.Connection, path: str) -> None:
    """Make the tables of a new database. Raises `DamagedCatalogError` for one of another version."""
    state = tuple(database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
    if state == (_APPLICATION, SCHEMA_VERSION):
        return
    if state != (0, 0) or database.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        raise DamagedCatalogError(f"{path} is of another version", hint="it is made anew from the caches")
    database.execute("PRAGMA journal_mode = WAL")
    database.executescript(_SCHEMA)


def _connect(path: str) -> sqlite3.Connection:
    with in_catalog(path):
        database = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
        database.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute(f"PRAGMA cache_size = -{_MEMORY_KIB}")
        return database


def _is_whole(path: str) -> bool:
    try:
        with in_catalog(path), closing(_connect(path)) as database:
            return bool(database.execute("PRAGMA integrity_check(1)").fetchone() == ("ok",))
    except DamagedCatalogError:
        return False


def _remove(path: str) -> None:
    for suffix in ("-wal", "-shm", ""):
        with suppress(FileNotFoundError):
            os.unlink(path + suffix)


IndexReader = Callable[[str, Digest | None], IndexDocument | None]
"""Reads the index of a configured cache by its name; None if its digest is still the one given.

Raises `NotFoundError` if the cache has none.
"""


@dataclass(frozen=True, slots=True)
class Kind:
    """What many packages have in common. `compiler` is name and version where it is an attribute of the package."""

    namespace: str
    arch: Arch
    compiler: tuple[str, str] | None


Edge = tuple[str, str, tuple[str, ...]]
"""A dependency: name, hash, and the virtual packages it provides."""


@dataclass(frozen=True, slots=True)
class PackageRow:
    """What a query may ask of a package. `parameters` is a JSON object; equal ones are the same text."""

    hash: str
    name: str
    version: str
    kind: Kind
    parameters: str
    edges: tuple[Edge, ...]


class _EdgeParameters(msgspec.Struct, gc=False):
    virtuals: tuple[str, ...] | None = None


class _RowDependency(msgspec.Struct, gc=False):
    name: str
    hash: str
    parameters: _EdgeParameters | None = None


class _SpecAnnotations(msgspec.Struct, gc=False):
    compiler: msgspec.Raw = msgspec.Raw()


class _RowNode(msgspec.Struct, gc=False):
    name: str
    version: str
    arch: msgspec.Raw
    hash: str
    namespace: str | None = None
    parameters: msgspec.Raw = msgspec.Raw()
    compiler: msgspec.Raw = msgspec.Raw()
    annotations: _SpecAnnotations | None = None
    dependencies: tuple[_RowDependency, ...] | None = None


_NODE: Final = msgspec.json.Decoder(_RowNode)
_PLAIN: Final = _EdgeParameters()


def read_rows(records: Records, wanted: Iterable[str], notice: Notice = refuse) -> Iterator[PackageRow]:
    """Yield the rows of these hashes, in their order; a record that cannot be read goes to `notice` instead."""
    readers: dict[int, _RowReader] = {}
    for package_hash in wanted:
        node = records.node(package_hash)
        reader = readers.get(node.form) or readers.setdefault(node.form, _RowReader(node.form))
        try:
            row = reader.read(node.text, node.record)
            if row.hash != package_hash:
                raise ContentError(f"{node.record}: holds the spec of {row.hash[:64]}")  # noqa: TRY301
        except ContentError as error:
            notice(package_hash, error)
        else:
            yield row


@dataclass(slots=True)
class _RowReader:
    """Reads nodes of one spec format, remembering what was parsed of those before."""

    form: int
    kinds: dict[tuple[bytes, ...], Kind] = field(default_factory=dict)
    parameters: dict[bytes, str] = field(default_factory=dict)
    edges: set[Edge] = field(default_factory=set)

    def read(self, raw: bytes | msgspec.Raw, where: str) -> PackageRow:
        """Return the row of a node. Raises `ContentError`."""
        try:
            node = _NODE.decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return _row_of(self._strictly(raw, where))
        if not (is_name(node.name) and is_hash(node.hash) and is_version(node.version)):
            return _row_of(self._strictly(raw, where))
        compiled = node.annotations.compiler if node.annotations else b""
        key = (bytes(node.arch), (node.namespace or "").encode(), bytes(node.compiler), bytes(compiled))
        kind, parameters = self.kinds.get(key), self.parameters.get(bytes(node.parameters))
        if kind is None or parameters is None:
            row = _row_of(self._strictly(raw, where))
            self.kinds[key] = row.kind
            self.parameters[bytes(node.parameters)] = row.parameters
            return row
        edges = tuple([(e.name, e.hash, (e.parameters or _PLAIN).virtuals or ()) for e in node.dependencies or ()])
        for edge in edges:
            if edge not in self.edges:
                if not _is_sound(edge):
                    return _row_of(self._strictly(raw, where))
                self.edges.add(edge)
        return PackageRow(node.hash, node.name, node.version, kind, parameters, edges)

    def _strictly(self, raw: bytes | msgspec.Raw, where: str) -> Spec:
        return parse_node(parse_json(bytes(raw), f"{where}.spec", fold_case=False), self.form, f"{where}.spec")


def _is_sound(edge: Edge) -> bool:
    name, package_hash, virtuals = edge
    return is_name(name) and is_hash(package_hash) and all(map(is_name, virtuals))


def _row_of(spec: Spec) -> PackageRow:
    edges = tuple((edge.name, edge.hash, edge.virtuals) for edge in spec.dependencies)
    parameters = json.dumps(spec.parameters, separators=(",", ":"), ensure_ascii=False)
    kind = Kind(spec.namespace, spec.arch, spec.compiler)
    return PackageRow(spec.hash, spec.name, spec.version, kind, parameters, edges)
