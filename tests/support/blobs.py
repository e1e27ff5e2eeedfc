"""Blobs of tests."""

from __future__ import annotations

from oci_binpkg.model.content import Blob, Descriptor

OCI_LAYER_TAR = "application/vnd.oci.image.layer.v1.tar"


def file_blob(path: str, descriptor: Descriptor) -> Blob:
    """A blob in a file that is opened when it is read."""
    return Blob(descriptor, lambda: open(path, "rb"))
