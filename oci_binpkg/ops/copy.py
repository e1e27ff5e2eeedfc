"""Packages and images from one cache to another, byte for byte: nothing is packed again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from oci_binpkg.archive.extract import Survey, survey_layer
from oci_binpkg.cache.protocol import CacheEntry, KeepsImages, ReadableCache, WritableCache
from oci_binpkg.errors import BinpkgError, ContentError, NotFoundError
from oci_binpkg.events import BatchStarted, Observer, PackageFinished, PackageStarted, ignore
from oci_binpkg.index.document import IndexDocument, index_of
from oci_binpkg.index.search import IndexSearch
from oci_binpkg.installs.recipes import NotPlainError, recipe_among
from oci_binpkg.model.content import OCI_LAYER_GZIP, Blob
from oci_binpkg.model.image import Image, Layer, PackageLayer, PackageSpec, compose
from oci_binpkg.model.manifest import MAX_MANIFEST_BYTES
from oci_binpkg.model.query import Query
from oci_binpkg.model.reference import INDEX_TAG, PackageKey, hash_of_tag, is_package_tag
from oci_binpkg.model.run_environment import EnvironmentChange, RunEnvironment, accepted, placed
from oci_binpkg.model.spec import Spec, SpecGraph, platform_of
from oci_binpkg.model.spec_document import SpecDocument, spec_document
from oci_binpkg.ops.contents import contents
from oci_binpkg.ops.stack import FOLDERS, is_place_of
from oci_binpkg.parallel import in_turns
from oci_binpkg.store.copy import copy
from oci_binpkg.store.counting import counted
from oci_binpkg.store.images import blob_of
from oci_binpkg.store.referrers import is_list_of_referrers

_EPOCH = "1970-01-01T00:00:00+00:00"


@dataclass(frozen=True, slots=True)
class _PresentLayer:
    """A layer that is in the target, and what its package adds to an environment."""

    layer: Layer
    folders: tuple[EnvironmentChange, ...]
    prefix: str
    environment: RunEnvironment


class ImageMaker:
    """Makes images of packages, whose dependencies must come before them, for a cache that keeps images."""

    def __init__(self, target: WritableCache) -> None:
        self._target = target
        self._known: dict[str, _PresentLayer] = {}

    def with_image(self, entry: CacheEntry) -> CacheEntry:
        """Return the entry with an image of it stacked on what the target has of its dependencies.

        The layer is read once, to its end. Raises `ContentError`.
        """
        spec = entry.document.root
        with entry.layer.blob.open() as stream:
            found = survey_layer(
                stream, f"the layer of {spec.short}", media_type=entry.layer.blob.descriptor.media_type
            )
        blob = entry.layer.blob
        kind = blob.descriptor.media_type if "vnd.oci.image.layer" in blob.descriptor.media_type else OCI_LAYER_GZIP
        layer = Layer(replace(blob, descriptor=replace(blob.descriptor, media_type=kind)), found.diff_id)
        environment = entry.environment or _of_recipe(found, spec)
        self._known[spec.hash] = _PresentLayer(
            layer, tuple(_contributions(found.prefix, found.directories)), found.prefix, environment
        )
        entry = replace(entry, environment=environment)
        return replace(entry, layer=layer, image=self._image(entry, spec))

    def _image(self, entry: CacheEntry, spec: Spec) -> Image:
        packages, missing = [], []
        stacked: dict[str, _PresentLayer] = {}
        for needed in entry.document.graph.closure([spec]):
            known = self._find(needed)
            if known is None:
                missing.append(needed.short)
                continue
            packages.append(PackageLayer(needed.name, needed.version, needed.hash, known.layer, _EPOCH))
            stacked[needed.hash] = known
        document = spec_document(spec, entry.document.graph)["spec"]
        return compose(
            packages,
            platform_of(spec),
            environment=_changes(stacked),
            spec=PackageSpec(document, spec.describe(), entry.environment),
            missing=missing,
        )

    def _find(self, spec: Spec) -> _PresentLayer | None:
        if spec.hash not in self._known:
            try:
                entry = self._target.find(PackageKey.of(spec))
            except (NotFoundError, ContentError):
                return None
            prefix = entry.prefix if is_place_of(entry.prefix, spec) else ""
            self._known[spec.hash] = _PresentLayer(
                entry.layer, tuple(_own(entry.env, prefix)), prefix, entry.environment
            )
        return self._known[spec.hash]


def _of_recipe(found: Survey, spec: Spec) -> RunEnvironment:
    """Return what the recipe in a layer sets, as far as it can be read."""
    try:
        return recipe_among(found.recipes, spec) or ()
    except NotPlainError:
        return ()


def _changes(stacked: Mapping[str, _PresentLayer]) -> Iterator[EnvironmentChange]:
    """Yield what packages add to an environment; of what their caches say, only what decides over nothing else."""
    prefixes = {package_hash: known.prefix for package_hash, known in stacked.items()}
    for known in stacked.values():
        yield from known.folders
        if known.prefix:
            kept, _ = accepted(known.environment)
            yield from placed(kept, known.prefix, lambda key: prefixes.get(key, ""))


def _contributions(prefix: str, directories: frozenset[str]) -> Iterator[EnvironmentChange]:
    for folder, variable in FOLDERS:
        if not folder or folder in directories:
            yield EnvironmentChange(variable, f"{prefix}/{folder}" if folder else prefix)


def _own(env: Sequence[str], prefix: str) -> Iterator[EnvironmentChange]:
    """Yield what the package at `prefix` contributes to the environment of its own image."""
    variables: Mapping[str, str] = dict(text.partition("=")[::2] for text in env)
    for folder, variable in FOLDERS:
        path = f"{prefix}/{folder}" if folder else prefix
        if prefix and path in variables.get(variable, "").split(":"):
            yield EnvironmentChange(variable, path)


@dataclass(frozen=True, slots=True)
class CopyReport:
    """The tags that were copied, those the target had already, and those that failed, each with the reason."""

    source: str
    target: str
    copied: tuple[str, ...]
    skipped: tuple[str, ...]
    failed: tuple[tuple[str, BinpkgError], ...] = ()
    index_written: bool = False

    @property
    def exit_code(self) -> int:
        """0; 1 if some failed; an error's own code if all did, for one reason."""
        own = {error.exit_code for _, error in self.failed}
        if self.failed and not self.copied and len(own) == 1:
            return own.pop()
        return 1 if self.failed else 0

    def to_json(self) -> dict[str, Any]:
        """Return the JSON document."""
        return {
            "source": self.source,
            "target": self.target,
            "copied": list(self.copied),
            "skipped": list(self.skipped),
            "failed": {tag: error.message for tag, error in self.failed},
            "index_written": self.index_written,
        }


def copy_cache(
    source: ReadableCache, target: WritableCache, queries: Sequence[Query] = (), *, observer: Observer = ignore
) -> CopyReport:
    """Copy all packages and images, or those packages that match a query with what they link to or run.

    Layers travel as they are. Images are copied byte for byte between caches that keep images, and composed where the
    source keeps none. What the target has already is left alone. The target's index is brought up to date.
    """
    index = contents(source, observer)
    if source.images is not None and target.images is not None:
        work: _Images | _Packages = _Images(source.images, target.images, index, queries)
    else:
        work = _Packages(source, target, index, queries)
    wanted, present = work.wanted(), work.present()
    todo = [name for name in wanted if name not in present]
    observer(BatchStarted(len(todo), len(wanted) - len(todo), target.name))
    copied, failed = _copied(work, todo, target, observer)
    there = set(wanted) - {name for name, _ in failed}
    written = _enter(index, there, source, target)
    skipped = tuple(name for name in wanted if name in present)
    return CopyReport(source.name, target.name, tuple(copied), skipped, tuple(failed), written)


def _copied(
    work: _Images | _Packages, names: Sequence[str], target: WritableCache, observer: Observer
) -> tuple[list[str], list[tuple[str, BinpkgError]]]:
    """Copy one after the other; return what was copied, and what failed with the reason."""
    copied: list[str] = []
    failed: list[tuple[str, BinpkgError]] = []
    with target.batch():
        for name in names:
            observer(PackageStarted(name, name))
            try:
                work.copy(name, observer)
                copied.append(name)
                observer(PackageFinished(name, "copied"))
            except BinpkgError as error:
                # its frames hold what was being read, and there may be thousands of them
                error.__traceback__ = error.__context__ = error.__cause__ = None
                failed.append((name, error))
                observer(PackageFinished(name, "failed", error.message))
    return copied, failed


@dataclass(frozen=True, slots=True)
class _Images:
    """Copies tags with all that is under them."""

    source: KeepsImages
    target: KeepsImages
    index: IndexDocument
    queries: Sequence[Query]

    def wanted(self) -> list[str]:
        if self.queries:
            return [key.tag for key in _chosen(self.index, self.queries)]
        tags = (tag for tag in self.source.store.tags() if tag != INDEX_TAG)
        # signatures come with the manifests they sign: a list of them is unsigned
        return sorted(tag for tag in tags if not (self._carries and is_list_of_referrers(tag)))

    def present(self) -> set[str]:
        there = set(self.target.store.tags())
        if not self.target.proves_listing:
            return there
        return _counted(self.target.store.resolve, {tag: tag for tag in self.wanted() if tag in there})

    def copy(self, name: str, observer: Observer) -> None:
        if not self._carries:
            copy(self.source.store, self.target.store, name, key=name, observer=observer)
            return
        root = copy(self.source.store, self.target.store, name, tag="", key=name, observer=observer)
        data = blob_of(self.source.store, root).read(MAX_MANIFEST_BYTES)
        found = self.source.signatures(root)
        self.target.publish_manifest(Blob.from_bytes(data, root.media_type), name, found)

    @property
    def _carries(self) -> bool:
        """Whether signatures are looked for, and go along."""
        return self.source.verifies or self.target.signs


class _Packages:
    """Copies packages, one by one, dependencies first."""

    def __init__(
        self, source: ReadableCache, target: WritableCache, index: IndexDocument, queries: Sequence[Query]
    ) -> None:
        self._source = source
        self._target = target
        self._keys = {key.tag: key for key in _chosen(index, queries)}
        self._maker = ImageMaker(target) if target.images is not None else None

    def wanted(self) -> list[str]:
        return list(self._keys)

    def present(self) -> set[str]:
        there = self._target.hashes()
        places = {name: there[key.hash] for name, key in self._keys.items() if key.hash in there}
        return _counted(self._target.entry, places) if self._target.proves_listing else set(places)

    def copy(self, name: str, observer: Observer) -> None:
        entry = self._source.find(self._keys[name])
        if self._maker is not None:
            entry = self._maker.with_image(entry)
        layer = replace(entry.layer, blob=counted(entry.layer.blob, name, observer))
        self._target.upload(layer)
        self._target.publish(entry)


def _chosen(index: IndexDocument, queries: Sequence[Query]) -> list[PackageKey]:
    """Return what matches, or everything, with all it links to or runs that is there, dependencies first."""
    with IndexSearch(index) as search:
        closure = search.closure(search.hashes(queries))
    return [key for key in closure if key.hash in index.records and index.records.in_cache(key.hash)]


def _counted(look: Callable[[str], object], places: Mapping[str, str]) -> set[str]:
    """Return the names of the signed packages among those at these places."""

    def counts(name: str) -> bool:
        try:
            look(places[name])
        except (ContentError, NotFoundError):
            return False
        return True

    return {name for name, good in zip(places, in_turns(counts, places), strict=True) if good}


def _enter(index: IndexDocument, tags: Collection[str], source: ReadableCache, target: WritableCache) -> bool:
    """Enter the packages under these tags into the target's index: as the source's index has them, or as they are.

    Where the source is signed, only what was signed counts: the packages' own documents.
    """
    hashes = {hash_of_tag(tag) for tag in tags if is_package_tag(tag)}
    listed = index.specs(each for each in index.records.present() if each in hashes)
    chosen = (spec for spec in listed if PackageKey.of(spec).tag in tags)
    added = index_of(_documents(source, chosen) if source.verifies else ((spec, index.graph) for spec in chosen))
    return bool(len(added.records)) and target.merge_index(added)


def _documents(source: ReadableCache, specs: Iterable[Spec]) -> Iterator[tuple[Spec, SpecGraph]]:
    keys = {spec.hash: PackageKey.of(spec) for spec in specs}

    def read(package_hash: str) -> SpecDocument | None:
        try:
            return source.find(keys[package_hash]).document
        except (ContentError, NotFoundError):
            return None  # the target had it already

    return ((found.root, found.graph) for found in in_turns(read, keys) if found)
