"""What became of each package of a batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from oci_binpkg.errors import BinpkgError
from oci_binpkg.model.content import Digest
from oci_binpkg.model.spec import Spec


class PushOutcome(StrEnum):
    """How work on a package ended."""

    PUSHED = "pushed"
    SKIPPED = "skipped"
    PLANNED = "planned"
    FAILED = "failed"
    GONE = "gone"
    ELSEWHERE = "elsewhere"


@dataclass(frozen=True, slots=True)
class PackageResult:
    """One package of a push. `size` is that of its compressed layer; `sent` whether its bytes had to travel."""

    spec: Spec
    outcome: PushOutcome
    tag: str = ""
    digest: Digest | None = None
    layer: Digest | None = None
    size: int = 0
    sent: bool = False
    reused: bool = False
    missing: tuple[str, ...] = ()
    error: BinpkgError | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON document of this package."""
        document: dict[str, Any] = {
            "name": self.spec.name,
            "version": str(self.spec.version),
            "hash": self.spec.hash,
            "outcome": self.outcome.value,
        }
        if self.tag:
            document["tag"] = self.tag
        if self.digest:
            document |= {"digest": str(self.digest), "layer": str(self.layer), "size": self.size, "sent": self.sent}
        if self.missing:
            document["missing"] = list(self.missing)
        if self.error:
            document |= self.error.to_json()
        return document


@dataclass(frozen=True, slots=True)
class TaggedImage:
    """An image that was pushed under a tag of its own."""

    tag: str
    digest: Digest
    layers: int
    size: int
    missing: tuple[str, ...] = ()
    platforms: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the JSON document of this image."""
        return {
            "tag": self.tag,
            "digest": str(self.digest),
            "layers": self.layers,
            "size": self.size,
            "platforms": list(self.platforms),
            "missing": list(self.missing),
        }


@dataclass(frozen=True, slots=True)
class PushReport:
    """The result of a push."""

    cache: str
    packages: tuple[PackageResult, ...]
    image: TaggedImage | None = None
    index_written: bool = False
    warnings: tuple[str, ...] = field(default=())

    def by(self, outcome: PushOutcome) -> tuple[PackageResult, ...]:
        """Return the packages with an outcome."""
        return tuple(result for result in self.packages if result.outcome is outcome)

    @property
    def has_pushed(self) -> bool:
        """Whether a package was pushed."""
        return bool(self.by(PushOutcome.PUSHED))

    @property
    def exit_code(self) -> int:
        """0; 1 if some packages failed or were not there to be pushed; an error's own code if all failed for it."""
        failed = self.by(PushOutcome.FAILED)
        own = {result.error.exit_code for result in failed if result.error and result.error.exit_code != 1}
        if failed and not self.by(PushOutcome.PUSHED) and len(own) == 1:
            return own.pop()
        return 1 if failed or self.by(PushOutcome.GONE) else 0

    @property
    def bytes_sent(self) -> int:
        """Compressed layer bytes that travelled."""
        return sum(result.size for result in self.packages if result.sent)

    @property
    def bytes_saved(self) -> int:
        """Compressed layer bytes that did not have to travel because they were there already."""
        return sum(result.size for result in self.by(PushOutcome.PUSHED) if not result.sent)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON document."""
        return {
            "cache": self.cache,
            "packages": [result.to_json() for result in self.packages],
            "image": self.image.to_json() if self.image else None,
            "bytes_sent": self.bytes_sent,
            "bytes_saved": self.bytes_saved,
            "index_written": self.index_written,
            "warnings": list(self.warnings),
        }
