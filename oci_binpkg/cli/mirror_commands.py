"""From words to values to operations: the commands about caches by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oci_binpkg.cli import render
from oci_binpkg.cli.progress import PlainProgress
from oci_binpkg.cli.terminal import tell
from oci_binpkg.config.caches import CacheEndpoint, CacheSettings, check_name, shown
from oci_binpkg.config.editing import change_cache
from oci_binpkg.config.settings import config_path, load_lock_timeout, load_settings, patience
from oci_binpkg.errors import UsageError
from oci_binpkg.file_lock import Patience


def add(name: str, values: Mapping[str, str | bool | None]) -> int:
    """Enter a cache in our configuration file. `values` are its keys; None and "" are left out."""
    path = config_path()
    check_name(name, path)

    def change(table: dict[str, Any]) -> None:
        if table:
            raise UsageError(f"{path}: there is a cache {name} already", hint=f"`oci-binpkg mirror set {name}`")
        table.update({key: value for key, value in values.items() if value not in (None, "")})

    change_cache(path, name, change, _patience())
    render.print_lines([f"added  {name}  to {path}"])
    return 0


def change(name: str, values: Mapping[str, str | bool | None]) -> int:
    """Change keys of a cache in our configuration file: None leaves one as it is, "" removes it."""
    path = config_path()
    given = {key: value for key, value in values.items() if value is not None}
    if not given:
        raise UsageError(f"no change of {name} is given", hint="try `oci-binpkg mirror set -h`")

    def edit(table: dict[str, Any]) -> None:
        if not table:
            raise _unknown(name, path)
        table.update(given)
        for key in [key for key, value in table.items() if value == ""]:
            del table[key]
        if not table:
            raise UsageError(f"{name} would be left without an address", hint=f"`oci-binpkg mirror remove {name}`")

    change_cache(path, name, edit, _patience())
    render.print_lines([f"changed  {name}  in {path}"])
    return 0


def remove(name: str) -> int:
    """Remove a cache from our configuration file; the cache itself is not touched."""
    path = config_path()

    def edit(table: dict[str, Any]) -> None:
        if not table:
            raise _unknown(name, path)
        table.clear()

    change_cache(path, name, edit, _patience())
    render.print_lines([f"removed  {name}  from {path}"])
    return 0


def _patience() -> Patience:
    return patience(load_lock_timeout(), PlainProgress(tell))


def list_mirrors(*, json: bool) -> int:
    """List the caches that have names, and the file that each comes from."""
    settings = load_settings()
    caches = [cache for _, cache in sorted(settings.caches.items())]
    for remark in settings.remarks:
        tell(f"warning: {remark}")
    if json:
        render.print_json([_document(cache) for cache in caches])
    else:
        render.print_table([(cache.name, _addresses(cache), _remarks(cache), _files(cache)) for cache in caches])
    return 0


def _unknown(name: str, path: str) -> UsageError:
    found = load_settings().caches.get(name)
    if found is None:
        return UsageError(f"{path}: no cache is named {name!r}", hint="`oci-binpkg mirror list` shows their names")
    return UsageError(
        f"{name} comes from {found.origin_file}, which is Spack's",
        hint=f"change it there, or `oci-binpkg mirror add {name} URL` to have one of your own in its place",
    )


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
