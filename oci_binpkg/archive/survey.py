"""What a layer holds, learnt by reading it once: for images of layers whose diff_id nobody recorded."""

from __future__ import annotations

from dataclasses import dataclass

from oci_binpkg.archive.bounded import DEFAULT_LIMITS, BoundedInput, Limits
from oci_binpkg.archive.codec import Readable
from oci_binpkg.archive.distribution import MAX_BYTES, MEMBER, Distribution
from oci_binpkg.archive.members import read_members
from oci_binpkg.errors import ContentError
from oci_binpkg.model.content import Digest


@dataclass(frozen=True, slots=True)
class Survey:
    """The digest of the tar, the prefix it is made for (absolute), and the directories below that prefix."""

    diff_id: Digest
    prefix: str
    directories: frozenset[str]
    distribution: Distribution


def survey_layer(stream: Readable, what: str, *, media_type: str = "", limits: Limits = DEFAULT_LIMITS) -> Survey:
    """Read a layer to its end. Raises `ContentError` naming `what` for one that is damaged or no package's."""
    directories: list[str] = []
    document_name, document = "", b""
    with BoundedInput(stream, what, media_type=media_type, limits=limits) as source:
        for member in read_members(source, limits, what):
            wanted = member.kind == "file" and member.name.endswith(f"/{MEMBER}") and member.size <= MAX_BYTES
            if wanted and (not document_name or len(member.name) < len(document_name)):
                document_name, document = member.name, source.exactly(member.size)
            else:
                for _ in source.pieces(member.size):
                    pass
            if member.kind == "directory":
                directories.append(member.name.rstrip("/"))
        diff_id = source.digest
    if not document_name:
        raise ContentError(f"{what}: the layer has no document {MEMBER}", hint="it is not a layer of a package")
    prefix = document_name.removesuffix(f"/{MEMBER}")
    below = frozenset(name.removeprefix(f"{prefix}/") for name in directories if name.startswith(f"{prefix}/"))
    named = f"{what}: {MEMBER}"
    distribution = Distribution.parse(document, named).confirmed(f"/{prefix}", named)
    return Survey(diff_id, f"/{prefix}", below, distribution)
