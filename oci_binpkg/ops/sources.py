"""Where packages come from: several caches in order, asked as little as possible."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Final

from oci_binpkg.cache.protocol import CacheEntry, KeepsImages, ReadableCache
from oci_binpkg.errors import BinpkgError, ContentError, Hint, NoMatchError, NotFoundError, QueryError, Step, UsageError
from oci_binpkg.events import Observer, Warned, ignore
from oci_binpkg.index.document import EMPTY, IndexDocument
from oci_binpkg.index.search import IndexSearch
from oci_binpkg.model.arch import this_platform
from oci_binpkg.model.constraint import Constraint
from oci_binpkg.model.image import bodies_of
from oci_binpkg.model.query import Query
from oci_binpkg.model.reference import PackageKey, hash_of_tag
from oci_binpkg.model.spec import Spec, SpecGraph
from oci_binpkg.ops.best_build import Builds, Choice
from oci_binpkg.ops.contents import contents
from oci_binpkg.ops.image_packages import package_tags, stacked
from oci_binpkg.ops.splices import spliced
from oci_binpkg.parallel import READERS
from oci_binpkg.store.images import StoredImage, read_image

_EXACT: Final = re.compile(
    r"(?:[\w.-]+\.)?(?P<name>[\w-]+)@=?(?P<version>[^\s/%+~^@:,]+)/(?P<hash>[a-z2-7]{32})", re.ASCII
)


@dataclass(frozen=True, slots=True)
class FoundEntry:
    """A package in a cache; `cache` is its name."""

    cache: str
    entry: CacheEntry


@dataclass(frozen=True, slots=True)
class _Listed:
    """A package as an index lists it, and the query that it was found for."""

    spec: Spec
    query: Query


@dataclass(frozen=True, slots=True)
class Resolution:
    """The packages asked for, and every spec that is known of them and their dependencies."""

    roots: tuple[Spec, ...]
    graph: SpecGraph


@dataclass(slots=True)
class Sources:
    """Caches in the order in which they are asked.

    `builds` chooses among builds that differ in their architecture only, and refuses those for another one (None: a
    query has to mean one build, of any kind); `choices` are those that it made. `failures` holds, by hash, why a
    package that is there could not be had (damaged, not signed, ...).
    """

    caches: Sequence[ReadableCache]
    observer: Observer = ignore
    builds: Builds | None = None
    choices: list[Choice] = field(default_factory=list)
    _indices: dict[str, IndexDocument | None] = field(default_factory=dict)
    failures: dict[str, BinpkgError] = field(default_factory=dict)
    _noted: set[tuple[str, str]] = field(default_factory=set)
    _known: dict[tuple[str, str], FoundEntry] = field(default_factory=dict)
    _absent: dict[tuple[str, str], NotFoundError] = field(default_factory=dict)

    def resolve(self, queries: Sequence[Query]) -> Resolution:
        """Return the packages that the queries mean, each exactly one.

        A query with name, version and whole hash is looked up directly; all others need the caches' indices.
        Raises `NoMatchError` and `AmbiguousQueryError`; `PlatformError` for packages for another architecture.
        """
        if not queries:
            raise QueryError("no package named", hint=Hint(Step.LIST_PACKAGES_IN_CACHE))
        with ExitStack() as stack:
            search: list[IndexSearch] = []
            asked: list[FoundEntry | _Listed] = []
            for query in queries:
                exact = self._look_up(query)
                if exact is None and not search:
                    search.append(stack.enter_context(IndexSearch(self.index())))
                asked.append(exact or _Listed(self._told(search[0], query), query))
            with ThreadPoolExecutor(READERS) as readers:
                found = list(readers.map(self._own, asked))
            roots: dict[Spec, None] = {}
            nodes: dict[str, Spec] = {}
            for each, own in zip(asked, found, strict=True):
                if own is not None:
                    roots[own.entry.document.root] = None
                    known: Iterable[Spec] = own.entry.document.graph.values()
                elif isinstance(each, _Listed):
                    roots[each.spec] = None
                    known = search[0].graph.breadth_first(each.spec, None)
                for spec in known:
                    nodes.setdefault(spec.hash, spec)
        if self.builds is not None:
            self.builds.check(tuple(roots))
        return Resolution(tuple(roots), SpecGraph(nodes.values()))

    def _told(self, search: IndexSearch, query: Query) -> Spec:
        """Return the package that a query means; without a match, name the caches that did not answer."""
        try:
            return self._one(search, query)
        except NoMatchError as error:
            silent = [name for name, index in self._indices.items() if index is None]
            if not silent:
                raise
            raise error.within(after=f"in the caches that answered; {', '.join(silent)} did not") from error

    def _one(self, search: IndexSearch, query: Query) -> Spec:
        """Return the package that a query means: of several builds of one package, the best for this machine."""
        constraint = query.constraint
        if constraint.hash:
            return search.one(query)
        current = _current(search, query)
        if self.builds is None or not constraint.name:
            return search.one(query, among=current)
        graph = search.graph
        found = [graph[each] for each in search.hashes([query]) if each in graph and (not current or each in current)]
        if len(found) < 2:  # noqa: PLR2004 - nothing to choose from
            return search.one(query, among=current)
        meant, choice = self.builds.best(found)
        spec = search.one(query, among={each.hash for each in meant})
        if choice is not None:
            self.choices.append(choice)
        return spec

    def _own(self, asked: FoundEntry | _Listed) -> FoundEntry | None:
        """Return a package as it describes itself: an index only leads to it. None if no cache has it as it is listed.

        Raises `ContentError` for a package that is named by its hash alone if nothing says that the hash is its own.
        """
        if isinstance(asked, FoundEntry):
            return asked
        listed, query = asked.spec, asked.query
        found = next(self.candidates(listed, []), None)
        if found is None and listed.hash in self.failures:
            raise self.failures[listed.hash].again() from self.failures[listed.hash]
        if found is not None and found.entry.is_unverified and query.constraint == Constraint(hash=listed.hash):
            raise ContentError(
                f"the hash of {listed.short} cannot be verified: no rule is known for what {found.cache} has under it",
                hint=Hint(Step.VOUCH_OR_NAME),
            )
        return found

    def unverified(self, specs: Iterable[Spec]) -> list[Spec]:
        """Return those of the packages found so far that neither a signature nor a rule for their hash vouches for."""
        found = (self._known.get((cache.name, spec.hash)) for spec in specs for cache in self.caches)
        return list(dict.fromkeys(each.entry.document.root for each in found if each and each.entry.is_unverified))

    def resolve_image(self, reference: str) -> Resolution:
        """Return the packages whose layers an image of the first cache stacks, the image of several packages included.

        Raises `NotFoundError` for layers that are no package of the cache, the base image's aside.
        """
        cache = self.caches[0].images
        if cache is None:
            raise UsageError(
                f"{self.caches[0].name} keeps packages, no images", hint="name a registry or an image layout"
            )
        image = read_image(cache.store, reference, this_platform())
        found = stacked(cache, image) or _read(cache, image)
        roots = [entry.document.root for entry in found]
        graph = SpecGraph(spec for entry in found for spec in entry.document.graph.values())
        self._known |= {(cache.name, entry.key.hash): FoundEntry(cache.name, entry) for entry in found}
        if not roots:
            raise NotFoundError(
                f"{cache.name}:{reference} stacks no layer that is a package of {cache.name}",
                hint=Hint(Step.PUSH_TO_SAME_CACHE),
            )
        needed = {spec.hash for root in roots for spec in graph.closure([root]) if spec.hash != root.hash}
        return Resolution(tuple(root for root in roots if root.hash not in needed), graph)

    def index(self) -> IndexDocument:
        """Return the indices of all caches as one. A cache that cannot be read is reported and left out.

        Raises its error if no cache can be read.
        """
        merged = EMPTY
        failures: list[BinpkgError] = []
        for cache in self.caches:
            if cache.name not in self._indices:
                try:
                    self._indices[cache.name] = contents(cache, self.observer)
                except BinpkgError as error:
                    failures.append(error)
                    self._indices[cache.name] = None
                    if len(self.caches) > 1:
                        self.observer(Warned(f"{cache.name} is passed over: {error.message}"))
            index = self._indices[cache.name]
            if index is not None:
                merged = index if merged is EMPTY else merged.merged(index)
        if failures and not len(merged.records):
            raise failures[0].again() from failures[0]
        return merged

    def candidates(self, spec: Spec, passed: list[str], graph: SpecGraph | None = None) -> Iterator[FoundEntry]:
        """Yield the package from each cache that has it, best first; `passed` gets the reasons of the other caches.

        With the `graph` that a spliced package is part of, the archive of what it was built as is as good.
        """
        for cache in self.caches:
            try:
                found = self._find_spliced(cache, spec, graph)
                if not found.entry.document.root.agrees_with(spec):
                    raise _another(cache, found.entry.key, found.entry)
                yield found
            except NotFoundError:
                passed.append(f"{cache.name} does not have it")
            except BinpkgError as error:
                self._note(cache, spec.hash, error)
                passed.append(f"{cache.name}: {error.message}")

    def _find_spliced(self, cache: ReadableCache, spec: Spec, graph: SpecGraph | None) -> FoundEntry:
        """Return a package of a cache, or as what it was built before other dependencies took the place of its own."""
        try:
            return self._find(cache, PackageKey.of(spec))
        except NotFoundError:
            if spec.build_spec is None or graph is None:
                raise
        name, package_hash = spec.build_spec
        found = self._find(cache, PackageKey(name, spec.version, package_hash))
        return replace(found, entry=spliced(found.entry, spec, graph))

    def _note(self, cache: ReadableCache, package_hash: str, error: BinpkgError) -> None:
        """Keep why a cache's package is not taken; where another cache follows, say so once."""
        self.failures[package_hash] = error
        if cache is not self.caches[-1] and (cache.name, package_hash) not in self._noted:
            self._noted.add((cache.name, package_hash))
            self.observer(Warned(f"/{package_hash[:7]} is not taken from {cache.name}: {error.message}"))

    def _find(self, cache: ReadableCache, key: PackageKey) -> FoundEntry:
        """Return a package of a cache; what was asked for once in this run is not asked for again."""
        known = self._known.get((cache.name, key.hash))
        if known is None:
            if absent := self._absent.get((cache.name, key.hash)):
                raise absent.again()
            try:
                entry = cache.find(key)
            except NotFoundError as error:
                self._absent[cache.name, key.hash] = error
                raise
            if PackageKey.of(entry.document.root) != key:
                raise _another(cache, key, entry)
            known = self._known[cache.name, key.hash] = FoundEntry(cache.name, entry)
        return known

    def _look_up(self, query: Query) -> FoundEntry | None:
        match = _EXACT.fullmatch(query.text)
        if match is None:
            return None
        key = PackageKey(match["name"], match["version"], match["hash"])
        for cache in self.caches:
            try:
                return self._find(cache, key)
            except NotFoundError:
                continue
            except ContentError as error:
                if cache is self.caches[-1]:
                    raise
                self._note(cache, key.hash, error)
        if key.hash in self.failures:
            raise self.failures[key.hash].again() from self.failures[key.hash]
        return None


def _current(search: IndexSearch, query: Query) -> Container[str] | None:
    """Return the hashes of what a query may mean without naming its hash; None for all.

    Raises `NoMatchError` if all that it may mean is deprecated.
    """
    deprecated = search.deprecated
    if not deprecated:
        return None
    matching = search.hashes([query])
    current = {each for each in matching if each not in deprecated}
    if matching and not current:
        known = next((search.graph[each] for each in matching if each in search.graph), None)
        raise NoMatchError(
            f"{known.short if known else query.text} is deprecated: another package shall take its place",
            hint=f"name it by its hash if it is meant: /{matching[0][:7]}",
        )
    return current


def _read(cache: KeepsImages, image: StoredImage) -> list[CacheEntry]:
    """Return the packages of an image by reading each of them."""
    tags = package_tags(cache, image.config)
    by_hash = {hash_of_tag(tag): (tag, manifest) for tag, manifest in tags.values()}
    wanted = []
    for layer in image.manifest.layers:
        shared = bodies_of(layer, f"{cache.name}: {layer.digest}")
        wanted += [by_hash[body.hash] for body in shared if body.hash in by_hash]
        if not shared and layer.digest in tags:
            wanted.append(tags[layer.digest])
    with ThreadPoolExecutor(READERS) as readers:
        return list(readers.map(lambda known: cache.entry(*known), wanted))


def _another(cache: ReadableCache, key: PackageKey, entry: CacheEntry) -> ContentError:
    """Return the error for a package that is not what is known of its hash: by the index, or by who asked for it."""
    root = entry.document.root
    return ContentError(
        f"{cache.name}: under {key.name}@{key.version}/{key.hash[:7]} stands another package: {root.describe()}",
        hint=Hint(Step.PUSH_AND_REBUILD),
    )
