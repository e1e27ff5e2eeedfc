"""The public keys that a mirror publishes. Finding one there is no reason to trust it.

Source: Spack's URL mirrors: `v3/manifests/key/` (layout 3), `build_cache/_pgp/` (layout 2).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Final

from oci_binpkg.cache.layouts import has_only_layout_2
from oci_binpkg.cache.mirror_manifest import (
    LAYOUT_BYTES,
    LAYOUT_PATH,
    BlobRecord,
    MirrorManifest,
    parse_mirror_manifest,
)
from oci_binpkg.errors import ContentError, NotFoundError, UnsupportedError
from oci_binpkg.model.content import Digest, verify
from oci_binpkg.model.documents import object_of, parse_json
from oci_binpkg.objects.protocol import Objects, exists

_FOLDER: Final = "v3/manifests/key"
_KEY_TYPE: Final = "application/pgp-keys"
_INDEX_TYPE: Final = "application/vnd.spack.keyindex.v1+json"
_OLD_FOLDER: Final = "build_cache/_pgp"
_SUFFIX: Final = ".key.manifest.json"
_MAX_KEYS: Final = 1000


def published_keys(objects: Objects) -> dict[str, bytes]:
    """Return fingerprint and content of every key that a mirror publishes, of both layouts.

    A key that is listed and not there is left out. Raises `ContentError` for a damaged list or key.
    """
    return {**_old_keys(objects), **_new_keys(objects)}


def _new_keys(objects: Objects) -> dict[str, bytes]:
    try:
        names = _names(_blob(objects, f"{_FOLDER}/keys.manifest.json", _INDEX_TYPE), objects)
    except NotFoundError:
        return {}
    found = {}
    for name in names:
        with suppress(NotFoundError):
            found[name] = _blob(objects, f"{_FOLDER}/{name}{_SUFFIX}", _KEY_TYPE)
    return found


def publish_keys(objects: Objects, keys: Mapping[str, bytes]) -> bool:
    """Put keys (by fingerprint) where readers of the mirror look for them, the list last.

    A mirror of layout 2 alone keeps them in its own form, so that it stays one. The list is made of what is there.
    Returns whether anything had to be written.
    """
    if has_only_layout_2(objects):
        return _publish_old(objects, keys)
    known = _new_keys(objects)
    new = {name: key for name, key in keys.items() if known.get(name) != key}
    for name, key in new.items():
        _put(objects, f"{_FOLDER}/{name}{_SUFFIX}", _KEY_TYPE, key)
    listed = {*_listed(objects, _FOLDER, _SUFFIX, known), *keys}
    if not new and listed == known.keys():
        return False
    _put(objects, f"{_FOLDER}/keys.manifest.json", _INDEX_TYPE, _listing(listed))
    if not exists(objects, LAYOUT_PATH):
        objects.write(LAYOUT_PATH, LAYOUT_BYTES)
    return True


def _publish_old(objects: Objects, keys: Mapping[str, bytes]) -> bool:
    known = _old_keys(objects)
    new = {name: key for name, key in keys.items() if known.get(name) != key}
    for name, key in new.items():
        objects.write(f"{_OLD_FOLDER}/{name}.pub", key)
    listed = {*_listed(objects, _OLD_FOLDER, ".pub", known), *keys}
    if not new and listed == known.keys():
        return False
    objects.write(f"{_OLD_FOLDER}/index.json", _listing(listed))
    return True


def _listed(objects: Objects, folder: str, suffix: str, known: Iterable[str]) -> set[str]:
    """Return the fingerprints of the keys that lie in a folder; where nothing can be listed, the known ones."""
    try:
        paths = list(objects.list(folder))
    except UnsupportedError:
        return set(known)
    names = (path.rpartition("/")[2].removesuffix(suffix) for path in paths if path.endswith(suffix))
    return {name for name in names if _is_fingerprint(name)}


def _listing(names: Iterable[str]) -> bytes:
    keys: dict[str, dict[str, str]] = {name: {} for name in sorted(names)}
    return json.dumps({"keys": keys}, separators=(",", ":")).encode()


def _old_keys(objects: Objects) -> dict[str, bytes]:
    try:
        listing = objects.read(f"{_OLD_FOLDER}/index.json")
    except NotFoundError:
        return {}
    if listing is None:
        return {}
    found = {}
    for name in _names(listing.data, objects):
        with suppress(NotFoundError):
            key = objects.read(f"{_OLD_FOLDER}/{name}.pub")
            assert key is not None  # no version was named
            found[name] = key.data
    return found


def _names(listing: bytes, objects: Objects) -> list[str]:
    what = f"the list of keys of {objects.name}"
    keys: Mapping[str, object] = object_of(parse_json(listing, what), "keys", what)
    if len(keys) > _MAX_KEYS or not all(_is_fingerprint(name) for name in keys):
        raise ContentError(f"{what} is no list of fingerprints")
    return list(keys)


def _is_fingerprint(name: str) -> bool:
    return name.isascii() and name.isalnum()


def _blob(objects: Objects, path: str, media_type: str) -> bytes:
    what = f"{objects.name}/{path}"
    manifest = objects.read(path)
    if manifest is None:
        raise NotFoundError(f"{what} is not there")
    record = parse_mirror_manifest(manifest.data, what).record(media_type, what)
    content = objects.read(record.path)
    if content is None:
        raise NotFoundError(f"{what}: its content is not there")
    verify(content.data, record.descriptor())
    return content.data


def _put(objects: Objects, path: str, media_type: str, data: bytes) -> None:
    record = BlobRecord(media_type, "none", Digest.of(data), len(data))
    objects.write(record.path, data)
    objects.write(path, MirrorManifest((record,)).to_bytes())
