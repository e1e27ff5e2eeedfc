"""The front door: every verb of the command line as a method that takes text and returns a value.

A part is imported when a verb needs it. No verb needs all of them, and what speaks to registries alone takes longer to
import than a look into an image layout takes to run.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Final, Literal, Self, Unpack

from oci_binpkg.cache_opener import AskedTrust
from oci_binpkg.cancel import Cancel, CancelledError
from oci_binpkg.config.caches import CacheKeys, CacheSettings
from oci_binpkg.config.settings import Settings, config_path, load_lock_timeout, load_settings, patience
from oci_binpkg.errors import Hint, NoMatchError, NotFoundError, SignatureError, Step, UsageError
from oci_binpkg.events import Observer, Warnings, ignore
from oci_binpkg.file_lock import Patience
from oci_binpkg.model.arch import this_platform
from oci_binpkg.model.query import Query
from oci_binpkg.model.reference import Reference, Repository, check_host, check_image_tag, check_view, is_loopback
from oci_binpkg.operation import Operation, StrPath, is_no_text
from oci_binpkg.times import SYSTEM_TIME, Time

if TYPE_CHECKING:
    from oci_binpkg.cache.protocol import KeepsImages, ReadableCache
    from oci_binpkg.cache_opener import CacheOpener
    from oci_binpkg.index.document import IndexDocument
    from oci_binpkg.model.content import Digest
    from oci_binpkg.model.image import Runtime
    from oci_binpkg.model.spec import Spec
    from oci_binpkg.ops.artifacts import AttachedArtifact
    from oci_binpkg.ops.check import Rebuilds
    from oci_binpkg.ops.copy import CopyReport
    from oci_binpkg.ops.download import Downloaded
    from oci_binpkg.ops.engines import Loaded
    from oci_binpkg.ops.find import FoundPackage, Shown
    from oci_binpkg.ops.index import IndexReport
    from oci_binpkg.ops.inspect import CacheInfo, ImageInfo
    from oci_binpkg.ops.install import InstallReport
    from oci_binpkg.ops.push_report import PushReport
    from oci_binpkg.ops.save_specs import SavedSpec
    from oci_binpkg.ops.search import CatalogMatch
    from oci_binpkg.ops.selection import Only
    from oci_binpkg.ops.upkeep import Verified
    from oci_binpkg.signing.keyring import Key
    from oci_binpkg.transport.credentials import Credential

__all__ = ["AskedTrust", "Client"]

CacheLike = str | Repository | Reference
"""A cache, or an image in one: as on the command line, or a value. A repository is that of a registry."""
Queries = str | Query | Iterable[str | Query]
"""One query or several, as text or as values; none at all is `()`."""

_PLACES: Final = ("layer_cache", "keyring", "catalog", "docker_config", "home", "engine_sockets")
"""Settings of where something is kept, which `load_settings` always gives a value."""


class Client:
    """Opens caches, install trees, engines and the layer cache, and does what the command line does.

    `config` is the path of a configuration file or settings; without it the user's own configuration and the
    environment are read when they are first needed. Settings that leave a folder out keep that part in a temporary
    one. `observer` hears events, from any thread. `layer_cache` is the folder of packed layers, in place of the
    configured one. `credentials` are logins by host, which go before what docker and podman keep. `cancel` stops
    whatever is running. `time` has the clocks and the sleep.

    A CACHE is an address (`oci://HOST/NAME`, `oci-layout:PATH`, a mirror's URL) or a configured name. Methods raise
    subclasses of `BinpkgError`; what failed for single packages stands in their reports. A context manager: `close`
    removes what was made for this client alone.
    """

    def __init__(
        self,
        *,
        config: StrPath | Settings | None = None,
        observer: Observer = ignore,
        layer_cache: StrPath | None = None,
        credentials: Mapping[str, Credential] | None = None,
        cancel: Cancel | None = None,
        time: Time = SYSTEM_TIME,
    ) -> None:
        self._config = config
        self._observer = observer
        self._layer_cache_folder = os.fspath(layer_cache) if layer_cache is not None else ""
        self._credentials = credentials
        self._cancel = cancel
        self._time = time
        self._closing = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove what was made for this client alone."""
        self._closing.close()

    @cached_property
    def settings(self) -> Settings:
        """What is configured. Raises `UsageError` naming file and key."""
        if isinstance(self._config, Settings):
            return self._whole(self._config)
        return load_settings(file=self._config_file)

    def _whole(self, settings: Settings) -> Settings:
        """Return settings that name every folder: what they leave out is below one that `close` removes."""
        if all(getattr(settings, name) for name in _PLACES):
            return settings
        usual = load_settings({"HOME": self._temporary})
        return replace(settings, **{name: getattr(settings, name) or getattr(usual, name) for name in _PLACES})

    # Build and share

    def push(
        self,
        cache: CacheLike,
        store: StrPath | None = None,
        queries: Queries = (),
        *,
        upstream: StrPath | Iterable[StrPath] = (),
        base_image: str = "",
        max_layers: int = 0,
        strict_layers: bool = False,
        tag: str = "",
        only: Only | str | None = None,
        force: bool = False,
        update_index: bool = False,
        skip_present_in: CacheLike | Iterable[CacheLike] = (),
        compression: str = "",
        pyc: bool | None = None,
        spack: bool = True,
        jobs: int = 0,
        key: str = "",
        unsigned: bool = False,
        publish_key: bool = True,
        dry_run: bool = False,
    ) -> PushReport:
        """Push packages of a tree and what they need; without a query all that was installed explicitly.

        Dependencies may also be in the trees `upstream`, and in those that Spack's `upstreams.yaml` names.
        What is in the cache already is skipped. `tag` also tags one image of all packages named; `only` is `package`
        or `dependencies`. `jobs` packages are packed at a time, 0 as configured. With `pyc`, compiled Python is
        current in layers; None: as configured. Images have at most `max_layers`, 0 as usual. With `spack`, Spack is
        asked for the variables that recipes set. With `publish_key`, a mirror with signed packages gets the public key.
        """
        from oci_binpkg.ops.push import PushOptions
        from oci_binpkg.ops.push import push as push_packages
        from oci_binpkg.ops.selection import select

        with self._operation() as work:
            chosen = _only(only)
            text, flags, parsed = _text(cache), AskedTrust(key=key, unsigned=unsigned), _parsed(queries)
            installs = work.installs(store, upstream)
            target, flags = work.opener.pushed_to(text, flags, tag=tag, index=update_index)
            packer = work.packer(installs, compression, pyc=pyc, target=target)
            selection = select(installs, parsed, chosen)
            skipped = [work.opener.cache(text) for text in _texts(skip_present_in)]
            elsewhere = _there(skipped, [record.spec for record in selection.wanted], work.observer)
            options = PushOptions(force, update_index, dry_run, tag, work.jobs(jobs), elsewhere=elsewhere)
            report = push_packages(
                installs,
                selection,
                target,
                packer,
                base=work.base_images(base_image),
                options=options,
                observer=work.observer,
                cancel=work.cancel,
                composition=work.composition(installs, spack=spack, max_layers=max_layers, strict_layers=strict_layers),
            )
            if publish_key and report.has_pushed:
                work.opener.publish_own_key(text, flags)
            return report

    def image(
        self,
        cache: CacheLike,
        store: StrPath | None = None,
        queries: Queries = (),
        *,
        tag: str,
        upstream: StrPath | Iterable[StrPath] = (),
        base_image: str = "",
        max_layers: int = 0,
        strict_layers: bool = False,
        entrypoint: str | Sequence[str] | None = None,
        cmd: str | Sequence[str] | None = None,
        env: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        label: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        annotation: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        user: str = "",
        workdir: str = "",
        compression: str = "",
        pyc: bool | None = None,
        spack: bool = True,
        jobs: int = 0,
        key: str = "",
        unsigned: bool = False,
        dry_run: bool = False,
    ) -> PushReport:
        """Push one image of several packages and all they need, under a tag; dependencies also from `upstream` trees.

        `entrypoint` and `cmd` are lists of words, or one text as in a shell. With `spack`, Spack is asked which
        variables recipes set, if it is there. The image has at most `max_layers`, 0 as usual.
        """
        from oci_binpkg.model.image import Runtime
        from oci_binpkg.ops.push import push_image
        from oci_binpkg.ops.selection import select

        with self._operation() as work:
            start, command = _words(entrypoint, "entrypoint"), _words(cmd, "cmd")
            described = (tuple(_pairs(env)), dict(_pairs(label)), user, workdir, dict(_pairs(annotation)))
            runtime = _checked(Runtime(start, command, *described))
            check_image_tag(tag)
            parsed = _parsed(queries)
            installs = work.installs(store, upstream)
            return push_image(
                installs,
                select(installs, parsed),
                work.opener.images(
                    _text(cache), work.opener.signing(_text(cache), AskedTrust(key=key, unsigned=unsigned))
                ),
                work.packer(installs, compression, pyc=pyc),
                tag,
                base=work.base_images(base_image),
                runtime=runtime,
                jobs=work.jobs(jobs),
                dry_run=dry_run,
                observer=work.observer,
                cancel=work.cancel,
                composition=work.composition(installs, spack=spack, max_layers=max_layers, strict_layers=strict_layers),
            )

    def copy(
        self,
        source: CacheLike,
        target: CacheLike,
        queries: Queries = (),
        *,
        check_signature: bool | None = None,
        key: str = "",
        unsigned: bool = False,
    ) -> CopyReport:
        """Copy a cache, or the packages that match a query with what they link to or run, to another."""
        from oci_binpkg.ops.copy import copy_cache

        with self._operation() as work:
            parsed, flags = _parsed(queries), AskedTrust(None, key, unsigned)
            work.opener.index_is_settled(_text(target), AskedTrust(key=key))
            opened = work.opener.target(_text(target), flags)
            read = work.opener.cache(_text(source), AskedTrust(check_signature))
            return copy_cache(read, opened, parsed, observer=work.observer)

    def attach(
        self,
        cache: CacheLike,
        subject: str,
        files: StrPath | Iterable[StrPath],
        *,
        artifact_type: str,
        annotation: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        key: str = "",
        unsigned: bool = False,
    ) -> AttachedArtifact:
        """Attach files to a package or an image, as an artifact of this type (a media type).

        `subject` is a tag, a digest (`sha256:...`), or else a query that means one package. Repeating it changes
        nothing.
        """
        from oci_binpkg.ops.artifacts import attach

        with self._operation() as work:
            images = work.opener.images(_text(cache), AskedTrust(key=key, unsigned=unsigned))
            paths = [os.fspath(each) for each in ([files] if isinstance(files, str | os.PathLike) else files)]
            annotations = dict(_pairs(annotation))
            if any(is_no_text(text) for pair in annotations.items() for text in pair):
                raise UsageError("annotation: a text that is not UTF-8", hint="manifests are JSON: write UTF-8")
            return attach(
                images, subject, paths, artifact_type, annotations, pause=work.opener.pause, observer=work.observer
            )

    # Get and run

    def install(
        self,
        caches: CacheLike | Iterable[CacheLike],
        queries: Queries,
        *,
        root: StrPath | None = None,
        upstream: StrPath | Iterable[StrPath] = (),
        packages_yaml: StrPath | None = None,
        force: bool = False,
        allow_missing: bool = False,
        allow_stale: bool | str | Sequence[str] = False,
        arch: str = "",
        jobs: int = 0,
        dry_run: bool = False,
        check_signature: bool | None = None,
        accept_present: bool = False,
        pin_newest: bool = False,
    ) -> InstallReport:
        """Install packages and all they link to or run into the tree at `root`, from the first cache that has each.

        Without `caches` (`()`) all configured ones are asked, those first that the catalog knows to have a package.
        Of several builds of a package, the best one for this machine is taken, or for the target `arch`; "any" takes
        builds for all architectures. What the trees `upstream` have (and those of Spack's `upstreams.yaml`) is used and
        not installed again. Files get the permissions that `packages_yaml` says, or else the one of Spack's scopes.
        """
        from oci_binpkg.ops.best_build import Builds, this_arch
        from oci_binpkg.ops.install import InstallOptions
        from oci_binpkg.ops.install import install as install_packages
        from oci_binpkg.ops.sources import Sources

        with self._operation() as work:
            parsed = _parsed(queries)
            installs = work.tree(root, upstreams=upstream)
            opener, flags = work.opener.installing_into(installs), AskedTrust(check_signature)
            sources = Sources(
                work.caches(_texts(caches), flags, parsed, opener), work.observer, Builds(this_arch(), arch)
            )
            options = InstallOptions(
                *(force, allow_missing, _patterns(allow_stale), dry_run, work.jobs(jobs)),
                layers=work.layer_cache,
                accept_present=accept_present,
                pin_newest=pin_newest,
                signers=opener.signers,
                permissions=work.permissions(packages_yaml),
                time=work.time,
                cancel=work.cancel,
            )
            return install_packages(installs, sources, parsed, options, work.observer)

    def install_image(
        self,
        image: CacheLike,
        *,
        root: StrPath | None = None,
        packages_yaml: StrPath | None = None,
        allow_missing: bool = False,
        allow_stale: bool | str | Sequence[str] = False,
        jobs: int = 0,
        check_signature: bool | None = None,
        accept_present: bool = False,
    ) -> InstallReport:
        """Install all packages of an image into the tree at `root`; its layers must be packages of the same cache."""
        from oci_binpkg.ops.install import InstallOptions, install_resolved
        from oci_binpkg.ops.sources import Sources

        with self._operation() as work:
            location = work.opener.image_location(_text(image))
            installs = work.tree(root)
            opener = work.opener.installing_into(installs)
            sources = Sources([opener.images_at(location, check_signature)], work.observer)
            options = InstallOptions(
                *(False, allow_missing, _patterns(allow_stale), False, work.jobs(jobs)),
                layers=work.layer_cache,
                accept_present=accept_present,
                signers=opener.signers,
                permissions=work.permissions(packages_yaml),
                time=work.time,
                cancel=work.cancel,
            )
            return install_resolved(
                installs, sources, sources.resolve_image(location.reference), options, work.observer
            )

    def uninstall(self, root: StrPath | None, queries: Queries, *, dependents: bool = False) -> list[Spec]:
        """Remove packages from a tree, with `dependents` also what needs them; return what was removed."""
        from oci_binpkg.ops.upkeep import uninstall as uninstall_packages

        with self._operation() as work:
            parsed = _parsed(queries)
            return uninstall_packages(work.tree(root, create=False), parsed, dependents=dependents)

    def download(
        self,
        caches: CacheLike | Iterable[CacheLike],
        queries: Queries,
        destination: StrPath = ".",
        *,
        check_signature: bool | None = None,
    ) -> list[Downloaded]:
        """Write the spec and the archive of packages into a folder. Each query must mean exactly one package.

        `caches` as for `install`.
        """
        from oci_binpkg.ops.download import download as download_packages
        from oci_binpkg.ops.sources import Sources

        with self._operation() as work:
            parsed, flags = _parsed(queries), AskedTrust(check_signature)
            sources = Sources(work.caches(_texts(caches), flags, parsed), work.observer)
            return download_packages(sources, parsed, os.fspath(destination))

    def artifacts_get(
        self,
        cache: CacheLike,
        subject: str,
        destination: StrPath = ".",
        *,
        artifact_type: str = "",
        digest: str = "",
        check_signature: bool | None = None,
    ) -> list[str]:
        """Write the files of an artifact into a folder; return their paths.

        Type and digest must mean exactly one artifact of `subject`, which is as for `attach`.
        """
        from oci_binpkg.ops.artifacts import get_artifact

        with self._operation() as work:
            images = self._images(work, cache, check_signature)
            return get_artifact(
                images,
                subject,
                os.fspath(destination),
                artifact_type=artifact_type,
                digest=digest,
                observer=work.observer,
            )

    def load(self, image: CacheLike, *, engine: str = "", check_signature: bool | None = None) -> Loaded:
        """Load an image into Docker or Podman; `engine` is `docker`, `podman` or "" for the first that answers."""
        from oci_binpkg.ops.engines import load_image

        with self._operation() as work:
            store, reference = work.opener.image(_text(image), check_signature)
            return load_image(work.engine(engine), store, reference)

    def run(
        self,
        image: CacheLike,
        command: Sequence[str] = (),
        *,
        engine: str = "",
        entrypoint: str | None = None,
        env: Mapping[str, str] | None = None,
        volume: Sequence[str] = (),
        user: str = "",
        workdir: str = "",
        network: str = "",
        ulimit: Mapping[str, int] | None = None,
        check_signature: bool | None = None,
        stdout: BinaryIO | None = None,
        stderr: BinaryIO | None = None,
    ) -> int:
        """Run a command in an image; return its exit code. What it writes is dropped where no file is given.

        `engine` is docker, podman, or a way to do without: namespace, bwrap, ch-run, chroot. Without a name the first
        engine that answers is taken, then the first way that works. `volume` are SOURCE:TARGET[:ro]. Raises
        `EngineError` if nothing here runs it.
        """
        from oci_binpkg.namespaces.sandbox import Streams
        from oci_binpkg.ops.run_options import RunOptions

        options = RunOptions(command, entrypoint, env or {}, volume, user, workdir, network, ulimit or {})
        with self._operation() as work, open(os.devnull, "wb") as nothing:
            store, reference = work.opener.image(_text(image), check_signature)
            return work.run_image(store, reference, options, engine, Streams(stdout or nothing, stderr or nothing))

    # Look

    def find(
        self,
        queries: Queries = (),
        *,
        store: StrPath | None = None,
        upstream: StrPath | Iterable[StrPath] = (),
        cache: CacheLike | None = None,
        check_signature: bool | None = None,
        must_match: bool = False,
    ) -> list[FoundPackage]:
        """Return the packages of a cache, or else of a tree, that match any query (all, without one).

        Versions are in order. What the trees `upstream` have belongs to the tree. Without a cache and a tree, the
        configured tree is looked at; see also `search`. If no package matches, the list is empty; with `must_match`
        that raises `NoMatchError`, which names similar packages.
        """
        from oci_binpkg.ops.find import find_cached, find_installed

        with self._operation() as work:
            parsed = _parsed(queries)
            if store and cache:
                raise UsageError("a cache or a tree is searched, not both", hint="ask one place at a time")
            try:
                if cache:
                    opened = work.opener.cache(_text(cache), AskedTrust(check_signature))
                    return find_cached(opened, parsed, work.observer)
                return find_installed(work.installs(store, upstream), parsed)
            except NoMatchError:
                if must_match:
                    raise
                return []

    def search(
        self,
        queries: Queries = (),
        *,
        cache: str = "",
        ttl: float | None = None,
        offline: bool = False,
        all_arch: bool = False,
    ) -> list[CatalogMatch]:
        """Return the packages of all configured caches that match any query (all, without one).

        The indices are kept in a catalog and read again when they are older than `ttl` seconds, never with `offline`.
        `cache` is the name of the only one to look at. Packages for other machines count with `all_arch`.
        """
        from oci_binpkg.ops.search import DEFAULT_TTL, Refresh, find_in_catalog

        with self._operation() as work:
            settings, parsed = self.settings, _parsed(queries)
            caches = work.catalogued()
            if not caches:
                hint = 'write [caches.NAME] with url = "..." into the configuration'
                raise UsageError("no caches are configured", hint=hint)
            if cache:
                work.configured(cache).endpoint(writing=False)  # a cache that is only written has no index here
            refused: list[SignatureError] = []

            def read(name: str, known: Digest | None) -> IndexDocument | None:
                try:
                    return work.opener.searched(name).read_index(known)
                except SignatureError as error:
                    refused.append(error)
                    raise

            wait = next((each for each in (ttl, settings.index_ttl) if each is not None), DEFAULT_TTL)
            refresh = Refresh(
                settings.catalog, caches, read, wait, offline, cache, work.observer, work.patience, work.time
            )
            try:
                found = find_in_catalog(refresh, parsed, family="" if all_arch else this_platform().architecture)
            except NoMatchError as error:
                if not refused:
                    raise
                raise refused[0].again() from error
            if refused and not found:
                raise refused[0].again() from refused[0]
            return found

    def show(self, query: str | Query, *, cache: CacheLike | None = None, check_signature: bool | None = None) -> Shown:
        """Return one package of a cache with all that is known of it. The query must mean exactly one.

        Without a cache all configured ones are asked, as by `install`.
        """
        from oci_binpkg.ops.find import show as show_package
        from oci_binpkg.ops.find import show_first
        from oci_binpkg.ops.sources import Sources

        with self._operation() as work:
            (parsed,) = _parsed(query)
            if not cache:
                return show_first(
                    Sources(work.caches((), AskedTrust(check_signature), [parsed]), work.observer), parsed
                )
            return show_package(work.opener.cache(_text(cache), AskedTrust(check_signature)), parsed, work.observer)

    def inspect(self, cache_or_image: CacheLike, *, check_signature: bool | None = None) -> CacheInfo | list[ImageInfo]:
        """Return what a cache is made of, or (with a tag or digest) an image: one value for each platform."""
        from oci_binpkg.ops.inspect import inspect_cache, inspect_image

        with self._operation() as work:
            location = work.opener.location(_text(cache_or_image))
            opened = work.opener.images_at(location, check_signature)
            if location.reference:
                return inspect_image(opened, location.reference)
            return inspect_cache(opened, work.observer)

    def artifacts_list(
        self, cache: CacheLike, subject: str, *, artifact_type: str = "", check_signature: bool | None = None
    ) -> list[AttachedArtifact]:
        """Return what is attached to a package or an image (as for `attach`), of one type or of all."""
        from oci_binpkg.ops.artifacts import list_artifacts

        with self._operation() as work:
            images = self._images(work, cache, check_signature)
            return list_artifacts(images, subject, artifact_type, work.observer)

    def check(
        self,
        caches: CacheLike | Iterable[CacheLike],
        store: StrPath | None = None,
        queries: Queries = (),
        *,
        upstream: StrPath | Iterable[StrPath] = (),
        thorough: bool = False,
        check_signature: bool | None = None,
        output: StrPath | None = None,
    ) -> list[Rebuilds]:
        """Return the packages of a tree that each cache lacks; `thorough` also reads all bytes of each package.

        What the trees `upstream` have belongs to the tree. Without `caches` (`()`) all configured ones are looked at.
        `output` is a file for the answer, as JSON.
        """
        from oci_binpkg.ops.check import check as check_packages
        from oci_binpkg.ops.check import write_answers
        from oci_binpkg.ops.save_specs import specs_in

        with self._operation() as work:
            parsed, flags = _parsed(queries), AskedTrust(check_signature)
            specs = specs_in(work.installs(store, upstream), parsed, present=True)
            texts = _texts(caches) or work.names()
            answers = [
                check_packages(work.opener.cache(text, flags), text, work.opener.shown(text), specs, thorough=thorough)
                for text in texts
            ]
            if output:
                write_answers(answers, os.fspath(output))
            return answers

    def save_specs(
        self,
        queries: Queries,
        destination: StrPath = ".",
        *,
        store: StrPath | None = None,
        cache: CacheLike | None = None,
        check_signature: bool | None = None,
    ) -> list[SavedSpec]:
        """Write the spec documents of packages of a cache, or else of a tree, into a folder."""
        from oci_binpkg.ops.find import documents
        from oci_binpkg.ops.save_specs import save_specs, specs_in

        with self._operation() as work:
            parsed = _parsed(queries)
            if store and cache:
                raise UsageError("a cache or a tree is searched, not both", hint="ask one place at a time")
            if cache:
                opened = work.opener.cache(_text(cache), AskedTrust(check_signature))
                return save_specs(documents(opened, parsed, work.observer), os.fspath(destination))
            installs = work.installs(store)
            return save_specs(((spec, installs.graph) for spec in specs_in(installs, parsed)), os.fspath(destination))

    # Keep in order

    def index_update(
        self,
        cache: CacheLike,
        queries: Queries = (),
        *,
        view: str | Iterable[str] = (),
        check_signature: bool | None = None,
        key: str = "",
    ) -> list[IndexReport]:
        """Enter the packages that the index lacks; return one report, or one for each view.

        With `view`, the packages that match a query (all, without one) are entered in the indices of these parts of a
        mirror.
        """
        return self._write_index("update", cache, queries, view, AskedTrust(check_signature, key))

    def index_rebuild(
        self,
        cache: CacheLike,
        queries: Queries = (),
        *,
        view: str | Iterable[str] = (),
        check_signature: bool | None = None,
        key: str = "",
    ) -> list[IndexReport]:
        """Read every package and write the index, or the views, anew; otherwise as `index_update`."""
        return self._write_index("rebuild", cache, queries, view, AskedTrust(check_signature, key))

    def index_check(
        self,
        cache: CacheLike,
        *,
        view: str | Iterable[str] = (),
        names: bool = False,
        manifests: bool = False,
        content: bool = False,
        check_signature: bool | None = None,
    ) -> list[IndexReport]:
        """Compare the index, or each view, with what is there.

        With `names` only the names are compared; with `manifests` each package's documents are read and its blobs
        looked for; with `content` every blob is read. Without any of them: names in a registry or on a server, and
        manifests in a folder.
        """
        from oci_binpkg.ops.index import Depth, check_index, check_views

        with self._operation() as work:
            if names + manifests + content > 1:
                raise UsageError("names, manifests and content are three depths", hint="choose one of them")
            # what the index lists is compared and not handed out: the index is what has to be signed
            flags, text = AskedTrust(check_signature, index=check_signature is True), _text(cache)
            views = work.views(text, view, writing=False)
            whole = work.opener.cache(text, flags, view="" if views else None)
            asked = Depth.CONTENT if content else Depth.MANIFESTS if manifests else None
            depth = asked or (Depth.MANIFESTS if whole.is_local and not names else Depth.NAMES)
            packages = _without_signatures(work.opener, text, whole)
            if views:
                opened = {name: work.opener.cache(text, flags, view=name) for name in _view_names(text, whole, views)}
                return check_views(whole, opened, depth, packages, work.cancel.check)
            return [check_index(whole, depth, packages, work.cancel.check)]

    def verify_store(self, root: StrPath, queries: Queries = (), *, run: bool = False) -> list[Verified]:
        """Compare the files of a tree (of the packages that match a query, if there is one) with its records.

        With `run` it is also checked whether they run on this machine; nothing is executed.
        """
        from oci_binpkg.installs.open import open_installs
        from oci_binpkg.ops.upkeep import verify_store as verify_packages

        parsed = _parsed(queries)
        with self._operation() as work:
            return verify_packages(open_installs(os.fspath(root)), parsed, work.cancel.check, run=run)

    # Set up

    def login(
        self,
        host: str,
        username: str = "",
        password: str = "",
        *,
        ask: Callable[[], tuple[str, str]] | None = None,
        plain_http: bool = False,
    ) -> str:
        """Check a login at a registry and keep it where docker and podman keep theirs; return that file.

        `ask` returns a username and a password in place of these. It is called once host and settings are known to be
        right, so that no password is typed for nothing.
        """
        from oci_binpkg.transport.credentials import Credential
        from oci_binpkg.transport.probe import check_login, plain_http_on_loopback

        with self._operation() as work:
            check_host(host)
            connections = work.connections
            if ask is not None:
                username, password = ask()
            credential = Credential(username, password)
            plain = plain_http or (is_loopback(host) and plain_http_on_loopback(host))
            scheme = "http" if plain else "https"
            check_login(f"{scheme}://{host}", credential, settings=connections.transport(host, plain=plain))
            connections.keychain.store(host, credential)
            return connections.files.writable

    def logout(self, host: str) -> str:
        """Forget a login; return the file that it was in, "" if there was none."""
        with self._operation() as work:
            check_host(host)
            connections = work.connections
            if connections.keychain.find(host) is None:
                return ""
            connections.keychain.erase(host)
            return connections.files.writable

    def keys_list(self) -> list[Key]:
        """Return the keys that are trusted."""
        with self._operation() as work:
            return work.opener.keyring.keys()

    def keys_fetch(self, mirror: str) -> list[Key]:
        """Return the keys that a mirror publishes; none of them is trusted by that."""
        from oci_binpkg.cache.mirror_keys import published_keys

        with self._operation() as work:
            found = published_keys(work.opener.objects(mirror))
            if not found:
                raise NotFoundError(f"{mirror} publishes no keys", hint="ask its owner for the key file")
            return [key for name, data in found.items() for key in work.opener.keyring.inspect(data, f"the key {name}")]

    def keys_trust(self, source: StrPath, *, mirror: str = "") -> tuple[str, ...]:
        """Trust the keys of a file, or the key of a mirror with this fingerprint; return the fingerprints."""
        from oci_binpkg.cache.mirror_keys import published_keys
        from oci_binpkg.signing.keyring import read_key_file

        with self._operation() as work:
            source, keyring = os.fspath(source), work.opener.keyring
            if not mirror:
                return keyring.trust(read_key_file(source), source)
            wanted = source.upper().replace(" ", "").removeprefix("0X")
            for name, data in published_keys(work.opener.objects(mirror)).items():
                if [key.fingerprint for key in keyring.inspect(data, f"the key {name}")] == [wanted]:
                    return keyring.trust(data, source)
            raise NotFoundError(f"{mirror} publishes no key {source}", hint=Hint(Step.FETCH_KEYS, mirror=mirror))

    def keys_untrust(self, fingerprint: str) -> None:
        """Trust a key no longer."""
        with self._operation() as work:
            work.opener.keyring.untrust(fingerprint)

    def keys_publish(self, mirrors: str | Iterable[str], *, key: str | Iterable[str]) -> tuple[str, ...]:
        """Publish the public halves of some of the user's keys on mirrors; return their fingerprints.

        All keys are found before the first is published.
        """
        with self._operation() as work:
            keys = dict(work.opener.public_key(each) for each in _texts(key))
            for mirror in _texts(mirrors):
                work.opener.publish_keys(mirror, keys)
            return tuple(keys)

    def mirror_add(self, name: str, **keys: Unpack[CacheKeys]) -> str:
        """Give a cache a name in the configuration file, which is returned. `keys` are those of `[caches.NAME]`."""
        from oci_binpkg.config.editing import add_cache

        add_cache(self._config_path, name, keys, self._editing_patience())
        return self._config_path

    def mirror_set(self, name: str, **keys: Unpack[CacheKeys]) -> str:
        """Change what is configured for a name: None leaves a key as it is, "" removes it. Returns the file."""
        from oci_binpkg.config.editing import set_cache

        set_cache(self._config_path, name, keys, self._editing_patience())
        return self._config_path

    def mirror_remove(self, name: str) -> str:
        """Forget a name; the cache itself stays as it is. Returns the configuration file."""
        from oci_binpkg.config.editing import remove_cache

        remove_cache(self._config_path, name, self._editing_patience())
        return self._config_path

    def mirror_list(self) -> list[CacheSettings]:
        """Return the caches that have names, also those in Spack's configuration, in the order of their names."""
        warn = Warnings(self._observer)
        for remark in self.settings.remarks:
            warn(remark)
        return [cache for _, cache in sorted(self.settings.caches.items())]

    # What the verbs are made of

    def _images(self, work: Operation, cache: CacheLike, check_signature: bool | None) -> KeepsImages:
        location = work.opener.location(_text(cache))
        if location.reference:
            raise UsageError(f"{_text(cache)} names an image, a cache is expected", hint="name the tag after the cache")
        return work.opener.images_at(location, check_signature)

    @contextmanager
    def _operation(self) -> Iterator[Operation]:
        """Yield the parts of one call. Its threads are told to end when it ends early, whatever the reason."""
        cancel = Cancel(self._cancel)
        work = Operation(
            lambda: self.settings,
            self._observer,
            cancel,
            time=self._time,
            temporary=lambda: self._temporary,
            layer_cache=self._layer_cache_folder,
            credentials=self._credentials,
        )
        try:
            cancel.check()
            yield work
            cancel.check()
        except BaseException as error:
            was_cancelled = cancel.is_cancelled
            cancel.cancel()
            if work.observer.failure is not None:
                raise work.observer.failure from None
            if was_cancelled and isinstance(error, Exception):
                raise CancelledError from error
            raise

    @cached_property
    def _temporary(self) -> str:
        return self._closing.enter_context(TemporaryDirectory(prefix="oci-binpkg-layers-"))

    @property
    def _config_file(self) -> str:
        return "" if self._config is None or isinstance(self._config, Settings) else os.fspath(self._config)

    @property
    def _config_path(self) -> str:
        if isinstance(self._config, Settings):
            return self._config.config_file
        return self._config_file or config_path()

    def _editing_patience(self) -> Patience:
        """Return the patience with other writers of the configuration file, of which nothing else is looked at."""
        if isinstance(self._config, Settings):
            return patience(self._config.lock_timeout, self._observer)
        return patience(load_lock_timeout(file=self._config_file), self._observer)

    def _write_index(
        self,
        action: Literal["update", "rebuild"],
        cache: CacheLike,
        queries: Queries,
        view: str | Iterable[str],
        flags: AskedTrust,
    ) -> list[IndexReport]:
        from oci_binpkg.ops.index import rebuild_indices, update_indices

        with self._operation() as work:
            parsed, text = _parsed(queries), _text(cache)
            views = work.views(text, view, writing=True)
            if parsed and not views:
                raise UsageError("a QUERY chooses what a view holds, and no view is named", hint=Hint(Step.NAME_VIEW))
            work.opener.index_is_settled(text, flags)
            change = update_indices if action == "update" else rebuild_indices
            if not views:
                target = work.opener.writable(text, flags)
                return change(target, {"": target}, parsed, work.observer)
            whole = work.opener.cache(text, flags, writing=True, view="")
            names = _view_names(text, whole, views)
            indices = {name: work.opener.writable(text, flags, view=name) for name in names}
            return change(whole, indices, parsed, work.observer)


def _without_signatures(opener: CacheOpener, text: str, whole: ReadableCache) -> ReadableCache:
    """Return a cache whose unsigned packages are no damage; `whole` where a rule takes signed ones only."""
    try:
        return opener.cache(text, AskedTrust(check=False), view="")
    except UsageError:
        return whole


def _view_names(text: str, whole: ReadableCache, views: Iterable[str]) -> list[str]:
    """Return the names of views, each once. Raises `UsageError` for a cache that has none."""
    names = [check_view(view) for view in dict.fromkeys(views)]
    if names and not whole.has_views:
        raise UsageError(f"{text} has no views: only mirrors of layout 3 do", hint=Hint(Step.NO_VIEW))
    return names


def _text(cache: CacheLike) -> str:
    if isinstance(cache, str):
        return cache
    repository = cache.repository if isinstance(cache, Reference) else cache
    return f"{'oci+http' if repository.scheme == 'http' else 'oci'}://{cache}"


def _texts(caches: CacheLike | Iterable[CacheLike]) -> list[str]:
    return [_text(each) for each in ([caches] if isinstance(caches, str | Repository | Reference) else caches)]


def _patterns(allow_stale: bool | str | Sequence[str]) -> bool | Sequence[str]:
    return (allow_stale,) if isinstance(allow_stale, str) else allow_stale


def _parsed(queries: Queries) -> list[Query]:
    """Return the queries. Raises `QueryError`."""
    several = [queries] if isinstance(queries, str | Query) else queries
    return [each if isinstance(each, Query) else Query.parse(each) for each in several]


def _only(value: Only | str | None) -> Only | None:
    from oci_binpkg.ops.selection import Only

    if not value:
        return None
    try:
        return Only(value)
    except ValueError:
        raise UsageError(f"only={value!r}: package or dependencies is expected") from None


def _words(value: str | Sequence[str] | None, what: str) -> tuple[str, ...] | None:
    if value is None or value == "":
        return None
    try:
        return tuple(shlex.split(value)) if isinstance(value, str) else tuple(value)
    except ValueError as error:
        raise UsageError(f"{what} {value!r}: {error}") from None


def _pairs(values: Mapping[str, str] | Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
    return values.items() if isinstance(values, Mapping) else values


def _there(caches: Iterable[ReadableCache], wanted: Sequence[Spec], observer: Observer) -> frozenset[str]:
    """Return the hashes of those of the packages that one of the caches has."""
    from oci_binpkg.ops.contents import hashes_there

    return frozenset[str]().union(*(hashes_there(cache, wanted, observer) for cache in caches))


def _checked(runtime: Runtime) -> Runtime:
    """Return what an image is to say. Raises `UsageError` for what JSON cannot hold."""
    texts = {
        "entrypoint": runtime.entrypoint or (),
        "cmd": runtime.cmd or (),
        "env": [text for pair in runtime.env for text in pair],
        "label": [text for pair in runtime.labels.items() for text in pair],
        "annotation": [text for pair in runtime.annotations.items() for text in pair],
        "user": (runtime.user,),
        "workdir": (runtime.workdir,),
    }
    for name, given in texts.items():
        if any(is_no_text(text) for text in given):
            raise UsageError(f"{name}: a text that is not UTF-8", hint="image configurations are JSON: write UTF-8")
    return runtime
