"""Which packages a cache has: where signatures are asked for, those that are signed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from oci_binpkg.cache.oci import OciCache
from oci_binpkg.cache.protocol import BinaryCache, PackageKey
from oci_binpkg.errors import ContentError, DeniedError, NotFoundError, SignatureError
from oci_binpkg.events import Observer, Warned
from oci_binpkg.model.spec import Spec, SpecGraph
from oci_binpkg.parallel import in_turns
from oci_binpkg.store.protocol import Store


def packages_there(
    cache: BinaryCache, specs: Iterable[Spec], graph: SpecGraph, observer: Observer
) -> Mapping[str, str]:
    """Return hash and place of the packages that a cache has, of `specs` and what they need at least.

    One listing tells all; where signatures are asked for, each package is looked at, too. Some logins may push and not
    list: then each tag is looked for. One that may not be looked at either counts as absent, for the push will tell.
    """
    wanted = {one.hash: one for spec in specs for one in graph.breadth_first(spec, ("link", "run"))}
    return counted_there(cache, wanted.values(), _listed(cache, wanted.values(), observer), observer)


def counted_there(
    cache: BinaryCache, specs: Iterable[Spec], listed: Mapping[str, str], observer: Observer
) -> Mapping[str, str]:
    """Return what of `listed` (hash and place) counts as there: all of it, or of `specs` those that are signed."""
    if not cache.proves_listing:
        return listed
    places = {listed[spec.hash]: spec for spec in specs if spec.hash in listed}

    def counts(place: str) -> bool:
        try:
            cache.entry(place)
        except NotFoundError:
            return False
        except ContentError as error:
            observer(Warned(f"{places[place].short} does not count as there: {error.message}"))
            return False
        return True

    found = in_turns(counts, places)
    return {spec.hash: place for (place, spec), good in zip(places.items(), found, strict=True) if good}


def proven(cache: BinaryCache, specs: Sequence[Spec], observer: Observer) -> list[Spec]:
    """Return the packages that an index lists, as far as something may be said of them.

    Where somebody said that a cache is signed, an index without a signature says nothing: the packages are looked at.
    Raises `SignatureError` if none of them is signed.
    """
    if not cache.proves_listing or _is_signed(cache):
        return list(specs)
    failures: list[ContentError] = []
    keys = {spec.hash: PackageKey.of(spec) for spec in specs}

    def look(package_hash: str) -> Spec | None:
        try:
            return cache.find(keys[package_hash]).document.root
        except NotFoundError:
            return None
        except ContentError as error:
            observer(Warned(f"{keys[package_hash].tag} is left out: {error.message}"))
            failures.append(error)
            return None

    found = [spec for spec in in_turns(look, keys) if spec]
    if failures and not found:
        raise failures[0]
    return found


def _is_signed(cache: BinaryCache) -> bool:
    try:
        return bool(cache.index_signature().signer)
    except NotFoundError:
        return True  # without an index, the packages themselves were read


def _listed(cache: BinaryCache, specs: Iterable[Spec], observer: Observer) -> Mapping[str, str]:
    try:
        return cache.hashes()
    except DeniedError as error:
        if not isinstance(cache, OciCache):
            raise
        observer(Warned(f"{error.message}; each package is looked for by its tag"))
    tags = {spec.hash: PackageKey.of(spec).tag for spec in specs}
    there = in_turns(lambda tag: _is_there(cache.store, tag), tags.values())
    return {package_hash: tag for (package_hash, tag), found in zip(tags.items(), there, strict=True) if found}


def _is_there(store: Store, tag: str) -> bool:
    try:
        store.resolve(tag)
    except SignatureError:
        return True  # whether it counts is looked at next
    except (DeniedError, NotFoundError):
        return False
    return True
