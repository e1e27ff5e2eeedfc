"""The commands that list and show packages: of a tree, of a cache, of all configured caches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from oci_binpkg.cli import render
from oci_binpkg.cli.context import opened
from oci_binpkg.cli.options import (
    AllArchOption,
    CheckOption,
    FromOption,
    JsonOption,
    OfflineOption,
    OneOrAllOption,
    OneQuery,
    QueriesArgument,
    StoreOption,
    TtlOption,
    UpstreamsOption,
)
from oci_binpkg.errors import NoMatchError, UsageError

if TYPE_CHECKING:
    from oci_binpkg import CatalogMatch, Settings

LongOption = Annotated[bool, typer.Option("--long", help="who signed what is in a tree, and where it came from")]


def find(
    queries: QueriesArgument = None,
    *,
    store: StoreOption = "",
    upstream: UpstreamsOption = None,
    from_cache: FromOption = "",
    ttl: TtlOption = None,
    offline: OfflineOption = False,
    all_arch: AllArchOption = False,
    check_signature: CheckOption = None,
    long: LongOption = False,
    json: JsonOption = False,
) -> int:
    """List packages of a tree, a cache, or all configured caches.

    --store names an install tree, --from a cache. With neither, and no tree in the configuration, all configured caches
    are searched, as by `search`. --ttl, --offline and --all-arch search them too; with --from they need a configured
    name.

    \b
    Examples:
      oci-binpkg find --store /opt/spack/opt 'zlib@1.2: +shared'
      oci-binpkg find --from oci://registry.example/apps '^mpich'
      oci-binpkg find 'hdf5 +mpi' --all-arch
    """
    with opened(json) as client:
        if upstream and (from_cache or not (store or client.settings.store)):
            raise UsageError("--upstream is about an install tree", hint="use it with --store, or leave it out")
        as_kept = ttl is not None or offline or all_arch
        if _is_search(client.settings, store, from_cache, as_kept=as_kept, long=long):
            matches = client.search(queries or (), cache=from_cache, ttl=ttl, offline=offline, all_arch=all_arch)
        else:
            matches = None
            with _empty_list(json=json):
                found = client.find(
                    queries or (),
                    store=store,
                    upstream=upstream or (),
                    cache=from_cache or None,
                    check_signature=check_signature,
                    must_match=True,
                )
    if matches is not None:
        return _show_matches(matches, json=json)
    if json:
        render.print_json_list(package.to_json() for package in found)
    elif long:
        render.print_long(found)
    else:
        render.print_found(found)
    return 0


@contextmanager
def _empty_list(*, json: bool) -> Iterator[None]:
    """Print an empty list beside the error of queries that nothing matches: what reads the output gets a document."""
    try:
        yield
    except NoMatchError:
        if json:
            render.print_json_list(())
        raise


def _is_search(settings: Settings, store: str, cache: str, *, as_kept: bool, long: bool) -> bool:
    """Return whether the configured caches are searched, as the indices on this machine list them.

    `as_kept` is whether a flag asks for that. Raises `UsageError` for flags that exclude each other.
    """
    if store and as_kept:
        raise UsageError("--ttl, --offline and --all-arch are about caches", hint="leave them out, or --store")
    if cache and as_kept and cache not in settings.caches:
        raise UsageError(
            f"{cache} is not a configured name: nothing is kept of its index",
            hint="leave out --ttl, --offline and --all-arch, or give it a name with `oci-binpkg mirror add`",
        )
    if long and not (store or settings.store):
        raise UsageError("--long is about what is installed", hint="use it with --store, or leave it out")
    if as_kept or not (store or cache or settings.store or not settings.caches):
        return True
    if store and cache:
        raise UsageError("--store and --from exclude each other", hint="ask one place at a time")
    if not (store or cache or settings.store):
        raise UsageError(
            "no install tree, no cache, and none in the configuration",
            hint="use --store DIR or --from CACHE, or name caches with `oci-binpkg mirror add`",
        )
    if long and cache:
        raise UsageError("--long is about what is installed", hint="use it with --store, or leave it out")
    return False


def search(
    queries: QueriesArgument = None,
    *,
    ttl: TtlOption = None,
    offline: OfflineOption = False,
    all_arch: AllArchOption = False,
    json: JsonOption = False,
) -> int:
    """Search all configured caches.

    Their indices are kept on this machine, so that most searches need no network.

    \b
    Examples:
      oci-binpkg search 'zlib@1.2: +shared'
      oci-binpkg search greet --all-arch --offline --json
    """
    with opened(json) as client:
        found = client.search(queries or (), ttl=ttl, offline=offline, all_arch=all_arch)
    return _show_matches(found, json=json)


def show(
    query: OneQuery, *, from_cache: OneOrAllOption = "", check_signature: CheckOption = None, json: JsonOption = False
) -> int:
    """Show one package of a cache.

    Prints its spec, layer, tag and dependencies.

    \b
    Examples:
      oci-binpkg show greet@2.0 --from oci-layout:cache
      oci-binpkg show /6fytamq --from oci://registry.example/apps --json
    """
    with opened(json) as client:
        shown = client.show(query, cache=from_cache or None, check_signature=check_signature)
    if json:
        render.print_json(shown.to_json())
    else:
        render.print_shown(shown)
    return 0


def _show_matches(found: Sequence[CatalogMatch], *, json: bool) -> int:
    if json:
        render.print_json_list(each.to_json() for each in found)
    else:
        render.print_matches(found)
    return 0
