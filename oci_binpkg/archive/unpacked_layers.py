"""Layers kept unpacked, by diff_id: what images that share them are run from.

`layers/` has a directory for each, `staging/` what is not complete. Whoever uses a layer holds a lock on its directory,
so that nothing is removed while it runs; the kernel gives the lock up, however a process ends.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from oci_binpkg.archive.root_layer import UnpackedRoot, unpack_root_layer
from oci_binpkg.disk import (
    disk_errors,
    make_folder,
    private_folder,
    read_regular,
    remove_tree,
    replace_file,
    sync_tree,
)
from oci_binpkg.errors import ContentError, LocalDiskError
from oci_binpkg.file_lock import lock_folder
from oci_binpkg.log import Log
from oci_binpkg.model.documents import integer_of, parse_json
from oci_binpkg.model.image import Layer

_log: Final = Log("archive")
_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_FILES: Final = "root"
_RECORD: Final = "record.json"
_MAX_RECORD: Final = 4096
_TRIES: Final = 5


@dataclass(frozen=True, slots=True)
class UnpackedLayer:
    """An unpacked layer: where it is, and whether an overlay mount can use it as it is."""

    path: str
    is_overlay: bool


class UnpackedLayers:
    """Unpacked layers below `root`, which only its owner may enter.

    Layers that nobody uses are removed while there are more than `most_bytes` of files.
    """

    def __init__(self, root: str, most_bytes: int) -> None:
        self._root = root
        self._most_bytes = most_bytes

    @contextmanager
    def held(
        self, layers: Sequence[Layer], what: str, *, on_bytes: Callable[[int], None] | None = None
    ) -> Iterator[list[UnpackedLayer]]:
        """Give the layers unpacked, the lowest first, and keep them as long as the context lasts.

        Raises `ContentError` naming `what` for a layer that is not what its digests say, `LocalDiskError`, and whatever
        reading a layer raises.
        """
        with disk_errors(self._root):
            private_folder(self._root)
            for folder in ("layers", "staging"):
                make_folder(os.path.join(self._root, folder), 0o700)
        with ExitStack() as locks:
            held = [self._held(layer, what, locks, on_bytes) for layer in layers]
            self._make_room()
            yield held

    @contextmanager
    def scratch(self) -> Iterator[str]:
        """Give a new empty directory beside the layers, which is removed in the end."""
        path = os.path.join(self._root, "staging", secrets.token_hex(8))
        with disk_errors(path, "made"):
            os.mkdir(path, 0o700)
        try:
            yield path
        finally:
            self._remove(path)

    def _held(self, layer: Layer, what: str, locks: ExitStack, on_bytes: Callable[[int], None] | None) -> UnpackedLayer:
        path = os.path.join(self._root, "layers", f"{layer.diff_id.algorithm}-{layer.diff_id.hex}")
        for _ in range(_TRIES):
            if found := self._found(path, locks):
                return found
            self._forget(path)
            self._unpack(layer, path, what, on_bytes)
        raise LocalDiskError(f"{path}: is removed again and again", hint="another program empties this folder")

    def _found(self, path: str, locks: ExitStack) -> UnpackedLayer | None:
        """Return a layer that is there, locked; None if it is not, or damaged."""
        try:
            descriptor = os.open(path, _OPEN)
        except FileNotFoundError:
            return None
        with suppress(OSError, ContentError):
            lock_folder(descriptor, shared=True)
            record = os.path.join(path, _RECORD)
            found = _record_of(path)
            os.utime(record)
            if os.path.samestat(os.stat(path), os.fstat(descriptor)):  # not removed before the lock was there
                locks.callback(os.close, descriptor)
                return UnpackedLayer(os.path.join(path, _FILES), found.is_overlay)
        os.close(descriptor)
        return None

    def _unpack(self, layer: Layer, path: str, what: str, on_bytes: Callable[[int], None] | None) -> None:
        with self.scratch() as staged:
            with layer.blob.open() as stream:
                unpacked = unpack_root_layer(
                    stream,
                    os.path.join(staged, _FILES),
                    what,
                    media_type=layer.blob.descriptor.media_type,
                    diff_id=layer.diff_id,
                    on_bytes=on_bytes,
                )
            _log.info("%s: layer %s is unpacked, %d bytes", what, layer.diff_id, unpacked.size)
            with disk_errors(path, "written"):
                replace_file(os.path.join(staged, _RECORD), _encoded(unpacked))
                sync_tree(staged)
                try:
                    os.rename(staged, path)
                except OSError:
                    if not os.path.isdir(path):  # no other process was first
                        raise

    def _make_room(self) -> None:
        """Remove the layers that were not used for longest and that nobody uses, until the rest is within the limit."""
        layers = os.path.join(self._root, "layers")
        found = []
        for name in os.listdir(layers):
            path = os.path.join(layers, name)
            with suppress(OSError, ContentError):
                found.append((os.stat(os.path.join(path, _RECORD)).st_mtime, path, _record_of(path).size))
        total = sum(size for _, _, size in found)
        for _, path, size in sorted(found):
            if total <= self._most_bytes:
                return
            if self._forget(path):
                total -= size

    def _forget(self, path: str) -> bool:
        """Remove a layer unless somebody uses it; return whether it is gone."""
        try:
            descriptor = os.open(path, _OPEN)
        except FileNotFoundError:
            return True
        try:
            lock_folder(descriptor, wait=False)
            self._remove(path)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return not os.path.lexists(path)

    @staticmethod
    def _remove(path: str) -> None:
        folder, name = os.path.split(path)
        with suppress(FileNotFoundError):
            descriptor = os.open(folder, _OPEN)
            try:
                remove_tree(name, descriptor)
            finally:
                os.close(descriptor)


def _encoded(unpacked: UnpackedRoot) -> bytes:
    return json.dumps({"size": unpacked.size, "is_overlay": unpacked.is_overlay}).encode()


def _record_of(path: str) -> UnpackedRoot:
    """Read the record of a layer. Raises `OSError`, `ContentError`."""
    record = os.path.join(path, _RECORD)
    document = parse_json(read_regular(record, _MAX_RECORD, follow=False), record)
    return UnpackedRoot(integer_of(document, "size", record), document.get("is_overlay") is True)
