"""Files become an artifact: layers with titles, an empty config, and the subject that it refers to.

The structures are those of oras, so that `oras pull` gives the same files with their names. oras is imported when the
first artifact is made.
Source: OCI image-spec 1.1 (manifest.md, "Guidelines for Artifact Usage"; annotations.md).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO, Final

from oci_binpkg.disk import disk_errors, open_file
from oci_binpkg.errors import UsageError
from oci_binpkg.model.content import OCI_CONFIG, OCI_EMPTY, OCI_MANIFEST, OCTET_STREAM, Blob, Descriptor, Digest
from oci_binpkg.model.documents import canonical_json
from oci_binpkg.model.image import TITLE
from oci_binpkg.model.manifest import MAX_MANIFEST_BYTES, parse_manifest

ARTIFACT_TYPE: Final = "artifactType"
TYPE_KEY: Final = "io.oci-binpkg.artifact-type"
"""The annotation with the type of an artifact which travels as an image."""
MOST_FILES: Final = 1000
_EMPTY: Final = b"{}"
_WORD: Final = r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}"
_MEDIA_TYPE: Final = re.compile(rf"{_WORD}/{_WORD}", re.ASCII)
_MEDIA_TYPES: Final = {
    ".spdx.json": "application/spdx+json",
    ".cdx.json": "application/vnd.cyclonedx+json",
    ".json": "application/json",
    ".txt": "text/plain",
    ".md": "text/markdown",
    ".html": "text/html",
    ".pdf": "application/pdf",
}
"""By the end of the name, the first that fits. A table of ours: those of systems differ, and digests must not."""


@dataclass(frozen=True, slots=True)
class ComposedArtifact:
    """What is stored: the files, the config, and the manifest that names them.

    `as_image` is config and manifest of the same artifact with the media types of images, for registries that take no
    others.
    """

    files: tuple[Blob, ...]
    config: Blob
    manifest: Blob
    as_image: tuple[Blob, Blob]


def check_artifact_type(text: str) -> str:
    """Return the type of an artifact if it is a media type (`application/spdx+json`). Raises `UsageError`."""
    if not _MEDIA_TYPE.fullmatch(text):
        raise UsageError(f"not the type of an artifact: {text[:140]!r}", hint="a media type, as application/spdx+json")
    return text


def check_files(artifact_type: str, paths: Sequence[str]) -> None:
    """Look at what is to become an artifact before anything is asked or read.

    A file is called as the last part of its path. Raises `UsageError` for no file, for two of one name, and for a type
    that is not a media type; `LocalDiskError` for directories, FIFOs and what cannot be read.
    """
    check_artifact_type(artifact_type)
    if not paths:
        raise UsageError("no file named", hint="name the files to attach")
    if len(paths) > MOST_FILES:
        raise UsageError(f"{len(paths)} files; an artifact holds at most {MOST_FILES}", hint="attach an archive")
    names = [_name_of(path) for path in paths]
    for path, name in zip(paths, names, strict=True):
        if names.count(name) > 1:
            raise UsageError(f"two files are called {name}", hint="rename one of them, or attach it on its own")
        with _readable(path):
            open_file(path).close()  # a FIFO is refused here and never waited for


def composed(
    subject: Descriptor, artifact_type: str, paths: Sequence[str], annotations: Mapping[str, str]
) -> ComposedArtifact:
    """Return the artifact of files that refers to the manifest `subject`. The same files give the same bytes.

    Raises as `check_files`.
    """
    check_files(artifact_type, paths)
    layers = [_layer(path) for path in paths]
    plain, as_image = (
        _manifest(subject, artifact_type, layers, annotations, as_image=as_image) for as_image in (False, True)
    )
    return ComposedArtifact(
        tuple(_blob(path, layer) for path, layer in zip(paths, layers, strict=True)),
        Blob.from_bytes(_EMPTY, OCI_EMPTY),
        plain,
        (Blob.from_bytes(_EMPTY, OCI_CONFIG), as_image),
    )


def _readable(path: str) -> AbstractContextManager[None]:
    return disk_errors(path, "attached", "name a regular file that you may read")


def _name_of(path: str) -> str:
    name = os.path.basename(path)
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{name!r}: a name that is not UTF-8", hint="manifests are JSON: rename the file") from None
    return name


def _layer(path: str) -> dict[str, Any]:
    """Return the descriptor of a file, with its name."""
    from oras.oci import NewLayer  # noqa: PLC0415 - only who attaches files needs it

    name = _name_of(path)
    ending = next((ending for ending in _MEDIA_TYPES if name.endswith(ending)), "")
    with _readable(path):
        found: dict[str, Any] = NewLayer(path, _MEDIA_TYPES.get(ending, OCTET_STREAM))
    return {**found, "annotations": {TITLE: name}}


def _blob(path: str, layer: Mapping[str, Any]) -> Blob:
    @contextmanager
    def opened() -> Iterator[BinaryIO]:
        with open_file(path) as file:
            yield file

    return Blob(Descriptor(layer["mediaType"], Digest.parse(layer["digest"]), layer["size"]), opened)


def _manifest(
    subject: Descriptor,
    artifact_type: str,
    layers: list[dict[str, Any]],
    annotations: Mapping[str, str],
    *,
    as_image: bool,
) -> Blob:
    from oras.oci import ManifestConfig, NewManifest, Subject  # noqa: PLC0415 - as above

    document: dict[str, Any] = NewManifest()
    document["config"], _ = ManifestConfig(media_type=OCI_CONFIG if as_image else OCI_EMPTY)
    document["layers"] = layers
    document["subject"] = asdict(Subject(subject.media_type, str(subject.digest), subject.size))
    document["annotations"] = {**annotations, **({TYPE_KEY: artifact_type} if as_image else {})}
    if not as_image:
        document[ARTIFACT_TYPE] = artifact_type
    if not document["annotations"]:
        del document["annotations"]
    data = canonical_json(document)
    if len(data) > MAX_MANIFEST_BYTES:
        raise UsageError(
            f"a manifest of {len(data)} bytes: the annotations are too large", hint="attach them as a file"
        )
    parse_manifest(data, "the artifact", media_type=OCI_MANIFEST)
    return Blob.from_bytes(data, OCI_MANIFEST)
