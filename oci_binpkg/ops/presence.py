"""Which packages a cache has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from oci_binpkg.cache.oci import OciCache
from oci_binpkg.cache.protocol import BinaryCache, PackageKey
from oci_binpkg.cache.turns import in_turns
from oci_binpkg.errors import DeniedError, NotFoundError
from oci_binpkg.events import Observer, Warned
from oci_binpkg.model.spec import Spec, SpecGraph
from oci_binpkg.store.protocols import Store


def packages_there(
    cache: BinaryCache, specs: Iterable[Spec], graph: SpecGraph, observer: Observer
) -> Mapping[str, str]:
    """Return hash and place of the packages that a cache has, of `specs` and what they need at least.

    One listing tells all. Some logins may push and not list: then each tag is looked for. One that may not be looked at
    either counts as absent, for the push will tell.
    """
    try:
        return cache.hashes()
    except DeniedError as error:
        if not isinstance(cache, OciCache):
            raise
        observer(Warned(f"{error.message}; each package is looked for by its tag"))
    wanted = {one.hash: one for spec in specs for one in graph.breadth_first(spec, ("link", "run"))}
    tags = {package_hash: PackageKey.of(spec).tag for package_hash, spec in wanted.items()}
    there = in_turns(lambda tag: _is_there(cache.store, tag), tags.values())
    return {package_hash: tag for (package_hash, tag), found in zip(tags.items(), there, strict=True) if found}


def _is_there(store: Store, tag: str) -> bool:
    try:
        store.resolve(tag)
    except (DeniedError, NotFoundError):
        return False
    return True
