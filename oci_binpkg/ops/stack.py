"""The layers of packages in a cache - packed here or found there - and the images made of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final, Protocol

from oci_binpkg.archive.layer import Follow
from oci_binpkg.archive.sbang_layer import sbang_layer, sbang_scripts
from oci_binpkg.cache.protocol import CacheEntry, WritableCache
from oci_binpkg.cancel import Cancel
from oci_binpkg.errors import (
    AuthError,
    BinpkgError,
    CertificateError,
    ContentError,
    Hint,
    NotFoundError,
    Step,
    TransferError,
)
from oci_binpkg.events import Observer, PackageFinished, PackageStarted, Warned
from oci_binpkg.installs.protocol import InstallRecord, InstallTree
from oci_binpkg.model.content import Digest, Growing, Platform
from oci_binpkg.model.identifiers import is_path
from oci_binpkg.model.image import (
    MAX_ENGINE_LAYERS,
    BaseImage,
    Image,
    Layer,
    PackageLayer,
    PackageSpec,
    Runtime,
    SharedLayer,
    Unit,
    compose,
    not_in_base,
)
from oci_binpkg.model.layer_plan import check_layers
from oci_binpkg.model.reference import PackageKey
from oci_binpkg.model.run_environment import EnvironmentChange, placed
from oci_binpkg.model.spec import RUNTIME, Spec, SpecGraph, platform_of
from oci_binpkg.model.spec_document import SpecDocument, spec_document
from oci_binpkg.ops.base_parents import BaseParents, Fitted
from oci_binpkg.ops.layer_budget import Joiner, LayerBudget
from oci_binpkg.ops.loaders import without_loader
from oci_binpkg.ops.push_report import PackageResult
from oci_binpkg.ops.run_environments import RunEnvironments
from oci_binpkg.store.counting import counted_growing, counting

FOLDERS: Final = (
    ("bin", "PATH"),
    ("man", "MANPATH"),
    ("share/man", "MANPATH"),
    ("share/aclocal", "ACLOCAL_PATH"),
    ("lib/pkgconfig", "PKG_CONFIG_PATH"),
    ("lib64/pkgconfig", "PKG_CONFIG_PATH"),
    ("share/pkgconfig", "PKG_CONFIG_PATH"),
    ("", "CMAKE_PREFIX_PATH"),
)
"""Folder inside a prefix and the variable it is put in front of. Source: Spack's prefix inspections."""


def is_place_of(prefix: str, spec: Spec, own: str = "") -> bool:
    """Whether a prefix that a stored image names can be that of a package, so that it may become a part of PATH.

    A package lies in a directory named after its hash or its name, or in `own`, where a tree has it below its root.
    """
    named = spec.hash[:7] in prefix or spec.name in prefix.rpartition("/")[2]
    return is_path(prefix) and (named or bool(own and prefix.endswith(own)))


def environment_changes(prefixes: Iterable[tuple[str, str]]) -> Iterator[EnvironmentChange]:
    """Yield what packages contribute, in their order; folders that do not exist contribute nothing.

    For each package: its prefix on this machine, and where the image has it.
    """
    for here, there in prefixes:
        for folder, variable in FOLDERS:
            if os.path.isdir(os.path.join(here, folder)):
                yield EnvironmentChange(variable, f"{there}/{folder}" if folder else there)


AHEAD: Final = 2
"""So many layers are sent at a time while they are made: a host takes four uploads, and small ones should not wait."""

BaseImages = Callable[[Platform], BaseImage | None]


@dataclass(frozen=True, slots=True)
class PackedPackage:
    """A layer, and whether it came from the layer cache, so that nothing was compressed.

    `prefix` is where the layer has the package ("": where it is installed), `needs` where its files look for others, by
    hash, and `sbang` where its scripts look for that. `release` is called when the layer has arrived: the layer cache
    may drop it from then on.
    """

    layer: Layer
    reused: bool
    release: Callable[[], None] = lambda: None
    prefix: str = ""
    needs: Mapping[str, str] = field(default_factory=dict)
    sbang: str = ""


@dataclass(frozen=True, slots=True)
class _Made:
    """A layer in the cache, where it has its package ("" if unknown), and where its files look for others and sbang."""

    layer: Layer
    prefix: str
    needs: Mapping[str, str]
    sbang: str


@dataclass(frozen=True, slots=True)
class Composition:
    """How images are made of layers.

    `created` (RFC 3339) is their time in place of that of their parts; `environments` are the variables of packages.
    They have at most `max_layers`, 0 as usual; without a `joiner` no packages share a layer. `parents` keeps layers
    from changing the base.
    """

    created: str = ""
    environments: RunEnvironments | None = None
    max_layers: int = 0
    joiner: Joiner | None = None
    parents: BaseParents | None = None


class Packer(Protocol):
    """Makes the layer of a package, and calls `follow` with one that has become large while it is made."""

    def __call__(self, record: InstallRecord, follow: Follow | None = None, /) -> PackedPackage:
        """Return the layer."""
        ...


def no_base(platform: Platform) -> BaseImage | None:
    """Stack on nothing, whatever the platform."""
    del platform
    return None


def require_base(base: BaseImages, records: Iterable[InstallRecord], most: int = 0) -> None:
    """Raise what keeps the base image from being used for any of the packages, before anything is packed or sent."""
    budget = LayerBudget(SpecGraph(()), check_layers(most) if most else 0, None)
    for platform in dict.fromkeys(platform_of(record.spec) for record in records):
        budget.room(base(platform))


class Stack:
    """Gathers the layers of packages in a cache, packed here or found there, and publishes images of them."""

    def __init__(
        self,
        installs: InstallTree,
        cache: WritableCache,
        packer: Packer,
        present: Mapping[str, str],
        *,
        base: BaseImages,
        observer: Observer,
        cancel: Cancel | None = None,
        composition: Composition | None = None,
    ) -> None:
        self._composition = composition or Composition()
        self._environments = self._composition.environments or RunEnvironments(installs, observer=observer)
        self._budget = LayerBudget(installs.graph, self._composition.max_layers, self._composition.joiner)
        self.cancel = cancel or Cancel()
        self._installs = installs
        self._cache = cache
        self._packer = packer
        self._present = present
        self._base = base
        self._observer = observer
        self._made: dict[str, _Made] = {}
        self._scripts_of: dict[str, frozenset[bytes]] = {}
        self._stopped: TransferError | None = None
        self._ahead: dict[str, Future[bool]] = {}
        self._sending_ahead = ThreadPoolExecutor(AHEAD, "send-ahead")

    def abandon(self) -> None:
        """Begin nothing further, and wait for what is being sent; it ends soon once `cancel` is cancelled."""
        self._sending_ahead.shutdown(cancel_futures=True)

    def pack(self, record: InstallRecord) -> PackedPackage:
        """Pack one package, or take its layer from the layer cache."""
        if self._stopped is not None:
            raise self._stopped.again() from self._stopped
        self._observer(PackageStarted(record.spec.hash, record.spec.short))
        return self._packer(record, self._follow(record))

    def _follow(self, record: InstallRecord) -> Follow | None:
        """Return what sends a layer from the moment that it is large; None where it may already be there.

        A package that the cache lists is packed again only when forced to, and its layer is most likely there.
        """
        package_hash = record.spec.hash
        upload = self._cache.upload_growing
        if upload is None or self.is_present(package_hash):
            return None

        def send(content: Growing) -> bool:
            growing, sent = counted_growing(content, package_hash, self._observer)
            arrived = upload(growing)
            if not arrived:
                sent.discard()
            return arrived

        def follow(content: Growing) -> None:
            self._ahead[package_hash] = self._sending_ahead.submit(send, content)

        return follow

    def send(self, record: InstallRecord, packed: PackedPackage) -> bool:
        """Send a layer; return whether its bytes had to travel.

        A layer that turns out to be damaged in the layer cache is packed once more. Where a login or certificate is
        refused, nothing further is packed or sent.
        """
        if self._stopped is not None:
            raise self._stopped.again() from self._stopped
        ahead = self._ahead.pop(record.spec.hash, None)
        arrived = ahead is not None and ahead.result()
        try:
            # what has arrived is not sent again
            sent = self._upload(record, packed) or arrived
        except (AuthError, CertificateError) as error:
            self._stopped = error
            raise
        except ContentError:
            if not packed.reused:
                raise
            packed = self._packer(record)
            sent = self._upload(record, packed)
        self._made[record.spec.hash] = _Made(
            packed.layer, packed.prefix or record.prefix, packed.needs, packed.sbang or self._installs.sbang_path
        )
        packed.release()
        return sent

    def _upload(self, record: InstallRecord, packed: PackedPackage) -> bool:
        blob, sent = counting(packed.layer.blob, record.spec.hash, self._observer)
        try:
            return self._cache.upload(replace(packed.layer, blob=blob))
        except BinpkgError:
            sent.discard()
            raise

    def find_or_miss(self, record: InstallRecord) -> None:
        """Look up a dependency's layer; what is damaged or vanished counts as missing, with a warning."""
        if record.spec.hash in self._made:
            return
        try:
            found = self._cache.find(PackageKey.of(record.spec))
            root = self._installs.root.rstrip("/")
            own = record.prefix.removeprefix(root) if record.prefix.startswith(f"{root}/") else record.prefix
            if found.prefix and not is_place_of(found.prefix, record.spec, own):
                raise ContentError(f"its image names {found.prefix[:200]!r} as its prefix")  # noqa: TRY301
            sbang = self._installs.sbang_path if found.prefix in ("", record.prefix) else ""
            self._made[record.spec.hash] = _Made(found.layer, found.prefix, {}, sbang)
        except (NotFoundError, ContentError) as error:
            self._observer(Warned(f"{record.spec.short} cannot be stacked: {error.message}"))

    def is_present(self, package_hash: str) -> bool:
        """Return whether the cache listed the package when the push began."""
        return package_hash in self._present

    def closure(self, roots: Iterable[Spec]) -> list[InstallRecord]:
        """Return the records of the link and run closure, dependencies first, externals left out."""
        records = (self._installs.record(spec.hash) for spec in self._installs.graph.closure(roots))
        return [record for record in records if record is not None]

    def image(
        self,
        records: Sequence[InstallRecord],
        *,
        runtime: Runtime | None = None,
        subject: Spec | None = None,
    ) -> tuple[Image, tuple[str, ...]]:
        """Compose the image of `records` (dependencies first) from the layers gathered; also return what is missing."""
        platform = platform_of(subject or records[-1].spec)
        missing = tuple(record.spec.short for record in records if record.spec.hash not in self._made)
        missing += tuple(dict.fromkeys((*self._unknown(records), *self._elsewhere(records))))
        packages = [
            PackageLayer(r.spec.name, str(r.spec.version), r.spec.hash, self._made[r.spec.hash].layer, created_of(r))
            for r in records
            if r.spec.hash in self._made
        ]
        base = self._base(platform)
        packages = not_in_base(base, packages, keep_last=subject is not None)
        prefixes = {record.spec.hash: self._prefix(record) for record in records}
        scripts = self._sbang_places(records, base if subject is None else None)
        fitted = self._fitted(base, packages, prefixes, subject, scripts)
        below = [PackageLayer("sbang", "", "", sbang_layer(path, each)) for path, each in sorted(scripts.items())]
        units = self._budget.units(
            fitted.packages,
            fitted.prefixes,
            base,
            keep_last=subject is not None,
            reserved=len(below),
            restoring=fitted.restoring,
        )
        if not subject:
            self._tell(units, len(packages), len(base.layers) if base else 0)
            self._tell_loaders([record for record in records if record.spec.hash in self._made], base)
        image = compose(
            [*below, *units],
            platform,
            base=base,
            environment=self._changes(records),
            runtime=runtime,
            spec=self._package_spec(subject, records[-1]) if subject else None,
            missing=missing,
            created=self._composition.created,
            oci=self._cache.is_local,
        )
        if len(image.layers) > MAX_ENGINE_LAYERS:
            name = subject.short if subject else "the image"
            self._observer(Warned(f"{name} has {len(image.layers)} layers; Docker runs at most {MAX_ENGINE_LAYERS}"))
        return image, missing

    def _sbang_places(self, records: Sequence[InstallRecord], base: BaseImage | None) -> dict[str, set[bytes]]:
        """Return what the scripts of packages begin with, by the place of it, which is behind the links of a base."""
        wanted: dict[str, set[bytes]] = {}
        parents = self._composition.parents
        for record in records:
            made = self._made.get(record.spec.hash)
            if made is not None and made.sbang and (scripts := self._scripts(record)):
                place = parents.real(base, made.sbang) if parents and base else made.sbang
                wanted.setdefault(place, set()).update(scripts)
        return wanted

    def _scripts(self, record: InstallRecord) -> frozenset[bytes]:
        known = self._scripts_of.get(record.spec.hash)
        if known is None:
            known = sbang_scripts(record.prefix, self._installs.sbang_path)
            self._scripts_of[record.spec.hash] = known
        return known

    def _package_spec(self, subject: Spec, record: InstallRecord) -> PackageSpec:
        environment = self._environments.of([record])[record.spec.hash]
        return PackageSpec(spec_document(subject, self._installs.graph)["spec"], subject.describe(), environment)

    def prepare(self, roots: Iterable[Spec]) -> None:
        """Look for the run environments of packages and of all they need, at once."""
        self._environments.of(self.closure(roots))

    def _changes(self, records: Sequence[InstallRecord]) -> Iterator[EnvironmentChange]:
        """Yield what packages contribute: the folders of all, then what recipes set, as Spack does."""
        prefixes = {record.spec.hash: self._prefix(record) for record in records}
        found = self._environments.of(records)
        yield from environment_changes((record.prefix, prefixes[record.spec.hash]) for record in records)
        for record in records:
            yield from placed(found[record.spec.hash], prefixes[record.spec.hash], lambda key: prefixes.get(key, ""))

    def _fitted(
        self,
        base: BaseImage | None,
        packages: Sequence[PackageLayer],
        prefixes: Mapping[str, str],
        subject: Spec | None,
        others: Iterable[str],
    ) -> Fitted:
        """Return the layers as they leave the directories of the base as they are."""
        parents = self._composition.parents
        if base is None or parents is None:
            return Fitted(tuple(packages), prefixes)
        return parents.fit(base, packages, prefixes, others, subject=subject is not None)

    def _tell(self, units: Sequence[Unit], packages: int, below: int) -> None:
        """Say that packages share layers, where no engine would run the image otherwise."""
        shared = [unit for unit in units if isinstance(unit, SharedLayer)]
        if shared and packages + below > MAX_ENGINE_LAYERS:
            sharing = sum(len(unit.packages) for unit in shared)
            self._observer(
                Warned(
                    f"{sharing} of {packages} packages share {len(shared)} layers: "
                    f"Docker runs at most {MAX_ENGINE_LAYERS}"
                )
            )

    def _tell_loaders(self, records: Sequence[InstallRecord], base: BaseImage | None) -> None:
        """Say which programs do not start, because neither the base nor a package has their loader."""
        parents = self._composition.parents
        if parents is not None:
            for text in without_loader(records, lambda path: base is not None and parents.has_loader(base, path)):
                self._observer(Warned(text, Hint(Step.BASE_WITH_LOADER)))

    def _prefix(self, record: InstallRecord) -> str:
        made = self._made.get(record.spec.hash)
        return (made.prefix if made else "") or record.prefix

    def _unknown(self, records: Sequence[InstallRecord]) -> Iterator[str]:
        """Yield what packages link to or run and no tree here has: that of an upstream tree that was not named."""
        for record in records:
            for edge in record.spec.dependencies_of(RUNTIME):
                needed = self._installs.graph.get(edge.hash)
                if self._installs.record(edge.hash) is None and not (needed and needed.is_external):
                    yield needed.short if needed else f"{edge.name}/{edge.hash[:7]}"

    def _elsewhere(self, records: Sequence[InstallRecord]) -> Iterator[str]:
        """Yield packages that the image has, but not where others of it look for them."""
        known = {record.spec.hash: record for record in records if record.spec.hash in self._made}
        for record in known.values():
            for package_hash, wanted in self._made[record.spec.hash].needs.items():
                needed = known.get(package_hash)
                if needed is None or self._prefix(needed) == wanted:
                    continue
                self._observer(
                    Warned(
                        f"{record.spec.short} looks for {needed.spec.short} in {wanted}, but the layer that "
                        f"{self._cache.name} has of it is made for {self._prefix(needed)}: the image is incomplete"
                    )
                )
                yield needed.spec.short

    def publish(self, record: InstallRecord) -> tuple[Digest, tuple[str, ...]]:
        """Publish one package whose layer and dependencies are in the cache."""
        image, missing = self.image(self.closure([record.spec]), subject=record.spec)
        document = SpecDocument(record.spec.format_version, record.spec, self._installs.graph)
        key = PackageKey.of(record.spec)
        environment = self._environments.beside_layer(record)
        digest = self._cache.publish(CacheEntry(key, document, image.layers[-1], image, environment=environment))
        return digest, missing

    def observe(self, result: PackageResult) -> None:
        """Report that a package is done."""
        detail = result.error.message if result.error else ""
        self._observer(PackageFinished(result.spec.hash, result.outcome.value, detail))


def created_of(record: InstallRecord) -> str:
    """Return the installation time as RFC 3339: a property of the package, so that no image depends on the clock."""
    return datetime.fromtimestamp(record.installation_time, UTC).isoformat()
