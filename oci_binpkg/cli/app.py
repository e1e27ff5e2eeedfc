"""The commands. Each one turns words into values, calls one operation, and shows its result.

Nothing but the standard library and typer is imported before a command runs, so that help and completion answer at once.
"""

from __future__ import annotations

import sys
from typing import Annotated, Never

import typer

from oci_binpkg.cli import terminal
from oci_binpkg.cli.cache_app import (
    check,
    copy,
    index_app,
    keys_app,
    mirror_app,
    save_specs,
)
from oci_binpkg.cli.edge import Commands, Options, run_command
from oci_binpkg.cli.options import (
    CACHE_HELP,
    AcceptPresentOption,
    BaseOption,
    CacheArgument,
    CheckOption,
    CompressionOption,
    DryRunOption,
    EngineOption,
    FromCaches,
    FromOption,
    ImageArgument,
    JobsOption,
    JsonOption,
    KeyOption,
    NeededQueries,
    PinNewestOption,
    QueriesArgument,
    SkipPresentOption,
    StoreOption,
    UnsignedOption,
)
from oci_binpkg.cli.search_app import find, search

app = typer.Typer(
    name="oci-binpkg",
    cls=Commands,
    help="Installed software as container layers: push packages to any registry, run them as images.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def push(
    cache: CacheArgument,
    queries: QueriesArgument = None,
    store: StoreOption = "",
    base_image: BaseOption = "",
    tag: Annotated[str, typer.Option("--tag", metavar="TAG", help="also tag one image of all packages named")] = "",
    only: Annotated[str, typer.Option("--only", metavar="WHICH", help="package or dependencies")] = "",
    force: Annotated[bool, typer.Option("--force", "-f", help="push again what is there already")] = False,
    update_index: Annotated[
        bool, typer.Option("--update-index", help="enter the packages in the cache's index")
    ] = False,
    skip_present_in: SkipPresentOption = None,
    compression: CompressionOption = "",
    jobs: JobsOption = 0,
    key: KeyOption = "",
    unsigned: UnsignedOption = False,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Push packages and what they need to a cache.

    Without a QUERY: everything that was installed explicitly. What is in the cache already is skipped.

    \b
    Examples:
      oci-binpkg push oci://registry.example/apps --store /opt/spack/opt --update-index
      oci-binpkg push oci-layout:cache greet@2.0 --store ~/spack/opt --base-image debian:12
    """
    from oci_binpkg.cli import push_commands
    from oci_binpkg.client import TrustFlags

    raise typer.Exit(
        push_commands.push(
            cache,
            queries or [],
            push_commands.PushFlags(
                store,
                base_image,
                tag,
                only,
                force,
                update_index,
                compression,
                jobs,
                dry_run=dry_run,
                json=json,
                trust=TrustFlags(key=key, unsigned=unsigned),
                skip_present_in=skip_present_in or (),
            ),
        )
    )


@app.command()
def image(
    cache: CacheArgument,
    queries: Annotated[list[str], typer.Argument(metavar="QUERY", help="the packages the image is for")],
    tag: Annotated[str, typer.Option("--tag", metavar="TAG", help="the tag of the image")],
    store: StoreOption = "",
    base_image: BaseOption = "",
    entrypoint: Annotated[str, typer.Option(metavar="CMD", help="words as in a shell, or a JSON list")] = "",
    cmd: Annotated[str, typer.Option(metavar="CMD", help="words as in a shell, or a JSON list")] = "",
    env: Annotated[list[str] | None, typer.Option(metavar="K=V", help="set a variable (repeatable)")] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="K=V", help="set a label (repeatable)")] = None,
    user: Annotated[str, typer.Option(metavar="U", help="user[:group] the container runs as")] = "",
    workdir: Annotated[str, typer.Option(metavar="D", help="folder the container starts in")] = "",
    compression: CompressionOption = "",
    jobs: JobsOption = 0,
    key: KeyOption = "",
    unsigned: UnsignedOption = False,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Push one image of several packages.

    The image holds the packages and everything they need, under one tag. With --key it is signed.

    \b
    Examples:
      oci-binpkg image oci://registry.example/apps greet@2.0 greet@2.1 --store /opt/spack/opt --tag both
      oci-binpkg image oci-layout:cache python --store ~/spack/opt --tag py --base-image debian:12 --entrypoint python3
    """
    from oci_binpkg.cli import push_commands
    from oci_binpkg.client import TrustFlags

    runtime = push_commands.RuntimeFlags(entrypoint, cmd, env or [], label or [], user, workdir)
    flags = push_commands.PushFlags(
        *(store, base_image, tag, "", False, False, compression, jobs),
        dry_run=dry_run,
        json=json,
        trust=TrustFlags(key=key, unsigned=unsigned),
    )
    raise typer.Exit(push_commands.image(cache, queries, flags, runtime))


app.command()(find)


@app.command()
def show(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="must mean exactly one package")],
    from_cache: FromOption,
    check_signature: CheckOption = None,
    json: JsonOption = False,
) -> None:
    """Show one package of a cache.

    Its spec, layer, tag and dependencies.

    \b
    Examples:
      oci-binpkg show greet@2.0 --from oci-layout:cache
      oci-binpkg show /6fytamq --from oci://registry.example/apps --json
    """
    from oci_binpkg.cli import find_commands

    raise typer.Exit(find_commands.show(query, from_cache, json=json, check=check_signature))


@app.command()
def inspect(
    cache: Annotated[str, typer.Argument(metavar="CACHE[:TAG]", help=f"{CACHE_HELP}; with a tag: that image")],
    check_signature: CheckOption = None,
    json: JsonOption = False,
) -> None:
    """Show what a cache or an image is made of.

    Packages, layers and sizes, as a tree.

    \b
    Examples:
      oci-binpkg inspect oci-layout:cache
      oci-binpkg inspect oci://registry.example/apps:both
    """
    from oci_binpkg.cli import image_commands

    raise typer.Exit(image_commands.inspect(cache, json=json, check=check_signature))


@app.command()
def load(
    image_name: ImageArgument,
    engine: EngineOption = "",
    check_signature: CheckOption = None,
    json: JsonOption = False,
) -> None:
    """Load an image into Docker or Podman.

    From any cache into the engine of this machine; no registry is needed.

    \b
    Examples:
      oci-binpkg load oci-layout:cache:both --engine podman
      oci-binpkg load oci://registry.example/apps:both --engine docker
    """
    from oci_binpkg.cli import image_commands

    raise typer.Exit(image_commands.load(image_name, engine, json=json, check=check_signature))


@app.command(context_settings={"ignore_unknown_options": False})
def run(
    image_name: ImageArgument,
    command: Annotated[list[str] | None, typer.Argument(metavar="-- CMD", help="what to run in it")] = None,
    engine: EngineOption = "",
    network: Annotated[str, typer.Option(metavar="MODE", help="network of the container, as for docker run")] = "",
    ulimit: Annotated[list[str] | None, typer.Option(metavar="K=N", help="limit, as nofile=1024 (repeatable)")] = None,
    check_signature: CheckOption = None,
) -> None:
    """Run a command in an image.

    With Docker or Podman on this machine; exits with the command's own exit code.

    \b
    Examples:
      oci-binpkg run oci-layout:cache:both -- greet
      oci-binpkg run oci://registry.example/apps:both --engine podman -- greet --help
    """
    from oci_binpkg.cli import image_commands

    raise typer.Exit(
        image_commands.run(image_name, command or [], engine, network, ulimit or [], check=check_signature)
    )


@app.command()
def install(
    queries: NeededQueries,
    from_cache: FromCaches,
    store: StoreOption = "",
    force: Annotated[bool, typer.Option("--force", "-f", help="replace the packages named, if they are there")] = False,
    allow_missing: Annotated[bool, typer.Option(help="go on without dependencies that no cache has")] = False,
    allow_stale: Annotated[
        bool, typer.Option(help="go on where an old path cannot be replaced; it is reported")
    ] = False,
    jobs: JobsOption = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be installed, write nothing")] = False,
    check_signature: CheckOption = None,
    accept_present: AcceptPresentOption = False,
    pin_newest: PinNewestOption = False,
    json: JsonOption = False,
) -> None:
    """Install packages from a cache, relocated.

    With all they link to or run, verified to the last byte, every path in them changed to the new place.

    \b
    Examples:
      oci-binpkg install greet@2.0 --from oci://registry.example/apps --store ~/apps
      oci-binpkg install /6fytamq --from oci-layout:cache --from oci://registry.example/apps --store ~/apps
    """
    from oci_binpkg.cli import install_commands

    flags = install_commands.InstallFlags(
        *(store, force, allow_missing, allow_stale, jobs),
        dry_run=dry_run,
        json=json,
        check=check_signature,
        accept_present=accept_present,
        pin_newest=pin_newest,
    )
    raise typer.Exit(install_commands.install(queries, from_cache, flags))


@app.command()
def install_image(
    image_name: ImageArgument,
    store: StoreOption = "",
    allow_missing: Annotated[bool, typer.Option(help="go on without dependencies that no cache has")] = False,
    allow_stale: Annotated[
        bool, typer.Option(help="go on where an old path cannot be replaced; it is reported")
    ] = False,
    jobs: JobsOption = 0,
    check_signature: CheckOption = None,
    accept_present: AcceptPresentOption = False,
    json: JsonOption = False,
) -> None:
    """Install all packages of an image.

    An image of several packages too; their layers must be packages of the same cache.

    \b
    Example:
      oci-binpkg install-image oci://registry.example/apps:both --store ~/apps
    """
    from oci_binpkg.cli import install_commands

    flags = install_commands.InstallFlags(
        *(store, False, allow_missing, allow_stale, jobs),
        dry_run=False,
        json=json,
        check=check_signature,
        accept_present=accept_present,
    )
    raise typer.Exit(install_commands.install_image(image_name, flags))


@app.command()
def uninstall(
    queries: NeededQueries,
    store: StoreOption = "",
    dependents: Annotated[bool, typer.Option(help="remove what needs them, too")] = False,
    json: JsonOption = False,
) -> None:
    """Remove packages from a tree.

    \b
    Example:
      oci-binpkg uninstall greet@2.0 --store ~/apps
    """
    from oci_binpkg.cli import install_commands

    raise typer.Exit(install_commands.uninstall(queries, store, dependents=dependents, json=json))


@app.command()
def verify_store(
    store: Annotated[str, typer.Argument(metavar="DIR", help="the install tree")],
    queries: QueriesArgument = None,
    json: JsonOption = False,
) -> None:
    """Compare the files of a tree with its records.

    Exits with 10 if anything differs from what was recorded when it was installed.

    \b
    Example:
      oci-binpkg verify-store ~/apps greet
    """
    from oci_binpkg.cli import install_commands

    raise typer.Exit(install_commands.verify_store(store, queries or [], json=json))


@app.command()
def download(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="must mean exactly one package")],
    from_cache: FromCaches,
    destination: Annotated[str, typer.Argument(metavar="DEST", help="folder for the files")] = ".",
    check_signature: CheckOption = None,
    json: JsonOption = False,
) -> None:
    """Fetch a package's spec and archive.

    \b
    Example:
      oci-binpkg download greet@2.0 --from oci://registry.example/apps files
    """
    from oci_binpkg.cli import install_commands

    raise typer.Exit(install_commands.download(query, from_cache, destination, json=json, check=check_signature))


@app.command()
def login(
    host: Annotated[str, typer.Argument(metavar="HOST", help="the registry: HOST[:PORT]")],
    username: Annotated[str, typer.Option("--username", "-u", metavar="USER", help="asked for if not given")] = "",
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="read the password from stdin")] = False,
    plain_http: Annotated[bool, typer.Option("--plain-http", help="the registry speaks http only")] = False,
) -> None:
    """Check a registry login and keep it.

    It is kept where docker and podman keep theirs.

    \b
    Examples:
      oci-binpkg login registry.example
      echo "$TOKEN" | oci-binpkg login registry.example -u ci --password-stdin
    """
    from oci_binpkg.cli import login_commands

    raise typer.Exit(login_commands.login(host, username, password_stdin=password_stdin, plain_http=plain_http))


@app.command()
def logout(host: Annotated[str, typer.Argument(metavar="HOST", help="the registry: HOST[:PORT]")]) -> None:
    """Forget the login of a registry.

    \b
    Example:
      oci-binpkg logout registry.example
    """
    from oci_binpkg.cli import login_commands

    raise typer.Exit(login_commands.logout(host))


app.add_typer(index_app, name="index")
app.add_typer(keys_app, name="keys")
app.add_typer(mirror_app, name="mirror")
app.command()(copy)
app.command()(check)
app.command()(search)
app.command("save-specs")(save_specs)


@app.command()
def version(json: JsonOption = False) -> None:
    """Print the version.

    \b
    Example:
      oci-binpkg version
    """
    from oci_binpkg import __version__

    terminal.print_lines([f'{{"version": "{__version__}"}}' if json else f"oci-binpkg {__version__}"])


@app.callback()
def before_the_command(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="after an internal error show where it happened")] = False,
) -> None:
    """Take the options that stand before the command."""
    if isinstance(context.obj, Options):
        context.obj.debug = debug


def main(arguments: list[str] | None = None) -> Never:
    """Run the command line and exit: 0, an error's own exit code, or 130 after Ctrl-C."""
    with terminal.standard_streams():
        code = run_command(app, arguments)
    sys.exit(code)
