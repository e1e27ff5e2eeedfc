"""A binary cache on a URL mirror, layout v2: what Spack wrote before version 1.0. Read only.

Source: Spack's build caches, layout 2: `build_cache/STEM.spec.json[.sig]` and
`build_cache/ARCH/COMPILER/NAME-VERSION/STEM.spack`, where STEM is ARCH-COMPILER-NAME-VERSION-HASH.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Final

from oci_binpkg.cache.mirror import open_verified
from oci_binpkg.cache.mirror_manifest import MAX_SPEC_BYTES
from oci_binpkg.cache.protocol import CacheEntry, Parts
from oci_binpkg.errors import ContentError, Hint, NotFoundError, Step, UnsupportedError
from oci_binpkg.events import Observer, Warned, ignore
from oci_binpkg.index.document import MAX_INDEX_BYTES, IndexDocument, LastIndex
from oci_binpkg.index.spool import Spool
from oci_binpkg.model.content import OCI_LAYER_GZIP, Blob, Descriptor, Digest
from oci_binpkg.model.documents import integer_of, object_of, parse_json, text_of
from oci_binpkg.model.image import UNKNOWN_DIFF_ID, Layer
from oci_binpkg.model.reference import PackageKey
from oci_binpkg.model.spec import Spec
from oci_binpkg.model.spec_document import NodeReader, parse_spec_document
from oci_binpkg.objects.protocol import Objects
from oci_binpkg.signing.index_trust import NOT_SIGNED, IndexSignature
from oci_binpkg.signing.judge import UNSIGNED
from oci_binpkg.signing.statement import ANY_SITE, Site, Verifier

FOLDER: Final = "build_cache"
_INDEX: Final = f"{FOLDER}/index.json"
_INDEX_HASH: Final = f"{FOLDER}/index.json.hash"
_SUFFIXES: Final = (".spec.json.sig", ".spec.json")
_LAYOUT: Final = 2
_HEX: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_MAX_HASH_BYTES: Final = 1024
_CHUNK: Final = 256 * 1024


class MirrorV2Cache:
    """Packages below `build_cache` of a mirror. Its layers have no known diff_id; nothing can be published.

    `verifier` unwraps spec documents and decides which to believe; with `prove` those that the index lists are verified
    before they are reported. `observer` hears once that the layout is old.
    """

    def __init__(
        self,
        objects: Objects,
        *,
        verifier: Verifier = UNSIGNED,
        prove: bool = False,
        site: Site = ANY_SITE,
        observer: Observer = ignore,
    ) -> None:
        self._nodes = NodeReader()
        self._objects = objects
        self._verifier = verifier
        self._prove = prove
        self._site = site
        self._observer = observer
        self._warned = False
        self._lock = threading.Lock()
        self._index: IndexDocument | None = None
        self._last_index = LastIndex(f"the index of {objects.name}")
        self._listed: Mapping[str, str] | None = None

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
        """Whether a package that a listing or the index names counts only after it was verified."""
        return self._prove

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
        """Say no: they came with layout 3."""
        return False

    def hashes(self) -> Mapping[str, str]:
        """Return hash and spec path of every package: one listing, or the index where nothing can be listed."""
        self._warn()
        try:
            return self._listing()
        except UnsupportedError:
            index = self.read_index()
            assert index is not None  # no digest was named
            return {spec.hash: f"{FOLDER}/{stem}.spec.json" for spec in index.packages() if (stem := _stem_of(spec))}

    def find(self, key: PackageKey) -> CacheEntry:
        """Return a package. Its path needs architecture and compiler, which come from the index or a listing.

        Raises `NotFoundError`, `ContentError`; `UnsupportedError` if there is neither an index nor a listing.
        """
        self._warn()
        stem = self._indexed_stem(key)
        if stem:
            try:
                return self._entry_at(stem, key.hash)
            except NotFoundError:
                pass  # a stale index: the package may lie elsewhere
        try:
            path = self._listing().get(key.hash)
        except UnsupportedError:
            if self._has_index():
                raise self._absent(key) from None
            raise
        if path is None:
            raise self._absent(key)
        return self._entry_at(_stem_of_path(path), key.hash)

    def entry(self, locator: str) -> CacheEntry:
        """Return the package whose spec document lies at a path, which names its hash."""
        self._warn()
        stem = _stem_of_path(locator)
        return self._entry_at(stem, stem.rpartition("-")[2])

    def blobs(self, entry: CacheEntry) -> tuple[Blob, ...]:
        """Return the package's layer; its spec document was read with the entry."""
        return (entry.layer.blob,)

    def parts(self, locator: str) -> Parts:
        """Look at the parts of a package: its archive, without which it has no entry."""
        self.entry(locator)
        return Parts()

    def holds(self, blob: Descriptor) -> bool:
        """Return whether a blob has a size: an entry takes its archive's, and this layout names no blobs by digest."""
        return blob.size > 0

    def read_index(self, known: Digest | None = None) -> IndexDocument | None:
        """Return the index; None if its digest is `known`. `index.json.hash` has it, if it exists.

        Raises `NotFoundError` if the mirror has no index.
        """
        self._warn()
        with self._lock:
            have = self._index
        said = self._index_hash() if known is not None or have is not None else ""
        if known is not None and said == known.hex:
            return None
        if have is None or have.digest is None or said != have.digest.hex:
            text = Spool.filled(self._index_text())
            with self._lock:
                have = self._index = self._last_index.read(text.digest, lambda: text)
        return None if have.digest == known else have

    def index_signature(self) -> IndexSignature:
        """Return that the index is unsigned: this layout has no signatures of indices."""
        return NOT_SIGNED

    def _index_text(self) -> Iterator[bytes]:
        left = MAX_INDEX_BYTES
        with self._objects.open(_INDEX) as stream:
            while chunk := stream.read(_CHUNK):
                left -= len(chunk)
                if left < 0:
                    raise ContentError(f"{self.name}/{_INDEX} is larger than {MAX_INDEX_BYTES} bytes")
                yield chunk

    def _index_hash(self) -> str:
        """Return what `index.json.hash` says, "" if it is missing or says nothing. It may be older than the index."""
        try:
            found = self._objects.read(_INDEX_HASH, limit=_MAX_HASH_BYTES)
        except (NotFoundError, ContentError):
            return ""
        text = found.data.decode("ascii", errors="replace").strip() if found else ""
        return text if _HEX.fullmatch(text) else ""

    def _has_index(self) -> bool:
        try:
            return self._known_index() is not None
        except NotFoundError:
            return False

    def _known_index(self) -> IndexDocument | None:
        """Return the index as it was read once; for looking up paths its age does not matter."""
        with self._lock:
            have = self._index
        return have or self.read_index()

    def _indexed_stem(self, key: PackageKey) -> str:
        try:
            index = self._known_index()
        except NotFoundError:
            return ""
        record = index.records.get(key.hash) if index else None
        return _stem_of(record.spec) if record else ""

    def _listing(self) -> Mapping[str, str]:
        """List the spec documents, once: hash -> path, a signed one before an unsigned one."""
        with self._lock:
            if self._listed is None:
                paths = [path for path in self._objects.list(FOLDER) if path.endswith(_SUFFIXES)]
                ordered = sorted(paths, key=lambda path: path.endswith(_SUFFIXES[0]))
                self._listed = {_stem_of_path(path).rpartition("-")[2]: path for path in ordered}
            return self._listed

    def _entry_at(self, stem: str, package_hash: str) -> CacheEntry:
        path, data = self._spec_file(stem)
        what = f"{self.name}/{path}"
        text, signed = self._verifier.opened(data, what)
        raw = parse_json(text, what, fold_case=False)
        document = parse_spec_document(raw, what, self._nodes)
        if document.root.hash != package_hash:
            raise ContentError(f"{what} holds another package: {document.root.short} ({document.root.hash})")
        key = PackageKey.of(document.root)
        if signed is not None:
            self._site.check(signed, key.tag, what)
        layer = self._layer(raw, document.root, stem, what)
        return CacheEntry(key, document, layer, manifest=Digest.of(data), signed=signed)

    def _spec_file(self, stem: str) -> tuple[str, bytes]:
        for suffix in _SUFFIXES:
            path = f"{FOLDER}/{stem}{suffix}"
            try:
                found = self._objects.read(path, limit=MAX_SPEC_BYTES)
            except NotFoundError:
                continue
            assert found is not None  # no version was named
            return path, found.data
        raise NotFoundError(f"{self.name} does not hold {FOLDER}/{stem}.spec.json")

    def _layer(self, raw: Mapping[str, Any], spec: Spec, stem: str, what: str) -> Layer:
        layout = integer_of(raw, "buildcache_layout_version", what) if "buildcache_layout_version" in raw else 0
        if layout != _LAYOUT:
            raise ContentError(
                f"{what}: an archive of layout {layout}; {_LAYOUT} is understood", hint="push the package again"
            )
        checksum = object_of(raw, "binary_cache_checksum", what)
        algorithm = text_of(checksum, "hash_algorithm", f"{what}.binary_cache_checksum")
        digest = Digest(algorithm, text_of(checksum, "hash", f"{what}.binary_cache_checksum"))
        path = _archive_path(spec, stem, what)
        try:
            size = self._objects.size(path)
        except NotFoundError:
            raise ContentError(f"{what}: its archive is not there: {path}") from None
        descriptor = Descriptor(OCI_LAYER_GZIP, digest, size)
        return Layer(Blob(descriptor, partial(open_verified, self._objects, path, descriptor)), UNKNOWN_DIFF_ID)

    def _absent(self, key: PackageKey) -> NotFoundError:
        return NotFoundError(f"{self.name} does not hold {key.name}@{key.version}/{key.hash[:7]}")

    def _warn(self) -> None:
        with self._lock:
            first, self._warned = not self._warned, True
        if first:
            self._observer(Warned(f"{self.name} has the old layout 2, which is only read", Hint(Step.COPY_CACHE)))


def _stem_of(spec: Spec) -> str:
    """Return ARCH-COMPILER-NAME-VERSION-HASH, "" for a spec without a compiler of its own (they came with layout 3)."""
    if spec.compiler is None:
        return ""
    compiler, version = spec.compiler
    return f"{spec.arch}-{compiler}-{version}-{_named(spec)}-{spec.hash}"


def _named(spec: Spec) -> str:
    return f"{spec.name}-{spec.version}"


def _stem_of_path(path: str) -> str:
    stem = path.removeprefix(f"{FOLDER}/")
    for suffix in _SUFFIXES:
        stem = stem.removesuffix(suffix)
    return stem


def _archive_path(spec: Spec, stem: str, what: str) -> str:
    """Return where the archive lies. The compiler is what stands in the stem between architecture and name."""
    head, tail = f"{spec.arch}-", f"-{_named(spec)}-{spec.hash}"
    if not (stem.startswith(head) and stem.endswith(tail) and len(stem) > len(head) + len(tail)):
        raise ContentError(f"{what}: the file's name is not that of {spec.short}")
    compiler = stem[len(head) : len(stem) - len(tail)]
    return f"{FOLDER}/{spec.arch}/{compiler}/{_named(spec)}/{stem}.spack"
