"""Which layouts a mirror has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from oci_binpkg.errors import NotFoundError, UnsupportedError

if TYPE_CHECKING:
    from oci_binpkg.objects.protocol import Objects

V2_INDEX: Final = "build_cache/index.json"


def has_only_layout_2(objects: Objects) -> bool:
    """Return whether a mirror has layout 2 and not 3. An empty or new mirror has layout 3."""
    from oci_binpkg.cache.mirror_manifest import LAYOUT_PATH, index_path  # noqa: PLC0415 - stores need none of it
    from oci_binpkg.objects.protocol import exists  # noqa: PLC0415 - as above

    if exists(objects, LAYOUT_PATH) or exists(objects, index_path()):
        return False
    return has_layout_2(objects)


def has_layout_2(objects: Objects) -> bool:
    """Return whether a mirror has packages of layout 2; published keys alone do not count."""
    from oci_binpkg.objects.protocol import exists  # noqa: PLC0415 - as above

    return exists(objects, V2_INDEX) or _lists(objects, "build_cache/")


def _lists(objects: Objects, prefix: str) -> bool:
    try:
        return any(not path.startswith(_KEYS) for path in objects.list(prefix))
    except (UnsupportedError, NotFoundError):
        return False


_KEYS: Final = "build_cache/_pgp/"
