"""What a cache holds: as its index says, or read package by package."""

from __future__ import annotations

from collections.abc import Mapping

from oci_binpkg.cache.index import IndexDocument, index_of
from oci_binpkg.cache.protocol import BinaryCache
from oci_binpkg.cache.turns import in_turns
from oci_binpkg.errors import ContentError, NotFoundError
from oci_binpkg.events import Observer, Warned, ignore
from oci_binpkg.model.spec import Spec, SpecGraph


def contents(cache: BinaryCache, observer: Observer = ignore) -> IndexDocument:
    """Return the cache's index; without one, read every package (two requests each)."""
    try:
        index = cache.read_index()
    except NotFoundError:
        index = None
    if index is not None:
        return index
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
