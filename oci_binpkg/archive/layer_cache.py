"""Layers kept on disk, so that an unchanged prefix is compressed once.

`blobs/` holds layers by digest, `records/` what is known of them by key, `locks/` and `staging/` serve the writers. A
record is written after its blob and a blob is renamed to its name when it is whole, so nothing half-made is ever seen.
Whatever is damaged all the same is thrown away and made again: a cache may forget, but not lie.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from threading import Lock
from typing import Any, BinaryIO, Final, cast
from urllib.parse import quote, unquote_to_bytes

from oci_binpkg.archive.binary_distribution import Distribution, Relocations, is_text
from oci_binpkg.archive.codec import Codec
from oci_binpkg.archive.layer import LayerFile
from oci_binpkg.archive.python_caches import PythonCaches, follows_source, may_be_cache
from oci_binpkg.archive.tar_writer import TarSummary, walk
from oci_binpkg.disk import (
    FileTooLargeError,
    NotRegularError,
    disk_refusal,
    make_folder,
    move_file,
    open_file,
    private_folder,
    read_regular,
)
from oci_binpkg.errors import ContentError, PackError
from oci_binpkg.file_lock import LockTimeoutError, Patience, locked
from oci_binpkg.log import Log
from oci_binpkg.model.content import Blob, Descriptor, Digest
from oci_binpkg.model.documents import all_text, integer_of, list_of, object_of, parse_json, text_of
from oci_binpkg.model.image import Body, Layer, bodies_json, parse_bodies
from oci_binpkg.times import SYSTEM_TIME, Time

_MAX_BYTES: Final = 256 * 1024 * 1024
_SUM: Final = 32
"""The bytes of a SHA-256."""
_MOST_FACTS: Final = 256
FORMAT: Final = 1
"""Part of every key; another number makes all layers anew."""


@dataclass(frozen=True, slots=True)
class CachedLayer:
    """A layer in the cache: its key, digest and size, the tar's digest and size, and what is in the tar.

    `bodies` says where the packages of a merged layer are.
    """

    key: str
    digest: Digest
    size: int
    diff_id: Digest
    uncompressed_size: int
    summary: TarSummary
    bodies: tuple[Body, ...] = ()


def layer_key(
    package_hash: str, prefix: str, codec: Codec, distribution: Distribution, *, current_python: bool = False
) -> str:
    """Return the key (64 hex digits) of a package's layer: everything its bytes depend on but the files themselves.

    With `current_python` its compiled Python is current in the layer.
    """
    parts: dict[str, object] = {
        "format": FORMAT,
        "hash": package_hash,
        "prefix": prefix,
        "codec": codec.cache_identity,
        "distribution": distribution.header,
    }
    if current_python:
        parts["current_python"] = True
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode("utf-8")).hexdigest()


def tree_fingerprint(prefix: str, caches: PythonCaches | None = None) -> str:
    """Return a digest (64 hex digits) over path, mode, size, mtime and link target of all that a tar would hold.

    Compiled Python counts without its mtime: Python may write it again, and it follows from its source. No file is
    opened. Raises `PackError` for a tree that cannot be walked.
    """
    digest = hashlib.sha256()
    for directory in walk(prefix, caches):
        digest.update(os.fsencode(f"{directory.relative}\0d\0"))
        for entry in directory.others:
            try:
                status = entry.stat(follow_symlinks=False)
                target = os.readlink(entry.path) if stat.S_ISLNK(status.st_mode) else ""
            except OSError as error:
                raise PackError(f"{entry.path}: cannot be read: {error.strerror or error}") from error
            relative = directory.within(entry)
            changed = 0 if may_be_cache(entry.name) and follows_source(relative) else status.st_mtime_ns
            facts = (relative, oct(status.st_mode), status.st_size, changed, target)
            digest.update(os.fsencode("\0".join(map(str, facts)) + "\0"))
    return digest.hexdigest()


def encode_record(fingerprint: str, cached: CachedLayer) -> bytes:
    """Encode what `read_record` reads. Its last member is the hash of the others: a disk may flip any bit of them."""
    document: dict[str, Any] = {
        "key": cached.key,
        "fingerprint": fingerprint,
        "digest": str(cached.digest),
        "size": cached.size,
        "diff_id": str(cached.diff_id),
        "uncompressed_size": cached.uncompressed_size,
        "summary": _stored(asdict(cached.summary)),
    }
    if cached.bodies:
        document["bodies"] = bodies_json(cached.bodies)
    return json.dumps(document | {"sha256": _hash_of(document)}).encode("utf-8")


def _stored(value: Any) -> Any:
    """Return members in which paths that are no UTF-8, which JSON cannot hold, begin with a NUL and are quoted."""
    if isinstance(value, dict):
        return {key: _stored(each) for key, each in value.items()}
    if isinstance(value, tuple):
        return [path if is_text(path) else f"\0{quote(os.fsencode(path))}" for path in value]
    return value


def _paths(members: Mapping[str, Any], key: str, what: str, *, optional: bool = False) -> tuple[str, ...]:
    paths = all_text(list_of(members, key, what, optional=optional), what)
    return tuple(os.fsdecode(unquote_to_bytes(path[1:])) if path[:1] == "\0" else path for path in paths)


def _hash_of(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode("utf-8")).hexdigest()


def read_record(path: str) -> tuple[str, CachedLayer]:
    """Read a record: the fingerprint of the tree, and the layer. Raises `ContentError` for anything else."""
    try:
        return _parse_record(parse_json(read_regular(path, _MAX_BYTES, follow=False), path), path)
    except (NotRegularError, FileTooLargeError) as error:
        raise ContentError(f"{path}: {error.strerror}") from None


def _parse_record(document: dict[str, Any], what: str) -> tuple[str, CachedLayer]:
    if text_of(document, "sha256", what) != _hash_of({name: document[name] for name in document if name != "sha256"}):
        raise ContentError(f"{what}: the record is damaged")
    summary = object_of(document, "summary", what)
    relocations = object_of(summary, "relocations", what)
    lists = (_paths(relocations, name, what) for name in ("binaries", "links", "textfiles"))
    cached = CachedLayer(
        text_of(document, "key", what),
        Digest.parse(document.get("digest")),
        integer_of(document, "size", what),
        Digest.parse(document.get("diff_id")),
        integer_of(document, "uncompressed_size", what),
        TarSummary(
            integer_of(summary, "members", what),
            integer_of(summary, "files", what),
            integer_of(summary, "bytes", what),
            _paths(summary, "skipped", what),
            Relocations(*lists),
            _paths(summary, "weakened", what, optional=True),
        ),
        parse_bodies(list_of(document, "bodies", what, optional=True), what),
    )
    return text_of(document, "fingerprint", what), cached


_log: Final = Log("layers")
_CHUNK: Final = 1024 * 1024
_STALE: Final = 24 * 3600.0
_HINT: Final = "free some space, or choose another place for the layer cache"

Producer = Callable[[str], LayerFile]
"""Packs a layer into the new file whose path it is given."""


class LayerCache:
    """A directory of layers, bounded in size, shared by any number of threads and processes.

    `max_bytes` bounds the blobs; the least recently used ones are dropped first, but none that this object has given
    out and that was not `release`d. All methods raise `LocalDiskError` when
    the disk is full or access is denied.
    """

    def __init__(
        self,
        root: str,
        max_bytes: int,
        *,
        time: Time = SYSTEM_TIME,
        patience: Patience | None = None,
        shared: bool = False,
    ) -> None:
        self._root = root
        self._max_bytes = max_bytes
        self._time = time
        self._patience = patience
        self.shared = shared
        """Whether others may have written what is here: nothing of it counts before it was compared with the tree."""
        self._lock = Lock()
        self._in_use: dict[Digest, int] = {}
        self._used: int | None = None

    def get(self, key: str, fingerprint: str, *, verify: bool = False) -> CachedLayer | None:
        """Return the layer of a key if it was made of a tree with this fingerprint, else None.

        A damaged record or blob is removed and counts as absent. The content of the blob is read and compared at once
        with `verify`; otherwise opening the layer shows it.
        """
        with _disk(self._root):
            cached = self._load(key, fingerprint)
            if cached is None:
                return None
            self._retain(cached.digest)  # before looking at the blob: another thread may be making room
            if self._is_intact(cached, verify=verify):
                now = self._time.now()
                with suppress(FileNotFoundError, *self._tolerated):
                    os.utime(self._blob_path(cached.digest), (now, now))
                return cached
            self.release(cached)
            return None

    def build(
        self,
        key: str,
        fingerprint: str,
        producer: Producer,
        *,
        verify: bool = False,
        accept: Callable[[CachedLayer], bool] | None = None,
    ) -> tuple[CachedLayer, bool]:
        """Return the layer of a key, and whether it was there; if it was not, `producer` packs it.

        Of several callers with the same key one packs and the others wait for it. What `producer` raises passes
        unchanged and leaves nothing behind. A layer that `accept` refuses counts as absent.
        """

        def find() -> CachedLayer | None:
            found = self.get(key, fingerprint, verify=verify)
            if found is None or accept is None or accept(found):
                return found
            self.release(found)
            return None

        cached = find()
        if cached is not None:
            return cached, True
        with self._alone(key):
            cached = find()
            if cached is not None:
                return cached, True
            with self._staged() as path:
                packed = producer(path)
                cached = self._keep(key, fingerprint, packed)
        self._evict(cached.size)
        return cached, False

    def layer_of(self, cached: CachedLayer, media_type: str, *, fresh: bool = False) -> Layer:
        """Return the layer as a value. Reading it raises `ContentError` before its end if the bytes have changed.

        Then the damaged blob is removed, so that the next `build` packs again. One that is `fresh`, made a moment ago,
        is not looked at: whoever stores it compares its digest anyway.
        """
        descriptor = Descriptor(media_type, cached.digest, cached.size)
        if fresh:
            return Layer(Blob(descriptor, lambda: self._open_unverified(cached)), cached.diff_id)
        return Layer(Blob(descriptor, lambda: self._open(cached)), cached.diff_id)

    def facts(self, kind: str, of: Digest, make: Callable[[], bytes]) -> bytes:
        """Return what is known of content: what `make` returned once for that digest, as long as it is kept.

        In a shared folder nothing is kept: what others write there is not known to be true. What `make` raises passes
        unchanged.
        """
        if self.shared:
            return make()
        path = os.path.join(self._root, "facts", kind, f"{of.algorithm}-{of.hex}")
        with _disk(path):
            with suppress(FileNotFoundError, NotADirectoryError, NotRegularError, FileTooLargeError):
                known = read_regular(path, _MAX_BYTES, follow=False)
                if hashlib.sha256(known[_SUM:]).digest() == known[:_SUM]:
                    return known[_SUM:]
            made = make()
            self._make_directory(os.path.dirname(path))
            _remove_directory(path)
            with self._staged() as new:
                with open(new, "xb") as file:
                    file.write(hashlib.sha256(made).digest() + made)
                move_file(new, path)
            oldest = sorted(_files(os.path.dirname(path)), key=lambda item: item[1].st_mtime_ns)[:-_MOST_FACTS]
            for old, _ in oldest:
                _remove(old)
        return made

    def release(self, cached: CachedLayer) -> None:
        """Say that a layer given out by `get` or `build` is not needed any more, once for each time."""
        with self._lock:
            count = self._in_use.get(cached.digest, 0) - 1
            if count > 0:
                self._in_use[cached.digest] = count
            else:
                self._in_use.pop(cached.digest, None)

    def _load(self, key: str, fingerprint: str) -> CachedLayer | None:
        path = self._record_path(key)
        try:
            made_of, cached = read_record(path)
        except FileNotFoundError:
            return None
        except ContentError as error:
            _log.info("%s: dropped from the layer cache: %s", path, error.message)
            self._drop(path)
            return None
        if cached.key != key:
            self._drop(path)
            return None
        if made_of != fingerprint:
            _log.info("%s in the layer cache is out of date: the files of the package have changed", cached.digest)
            return None
        return cached

    def _is_intact(self, cached: CachedLayer, *, verify: bool) -> bool:
        path = self._blob_path(cached.digest)
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            self._drop(self._record_path(cached.key))
            return False
        if not stat.S_ISREG(status.st_mode) or status.st_size != cached.size:
            self._discard(cached)
            return False
        if verify:
            try:
                with self._open(cached) as stream:
                    while stream.read(_CHUNK):
                        pass
            except ContentError:
                return False
        return True

    @contextmanager
    def _open(self, cached: CachedLayer) -> Iterator[BinaryIO]:
        with self._open_unverified(cached) as file:
            yield cast("BinaryIO", _VerifiedFile(file, cached, lambda: self._discard(cached)))

    @contextmanager
    def _open_unverified(self, cached: CachedLayer) -> Iterator[BinaryIO]:
        path = self._blob_path(cached.digest)
        with _disk(path):
            try:
                file = open_file(path, follow=False, buffering=0)
            except (FileNotFoundError, NotRegularError):
                self._discard(cached)
                raise _damaged(cached) from None
        with file:
            yield file

    def _keep(self, key: str, fingerprint: str, packed: LayerFile) -> CachedLayer:
        cached = CachedLayer(
            *(key, packed.digest, packed.size, packed.diff_id, packed.uncompressed_size, packed.summary, packed.bodies)
        )
        blob = self._blob_path(cached.digest)
        with _disk(self._root):
            self._retain(cached.digest)
            self._make_directory(os.path.dirname(blob))
            _remove_directory(blob)
            move_file(packed.path, blob)
            now = self._time.now()
            os.utime(blob, (now, now))
            self._write_record(fingerprint, cached)
        return cached

    def _write_record(self, fingerprint: str, cached: CachedLayer) -> None:
        record = self._record_path(cached.key)
        self._make_directory(os.path.dirname(record))
        _remove_directory(record)
        with self._staged() as path:
            with open(path, "xb") as file:
                file.write(encode_record(fingerprint, cached))
            move_file(path, record)

    def _discard(self, cached: CachedLayer) -> None:
        self._drop(self._record_path(cached.key))
        self._drop(self._blob_path(cached.digest))

    def _drop(self, path: str) -> None:
        with suppress(*self._tolerated):
            _remove(path)

    @property
    def _tolerated(self) -> tuple[type[OSError], ...]:
        """What happens to files of others in a shared folder."""
        return (PermissionError,) if self.shared else ()

    def _make_directory(self, path: str) -> None:
        # a look costs a tenth of an attempt to make a folder that exists
        if not os.path.isdir(path):
            if self.shared:
                make_folder(path)
            else:
                private_folder(path)

    def _retain(self, digest: Digest) -> None:
        with self._lock:
            self._in_use[digest] = self._in_use.get(digest, 0) + 1

    @contextmanager
    def _alone(self, key: str) -> Iterator[None]:
        """Hold the lock of a key; go on without it where another process keeps it for long, which only costs work.

        The number of lock files is bounded: keys that begin alike share one.
        """
        path = os.path.join(self._root, "locks", key[:3])
        with ExitStack() as held:
            with _disk(path):
                self._make_directory(os.path.dirname(path))
                with suppress(LockTimeoutError, *self._tolerated):
                    held.enter_context(locked(path, self._patience, mode=0o600))
            yield

    @contextmanager
    def _staged(self) -> Iterator[str]:
        """Give the path of a new file; what is left of it at the end is removed."""
        directory = os.path.join(self._root, "staging")
        path = os.path.join(directory, secrets.token_hex(16))
        with _disk(directory):
            self._make_directory(directory)
        try:
            yield path
        finally:
            with suppress(OSError):
                os.unlink(path)

    def _evict(self, added: int) -> None:
        """Drop the blobs used least recently until the rest fits. The directory is looked through only when needed."""
        with self._lock:
            if self._used is not None:
                self._used += added
            if self._used is not None and self._used <= self._max_bytes:
                return
            with _disk(self._root):
                self._used = self._drop_oldest()

    def _drop_oldest(self) -> int:
        found = sorted(_files(os.path.join(self._root, "blobs")), key=lambda item: item[1].st_mtime_ns)
        total = sum(status.st_size for _, status in found)
        in_use = {digest.hex for digest in self._in_use}
        dropped = set()
        for path, status in found:
            if total <= self._max_bytes:
                break
            if os.path.basename(path) not in in_use:
                _remove(path)
                dropped.add(os.path.basename(path))
                total -= status.st_size
        if dropped:
            self._forget(dropped)
        with suppress(FileNotFoundError), os.scandir(os.path.join(self._root, "staging")) as entries:
            for entry in entries:
                if entry.stat(follow_symlinks=False).st_mtime < self._time.now() - _STALE:
                    _remove(entry.path)  # a process was killed while it packed
        return total

    def _forget(self, dropped: set[str]) -> None:
        """Remove the records of blobs that were dropped."""
        for path, _ in _files(os.path.join(self._root, "records")):
            with suppress(ContentError, FileNotFoundError):
                if read_record(path)[1].digest.hex in dropped:
                    _remove(path)

    def _blob_path(self, digest: Digest) -> str:
        return os.path.join(self._root, "blobs", digest.algorithm, digest.hex[:2], digest.hex)

    def _record_path(self, key: str) -> str:
        return os.path.join(self._root, "records", key[:2], f"{key}.json")


class _VerifiedFile:
    """A file that gives out its last byte only when size and digest are right.

    Readers of blobs need `read` and `close` alone.
    """

    def __init__(self, file: Any, cached: CachedLayer, on_damage: Callable[[], None]) -> None:
        self._file = file
        self._cached = cached
        self._on_damage = on_damage
        self._hash = hashlib.sha256()
        self._left = cached.size

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes, or all; b"" at the verified end."""
        wanted = self._left if size < 0 else min(size, self._left)
        chunks = []
        while wanted:
            with _disk(str(self._cached.digest)):
                chunk = self._file.read(min(wanted, _CHUNK))
            self._hash.update(chunk)
            self._left -= len(chunk)
            wanted -= len(chunk)
            damaged = not self._left and self._hash.hexdigest() != self._cached.digest.hex
            if not chunk or damaged:
                self._on_damage()
                raise _damaged(self._cached)
            chunks.append(chunk)
        return b"".join(chunks)


def _damaged(cached: CachedLayer) -> ContentError:
    return ContentError(
        f"the layer {cached.digest} in the layer cache is damaged and was removed",
        hint="run the command again: the layer is made anew",
    )


@contextmanager
def _disk(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        path = error.filename or what
        raise disk_refusal(f"layer cache: {path}", error, hint=_HINT) from error


def _files(directory: str) -> Iterator[tuple[str, os.stat_result]]:
    for parent, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(parent, name)
            with suppress(FileNotFoundError):
                yield path, os.lstat(path)


def _remove(path: str) -> None:
    """Remove a file, a link, or a whole directory that stands at a path of the cache."""
    if not _remove_directory(path):
        with suppress(FileNotFoundError):
            os.unlink(path)


def _remove_directory(path: str) -> bool:
    is_directory = os.path.isdir(path) and not os.path.islink(path)
    if is_directory:
        shutil.rmtree(path)
    return is_directory
