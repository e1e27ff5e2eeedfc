"""From the text a user writes to a store or cache: the one place that looks at a URL scheme."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from oci_binpkg.cache.oci import OciCache
from oci_binpkg.errors import UsageError
from oci_binpkg.model.reference import Repository, check_tag, is_loopback, parse_image, parse_reference
from oci_binpkg.store.layout import LayoutStore
from oci_binpkg.store.protocols import Store

LAYOUT: Final = "oci-layout:"
REGISTRY: Final = {"oci://": "https", "oci+http://": "http", "docker://": "https"}
FORMS: Final = "oci://HOST[:PORT]/NAME, oci+http://HOST[:PORT]/NAME, oci-layout:PATH, or a name from the configuration"


@dataclass(frozen=True, slots=True)
class Location:
    """Where content is: a repository, or the path of an image layout; with a tag, a digest, or neither."""

    text: str
    repository: Repository | None = None
    path: str = ""
    reference: str = ""


def parse_location(text: str) -> Location:
    """Parse a CACHE or CACHE:TAG. Raises `UsageError` for anything else."""
    if text.startswith(LAYOUT):
        return _layout(text)
    for prefix, scheme in REGISTRY.items():
        if text.startswith(prefix):
            rest = text.removeprefix(prefix).rstrip("/")
            reference = parse_reference(rest, scheme=scheme)
            return Location(text, reference.repository, "", str(reference.digest or reference.tag))
    raise UsageError(f"not a cache: {text[:200]!r}", hint=f"write {FORMS}")


def parse_base(text: str) -> Location:
    """Parse a base image: a location with a tag or digest, or an image reference as docker takes it (`debian:12`)."""
    if re.match(r"[a-z+-]+://|oci-layout:", text):
        location = parse_location(text)
        return location if location.reference else Location(text, location.repository, location.path, "latest")
    reference = parse_image(text)
    return Location(text, reference.repository, "", str(reference.digest or reference.tag))


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
class Opener:
    """Opens stores and caches. `registry` connects to a repository; `speaks_plain_http` asks a loopback host.

    `pause(round)` waits between rounds of an index merge that other writers got in the way of.
    """

    registry: Callable[[Repository], Store]
    speaks_plain_http: Callable[[str], bool]
    pause: Callable[[int], None]

    def store(self, location: Location) -> Store:
        """Open the store at a location."""
        if location.repository is None:
            return LayoutStore(location.path)
        repository = location.repository
        if repository.scheme == "https" and is_loopback(repository.host) and self.speaks_plain_http(repository.host):
            repository = Repository("http", repository.host, repository.name)
        return self.registry(repository)

    def cache(self, location: Location) -> OciCache:
        """Open the cache at a location."""
        return OciCache(self.store(location), pause=self.pause)
