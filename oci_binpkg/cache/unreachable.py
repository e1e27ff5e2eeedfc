"""A cache that did not answer when it was opened: of several, the others still count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Never

from oci_binpkg.cache.protocol import Entry
from oci_binpkg.errors import TransferError
from oci_binpkg.index.document import IndexDocument
from oci_binpkg.model.content import Digest
from oci_binpkg.model.image import Layer
from oci_binpkg.model.reference import PackageKey
from oci_binpkg.signing.index_trust import IndexSignature


@dataclass(frozen=True, slots=True)
class UnreachableCache:
    """Whatever is asked of it raises the error that it was opened with; nothing is asked twice."""

    name: str
    error: TransferError
    verifies: bool = False
    proves_listing: bool = False

    def hashes(self) -> Mapping[str, str]:
        """Raise the error."""
        self._fail()

    def find(self, key: PackageKey) -> Entry:  # noqa: ARG002
        """Raise the error."""
        self._fail()

    def entry(self, locator: str) -> Entry:  # noqa: ARG002
        """Raise the error."""
        self._fail()

    def upload(self, layer: Layer) -> bool:  # noqa: ARG002
        """Raise the error."""
        self._fail()

    def publish(self, entry: Entry) -> Digest:  # noqa: ARG002
        """Raise the error."""
        self._fail()

    def index_signature(self) -> IndexSignature:
        """Raise the error."""
        self._fail()

    def read_index(self, known: Digest | None = None) -> IndexDocument | None:  # noqa: ARG002
        """Raise the error."""
        self._fail()

    def merge_index(self, added: IndexDocument, *, replace: bool = False) -> bool:  # noqa: ARG002
        """Raise the error."""
        self._fail()

    def _fail(self) -> Never:
        raise self.error
