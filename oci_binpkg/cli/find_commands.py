"""From words to values to operations: the commands that list and show packages."""

from __future__ import annotations

from collections.abc import Sequence

from oci_binpkg.cli import render
from oci_binpkg.cli.running import installs_at, observed, parse_queries
from oci_binpkg.client import TrustFlags
from oci_binpkg.config.settings import load_settings
from oci_binpkg.errors import UsageError
from oci_binpkg.model.query import Query
from oci_binpkg.ops.find import find_cached, find_installed
from oci_binpkg.ops.find import show as show_package


def find(
    queries: Sequence[str], store: str, cache_text: str, *, json: bool, check: bool | None = None, long: bool = False
) -> int:
    """List packages of a tree or of a cache; with `long` what was verified of those of a tree."""
    settings = load_settings()
    parsed = parse_queries(queries)
    if store and cache_text:
        raise UsageError("--store and --from exclude each other", hint="ask one place at a time")
    if not (store or cache_text or settings.store):
        raise UsageError(
            "no install tree, no cache, and none in the configuration",
            hint="use --store DIR or --from CACHE, or name caches with `oci-binpkg mirror add`",
        )
    if long and cache_text:
        raise UsageError("--long is about what is installed", hint="use it with --store, or leave it out")
    with observed(settings, json) as wiring:
        if cache_text:
            found = find_cached(wiring.cache(cache_text, TrustFlags(check)), parsed, wiring.observer)
        else:
            found = find_installed(installs_at(settings, store), parsed)
    if json:
        render.print_json_list(package.to_json() for package in found)
    elif long:
        render.print_long(found)
    else:
        render.print_found(found)
    return 0


def show(query: str, cache_text: str, *, json: bool, check: bool | None = None) -> int:
    """Show one package of a cache."""
    settings = load_settings()
    parsed = Query.parse(query)
    with observed(settings, json) as wiring:
        shown = show_package(wiring.cache(cache_text, TrustFlags(check)), parsed, wiring.observer)
    if json:
        render.print_json(shown.to_json())
    else:
        render.print_shown(shown)
    return 0
