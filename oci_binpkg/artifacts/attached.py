"""Artifacts in a store: attached to a manifest, found from it, and their files read back."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from oci_binpkg.artifacts.composed import ARTIFACT_TYPE, TYPE_KEY, ComposedArtifact
from oci_binpkg.disk import disk_errors, make_folder, replacing
from oci_binpkg.errors import ContentError, ServerError
from oci_binpkg.model.content import OCI_CONFIG, OCI_MANIFEST, Blob, Descriptor
from oci_binpkg.model.image import TITLE
from oci_binpkg.model.manifest import MAX_MANIFEST_BYTES, Manifest, parse_descriptor, parse_manifest
from oci_binpkg.store.images import blob_of
from oci_binpkg.store.protocol import AsksForSignatures, Store
from oci_binpkg.store.referrers import SIGNATURE_ARTIFACT, make_findable, referring

MOST_READ: Final = 200
"""The most artifacts of one manifest that are looked at: anybody who may write there can add some."""
_CHUNK: Final = 1024 * 1024
_LONGEST_NAME: Final = 255


@dataclass(frozen=True, slots=True)
class AttachedFile:
    """A file of an artifact: its name, and its content."""

    name: str
    descriptor: Descriptor


@dataclass(frozen=True, slots=True)
class Artifact:
    """An artifact of a manifest: its own manifest, its type, its files and annotations."""

    descriptor: Descriptor
    artifact_type: str
    files: tuple[AttachedFile, ...]
    annotations: Mapping[str, str]


def attach_artifact(
    store: Store,
    subject: Descriptor,
    artifact_type: str,
    made: ComposedArtifact,
    *,
    publish: Callable[[Blob], None],
    pause: Callable[[int], None],
    annotations: Mapping[str, str],
) -> Descriptor:
    """Store an artifact of the manifest `subject` and make it findable; repeating it changes nothing.

    `publish` stores the artifact's manifest, with a signature where one is wanted. `pause(round)` is called after a
    change of the list under the tag that another writer interfered with. Raises `TransferError`.
    """
    for file in made.files:
        store.put(file)
    store.put(made.config)
    manifest = made.manifest
    try:
        publish(manifest)
    except ServerError:
        config, manifest = made.as_image
        store.put(config)
        publish(manifest)
    make_findable(_lists(store), subject, manifest.descriptor, artifact_type, pause=pause, annotations=annotations)
    return manifest.descriptor


def artifacts_of(store: Store, subject: Descriptor) -> list[Descriptor]:
    """Return what a store lists as artifacts of a manifest, signatures of ours aside; lists prove nothing.

    Raises `TransferError`.
    """
    found = [
        one
        for one in referring(_lists(store), subject)
        if one.media_type == OCI_MANIFEST and one.extra.get(ARTIFACT_TYPE) != SIGNATURE_ARTIFACT
    ]
    return found[:MOST_READ]


def read_attached(store: Store, listed: Descriptor, subject: Descriptor) -> Artifact | None:
    """Return an artifact that is listed for a manifest; None for a signature of ours.

    Raises `ContentError` if it is no artifact of that manifest, `SignatureError` where the store requires signatures
    and it has none, `NotFoundError`.
    """
    what = f"artifact {listed.digest} of {store.name}"
    descriptor = Descriptor(listed.media_type, listed.digest, listed.size)
    data = blob_of(store, descriptor).read(MAX_MANIFEST_BYTES)
    manifest = parse_manifest(data, what, media_type=descriptor.media_type)
    if not isinstance(manifest, Manifest):
        raise ContentError(f"{what} is an index")
    pointer = parse_descriptor(manifest.extra.get("subject"), f"{what}.subject")
    if (pointer.digest, pointer.size) != (subject.digest, subject.size):
        raise ContentError(f"{what} refers to {pointer.digest}, not to {subject.digest}")
    told = manifest.extra.get(ARTIFACT_TYPE) or manifest.annotations.get(TYPE_KEY)
    artifact_type = told if isinstance(told, str) else manifest.config.media_type
    if artifact_type == SIGNATURE_ARTIFACT:
        return None
    # without a type of its own, the config's media type is the type (image-spec 1.1), that of images says nothing
    artifact_type = "" if artifact_type == OCI_CONFIG else artifact_type
    return Artifact(descriptor, artifact_type, _files(manifest), manifest.annotations)


def _files(manifest: Manifest) -> tuple[AttachedFile, ...]:
    """Return the layers with their names; one without a title is called by its digest."""
    return tuple(
        AttachedFile(layer.annotations.get(TITLE) or f"{layer.digest.algorithm}-{layer.digest.hex}", layer)
        for layer in manifest.layers
    )


def write_files(store: Store, files: Sequence[AttachedFile], folder: str) -> list[str]:
    """Write files of an artifact into a folder, each verified before it gets its name; return the paths.

    Raises `ContentError` for names that lead out of the folder or are there twice, before anything is written;
    `NotFoundError`, `LocalDiskError`.
    """
    names = [checked_name(file.name) for file in files]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ContentError(f"two files of the artifact are called {twice[:_LONGEST_NAME]!r}")
    paths = [os.path.join(folder, name) for name in names]
    for file, path in zip(files, paths, strict=True):
        with disk_errors(path, "written"):
            make_folder(os.path.dirname(path))
        with (
            replacing(path, failing=lambda path=path: disk_errors(path, "written")) as write,  # type: ignore[misc]
            blob_of(store, file.descriptor).open() as stream,
        ):
            while chunk := stream.read(_CHUNK):
                write(chunk)
    return paths


def checked_name(title: str) -> str:
    """Return the title of a file if it is a path below a folder. Raises `ContentError`."""
    parts = title.split("/")
    if (
        not title.isprintable()
        or any(part in ("", ".", "..") for part in parts)
        or any(len(part.encode("utf-8", "surrogatepass")) > _LONGEST_NAME for part in parts)
    ):
        raise ContentError(f"a file of the artifact is called {title[:_LONGEST_NAME]!r}, which names none in a folder")
    return title


def _lists(store: Store) -> Store:
    """Return where the lists of artifacts are: they are hints, which nobody signs."""
    return store.unverified if isinstance(store, AsksForSignatures) else store
