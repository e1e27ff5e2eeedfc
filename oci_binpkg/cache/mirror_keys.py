"""The public keys that a mirror publishes. Finding one there is no reason to trust it.

Source: Spack's URL mirrors: `v3/manifests/key/` (layout 3), `build_cache/_pgp/` (layout 2).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from oci_binpkg.cache.mirror_manifest import BlobRecord, MirrorManifest, parse_mirror_manifest
from oci_binpkg.errors import ContentError, NotFoundError
from oci_binpkg.model.content import Digest, verify
from oci_binpkg.model.documents import object_of, parse_json
from oci_binpkg.objects.protocol import Objects

_FOLDER: Final = "v3/manifests/key"
_KEY_TYPE: Final = "application/pgp-keys"
_INDEX_TYPE: Final = "application/vnd.spack.keyindex.v1+json"
_OLD_FOLDER: Final = "build_cache/_pgp"
_MAX_KEYS: Final = 1000


def published_keys(objects: Objects) -> dict[str, bytes]:
    """Return fingerprint and content of every key that a mirror publishes, of either layout.

    Raises `ContentError` for a damaged list or key.
    """
    try:
        names = _names(_blob(objects, f"{_FOLDER}/keys.manifest.json", _INDEX_TYPE), objects)
    except NotFoundError:
        return _old_keys(objects)
    return {name: _blob(objects, f"{_FOLDER}/{name}.key.manifest.json", _KEY_TYPE) for name in names}


def publish_key(objects: Objects, fingerprint: str, key: bytes) -> None:
    """Put a key where readers of the mirror look for keys, the key first, the list last."""
    try:
        known = published_keys(objects)
    except NotFoundError:
        known = {}
    _put(objects, f"{_FOLDER}/{fingerprint}.key.manifest.json", _KEY_TYPE, key)
    names: dict[str, dict[str, str]] = {name: {} for name in sorted({*known, fingerprint})}
    listing = json.dumps({"keys": names}, separators=(",", ":")).encode()
    _put(objects, f"{_FOLDER}/keys.manifest.json", _INDEX_TYPE, listing)


def _old_keys(objects: Objects) -> dict[str, bytes]:
    try:
        listing = objects.read(f"{_OLD_FOLDER}/index.json")
    except NotFoundError:
        return {}
    if listing is None:
        return {}
    found = {}
    for name in _names(listing.data, objects):
        key = objects.read(f"{_OLD_FOLDER}/{name}.pub")
        if key is not None:
            found[name] = key.data
    return found


def _names(listing: bytes, objects: Objects) -> list[str]:
    what = f"the list of keys of {objects.name}"
    keys: Mapping[str, object] = object_of(parse_json(listing, what), "keys", what)
    if len(keys) > _MAX_KEYS or not all(name.isascii() and name.isalnum() for name in keys):
        raise ContentError(f"{what} is no list of fingerprints")
    return list(keys)


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
