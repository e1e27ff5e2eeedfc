"""A packer for tests of what happens around packing: layers are small texts, failures are asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from oci_binpkg.archive.layer import Follow
from oci_binpkg.installs.protocol import InstallRecord
from oci_binpkg.model.content import OCI_LAYER_GZIP, Blob, Digest
from oci_binpkg.model.image import Layer
from oci_binpkg.ops.stack import PackedPackage


class TextPacker:
    """`failures` maps package names to what packing them raises; `counts` says how often each was packed."""

    def __init__(self, failures: Mapping[str, BaseException] | None = None, media_type: str = OCI_LAYER_GZIP) -> None:
        self._failures = dict(failures or {})
        self._media_type = media_type
        self.counts: Counter[str] = Counter()

    def __call__(self, record: InstallRecord, follow: Follow | None = None) -> PackedPackage:
        del follow
        self.counts[record.spec.name] += 1
        if error := self._failures.get(record.spec.name):
            raise error
        text = f"layer of {record.spec.short}".encode()
        layer = Layer(Blob.from_bytes(text, self._media_type), Digest.of(b"tar of " + text))
        return PackedPackage(layer, reused=False)
