"""The commands about the index of a cache, and the views of a mirror."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from oci_binpkg.cli import render
from oci_binpkg.cli.context import opened
from oci_binpkg.cli.options import CacheArgument, CheckOption, IndexKeyOption, JsonOption, QueriesArgument, ViewsOption
from oci_binpkg.errors import ContentError

if TYPE_CHECKING:
    from oci_binpkg import IndexReport


def update(
    cache: CacheArgument,
    queries: QueriesArgument = None,
    *,
    view: ViewsOption = None,
    check_signature: CheckOption = None,
    key: IndexKeyOption = "",
    json: JsonOption = False,
) -> int:
    """Enter packages that the index lacks; only those are read.

    With --view, the packages that match a QUERY (all, without one) and what they link to or run are entered in the
    index of that part of a mirror.

    \b
    Examples:
      oci-binpkg index update oci://registry.example/apps
      oci-binpkg index update file:///srv/mirror 'greet@2:' --view stable --key ci@example.org
    """
    with opened(json) as client:
        reports = client.index_update(cache, queries or (), view=view or (), check_signature=check_signature, key=key)
    _show(reports, {True: "written", False: "unchanged"}, json=json)
    return 0


def rebuild(
    cache: CacheArgument,
    queries: QueriesArgument = None,
    *,
    view: ViewsOption = None,
    check_signature: CheckOption = None,
    key: IndexKeyOption = "",
    json: JsonOption = False,
) -> int:
    """Read every package and write the index anew.

    With --view, the index of that part of a mirror then holds exactly the packages that match a QUERY (all, without
    one) and what they link to or run. Exits with 1 if packages are left out because they are damaged or gone.

    \b
    Examples:
      oci-binpkg index rebuild oci-layout:cache
      oci-binpkg index rebuild file:///srv/mirror greet zlib --view stable --view tested
    """
    with opened(json) as client:
        reports = client.index_rebuild(cache, queries or (), view=view or (), check_signature=check_signature, key=key)
    _show(reports, {True: "written", False: "unchanged"}, json=json)
    return 1 if any(report.has_lost for report in reports) else 0


def check(
    cache: CacheArgument,
    *,
    view: ViewsOption = None,
    names: Annotated[bool, typer.Option("--names", help="compare the names only")] = False,
    manifests: Annotated[
        bool, typer.Option("--manifests", help="also read each package's documents, and look for its blobs")
    ] = False,
    content: Annotated[bool, typer.Option("--content", help="also read every blob, and check its digest")] = False,
    check_signature: Annotated[
        bool | None,
        typer.Option(
            "--check-signature/--no-check-signature", help="whether the index must be signed (else it is reported)"
        ),
    ] = None,
    json: JsonOption = False,
) -> int:
    """Compare the index with what is there.

    In a registry or on a server the names are compared; in a folder the packages are looked at, too (--manifests).
    Exits with 10 if index and packages differ, or if something is damaged or gone. It also reports whether the
    index is signed, and by whom.

    \b
    Examples:
      oci-binpkg index check oci://registry.example/apps
      oci-binpkg index check file:///srv/mirror --view stable --check-signature
    """
    with opened(json) as client:
        reports = client.index_check(
            cache,
            view=view or (),
            names=names,
            manifests=manifests,
            content=content,
            check_signature=check_signature,
        )
    states = [{False: "true" if report.is_true else "differs"} for report in reports]
    _show(reports, *states, json=json, listing=True)
    return 0 if all(report.is_true for report in reports) else ContentError.exit_code


def _show(reports: Sequence[IndexReport], *states: dict[bool, str], json: bool, listing: bool = False) -> None:
    if json:
        documents = [report.to_json() for report in reports]
        render.print_json(documents if reports[0].view else documents[0])
        return
    for number, report in enumerate(reports):
        state = states[min(number, len(states) - 1)][report.written]
        name = f"{report.cache}: view {report.view}" if report.view else f"{report.cache}: index"
        render.print_lines(
            [
                f"{name} {state}, {report.packages} packages, {_signed(report)}",
                *(f"    not listed: {each}" for each in report.unlisted if listing),
                *(f"    listed, and not there: {each}" for each in report.vanished),
                *(f"    damaged: {each}{why}" for each, why in _with_reasons(report)),
            ]
        )


def _with_reasons(report: IndexReport) -> list[tuple[str, str]]:
    """Return what is damaged, each with the reason where that is known."""
    reasons = [f": {reason}" for reason in report.reasons] or [""] * len(report.damaged)
    return list(zip(report.damaged, reasons, strict=True))


def _signed(report: IndexReport) -> str:
    """Say who signed an index."""
    signature = report.signature
    if signature.problem:
        return f"signature not verified: {signature.problem}"
    return f"signed by {signature.signer}" if signature.signer else "not signed"
