"""What to do about a cache that is damaged: the next step of every such error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from oci_binpkg.errors import ContentError
from oci_binpkg.store.verifying import DamagedError

PUSH_AGAIN: Final = "push the package again, or leave this cache out"
REBUILD: Final = "`oci-binpkg index rebuild` writes a new index, where this cache is written"
ASK_AGAIN: Final = "try again: the answer may have been cut off on the way"


class MissingBlobError(ContentError):
    """A manifest names a blob that is not there: damage, not absence."""


@contextmanager
def hinted(hint: str) -> Iterator[None]:
    """Say what to do about damage, unless the error has it already from somebody who knows more."""
    try:
        yield
    except ContentError as error:
        if not error.hint or isinstance(error, DamagedError):
            error.hint = hint
        raise
