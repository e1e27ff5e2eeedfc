"""The commands about caches as a whole: their index, copies of them, and what pipelines ask."""

from __future__ import annotations

from typing import Annotated

import typer

from oci_binpkg.cli.options import (
    CACHE_HELP,
    CacheArgument,
    CheckOption,
    IndexKeyOption,
    JsonOption,
    KeyOption,
    QueriesArgument,
    StoreOption,
    UnsignedOption,
    ViewsOption,
)

index_app = typer.Typer(
    help="Look after the index of a cache.", no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False
)


@index_app.command("update")
def index_update(
    cache: CacheArgument,
    queries: QueriesArgument = None,
    view: ViewsOption = None,
    check_signature: CheckOption = None,
    key: IndexKeyOption = "",
    json: JsonOption = False,
) -> None:
    """Enter packages that the index lacks; only those are read.

    With --view: enter the packages that match a QUERY (all, without one) and what they link to or run in the index of
    that part of a mirror.

    \b
    Examples:
      oci-binpkg index update oci://registry.example/apps
      oci-binpkg index update file:///srv/mirror 'greet@2:' --view stable --key ci@example.org
    """
    from oci_binpkg.cli import index_commands

    raise typer.Exit(
        index_commands.write("update", cache, queries or [], view or [], check=check_signature, key=key, json=json)
    )


@index_app.command("rebuild")
def index_rebuild(
    cache: CacheArgument,
    queries: QueriesArgument = None,
    view: ViewsOption = None,
    check_signature: CheckOption = None,
    key: IndexKeyOption = "",
    json: JsonOption = False,
) -> None:
    """Read every package and write the index anew.

    With --view: make the index of that part of a mirror of exactly the packages that match a QUERY (all, without one)
    and what they link to or run.

    \b
    Examples:
      oci-binpkg index rebuild oci-layout:cache
      oci-binpkg index rebuild file:///srv/mirror greet zlib --view stable --view tested
    """
    from oci_binpkg.cli import index_commands

    raise typer.Exit(
        index_commands.write("rebuild", cache, queries or [], view or [], check=check_signature, key=key, json=json)
    )


@index_app.command("check")
def index_check(
    cache: CacheArgument,
    view: ViewsOption = None,
    check_signature: Annotated[
        bool | None,
        typer.Option(
            "--check-signature/--no-check-signature", help="whether the index must be signed (told otherwise)"
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Compare the index with what is there; exits with 10 if they differ.

    Tells also whether the index is signed, and by whom.

    \b
    Examples:
      oci-binpkg index check oci://registry.example/apps
      oci-binpkg index check file:///srv/mirror --view stable --check-signature
    """
    from oci_binpkg.cli import index_commands

    raise typer.Exit(index_commands.check(cache, view or [], check=check_signature, json=json))


keys_app = typer.Typer(
    help="Look after the keys whose signatures count.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
MirrorArgument = Annotated[str, typer.Argument(metavar="MIRROR", help="URL or configured name of a mirror")]


@keys_app.command("list")
def keys_list(json: JsonOption = False) -> None:
    """List the keys that are trusted.

    \b
    Example:
      oci-binpkg keys list
    """
    from oci_binpkg.cli import key_commands

    raise typer.Exit(key_commands.list_keys(json=json))


@keys_app.command("fetch")
def keys_fetch(mirror: MirrorArgument, json: JsonOption = False) -> None:
    """Show the keys that a mirror publishes; none of them is trusted by that.

    \b
    Example:
      oci-binpkg keys fetch https://mirror.example/apps
    """
    from oci_binpkg.cli import key_commands

    raise typer.Exit(key_commands.fetch(mirror, json=json))


@keys_app.command("trust")
def keys_trust(
    source: Annotated[str, typer.Argument(metavar="FILE|FINGERPRINT", help="a key file, or with --from a fingerprint")],
    mirror: Annotated[str, typer.Option("--from", metavar="MIRROR", help="take the key from this mirror")] = "",
) -> None:
    """Trust a key from now on.

    \b
    Examples:
      oci-binpkg keys trust team.asc
      oci-binpkg keys trust 4736BEAE4D40A00FB336279E63CF01CA5202F806 --from https://mirror.example/apps
    """
    from oci_binpkg.cli import key_commands

    raise typer.Exit(key_commands.trust(source, mirror))


@keys_app.command("untrust")
def keys_untrust(
    fingerprint: Annotated[str, typer.Argument(metavar="FINGERPRINT", help="as `keys list` shows it")],
) -> None:
    """Trust a key no longer.

    \b
    Example:
      oci-binpkg keys untrust 4736BEAE4D40A00FB336279E63CF01CA5202F806
    """
    from oci_binpkg.cli import key_commands

    raise typer.Exit(key_commands.untrust(fingerprint))


@keys_app.command("publish")
def keys_publish(
    mirror: MirrorArgument,
    key: Annotated[str, typer.Option("--key", metavar="KEY", help="one of your keys: fingerprint or address")],
) -> None:
    """Publish a public key on a mirror, for others to look at.

    \b
    Example:
      oci-binpkg keys publish file:///srv/mirror --key ci@example.org
    """
    from oci_binpkg.cli import key_commands

    raise typer.Exit(key_commands.publish(mirror, key))


def copy(
    source: Annotated[str, typer.Argument(metavar="SRC", help=CACHE_HELP)],
    target: Annotated[str, typer.Argument(metavar="DST", help=CACHE_HELP)],
    queries: QueriesArgument = None,
    check_signature: CheckOption = None,
    key: KeyOption = "",
    unsigned: UnsignedOption = False,
    json: JsonOption = False,
) -> None:
    """Copy a cache, or some of its packages, to another.

    Nothing is packed again, layers travel as they are; what is there already is left alone. Packages bring what they
    link to or run. This is also how a mirror of layout 2 becomes one of layout 3, or a registry.

    \b
    Examples:
      oci-binpkg copy oci-layout:cache oci://registry.example/apps
      oci-binpkg copy oci://registry.example/apps oci-layout:cache greet@2.0
      oci-binpkg copy https://mirror.example/old oci://registry.example/apps
    """
    from oci_binpkg.cli import cache_commands

    raise typer.Exit(
        cache_commands.copy(
            source, target, queries or [], json=json, verify=check_signature, key=key, unsigned=unsigned
        )
    )


def check(
    queries: QueriesArgument = None,
    on: Annotated[list[str] | None, typer.Option("--on", metavar="CACHE", help=f"{CACHE_HELP} (repeatable)")] = None,
    store: StoreOption = "",
    output: Annotated[str, typer.Option("--output", metavar="FILE", help="write the answer there as JSON")] = "",
    check_signature: CheckOption = None,
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

    raise typer.Exit(
        cache_commands.check(
            queries or [], on or [], store, output, thorough=thorough, json=json, verify=check_signature
        )
    )


def save_specs(
    queries: Annotated[list[str], typer.Argument(metavar="QUERY", help="greet@2.0, /6fyta, zlib +shared")],
    store: StoreOption = "",
    from_cache: Annotated[str, typer.Option("--from", metavar="CACHE", help=CACHE_HELP)] = "",
    destination: Annotated[str, typer.Option("--output-dir", metavar="DIR", help="folder for the spec files")] = ".",
    check_signature: CheckOption = None,
    json: JsonOption = False,
) -> None:
    """Write the specs of packages, so that a pipeline can hand exact packages on.

    Prints, for each, the query that means exactly it and needs no index.

    \b
    Example:
      oci-binpkg save-specs greet --store /opt/spack/opt --output-dir specs
    """
    from oci_binpkg.cli import cache_commands

    raise typer.Exit(
        cache_commands.save_specs(queries, store, from_cache, destination, json=json, check=check_signature)
    )


mirror_app = typer.Typer(
    help="Give caches names.", no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False
)
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="letters, digits and _ . -")]
FetchUrlOption = Annotated[str | None, typer.Option("--fetch", metavar="URL", help="read from there instead")]
PushUrlOption = Annotated[str | None, typer.Option("--push", metavar="URL", help="write to there instead")]
SignedOption = Annotated[bool | None, typer.Option("--signed/--unsigned", help="whether its packages are signed")]
SignedIndexOption = Annotated[
    bool | None, typer.Option("--signed-index/--any-index", help="whether its index must be signed")
]
InsecureOption = Annotated[
    bool | None, typer.Option("--insecure/--no-insecure", help="whether its address may be http://")
]
ViewOption = Annotated[str | None, typer.Option("--view", metavar="NAME", help="use the index of this part of it")]
EndpointOption = Annotated[str | None, typer.Option("--endpoint-url", metavar="URL", help="the S3 server")]
ProfileOption = Annotated[str | None, typer.Option("--profile", metavar="NAME", help="profile of the AWS tools")]
KeyIdOption = Annotated[
    str | None, typer.Option("--access-key-id-variable", metavar="VARIABLE", help="it holds the key id or user name")
]
KeySecretOption = Annotated[
    str | None, typer.Option("--access-key-secret-variable", metavar="VARIABLE", help="it holds the secret or password")
]
TokenOption = Annotated[
    str | None, typer.Option("--access-token-variable", metavar="VARIABLE", help="it holds a token")
]


@mirror_app.command("add")
def mirror_add(
    name: NameArgument,
    url: CacheArgument,
    fetch: FetchUrlOption = None,
    push: PushUrlOption = None,
    signed: SignedOption = None,
    signed_index: SignedIndexOption = None,
    insecure: InsecureOption = None,
    view: ViewOption = None,
    endpoint_url: EndpointOption = None,
    profile: ProfileOption = None,
    access_key_id_variable: KeyIdOption = None,
    access_key_secret_variable: KeySecretOption = None,
    access_token_variable: TokenOption = None,
) -> None:
    """Give a cache a name, in the configuration file.

    Of secrets only the names of the environment variables are kept that hold them.

    \b
    Examples:
      oci-binpkg mirror add lab oci://registry.example/apps
      oci-binpkg mirror add bucket s3://bucket/apps --endpoint-url https://s3.example --profile lab --unsigned
    """
    values = {
        "url": url,
        "fetch": fetch,
        "push": push,
        "signed": signed,
        "signed_index": signed_index,
        "insecure": insecure,
        "view": view,
        "endpoint_url": endpoint_url,
        "profile": profile,
        "access_key_id_variable": access_key_id_variable,
        "access_key_secret_variable": access_key_secret_variable,
        "access_token_variable": access_token_variable,
    }
    from oci_binpkg.cli import mirror_commands

    raise typer.Exit(mirror_commands.add(name, values))


@mirror_app.command("set")
def mirror_set(
    name: NameArgument,
    url: Annotated[str | None, typer.Option("--url", metavar="CACHE", help=CACHE_HELP)] = None,
    fetch: FetchUrlOption = None,
    push: PushUrlOption = None,
    signed: SignedOption = None,
    signed_index: SignedIndexOption = None,
    insecure: InsecureOption = None,
    view: ViewOption = None,
    endpoint_url: EndpointOption = None,
    profile: ProfileOption = None,
    access_key_id_variable: KeyIdOption = None,
    access_key_secret_variable: KeySecretOption = None,
    access_token_variable: TokenOption = None,
) -> None:
    """Change what is configured for a name; an empty value removes it.

    \b
    Examples:
      oci-binpkg mirror set lab --push oci://registry.example/incoming
      oci-binpkg mirror set lab --push ""
    """
    values = {
        "url": url,
        "fetch": fetch,
        "push": push,
        "signed": signed,
        "signed_index": signed_index,
        "insecure": insecure,
        "view": view,
        "endpoint_url": endpoint_url,
        "profile": profile,
        "access_key_id_variable": access_key_id_variable,
        "access_key_secret_variable": access_key_secret_variable,
        "access_token_variable": access_token_variable,
    }
    from oci_binpkg.cli import mirror_commands

    raise typer.Exit(mirror_commands.change(name, values))


@mirror_app.command("list")
def mirror_list(json: JsonOption = False) -> None:
    """List the caches that have names, also those in Spack's mirrors.yaml.

    \b
    Example:
      oci-binpkg mirror list
    """
    from oci_binpkg.cli import mirror_commands

    raise typer.Exit(mirror_commands.list_mirrors(json=json))


@mirror_app.command("remove")
def mirror_remove(name: NameArgument) -> None:
    """Forget a name; the cache itself stays as it is.

    \b
    Example:
      oci-binpkg mirror remove lab
    """
    from oci_binpkg.cli import mirror_commands

    raise typer.Exit(mirror_commands.remove(name))
