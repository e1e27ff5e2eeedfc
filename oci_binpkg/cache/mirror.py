"""A binary cache on a URL mirror, layout v3.

Source: Spack's build caches, layout 3: a manifest for each package names two blobs, its layer and its spec document.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import BinaryIO, Final

from oci_binpkg.backoff import USUAL, Backoff
from oci_binpkg.cache.mirror_manifest import (
    GZIP,
    INDEX_TYPE,
    INSTALL_TYPE,
    LAYOUT_BYTES,
    LAYOUT_PATH,
    MAX_MANIFEST_BYTES,
    MAX_SPEC_BYTES,
    NONE,
    SPEC_FOLDER,
    SPEC_TYPE,
    BlobRecord,
    MirrorManifest,
    blob_path,
    compressed,
    decompressed,
    hash_of_path,
    index_path,
    inflated,
    package_path,
    parse_mirror_manifest,
)
from oci_binpkg.cache.protocol import CacheEntry, Parts
from oci_binpkg.errors import (
    PUSH_AGAIN,
    REBUILD,
    ContentError,
    Hint,
    MissingBlobError,
    NotFoundError,
    Step,
    TransferError,
    UnsupportedError,
    UsageError,
    hinted,
)
from oci_binpkg.index.document import EMPTY, MAX_INDEX_BYTES, IndexDocument, LastIndex, index_of
from oci_binpkg.index.spool import Spool
from oci_binpkg.model.content import DOCKER_LAYER_GZIP, OCI_LAYER_GZIP, Blob, Descriptor, Digest
from oci_binpkg.model.documents import parse_json
from oci_binpkg.model.image import UNKNOWN_DIFF_ID, Layer
from oci_binpkg.model.reference import INDEX_TAG, PackageKey
from oci_binpkg.model.run_environment import (
    ENVIRONMENT_KEY,
    RunEnvironment,
    environment_document,
    parse_environment,
)
from oci_binpkg.model.spec_document import NodeReader, SpecDocument, check_layout, parse_spec_document, spec_document
from oci_binpkg.objects.protocol import Objects, exists
from oci_binpkg.parallel import in_turns
from oci_binpkg.signing.clearsign import is_clearsigned
from oci_binpkg.signing.index_trust import BELIEVED, IndexSignature, IndexTrust, looked_at, unvouched
from oci_binpkg.signing.judge import BELIEVING, UNSIGNED
from oci_binpkg.signing.statement import ANY_SITE, Signed, Signer, Site, Verifier
from oci_binpkg.store.verifying import VerifyingReader, is_sound

_ARCHIVE_FORMAT: Final = 2
"""What Spack writes as `buildcache_layout_version` into spec documents, also in layout 3: how the archive is made."""
_INSTALL_PREFIX: Final = "application/vnd.spack.install."
_SPEC_PREFIX: Final = "application/vnd.spack.spec."
_INDEX_PREFIX: Final = "application/vnd.spack.db."
_LAYERS: Final = frozenset({OCI_LAYER_GZIP, DOCKER_LAYER_GZIP})


@dataclass(frozen=True, slots=True)
class _KnownIndex:
    """The index manifest as it was last read: its version, what it names, and who signed it ("" if it is unsigned)."""

    etag: str
    record: BlobRecord
    signer: str = ""


class MirrorCache:
    """Packages below `v3` of a mirror. Layers that are found have no known diff_id: mirrors do not record it.

    `verifier` unwraps the manifests of packages and decides which to believe. `signer` signs those that are published,
    and indices; what others signed is signed anew when it is published again. `trust` is what is required of an index's
    signature, and `site` what signatures state. `view` names an index over a part of the mirror. `pause(round)` is
    called after a round of an index merge that another writer interfered with.
    """

    def __init__(
        self,
        objects: Objects,
        *,
        verifier: Verifier = UNSIGNED,
        signer: Signer | None = None,
        trust: IndexTrust = BELIEVED,
        site: Site = ANY_SITE,
        view: str = "",
        pause: Callable[[int], None],
        backoff: Backoff = USUAL,
    ) -> None:
        self._nodes = NodeReader()
        self._objects = objects
        self._verifier = verifier
        self._signer = signer
        self._trust = trust
        self._site = site
        self._index_tag = f"{INDEX_TAG}/{view}" if view else INDEX_TAG
        self._index = index_path(view)
        self._index_name = f"the view {view} of {objects.name}" if view else f"the index of {objects.name}"
        self._pause = pause
        self._rounds = backoff.merge_rounds
        self._known: _KnownIndex | None = None
        self._last_index = LastIndex(f"the index of {objects.name}")
        self._laid_out = False
        self._mends = False
        self._merging = threading.Lock()

    @property
    def name(self) -> str:
        """The mirror's URL."""
        return self._objects.name

    @property
    def verifies(self) -> bool:
        """Whether a package counts only with a good signature."""
        return self._verifier.required

    @property
    def proves_listing(self) -> bool:
        """Whether a package that a listing or an unsigned index names counts only after it was verified."""
        return self._trust.prove

    @property
    def images(self) -> None:
        """Nothing: a mirror keeps packages alone."""
        return None

    @property
    def is_local(self) -> bool:
        """Whether it is a folder."""
        return self._objects.name.startswith("file:")

    @property
    def has_views(self) -> bool:
        """Say yes: an index is a file among others."""
        return True

    @property
    def upload_growing(self) -> None:
        """Nothing: a file is written when its size and digest are known."""
        return None

    def mend(self) -> None:
        """From now on read blobs that are there, and replace what is damaged."""
        self._mends = True

    def batch(self) -> AbstractContextManager[None]:
        """Publish many packages, each at once."""
        return nullcontext()

    @property
    def objects(self) -> Objects:
        """The files of the mirror, for its keys."""
        return self._objects

    def hashes(self) -> Mapping[str, str]:
        """Return hash and manifest path of every package: one listing, or the index where nothing can be listed."""
        try:
            paths = list(self._objects.list(SPEC_FOLDER))
        except UnsupportedError:
            pass
        else:
            return {found: path for path in paths if (found := hash_of_path(path))}
        try:
            return self._indexed_hashes()
        except NotFoundError:
            raise NotFoundError(
                f"{self.name} has no index, and a web server does not list its packages",
                hint=Hint(Step.CHECK_ADDRESS_OR_REBUILD_INDEX),
            ) from None

    def find(self, key: PackageKey) -> CacheEntry:
        """Return a package: its spec document and layer. Manifest and spec are read, the layer is not."""
        return self._entry_at(package_path(key), key.hash)

    def entry(self, locator: str) -> CacheEntry:
        """Return the package whose manifest lies at a path, which names its hash."""
        return self._entry_at(locator, hash_of_path(locator) or "")

    def blobs(self, entry: CacheEntry) -> tuple[Blob, ...]:
        """Return the package's layer; its spec document was read with the entry."""
        return (entry.layer.blob,)

    def parts(self, locator: str) -> Parts:
        """Look at the parts of a package: its spec document and its layer."""
        what = f"{self.name}/{locator}"
        found = parse_mirror_manifest(BELIEVING.opened(self._document(locator), what)[0], what)
        for record in (found.record(_SPEC_PREFIX, what), found.record(_INSTALL_PREFIX, what)):
            if not exists(self._objects, record.path, size=record.size):
                return Parts(f"{record.path} is not there with its size of {record.size} bytes")
        return Parts()

    def holds(self, blob: Descriptor) -> bool:
        """Return whether a blob is there, with the right size."""
        return exists(self._objects, blob_path(blob.digest), size=blob.size)

    def upload(self, layer: Layer) -> bool:
        """Store a layer. Returns whether bytes were sent. Raises `UsageError` for one that is not gzip."""
        if layer.blob.descriptor.media_type not in _LAYERS:
            raise UsageError(
                f"{self.name} holds gzip layers, and this one is {layer.blob.descriptor.media_type}",
                hint=Hint(Step.GZIP_FOR_MIRROR),
            )
        return self._put(layer.blob)

    def publish(self, entry: CacheEntry) -> Digest:
        """Publish a package: layer, spec document, and last its manifest, which alone makes it visible."""
        self._lay_out()
        self.upload(entry.layer)
        spec = Blob.from_bytes(compressed(_spec_bytes(entry)), SPEC_TYPE)
        self._put(spec)
        layer = entry.layer.blob.descriptor
        manifest = MirrorManifest((_record(layer, INSTALL_TYPE, GZIP), _record(spec.descriptor, SPEC_TYPE, GZIP)))
        return self._put_manifest(entry.key, manifest.to_bytes())

    def read_index(self, known: Digest | None = None) -> IndexDocument | None:
        """Return the index; None if the digest of its document is `known`. Raises `NotFoundError` without an index."""
        record = self._index_record().record
        if record.digest == known:
            return None
        return self._last_index.read(record.digest, partial(self._index_document, record))

    def index_signature(self) -> IndexSignature:
        """Return who signed the index. Raises `NotFoundError` without an index."""
        data = self._document(self._index)
        trust = replace(self._trust, check=True, require=False)
        return looked_at(lambda: trust.opened(data, self._index_name, self._check_index)[1])

    def merge_index(self, added: IndexDocument, *, replace: bool = False) -> bool:
        """Merge into the index; concurrent writers lose nothing. Returns whether it had to be written.

        `replace` writes `added` in its place, whatever state it is in; other writers then merge into the new one.
        """
        self._trust.check_writer(self._index_name, signs=self._signer is not None)
        if replace:
            with self._merging:
                self._replace_index(added, None, vouched=True)
            return True

        def change(current: IndexDocument) -> IndexDocument | None:
            if current.digest is not None and current.holds(added):
                return None
            merged = current.merged(added)
            return merged if self._index != index_path() else merged.merged(self._unlisted(merged))

        return self._change_index(change)

    def _unlisted(self, index: IndexDocument) -> IndexDocument:
        """Read the packages that others have pushed and not entered. Those that are damaged are passed over."""
        try:
            paths = list(self._objects.list(SPEC_FOLDER))
        except UnsupportedError:
            return EMPTY

        def read(path: str) -> CacheEntry | None:
            try:
                return self.entry(path)
            except (NotFoundError, ContentError):
                return None

        listed = index.present()
        unlisted = [path for path in paths if (found := hash_of_path(path)) and found not in listed]
        return index_of((one.document.root, one.document.graph) for one in in_turns(read, unlisted) if one)

    def remove(self, key: PackageKey) -> None:
        """Remove a package's manifest, and its mark in the index. Its blobs stay: other manifests may name them.

        Raises `NotFoundError`.
        """

        def change(current: IndexDocument) -> IndexDocument | None:
            listed = key.hash in current.records and current.records.in_cache(key.hash)
            return current.without(key.hash) if listed else None

        self._trust.check_writer(self._index_name, signs=self._signer is not None)
        self._objects.remove(package_path(key))
        self._change_index(change)

    def _entry_at(self, path: str, package_hash: str) -> CacheEntry:
        what = f"{self.name}/{path}"
        data = self._document(path)
        with hinted(PUSH_AGAIN):
            text, signed = self._verifier.opened(data, what)
            found = parse_mirror_manifest(text, what)
            document, environment = self._spec_document(found.record(_SPEC_PREFIX, what), what)
            if document.root.hash != package_hash:
                raise ContentError(f"{what} holds another package: {document.root.short} ({document.root.hash})")
            key = PackageKey.of(document.root)
            if signed is not None:
                self._site.check(signed, key.tag, what)
            layer = found.record(_INSTALL_PREFIX, what)
            if layer.compression != GZIP:
                raise ContentError(f"{what}: the archive is not compressed with gzip")
        blob = self._blob(layer, OCI_LAYER_GZIP)
        made = Layer(blob, UNKNOWN_DIFF_ID)
        return CacheEntry(key, document, made, manifest=Digest.of(data), environment=environment, signed=signed)

    def _indexed_hashes(self) -> dict[str, str]:
        index = self.read_index()
        return {} if index is None else {spec.hash: package_path(PackageKey.of(spec)) for spec in index.packages()}

    def _document(self, path: str) -> bytes:
        found = self._objects.read(path, limit=MAX_MANIFEST_BYTES)
        assert found is not None  # no version was named
        return found.data

    def _spec_document(self, record: BlobRecord, what: str) -> tuple[SpecDocument, RunEnvironment]:
        where = f"{what}: the spec"
        document = parse_json(self._content(record, where, MAX_SPEC_BYTES), where, fold_case=False)
        check_layout(document, where)
        environment = parse_environment(document.get(ENVIRONMENT_KEY), f"{where}.{ENVIRONMENT_KEY}")
        return parse_spec_document(document, where, self._nodes), environment

    def _content(self, record: BlobRecord, what: str, limit: int) -> bytes:
        try:
            data = self._blob(record).read(limit=limit)
        except MissingBlobError as error:
            raise ContentError(f"{what} is not there: {error.message}", **error.fields) from error
        return decompressed(data, record.compression, what, limit)

    def _blob(self, record: BlobRecord, media_type: str = "") -> Blob:
        descriptor = record.descriptor(media_type)
        return Blob(descriptor, partial(open_verified, self._objects, record.path, descriptor))

    def _put(self, blob: Blob) -> bool:
        descriptor = blob.descriptor
        path = blob_path(descriptor.digest)
        if exists(self._objects, path, size=descriptor.size) and not (
            self._mends and not is_sound(Blob(descriptor, partial(self._objects.open, path)), self.name)
        ):
            return False
        where = f"put into {self.name}"
        self._objects.write(path, Blob(descriptor, partial(_checked, blob, where)))
        return True

    def _lay_out(self) -> None:
        if not self._laid_out:
            if not exists(self._objects, LAYOUT_PATH):
                self._objects.write(LAYOUT_PATH, LAYOUT_BYTES)
            self._laid_out = True

    def _put_manifest(self, key: PackageKey, data: bytes) -> Digest:
        """Write a package's manifest unless it is there already, signed if it is to be."""
        path = package_path(key)
        try:
            present = self._document(path)
        except NotFoundError:
            present = b""
        if self._says(present, data, key):
            return Digest.of(present)
        signed = self._signer.clear(data, self._site.statement(key.tag)) if self._signer else data
        self._objects.write(path, signed)
        return Digest.of(signed)

    def _says(self, present: bytes, data: bytes, key: PackageKey) -> bool:
        """Whether what is there already says the same, and is signed by us if we sign."""
        if not present or (self._signer is not None and not is_clearsigned(present)):
            return False
        try:
            what = f"{self.name}/{package_path(key)}"
            said, signed = (self._verifier if self._signer else BELIEVING).opened(present, what)
            if signed is not None:
                self._site.check(signed, key.tag, what)
        except ContentError:
            return False
        if signed is not None and self._signer is not None and not self._signer.made(signed):
            return False
        return said.strip() == data

    def _index_record(self) -> _KnownIndex:
        """Return what the index manifest names; it is sent again only if it is new, where the server knows versions."""
        known = self._known
        found = self._objects.read(self._index, known_etag=known.etag if known else "", limit=MAX_MANIFEST_BYTES)
        if found is None and known is not None:
            return known
        assert found is not None
        known = self._known = _KnownIndex(found.etag, *self.opened_index(found.data))
        return known

    def _index_document(self, record: BlobRecord) -> Spool:
        what = f"the index of {self.name}"
        try:
            return Spool.filled(
                inflated(self._blob(record).chunks(MAX_INDEX_BYTES), record.compression, what, MAX_INDEX_BYTES)
            )
        except MissingBlobError as error:
            raise ContentError(f"{what} is not there: {error.message}", **error.fields) from error

    @hinted(REBUILD)
    def opened_index(self, data: bytes) -> tuple[BlobRecord, str]:
        """Return what an index manifest names and who signed it. Raises `SignatureError` if that does not count."""
        text, signer = self._trust.opened(data, self._index_name, self._check_index)
        what = f"{self.name}/{self._index}"
        return parse_mirror_manifest(text, what).record(_INDEX_PREFIX, what), signer

    def _check_index(self, signed: Signed) -> None:
        self._site.check(signed, self._index_tag, self._index_name)

    def _current_index(self) -> tuple[IndexDocument, str | None, bool]:
        """Return the index, its manifest's version (None: it has none), and whether a signature vouches for it.

        Without an index: an empty one and "".
        """
        try:
            known = self._index_record()
        except NotFoundError:
            return EMPTY, "", True
        record = known.record
        index = self._last_index.read(record.digest, partial(self._index_document, record))
        return index, known.etag or None, bool(known.signer)

    def _change_index(self, change: Callable[[IndexDocument], IndexDocument | None]) -> bool:
        """Read, change, write if the index is unchanged, read back; again if another writer was faster.

        Reading back is for servers that do not know conditions.
        """
        with self._merging:
            for attempt in range(self._rounds):
                current, etag, vouched = self._current_index()
                changed = change(current)
                if changed is None:
                    return attempt > 0
                if self._replace_index(changed, etag, vouched=vouched):
                    return True
                self._pause(attempt)
            if change(self._current_index()[0]) is None:
                return True
        raise TransferError(
            f"the index of {self.name} was replaced by other writers {self._rounds} times in a row",
            hint="the packages themselves are there; run the command again to index them",
        )

    def _replace_index(self, index: IndexDocument, etag: str | None, *, vouched: bool) -> bool:
        """Write an index, signed if we sign; without `vouched` it is written unsigned, with a warning."""
        self._lay_out()
        text = index.to_spool()
        document = text.blob(INDEX_TYPE)
        self._put(document)
        manifest = MirrorManifest((_record(document.descriptor, INDEX_TYPE, NONE),))
        data = manifest.to_bytes()
        if self._signer is not None and vouched:
            data = self._signer.clear(data, self._site.statement(self._index_tag))
        if not self._objects.write(self._index, data, if_match=etag):
            return False
        self._last_index.keep(text, document.descriptor.digest)
        if self._signer is not None and not vouched:
            self._trust.warn(*unvouched(self.name))
        return self._index_record().record.digest == document.descriptor.digest


@contextmanager
def open_verified(objects: Objects, path: str, descriptor: Descriptor) -> Iterator[BinaryIO]:
    """Open an object that must have the size and digest of `descriptor` by the time its last byte is given out."""
    with _opened(objects, path) as stream, VerifyingReader(stream, descriptor, f"{objects.name}/{path}") as reader:
        yield reader


@contextmanager
def _opened(objects: Objects, path: str) -> Iterator[BinaryIO]:
    """Open a blob that a manifest names: without it, the manifest is damaged."""
    with ExitStack() as stack:
        try:
            stream = stack.enter_context(objects.open(path))
        except NotFoundError as error:
            raise MissingBlobError(error.message, hint=PUSH_AGAIN, **error.fields) from error
        yield stream


@contextmanager
def _checked(blob: Blob, where: str) -> Iterator[BinaryIO]:
    with blob.open() as stream:
        yield VerifyingReader(stream, blob.descriptor, where)


def _record(descriptor: Descriptor, media_type: str, compression: str) -> BlobRecord:
    return BlobRecord(media_type, compression, descriptor.digest, descriptor.size)


def _spec_bytes(entry: CacheEntry) -> bytes:
    spec = spec_document(entry.document.root, entry.document.graph)
    own = {ENVIRONMENT_KEY: environment_document(entry.environment)} if entry.environment else {}
    # escapes as Spack writes them, so that the same package is the same blob for every writer
    document = {**spec, "buildcache_layout_version": _ARCHIVE_FORMAT, **own}
    return json.dumps(document, separators=(",", ":")).encode("ascii")
