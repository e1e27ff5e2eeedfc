"""From the text a user writes to a store or cache: the one place that looks at a URL scheme.

Each kind of cache is imported when one is opened.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Never
from urllib.parse import unquote, urlsplit

from oci_binpkg.backoff import USUAL, Backoff
from oci_binpkg.cache.layouts import has_layout_2, has_only_layout_2
from oci_binpkg.cache.protocol import CacheEntry, Parts
from oci_binpkg.errors import TransferError, UnsupportedError, UsageError
from oci_binpkg.events import Observer, Warned, ignore
from oci_binpkg.file_lock import Patience
from oci_binpkg.index.document import IndexDocument
from oci_binpkg.model.content import Blob, Descriptor, Digest
from oci_binpkg.model.reference import PackageKey, Repository, check_tag, is_loopback, parse_image, parse_reference
from oci_binpkg.signing.index_trust import BELIEVED, IndexSignature, IndexTrust, missing
from oci_binpkg.signing.statement import ANY_SITE, Site

if TYPE_CHECKING:
    from oci_binpkg.cache.mirror import MirrorCache
    from oci_binpkg.cache.mirror_v2 import MirrorV2Cache
    from oci_binpkg.cache.protocol import KeepsImages, ReadableCache, WritableCache
    from oci_binpkg.objects.protocol import Objects
    from oci_binpkg.signing.statement import Signer, Verifier
    from oci_binpkg.store.protocol import Store


@dataclass(frozen=True, slots=True)
class UnreachableCache:
    """A cache that could not be opened: every method raises that error, and nothing is tried twice."""

    name: str
    error: TransferError
    verifies: bool = False
    proves_listing: bool = False
    images: None = None
    is_local: bool = False

    @property
    def has_views(self) -> bool:
        """Raise the error."""
        self._fail()

    def hashes(self) -> Mapping[str, str]:
        """Raise the error."""
        self._fail()

    def find(self, key: PackageKey) -> CacheEntry:  # noqa: ARG002
        """Raise the error."""
        self._fail()

    def entry(self, locator: str) -> CacheEntry:  # noqa: ARG002
        """Raise the error."""
        self._fail()

    def blobs(self, entry: CacheEntry) -> tuple[Blob, ...]:  # noqa: ARG002
        """Raise the error."""
        self._fail()

    def parts(self, locator: str) -> Parts:  # noqa: ARG002
        """Raise the error."""
        self._fail()

    def holds(self, blob: Descriptor) -> bool:  # noqa: ARG002
        """Raise the error."""
        self._fail()

    def index_signature(self) -> IndexSignature:
        """Raise the error."""
        self._fail()

    def read_index(self, known: Digest | None = None) -> IndexDocument | None:  # noqa: ARG002
        """Raise the error."""
        self._fail()

    def _fail(self) -> Never:
        raise self.error.again() from self.error


LAYOUT: Final = "oci-layout:"
REGISTRY: Final = {"oci://": "https", "oci+http://": "http", "docker://": "https"}
MIRRORS: Final = ("file://", "https://", "http://", "s3://")
_AS_DOCKER: Final = "docker://"
"""How skopeo and podman begin a reference that is written as docker takes it."""
READ_ONLY: Final = ("https://", "http://")
FORMS: Final = (
    "oci://HOST[:PORT]/NAME, oci+http://HOST[:PORT]/NAME, oci-layout:PATH, a mirror's URL (file://, https://, s3://, "
    "gs:// and what else fsspec knows), or a name from the configuration"
)
_SCHEME: Final = r"[a-z][a-z0-9+.-]*"


@dataclass(frozen=True, slots=True)
class Location:
    """Where content is: a repository, the path of an image layout, or the URL of a mirror.

    The first two with a tag, a digest (`sha256:...`), or neither; the last with the name of a view, "" for all of it.
    """

    text: str
    repository: Repository | None = None
    path: str = ""
    reference: str = ""
    url: str = ""
    view: str = ""


def parse_location(text: str) -> Location:
    """Parse a CACHE or CACHE:TAG. Raises `UsageError` for anything else."""
    if text.startswith(LAYOUT):
        return _layout(text)
    for prefix, protocol in REGISTRY.items():
        if text.startswith(prefix):
            rest = text.removeprefix(prefix).rstrip("/")
            reference = parse_reference(rest, scheme=protocol)
            return Location(text, reference.repository, "", str(reference.digest or reference.tag))
    scheme, separator, _ = text.partition("://")
    if text.startswith(MIRRORS) or (separator and re.fullmatch(_SCHEME, scheme) and _is_known(scheme)):
        return Location(text, url=_mirror_url(text))
    raise UsageError(f"not a cache: {text[:200]!r}", hint=f"write {FORMS}")


def _is_known(scheme: str) -> bool:
    from oci_binpkg.objects.fsspec import is_known

    return is_known(scheme)


def parse_base(text: str) -> Location:
    """Parse a base image: a location with a tag or digest, or an image reference as docker takes it (`debian:12`)."""
    if text.startswith(_AS_DOCKER):
        reference = parse_image(text.removeprefix(_AS_DOCKER))
        return Location(text, reference.repository, "", str(reference.digest or reference.tag))
    if "://" not in text and not text.startswith(LAYOUT):
        reference = parse_image(text)
        return Location(text, reference.repository, "", str(reference.digest or reference.tag))
    if not text.startswith((LAYOUT, *REGISTRY)):
        raise UsageError(
            f"{text[:200]!r} is a URL, and base images have none",
            hint="write debian:12 or HOST/NAME:TAG as docker does, oci://HOST/NAME:TAG, or oci-layout:PATH",
        )
    location = parse_location(text)
    return location if location.reference else Location(text, location.repository, location.path, "latest")


def _mirror_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        text.encode()
    except ValueError:  # an IPv6 address without its end, or bytes that are not UTF-8
        raise UsageError(f"not a mirror's URL: {text[:200]!r}", hint=f"write {FORMS}") from None
    if any(character < " " for character in unquote(text)):
        raise UsageError(f"control characters in a mirror's URL: {text[:200]!r}", hint=f"write {FORMS}")
    # elsewhere the name before the @ is part of the address: a user of sftp://, a container of abfs://
    if parts.password or (parts.username and text.startswith(MIRRORS)):
        raise UsageError("a mirror's URL holds no credentials", hint="logins come from the environment or AWS profiles")
    is_path = parts.scheme == "file" and not parts.netloc and parts.path.startswith("/")
    if parts.query or parts.fragment or not (is_path or (parts.scheme != "file" and parts.netloc)):
        raise UsageError(f"not a mirror's URL: {text[:200]!r}", hint=f"write {FORMS}")
    return text.rstrip("/")


def _layout(text: str) -> Location:
    path = text.removeprefix(LAYOUT)
    at = re.fullmatch(r"(.+)@(sha(?:256|512):[0-9a-f]+)", path)
    if at:
        return Location(text, None, at[1], at[2])
    # a tag has no slash, so that the last colon behind the last slash is the tag's
    head, colon, tag = path.rpartition(":")
    if colon and "/" not in tag:
        path, tag = head, check_tag(tag)
    else:
        tag = ""
    if not path:
        raise UsageError(f"no path in {text[:200]!r}", hint="write oci-layout:PATH")
    return Location(text, None, os.path.abspath(os.path.expanduser(path)), tag)


@dataclass(frozen=True, slots=True)
class Trust:
    """The signatures that one cache requires: given when it is opened, and applied to all that is read there.

    `verifier` decides what counts, `signer` signs what is written. `index` is what is required of the signature of an
    index there, `site` what signatures state about their place.
    """

    verifier: Verifier
    signer: Signer | None = None
    index: IndexTrust = BELIEVED
    site: Site = ANY_SITE


@dataclass(frozen=True, slots=True)
class Opener:
    """Opens stores and caches; whoever opens one says which signatures are required there.

    `registry` connects to a repository; `speaks_plain_http` asks a loopback host. `objects` opens the files of a
    mirror. `pause(round)` waits after a round of an index merge that other writers interfered with. `patience` is how
    long locks are waited for, `backoff` how many rounds there are. `go_on` raises when the caller has cancelled.
    """

    registry: Callable[[Repository], Store]
    speaks_plain_http: Callable[[str], bool]
    objects: Callable[[str], Objects]
    pause: Callable[[int], None]
    observer: Observer = ignore
    patience: Patience | None = None
    backoff: Backoff = USUAL
    go_on: Callable[[], None] = lambda: None

    def store(self, location: Location, trust: Trust) -> Store:
        """Open the store at a location to read images. Raises `UsageError` for a mirror, which keeps none."""
        store = self._store(location)
        if not trust.verifier.required:
            return store
        from oci_binpkg.cache.oci import verified_store

        return verified_store(store, trust.verifier, trust.site)

    def images(self, location: Location, trust: Trust) -> KeepsImages:
        """Open a cache that keeps images. Raises `UsageError` for a mirror."""
        from oci_binpkg.cache.oci import OciCache

        return OciCache(
            self._store(location),
            pause=self.pause,
            backoff=self.backoff,
            verifier=trust.verifier,
            signer=trust.signer,
            trust=trust.index,
            site=trust.site,
        )

    def cache(self, location: Location, trust: Trust, *, writing: bool = False) -> ReadableCache:
        """Open the cache at a location to read it, whatever its layout. A mirror that does not answer says so later.

        With `writing`, as what is about to be written: layout 3 alone of a mirror that has both.
        """
        if not location.url:
            return self.images(location, trust)
        objects = self.objects(location.url)
        try:
            is_old = not location.view and has_only_layout_2(objects)  # layout 2 has no views
        except TransferError as error:
            return UnreachableCache(objects.name, error)
        if is_old:
            if trust.index.require:
                raise missing(f"the index of {objects.name} (layout 2)")
            return self._old_mirror(trust, objects)
        mirror = self._mirror(location, trust, objects)
        if location.view or writing or trust.index.require:
            return mirror
        from oci_binpkg.cache.both_layouts import BothLayoutsCache

        return BothLayoutsCache(mirror, lambda: self._old_mirror(trust, objects) if has_layout_2(objects) else None)

    def _old_mirror(self, trust: Trust, objects: Objects) -> MirrorV2Cache:
        from oci_binpkg.cache.mirror_v2 import MirrorV2Cache

        return MirrorV2Cache(
            objects,
            verifier=trust.verifier,
            prove=trust.index.prove,
            site=trust.site,
            observer=self.observer,
        )

    def writable(self, location: Location, trust: Trust) -> WritableCache:
        """Open the cache at a location to write to it. Raises `UnsupportedError` if it can only be read."""
        if not location.url:
            return self.images(location, trust)
        if location.url.startswith(READ_ONLY):
            raise UnsupportedError(
                f"cannot write to {location.url}: a web server is only read",
                hint="push to the place behind it: a directory (file://), or S3 (s3://)",
            )
        objects = self.objects(location.url)
        if not location.view and has_only_layout_2(objects):
            self.observer(Warned(f"{objects.name} has the old layout 2: layout 3 is written beside it"))
        return self._mirror(location, trust, objects)

    def _store(self, location: Location) -> Store:
        if location.url:
            raise UsageError(
                f"{location.text} is a mirror: it keeps packages, no images", hint="name a registry or layout"
            )
        if location.repository is None:
            from oci_binpkg.store.layout import LayoutStore

            return LayoutStore(location.path, patience=self.patience, go_on=self.go_on)
        repository = location.repository
        if repository.scheme == "https" and is_loopback(repository.host) and self.speaks_plain_http(repository.host):
            repository = Repository("http", repository.host, repository.name)
        return self.registry(repository)

    def _mirror(self, location: Location, trust: Trust, objects: Objects) -> MirrorCache:
        from oci_binpkg.cache.mirror import MirrorCache

        return MirrorCache(
            objects,
            verifier=trust.verifier,
            signer=trust.signer,
            trust=trust.index,
            site=trust.site,
            view=location.view,
            pause=self.pause,
            backoff=self.backoff,
        )
