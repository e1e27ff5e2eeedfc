"""Fetch a package's spec and archive without installing it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass

from oci_binpkg.disk import disk_errors, make_folder, replacing
from oci_binpkg.errors import ContentError, Hint, NotFoundError, SignatureError, Step
from oci_binpkg.model.content import Blob
from oci_binpkg.model.query import Query
from oci_binpkg.model.spec import Spec
from oci_binpkg.model.spec_document import spec_document
from oci_binpkg.ops.sources import Sources

_CHUNK = 1024 * 1024
_ENDINGS = {"zstd": ".tar.zst", "gzip": ".tar.gz"}


@dataclass(frozen=True, slots=True)
class Downloaded:
    """Where the spec document and the archive of a package were written, and the cache they came from.

    `passed_over` are the reasons of the caches that were asked before it and did not give it.
    """

    spec: Spec
    cache: str
    document: str
    archive: str
    passed_over: tuple[str, ...] = ()


def download(sources: Sources, queries: Sequence[Query], destination: str) -> list[Downloaded]:
    """Write `NAME-VERSION-HASH.spec.json` and `.tar.gz` (or `.tar.zst`) of the packages into a folder.

    Raises `NotFoundError` with the reason of each cache, `SignatureError`, `LocalDiskError`.
    """
    resolution = sources.resolve(queries)
    return [_fetch(sources, spec, destination) for spec in resolution.roots]


def _fetch(sources: Sources, spec: Spec, destination: str) -> Downloaded:
    passed: list[str] = []
    base = os.path.join(destination, f"{spec.name}-{spec.version}-{spec.hash}".replace("/", "_"))
    for found in sources.candidates(spec, passed):
        blob = found.entry.layer.blob
        archive = base + _ENDINGS["zstd" if blob.descriptor.media_type.endswith("zstd") else "gzip"]
        try:
            _write(blob, archive)
        except (ContentError, NotFoundError) as error:
            passed.append(f"{found.cache}: {error.message}")
            continue
        document = spec_document(found.entry.document.root, found.entry.document.graph)
        _write(Blob.from_bytes(json.dumps(document, separators=(",", ":")).encode()), f"{base}.spec.json")
        return Downloaded(spec, found.cache, f"{base}.spec.json", archive, tuple(passed))
    failure = sources.failures.get(spec.hash)
    if isinstance(failure, SignatureError):
        raise failure.again() from failure
    raise NotFoundError(f"{spec.short} is not available: {'; '.join(passed)}", hint=Hint(Step.ANOTHER_CACHE))


def _write(blob: Blob, path: str) -> None:
    """Write a blob, verified by the store it comes from, under its final name only when it is whole."""
    with disk_errors(path, "written"):
        make_folder(os.path.dirname(path))
    with replacing(path, failing=lambda: disk_errors(path, "written")) as write, blob.open() as stream:
        while chunk := stream.read(_CHUNK):
            write(chunk)
