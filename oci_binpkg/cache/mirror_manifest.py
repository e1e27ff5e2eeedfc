"""Names and manifests of URL mirrors, layout v3. Values in, values out.

Source: Spack's build caches, layout 3. Documents have one value a line and no indent, because the lines of a
clear-signed message must stay short (OpenPGP, RFC 9580 section 7).
"""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from oci_binpkg.errors import ContentError
from oci_binpkg.model.content import Descriptor, Digest
from oci_binpkg.model.documents import integer_of, list_of, parse_json, text_of
from oci_binpkg.model.reference import PackageKey, check_view

LAYOUT_PATH: Final = "v3/layout.json"
LAYOUT_BYTES: Final = b'{"signing": "gpg"}'
SPEC_FOLDER: Final = "v3/manifests/spec"
INSTALL_TYPE: Final = "application/vnd.spack.install.v2.tar+gzip"
SPEC_TYPE: Final = "application/vnd.spack.spec.v5+json"
INDEX_TYPE: Final = "application/vnd.spack.db.v8+json"
GZIP: Final = "gzip"
NONE: Final = "none"
MAX_MANIFEST_BYTES: Final = 4 * 1024 * 1024
MAX_SPEC_BYTES: Final = 16 * 1024 * 1024
_VERSION: Final = 3
_SUFFIX: Final = ".spec.manifest.json"
_GZIP_LEVEL: Final = 6
_GZIP_WINDOW: Final = 31
_FREELY: Final = 16 * 1024 * 1024
_RATIO: Final = 64
"""How many times as large as it is stored a document may be, beyond `_FREELY`; those with many packages reach 20."""
_INFLATED: Final = 1024 * 1024
_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9_+.-]")


@dataclass(frozen=True, slots=True)
class BlobRecord:
    """A blob of a mirror. Size and digest are those of the bytes as stored; `compression` is `gzip` or `none`."""

    media_type: str
    compression: str
    digest: Digest
    size: int

    @property
    def path(self) -> str:
        """Where the blob lies."""
        return blob_path(self.digest)

    def descriptor(self, media_type: str = "") -> Descriptor:
        """Return the record as a descriptor, under another media type if one is given."""
        return Descriptor(media_type or self.media_type, self.digest, self.size)


@dataclass(frozen=True, slots=True)
class MirrorManifest:
    """What a manifest names, in its order."""

    records: tuple[BlobRecord, ...]

    def record(self, prefix: str, what: str) -> BlobRecord:
        """Return the one record whose media type begins with `prefix`. Raises `ContentError` unless there is one."""
        found = [record for record in self.records if record.media_type.startswith(prefix)]
        if len(found) != 1:
            raise ContentError(f"{what}: {len(found)} blobs of type {prefix}* where one is expected")
        return found[0]

    def to_bytes(self) -> bytes:
        """Encode as Spack does: one value a line, no indent, no newline at the end."""
        data = [
            {
                "contentLength": record.size,
                "mediaType": record.media_type,
                "compression": record.compression,
                "checksumAlgorithm": record.digest.algorithm,
                "checksum": record.digest.hex,
            }
            for record in self.records
        ]
        return json.dumps({"version": _VERSION, "data": data}, indent=0, separators=(",", ":")).encode()


def parse_mirror_manifest(data: bytes, what: str) -> MirrorManifest:
    """Parse a manifest. Raises `ContentError` with the field's path."""
    document = parse_json(data, what)
    version = integer_of(document, "version", what)
    if version != _VERSION:
        raise ContentError(f"{what}: a manifest of version {version}; {_VERSION} is understood")
    records = []
    for position, entry in enumerate(list_of(document, "data", what)):
        where = f"{what}.data[{position}]"
        if not isinstance(entry, dict):
            raise ContentError(f"{where}: an object is expected")
        compression = text_of(entry, "compression", where)
        algorithm = text_of(entry, "checksumAlgorithm", where)
        if compression not in (GZIP, NONE) or algorithm != "sha256":
            raise ContentError(
                f"{where}: {compression[:40]!r} with {algorithm[:40]!r}; gzip or none with sha256 is read"
            )
        digest = Digest(algorithm, text_of(entry, "checksum", where))
        size = integer_of(entry, "contentLength", where)
        records.append(BlobRecord(text_of(entry, "mediaType", where), compression, digest, size))
    return MirrorManifest(tuple(records))


def blob_path(digest: Digest) -> str:
    """Return where a blob lies: `blobs/sha256/XX/HEX`."""
    return f"blobs/{digest.algorithm}/{digest.hex[:2]}/{digest.hex}"


def package_path(key: PackageKey) -> str:
    """Return where a package's manifest lies; characters that file names may not have become `_`, as in Spack."""
    name = _NOT_IN_NAMES.sub("_", key.name)
    return f"{SPEC_FOLDER}/{name}/{_NOT_IN_NAMES.sub('_', f'{key.name}-{key.version}-{key.hash}')}{_SUFFIX}"


def index_path(view: str = "") -> str:
    """Return where the manifest of the index lies; `view` names one over a part of the mirror. Raises `UsageError`."""
    return f"v3/manifests/index/{f'{check_view(view)}/' if view else ''}index.manifest.json"


def hash_of_path(path: str) -> str | None:
    """Return the hash of the package whose manifest lies at `path`; None for another file."""
    if not path.endswith(_SUFFIX):
        return None
    return path.removesuffix(_SUFFIX).rpartition("-")[2]


def compressed(data: bytes) -> bytes:
    """Compress a small document; the same bytes for the same document, and those that Spack writes.

    Spack's text layer flushes before it closes, which leaves an empty block at the end of the stream.
    """
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=_GZIP_LEVEL, fileobj=buffer, mtime=0) as file:
        file.write(data)
        file.flush()
    return buffer.getvalue()


def decompressed(data: bytes, compression: str, what: str, limit: int) -> bytes:
    """Return a stored document's content. Raises `ContentError` if it is damaged or has more than `limit` bytes."""
    return b"".join(inflated([data], compression, what, limit))


def inflated(pieces: Iterable[bytes], compression: str, what: str, limit: int) -> Iterator[bytes]:
    """Iterate over a stored document's content. Raises like `decompressed`."""
    if compression == NONE:
        yield from pieces
        return
    reader = zlib.decompressobj(_GZIP_WINDOW)
    left, allowed = limit, _FREELY
    follows = False
    for piece in pieces:
        allowed += _RATIO * len(piece)
        follows = follows or reader.eof
        rest, more = piece, False
        while (rest or more) and not reader.eof:
            try:
                plain = reader.decompress(rest, _INFLATED)
            except zlib.error as error:
                raise ContentError(f"{what}: not a gzip stream: {error}") from None
            rest, more = reader.unconsumed_tail, len(plain) == _INFLATED
            left -= len(plain)
            allowed -= len(plain)
            if allowed < 0:
                raise ContentError(f"{what}: grows more than {_RATIO}-fold when it is decompressed")
            if left < 0:
                raise ContentError(f"{what}: more than {limit} bytes uncompressed")
            yield plain
    if not reader.eof or reader.unused_data or follows:
        raise ContentError(f"{what}: the gzip stream is cut off, or something follows it")
