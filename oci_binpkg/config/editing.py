"""Changes our configuration file, which people edit too: comments, order and everything else stay as they are."""

from __future__ import annotations

import copy
import os
import tomllib
from collections.abc import Callable, Mapping
from typing import Any, Final

import tomlkit
from tomlkit.exceptions import TOMLKitError

from oci_binpkg.cache.open import parse_location
from oci_binpkg.config.caches import check_name, parse_caches
from oci_binpkg.config.settings import MAX_FILE_BYTES, load_settings, parse_config
from oci_binpkg.disk import FileTooLargeError, NotRegularError, disk_refusal, make_folder, read_regular, replace_file
from oci_binpkg.errors import Hint, Step, UsageError
from oci_binpkg.file_lock import Patience, locked

Change = Callable[[dict[str, Any]], None]
_SECRET_MODE: Final = 0o600


def change_cache(path: str, name: str, change: Change, patience: Patience | None = None) -> None:
    """Let `change` edit the keys of the cache `name`; one left without keys is removed.

    Writers exclude one another through a lock file; readers see the old or the new file. A new file has mode 0600, an
    old one keeps its mode. Raises `UsageError` if the file is not valid, or would not be afterwards; then nothing is
    written.
    """
    target = os.path.realpath(path)  # a link into a folder of dotfiles stays one
    try:
        make_folder(os.path.dirname(target), 0o700)
        with locked(f"{target}.lock", patience, mode=_SECRET_MODE):
            old = _read(target)
            new = _changed(old or b"", path, name, change)
            if new != old:
                replace_file(target, new, mode=_SECRET_MODE if old is None else None)
    except (NotRegularError, FileTooLargeError) as error:
        raise disk_refusal(f"{error.filename}", error, hint="remove it, or set OCI_BINPKG_CONFIG") from error
    except OSError as error:
        raise disk_refusal(f"{path} cannot be changed", error) from error


def add_cache(path: str, name: str, values: Mapping[str, Any], patience: Patience | None = None) -> None:
    """Give a cache a name. `values` are its keys; None and "" are left out. Raises as `change_cache`."""
    check_name(name, path)

    def add(table: dict[str, Any]) -> None:
        if table:
            raise UsageError(f"{path}: there is a cache {name} already", hint=Hint(Step.SET_CACHE, name=name))
        table.update({key: value for key, value in values.items() if value not in (None, "")})

    change_cache(path, name, add, patience)


def set_cache(path: str, name: str, values: Mapping[str, Any], patience: Patience | None = None) -> None:
    """Change keys of a cache: None leaves one as it is, "" removes it. Raises as `change_cache`."""
    given = {key: value for key, value in values.items() if value is not None}
    if not given:
        raise UsageError(f"no change of {name} is given", hint=Hint(Step.SET_SOMETHING))

    def edit(table: dict[str, Any]) -> None:
        if not table:
            raise _unknown(name, path)
        table.update(given)
        for key in [key for key, value in table.items() if value == ""]:
            del table[key]
        if not table:
            raise UsageError(f"{name} would be left without an address", hint=Hint(Step.REMOVE_CACHE, name=name))

    change_cache(path, name, edit, patience)


def remove_cache(path: str, name: str, patience: Patience | None = None) -> None:
    """Forget a name; the cache itself is not touched. Raises as `change_cache`."""

    def edit(table: dict[str, Any]) -> None:
        if not table:
            raise _unknown(name, path)
        table.clear()

    change_cache(path, name, edit, patience)


def _unknown(name: str, path: str) -> UsageError:
    found = load_settings(file=path if os.path.lexists(path) else "").caches.get(name)
    if found is None:
        return UsageError(f"{path}: no cache is named {name!r}", hint=Hint(Step.LIST_CACHES))
    return UsageError(
        f"{name} comes from {found.origin_file}, which is Spack's",
        hint=Hint(Step.ADD_OWN_CACHE, name=name),
    )


def _changed(old: bytes, path: str, name: str, change: Change) -> bytes:
    document = parse_config(old, path)
    parse_caches(document, path)
    before: dict[str, Any] = document.get("caches", {}).get(name, {})
    after = copy.copy(before)
    change(after)
    wanted = {**document, "caches": {**document.get("caches", {}), name: after}}
    if before and not after:
        del wanted["caches"][name]
        _check_unscoped(document, name, path)
    found = parse_caches(wanted, path).get(name)
    for endpoint in (found.fetch, found.push) if found else ():
        _check_address(endpoint.url, f"{path}: {name}")
    for new_table in (tomlkit.table, tomlkit.inline_table):
        text = _edited(old.decode(), name, before, after, new_table)
        if text is not None and _means(text, wanted):
            return text.encode()
    raise UsageError(f"{path} is written in a way that this command cannot change", hint="edit it by hand")


def _check_unscoped(document: Mapping[str, Any], name: str, path: str) -> None:
    """Raise `UsageError` if a rule of `[trust]` is about a name: without the name it has no meaning."""
    trust = document.get("trust")
    scopes = trust.get("scopes") if isinstance(trust, dict) else None
    if isinstance(scopes, dict) and name in scopes:
        raise UsageError(
            f"{path}: trust.scopes.{name} is about the cache {name}",
            hint="remove that rule first, or write the cache's address in place of its name",
        )


def _check_address(url: str, what: str) -> None:
    if not url:
        return
    try:
        location = parse_location(url)
    except UsageError as error:
        raise error.within(what) from error
    if location.reference:
        raise UsageError(f"{what}: {url} names an image, a cache is expected", hint="leave out what follows the last :")


def _means(text: str, wanted: Mapping[str, Any]) -> bool:
    """Return whether another parser reads the text as intended: a failed edit is not written."""
    try:
        return _plain(tomllib.loads(text)) == _plain(wanted)
    except tomllib.TOMLDecodeError:
        return False


def _plain(document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != "caches" or value}


def _edited(
    text: str, name: str, before: Mapping[str, Any], after: Mapping[str, Any], new_table: Callable[[], Any]
) -> str | None:
    """Return the text with the keys of a cache changed; None if the library cannot edit this text."""
    try:
        document: Any = tomlkit.parse(text)
        if not after:
            del document["caches"][name]
            return tomlkit.dumps(document)
        if "caches" not in document:
            document["caches"] = tomlkit.table(is_super_table=True)
        if name not in document["caches"]:
            document["caches"][name] = new_table()
        table = document["caches"][name]
        for key in before.keys() - after.keys():
            del table[key]
        for key, value in after.items():
            if before.get(key) != value:
                table[key] = value
        return tomlkit.dumps(document)
    except (TOMLKitError, KeyError, TypeError, ValueError):
        return None


def _read(path: str) -> bytes | None:
    try:
        return read_regular(path, MAX_FILE_BYTES)
    except FileNotFoundError:
        return None
