"""How long commands wait for locks, and what they tell meanwhile."""

from __future__ import annotations

from oci_binpkg.events import Observer, Warned
from oci_binpkg.file_lock import Patience


def patience(timeout: float, observer: Observer) -> Patience:
    """Return a patience of so many seconds that tells what it waits for."""
    return Patience(timeout, tell=lambda path: observer(Warned(f"waiting for another process that holds {path}")))
