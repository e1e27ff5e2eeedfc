"""The commands about caches as a whole: their index, copies of them, and what pipelines ask."""

from __future__ import annotations

from typing import Annotated

import typer

CACHE_HELP = "oci://HOST[:PORT]/NAME, oci+http://..., oci-layout:PATH, or a configured name"
CacheArgument = Annotated[str, typer.Argument(metavar="CACHE", help=CACHE_HELP)]
QueriesArgument = Annotated[list[str] | None, typer.Argument(metavar="QUERY", help="greet@2.0, /6fyta, zlib +shared")]
StoreOption = Annotated[str, typer.Option("--store", metavar="DIR", help="install tree")]
JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON document for scripts")]

index_app = typer.Typer(
    help="Look after the index of a cache.", no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False
)


@index_app.command("update")
def index_update(cache: CacheArgument, json: JsonOption = False) -> None:
    """Enter packages that the index lacks; only those are read.

    \b
    Example:
      oci-binpkg index update oci://registry.example/apps
    """
    from oci_binpkg.cli import cache_commands

    raise typer.Exit(cache_commands.index(cache, "update", json=json))


@index_app.command("rebuild")
def index_rebuild(cache: CacheArgument, json: JsonOption = False) -> None:
    """Read every package and write the index anew.

    \b
    Example:
      oci-binpkg index rebuild oci-layout:cache
    """
    from oci_binpkg.cli import cache_commands

    raise typer.Exit(cache_commands.index(cache, "rebuild", json=json))


@index_app.command("check")
def index_check(cache: CacheArgument, json: JsonOption = False) -> None:
    """Compare the index with what is there; exits with 10 if they differ.

    \b
    Example:
      oci-binpkg index check oci://registry.example/apps
    """
    from oci_binpkg.cli import cache_commands

    raise typer.Exit(cache_commands.index(cache, "check", json=json))


def copy(
    source: Annotated[str, typer.Argument(metavar="SRC", help=CACHE_HELP)],
    target: Annotated[str, typer.Argument(metavar="DST", help=CACHE_HELP)],
    queries: QueriesArgument = None,
    json: JsonOption = False,
) -> None:
    """Copy a cache, or some of its packages, to another.

    Byte for byte, nothing is packed again; what is there already is left alone. Packages bring what they link to or run.

    \b
    Examples:
      oci-binpkg copy oci-layout:cache oci://registry.example/apps
      oci-binpkg copy oci://registry.example/apps oci-layout:cache greet@2.0
    """
    from oci_binpkg.cli import cache_commands

    raise typer.Exit(cache_commands.copy(source, target, queries or [], json=json))


def check(
    queries: QueriesArgument = None,
    on: Annotated[list[str] | None, typer.Option("--on", metavar="CACHE", help=f"{CACHE_HELP} (repeatable)")] = None,
    store: StoreOption = "",
    output: Annotated[str, typer.Option("--output", metavar="FILE", help="write the answer there as JSON")] = "",
    thorough: Annotated[bool, typer.Option("--thorough", help="look at each package's content, too")] = False,
    json: JsonOption = False,
) -> None:
    """Tell which packages a cache would have to be given.

    Exits with 1 if any cache lacks any of the packages (without a QUERY: all that are installed).

    \b
    Example:
      oci-binpkg check --store /opt/spack/opt --on oci://registry.example/apps --output rebuilds.json
    """
    from oci_binpkg.cli import cache_commands

    raise typer.Exit(cache_commands.check(queries or [], on or [], store, output, thorough=thorough, json=json))


def save_specs(
    queries: Annotated[list[str], typer.Argument(metavar="QUERY", help="greet@2.0, /6fyta, zlib +shared")],
    store: StoreOption = "",
    from_cache: Annotated[str, typer.Option("--from", metavar="CACHE", help=CACHE_HELP)] = "",
    destination: Annotated[str, typer.Option("--output-dir", metavar="DIR", help="folder for the spec files")] = ".",
    json: JsonOption = False,
) -> None:
    """Write the specs of packages, so that a pipeline can hand exact packages on.

    Prints, for each, the query that means exactly it and needs no index.

    \b
    Example:
      oci-binpkg save-specs greet --store /opt/spack/opt --output-dir specs
    """
    from oci_binpkg.cli import cache_commands

    raise typer.Exit(cache_commands.save_specs(queries, store, from_cache, destination, json=json))
