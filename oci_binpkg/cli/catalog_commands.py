"""From words to values to operations: the search over configured caches.

What speaks to caches is imported when one has to be asked: mostly the catalog is fresh, and the answer comes at once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from oci_binpkg.cache.open import parse_location
from oci_binpkg.cli.listing import json_list
from oci_binpkg.cli.progress import progress
from oci_binpkg.cli.terminal import print_json_text, print_lines, stderr_is_terminal
from oci_binpkg.config.caches import CacheSettings
from oci_binpkg.config.settings import Settings, load_settings, patience
from oci_binpkg.errors import NoMatchError, SignatureError, UsageError
from oci_binpkg.index.document import IndexDocument
from oci_binpkg.model.arch import Arch
from oci_binpkg.model.content import Digest
from oci_binpkg.model.query import Query
from oci_binpkg.ops.search import DEFAULT_TTL, CatalogMatch, Refresh, find_in_catalog


@dataclass(frozen=True, slots=True)
class CatalogFlags:
    """The flags of a search, as written."""

    ttl: float | None = None
    offline: bool = False
    all_arch: bool = False
    json: bool = False
    long: bool = False

    @property
    def are_given(self) -> bool:
        """Whether any of them says that caches are to be searched as they are known here."""
        return self.ttl is not None or self.offline or self.all_arch


def find(queries: Sequence[str], store: str, cache: str, flags: CatalogFlags, *, check: bool | None = None) -> int:
    """List packages of a tree, of a cache, or of all configured caches."""
    settings = load_settings()
    if store and flags.are_given:
        raise UsageError("--ttl, --offline and --all-arch are about caches", hint="leave them out, or --store")
    if cache and flags.are_given and cache not in settings.caches:
        raise UsageError(
            f"{cache} is not a configured name: nothing is kept of its index",
            hint="leave out --ttl, --offline and --all-arch, or give it a name with `oci-binpkg mirror add`",
        )
    named = bool(store or cache or settings.store or not settings.caches)
    if flags.long and not (store or settings.store):
        raise UsageError("--long is about what is installed", hint="use it with --store, or leave it out")
    if flags.are_given or not named:
        return _search(settings, queries, flags, cache)
    from oci_binpkg.cli import find_commands

    return find_commands.find(queries, store, cache, json=flags.json, check=check, long=flags.long)


def search(queries: Sequence[str], flags: CatalogFlags) -> int:
    """List packages of all configured caches."""
    return _search(load_settings(), queries, flags, "")


def _search(settings: Settings, queries: Sequence[str], flags: CatalogFlags, only: str) -> int:
    parsed = [Query.parse(text) for text in queries]
    caches = {name: _identity(settings, cache) for name, cache in settings.caches.items() if cache.fetch.url}
    if not caches:
        raise UsageError("no caches are configured", hint='write [caches.NAME] with url = "..." into the configuration')
    if only:
        settings.caches[only].endpoint(writing=False)  # a cache that is only written has no index here
    family = "" if flags.all_arch else Arch("", "", os.uname().machine.lower()).go_architecture
    with ExitStack() as stack:
        observer = stack.enter_context(progress(live=stderr_is_terminal() and not flags.json, color=settings.color))

        refused: list[SignatureError] = []

        def read(name: str, known: Digest | None) -> IndexDocument | None:
            from oci_binpkg.client import Wiring

            try:
                return Wiring(settings, observer).searched(name).read_index(known)
            except SignatureError as error:
                refused.append(error)
                raise

        ttl = DEFAULT_TTL if flags.ttl is None else flags.ttl
        refresh = Refresh(
            settings.catalog,
            caches,
            read,
            time.time,
            ttl,
            flags.offline,
            only,
            observer,
            patience(settings.lock_timeout, observer),
        )
        try:
            found = find_in_catalog(refresh, parsed, family=family)
        except NoMatchError as error:
            if not refused:
                raise
            raise refused[0].again() from error
        if refused and not found:
            raise refused[0].again() from refused[0]
    if flags.json:
        print_json_text(json_list(each.to_json() for each in found))
    else:
        _print(found)
    return 0


def _identity(settings: Settings, cache: CacheSettings) -> str:
    """Return what makes a cache another one to the catalog: its address, the part of it, and whether it is signed.

    What an index without a signature said is not told any more once the index has to be signed.
    """
    words = [cache.fetch.url, cache.fetch.view]
    try:
        rule = settings.trust.rule(parse_location(cache.fetch.url), cache.name, settings.caches)
    except UsageError:
        return " ".join(words).strip()  # it cannot be read either, which is told
    return " ".join([*words, "signed" if rule.require and rule.explicit else ""]).strip()


def _print(found: Sequence[CatalogMatch]) -> None:
    """Print packages, one a line: hash, name and version, caches, the rest of the spec."""
    rows = [(f"{each.spec.name}@{each.spec.version}", ",".join(each.caches), each.spec) for each in found]
    names = max((len(name) for name, _, _ in rows), default=0)
    caches = max((len(held) for _, held, _ in rows), default=0)
    print_lines(f"{spec.hash[:7]}  {name:{names}}  {held:{caches}}  {spec.describe()}" for name, held, spec in rows)
