"""Puts the parts together for a command: the only place that knows them all.

A part is imported when it is made. No command needs all of them, and what speaks to registries alone takes longer to
import than a command on an image layout takes to run.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, BinaryIO, Final

from oci_binpkg.cache.index_signature import IndexTrust
from oci_binpkg.cache.open import FORMS, Location, Opener, Trust, parse_base, parse_location, place_name
from oci_binpkg.cache.statement import Signed, Site
from oci_binpkg.cli.mirrors import ANYWHERE, CacheEndpoint, CacheSettings
from oci_binpkg.cli.settings import Settings
from oci_binpkg.errors import EngineError, UsageError
from oci_binpkg.events import Observer, Warnings
from oci_binpkg.model.reference import check_host, is_loopback

if TYPE_CHECKING:
    from oci_binpkg.archive.layercache import LayerCache
    from oci_binpkg.cache.gpg import Gpg
    from oci_binpkg.cache.keyring import Keyring, Trusted
    from oci_binpkg.cache.oci import OciCache
    from oci_binpkg.cache.protocol import BinaryCache
    from oci_binpkg.cli.connecting import Connections
    from oci_binpkg.installs.protocol import Installs
    from oci_binpkg.ops.bases import BaseImages
    from oci_binpkg.ops.engines import Loaded
    from oci_binpkg.ops.packing import LayerPacker
    from oci_binpkg.store.engine import Engine, Kind
    from oci_binpkg.transport.objects import Objects

DEFAULT_COMPRESSION: Final = "gzip"
_KINDS: Final[tuple[Kind, ...]] = ("docker", "podman")


@dataclass(frozen=True, slots=True)
class TrustFlags:
    """What the flags say of signatures: the key to sign with, or that nothing is signed, and whether they are checked.

    `check` None is what is usual for the kind of cache: mirrors are signed, registries and layouts are not. With
    `index` a signed index is asked for. `declined`: a flag, not the configuration, says that nothing is checked.
    """

    check: bool | None = None
    key: str = ""
    unsigned: bool = False
    index: bool = False
    declined: bool = False


@dataclass(frozen=True, slots=True)
class ConfiguredLocation(Location):
    """Where a cache with a name is, for reading or for writing."""

    configured: CacheSettings = field(default_factory=lambda: CacheSettings("", ANYWHERE, ANYWHERE))
    endpoint: CacheEndpoint = ANYWHERE


class Wiring:
    """The parts of one run of the command line, made when they are needed."""

    def __init__(self, settings: Settings, observer: Observer) -> None:
        self._settings = settings
        self.observer = observer
        self._warn = Warnings(observer)

    def location(self, text: str, *, writing: bool = False) -> Location:
        """Return where a CACHE or CACHE:TAG is; a configured name stands for its address to read or to write."""
        name, colon, tag = text.partition(":")
        named = not tag.startswith("//") and name != "oci-layout"
        configured = self._settings.caches.get(name) if named else None
        if named:
            for remark in self._settings.remarks:
                self._warn(remark)
        if configured is None:
            if named and re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
                known = ", ".join(sorted(self._settings.caches)) or "none"
                raise UsageError(f"no cache named {name!r}", hint=f"configured names: {known}; or write {FORMS}")
            return parse_location(text)
        endpoint = configured.endpoint(writing=writing)
        if endpoint.access.unset:
            self._warn(f"{configured.unset_text(endpoint)}; it is read without a login")
        try:
            at = parse_location(endpoint.url + colon + tag)
        except UsageError as error:
            raise UsageError(f"{configured.origin_file}: {name}: {error.message}", hint=error.hint) from None
        return ConfiguredLocation(
            at.text, at.repository, at.path, at.reference, at.url, endpoint.view, configured, endpoint
        )

    def cache(
        self, text: str, flags: TrustFlags | None = None, *, writing: bool = False, view: str | None = None
    ) -> BinaryCache:
        """Open a cache of any kind; `view` is the part whose index is meant ("": all), None the configured one."""
        location = self._whole(text, writing=writing)
        location = location if view is None else replace(location, view=view)
        trust = self._trust(_agreed(flags or TrustFlags(), location, writing=writing), self._site(location))
        return self._opener(location).cache(location, trust, writing=writing)

    def target(self, text: str, flags: TrustFlags) -> BinaryCache:
        """Open a cache to write to. Raises `UsageError` if it is a signed one and nothing is said of signing."""
        cache = self.cache(text, flags, writing=True)
        self._signing_is_settled(text, flags, usual=_is_mirror(cache, self.location(text, writing=True)))
        return cache

    def images(self, text: str, flags: TrustFlags | None = None) -> OciCache:
        """Open a cache to write images to; with `flags` also packages, of which the same is asked as by `target`."""
        location = self._whole(text, writing=True)
        trust = self._trust(_agreed(flags or TrustFlags(), location, writing=True), self._site(location))
        cache = self._opener(location).images(location, trust)
        if flags is not None:
            self._signing_is_settled(text, flags, usual=False)
        return cache

    def index_is_settled(self, text: str, flags: TrustFlags) -> None:
        """Raise `UsageError` if an index that has to be signed is about to be written without a key."""
        if not flags.key and _agreed(flags, self.location(text, writing=True), writing=True).index:
            raise UsageError(f"the index of {text} has to be signed", hint="add --key KEY to sign it")

    def _signing_is_settled(self, text: str, flags: TrustFlags, *, usual: bool) -> None:
        location = self.location(text, writing=True)
        flags = _agreed(flags, location, writing=True)
        if (usual or _signed(location)) and not flags.key and not flags.unsigned:
            raise UsageError(f"{text} holds packages that are signed", hint="add --key KEY to sign them, or --unsigned")

    def images_at(self, location: Location) -> OciCache:
        """Open the cache at a location, which must be one that keeps images."""
        return self._opener(location).images(location)

    def objects(self, text: str, *, writing: bool = False) -> Objects:
        """Open the files of a mirror. Raises `UsageError` for another kind of cache."""
        location = self._whole(text, writing=writing)
        if not location.url:
            raise UsageError(f"{text} is no mirror: only mirrors publish keys", hint="name one by its URL")
        return self._opener(location).objects(location.url)

    @cached_property
    def keyring(self) -> Keyring:
        """The keys that are trusted: our own, not the user's."""
        from oci_binpkg.cache.keyring import Keyring

        return Keyring(self._settings.keyring)

    def _whole(self, text: str, *, writing: bool) -> Location:
        location = self.location(text, writing=writing)
        if location.reference:
            raise UsageError(
                f"{text} names an image, a cache is expected", hint="leave out what follows the last colon"
            )
        return location

    def _site(self, location: Location) -> Site:
        """Return how a cache is called in signatures: one with a name by the address that it is read from."""
        origins: tuple[str, ...] = ()
        addresses = [location]
        if isinstance(location, ConfiguredLocation):
            configured = location.configured
            origins = configured.origins
            addresses = [parse_location(url) for url in (configured.fetch_url, configured.push_url) if url]
        own = [name for address in addresses if (name := place_name(address))]
        return Site(own[0] if own else "", frozenset((*own, *origins)), bool(origins), location.text, self._warn)

    def _trust(self, flags: TrustFlags, site: Site) -> Trust:
        keyring = _WhenAsked(self)
        check = flags.check is not False and not flags.unsigned
        verify = self._verified if check else _believed
        detached = self._verified_beside if flags.check else None
        # who signs an index vouches for what was in it, and so looks at its signature whatever else is checked
        looks = bool(flags.key) and not flags.declined
        keys: tuple[Trusted, ...] = (keyring, self.keyring.own(flags.key)) if flags.key else (keyring,)
        index = IndexTrust(keys, check or looks, flags.index, self._warn)
        images = replace(index, check=bool(flags.check) or looks)
        if not flags.key:
            return Trust(verify, None, detached, None, index, images, site)
        from oci_binpkg.cache.signing import sign_clear, sign_detached

        sign = partial(sign_clear, key=flags.key, keyring=self.keyring)
        sign_beside = partial(sign_detached, key=flags.key, keyring=self.keyring)
        return Trust(verify, sign, detached, sign_beside, index, images, site)

    def _verified(self, data: bytes, what: str) -> tuple[bytes, Signed | None]:
        from oci_binpkg.cache.signing import read_clearsigned

        return read_clearsigned(data, what, self.keyring)

    def _verified_beside(
        self, data: bytes, signatures: Iterable[bytes], what: str, *, accept: Callable[[Signed], object]
    ) -> Signed:
        from oci_binpkg.cache.signing import verify_any

        return verify_any(data, signatures, what, self.keyring, accept=accept)

    def packer(self, installs: Installs, compression: str) -> LayerPacker:
        """Return what makes layers of the packages of a tree."""
        from oci_binpkg.archive.codec import Codec
        from oci_binpkg.ops.packing import LayerPacker

        settings = self._settings
        return LayerPacker(
            installs,
            self.layer_cache,
            Codec.parse(compression or settings.compression or DEFAULT_COMPRESSION),
            threads=os.cpu_count() or 1,
            observer=self.observer,
        )

    @cached_property
    def layer_cache(self) -> LayerCache:
        """The layers kept on disk."""
        from oci_binpkg.archive.layercache import LayerCache

        return LayerCache(self._settings.layer_cache, self._settings.layer_cache_size, clock=time.time)

    def jobs(self, wanted: int) -> int:
        """Return how many packages are packed at a time: as asked, as configured, else one for each core."""
        return wanted or self._settings.jobs or os.cpu_count() or 1

    def base_images(self, text: str) -> BaseImages:
        """Return the base images under a reference."""
        from oci_binpkg.ops.bases import BaseImages

        location = parse_base(text)
        return BaseImages(self._opener(location).store(location), location.reference)

    def load(self, image: str, engine: str) -> Loaded:
        """Load an image into an engine."""
        from oci_binpkg.ops.engines import load_image

        location = self._image(image)
        return load_image(self._engine(engine), self._opener(location).store(location), location.reference)

    def run(
        self,
        image: str,
        command: Sequence[str],
        *,
        engine: str,
        network: str,
        limits: Mapping[str, int],
        stdout: BinaryIO,
        stderr: BinaryIO,
    ) -> int:
        """Run a command in an image; return its exit code."""
        from oci_binpkg.ops.engines import run_image

        location = self._image(image)
        store = self._opener(location).store(location)
        return run_image(
            self._engine(engine),
            store,
            location.reference,
            command,
            stdout=stdout,
            stderr=stderr,
            network=network,
            limits=limits,
        )

    def login(self, host: str, username: str, password: str, *, plain_http: bool) -> str:
        """Check a login and keep it; return the file it is kept in."""
        from oci_binpkg.transport.credentials import Credential
        from oci_binpkg.transport.probe import check_login, plain_http_on_loopback

        credential = Credential(username, password)
        plain = plain_http or (is_loopback(host) and plain_http_on_loopback(host))
        scheme = "http" if plain else "https"
        check_login(
            f"{scheme}://{check_host(host)}", credential, settings=self._connections.transport(host, plain=plain)
        )
        self._connections.keychain.store(host, credential)
        return self._connections.files.writable

    def logout(self, host: str) -> str:
        """Forget a login; return the file it was in, "" if there was none."""
        if self._connections.keychain.find(host) is None:
            return ""
        self._connections.keychain.erase(host)
        return self._connections.files.writable

    def _image(self, text: str) -> Location:
        location = self.location(text)
        if not location.reference:
            raise UsageError(f"{text} names no image: a tag is missing", hint=f"`oci-binpkg inspect {text}` lists them")
        return location

    def _engine(self, wanted: str) -> Engine:
        from oci_binpkg.store.engine import connect

        if wanted and wanted not in _KINDS:
            raise UsageError(f"--engine {wanted!r}: docker or podman is expected")
        failures = []
        for kind in _KINDS:
            if wanted in ("", kind):
                try:
                    return connect(kind, self._settings.engine_sockets[kind])
                except EngineError as error:
                    failures.append(error)
        if len(failures) == 1:
            raise failures[0]
        raise EngineError("; ".join(error.message for error in failures), hint=failures[-1].hint)

    @cached_property
    def _connections(self) -> Connections:
        from oci_binpkg.cli.connecting import Connections

        return Connections(self._settings, self.observer)

    def _opener(self, location: Location) -> Opener:
        endpoint = location.endpoint if isinstance(location, ConfiguredLocation) else ANYWHERE
        return Opener(
            lambda repository: self._connections.registry(repository, endpoint),
            _speaks_plain_http,
            lambda url: self._connections.objects(url, endpoint),
            _pause,
            self.observer,
        )


class _WhenAsked:
    """The trusted keys, opened when a signature is looked at: most commands look at none."""

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring

    def reader(self) -> Gpg:
        """Return gpg on our keyring."""
        return self._wiring.keyring.reader()

    def fingerprints(self) -> frozenset[str]:
        """Return the fingerprints in our keyring."""
        return self._wiring.keyring.fingerprints()

    def key_ids(self) -> frozenset[str]:
        """Return how signatures may name the keys in our keyring."""
        return self._wiring.keyring.key_ids()


def _believed(data: bytes, what: str) -> tuple[bytes, None]:
    from oci_binpkg.cache.clearsign import stripped

    return stripped(data, what)


def _is_mirror(cache: BinaryCache, location: Location) -> bool:
    """Tell whether packages are written one by one to a mirror, where they are usually signed."""
    if not location.url:
        return False
    from oci_binpkg.cache.mirror import MirrorCache

    return isinstance(cache, MirrorCache)


def _signed(location: Location) -> bool | None:
    return location.configured.signed if isinstance(location, ConfiguredLocation) else None


def _agreed(flags: TrustFlags, location: Location, *, writing: bool) -> TrustFlags:
    """Let the configuration say whether a cache is signed, where the flags do not."""
    signed = _signed(location)
    declined = flags.check is False
    wanted = flags.index or (isinstance(location, ConfiguredLocation) and location.configured.signed_index)
    flags = replace(flags, index=wanted and not declined, declined=declined)
    if signed is None or flags.check is not None:
        return flags
    if signed:
        return flags if writing else replace(flags, check=True)
    return replace(flags, check=False, unsigned=flags.unsigned or not flags.key)


def _speaks_plain_http(host: str) -> bool:
    from oci_binpkg.transport.probe import plain_http_on_loopback

    return plain_http_on_loopback(host)


def _pause(_turn: int) -> None:
    """Wait a random moment, so that writers of one index get out of step."""
    time.sleep(random.uniform(0.2, 2.0))  # noqa: S311 - spreads writers
