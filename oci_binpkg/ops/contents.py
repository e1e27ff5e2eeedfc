"""What a cache holds: as its index says, or read package by package."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from oci_binpkg.cache.protocol import ReadableCache
from oci_binpkg.errors import ContentError, DeniedError, Hint, NotFoundError, SignatureError, Step
from oci_binpkg.events import Observer, Warned, ignore
from oci_binpkg.index.document import IndexDocument, index_of
from oci_binpkg.model.reference import PackageKey
from oci_binpkg.model.spec import Spec, SpecGraph
from oci_binpkg.ops.completeness import incomplete
from oci_binpkg.parallel import in_turns
from oci_binpkg.store.protocol import Store

SHOWN_DAMAGE: Final = 20
"""The most damaged records of one index that are reported; one line says that there are more."""


class DamageReport:
    """Warns of the records of an index that cannot be read, each once: they are left out, the others are used."""

    def __init__(self, cache: str, observer: Observer) -> None:
        self._cache = cache
        self._observer = observer
        self._seen: set[str] = set()

    def __call__(self, package_hash: str, error: ContentError) -> None:
        """Warn of one record."""
        if package_hash in self._seen:
            return
        self._seen.add(package_hash)
        if len(self._seen) <= SHOWN_DAMAGE:
            name = f"the package /{package_hash[:7]}" if package_hash else "a part of the index"
            self._observer(Warned(f"{self._cache}: {name} is damaged and left out: {error.message}"))
        elif len(self._seen) == SHOWN_DAMAGE + 1:
            self._observer(Warned(f"{self._cache}: more packages are damaged and left out"))


def contents(cache: ReadableCache, observer: Observer = ignore) -> IndexDocument:
    """Return the cache's index; without one, read every package (two requests each).

    Damaged packages are reported and left out.
    """
    try:
        index = cache.read_index()
    except NotFoundError:
        index = None
    if index is not None:
        return index.reporting(DamageReport(cache.name, observer))
    tags = sorted(packages_of(cache).values())
    observer(Warned(f"{cache.name} has no index: reading its {len(tags)} packages", Hint(Step.UPDATE_INDEX_ON_PUSH)))
    documents = in_turns(lambda tag: _read(cache, tag, observer), tags)
    return index_of(document for document in documents if document)


def packages_of(cache: ReadableCache) -> Mapping[str, str]:
    """Return hash and tag or path of all packages. Raises `NotFoundError` if there are none: a name may be misspelt."""
    found = cache.hashes()
    if not found:
        raise NotFoundError(f"{cache.name} holds no packages: it is empty or does not exist", hint="check its name")
    return found


def _read(cache: ReadableCache, tag: str, observer: Observer) -> tuple[Spec, SpecGraph] | None:
    try:
        document = cache.entry(tag).document
    except (NotFoundError, ContentError) as error:
        observer(Warned(f"{tag} is passed over: {error.message}"))
        return None
    return document.root, document.graph


def packages_there(
    cache: ReadableCache, specs: Iterable[Spec], graph: SpecGraph, observer: Observer
) -> Mapping[str, str]:
    """Return hash and place of the packages that a cache has, of `specs` and what they need at least.

    One listing, and a look at the parts of all packages or of a few. Where signatures are required, each package is
    looked at, too. Some logins may push and not list: then each tag is looked for. One that may not be looked at either
    counts as absent: the push will show it.
    """
    wanted = {one.hash: one for spec in specs for one in graph.breadth_first(spec, ("link", "run"))}
    listed = _listed(cache, wanted.values(), observer)
    lost = incomplete(cache, (listed[each] for each in wanted if each in listed))
    for place, reason in lost.items():
        observer(Warned(f"{place} does not count as there: {reason}"))
    whole = {each: place for each, place in listed.items() if place not in lost}
    return counted_there(cache, wanted.values(), whole, observer)


def counted_there(
    cache: ReadableCache, specs: Iterable[Spec], listed: Mapping[str, str], observer: Observer
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


def hashes_there(cache: ReadableCache, specs: Iterable[Spec], observer: Observer) -> frozenset[str]:
    """Return the hashes of the packages that a cache has, of `specs` at least; an empty cache is reported."""
    hashes = cache.hashes()
    if not hashes:
        observer(Warned(f"{cache.name} holds no packages: it is empty or does not exist"))
    return frozenset(counted_there(cache, specs, hashes, observer))


def proven(cache: ReadableCache, specs: Sequence[Spec], observer: Observer) -> list[Spec]:
    """Return the packages that an index lists, if they count.

    Where signatures are required, an unsigned index is not enough: the packages are looked at. Raises `SignatureError`
    if none of them is signed.
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
        raise failures[0].again() from failures[0]
    return found


def _is_signed(cache: ReadableCache) -> bool:
    try:
        return bool(cache.index_signature().signer)
    except NotFoundError:
        return True  # without an index, the packages themselves were read


def _listed(cache: ReadableCache, specs: Iterable[Spec], observer: Observer) -> Mapping[str, str]:
    try:
        return cache.hashes()
    except DeniedError as error:
        images = cache.images
        if images is None:
            raise
        observer(Warned(f"{error.message}; each package is looked for by its tag"))
    tags = {spec.hash: PackageKey.of(spec).tag for spec in specs}
    there = in_turns(lambda tag: _is_there(images.store, tag), tags.values())
    return {package_hash: tag for (package_hash, tag), found in zip(tags.items(), there, strict=True) if found}


def _is_there(store: Store, tag: str) -> bool:
    try:
        store.resolve(tag)
    except SignatureError:
        return True  # whether it counts is looked at next
    except (DeniedError, NotFoundError):
        return False
    return True
