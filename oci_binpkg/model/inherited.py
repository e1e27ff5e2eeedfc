"""What an image takes over from its base, and what belongs to whoever built the base. Pure.

Source: OCI image-spec 1.1 (config.md, layer.md), Docker's image specification 1.3, and what `FROM` does in Dockerfiles.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from oci_binpkg.errors import UsageError
from oci_binpkg.model.content import (
    DOCKER_FOREIGN_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_LAYER_TAR,
    DOCKER_LAYER_ZSTD,
    OCI_FOREIGN_LAYER_GZIP,
    OCI_LAYER_GZIP,
    OCI_LAYER_TAR,
    OCI_LAYER_ZSTD,
    Descriptor,
)

_OCI_TYPES: Final = {
    DOCKER_LAYER_TAR: OCI_LAYER_TAR,
    DOCKER_LAYER_GZIP: OCI_LAYER_GZIP,
    DOCKER_LAYER_ZSTD: OCI_LAYER_ZSTD,
    DOCKER_FOREIGN_LAYER: OCI_FOREIGN_LAYER_GZIP,
}
_OF_THE_BUILDER: Final = frozenset({"container", "container_config", "docker_version", "id", "parent", "size"})
"""Members that Docker's classic builder leaves in a configuration: they tell of the container that made the base."""
_OF_BUILDKIT: Final = "moby.buildkit."
"""How members begin that tell of the build, such as its inline cache: they are wrong for another image."""
_OF_THE_PARENT: Final = frozenset({"onbuild", "image", "hostname", "domainname"})
"""Members of `config` that are not inherited: triggers run in the direct child alone, the others name a container.

Engines read these names whatever their case.
"""


def oci_descriptor(descriptor: Descriptor) -> Descriptor:
    """Return the descriptor of the same bytes with the OCI type in the place of Docker's."""
    return replace(descriptor, media_type=_OCI_TYPES.get(descriptor.media_type, descriptor.media_type))


def inherited_members(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a base's configuration without what tells of its own build, so that an image can begin with it."""
    kept = {
        key: value
        for key, value in document.items()
        if key.lower() not in _OF_THE_BUILDER and not key.startswith(_OF_BUILDKIT)
    }
    if settings := kept.get("config"):
        kept["config"] = {key: value for key, value in settings.items() if key.lower() not in _OF_THE_PARENT}
    return kept


def newest(times: Iterable[object]) -> str:
    """Return the latest of RFC 3339 times as it is written, "" without one. Other texts do not count."""
    known = [(moment, str(text)) for text in times if (moment := _moment(text)) is not None]
    return max(known)[1] if known else ""


def source_date(text: str) -> str:
    """Return the time of `SOURCE_DATE_EPOCH` (seconds since 1970) as RFC 3339, "" for "". Raises `UsageError`."""
    if not text:
        return ""
    if re.fullmatch(r"[0-9]{1,12}", text, re.ASCII):
        with suppress(ValueError, OverflowError, OSError):
            return datetime.fromtimestamp(int(text), UTC).isoformat()
    raise UsageError(f"SOURCE_DATE_EPOCH={text[:40]!r}: seconds since 1970 are expected", hint="unset it, or mend it")


def _moment(text: object) -> datetime | None:
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
