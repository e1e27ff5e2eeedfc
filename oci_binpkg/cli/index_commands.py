"""From words to values to operations: the index of a cache, and the views of a mirror."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from oci_binpkg.cli import render
from oci_binpkg.cli.running import observed, parse_queries
from oci_binpkg.client import TrustFlags, Wiring
from oci_binpkg.config.settings import load_settings
from oci_binpkg.errors import ContentError, UsageError
from oci_binpkg.model.reference import check_view
from oci_binpkg.ops.index import IndexReport, check_index, rebuild_indices, update_indices

if TYPE_CHECKING:
    from oci_binpkg.cache.protocol import ReadableCache


def write(
    action: Literal["update", "rebuild"],
    cache_text: str,
    queries: Sequence[str],
    views: Sequence[str],
    *,
    check: bool | None,
    key: str,
    json: bool,
) -> int:
    """Update or rebuild an index, or views; return the exit code."""
    settings = load_settings()
    parsed = parse_queries(queries)
    flags = TrustFlags(check, key)
    with observed(settings, json) as wiring:
        views = views or _configured(wiring, cache_text, writing=True)
        if parsed and not views:
            raise UsageError("a QUERY chooses what a view holds, and no view is named", hint="add --view NAME")
        wiring.index_is_settled(cache_text, flags)
        change = update_indices if action == "update" else rebuild_indices
        if not views:
            cache = wiring.writable(cache_text, flags)
            reports = change(cache, {"": cache}, parsed, wiring.observer)
        else:
            whole = wiring.cache(cache_text, flags, writing=True, view="")
            names = _names(cache_text, whole, views)
            indices = {name: wiring.writable(cache_text, flags, view=name) for name in names}
            reports = change(whole, indices, parsed, wiring.observer)
    _show(reports, {True: "written", False: "unchanged"}, views=bool(views), json=json)
    return 0


def check(cache_text: str, views: Sequence[str], *, check: bool | None, json: bool) -> int:
    """Compare an index, or views, with what is there; return the exit code."""
    settings = load_settings()
    # nothing but the index is read here: that is what has to be signed
    flags = TrustFlags(check, index=check is True)
    with observed(settings, json) as wiring:
        views = views or _configured(wiring, cache_text, writing=False)
        if views:
            from oci_binpkg.ops.index import check_views

            whole = wiring.cache(cache_text, flags, view="")
            names = _names(cache_text, whole, views)
            reports = check_views(whole, {name: wiring.cache(cache_text, flags, view=name) for name in names})
        else:
            reports = [check_index(wiring.cache(cache_text, flags))]
    states = [{False: "true" if report.is_true else "differs"} for report in reports]
    _show(reports, *states, views=bool(views), json=json, listing=True)
    return 0 if all(report.is_true for report in reports) else ContentError.exit_code


def _configured(wiring: Wiring, text: str, *, writing: bool) -> list[str]:
    """Return the view that a mirror's name stands for, if it does."""
    location = wiring.location(text, writing=writing)
    return [location.view] if location.url and location.view else []


def _names(text: str, whole: ReadableCache, views: Sequence[str]) -> list[str]:
    """Return the names of views, each once. Raises `UsageError` for a cache that has none."""
    names = [check_view(view) for view in dict.fromkeys(views)]
    if names and not whole.has_views:
        raise UsageError(f"{text} has no views: only mirrors of layout 3 do", hint="leave out --view")
    return names


def _show(
    reports: Sequence[IndexReport], *states: dict[bool, str], views: bool, json: bool, listing: bool = False
) -> None:
    if json:
        documents = [report.to_json() for report in reports]
        render.print_json(documents if views else documents[0])
        return
    for number, report in enumerate(reports):
        state = states[min(number, len(states) - 1)][report.written]
        name = f"{report.cache}: view {report.view}" if report.view else f"{report.cache}: index"
        render.print_lines(
            [
                f"{name} {state}, {report.packages} packages, {_signed(report)}",
                *(f"    not listed: {each}" for each in report.unlisted if listing),
                *(f"    listed, and not there: {each}" for each in report.vanished),
                *(f"    damaged: {each}" for each in report.damaged),
            ]
        )


def _signed(report: IndexReport) -> str:
    """Say who signed an index."""
    signature = report.signature
    if signature.problem:
        return f"signature not verified: {signature.problem}"
    return f"signed by {signature.signer}" if signature.signer else "not signed"
