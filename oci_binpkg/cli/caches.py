"""The commands about caches as a whole: copies of them, and what pipelines ask."""

from __future__ import annotations

from typing import Annotated

import typer

from oci_binpkg.cli import render
from oci_binpkg.cli.context import opened
from oci_binpkg.cli.hints import words
from oci_binpkg.cli.options import (
    CACHE_HELP,
    CheckOption,
    FromOption,
    JsonOption,
    KeyOption,
    NeededQueries,
    QueriesArgument,
    StoreOption,
    UnsignedOption,
    UpstreamsOption,
)
from oci_binpkg.cli.terminal import flush_results, tell
from oci_binpkg.errors import UsageError


def copy(
    source: Annotated[str, typer.Argument(metavar="SRC", help=CACHE_HELP)],
    target: Annotated[str, typer.Argument(metavar="DST", help=CACHE_HELP)],
    queries: QueriesArgument = None,
    *,
    check_signature: CheckOption = None,
    key: KeyOption = "",
    unsigned: UnsignedOption = False,
    json: JsonOption = False,
) -> int:
    """Copy a cache, or some of its packages, to another.

    Layers are copied as they are, and packages that the target has are left alone. A chosen package brings what it
    links to or runs. This is also how a mirror of layout 2 becomes one of layout 3, or a registry.

    \b
    Examples:
      oci-binpkg copy oci-layout:cache oci://registry.example/apps
      oci-binpkg copy oci://registry.example/apps oci-layout:cache greet@2.0
      oci-binpkg copy https://mirror.example/old oci://registry.example/apps
    """
    with opened(json) as client:
        report = client.copy(source, target, queries or (), check_signature=check_signature, key=key, unsigned=unsigned)
    if json:
        render.print_json(report.to_json())
    else:
        render.print_lines([f"copied  {tag}" for tag in report.copied])
        render.print_lines([f"failed  {tag}  {error.message}" for tag, error in report.failed])
        flush_results()
        counts = f"{len(report.copied)} copied, {len(report.skipped)} there already, {len(report.failed)} failed"
        hints = dict.fromkeys(words(error.hint) for _, error in report.failed if error.hint)
        tell(f"{report.target}: {counts}", *hints)
    return report.exit_code


def check(
    queries: QueriesArgument = None,
    *,
    on: Annotated[list[str] | None, typer.Option("--on", metavar="CACHE", help=f"{CACHE_HELP} (repeatable)")] = None,
    store: StoreOption = "",
    upstream: UpstreamsOption = None,
    output: Annotated[
        str, typer.Option("--output", metavar="FILE", help="write the answer to this file, as JSON")
    ] = "",
    check_signature: CheckOption = None,
    thorough: Annotated[bool, typer.Option("--thorough", help="also read and check all bytes of each package")] = False,
    json: JsonOption = False,
) -> int:
    """List the packages of a tree that caches lack.

    Without a QUERY all installed packages are looked for, without --on in all configured caches. --output writes what
    Spack's `buildcache check` writes: the caches that lack something, by address. Exits with 1 if any cache lacks any.

    \b
    Example:
      oci-binpkg check --store /opt/spack/opt --on oci://registry.example/apps --output rebuilds.json
    """
    with opened(json) as client:
        answers = client.check(
            on or (),
            store,
            queries or (),
            upstream=upstream or (),
            thorough=thorough,
            check_signature=check_signature,
            output=output,
        )
    if json:
        render.print_json([answer.to_json() for answer in answers])
    else:
        render.print_lines(
            [f"{answer.cache}  {spec.short}  {reason}" for answer in answers for spec, reason in answer.lacking]
        )
    return 1 if any(answer.lacking for answer in answers) else 0


def save_specs(
    queries: NeededQueries,
    *,
    store: StoreOption = "",
    from_cache: FromOption = "",
    destination: Annotated[str, typer.Option("--output-dir", metavar="DIR", help="folder for the spec files")] = ".",
    check_signature: CheckOption = None,
    json: JsonOption = False,
) -> int:
    """Write the specs of packages, for the jobs of a pipeline.

    Prints for each package the query that means exactly this one and needs no index.

    \b
    Example:
      oci-binpkg save-specs greet --store /opt/spack/opt --output-dir specs
    """
    with opened(json) as client:
        if store and from_cache:
            raise UsageError("--store and --from exclude each other", hint="ask one place at a time")
        saved = client.save_specs(
            queries, destination, store=store, cache=from_cache or None, check_signature=check_signature
        )
    if json:
        render.print_json([each.to_json() for each in saved])
    else:
        render.print_table([(each.query, each.path) for each in saved])
    return 0
