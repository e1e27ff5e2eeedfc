"""One call of a verb: what it is made of, and how it is stopped from outside.

A part is imported when it is made. No verb needs all of them, and what speaks to registries alone takes longer to
import than a look into an image layout takes to run.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, Final

from oci_binpkg.cache_opener import AskedTrust, CacheOpener
from oci_binpkg.cancel import Cancel
from oci_binpkg.config.caches import CacheSettings
from oci_binpkg.config.settings import Settings, patience
from oci_binpkg.disk import foreign_writers
from oci_binpkg.errors import BinpkgError, EngineError, Hint, Step, UsageError
from oci_binpkg.events import Event, Observer, Warnings
from oci_binpkg.file_lock import Patience
from oci_binpkg.log import Log
from oci_binpkg.times import Time

if TYPE_CHECKING:
    from oci_binpkg.archive.layer_cache import LayerCache
    from oci_binpkg.archive.unpacked_layers import UnpackedLayers
    from oci_binpkg.cache.protocol import ReadableCache, WritableCache
    from oci_binpkg.connections import Connections
    from oci_binpkg.installs.permissions import Permissions
    from oci_binpkg.installs.protocol import InstallTree
    from oci_binpkg.installs.transaction import ChangeableTree
    from oci_binpkg.model.content import Digest
    from oci_binpkg.model.query import Query
    from oci_binpkg.namespaces.sandbox import Streams
    from oci_binpkg.ops.engines import ContainerEngine, Kind
    from oci_binpkg.ops.layer_packer import LayerPacker
    from oci_binpkg.ops.run_options import RunOptions
    from oci_binpkg.ops.stack import BaseImages, Composition
    from oci_binpkg.store.protocol import Store
    from oci_binpkg.transport.credentials import Credential

DEFAULT_COMPRESSION: Final = "gzip"
_log: Final = Log("run")
_KINDS: Final[tuple[Kind, ...]] = ("docker", "podman")

StrPath = str | os.PathLike[str]


class StoppableObserver:
    """Hands events on, unless the operation is cancelled; what the caller's observer raises cancels it.

    `failure` is the first exception that it raised.
    """

    def __init__(self, observer: Observer, cancel: Cancel) -> None:
        self._observer = observer
        self._cancel = cancel
        self._lock = Lock()
        self.failure: BaseException | None = None

    def __call__(self, event: Event) -> None:
        """Hand an event on. Raises `CancelledError`, and what the observer raises, on whatever thread."""
        self._cancel.check()
        try:
            self._observer(event)
        except BaseException as error:
            with self._lock:
                self.failure = self.failure or error
            self._cancel.cancel()
            raise


class Operation:
    """The parts of one call of a verb, made when they are needed.

    `temporary` makes a folder for layers that lasts as long as the client.
    """

    def __init__(
        self,
        settings: Callable[[], Settings],
        observer: Observer,
        cancel: Cancel,
        *,
        time: Time,
        temporary: Callable[[], str],
        layer_cache: str = "",
        credentials: Mapping[str, Credential] | None = None,
    ) -> None:
        self._configure = settings
        self.observer = StoppableObserver(observer, cancel)
        self.cancel = cancel
        self.time = cancel.within(time)
        self._warn = Warnings(self.observer)
        self._temporary = temporary
        self._layer_cache_folder = layer_cache
        self._credentials = credentials

    @cached_property
    def settings(self) -> Settings:
        """What is configured. Raises `UsageError` naming file and key."""
        return self._configure()

    @cached_property
    def opener(self) -> CacheOpener:
        """What opens caches."""
        return CacheOpener(self.settings, self.observer, lambda: self.connections, self.cancel, self.time)

    @cached_property
    def connections(self) -> Connections:
        """What leads to registries and mirrors."""
        from oci_binpkg.connections import Connections

        return Connections(self.settings, self.observer, self._credentials, self.cancel, self.time)

    @cached_property
    def patience(self) -> Patience:
        """How long to wait for locks; the observer hears what for."""
        return patience(self.settings.lock_timeout, self.observer, self.time)

    def configured(self, name: str) -> CacheSettings:
        """Return a cache by its configured name. Raises `UsageError`."""
        found = self.settings.caches.get(name)
        if found is None:
            known = ", ".join(sorted(self.settings.caches)) or "none"
            raise UsageError(f"no cache named {name!r}", hint=f"configured names: {known}")
        return found

    def catalogued(self) -> dict[str, str]:
        """Return the configured caches that are read, each with what identifies it in the catalog."""
        caches = self.settings.caches.items()
        return {name: self.opener.identity(each) for name, each in caches if each.fetch.url}

    def caches(
        self,
        named: Sequence[str],
        flags: AskedTrust,
        queries: Sequence[Query] = (),
        opener: CacheOpener | None = None,
    ) -> list[ReadableCache]:
        """Open the caches that are named. Without any, all configured ones, those first that are known to have it.

        Of these, one that cannot be opened is reported and left out. Raises its error if none can be opened.
        """
        opener = opener or self.opener
        if named:
            return [opener.cache(text, flags) for text in named]
        opened: list[ReadableCache] = []
        failures: list[BinpkgError] = []
        for name in self.names(queries):
            try:
                opened.append(opener.cache(name, flags))
            except BinpkgError as error:
                failures.append(error)
                self._warn(f"{name} is passed over: {error.message}", error.hint)
        if failures and not opened:
            raise failures[0].again() from failures[0]
        return opened

    def names(self, queries: Sequence[Query] = ()) -> list[str]:
        """Return the names of the configured caches that are read, those first that are known to have a package.

        Raises `UsageError` if there are none.
        """
        caches = self.catalogued()
        if not caches:
            raise UsageError("no cache named, and none in the configuration", hint=Hint(Step.NAME_CACHE))
        known: frozenset[str] = frozenset()
        if queries and len(caches) > 1 and os.path.exists(self.settings.catalog):
            from oci_binpkg.ops.search import Refresh, holders

            def nothing(_name: str, _known: Digest | None) -> None:
                return None

            looked = Refresh(
                self.settings.catalog, caches, nothing, offline=True, patience=self.patience, time=self.time
            )
            known = holders(looked, queries)
        return sorted(caches, key=lambda name: name not in known)

    def jobs(self, wanted: int) -> int:
        """Return how many packages are packed at a time: as asked, as configured, else one for each core."""
        return wanted or self.settings.jobs or os.cpu_count() or 1

    def installs(self, store: StrPath | None, upstreams: StrPath | Iterable[StrPath] = ()) -> InstallTree:
        """Open the install tree that is named, or the configured one. Raises `UsageError`, `InstallsError`.

        Dependencies may be in `upstreams`, or in the trees that Spack's configuration names.
        """
        from oci_binpkg.installs.open import open_installs

        path = self._tree_path(store)
        return open_installs(path, spack_prefix=self.settings.spack_prefix, upstreams=self._upstreams(path, upstreams))

    def _upstreams(self, root: str, named: StrPath | Iterable[StrPath]) -> list[str]:
        """Return the upstream trees that are named, then the configured ones that are there; never the tree itself."""
        from oci_binpkg.installs.spack import is_spack_tree

        given = [os.fspath(each) for each in ([named] if isinstance(named, str | os.PathLike) else named)]
        configured = [each for each in self.settings.upstreams if is_spack_tree(each)]
        own = os.path.realpath(root)
        return [each for each in dict.fromkeys((*given, *configured)) if os.path.realpath(each) != own]

    def tree(
        self, root: StrPath | None, *, create: bool = True, upstreams: StrPath | Iterable[StrPath] = ()
    ) -> ChangeableTree:
        """Open a tree that packages are installed into or removed from; `upstreams` as for `installs`."""
        from oci_binpkg.installs.protocol import has_packages_file
        from oci_binpkg.installs.spack import SpackInstalls
        from oci_binpkg.relocate.interpreter_lines import check_root

        path = self._tree_path(root)
        if is_no_text(path):
            raise UsageError(f"{path}: a path that is not UTF-8", hint="name another folder: a tree's records are JSON")
        if has_packages_file(path):
            raise UsageError(
                f"{path} is described by a packages.toml, which is written by hand",
                hint="install into another folder: a tree of its own is made there",
            )
        if create:
            check_root(os.path.abspath(path))
        return SpackInstalls(
            path,
            spack_prefix=self.settings.spack_prefix,
            upstreams=self._upstreams(path, upstreams),
            patience=self.patience,
            create=create,
        )

    def permissions(self, file: StrPath | None) -> Callable[[str], Permissions | None]:
        """Return what says how a package's files are to be permitted: a `packages.yaml`, or else Spack's own.

        Raises `UsageError` naming file and key.
        """
        places = self.settings.spack_places
        if not file and (places is None or not any(map(os.path.lexists, places.files_of("packages")))):
            return lambda _: None  # YAML takes long to import
        from oci_binpkg.config.spack_permissions import read_permission_rules

        return read_permission_rules(places, os.fspath(file or "")).of

    def _tree_path(self, store: StrPath | None) -> str:
        path = os.fspath(store or "") or self.settings.store
        if not path:
            raise UsageError("no install tree named", hint=Hint(Step.NAME_TREE))
        return path

    def packer(
        self,
        installs: InstallTree,
        compression: str,
        *,
        pyc: bool | None = None,
        target: WritableCache | None = None,
    ) -> LayerPacker:
        """Return what makes layers of the packages of a tree; `pyc` as configured, if it is None.

        Raises `UsageError` if the cache they are for, `target`, does not take such layers.
        """
        from oci_binpkg.archive.codec import Codec
        from oci_binpkg.ops.layer_packer import LayerPacker

        packer = LayerPacker(
            installs,
            self.layer_cache,
            Codec.parse(compression or self.settings.compression or DEFAULT_COMPRESSION),
            threads=os.cpu_count() or 1,
            observer=self.observer,
            pyc=self.settings.pyc if pyc is None else pyc,
        )
        if target is not None and target.images is None:
            packer.require_gzip(target.name)
        return packer

    def composition(
        self, installs: InstallTree, *, spack: bool = True, max_layers: int = 0, strict_layers: bool = False
    ) -> Composition:
        """Return how images are made of a tree's packages; with `spack`, Spack is asked about them if it is there."""
        from oci_binpkg.ops.base_parents import BaseParents
        from oci_binpkg.ops.layer_budget import LayerJoiner
        from oci_binpkg.ops.run_environments import RunEnvironments
        from oci_binpkg.ops.spack_load import AskedSpack
        from oci_binpkg.ops.stack import Composition

        program = self._spack_program() if spack else ""
        folder = os.path.join(os.path.dirname(self.settings.catalog), "environments")
        asked = AskedSpack(program, folder) if program else None
        environments = RunEnvironments(installs, spack=asked, observer=self.observer)
        parents = BaseParents(self.layer_cache, self.observer, strict=strict_layers)
        return Composition(self.created, environments, max_layers, LayerJoiner(self.layer_cache), parents)

    def _spack_program(self) -> str:
        """Return the Spack that its user named or has in PATH, "" without one; never one that a tree brings along."""
        named = os.path.join(self.settings.spack_prefix, "bin", "spack") if self.settings.spack_prefix else ""
        return shutil.which(named or "spack") or ""

    @cached_property
    def layer_cache(self) -> LayerCache:
        """The layers kept on disk, in a folder that only its owner may write, or that is shared knowingly."""
        from oci_binpkg.archive.layer_cache import LayerCache

        settings = self.settings
        root = self._layer_cache_folder or settings.layer_cache
        foreign = foreign_writers(root, os.getuid())
        if foreign and not settings.shared:
            self._warn(
                f"the layer cache {root} is not used: it {foreign}; "
                "make it yours alone (chown, chmod go-w), name another (layer_cache.path), or set shared = true"
            )
            root = self._temporary()
        return LayerCache(
            root,
            settings.layer_cache_size,
            time=self.time,
            patience=self.patience,
            shared=bool(foreign) and settings.shared,
        )

    @property
    def created(self) -> str:
        """The time that images have instead of their own (RFC 3339), "" without one. Raises `UsageError`."""
        from oci_binpkg.model.inherited import source_date

        return source_date(self.settings.source_date)

    def base_images(self, text: str) -> BaseImages:
        """Return the base images under a reference, none for ""."""
        from oci_binpkg.ops.stack import no_base

        return self.opener.base_images(text) if text else no_base

    def views(self, text: str, named: str | Iterable[str], *, writing: bool) -> Sequence[str]:
        """Return the views that are named, or else the one that a mirror's name stands for, if it does."""
        if views := [named] if isinstance(named, str) else list(named):
            return views
        location = self.opener.location(text, writing=writing)
        return [location.view] if location.url and location.view else []

    def engine(self, wanted: str) -> ContainerEngine:
        """Connect to the engine that is named, or to the first that answers. Raises `EngineError`."""
        from oci_binpkg.ops.engines import connect

        if wanted and wanted not in _KINDS:
            raise UsageError(f"no engine is called {wanted!r}: docker or podman is expected")
        failures = []
        for kind in _KINDS:
            if wanted in ("", kind):
                try:
                    return connect(kind, self.settings.engine_sockets[kind])
                except EngineError as error:
                    failures.append(error)
        if len(failures) == 1:
            raise failures[0].again() from failures[0]
        raise EngineError("; ".join(error.message for error in failures), hint=failures[-1].hint) from failures[-1]

    def run_image(self, store: Store, reference: str, options: RunOptions, engine: str, out: Streams) -> int:
        """Run a command in an image: by the engine that is named, by one that answers, or by this machine's kernel.

        Raises `EngineError` if nothing here runs it.
        """
        from oci_binpkg.ops.engines import image_for_here, run_image
        from oci_binpkg.ops.run_here import WAYS, Here, run_here
        from oci_binpkg.store.images import image_of

        if engine not in ("", "auto", *_KINDS, *WAYS):
            known = ", ".join((*_KINDS, *WAYS))
            raise UsageError(f"no engine is called {engine!r}", hint=f"one of {known}, or auto")
        if engine not in WAYS:
            try:
                answering = self.engine("" if engine == "auto" else engine)
            except EngineError as error:
                if engine in _KINDS:
                    raise
                _log.info("%s: no engine runs it: %s", store.name, error.message)
            else:
                return run_image(answering, store, reference, options, stdout=out.stdout, stderr=out.stderr)
        stored = image_for_here(store, reference)
        return run_here(
            image_of(store, stored),
            stored.config,
            options,
            out,
            Here(self._unpacked_layers(), self.cancel, os.geteuid()),
            name=f"{store.name}:{reference}",
            way=engine if engine in WAYS else "",
        )

    def _unpacked_layers(self) -> UnpackedLayers:
        from oci_binpkg.archive.unpacked_layers import UnpackedLayers

        root = os.path.join(self._layer_cache_folder or self.settings.layer_cache, "unpacked")
        if foreign_writers(root, os.getuid()):
            root = os.path.join(self._temporary(), "unpacked")
        return UnpackedLayers(root, self.settings.layer_cache_size)


def is_no_text(value: str) -> bool:
    """Return whether a string holds half surrogates, which stand for bytes that are not UTF-8."""
    return any("\ud800" <= character <= "\udfff" for character in value)
