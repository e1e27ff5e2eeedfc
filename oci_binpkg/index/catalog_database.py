"""The catalog's file: a SQLite database that is made anew when it is damaged or of another version.

Readers do not wait for the one who writes (write-ahead log); who writes waits for other writers.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

from oci_binpkg.disk import NotRegularError, foreign_writers, open_regular, private_folder
from oci_binpkg.errors import LocalDiskError
from oci_binpkg.file_lock import LockTimeoutError, Patience, locked

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
        raise LocalDiskError(
            f"{error.filename}: {error.strerror}", hint="remove it: the catalog is made anew from the caches"
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
