"""Attach files to packages and images, list what is attached, and read it back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from oci_binpkg.artifacts.attached import Artifact, artifacts_of, attach_artifact, read_attached, write_files
from oci_binpkg.artifacts.composed import check_files, composed
from oci_binpkg.cache.protocol import KeepsImages
from oci_binpkg.errors import (
    AmbiguousQueryError,
    ContentError,
    Hint,
    NoMatchError,
    NotFoundError,
    QueryError,
    Step,
    UsageError,
)
from oci_binpkg.events import Observer, Warned, ignore
from oci_binpkg.index.search import IndexSearch
from oci_binpkg.model.content import Descriptor, Digest
from oci_binpkg.model.query import Query
from oci_binpkg.model.reference import PackageKey, check_tag
from oci_binpkg.ops.contents import contents
from oci_binpkg.parallel import in_turns


@dataclass(frozen=True, slots=True)
class AttachedArtifact:
    """Files attached to a package or an image: the digests of both manifests, the type, and names and digests of files.

    `size` is that of all files, in bytes.
    """

    digest: Digest
    subject: Digest
    artifact_type: str
    files: Mapping[str, Digest]
    size: int
    annotations: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON document."""
        return {
            "digest": str(self.digest),
            "subject": str(self.subject),
            "type": self.artifact_type,
            "files": {name: str(digest) for name, digest in self.files.items()},
            "size": self.size,
            "annotations": dict(self.annotations),
        }


def attach(
    cache: KeepsImages,
    subject: str,
    paths: Sequence[str],
    artifact_type: str,
    annotations: Mapping[str, str],
    *,
    pause: Callable[[int], None],
    observer: Observer = ignore,
) -> AttachedArtifact:
    """Attach files to the package or image that `subject` means (a tag, a digest, or a query).

    Repeating it changes nothing. Raises `UsageError`, `LocalDiskError`, `NoMatchError`, `TransferError`.
    """
    check_files(artifact_type, paths)
    pointer = subject_of(cache, subject, observer)
    made = composed(pointer, artifact_type, paths, annotations)
    digest = attach_artifact(
        cache.store,
        pointer,
        artifact_type,
        made,
        publish=lambda manifest: cache.publish_manifest(manifest, ""),
        pause=pause,
        annotations=annotations,
    )
    return _described(read_artifact(cache, digest, pointer), pointer)


def subject_of(cache: KeepsImages, text: str, observer: Observer = ignore) -> Descriptor:
    """Return the manifest that a tag, a digest (`sha256:...`) or else a query of packages means.

    A tag of that name goes before a query. Raises `NotFoundError`, `NoMatchError`, `AmbiguousQueryError`.
    """
    if ":" in text and text.partition(":")[0] in ("sha256", "sha512"):
        return _bare(cache.store.resolve(str(_digest(text))))
    missing: NotFoundError | None = None
    if _is_tag(text):
        try:
            return _bare(cache.store.resolve(text))
        except NotFoundError as error:
            missing = error
    try:
        query = Query.parse(text)
    except QueryError:
        if missing is None:
            raise
        raise missing from None
    with IndexSearch(contents(cache, observer)) as search:
        spec = search.one(query)
    return _bare(cache.store.resolve(PackageKey.of(spec).tag))


def _digest(text: str) -> Digest:
    try:
        return Digest.parse(text)
    except ContentError as error:
        raise UsageError(error.message, hint="write sha256: and 64 digits of 0-9 a-f") from None


def _bare(found: Descriptor) -> Descriptor:
    return Descriptor(found.media_type, found.digest, found.size)


def _is_tag(text: str) -> bool:
    try:
        check_tag(text)
    except UsageError:
        return False
    return True


def list_artifacts(
    cache: KeepsImages, subject: str, artifact_type: str = "", observer: Observer = ignore
) -> list[AttachedArtifact]:
    """Return what is attached to a package or an image, of one type or of all; signatures of ours are not listed.

    What is damaged, or unsigned where signatures are required, is reported and left out. Raises as `subject_of`.
    """
    pointer = subject_of(cache, subject, observer)
    return [_described(each, pointer) for each in _artifacts(cache, pointer, artifact_type, observer)]


def get_artifact(
    cache: KeepsImages,
    subject: str,
    folder: str,
    *,
    artifact_type: str = "",
    digest: str = "",
    observer: Observer = ignore,
) -> list[str]:
    """Write the files of the one artifact that type and digest mean into a folder; return their paths.

    Raises `NoMatchError` without such an artifact, `AmbiguousQueryError` for several; `ContentError`, `SignatureError`,
    `LocalDiskError`.
    """
    pointer = subject_of(cache, subject, observer)
    if digest:
        wanted = _digest(digest)
        listed = [one for one in artifacts_of(cache.store, pointer) if one.digest == wanted]
        found = [each for one in listed if (each := read_attached(cache.store, one, pointer)) is not None]
        found = [each for each in found if artifact_type in ("", each.artifact_type)]
    else:
        found = _artifacts(cache, pointer, artifact_type, observer)
    if not found:
        asked = " ".join(filter(None, (artifact_type, digest)))
        raise NoMatchError(f"{subject} has no artifact {asked}".rstrip(), hint=Hint(Step.LIST_ARTIFACTS))
    if len(found) > 1:
        raise AmbiguousQueryError(
            f"{subject} has {len(found)} artifacts that this may mean",
            details=[f"{each.descriptor.digest}  {each.artifact_type}" for each in found],
            hint=Hint(Step.NAME_ARTIFACT),
        )
    return write_files(cache.store, found[0].files, folder)


def read_artifact(cache: KeepsImages, listed: Descriptor, subject: Descriptor) -> Artifact:
    """Return an artifact of a manifest. Raises `ContentError`."""
    found = read_attached(cache.store, listed, subject)
    if found is None:
        raise ContentError(f"artifact {listed.digest} of {cache.name} is a signature")
    return found


def _artifacts(cache: KeepsImages, subject: Descriptor, artifact_type: str, observer: Observer) -> list[Artifact]:
    listed = {str(one.digest): one for one in artifacts_of(cache.store, subject)}

    def read(digest: str) -> Artifact | None:
        try:
            return read_attached(cache.store, listed[digest], subject)
        except (ContentError, NotFoundError) as error:
            observer(Warned(f"an artifact is left out: {error.message}"))
            return None

    found = in_turns(read, listed)
    return [each for each in found if each and artifact_type in ("", each.artifact_type)]


def _described(artifact: Artifact, subject: Descriptor) -> AttachedArtifact:
    return AttachedArtifact(
        artifact.descriptor.digest,
        subject.digest,
        artifact.artifact_type,
        {file.name: file.descriptor.digest for file in artifact.files},
        sum(file.descriptor.size for file in artifact.files),
        artifact.annotations,
    )
