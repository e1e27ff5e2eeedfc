"""A content store in a directory: the OCI image layout.

Source: OCI image-spec 1.1, image-layout.md and annotations.md. Layouts of other tools differ in what they list in
`index.json`: a manifest may have no name (umoci, skopeo), an invalid one, or several entries.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from typing import Any, BinaryIO, Final, NamedTuple

from oci_binpkg.disk import (
    TEMPORARY,
    FileTooLargeError,
    NotRegularError,
    disk_refusal,
    make_folder,
    open_file,
    read_descriptor,
    read_regular,
    remove_leftovers,
    replacing,
)
from oci_binpkg.errors import BinpkgError, ContentError, LocalDiskError, NotFoundError, UsageError
from oci_binpkg.file_lock import Patience, locked
from oci_binpkg.model.content import OCTET_STREAM, Blob, Descriptor, Digest
from oci_binpkg.model.documents import canonical_json, parse_json
from oci_binpkg.model.manifest import MAX_MANIFEST_BYTES, parse_descriptor, parse_manifest
from oci_binpkg.store.layout_index import LayoutIndex
from oci_binpkg.store.verifying import VerifyingReader, is_sound, verified_chunks
from oci_binpkg.times import SYSTEM_TIME, Time

_MARKER: Final = "oci-layout"
_INDEX: Final = "index.json"
_LOCK: Final = "index.json.lock"
_BLOBS: Final = "blobs"
_PIECE: Final = 256 * 1024
_MAX_DOCUMENT: Final = 64 * 1024 * 1024
_SETTLED_SECONDS: Final = 2.0
"""How old a file must be when it is read, so that a later change shows in its time."""
_PAUSE_SECONDS: Final = 0.5
_PAUSE_FACTOR: Final = 4
"""In a batch, `index.json` is written at most every half second, and for at most a fifth of the time."""
_HINTS: Final = {
    errno.ENOSPC: "free some space, or name a directory on another disk",
    errno.EDQUOT: "your quota is used up: remove something, or name a directory on another disk",
    errno.EACCES: "check the permissions of the directory",
    errno.EROFS: "the file system is read-only: name another directory",
    errno.EISDIR: "a directory stands where a file belongs: remove it",
}
_NO_LAYOUT: Final = "check the path; an OCI image layout holds a file named `oci-layout`"


class LayoutStore:
    """An OCI image layout at `path`, which need not exist: the first write creates it.

    Several processes may write at once: blobs are staged and renamed, `index.json` is replaced under an exclusive
    `flock` of `index.json.lock`. Members, entries and annotations of `index.json` that we do not know stay as they are.
    Manifests that were put but not tagged are content like any other; `index.json` does not list them. The first write
    also removes what writers that were killed have left. Readers take no lock and need no right to write; a writer
    waits for others with `patience`. `go_on` is called before a blob is opened, and raises when the caller has
    cancelled.
    """

    def __init__(
        self,
        path: str,
        *,
        time: Time = SYSTEM_TIME,
        patience: Patience | None = None,
        go_on: Callable[[], None] = lambda: None,
    ) -> None:
        self._path = os.path.abspath(path)
        self._go_on = go_on
        self._name = f"oci-layout:{path}"
        self._time = time
        self._patience = patience
        self._created = False
        self._mends = False
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        self._known: _KnownLayoutIndex | None = None
        self._batches = 0
        self._due = 0.0
        self._pending: dict[str, Descriptor] = {}
        self._guard = threading.Lock()  # of the three above

    @property
    def name(self) -> str:
        """`oci-layout:` and the path as it was given."""
        return self._name

    @property
    def address(self) -> str:
        """Nothing: no other store can mount from here."""
        return ""

    def exists(self, descriptor: Descriptor) -> bool:
        """Return whether a file of that digest and size is there. Its bytes are verified when they are read."""
        path = self._blob_path(descriptor.digest)
        with _mapped("look at", path):
            try:
                found = os.stat(path)
            except (FileNotFoundError, NotADirectoryError):
                return False
        return stat.S_ISREG(found.st_mode) and found.st_size == descriptor.size

    @contextmanager
    def open(self, descriptor: Descriptor) -> Iterator[BinaryIO]:
        """Open a blob, verified. Raises `NotFoundError`, `LocalDiskError`; `ContentError` for anything but a file."""
        self._go_on()
        path = self._blob_path(descriptor.digest)
        with VerifyingReader(self._open_blob(path, descriptor.digest), descriptor, path) as reader:
            yield reader

    def put(self, blob: Blob) -> bool:
        """Copy a blob into the layout unless a file of its size is there; while it mends, one with the right bytes.

        Raises `ContentError` if the bytes are not those of the descriptor, `LocalDiskError` if they cannot be written.
        """
        if self.exists(blob.descriptor) and not (self._mends and self._is_damaged(blob.descriptor)):
            return False
        self._create()
        self._write_blob(blob)
        return True

    def mend(self) -> None:
        """From now on read what is there before it is left in place, and replace what is damaged."""
        self._mends = True

    def _is_damaged(self, descriptor: Descriptor) -> bool:
        self._go_on()
        return not is_sound(Blob(descriptor, partial(self.open, descriptor)), self.name)

    def resolve(self, reference: str) -> Descriptor:
        """Return the descriptor of a tag or digest. A digest is found in `index.json` or by parsing the blob.

        Raises `NotFoundError`, and `ContentError` if a tag stands for several manifests.
        """
        self._require()
        with self._guard:
            pending = self._pending.get(reference)
        if pending is not None:
            return Descriptor(pending.media_type, pending.digest, pending.size)
        index = self._index()
        if reference.startswith(("sha256:", "sha512:")):
            return self._resolve_digest(Digest.parse(reference), index)
        found = index.named(reference) or index.alike(reference)
        if not found:
            raise NotFoundError(f"{self.name} has no tag {reference[:200]!r}", hint=index.offer)
        if len(found) > 1:
            raise ContentError(
                f"{self.name}: the tag {reference[:200]!r} stands for {len(found)} manifests",
                hint="name one by its digest",
            )
        return self._described(found[0], reference)

    def tag(self, manifest: Blob, tag: str) -> None:
        """Copy a manifest into the layout and let `tag` stand for it alone.

        Tags that come at one time from several threads are written at once.
        """
        self.put(manifest)
        self._create()
        with self._guard:
            self._pending[tag] = manifest.descriptor
            if self._batches:
                if self._time.clock() < self._due:
                    return
                self._due = math.inf  # until this one has written, the others go on
        try:
            self._write_pending()
        except BaseException:
            with self._guard:
                self._due = 0.0
                if self._pending.get(tag) is manifest.descriptor:
                    del self._pending[tag]
            raise

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Write tags in batches, and the rest at the end of the block, also if it fails.

        A killed process loses the last of them. Other readers see tags when they are written.
        """
        with self._guard:
            self._due = self._due if self._batches else 0.0
            self._batches += 1
        try:
            yield
        except BaseException:
            with suppress(BinpkgError):
                self._end_batch()
            raise
        self._end_batch()

    def tags(self) -> Iterator[str]:
        """Iterate over the names in `index.json`, sorted, each once. A directory that is absent or empty has none."""
        if self._is_blank():
            return iter(())
        self._require()
        with self._guard:
            pending = list(self._pending)
        return iter(sorted({*self._index().names, *pending}))

    def remove(self, tag: str) -> None:
        """Remove a name from `index.json`; blobs stay. Raises `NotFoundError`."""
        self._require()
        self._write_pending()
        with self._locked():
            index = self._index()
            left = index.without(tag)
            if left is None:
                raise NotFoundError(f"{self.name} has no tag {tag[:200]!r}", hint=index.offer)
            self._write_index(left)

    def _blob_path(self, digest: Digest) -> str:
        return os.path.join(self._path, _BLOBS, digest.algorithm, digest.hex)

    def _open_blob(self, path: str, digest: Digest) -> BinaryIO:
        with _mapped("open", path):
            try:
                return open_file(path)
            except (FileNotFoundError, NotADirectoryError):
                raise NotFoundError(f"{self.name} does not hold {digest}") from None
            except NotRegularError:
                raise ContentError(f"{path} is not a file", hint="remove it and copy the content again") from None

    def _write_blob(self, blob: Blob) -> None:
        chunks = verified_chunks(blob, f"put into {self.name}")
        with _staged(self._blob_path(blob.descriptor.digest)) as write, closing(chunks):
            for chunk in chunks:
                write(chunk)

    def _described(self, entry: dict[str, Any], reference: str) -> Descriptor:
        # name, platform and annotations belong to the list, not to the manifest
        found = parse_descriptor(entry, f"{os.path.join(self._path, _INDEX)}: {reference[:200]!r}")
        return Descriptor(found.media_type, found.digest, found.size)

    def _resolve_digest(self, digest: Digest, index: LayoutIndex) -> Descriptor:
        entry = index.with_digest(digest)
        if entry is not None:
            return self._described(entry, str(digest))
        path = self._blob_path(digest)
        with self._open_blob(path, digest) as stream:
            size = os.fstat(stream.fileno()).st_size
            if size > MAX_MANIFEST_BYTES:
                raise NotFoundError(f"{self.name}: {digest} is not a manifest")
            data = VerifyingReader(stream, Descriptor(OCTET_STREAM, digest, size), path).read()
        try:
            return Descriptor(parse_manifest(data, path).media_type, digest, size)
        except ContentError as error:
            raise NotFoundError(
                f"{self.name}: {digest} is not a manifest: {error.message}", digest=str(digest)
            ) from error

    def _is_blank(self) -> bool:
        # no marker yet: another process is creating the layout, or was killed while it did
        others = set(_others(self._path))
        return others <= {_BLOBS} or (others == {_BLOBS, _INDEX} and self._index().is_empty)

    def _require(self) -> None:
        path = os.path.join(self._path, _MARKER)
        data = _read_file(path)
        if data is None:
            raise NotFoundError(f"{self.name} is not an OCI image layout", hint=_NO_LAYOUT)
        version = parse_json(data, path).get("imageLayoutVersion")
        if not isinstance(version, str) or not version.startswith("1."):
            raise ContentError(f"{path}: imageLayoutVersion {str(version)[:40]!r}; only 1.x is understood")

    def _create(self) -> None:
        if self._created:
            return
        if os.path.exists(os.path.join(self._path, _MARKER)):
            self._require()
        else:
            self._initialise()
        for directory in ("", f"{_BLOBS}/sha256", f"{_BLOBS}/sha512"):
            remove_leftovers(os.path.join(self._path, directory), self._time.now())
        self._created = True

    def _initialise(self) -> None:
        others = _others(self._path)
        if others and not {_MARKER, _INDEX, _BLOBS} & set(others):
            raise UsageError(
                f"{self._path} holds other things ({others[0][:100]!r}, ...) and is not an OCI image layout",
                hint="name a new or an empty directory",
            )
        _make_directory(os.path.join(self._path, _BLOBS))
        with self._locked():
            if not os.path.exists(os.path.join(self._path, _INDEX)):
                self._write_index(LayoutIndex.empty())
            # the marker comes last: who sees it finds a whole layout
            if not os.path.exists(os.path.join(self._path, _MARKER)):
                with _staged(os.path.join(self._path, _MARKER)) as write:
                    write(canonical_json({"imageLayoutVersion": "1.0.0"}))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        path = os.path.join(self._path, _LOCK)
        with self._lock, ExitStack() as held:
            with _mapped("lock", path):
                held.enter_context(locked(path, self._patience))
            yield

    def _index(self) -> LayoutIndex:
        """Return what `index.json` lists. It is read again if it may have changed, and parsed again if it has."""
        path = os.path.join(self._path, _INDEX)
        # one reader at a time: several would also take the memory several times
        with self._reading:
            with _mapped("read", path):
                try:
                    file = open_file(path)
                except (FileNotFoundError, NotADirectoryError):
                    raise ContentError(
                        f"{self.name} has no {_INDEX}", hint="the layout is incomplete; make it anew"
                    ) from None
            with file:
                found = os.fstat(file.fileno())
                version = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
                known = self._known
                if known is not None and known.version == version:
                    return known.listed
                with _mapped("read", path):
                    # looked at in pieces first: a young file is looked at again and again, and seldom changes
                    digest = _digest_of(file, path) if known is not None else b""
                    if known is not None and known.digest == digest:
                        index = known.listed
                    else:
                        file.seek(0)
                        data = read_descriptor(file.fileno(), _MAX_DOCUMENT, path)
                        digest, index = hashlib.sha256(data).digest(), LayoutIndex.parse(data, path)
            # a file may change twice within one tick of its clock
            settled = found.st_mtime < self._time.now() - _SETTLED_SECONDS
            self._known = _KnownLayoutIndex(index, digest, version if settled else None)
            return index

    def _end_batch(self) -> None:
        with self._guard:
            self._batches -= 1
        self._write_pending()

    def _write_pending(self) -> None:
        """Write the tags that wait, unless another thread has done so."""
        with self._guard:
            if not self._pending:
                return
        with self._locked():
            with self._guard:
                taken = dict(self._pending)
            if not taken:
                return
            started = self._time.clock()
            index = self._index()
            tagged = index.tagged(taken)
            if tagged is not index:
                self._write_index(tagged)
            ended = self._time.clock()
            with self._guard:
                self._due = ended + max(_PAUSE_SECONDS, _PAUSE_FACTOR * (ended - started))
                for tag, descriptor in taken.items():
                    if self._pending.get(tag) is descriptor:
                        del self._pending[tag]

    def _write_index(self, index: LayoutIndex) -> None:
        digest = hashlib.sha256()
        with _staged(os.path.join(self._path, _INDEX)) as write:
            for chunk in index.chunks():
                digest.update(chunk)
                write(chunk)
        with self._reading:
            self._known = _KnownLayoutIndex(index, digest.digest(), None)


class _KnownLayoutIndex(NamedTuple):
    """An index that was read or written: the digest of its text, and the file's version, if it can be relied on."""

    listed: LayoutIndex
    digest: bytes
    version: tuple[int, ...] | None


@contextmanager
def _staged(path: str) -> Iterator[Callable[[bytes], None]]:
    """Give a function that writes to a new file, which becomes `path` if all goes well."""
    _make_directory(os.path.dirname(path))
    with replacing(path, failing=partial(_mapped, "write", path)) as write:
        yield write


def _read_file(path: str) -> bytes | None:
    with _mapped("read", path):
        try:
            return read_regular(path, _MAX_DOCUMENT)
        except (FileNotFoundError, NotADirectoryError):
            return None


def _others(path: str) -> list[str]:
    """Return what a directory holds besides our own lock and temporary files; nothing if it does not exist."""
    with _mapped("list", path):
        try:
            names = os.listdir(path)
        except FileNotFoundError:
            return []
    return sorted(name for name in names if name != _LOCK and not name.startswith(TEMPORARY))


def _make_directory(path: str) -> None:
    with _mapped("create", path):
        make_folder(path)


def _digest_of(file: BinaryIO, path: str) -> bytes:
    """Return the digest of a document, read in pieces. Raises `FileTooLargeError`, `OSError`."""
    digest, left = hashlib.sha256(), _MAX_DOCUMENT
    while data := file.read(_PIECE):
        left -= len(data)
        if left < 0:
            raise FileTooLargeError(_MAX_DOCUMENT, path)
        digest.update(data)
    return digest.digest()


@contextmanager
def _mapped(action: str, path: str) -> Iterator[None]:
    try:
        yield
    except (NotRegularError, FileTooLargeError) as error:
        wrong = ContentError if action == "read" else LocalDiskError
        raise wrong(f"cannot {action} {path}: {error.strerror}", hint="remove it, or name another layout") from error
    except OSError as error:
        raise disk_refusal(f"cannot {action} {path}", error, hint=_HINTS.get(error.errno or 0, "")) from error
