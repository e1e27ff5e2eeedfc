"""From the text of a CACHE to a cache that is open: names, connections, and the signatures that are required there.

A part is imported when it is made. No verb needs all of them, and what speaks to registries alone takes longer to
import than a look into an image layout takes to run.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from oci_binpkg.backoff import configured
from oci_binpkg.cache.open import FORMS, Location, Opener, Trust, parse_base, parse_location
from oci_binpkg.cancel import Cancel
from oci_binpkg.config.caches import ANYWHERE, CacheEndpoint, CacheSettings, shown
from oci_binpkg.config.settings import Settings, patience
from oci_binpkg.config.trust_policy import place_name
from oci_binpkg.errors import BinpkgError, Hint, KeyringError, Step, UsageError
from oci_binpkg.events import Observer, Warnings
from oci_binpkg.file_lock import Patience
from oci_binpkg.model.reference import check_image_tag
from oci_binpkg.signing.index_trust import IndexTrust
from oci_binpkg.signing.judge import BELIEVING, CountingKeys, Judge, check_counts
from oci_binpkg.signing.statement import Site
from oci_binpkg.times import SYSTEM_TIME, Time

if TYPE_CHECKING:
    from oci_binpkg.cache.protocol import KeepsImages, ReadableCache, WritableCache
    from oci_binpkg.config.trust_policy import Rule
    from oci_binpkg.connections import Connections
    from oci_binpkg.installs.transaction import ChangeableTree
    from oci_binpkg.model.content import Digest
    from oci_binpkg.objects.protocol import Objects
    from oci_binpkg.signing.keyring import Keyring, Trusted
    from oci_binpkg.signing.statement import Signer
    from oci_binpkg.store.images import BaseImages
    from oci_binpkg.store.protocol import Store


@dataclass(frozen=True, slots=True)
class AskedTrust:
    """A caller's wishes about signatures: the key to sign with, or none, and whether signatures are checked.

    `check` None stands for the configuration of the cache, else the default of its kind. With `index` a signed index is
    asked for.
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


class CacheOpener:
    """Opens caches by name or address, each with the signatures that the configuration and the caller require there."""

    def __init__(
        self,
        settings: Settings,
        observer: Observer,
        connections: Callable[[], Connections] | None = None,
        cancel: Cancel | None = None,
        time: Time = SYSTEM_TIME,
    ) -> None:
        self._settings = settings
        self.observer = observer
        self._warn = Warnings(observer)
        self._installs: ChangeableTree | None = None
        self._connect = connections
        self._cancel = cancel or Cancel()
        self._time = time
        self._tried: set[str] = set()

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
            raise error.within(f"{configured.origin_file}: {name}") from error
        return ConfiguredLocation(
            at.text, at.repository, at.path, at.reference, at.url, endpoint.view, configured, endpoint
        )

    def shown(self, text: str) -> str:
        """Return the address that a CACHE is read from, without what must not be shown."""
        location = self.location(text)
        return shown(location.endpoint.url if isinstance(location, ConfiguredLocation) else location.text)

    def image_location(self, text: str) -> Location:
        """Return where an image is. Raises `UsageError` without a tag or digest."""
        location = self.location(text)
        if not location.reference:
            raise UsageError(f"{text} names no image: a tag is missing", hint=Hint(Step.LIST_TAGS, cache=text))
        return location

    def identity(self, cache: CacheSettings) -> str:
        """Return what identifies a cache in the catalog: its address, the part of it, and whether it is signed.

        What an unsigned index listed is no longer reported once the index has to be signed.
        """
        words = [cache.fetch.url, cache.fetch.view]
        try:
            rule = self._settings.trust.rule(parse_location(cache.fetch.url), cache.name, self._settings.caches)
        except UsageError:
            return " ".join(words).strip()  # it cannot be read either, which is reported then
        return " ".join([*words, "signed" if rule.require and rule.explicit else ""]).strip()

    def cache(
        self, text: str, flags: AskedTrust | None = None, *, writing: bool = False, view: str | None = None
    ) -> ReadableCache:
        """Open a cache to read it; with `writing` where it is written to.

        `view` is the part whose index is meant ("": all), None the configured one.
        """
        location, trust = self._place(text, flags, view, writing=writing)
        return self._opener(location).cache(location, trust, writing=writing)

    def writable(self, text: str, flags: AskedTrust | None = None, *, view: str | None = None) -> WritableCache:
        """Open a cache to write to it, `view` as in `cache`. Raises `UnsupportedError` for one that is only read."""
        location, trust = self._place(text, flags, view, writing=True)
        return self._opener(location).writable(location, trust)

    def _place(self, text: str, flags: AskedTrust | None, view: str | None, *, writing: bool) -> tuple[Location, Trust]:
        location = self._whole(text, writing=writing)
        location = location if view is None else replace(location, view=view)
        return location, self._trust(location, flags or AskedTrust(), writing=writing)

    def searched(self, text: str) -> ReadableCache:
        """Open a cache whose index is believed without a look at its packages.

        So the index itself has to be signed where signatures are required.
        """
        return self.cache(text, AskedTrust(index=self.rule(text).require and self.rule(text).explicit))

    def target(self, text: str, flags: AskedTrust) -> WritableCache:
        """Open a cache to write to. Raises `UsageError` if it is signed and no key is given, `KeyringError`."""
        # packages are usually signed on mirrors
        self._try_out(flags.key)
        cache = self.writable(text, flags)
        self._signing_is_settled(text, flags, usual=cache.images is None)
        return cache

    def pushed_to(
        self, text: str, flags: AskedTrust, *, tag: str = "", index: bool = False
    ) -> tuple[WritableCache, AskedTrust]:
        """Open a cache to push to, and return also the flags with the key that signs.

        With the tag of an image it keeps images, too; with `index` its index is written. Raises as `target`.
        """
        if tag:
            check_image_tag(tag)
        flags = self.signing(text, flags)
        if index:
            self.index_is_settled(text, flags)
        return (self.images(text, flags) if tag else self.target(text, flags)), flags

    def signing(self, text: str, flags: AskedTrust) -> AskedTrust:
        """Return `flags` with the key that is taken where none is named and packages have to be signed.

        That is the configured one, or the only one there is. A key is tried before anything else is done. Raises
        `KeyringError`.
        """
        location = self.location(text, writing=True)
        rule = self._rule(location)
        if not flags.key and not flags.unsigned and rule.require and (location.url or rule.explicit):
            flags = replace(flags, key=self._usual_key)
        self._try_out(flags.key)
        return flags

    def _try_out(self, key: str) -> None:
        if key and key not in self._tried:
            from oci_binpkg.signing.sign import KeySigner

            KeySigner(key, self.keyring).try_out()
            self._tried.add(key)

    def public_key(self, key: str) -> tuple[str, bytes]:
        """Return fingerprint and public half of one of the user's keys. Raises `KeyringError` for none or several."""
        data = self.keyring.export_signer(key)
        (found,) = self.keyring.inspect(data, f"the key {key}")
        return found.fingerprint, data

    def publish_keys(self, mirror: str, keys: Mapping[str, bytes]) -> bool:
        """Publish keys, by fingerprint, on a mirror. Returns whether they were not there yet."""
        from oci_binpkg.cache.mirror_keys import publish_keys

        return publish_keys(self.objects(mirror, writing=True), keys)

    def publish_own_key(self, mirror: str, flags: AskedTrust) -> None:
        """Publish the key that signed. If that fails, the packages are there all the same: a warning."""
        if not flags.key or not self.location(mirror, writing=True).url:
            return
        try:
            self.publish_keys(mirror, dict([self.public_key(flags.key)]))
        except BinpkgError as error:
            self._warn(f"the public key is not published on {mirror}: {error.message}")

    @cached_property
    def _usual_key(self) -> str:
        if self._settings.signing_key:
            return self._settings.signing_key
        try:
            found = self.keyring.only_secret_key()
        except KeyringError:
            return ""
        if found:
            self._warn(f"what is written is signed with {found}, the only secret key here")
        return found

    def images(self, text: str, flags: AskedTrust) -> KeepsImages:
        """Open a cache to write images to, and packages. Raises as `target`."""
        location = self._whole(text, writing=True)
        self._try_out(flags.key)
        cache = self._opener(location).images(location, self._trust(location, flags, writing=True))
        self._signing_is_settled(text, flags, usual=False)
        return cache

    def rule(self, text: str, *, writing: bool = False) -> Rule:
        """Return what the configuration asks of a cache."""
        return self._rule(self.location(text, writing=writing))

    def index_is_settled(self, text: str, flags: AskedTrust) -> None:
        """Raise `UsageError` if an index that has to be signed is about to be written without a key."""
        location = self.location(text, writing=True)
        if not flags.key and flags.check is not False and (flags.index or _signed_index(location)):
            raise UsageError(f"the index of {text} has to be signed", hint=Hint(Step.SIGN_INDEX))

    def _signing_is_settled(self, text: str, flags: AskedTrust, *, usual: bool) -> None:
        rule = self._rule(self.location(text, writing=True))
        if rule.require and (usual or rule.explicit) and not flags.key and not flags.unsigned:
            raise UsageError(f"{text} holds packages that are signed", hint=Hint(Step.SIGN_PACKAGES))

    def images_at(self, location: Location, check: bool | None = None) -> KeepsImages:
        """Open the cache at a location to read images, which must be one that keeps them."""
        return self._opener(location).images(location, self._trust(location, AskedTrust(check)))

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

    def installing_into(self, installs: ChangeableTree) -> CacheOpener:
        """Return an opener that accepts what this tree remembers.

        A signature that was verified for the tree stays good there when its key expires.
        """
        opener = copy.copy(self)
        opener._installs = installs  # noqa: SLF001 - a copy of this object
        return opener

    def _was_verified(self, manifest: Digest, signer: str) -> bool:
        installs = self._installs
        return installs is not None and installs.verifications.vouch(installs.records(), str(manifest), signer)

    def signers(self) -> frozenset[str]:
        """Return the fingerprints of the keys that are trusted now, for any cache."""
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

    def _trust(self, location: Location, flags: AskedTrust, *, writing: bool = False) -> Trust:
        """Return the signatures that are required at a location: what the configuration says, and what the flags add.

        Raises `UsageError` for a flag that contradicts `[trust]`.
        """
        rule = self._rule(location)
        declined = flags.check is False or flags.unsigned
        if declined and rule.firm:
            raise _not_taken_back(location, flags, rule)
        # a signer vouches for all that the index lists, and so checks its signatures whatever the default is
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
        verifier = Judge(keys, self._was_verified) if required else BELIEVING
        return Trust(verifier, self._signer(flags.key), index, self._site(location))

    def _signer(self, key: str) -> Signer | None:
        """Return what signs with a key; None without one."""
        if not key:
            return None
        from oci_binpkg.signing.sign import KeySigner

        return KeySigner(key, self.keyring)

    def base_images(self, text: str) -> BaseImages:
        """Return the base images under a reference."""
        from oci_binpkg.store.images import BaseImages

        location = parse_base(text)
        trust = self._trust(location, AskedTrust())
        name = ""
        if location.repository is not None:
            separator = "@" if location.reference.startswith("sha") and ":" in location.reference else ":"
            name = f"{location.repository}{separator}{location.reference}"
        return BaseImages(self._opener(location).store(location, trust), location.reference, name)

    def image(self, text: str, check: bool | None = None) -> tuple[Store, str]:
        """Return the store that an image is in, with the signatures required there, and the image's tag or digest."""
        location = self.image_location(text)
        return self._opener(location).store(location, self._trust(location, AskedTrust(check))), location.reference

    @cached_property
    def patience(self) -> Patience:
        """How long to wait for locks; the observer hears what for."""
        return patience(self._settings.lock_timeout, self.observer, self._time)

    @cached_property
    def connections(self) -> Connections:
        """What leads to registries and mirrors."""
        if self._connect is not None:
            return self._connect()
        from oci_binpkg.connections import Connections

        return Connections(self._settings, self.observer, cancel=self._cancel, time=self._time)

    def pause(self, _round: int) -> None:
        """Wait after a round of changes that another writer interfered with."""
        self._time.sleep(self._time.between(*configured(self._settings.retries).merge_pause))

    def _opener(self, location: Location) -> Opener:
        endpoint = location.endpoint if isinstance(location, ConfiguredLocation) else ANYWHERE
        backoff = configured(self._settings.retries)
        return Opener(
            lambda repository: self.connections.registry(repository, endpoint),
            _speaks_plain_http,
            lambda url: self.connections.objects(url, endpoint),
            self.pause,
            self.observer,
            self.patience,
            backoff,
            self._cancel.check,
        )


def _signed_index(location: Location) -> bool:
    return isinstance(location, ConfiguredLocation) and location.configured.signed_index


def _not_taken_back(location: Location, flags: AskedTrust, rule: Rule) -> UsageError:
    return UsageError(
        f"{location.text} has to be signed, says {rule.where}",
        hint=Hint(Step.KEEP_RULE_WRITING if flags.unsigned else Step.KEEP_RULE_READING),
    )


def _speaks_plain_http(host: str) -> bool:
    from oci_binpkg.transport.probe import plain_http_on_loopback

    return plain_http_on_loopback(host)
