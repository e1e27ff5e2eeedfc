"""The commands about keys."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oci_binpkg.cli import render
from oci_binpkg.cli.context import opened
from oci_binpkg.cli.options import JsonOption

if TYPE_CHECKING:
    from oci_binpkg import Key

MirrorArgument = Annotated[str, typer.Argument(metavar="MIRROR", help="URL or configured name of a mirror")]


def list_keys(*, json: JsonOption = False) -> int:
    """List the keys that are trusted.

    \b
    Example:
      oci-binpkg keys list
    """
    with opened(json) as client:
        keys = client.keys_list()
    return _shown(keys, json=json)


def fetch(mirror: MirrorArgument, *, json: JsonOption = False) -> int:
    """Show the keys that a mirror publishes; it does not trust them.

    \b
    Example:
      oci-binpkg keys fetch https://mirror.example/apps
    """
    with opened(json) as client:
        keys = client.keys_fetch(mirror)
    return _shown(keys, json=json)


def trust(
    source: Annotated[str, typer.Argument(metavar="FILE|FINGERPRINT", help="a key file, or with --from a fingerprint")],
    *,
    mirror: Annotated[str, typer.Option("--from", metavar="MIRROR", help="take the key from this mirror")] = "",
) -> int:
    """Trust a key from now on.

    \b
    Examples:
      oci-binpkg keys trust team.asc
      oci-binpkg keys trust 4736BEAE4D40A00FB336279E63CF01CA5202F806 --from https://mirror.example/apps
    """
    with opened() as client:
        trusted = client.keys_trust(source, mirror=mirror)
    render.print_lines([f"trusted  {fingerprint}" for fingerprint in trusted])
    return 0


def untrust(
    fingerprint: Annotated[str, typer.Argument(metavar="FINGERPRINT", help="as `keys list` shows it")],
) -> int:
    """Trust a key no longer.

    \b
    Example:
      oci-binpkg keys untrust 4736BEAE4D40A00FB336279E63CF01CA5202F806
    """
    with opened() as client:
        client.keys_untrust(fingerprint)
    render.print_lines([f"no longer trusted  {fingerprint}"])
    return 0


def publish(
    mirrors: Annotated[list[str], typer.Argument(metavar="MIRROR", help="URLs or configured names of mirrors")],
    *,
    key: Annotated[
        list[str], typer.Option("--key", metavar="KEY", help="one of your keys: fingerprint or address (repeatable)")
    ],
) -> int:
    """Publish public keys on mirrors, for others to look at.

    \b
    Example:
      oci-binpkg keys publish file:///srv/mirror --key ci@example.org
    """
    with opened() as client:
        published = client.keys_publish(mirrors, key=key)
    render.print_lines([f"published  {fingerprint}" for fingerprint in published])
    return 0


def _shown(keys: Iterable[Key], *, json: bool) -> int:
    if json:
        render.print_json([_document(key) for key in keys])
        return 0
    rows = []
    for key in keys:
        states = ("trusted" if key.trusted else "not trusted", "revoked" * key.revoked, "expired" * key.expired)
        made = datetime.fromtimestamp(key.created, UTC).date().isoformat()
        rows.append((key.fingerprint, ", ".join(filter(None, states)), made, "; ".join(key.user_ids)))
    render.print_table(rows)
    return 0


def _document(key: Key) -> dict[str, Any]:
    return {
        "fingerprint": key.fingerprint,
        "user_ids": list(key.user_ids),
        "trusted": key.trusted,
        "revoked": key.revoked,
        "expired": key.expired,
    }
