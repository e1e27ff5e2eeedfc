"""The commands that list packages: of a tree, of a cache, of all configured caches."""

from __future__ import annotations

from typing import Annotated

import typer

from oci_binpkg.cli.options import CheckOption, FromOption, JsonOption, QueriesArgument, StoreOption

_TTL_HELP = "how long what was read of a configured cache is believed (600)"
TtlOption = Annotated[float | None, typer.Option("--ttl", metavar="SECONDS", min=0, help=_TTL_HELP)]
OfflineOption = Annotated[bool, typer.Option("--offline", help="ask no configured cache: what was read before counts")]
LongOption = Annotated[bool, typer.Option("--long", help="who signed what is in a tree, and where it came from")]
AllArchOption = Annotated[bool, typer.Option("--all-arch", help="packages for other machines, too")]


def find(
    queries: QueriesArgument = None,
    store: StoreOption = "",
    from_cache: FromOption = "",
    ttl: TtlOption = None,
    offline: OfflineOption = False,
    all_arch: AllArchOption = False,
    check_signature: CheckOption = None,
    long: LongOption = False,
    json: JsonOption = False,
) -> None:
    """List packages of a tree, of a cache, or of all configured caches.

    --store names an install tree, --from a cache. With neither, and no tree in the configuration, all configured caches
    are searched, as by `search`; so they are with --ttl, --offline or --all-arch. With --from these need a configured
    name.

    \b
    Examples:
      oci-binpkg find --store /opt/spack/opt 'zlib@1.2: +shared'
      oci-binpkg find --from oci://registry.example/apps '^mpich'
      oci-binpkg find 'hdf5 +mpi' --all-arch
    """
    from oci_binpkg.cli import catalog_commands

    flags = catalog_commands.CatalogFlags(ttl, offline=offline, all_arch=all_arch, json=json, long=long)
    raise typer.Exit(catalog_commands.find(queries or [], store, from_cache, flags, check=check_signature))


def search(
    queries: QueriesArgument = None,
    ttl: TtlOption = None,
    offline: OfflineOption = False,
    all_arch: AllArchOption = False,
    json: JsonOption = False,
) -> None:
    """Search all configured caches.

    Their indices are kept on this machine, so that most searches ask nobody.

    \b
    Examples:
      oci-binpkg search 'zlib@1.2: +shared'
      oci-binpkg search greet --all-arch --offline --json
    """
    from oci_binpkg.cli import catalog_commands

    flags = catalog_commands.CatalogFlags(ttl, offline=offline, all_arch=all_arch, json=json)
    raise typer.Exit(catalog_commands.search(queries or [], flags))
