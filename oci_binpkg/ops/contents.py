"""What a cache holds: as its index says, or read package by package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from oci_binpkg.cache.protocol import BinaryCache
from oci_binpkg.errors import ContentError, NotFoundError
from oci_binpkg.events import Observer, Warned, ignore
from oci_binpkg.index.document import IndexDocument, index_of
from oci_binpkg.model.spec import Spec, SpecGraph
from oci_binpkg.parallel import in_turns

SHOWN_DAMAGE: Final = 20
"""So many damaged records of one index are reported; that there are more is said once."""


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


def contents(cache: BinaryCache, observer: Observer = ignore) -> IndexDocument:
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
    observer(
        Warned(f"{cache.name} has no index: reading its {len(tags)} packages (push with --update-index writes one)")
    )
    documents = in_turns(lambda tag: _read(cache, tag, observer), tags)
    return index_of(document for document in documents if document)


def packages_of(cache: BinaryCache) -> Mapping[str, str]:
    """Return hash and tag or path of all packages. Raises `NotFoundError` if there are none: a name may be misspelt."""
    found = cache.hashes()
    if not found:
        raise NotFoundError(f"{cache.name} holds no packages: it is empty or does not exist", hint="check its name")
    return found


def _read(cache: BinaryCache, tag: str, observer: Observer) -> tuple[Spec, SpecGraph] | None:
    try:
        document = cache.entry(tag).document
    except (NotFoundError, ContentError) as error:
        observer(Warned(f"{tag} is passed over: {error.message}"))
        return None
    return document.root, document.graph
