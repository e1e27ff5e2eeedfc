"""Look into install trees and caches: which packages are there, and what one of them is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from oci_binpkg.cache.protocol import CacheEntry, ReadableCache
from oci_binpkg.errors import Hint, NotFoundError, Step
from oci_binpkg.events import Observer, ignore
from oci_binpkg.index.search import IndexSearch
from oci_binpkg.model.image import UNKNOWN_DIFF_ID
from oci_binpkg.model.query import Query, no_match, ordered, select
from oci_binpkg.model.reference import PackageKey
from oci_binpkg.model.spec import Spec, SpecGraph
from oci_binpkg.ops.contents import contents, proven
from oci_binpkg.parallel import in_turns

if TYPE_CHECKING:
    from oci_binpkg.installs.protocol import InstallTree
    from oci_binpkg.installs.verifications import Verification
    from oci_binpkg.ops.sources import Sources

CACHED: Final = "cached"
DEPRECATED: Final = "deprecated"


@dataclass(frozen=True, slots=True)
class FoundPackage:
    """A package that a query found.

    `state` is `explicit`, `implicit`, `deprecated` or `gone` in a tree, `cached` or `deprecated` in a cache, where
    `prefix` is "".

    `verification` says what was verified of one in a tree when it came from a cache; `successor` is the hash of the
    package that takes the place of a deprecated one, `upstream` the root of the upstream tree that has it.
    """

    spec: Spec
    state: str
    prefix: str = ""
    verification: Verification | None = None
    successor: str = ""
    upstream: str = ""

    @property
    def name(self) -> str:
        """The package's name."""
        return self.spec.name

    @property
    def version(self) -> str:
        """The package's version."""
        return str(self.spec.version)

    @property
    def hash(self) -> str:
        """The package's 32-character hash."""
        return self.spec.hash

    def to_json(self) -> dict[str, Any]:
        """Return the JSON document."""
        spec = self.spec
        document: dict[str, Any] = {
            "name": spec.name,
            "version": str(spec.version),
            "hash": spec.hash,
            "arch": {"platform": spec.arch.platform, "os": spec.arch.os, "target": spec.arch.target},
            "spec": spec.describe(),
            "state": self.state,
        }
        document |= {"prefix": self.prefix} if self.prefix else {}
        document |= {"deprecated_for": self.successor} if self.successor else {}
        verified = self.verification.to_json() if self.verification else None
        document |= {"upstream": self.upstream} if self.upstream else {}
        in_cache = self.state == CACHED or (self.state == DEPRECATED and not self.successor)
        return document if in_cache else document | {"verified": verified}


def find_installed(installs: InstallTree, queries: Sequence[Query]) -> list[FoundPackage]:
    """Return the packages of an install tree that match any query (all, without one), externals left out.

    Raises `NoMatchError` if there are queries and nothing matches.
    """
    from oci_binpkg.installs.verifications import Verifications  # noqa: PLC0415 - a search in a cache needs none

    states = {}
    verified = Verifications(installs.root)
    for record in installs.records():
        if not record.spec.is_external:
            state = ("explicit" if record.explicit else "implicit") if record.is_present else "gone"
            state = DEPRECATED if record.deprecated_for else state
            states[record.spec.hash] = FoundPackage(
                *(record.spec, state, record.prefix, verified.of(record), record.deprecated_for, record.upstream)
            )
    chosen = _matching([found.spec for found in states.values()], queries, installs.graph)
    if queries and not chosen:
        raise no_match(queries, (found.name for found in states.values()))
    return [states[spec.hash] for spec in chosen]


def find_cached(cache: ReadableCache, queries: Sequence[Query], observer: Observer = ignore) -> list[FoundPackage]:
    """Return the packages of a cache that match any query (all, without one), as far as their signatures allow.

    Raises `NoMatchError` if there are queries and nothing matches, `SignatureError` if none of what does is signed.
    """
    with IndexSearch(contents(cache, observer)) as search:
        asked: Sequence[Query | None] = queries or (None,)
        found = {spec.hash: spec for query in asked for spec in search.matches(query)}
        if queries and not found:
            raise no_match(queries, search.names())
        deprecated = search.deprecated
    chosen = _ordered(proven(cache, list(found.values()), observer))
    return [FoundPackage(spec, DEPRECATED if spec.hash in deprecated else CACHED) for spec in chosen]


def documents(
    cache: ReadableCache, queries: Sequence[Query], observer: Observer = ignore
) -> list[tuple[Spec, SpecGraph]]:
    """Return the specs that match the queries, each with the specs around it, as the cache's index has them.

    Where only what is signed counts, they are read from the packages themselves: the index's specs are unsigned, or
    not for this. Raises `NoMatchError` for a query that nothing matches,
    `SignatureError`.
    """
    known = contents(cache, observer)
    with IndexSearch(known) as search:
        chosen = list(known.specs(search.hashes(queries)))
    if not cache.verifies:
        return [(spec, known.graph) for spec in chosen]
    keys = {spec.hash: PackageKey.of(spec) for spec in chosen}
    found = in_turns(lambda package_hash: cache.find(keys[package_hash]).document, keys)
    return [(document.root, document.graph) for document in found]


def show(cache: ReadableCache, query: Query, observer: Observer = ignore) -> Shown:
    """Return one package of a cache with all that is known of it. The query must mean exactly one."""
    with IndexSearch(contents(cache, observer)) as search:
        spec = search.one(query)
        is_deprecated = spec.hash in search.deprecated
    return Shown(cache.find(PackageKey.of(spec)), is_deprecated)


def show_first(sources: Sources, query: Query) -> Shown:
    """Return one package of several caches, from the first that has it. The query must mean exactly one.

    Raises `NotFoundError` with the reason of each cache.
    """
    (spec,) = sources.resolve([query]).roots
    passed: list[str] = []
    for found in sources.candidates(spec, passed):
        return Shown(found.entry, cache=found.cache)
    raise NotFoundError(f"{spec.short} is not available: {'; '.join(passed)}", hint=Hint(Step.ANOTHER_CACHE))


@dataclass(frozen=True, slots=True)
class Shown:
    """A package of a cache. `is_deprecated`: its index says that another one shall take its place.

    `cache` is the cache's name where several were asked.
    """

    entry: CacheEntry
    is_deprecated: bool = False
    cache: str = ""

    @property
    def spec(self) -> Spec:
        """The package's spec."""
        return self.entry.document.root

    @property
    def diff_id(self) -> str:
        """The digest of the layer's tar, "" on mirrors, which record nothing of it and keep no images."""
        found = self.entry.layer.diff_id
        return "" if found == UNKNOWN_DIFF_ID else str(found)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON document."""
        layer = self.entry.layer
        graph = self.entry.document.graph
        return {
            **FoundPackage(self.spec, DEPRECATED if self.is_deprecated else CACHED).to_json(),
            **({"cache": self.cache} if self.cache else {}),
            "hash_state": self.spec.hash_state.value,
            "tag": self.entry.key.tag,
            "digest": str(self.entry.manifest),
            "layer": str(layer.blob.descriptor.digest),
            "size": layer.blob.descriptor.size,
            **({"diff_id": self.diff_id} if self.diff_id else {}),
            **({"image_layers": [str(digest) for digest in self.entry.stack]} if self.entry.stack else {}),
            "dependencies": [
                {"name": dep.name, "hash": dep.hash, "types": list(dep.types), "known": dep.hash in graph}
                for dep in self.spec.dependencies
            ],
        }


def _matching(candidates: Sequence[Spec], queries: Sequence[Query], graph: SpecGraph) -> list[Spec]:
    found: Iterable[Spec] = candidates
    if queries:
        found = {spec.hash: spec for query in queries for spec in select(query, candidates, graph)}.values()
    return _ordered(found)


def _ordered(specs: Iterable[Spec]) -> list[Spec]:
    return ordered(specs, lambda spec: spec)
