"""Layers and images as values (composition follows)."""

from __future__ import annotations

from dataclasses import dataclass

from oci_binpkg.model.content import Blob, Digest


@dataclass(frozen=True, slots=True)
class Layer:
    """A compressed tar (its descriptor's digest) and the digest of the tar itself (`diff_id`)."""

    blob: Blob
    diff_id: Digest
