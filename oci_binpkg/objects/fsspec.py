"""Objects wherever fsspec leads (`gs://`, `abfs://`, `sftp://`, ...), through one adapter (the extra `fsspec`)."""

from __future__ import annotations

import hashlib
import importlib
import posixpath
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, Final, cast

from oci_binpkg.errors import (
    BinpkgError,
    ContentError,
    DeniedError,
    NetworkError,
    NotFoundError,
    UsageError,
)
from oci_binpkg.model.content import Blob, read_whole
from oci_binpkg.objects.protocol import MAX_DOCUMENT_BYTES, Object, checked_path, chunks
from oci_binpkg.transport.addresses import redact_url

_TEMPORARY: Final = ".tmp-"
_PACKAGES: Final[Mapping[str, str]] = {
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("abfs", "abfss", "az", "adl"), "adlfs"),
    **dict.fromkeys(("sftp", "ssh"), "paramiko"),
    "webdav": "webdav4[fsspec]",
    "smb": "smbprotocol",
    "oss": "ossfs",
    "hdfs": "pyarrow",
    "ftp": "",
    "memory": "",
}
"""Schemes that are known without asking fsspec, and what else has to be installed for them."""
_STORES: Final = frozenset({"gs", "gcs", "abfs", "abfss", "az", "adl", "oss"})
"""Where an object is visible only when its upload is complete; elsewhere a file is written and then renamed."""
_OTHERS: Final = frozenset(
    {
        *("file", "local", "http", "https", "s3", "s3a", "oci", "oci+http", "docker"),
        # these lead into another file system, which would have to be named too
        *("blockcache", "cached", "data", "dir", "filecache", "generic", "libarchive", "reference", "simplecache"),
        *("tar", "zip"),
    }
)
# names rather than classes: a library is imported only where its scheme is used
_FOREIGN: Final = (
    ("ftplib", "Error"),
    ("aiohttp", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("azure.core.exceptions", "AzureError"),
    ("paramiko.ssh_exception", "SSHException"),
    ("smbprotocol.exceptions", "SMBException"),
    ("webdav4.client", "ClientError"),
)


def is_known(scheme: str) -> bool:
    """Return whether fsspec opens URLs of this scheme; schemes with an adapter of their own aside."""
    if scheme in _OTHERS:
        return False
    if scheme in _PACKAGES:
        return True
    try:
        return scheme in importlib.import_module("fsspec").available_protocols()
    except ImportError:
        return False


def open_fsspec(url: str, options: Mapping[str, Any] | None = None, *, once: bool = False) -> FsspecObjects:
    """Open a URL; `options` are those of fsspec for its scheme. Raises `UsageError` if a package is not installed.

    It connects with the first request. With `once` a file system that tries again, and says how often in its `retries`,
    tries once.
    """
    scheme = url.partition("://")[0]
    package = _PACKAGES.get(scheme, "")
    try:
        importlib.import_module("fsspec")
    except ImportError:
        hint = " ".join(filter(None, ("pip install 'oci-binpkg[fsspec]'", package)))
        raise UsageError(f"{scheme}:// needs the Python package fsspec, which is not installed", hint=hint) from None
    try:
        importlib.import_module("fsspec.registry").get_filesystem_class(scheme)
    except ImportError as error:
        if package:
            message, hint = f"needs the Python package {package}, which is not installed", f"pip install {package}"
        else:
            message, hint = f"needs a Python package that is not installed: {error}", "install it beside oci-binpkg"
        raise UsageError(f"{scheme}:// {message}", hint=hint) from None

    def connect() -> tuple[Any, str]:
        core = importlib.import_module("fsspec.core")
        filesystem, path = core.url_to_fs(url, skip_instance_cache=True, **(options or {}))
        if once and hasattr(filesystem, "retries"):
            filesystem.retries = 1
        return filesystem, str(path)

    return FsspecObjects(redact_url(url.rstrip("/")), connect, renames=scheme not in _STORES)


class FsspecObjects:
    """Objects below a path of a file system. `connect` returns both; it is called when something is asked.

    An object becomes visible when it is complete. A conditional write reads, compares and writes under a lock of this
    process; another process may come between, which the writer of an index finds out by reading it back. The version
    of an object is the digest of its bytes. Objects whose names begin with `.tmp-` are not seen.
    """

    def __init__(self, name: str, connect: Callable[[], tuple[Any, str]], *, renames: bool = True) -> None:
        self._name = name
        self._connect = connect
        self._renames = renames
        self._connected: tuple[Any, str] | None = None
        self._connecting = threading.Lock()
        self._writing = threading.Lock()

    @property
    def name(self) -> str:
        """The URL without a login."""
        return self._name

    def read(self, path: str, *, known_etag: str = "", limit: int = MAX_DOCUMENT_BYTES) -> Object | None:
        """Read an object whole; None if its version is `known_etag`."""
        with self.open(path) as stream:
            data = read_whole(stream, limit + 1)
        if len(data) > limit:
            raise ContentError(f"{self.name}/{path} is larger than {limit} bytes")
        etag = hashlib.sha256(data).hexdigest()
        return None if etag == known_etag else Object(data, etag)

    @contextmanager
    def open(self, path: str) -> Iterator[BinaryIO]:
        """Open an object. Raises `NotFoundError`."""
        operation = f"read {path} from {self.name}"
        with self._mapped(operation):
            filesystem, full = self._at(path)
            stream = filesystem.open(full, "rb")
        with stream:
            yield cast("BinaryIO", _FsspecFile(stream, lambda: self._mapped(operation)))

    def size(self, path: str) -> int:
        """Return an object's size in bytes. Raises `NotFoundError`."""
        with self._mapped(f"look at {path} of {self.name}"):
            filesystem, full = self._at(path)
            filesystem.invalidate_cache()
            found = filesystem.info(full)
        if found["type"] != "file":
            raise NotFoundError(f"{self.name}/{path} is not a file")
        return int(found["size"])

    def write(self, path: str, content: Blob | bytes, *, if_match: str | None = None) -> bool:
        """Put an object in place, whole or not at all. Returns False if it is not the version `if_match`."""
        if if_match is None:
            self._put(path, content)
            return True
        with self._writing:
            if self._version(path) != if_match:
                return False
            self._put(path, content)
        return True

    def list(self, prefix: str) -> Iterator[str]:
        """Iterate over the objects below a directory, sorted."""
        try:
            with self._mapped(f"list {prefix} of {self.name}"):
                filesystem, base = self._filesystem()
                filesystem.invalidate_cache()
                found = filesystem.find("/".join(filter(None, (base, prefix.strip("/")))))
        except NotFoundError:
            return iter(())
        start = base.strip("/") + "/" if base.strip("/") else ""
        below = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        paths = (path.lstrip("/").removeprefix(start) for path in found)
        return iter(
            sorted(
                path for path in paths if path.startswith(below) and not posixpath.basename(path).startswith(_TEMPORARY)
            )
        )

    def remove(self, path: str) -> None:
        """Remove an object. Raises `NotFoundError`."""
        self.size(path)
        with self._mapped(f"remove {path} from {self.name}"):
            filesystem, full = self._at(path)
            filesystem.rm_file(full)

    def _filesystem(self) -> tuple[Any, str]:
        with self._connecting:
            if self._connected is None:
                try:
                    filesystem, base = self._connect()
                except (ValueError, TypeError) as error:
                    raise UsageError(
                        f"cannot open {self.name}: {str(error)[:200]}",
                        hint="name its login in the configuration, or as the tools of that storage have it",
                    ) from None
                self._connected = filesystem, base.rstrip("/")
            return self._connected

    def _at(self, path: str) -> tuple[Any, str]:
        filesystem, base = self._filesystem()
        return filesystem, f"{base}/{checked_path(path)}"

    def _version(self, path: str) -> str:
        try:
            found = self.read(path)
        except NotFoundError:
            return ""
        return found.etag if found else ""

    def _put(self, path: str, content: Blob | bytes) -> None:
        operation = f"write {path} to {self.name}"
        with self._mapped(operation):
            filesystem, full = self._at(path)
            folder = posixpath.dirname(full)
            filesystem.makedirs(folder, exist_ok=True)
        written = f"{folder}/{_TEMPORARY}{uuid.uuid4().hex}" if self._renames else full
        with self._mapped(operation):
            stream = filesystem.open(written, "wb")
        try:
            self._fill(stream, content, operation)
            if self._renames:
                with self._mapped(operation):
                    _move(filesystem, written, full)
        except BaseException:
            if self._renames:
                with suppress(OSError):
                    filesystem.rm_file(written)
            raise

    def _fill(self, stream: Any, content: Blob | bytes, operation: str) -> None:
        try:
            for chunk in chunks(content):
                with self._mapped(operation):
                    stream.write(chunk)
            with self._mapped(operation):
                stream.close()
        except BaseException:
            if not self._renames:
                stream.discard()
                # closing what was discarded would upload it after all
                stream.closed = True
            else:
                with suppress(OSError):
                    stream.close()
            raise

    @contextmanager
    def _mapped(self, operation: str) -> Iterator[None]:
        try:
            yield
        except BinpkgError:
            raise
        except _failures() as error:
            raise _explained(error, operation) from error


class _FsspecFile:
    """A file of fsspec whose failures are ours."""

    def __init__(self, stream: Any, mapped: Callable[[], Any]) -> None:
        self._stream = stream
        self._mapped = mapped

    def read(self, size: int = -1) -> bytes:
        """Read the next `size` bytes, all if negative."""
        with self._mapped():
            return bytes(self._stream.read(size))

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def _move(filesystem: Any, source: str, target: str) -> None:
    try:
        filesystem.mv(source, target)
    except FileExistsError:
        # this server does not rename over a file: for a moment the file is absent
        filesystem.rm_file(target)
        filesystem.mv(source, target)


def _failures() -> tuple[type[Exception], ...]:
    """Return the exceptions of file systems: the usual ones, and those of the libraries that are in use."""
    found = (getattr(sys.modules.get(module), name, None) for module, name in _FOREIGN)
    return (OSError, EOFError, *(kind for kind in found if isinstance(kind, type) and issubclass(kind, Exception)))


def _explained(error: BaseException, operation: str) -> BinpkgError:
    reason = (error.strerror if isinstance(error, OSError) else "") or type(error).__name__
    message = f"{operation}: {reason}"
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return NotFoundError(message, hint="check the address of the mirror")
    if isinstance(error, PermissionError):
        return DeniedError(message, hint="ask for access to this mirror, or name another login for it")
    return NetworkError(message, hint="check the address, the login and the network")
