"""The commands that give caches names."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from oci_binpkg.cli import render
from oci_binpkg.cli.context import bare
from oci_binpkg.cli.options import CACHE_HELP, CacheArgument, JsonOption
from oci_binpkg.config.caches import CacheEndpoint, CacheSettings, shown

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


def add(
    name: NameArgument,
    url: CacheArgument,
    *,
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
) -> int:
    """Give a cache a name, in the configuration file.

    The file holds no secrets, only the names of the environment variables that hold them.

    \b
    Examples:
      oci-binpkg mirror add lab oci://registry.example/apps
      oci-binpkg mirror add bucket s3://bucket/apps --endpoint-url https://s3.example --profile lab --unsigned
    """
    path = bare().mirror_add(
        name,
        url=url,
        fetch=fetch,
        push=push,
        signed=signed,
        signed_index=signed_index,
        insecure=insecure,
        view=view,
        endpoint_url=endpoint_url,
        profile=profile,
        access_key_id_variable=access_key_id_variable,
        access_key_secret_variable=access_key_secret_variable,
        access_token_variable=access_token_variable,
    )
    render.print_lines([f"added  {name}  to {path}"])
    return 0


def change(
    name: NameArgument,
    *,
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
) -> int:
    """Change what is configured for a name; an empty value removes it.

    \b
    Examples:
      oci-binpkg mirror set lab --push oci://registry.example/incoming
      oci-binpkg mirror set lab --push ""
    """
    path = bare().mirror_set(
        name,
        url=url,
        fetch=fetch,
        push=push,
        signed=signed,
        signed_index=signed_index,
        insecure=insecure,
        view=view,
        endpoint_url=endpoint_url,
        profile=profile,
        access_key_id_variable=access_key_id_variable,
        access_key_secret_variable=access_key_secret_variable,
        access_token_variable=access_token_variable,
    )
    render.print_lines([f"changed  {name}  in {path}"])
    return 0


def list_mirrors(*, json: JsonOption = False) -> int:
    """List the caches that have names, also those in Spack's mirrors.yaml.

    \b
    Example:
      oci-binpkg mirror list
    """
    caches = bare().mirror_list()
    if json:
        render.print_json([_document(cache) for cache in caches])
    else:
        render.print_table([(cache.name, _addresses(cache), _remarks(cache), _files(cache)) for cache in caches])
    return 0


def remove(name: NameArgument) -> int:
    """Forget a name; the cache itself stays as it is.

    \b
    Example:
      oci-binpkg mirror remove lab
    """
    path = bare().mirror_remove(name)
    render.print_lines([f"removed  {name}  from {path}"])
    return 0


def _addresses(cache: CacheSettings) -> str:
    fetch, push = shown(cache.fetch_url), shown(cache.push_url)
    if fetch == push:
        return fetch
    return ", ".join(f"{word} {url}" for word, url in (("fetch", fetch), ("push", push)) if url)


def _files(cache: CacheSettings) -> str:
    more = f" (with {', '.join(cache.merged_files)})" if cache.merged_files else ""
    return cache.origin_file + more


def _remarks(cache: CacheSettings) -> str:
    """Return the other settings of a cache; a login is mentioned, never shown."""
    remarks = [] if cache.signed is None else ["signed" if cache.signed else "unsigned"]
    remarks += ["signed index"] if cache.signed_index else []
    remarks += [f"copy of {', '.join(cache.origins)}"] if cache.origins else []
    for endpoint in (cache.fetch, cache.push):
        remarks += [f"view {endpoint.view}"] if endpoint.view else []
        remarks += [f"profile {endpoint.profile}"] if endpoint.profile else []
        remarks += [f"{name} not set" for name in endpoint.access.unset]
    return ", ".join(dict.fromkeys(remarks)) or "-"


def _document(cache: CacheSettings) -> dict[str, Any]:
    return {
        "name": cache.name,
        "fetch": _endpoint(cache.fetch),
        "push": _endpoint(cache.push),
        "signed": cache.signed,
        "signed_index": cache.signed_index,
        **({"origins": list(cache.origins)} if cache.origins else {}),
        "file": cache.origin_file,
        "merged_files": list(cache.merged_files),
    }


def _endpoint(endpoint: CacheEndpoint) -> dict[str, Any]:
    access = endpoint.access
    return {
        "url": shown(endpoint.url),
        "view": endpoint.view,
        "endpoint_url": shown(endpoint.endpoint_url),
        "profile": endpoint.profile,
        "has_login": access.is_known,
        "unset_variables": list(access.unset),
    }
