"""From words to values to operations: the commands about keys."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from oci_binpkg.cache.mirror_keys import publish_key, published_keys
from oci_binpkg.cli import render
from oci_binpkg.cli.running import observed
from oci_binpkg.config.settings import load_settings
from oci_binpkg.disk import open_file
from oci_binpkg.errors import LocalDiskError, NotFoundError
from oci_binpkg.model.content import read_whole
from oci_binpkg.signing.keyring import MAX_KEY_BYTES, Key


def list_keys(*, json: bool) -> int:
    """List the trusted keys."""
    with observed(load_settings(), json) as wiring:
        _print(wiring.keyring.keys(), json=json)
    return 0


def fetch(mirror: str, *, json: bool) -> int:
    """Show the keys that a mirror publishes."""
    with observed(load_settings(), json) as wiring:
        found = published_keys(wiring.objects(mirror))
        if not found:
            raise NotFoundError(f"{mirror} publishes no keys", hint="ask its owner for the key file")
        keys = [key for name, data in found.items() for key in wiring.keyring.inspect(data, f"the key {name}")]
        _print(keys, json=json)
    return 0


def trust(source: str, mirror: str) -> int:
    """Trust the keys of a file, or the key of a mirror with a fingerprint."""
    with observed(load_settings()) as wiring:
        if mirror:
            wanted = source.upper().replace(" ", "").removeprefix("0X")
            for name, data in published_keys(wiring.objects(mirror)).items():
                keys = wiring.keyring.inspect(data, f"the key {name}")
                if [key.fingerprint for key in keys] == [wanted]:
                    break
            else:
                raise NotFoundError(f"{mirror} publishes no key {source}", hint=f"`oci-binpkg keys fetch {mirror}`")
        else:
            data = _read(source)
        for fingerprint in wiring.keyring.trust(data, source):
            render.print_lines([f"trusted  {fingerprint}"])
    return 0


def untrust(fingerprint: str) -> int:
    """Trust a key no longer."""
    with observed(load_settings()) as wiring:
        wiring.keyring.untrust(fingerprint)
    render.print_lines([f"no longer trusted  {fingerprint}"])
    return 0


def publish(mirror: str, key: str) -> int:
    """Publish the public half of one of the user's keys."""
    with observed(load_settings()) as wiring:
        data = wiring.keyring.export_signer(key)
        (found,) = wiring.keyring.inspect(data, f"the key {key}")
        publish_key(wiring.objects(mirror, writing=True), found.fingerprint, data)
    render.print_lines([f"published  {found.fingerprint}"])
    return 0


def _read(path: str) -> bytes:
    try:
        # what a shell gives for `<(...)` or `-` is no regular file: /dev/fd/63, /dev/stdin
        with open(path, "rb") if path.startswith("/dev/") else open_file(os.path.expanduser(path)) as file:
            return read_whole(file, MAX_KEY_BYTES + 1)
    except OSError as error:
        raise LocalDiskError(f"{path}: {error.strerror}", hint="name a key file, or add --from MIRROR") from None


def _print(keys: Iterable[Key], *, json: bool) -> None:
    if json:
        render.print_json([_document(key) for key in keys])
        return
    rows = []
    for key in keys:
        states = ("trusted" if key.trusted else "not trusted", "revoked" * key.revoked, "expired" * key.expired)
        made = datetime.fromtimestamp(key.created, UTC).date().isoformat()
        rows.append((key.fingerprint, ", ".join(filter(None, states)), made, "; ".join(key.user_ids)))
    render.print_table(rows)


def _document(key: Key) -> dict[str, Any]:
    return {
        "fingerprint": key.fingerprint,
        "user_ids": list(key.user_ids),
        "trusted": key.trusted,
        "revoked": key.revoked,
        "expired": key.expired,
    }
