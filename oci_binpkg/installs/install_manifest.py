"""The record of a package's files, `.spack/install_manifest.json`: written after an install, compared when verified.

Source: what Spack writes: absolute path -> `mode`, `owner`, `group`, and for files `hash` (base32 of SHA-1), `time` and
`size`, for links `dest`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from oci_binpkg.disk import open_file, read_regular
from oci_binpkg.errors import ContentError, InstallsError
from oci_binpkg.model.documents import check_values
from oci_binpkg.relocate.compiled_python import CACHE, HEADER, is_whole, read_header, source_of

MANIFEST: Final = ".spack/install_manifest.json"
_UNLISTED: Final = frozenset({MANIFEST, ".spack/binary_distribution", ".spack/install_times.json"})
"""What Spack writes after the record, or into archives only."""
_DEPRECATED: Final = re.compile(r"\.spack/deprecated(/[a-z2-7]{32}_spec\.(json|yaml))?", re.ASCII)
"""Specs of the packages that this one takes the place of: Spack writes them when they are deprecated."""
_CHUNK: Final = 256 * 1024
_READERS: Final = 2
_WORTH_THREADS: Final = 32 * 1024 * 1024
_LARGE: Final = 64 * 1024
MOST_FILES: Final = 1_000_000
_BYTES_PER_FILE: Final = 1024
_VALUES_PER_FILE: Final = 20
_SLACK: Final = 100
"""Entries that a record may have beyond those of the files that are there."""
_Recorded = dict[str, dict[str, str | int | float | bool | None]]
_RECORDED: Final = msgspec.json.Decoder(_Recorded)
_HALF: Final = b"\\udc"
"""Begins what Spack, and we, write for a byte of a name that is not UTF-8: half a surrogate pair."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference between a prefix and its record: the path relative to the prefix, and what is wrong with it."""

    path: str
    problem: str


def read_manifest(prefix: str, *, files: int = MOST_FILES) -> Mapping[str, Mapping[str, Any]]:
    """Read the record of a prefix, by absolute path. Raises `InstallsError` if it is absent or damaged.

    A record that is too long for so many files, links and directories is damaged: reading costs no more than they do.
    """
    path = os.path.join(prefix, MANIFEST)
    try:
        data = read_regular(path, (files + _SLACK) * _BYTES_PER_FILE, follow=False)
        check_values(data, path, (files + _SLACK) * _VALUES_PER_FILE)
        return _decoded(data)
    except ContentError as error:
        raise InstallsError(error.message, **error.fields) from error
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InstallsError(f"{path}: an object for each file is expected: {str(error)[:200]}") from None
    except OSError as error:
        raise InstallsError(f"{path}: cannot be read: {error.strerror}", hint="nothing to compare with") from error


def _decoded(data: bytes) -> Mapping[str, Mapping[str, Any]]:
    try:
        return _RECORDED.decode(data)
    except msgspec.DecodeError:
        if _HALF not in data.lower():
            raise
        return msgspec.convert(json.loads(data), _Recorded)


def manifest_of(
    tree: str,
    prefix: str,
    *,
    known: Mapping[str, Mapping[str, Any]],
    known_prefix: str,
    changed: Collection[str],
    early: Mapping[str, Future[str]] | None = None,
) -> bytes:
    """Return the record of the files at `tree`, which is to become `prefix`.

    Hashes are taken from `known` (a record made at `known_prefix`) and from `early`, for files that are not `changed`
    (relative paths).
    """
    entries = {}
    for relative, path, status in _walk(tree):
        old = known.get(os.path.join(known_prefix, relative) if relative else known_prefix, {})
        trusted = relative not in changed and old.get("size") == status.st_size
        entry = _entry(path, status, old if trusted else {})
        if stat.S_ISREG(status.st_mode) and not entry["hash"]:
            begun = None if early is None or relative in changed else early.get(relative)
            entry["hash"] = begun.result() if begun else file_hash(path)
        entries[os.path.join(prefix, relative) if relative else prefix] = entry
    return json.dumps(entries, separators=(",", ":")).encode()


@contextmanager
def early_hashes(
    tree: str, files: Mapping[str, int], *, known: Mapping[str, Mapping[str, Any]], known_prefix: str
) -> Iterator[Mapping[str, Future[str]]]:
    """Begin to hash the large ones of `files` (relative path -> size) at `tree` on threads, those not in `known`.

    A file that is changed before the end of this context has a hash that means nothing. In small trees none is begun.
    """
    wanted = [path for path, size in files.items() if size >= _LARGE and f"{known_prefix}/{path}" not in known]
    if sum(files[path] for path in wanted) < _WORTH_THREADS:
        yield {}
        return
    with ThreadPoolExecutor(_READERS, "hash") as readers:
        try:
            yield {path: readers.submit(file_hash, os.path.join(tree, path)) for path in wanted}
        finally:
            readers.shutdown(cancel_futures=True)


def compare(prefix: str) -> Iterator[Difference]:
    """Yield how the files of a prefix differ from its record. Raises `InstallsError` if it has none.

    What Python has compiled since from a source that is as recorded is no difference.
    """
    known = read_manifest(prefix)
    recorded = dict(known)
    for relative, path, status in _walk(prefix):
        name = os.path.join(prefix, relative) if relative else prefix
        entry = recorded.pop(name, None)
        if entry is None:
            if not _DEPRECATED.fullmatch(relative) and not _is_new_cache(relative, path, status, prefix, known):
                yield Difference(relative, "is not recorded")
        elif problem := _difference(path, status, entry):
            if _is_compiled_again(relative, path, status, prefix, known):
                continue
            yield Difference(relative, problem)
    for name in recorded:
        relative = os.path.relpath(name, prefix) if name.startswith(f"{prefix}/") else name
        if relative not in _UNLISTED:
            yield Difference(relative, "is missing")


def _is_new_cache(
    relative: str, path: str, status: os.stat_result, prefix: str, known: Mapping[str, Mapping[str, Any]]
) -> bool:
    """Return whether Python wrote this, a compiled file or a folder for such, beside a source that is recorded."""
    if stat.S_ISDIR(status.st_mode):
        return os.path.basename(relative) == CACHE and os.path.dirname(path) in known
    source = source_of(relative)
    if source is None or not stat.S_ISREG(status.st_mode) or os.path.join(prefix, source) not in known:
        return False
    with open_file(path, follow=False) as file:
        return read_header(file.read(HEADER)) is not None


def _is_compiled_again(
    relative: str, path: str, status: os.stat_result, prefix: str, known: Mapping[str, Mapping[str, Any]]
) -> bool:
    """Return whether Python has replaced a compiled file: by a later one, whole, of the source that is recorded."""
    source = source_of(relative)
    if source is None or not stat.S_ISREG(status.st_mode) or status.st_mtime == known[path].get("time"):
        return False
    origin = os.path.join(prefix, source)
    try:
        of = os.lstat(origin)
        if origin not in known or _difference(origin, of, known[origin]):
            return False
        with open_file(path, follow=False) as file:
            data = file.read()
    except OSError:
        return False
    header = read_header(data[:HEADER])
    if header is None or not is_whole(data):
        return False
    return header.is_checked or header.names(int(of.st_mtime), of.st_size)


def file_hash(path: str) -> str:
    """Return base32 of the SHA-1 of a file, as Spack records it."""
    digest = hashlib.sha1(usedforsecurity=False)
    with open_file(path, follow=False) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return base64.b32encode(digest.digest()).decode()


def _walk(tree: str) -> Iterator[tuple[str, str, os.stat_result]]:
    """Yield relative path, path and status of all but the documents that are not part of the record."""
    pending = [("", tree)]
    while pending:
        relative, path = pending.pop()
        status = os.lstat(path)
        yield relative, path, status
        if stat.S_ISDIR(status.st_mode):
            names = sorted(os.listdir(path), reverse=True)
            below = [(f"{relative}/{name}" if relative else name, os.path.join(path, name)) for name in names]
            pending += [each for each in below if each[0] not in _UNLISTED]


def _entry(path: str, status: os.stat_result, known: Mapping[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = {"mode": status.st_mode, "owner": status.st_uid, "group": status.st_gid}
    if stat.S_ISLNK(status.st_mode):
        entry["dest"] = os.readlink(path)
    elif stat.S_ISREG(status.st_mode):
        entry |= {"hash": known.get("hash", ""), "time": status.st_mtime, "size": status.st_size}
    return entry


def _difference(path: str, status: os.stat_result, entry: Mapping[str, Any]) -> str:
    mode = entry.get("mode")
    if not isinstance(mode, int) or stat.S_IFMT(mode) != stat.S_IFMT(status.st_mode):
        return "is of another kind"
    if stat.S_ISLNK(mode):
        return "" if os.readlink(path) == entry.get("dest") else "leads elsewhere"
    if not stat.S_ISREG(mode):
        return ""
    # of mode and times, a layer keeps only whether the owner may execute
    if bool(mode & stat.S_IXUSR) != bool(status.st_mode & stat.S_IXUSR):
        return "may be executed" if status.st_mode & stat.S_IXUSR else "may not be executed"
    if entry.get("size") != status.st_size:
        return f"has {status.st_size} bytes instead of {entry.get('size')}"
    return "" if file_hash(path) == entry.get("hash") else "has other content"
