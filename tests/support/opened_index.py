"""An index opened from bytes."""

from __future__ import annotations

from dataclasses import replace

from oci_binpkg.index.document import IndexDocument, read_index
from oci_binpkg.index.spool import Spool


def open_index(data: bytes, what: str) -> IndexDocument:
    """Open an index from bytes, as `read_index` does."""
    text = Spool.of(data)
    return replace(read_index(text, what), digest=text.digest)
