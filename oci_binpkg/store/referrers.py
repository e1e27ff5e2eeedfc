"""Artifacts that refer to a manifest, such as its signature: attached beside it, found from it.

A registry lists them itself (the referrers API), or the clients keep the list under a tag made of the subject's digest.
Source: OCI distribution-spec 1.1 (listing referrers, referrers tag schema) and image-spec 1.1 (subject, artifactType).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final, Protocol, runtime_checkable

from oci_binpkg.backoff import USUAL
from oci_binpkg.errors import ContentError, NotFoundError, ServerError, TransferError
from oci_binpkg.model.content import OCI_CONFIG, OCI_EMPTY, OCI_INDEX, OCI_MANIFEST, Blob, Descriptor, Digest
from oci_binpkg.model.manifest import (
    MAX_MANIFEST_BYTES,
    Index,
    Manifest,
    parse_descriptor,
    parse_listed,
    parse_manifest,
)
from oci_binpkg.store.images import blob_of
from oci_binpkg.store.protocol import Store

SIGNATURE_ARTIFACT: Final = "application/vnd.oci-binpkg.signature.v1"
PGP_SIGNATURE: Final = "application/pgp-signature"
MAX_ARTIFACT_BYTES: Final = 64 * 1024

_EMPTY_CONFIG: Final = b"{}"
_ARTIFACT_TYPE: Final = "artifactType"
_TYPE_KEY: Final = "io.oci-binpkg.artifact-type"
"""The annotation with the type of an artifact which travels as an image."""
_INLINE: Final = "io.oci-binpkg.signature"
"""The annotation that holds the signature itself, in base64: lists show it, and the artifact need not be fetched."""
_MOST_INLINE: Final = 8 * 1024
_MOST_READ: Final = 64
"""The most artifacts that are fetched because the list does not show their signature."""
_NOTHING: Final = Index(OCI_INDEX, ())
_MOST_ASKED: Final = 100
_FALLBACK_TAG: Final = re.compile(r"sha(?:256|512)-[0-9a-f]{64}", re.ASCII)


@runtime_checkable
class ListsReferrers(Protocol):
    """A store whose other side can list what refers to a manifest."""

    def referrers(self, subject: Digest, artifact_type: str) -> tuple[Descriptor, ...] | None:
        """Return what is listed for `subject`, perhaps of other types too; None where there is no such list.

        The type "" stands for all.
        """
        ...


def artifact_of(
    subject: Descriptor,
    artifact_type: str,
    content: Blob,
    annotations: Mapping[str, str] | None = None,
    *,
    as_image: bool = False,
) -> Blob:
    """Return the manifest of an artifact with one piece of content that refers to `subject`.

    As an image it has its type in an annotation: GitLab takes no types of configs and artifacts but those of images.
    """
    pointer = Descriptor(subject.media_type, subject.digest, subject.size)
    in_manifest, in_annotations = (
        ({}, {_TYPE_KEY: artifact_type}) if as_image else ({_ARTIFACT_TYPE: artifact_type}, {})
    )
    manifest = Manifest(
        OCI_MANIFEST,
        Blob.from_bytes(_EMPTY_CONFIG, OCI_CONFIG if as_image else OCI_EMPTY).descriptor,
        (content.descriptor,),
        {**(annotations or {}), **in_annotations},
        {**in_manifest, "subject": pointer.to_json()},
    )
    return Blob.from_bytes(manifest.to_bytes(), OCI_MANIFEST)


def attach(
    store: Store,
    subject: Descriptor,
    artifact_type: str,
    content: Blob,
    *,
    pause: Callable[[int], None],
    annotations: Mapping[str, str] | None = None,
    rounds: int = USUAL.list_rounds,
) -> Descriptor:
    """Store `content` as an artifact of the manifest `subject`, and make it findable. Repeating it changes nothing.

    `annotations` stand in the artifact's manifest, and in lists of what refers to the subject. `pause(round)` is called
    after one of the `rounds` of changing the list under the tag that other writers interfered with. Raises
    `TransferError` if they did so every time; then the artifact is there, and another call lists it.
    """
    artifact = artifact_of(subject, artifact_type, content, annotations)
    store.put(content)
    store.put(Blob.from_bytes(_EMPTY_CONFIG, OCI_EMPTY))
    try:
        store.put(artifact)
    except ServerError:
        artifact = artifact_of(subject, artifact_type, content, annotations, as_image=True)
        store.put(artifact)
    make_findable(
        store, subject, artifact.descriptor, artifact_type, pause=pause, annotations=annotations, rounds=rounds
    )
    return artifact.descriptor


def make_findable(
    store: Store,
    subject: Descriptor,
    artifact: Descriptor,
    artifact_type: str,
    *,
    pause: Callable[[int], None],
    annotations: Mapping[str, str] | None = None,
    rounds: int = USUAL.list_rounds,
) -> None:
    """List an artifact that is stored under the tag of its subject, unless the store lists it. Raises as `attach`."""
    listed = _listed_by_store(store, subject.digest, artifact_type)
    if listed is None or all(one.digest != artifact.digest for one in listed):
        entry = replace(artifact, annotations=dict(annotations or {}), extra={_ARTIFACT_TYPE: artifact_type})
        _list_under_tag(store, subject, entry, pause, rounds)


def referring(store: Store, subject: Descriptor) -> list[Descriptor]:
    """Return what is listed for `subject`, of every type, each once: the store's list, then the one under the tag."""
    listed = (*(_listed_by_store(store, subject.digest, "") or ()), *_tag_list(store, subject.digest))
    return list({one.digest: one for one in reversed(listed)}.values())[::-1]


def attach_signature(
    store: Store, subject: Descriptor, armored: bytes, *, pause: Callable[[int], None], rounds: int = USUAL.list_rounds
) -> Descriptor:
    """Attach an armored detached signature over the bytes of the manifest `subject`. Raises as `attach`."""
    text = base64.b64encode(armored).decode("ascii")
    shown = {_INLINE: text} if len(text) <= _MOST_INLINE else None
    content = Blob.from_bytes(armored, PGP_SIGNATURE)
    return attach(store, subject, SIGNATURE_ARTIFACT, content, pause=pause, annotations=shown, rounds=rounds)


def referrers(store: Store, subject: Descriptor, artifact_type: str) -> list[Descriptor]:
    """Return the artifacts of one type that refer to `subject`, in the order they are listed, each once.

    The registry's list first; without one, the list under the tag. An unreadable list counts as absent. Lists are not
    proof: `read_artifact` checks that an artifact really refers to the subject.
    """
    listed = _of_type(store, _listed_by_store(store, subject.digest, artifact_type) or (), artifact_type)
    return listed or _of_type(store, _tag_list(store, subject.digest), artifact_type)


def read_artifact(
    store: Store, artifact: Descriptor, subject: Descriptor, artifact_type: str, *, limit: int = MAX_ARTIFACT_BYTES
) -> bytes:
    """Return the one piece of content of an artifact, verified.

    Raises `ContentError` if the artifact is of another type or refers to another manifest, if it does not have exactly
    one piece, or one above `limit` bytes; `NotFoundError`.
    """
    what = f"artifact {artifact.digest} of {store.name}"
    manifest = _artifact_manifest(store, artifact)
    if _told_type(manifest) != artifact_type:
        raise ContentError(f"{what} is not of type {artifact_type}")
    pointer = parse_descriptor(manifest.extra.get("subject"), f"{what}.subject")
    if (pointer.digest, pointer.size) != (subject.digest, subject.size):
        raise ContentError(f"{what} refers to {pointer.digest}, not to {subject.digest}")
    if len(manifest.layers) != 1:
        raise ContentError(f"{what} has {len(manifest.layers)} pieces of content; one is expected")
    return blob_of(store, manifest.layers[0]).read(limit)


def signatures(store: Store, subject: Descriptor, *, most: int = _MOST_READ) -> list[bytes]:
    """Return the armored signatures of the manifest `subject` that `iter_signatures` gives for `most`."""
    return list(iter_signatures(store, subject, most=most))


def iter_signatures(store: Store, subject: Descriptor, *, most: int = _MOST_READ) -> Iterator[bytes]:
    """Iterate over the armored signatures of the manifest `subject`, each once; anybody may have attached some.

    First those that the lists themselves show, which cost nothing more; then those of at most `most` artifacts, each
    fetched when it is needed. Signatures that are damaged, too large or of another manifest are ignored: they sign
    nothing, and must not hide a good one.
    """
    given: set[bytes] = set()
    asked: set[Digest] = set()
    for listed in (_registry_list, _tag_list):
        entries = [one for one in listed(store, subject.digest) if one.digest not in asked]
        shown = {one.digest: signature for one in entries if (signature := _shown(one))}
        yield from _new(given, shown.values())
        hidden = _of_type(store, [one for one in entries if one.digest not in shown], SIGNATURE_ARTIFACT)
        hidden = hidden[: max(0, most - len(asked))]
        asked.update(one.digest for one in hidden)
        yield from _new(given, _read(store, hidden, subject))


def _new(given: set[bytes], signatures: Iterable[bytes]) -> Iterator[bytes]:
    for signature in signatures:
        if signature not in given:
            given.add(signature)
            yield signature


def _read(store: Store, artifacts: Sequence[Descriptor], subject: Descriptor) -> Iterator[bytes]:
    for artifact in artifacts:
        with suppress(ContentError, NotFoundError):
            yield read_artifact(store, artifact, subject, SIGNATURE_ARTIFACT)


def _shown(entry: Descriptor) -> bytes | None:
    """Return the signature that a list shows, None if it shows no signature."""
    text = entry.annotations.get(_INLINE, "")
    if not text or len(text) > _MOST_INLINE:
        return None
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return None


def _registry_list(store: Store, subject: Digest) -> tuple[Descriptor, ...]:
    return _listed_by_store(store, subject, SIGNATURE_ARTIFACT) or ()


def _tag_list(store: Store, subject: Digest) -> tuple[Descriptor, ...]:
    try:
        descriptor = store.resolve(fallback_tag(subject))
        return parse_listed(
            blob_of(store, descriptor).read(MAX_MANIFEST_BYTES), f"{store.name}:{fallback_tag(subject)}"
        )
    except (ContentError, NotFoundError):
        return ()


def fallback_tag(subject: Digest) -> str:
    """Return the tag under which clients keep the list: `sha256-<hex>`, cut as the specification says."""
    return f"{subject.algorithm[:32]}-{subject.hex[:64]}"


def is_list_of_referrers(tag: str) -> bool:
    """Return whether a tag is one under which clients keep what refers to a manifest."""
    return bool(_FALLBACK_TAG.fullmatch(tag))


def _listed_by_store(store: Store, subject: Digest, artifact_type: str) -> tuple[Descriptor, ...] | None:
    return store.referrers(subject, artifact_type) if isinstance(store, ListsReferrers) else None


def _list_under_tag(
    store: Store, subject: Descriptor, entry: Descriptor, pause: Callable[[int], None], rounds: int
) -> None:
    """Add an entry to the list under the tag: read, add, write, read back, and again if it is not there."""
    tag = fallback_tag(subject.digest)
    for attempt in range(rounds):
        index = _tagged(store, subject.digest)
        if any(one.digest == entry.digest for one in index.manifests):
            return
        changed = replace(index, manifests=(*index.manifests, entry))
        store.tag(Blob.from_bytes(changed.to_bytes(), changed.media_type), tag)
        if any(one.digest == entry.digest for one in _tagged(store, subject.digest).manifests):
            return
        pause(attempt)
    raise TransferError(
        f"the list of what refers to {subject.digest} in {store.name} was replaced by other writers "
        f"{rounds} times in a row",
        hint="run the command again; nothing needs to be sent anew",
    )


def _tagged(store: Store, subject: Digest) -> Index:
    """Return the list under the tag, an empty one without it. Raises `ContentError` for something else there."""
    tag = fallback_tag(subject)
    try:
        descriptor = store.resolve(tag)
    except NotFoundError:
        return _NOTHING
    what = f"{store.name}:{tag}"
    found = parse_manifest(blob_of(store, descriptor).read(MAX_MANIFEST_BYTES), what, media_type=descriptor.media_type)
    if not isinstance(found, Index):
        raise ContentError(
            f"{what} is not a list of what refers to {subject}",
            hint="another tool uses that tag; remove it if it is not needed",
        )
    return found


def _of_type(store: Store, listed: Sequence[Descriptor], artifact_type: str) -> list[Descriptor]:
    """Keep the entries of a type. Some registries leave the type out; then the artifact itself is read."""
    unique = {one.digest: one for one in listed if one.media_type == OCI_MANIFEST}
    untold = [one for one in unique.values() if one.extra.get(_ARTIFACT_TYPE) in (None, OCI_CONFIG)]
    told = {one.digest: one.annotations[_TYPE_KEY] for one in untold if _TYPE_KEY in one.annotations}
    untold = [one for one in untold if one.digest not in told][:_MOST_ASKED]
    asked = told | {one.digest: _type_of(store, one) for one in untold}
    return [
        Descriptor(one.media_type, one.digest, one.size)
        for one in unique.values()
        if (asked.get(one.digest) or one.extra.get(_ARTIFACT_TYPE)) == artifact_type
    ]


def _type_of(store: Store, artifact: Descriptor) -> object:
    try:
        return _told_type(_artifact_manifest(store, artifact))
    except (ContentError, NotFoundError):
        return None


def _told_type(manifest: Manifest) -> object:
    return manifest.extra.get(_ARTIFACT_TYPE) or manifest.annotations.get(_TYPE_KEY)


def _artifact_manifest(store: Store, artifact: Descriptor) -> Manifest:
    what = f"artifact {artifact.digest} of {store.name}"
    found = parse_manifest(blob_of(store, artifact).read(MAX_MANIFEST_BYTES), what, media_type=artifact.media_type)
    if not isinstance(found, Manifest):
        raise ContentError(f"{what} is an index")
    return found
