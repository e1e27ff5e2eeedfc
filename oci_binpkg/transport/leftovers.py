"""What writers that were killed have left behind: temporary files that nobody will rename any more."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import Final

TEMPORARY: Final = ".tmp-"
"""How the names of files begin that are being written."""

STALE_SECONDS: Final = 24 * 3600.0
"""A file that nobody has written to for so long has no writer; clocks of file servers may be hours off."""


def remove_leftovers(directory: str, now: float) -> None:
    """Remove temporary files from a directory that were last written a day before `now` (seconds since 1970).

    Never raises: what cannot be removed is in nobody's way.
    """
    with suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.startswith(TEMPORARY):
                with suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode) and status.st_mtime < now - STALE_SECONDS:
                        os.unlink(entry.path)
