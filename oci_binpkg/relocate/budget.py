"""The limits of a relocation: mentions of prefixes, and the size of files that are read whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from oci_binpkg.errors import RelocationError

MENTIONS: Final = 300_000
"""Places at which an old prefix stands, in all files of a package together; a large one has a few thousand."""
WHOLE_FILE: Final = 24 * 1024 * 1024
_BYTES_PER_MENTION: Final = 8
_MEMORY_PER_BYTE: Final = 8


@dataclass(slots=True)
class Budget:
    """What is left of the limits. `whole_file` bounds files that are parsed in memory; `what` names the package."""

    mentions: int = MENTIONS
    whole_file: int = WHOLE_FILE
    what: str = "the package"
    taken: int = 0

    @classmethod
    def for_layer(cls, size: int, what: str) -> Budget:
        """Return the limits for a layer of so many compressed bytes: a small layer cannot cause much work."""
        return cls(MENTIONS + size // _BYTES_PER_MENTION, WHOLE_FILE + size * _MEMORY_PER_BYTE, what)

    def take(self, mentions: int) -> None:
        """Take note of places with an old prefix. Raises `RelocationError` for more than are left."""
        self.taken += mentions
        if self.taken > self.mentions:
            raise RelocationError(
                f"{self.what}: old prefixes stand in its files more than {self.mentions} times",
                hint="a package mentions its prefix some thousand times: this one is damaged, or made to waste time",
            )
