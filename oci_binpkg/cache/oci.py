"""A binary cache in a content store: a package is an image whose configuration carries the spec.

Source: Spack's OCI build caches: tags `NAME-VERSION-HASH.spack`, the index under `index.spack`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Final

from oci_binpkg.backoff import USUAL, Backoff
from oci_binpkg.cache.protocol import CacheEntry, Parts
from oci_binpkg.errors import (
    ASK_AGAIN,
    PUSH_AGAIN,
    REBUILD,
    ContentError,
    Hint,
    NotFoundError,
    SignatureError,
    Step,
    TransferError,
    hinted,
)
from oci_binpkg.index.document import EMPTY, MAX_INDEX_BYTES, IndexDocument, LastIndex, index_of
from oci_binpkg.index.spool import Spool
from oci_binpkg.log import Log
from oci_binpkg.model.content import OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST, Blob, Descriptor, Digest, Growing
from oci_binpkg.model.documents import object_of, text_of
from oci_binpkg.model.image import MISSING_KEY, Image, Layer
from oci_binpkg.model.manifest import MAX_MANIFEST_BYTES, Index, Manifest, parse_manifest
from oci_binpkg.model.reference import INDEX_TAG, PackageKey, hash_of_tag, is_package_tag
from oci_binpkg.model.run_environment import ENVIRONMENT_KEY, parse_environment
from oci_binpkg.model.spec_document import NodeReader, check_layout, parse_spec_document
from oci_binpkg.parallel import in_turns
from oci_binpkg.signing.index_trust import BELIEVED, IndexSignature, IndexTrust, looked_at, unvouched
from oci_binpkg.signing.judge import BELIEVING
from oci_binpkg.signing.statement import ANY_SITE, Signed, Signer, Site, Verifier
from oci_binpkg.store.images import StoredImage, blob_of, read_image, read_manifest
from oci_binpkg.store.protocol import BatchesTags, MendsContent, Store, TakesGrowing
from oci_binpkg.store.referrers import attach_signature, iter_signatures, signatures
from oci_binpkg.store.verified import VerifiedStore

_LOOKS: Final = 3
_log: Final = Log("index")
"""How often a required signature is looked for: some registries list attached artifacts with a delay."""
_PREFIXES: Final = "CMAKE_PREFIX_PATH="


def verified_store(store: Store, verifier: Verifier, site: Site) -> VerifiedStore[Signed]:
    """Return a store that requires signatures: made for the tag, and for this place."""

    def judge(data: bytes, signatures: Iterable[bytes], tag: str, what: str) -> Signed:
        def accept(signed: Signed) -> None:
            site.check(signed, tag or signed.statement.tag, what)

        return verifier.judged(data, signatures, what, accept=accept)

    return VerifiedStore(store, judge)


class OciCache:
    """Packages in a registry repository, an OCI image layout or memory.

    `pause(round)` is called after a round of an index merge that another writer interfered with. With a `verifier` that
    requires signatures a package or image counts only if its manifest's exact bytes are signed. With a `signer` what is
    published is signed, and the index. `trust` is what is required of an index's signature, and `site` what signatures
    state.
    """

    def __init__(
        self,
        store: Store,
        *,
        pause: Callable[[int], None],
        backoff: Backoff = USUAL,
        verifier: Verifier = BELIEVING,
        signer: Signer | None = None,
        trust: IndexTrust = BELIEVED,
        site: Site = ANY_SITE,
    ) -> None:
        self._nodes = NodeReader()
        self._store = store
        self._signed = verified_store(store, verifier, site) if verifier.required else None
        self._read: Store = self._signed or store
        self._pause = pause
        self._rounds = backoff.merge_rounds
        self._list_rounds = backoff.list_rounds
        self._signer = signer
        self._verifier = verifier
        self._trust = trust
        self._site = site
        self._vouched: set[Digest] = set()
        self._last_index = LastIndex(f"the index of {store.name}")

    @property
    def name(self) -> str:
        """The store's name."""
        return self._store.name

    @property
    def verifies(self) -> bool:
        """Whether a package counts only with a good signature of its own."""
        return self._signed is not None

    @property
    def signs(self) -> bool:
        """Whether what is published is signed."""
        return self._signer is not None

    @property
    def proves_listing(self) -> bool:
        """Whether a package that a listing or an unsigned index names counts only after it was verified."""
        return self._trust.prove

    @property
    def store(self) -> Store:
        """The store behind the cache, for images under tags of their own, with the same signatures required."""
        return self._read

    @property
    def images(self) -> OciCache:
        """The cache itself: it keeps images."""
        return self

    @property
    def is_local(self) -> bool:
        """Whether the store has no address: a layout, or memory."""
        return not self._store.address

    @property
    def has_views(self) -> bool:
        """Say no: a store has one index."""
        return False

    def hashes(self) -> Mapping[str, str]:
        """Return hash and tag of every package, from one listing of the tags."""
        with hinted(ASK_AGAIN):
            return {hash_of_tag(tag): tag for tag in self._store.tags() if is_package_tag(tag)}

    def find(self, key: PackageKey) -> CacheEntry:
        """Return a package: its spec document and layer. Two requests, nothing downloaded but manifest and config."""
        with hinted(PUSH_AGAIN):
            return self._entry_of(self._image(key.tag), key)

    def entry(self, locator: str, manifest: Digest | None = None) -> CacheEntry:
        """Return the package under a tag, whose hash must be the tag's; `manifest` if it was resolved already."""
        with hinted(PUSH_AGAIN):
            image = self._image(str(manifest) if manifest else locator)
            found = self._entry_of(image, PackageKey("", "", hash_of_tag(locator)), tag=locator)
        return replace(found, key=PackageKey.of(found.document.root))

    def blobs(self, entry: CacheEntry) -> tuple[Blob, ...]:
        """Return all layers of a package's image."""
        return tuple(blob_of(self._store, layer) for layer in entry.layers)

    def parts(self, locator: str) -> Parts:
        """Look at the parts of a package: its configuration and its own layer."""
        _, manifest = read_manifest(self._store, self._store.resolve(locator))
        if not isinstance(manifest, Manifest) or not manifest.layers:
            raise ContentError(f"{self.name}:{locator} is not a package")
        needed = (manifest.config, manifest.layers[-1])
        gone = next((each for each in needed if not self._store.exists(each)), None)
        lacking = tuple(manifest.annotations.get(MISSING_KEY, "").split())
        return Parts(f"{gone.digest} is not there with its size of {gone.size} bytes" if gone else "", lacking)

    def holds(self, blob: Descriptor) -> bool:
        """Return whether a blob is there, with the right size."""
        return self._store.exists(blob)

    def _entry_of(self, image: StoredImage, key: PackageKey, *, tag: str = "") -> CacheEntry:
        """Return the package that a stored image is. Raises `ContentError` for another image or package."""
        what = f"{self.name}:{tag or key.tag}"
        document = image.config.document
        if "spec" not in document or not image.manifest.layers:
            raise ContentError(
                f"{what} is an image, but not a package: its config has no spec",
                hint=Hint(Step.INSPECT_IMAGE),
            )
        check_layout(document, what)
        layer = image.manifest.layers[-1]
        filled = sum(not entry.get("empty_layer") for entry in image.config.history)
        if image.config.history and filled != len(image.manifest.layers):
            raise ContentError(f"{what}: a history of {filled} layers, a manifest of {len(image.manifest.layers)}")
        checksum = object_of(document, "binary_cache_checksum", f"{what} config")
        if text_of(checksum, "hash", f"{what} config.binary_cache_checksum") != layer.digest.hex:
            raise ContentError(f"{what}: the config names another layer than the manifest's last, {layer.digest}")
        spec = parse_spec_document({"spec": document["spec"]}, f"{what} config", self._nodes)
        if spec.root.hash != key.hash:
            raise ContentError(f"{what} holds another package: {spec.root.short} ({spec.root.hash})")
        signed = self._signed_for(image.descriptor, tag or key.tag, what)
        made = Layer(blob_of(self._store, layer), image.config.diff_ids[-1])
        return CacheEntry(
            key,
            spec,
            made,
            prefix=_prefix_of(image.config.env),
            manifest=image.descriptor.digest,
            layers=image.manifest.layers,
            env=image.config.env,
            environment=parse_environment(document.get(ENVIRONMENT_KEY), f"{what} config.{ENVIRONMENT_KEY}"),
            signed=signed,
        )

    def _image(self, reference: str) -> StoredImage:
        """Read an image under a tag or digest, signed if that is required: for this tag, which is checked last."""
        if self._signed is None:
            return read_image(self._store, reference)
        descriptor = self._store.resolve(reference)
        self._signed.judged(descriptor, what=f"{self.name}:{reference}")
        return read_image(self._signed, str(descriptor.digest))

    def _signed_for(self, manifest: Descriptor, tag: str, what: str) -> Signed | None:
        """Return who signed a manifest for a tag; None if signatures are not required. Raises `SignatureError`."""
        if self._signed is None:
            return None
        found = self._signed.judged(manifest)
        try:
            self._site.check(found, tag, what)
        except SignatureError:
            return self._signed.judged(manifest, tag, what)  # of several signatures, another may be for this tag
        return found

    def upload(self, layer: Layer) -> bool:
        """Store a layer. Returns whether bytes were sent."""
        return self._store.put(layer.blob)

    @property
    def upload_growing(self) -> Callable[[Growing], bool] | None:
        """Send a layer while it is being made; return whether it arrived. None where that saves nothing."""
        return self._store.put_growing if isinstance(self._store, TakesGrowing) else None

    def publish(self, entry: CacheEntry) -> Digest:
        """Publish the entry's image under the package's tag."""
        if entry.image is None:
            raise ValueError("a package in an OCI cache is an image")
        self.publish_image(entry.image, entry.key.tag)
        return entry.image.manifest.descriptor.digest

    def publish_image(self, image: Image, tag: str) -> None:
        """Store an image and tag it: layers that are not there yet, config, manifest, signature if we sign, tag."""
        self._put_content(image)
        self.publish_manifest(image.manifest, tag)

    def signatures(self, manifest: Descriptor) -> list[bytes]:
        """Return all signatures that are attached to a manifest, by any key."""
        return signatures(self._store, manifest)

    def publish_manifest(self, manifest: Blob, tag: str, signatures: Sequence[bytes] = ()) -> None:
        """Tag a manifest or index of which all content is there, with these signatures of it, and ours if we sign.

        With the tag "" it is stored by its digest alone.
        """
        # the signatures first: a reader that wants one never sees the tag without it
        if self._signer is not None or signatures:
            self._store.put(manifest)
        for each in signatures:
            attach_signature(self._store, manifest.descriptor, each, pause=self._pause, rounds=self._list_rounds)
        if self._signer is not None and not self._is_signed_by_us(manifest, tag):
            signature = self._signer.beside(manifest.read(), self._site.statement(tag))
            attach_signature(self._store, manifest.descriptor, signature, pause=self._pause, rounds=self._list_rounds)
        if tag:
            self._store.tag(manifest, tag)
        else:
            self._store.put(manifest)

    def _is_signed_by_us(self, manifest: Blob, tag: str) -> bool:
        """Return whether an image has our signature for its tag: it may be pushed each night, and signatures add up.

        Packages are pushed once and not looked at.
        """
        signer = self._signer
        if signer is None or not self._verifier.required or is_package_tag(tag):
            return False

        def accept(signed: Signed) -> None:
            if signed.statement != self._site.statement(tag) or not signer.made(signed):
                raise SignatureError(f"{self.name}:{tag} is signed by somebody else, or for something else")

        found = iter_signatures(self._store, manifest.descriptor)
        try:
            self._verifier.judged(manifest.read(), found, f"{self.name}:{tag}", accept=accept)
        except SignatureError:
            return False
        return True

    def mend(self) -> None:
        """From now on read content that is there, and replace what is damaged. A registry keeps what it has."""
        if isinstance(self._store, MendsContent):
            self._store.mend()

    def batch(self) -> AbstractContextManager[None]:
        """Publish many packages. Where it costs less, the last tags are written together, at the end of the block."""
        return self._store.batch() if isinstance(self._store, BatchesTags) else nullcontext()

    def put_image(self, image: Image) -> None:
        """Store an image by its digest only, to be listed in an index."""
        self._put_content(image)
        self._store.put(image.manifest)

    def read_index(self, known: Digest | None = None) -> IndexDocument | None:
        """Return the index; None if the digest of its document is `known`. Two requests, one when it is known."""
        layer = self.index_layer()
        return None if layer.digest == known else self._last_index.read(layer.digest, partial(self._document, layer))

    def index_signature(self) -> IndexSignature:
        """Return who signed the index. Raises `NotFoundError` without an index."""
        descriptor, data, _ = self._stored_index()
        found = signatures(self._store, descriptor)
        trust = replace(self._trust, require=False)
        return looked_at(lambda: trust.judged(data, found, self._index_name, self._check_index))

    def merge_index(self, added: IndexDocument, *, replace: bool = False) -> bool:
        """Merge into the index; write, read back, and again if another writer's version replaced ours.

        Registries cannot write on a condition: a write may replace entries of a writer that read its own back and is
        gone. Packages are tagged before they are indexed, so the last writer lists the tags and enters what is missing.
        Whatever the order of writes, the last writer looks again and finds everything there.
        """
        self._trust.check_writer(self._index_name, signs=self._signer is not None)
        unusable: set[str] = set()
        conflicts = 0
        for attempt in range(self._rounds + _LOOKS):
            anew = replace and attempt == 0
            current, vouched = (EMPTY, True) if anew else self._current_index()
            if current.digest is not None and current.holds(added):
                return attempt > 0
            merged = added if anew else current.merged(added)
            written = self._write_index(merged, vouched=vouched)
            if written == self.index_layer().digest:
                missing = self._unlisted(merged) - unusable
                if not missing:
                    return True
                self._pause(attempt)
                # unchanged after a while: no other writer is about to enter them
                if written == self.index_layer().digest:
                    added = added.merged(self._read_packages(missing, unusable))
            else:
                _log.info("the index of %s was replaced by another writer: it is merged again", self.name)
                conflicts += 1
                if conflicts == self._rounds:
                    break
                self._pause(attempt)
        if not self._current_index()[0].holds(added):
            raise TransferError(
                f"the index of {self.name} was replaced by other writers {self._rounds} times in a row",
                hint=Hint(Step.UPDATE_INDEX_AGAIN),
            )
        return True

    def _unlisted(self, index: IndexDocument) -> set[str]:
        listed = index.present()
        return {tag for each, tag in self.hashes().items() if each not in listed}

    def _read_packages(self, tags: Iterable[str], unusable: set[str]) -> IndexDocument:
        """Read packages by their tags; tags without a sound package join `unusable`."""

        def read(tag: str) -> CacheEntry | None:
            try:
                return self.entry(tag)
            except (NotFoundError, ContentError):
                unusable.add(tag)
                return None

        return index_of((one.document.root, one.document.graph) for one in in_turns(read, tags) if one)

    def _put_content(self, image: Image) -> None:
        for layer in image.layers:
            if not layer.blob.descriptor.is_foreign:
                self._store.put(layer.blob)
        self._store.put(image.config)

    def _check_index(self, signed: Signed) -> None:
        self._site.check(signed, INDEX_TAG, self._index_name)

    @property
    def _index_name(self) -> str:
        return f"the index of {self.name}"

    def index_layer(self) -> Descriptor:
        """Return the layer that is the index. Raises `SignatureError` if it must not be believed, `NotFoundError`."""
        return self._believed_index()[0]

    @hinted(REBUILD)
    def _believed_index(self) -> tuple[Descriptor, bool]:
        """Return the layer that is the index, and whether a signature vouches for it.

        Raises `SignatureError` if the index must not be believed, `NotFoundError`.
        """
        for look in range(_LOOKS):
            descriptor, data, layer = self._stored_index()
            if not self._trust.asks:
                return layer, False
            if descriptor.digest in self._vouched:
                return layer, True
            found = signatures(self._store, descriptor)
            if found or not self._trust.require:
                break
            if look < _LOOKS - 1:
                self._pause(look)
        signer = self._trust.judged(data, found, self._index_name, self._check_index)
        if signer:
            self._vouched.add(descriptor.digest)
        return layer, bool(signer)

    def _stored_index(self) -> tuple[Descriptor, bytes, Descriptor]:
        """Return the index's manifest: its descriptor, its bytes, and its only layer."""
        descriptor = self._store.resolve(INDEX_TAG)
        what = f"{self.name}:{INDEX_TAG}"
        data = blob_of(self._store, descriptor).read(limit=MAX_MANIFEST_BYTES)
        manifest = parse_manifest(data, what, media_type=descriptor.media_type)
        if isinstance(manifest, Index):
            # no writer of packages makes it; what it hides is entered again from the tags
            raise NotFoundError(f"{what} is an image for several platforms, and no index of packages", hint=REBUILD)
        if len(manifest.layers) != 1:
            raise ContentError(f"{what} is not an index: a manifest with one layer is expected")
        return descriptor, data, manifest.layers[0]

    def _document(self, layer: Descriptor) -> Spool:
        return Spool.filled(blob_of(self._store, layer).chunks(MAX_INDEX_BYTES))

    def _current_index(self) -> tuple[IndexDocument, bool]:
        """Return the index (an empty one if the cache has no index), and whether a signature vouches for it."""
        try:
            layer, vouched = self._believed_index()
            return self._last_index.read(layer.digest, partial(self._document, layer)), vouched
        except NotFoundError:
            return EMPTY, True

    def _write_index(self, index: IndexDocument, *, vouched: bool = True) -> Digest:
        """Write an index, signed if we sign; without `vouched` it is written unsigned, with a warning."""
        text = index.to_spool()
        document = text.blob(OCI_LAYER_GZIP)
        config = Blob.from_bytes(b"{}", OCI_CONFIG)
        manifest = Manifest(OCI_MANIFEST, config.descriptor, (document.descriptor,))
        self._store.put(document)
        self._store.put(config)
        stored = Blob.from_bytes(manifest.to_bytes(), OCI_MANIFEST)
        if self._signer is not None and vouched:
            # the signature first, as for packages: there is no moment in which the index is there without it
            self._store.put(stored)
            signature = self._signer.beside(stored.read(), self._site.statement(INDEX_TAG))
            attach_signature(self._store, stored.descriptor, signature, pause=self._pause, rounds=self._list_rounds)
            self._vouched.add(stored.descriptor.digest)
        elif self._signer is not None:
            self._trust.warn(*unvouched(self.name))
        self._store.tag(stored, INDEX_TAG)
        self._last_index.keep(text, document.descriptor.digest)
        return document.descriptor.digest


def _prefix_of(env: Sequence[str]) -> str:
    """Return the package's own prefix: its image puts it in front of all others."""
    paths = next((text.removeprefix(_PREFIXES) for text in env if text.startswith(_PREFIXES)), "")
    return paths.partition(":")[0]
