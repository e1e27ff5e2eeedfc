"""Puts the parts together for a command: the only place that knows them all.

A part is imported when it is made. No command needs all of them, and what speaks to registries alone takes longer to
import than a command on an image layout takes to run.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, BinaryIO, Final

from oci_binpkg.cache.open import FORMS, Location, Opener, Trust, parse_base, parse_location
from oci_binpkg.config.caches import ANYWHERE, CacheEndpoint, CacheSettings
from oci_binpkg.config.settings import Settings, patience
from oci_binpkg.config.trust_policy import place_name
from oci_binpkg.disk import foreign_writers
from oci_binpkg.errors import EngineError, UsageError
from oci_binpkg.events import Observer, Warnings
from oci_binpkg.file_lock import Patience
from oci_binpkg.model.reference import check_host, is_loopback
from oci_binpkg.signing.index_trust import IndexTrust
from oci_binpkg.signing.judge import CountingKeys, Judge, believed, check_counts
from oci_binpkg.signing.statement import Site

if TYPE_CHECKING:
    from oci_binpkg.archive.layer_cache import LayerCache
    from oci_binpkg.cache.oci import OciCache
    from oci_binpkg.cache.protocol import BinaryCache
    from oci_binpkg.config.trust_policy import Rule
    from oci_binpkg.connections import Connections
    from oci_binpkg.installs.protocol import Installs
    from oci_binpkg.installs.spack import SpackInstalls
    from oci_binpkg.model.content import Digest
    from oci_binpkg.objects.protocol import Objects
    from oci_binpkg.ops.base_images import BaseImages
    from oci_binpkg.ops.engines import Engine, Kind, Loaded
    from oci_binpkg.ops.layer_packer import LayerPacker
    from oci_binpkg.signing.keyring import Keyring, Trusted
    from oci_binpkg.signing.statement import Signer
    from oci_binpkg.store.protocol import Store

DEFAULT_COMPRESSION: Final = "gzip"
_KINDS: Final[tuple[Kind, ...]] = ("docker", "podman")


@dataclass(frozen=True, slots=True)
class TrustFlags:
    """What the flags say of signatures: the key to sign with, or that nothing is signed, and whether they are checked.

    `check` None is what the configuration says of the cache, else what is usual for its kind. With `index` a signed
    index is asked for.
    """

    check: bool | None = None
    key: str = ""
    unsigned: bool = False
    index: bool = False


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
        self._installs: SpackInstalls | None = None

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
        trust = self._trust(location, flags or TrustFlags(), writing=writing)
        return self._opener(location).cache(location, trust, writing=writing)

    def searched(self, text: str) -> BinaryCache:
        """Open a cache whose index is believed without its packages being looked at.

        So the index itself has to be signed where somebody said that the cache has to be.
        """
        return self.cache(text, TrustFlags(index=self.rule(text).require and self.rule(text).explicit))

    def target(self, text: str, flags: TrustFlags) -> BinaryCache:
        """Open a cache to write to. Raises `UsageError` if it is a signed one and nothing is said of signing."""
        cache = self.cache(text, flags, writing=True)
        self._signing_is_settled(text, flags, usual=_is_mirror(cache, self.location(text, writing=True)))
        return cache

    def images(self, text: str, flags: TrustFlags) -> OciCache:
        """Open a cache to write images to, and packages. Raises as `target`."""
        location = self._whole(text, writing=True)
        cache = self._opener(location).images(location, self._trust(location, flags, writing=True))
        self._signing_is_settled(text, flags, usual=False)
        return cache

    def rule(self, text: str, *, writing: bool = False) -> Rule:
        """Return what the configuration asks of a cache."""
        return self._rule(self.location(text, writing=writing))

    def index_is_settled(self, text: str, flags: TrustFlags) -> None:
        """Raise `UsageError` if an index that has to be signed is about to be written without a key."""
        location = self.location(text, writing=True)
        if not flags.key and flags.check is not False and (flags.index or _signed_index(location)):
            raise UsageError(f"the index of {text} has to be signed", hint="add --key KEY to sign it")

    def _signing_is_settled(self, text: str, flags: TrustFlags, *, usual: bool) -> None:
        rule = self._rule(self.location(text, writing=True))
        if rule.require and (usual or rule.explicit) and not flags.key and not flags.unsigned:
            raise UsageError(f"{text} holds packages that are signed", hint="add --key KEY to sign them, or --unsigned")

    def images_at(self, location: Location, check: bool | None = None) -> OciCache:
        """Open the cache at a location to read images, which must be one that keeps them."""
        return self._opener(location).images(location, self._trust(location, TrustFlags(check)))

    def objects(self, text: str, *, writing: bool = False) -> Objects:
        """Open the files of a mirror. Raises `UsageError` for another kind of cache."""
        location = self._whole(text, writing=writing)
        if not location.url:
            raise UsageError(f"{text} is no mirror: only mirrors publish keys", hint="name one by its URL")
        return self._opener(location).objects(location.url)

    @cached_property
    def keyring(self) -> Keyring:
        """The keys that are trusted: our own, not the user's."""
        from oci_binpkg.signing.keyring import Keyring

        return Keyring(self._settings.keyring)

    def installing_into(self, installs: SpackInstalls) -> None:
        """Let what this tree remembers count: a signature that was verified for it stays good when its key expires."""
        self._installs = installs

    def _was_verified(self, manifest: Digest, signer: str) -> bool:
        installs = self._installs
        return installs is not None and installs.verifications.vouch(installs.records(), str(manifest), signer)

    def signers(self) -> frozenset[str]:
        """Return the fingerprints of the keys that are trusted now, for whatever cache."""
        return self.keyring.fingerprints()

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
        copied = [place_name(parse_location(origin)) for origin in origins]
        return Site(own[0] if own else "", frozenset((*own, *copied)), bool(origins), location.text, self._warn)

    def _rule(self, location: Location) -> Rule:
        settings = self._settings
        name = location.configured.name if isinstance(location, ConfiguredLocation) else ""
        return settings.trust.rule(location, name, settings.caches)

    def _trust(self, location: Location, flags: TrustFlags, *, writing: bool = False) -> Trust:
        """Return what is asked of signatures at a location: what the configuration says, and what the flags add.

        Raises `UsageError` for a flag that takes back what `[trust]` asks for.
        """
        rule = self._rule(location)
        declined = flags.check is False or flags.unsigned
        if declined and rule.firm:
            raise _not_taken_back(location, flags, rule)
        # who signs vouches for all that is counted in with it, and so looks at its signatures whatever is usual there
        signs = writing and bool(flags.key)
        required = not declined and (rule.require or bool(flags.check) or signs)
        reserved = self._settings.trust.reserved
        keys: tuple[Trusted, ...] = (CountingKeys(lambda: self.keyring, rule.keys, reserved),)
        if flags.key:
            own = self.keyring.own(flags.key)
            if rule.keys is not None or reserved:
                check_counts(own, flags.key, rule.keys, reserved, location.text)
            keys += (own,)
        wanted = (flags.index or _signed_index(location)) and flags.check is not False
        prove = required and (rule.explicit or bool(flags.check) or signs)
        index = IndexTrust(keys, required or (signs and flags.check is not False), wanted, self._warn, prove)
        judge = Judge(keys, self._was_verified)
        return Trust(
            required,
            judge.opened if required else believed,
            judge.judged,
            *self._signers(flags.key),
            mirror_index=index,
            image_index=index,
            site=self._site(location),
            ours=lambda signed: not flags.key or signed.signer in self.keyring.own(flags.key).fingerprints(),
        )

    def _signers(self, key: str) -> tuple[Signer | None, Signer | None]:
        """Return what signs documents, and what makes signatures beside them; None and None without a key."""
        if not key:
            return None, None
        from oci_binpkg.signing.sign import sign_clear, sign_detached

        return partial(sign_clear, key=key, keyring=self.keyring), partial(sign_detached, key=key, keyring=self.keyring)

    def packer(self, installs: Installs, compression: str) -> LayerPacker:
        """Return what makes layers of the packages of a tree."""
        from oci_binpkg.archive.codec import Codec
        from oci_binpkg.ops.layer_packer import LayerPacker

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
        """The layers kept on disk, in a folder that nobody else may write, or that is shared knowingly."""
        from oci_binpkg.archive.layer_cache import LayerCache

        settings = self._settings
        root = settings.layer_cache
        foreign = foreign_writers(root, os.getuid())
        if foreign and not settings.shared:
            self._warn(
                f"the layer cache {root} is not used: it {foreign}; "
                "make it yours alone (chown, chmod go-w), name another (layer_cache.path), or set shared = true"
            )
            root = self._instead_of_cache.name
        return LayerCache(
            root,
            settings.layer_cache_size,
            clock=time.time,
            patience=self.patience,
            shared=bool(foreign) and settings.shared,
        )

    @cached_property
    def _instead_of_cache(self) -> TemporaryDirectory[str]:
        return TemporaryDirectory(prefix="oci-binpkg-layers-")

    def close(self) -> None:
        """Remove what was made for this run alone."""
        if "_instead_of_cache" in self.__dict__:
            self._instead_of_cache.cleanup()

    @cached_property
    def patience(self) -> Patience:
        """How long to wait for locks; the user is told what for."""
        return patience(self._settings.lock_timeout, self.observer)

    def jobs(self, wanted: int) -> int:
        """Return how many packages are packed at a time: as asked, as configured, else one for each core."""
        return wanted or self._settings.jobs or os.cpu_count() or 1

    def base_images(self, text: str) -> BaseImages:
        """Return the base images under a reference."""
        from oci_binpkg.ops.base_images import BaseImages

        location = parse_base(text)
        trust = self._trust(location, TrustFlags())
        return BaseImages(self._opener(location).store(location, trust), location.reference)

    def load(self, image: str, engine: str, check: bool | None = None) -> Loaded:
        """Load an image into an engine."""
        from oci_binpkg.ops.engines import load_image

        store, reference = self._image(image, check)
        return load_image(self._engine(engine), store, reference)

    def run(
        self,
        image: str,
        command: Sequence[str],
        *,
        engine: str,
        check: bool | None = None,
        network: str,
        limits: Mapping[str, int],
        stdout: BinaryIO,
        stderr: BinaryIO,
    ) -> int:
        """Run a command in an image; return its exit code."""
        from oci_binpkg.ops.engines import run_image

        store, reference = self._image(image, check)
        return run_image(
            self._engine(engine),
            store,
            reference,
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

    def _image(self, text: str, check: bool | None) -> tuple[Store, str]:
        """Return the store that an image is in, as it may be read there, and the image's tag or digest."""
        location = self.location(text)
        if not location.reference:
            raise UsageError(f"{text} names no image: a tag is missing", hint=f"`oci-binpkg inspect {text}` lists them")
        return self._opener(location).store(location, self._trust(location, TrustFlags(check))), location.reference

    def _engine(self, wanted: str) -> Engine:
        from oci_binpkg.ops.engines import connect

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
        from oci_binpkg.connections import Connections

        return Connections(self._settings, self.observer)

    def _opener(self, location: Location) -> Opener:
        endpoint = location.endpoint if isinstance(location, ConfiguredLocation) else ANYWHERE
        return Opener(
            lambda repository: self._connections.registry(repository, endpoint),
            _speaks_plain_http,
            lambda url: self._connections.objects(url, endpoint),
            _pause,
            self.observer,
            self.patience,
        )


def _is_mirror(cache: BinaryCache, location: Location) -> bool:
    """Tell whether packages are written one by one to a mirror, where they are usually signed."""
    if not location.url:
        return False
    from oci_binpkg.cache.mirror import MirrorCache

    return isinstance(cache, MirrorCache)


def _signed_index(location: Location) -> bool:
    return isinstance(location, ConfiguredLocation) and location.configured.signed_index


def _not_taken_back(location: Location, flags: TrustFlags, rule: Rule) -> UsageError:
    flag = "--unsigned" if flags.unsigned else "--no-check-signature"
    return UsageError(
        f"{flag}: {location.text} has to be signed, says {rule.where}",
        hint='leave the flag out, or give that cache a scope of its own there with rule = "accept-unsigned"',
    )


def _speaks_plain_http(host: str) -> bool:
    from oci_binpkg.transport.probe import plain_http_on_loopback

    return plain_http_on_loopback(host)


def _pause(_turn: int) -> None:
    """Wait a random moment, so that writers of one index get out of step."""
    time.sleep(random.uniform(0.2, 2.0))  # noqa: S311 - spreads writers
