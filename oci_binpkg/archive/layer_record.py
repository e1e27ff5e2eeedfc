"""What the layer cache knows of a layer, and what a layer depends on."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from dataclasses import asdict, dataclass
from typing import Any, Final

from oci_binpkg.archive.binary_distribution import Distribution, Relocations
from oci_binpkg.archive.codec import Codec
from oci_binpkg.archive.tar_writer import TarSummary, walk
from oci_binpkg.disk import FileTooLargeError, NotRegularError, read_regular
from oci_binpkg.errors import ContentError, PackError
from oci_binpkg.model.content import Digest
from oci_binpkg.model.documents import all_text, integer_of, list_of, object_of, parse_json, text_of

_MAX_BYTES: Final = 256 * 1024 * 1024
FORMAT: Final = 1
"""Part of every key; another number makes all layers anew."""


@dataclass(frozen=True, slots=True)
class CachedLayer:
    """A layer in the cache: its key, digest and size, the tar's digest and size, and what is in the tar."""

    key: str
    digest: Digest
    size: int
    diff_id: Digest
    uncompressed_size: int
    summary: TarSummary


def layer_key(package_hash: str, prefix: str, codec: Codec, distribution: Distribution) -> str:
    """Return the key (64 hex digits) of a package's layer: everything its bytes depend on but the files themselves."""
    parts = {
        "format": FORMAT,
        "hash": package_hash,
        "prefix": prefix,
        "codec": codec.cache_identity,
        "distribution": distribution.header,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode("utf-8")).hexdigest()


def tree_fingerprint(prefix: str) -> str:
    """Return a digest (64 hex digits) over path, mode, size, mtime and link target of all that a tar would hold.

    No file is opened. Raises `PackError` for a tree that cannot be walked.
    """
    digest = hashlib.sha256()
    for directory in walk(prefix):
        digest.update(os.fsencode(f"{directory.relative}\0d\0"))
        for entry in directory.others:
            try:
                status = entry.stat(follow_symlinks=False)
                target = os.readlink(entry.path) if stat.S_ISLNK(status.st_mode) else ""
            except OSError as error:
                raise PackError(f"{entry.path}: cannot be read: {error.strerror or error}") from error
            facts = (directory.within(entry), oct(status.st_mode), status.st_size, status.st_mtime_ns, target)
            digest.update(os.fsencode("\0".join(map(str, facts)) + "\0"))
    return digest.hexdigest()


def encode_record(fingerprint: str, cached: CachedLayer) -> bytes:
    """Encode what `read_record` reads."""
    document = {
        "key": cached.key,
        "fingerprint": fingerprint,
        "digest": str(cached.digest),
        "size": cached.size,
        "diff_id": str(cached.diff_id),
        "uncompressed_size": cached.uncompressed_size,
        "summary": asdict(cached.summary),
    }
    return json.dumps(document).encode("utf-8")


def read_record(path: str) -> tuple[str, CachedLayer]:
    """Read a record: the fingerprint of the tree, and the layer. Raises `ContentError` for anything else."""
    try:
        return _parse_record(parse_json(read_regular(path, _MAX_BYTES, follow=False), path), path)
    except (NotRegularError, FileTooLargeError) as error:
        raise ContentError(f"{path}: {error.strerror}") from None


def _parse_record(document: dict[str, Any], what: str) -> tuple[str, CachedLayer]:
    summary = object_of(document, "summary", what)
    relocations = object_of(summary, "relocations", what)
    lists = (all_text(list_of(relocations, name, what), what) for name in ("binaries", "links", "textfiles"))
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
            all_text(list_of(summary, "skipped", what), what),
            Relocations(*lists),
        ),
    )
    return text_of(document, "fingerprint", what), cached
