"""References: where a repository is, and which tag or digest in it.

Source: OCI distribution-spec 1.1 (names and tags) and the reference grammar of the container tools.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from oci_binpkg.errors import ContentError, Hint, Step, UsageError
from oci_binpkg.model.content import Digest
from oci_binpkg.model.spec import Spec

_COMPONENT: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY: Final = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*", re.ASCII)
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", re.ASCII)
_HOST: Final = re.compile(
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)(?::(?P<port>[0-9]{1,5}))?", re.ASCII
)
_MAX_NAME: Final = 255
_MAX_PORT: Final = 65535
_OF_A_DIGEST: Final = re.compile(r"sha(?:256|512)-[0-9a-f]{32,128}(?:\.[a-z]+)?", re.ASCII)
"""Tags of lists of referrers, and of signatures as cosign keeps them."""
_MAX_TAG: Final = 128
_MAX_VIEW: Final = 200
_VIEW_PART: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*", re.ASCII)
_VIEW_FILE: Final = "index.manifest.json"
DOCKER_HUB: Final = "docker.io"
_HUB_NAMES: Final = frozenset({DOCKER_HUB, "index.docker.io"})
INDEX_TAG: Final = "index.spack"
PACKAGE_SUFFIX: Final = ".spack"


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository in a registry: scheme, host with optional port, and name."""

    scheme: str
    host: str
    name: str

    @property
    def origin(self) -> str:
        """The address of the registry, equal for all its repositories: `https://host[:port]`."""
        return f"{self.scheme}://{self.host}"

    @property
    def address(self) -> str:
        """Origin and name: identifies the repository."""
        return f"{self.origin}/{self.name}"

    def __str__(self) -> str:
        return f"{self.host}/{self.name}"


@dataclass(frozen=True, slots=True)
class Reference:
    """A repository with a tag, or a digest, or neither."""

    repository: Repository
    tag: str = ""
    digest: Digest | None = None

    def __str__(self) -> str:
        if self.digest is not None:
            return f"{self.repository}@{self.digest}"
        return f"{self.repository}:{self.tag}" if self.tag else str(self.repository)


def is_loopback(host: str) -> bool:
    """Return whether `host[:port]` is this machine, where plain http gives nothing away."""
    match = _HOST.fullmatch(host)
    bare = (match["host"] if match else host).strip("[]").lower()
    return bare in {"localhost", "::1"} or bool(re.fullmatch(r"127(?:\.[0-9]{1,3}){3}", bare))


def check_host(host: str) -> str:
    """Return `host[:port]` if it is well formed, else raise `UsageError`."""
    match = _HOST.fullmatch(host)
    if match is None or ".." in host or (match["port"] and not 0 < int(match["port"]) <= _MAX_PORT):
        raise UsageError(
            f"not a registry host: {host[:100]!r}", hint="write HOST or HOST:PORT; an IPv6 address stands in [brackets]"
        )
    return host


def check_tag(tag: str) -> str:
    """Return `tag` if a registry can hold it, else raise `UsageError`."""
    if not _TAG.fullmatch(tag):
        raise UsageError(
            f"not a tag: {tag[:140]!r}", hint="a tag has 1 to 128 of A-Z a-z 0-9 _ . - and starts with none of . -"
        )
    return tag


def check_image_tag(tag: str) -> str:
    """Return `tag` if people may give it to an image of theirs, else raise `UsageError`: some tags have a meaning."""
    check_tag(tag)
    if tag.endswith(PACKAGE_SUFFIX):
        raise UsageError(
            f"the tag {tag!r} is kept for packages and their index",
            hint=f"choose one that does not end in {PACKAGE_SUFFIX}",
        )
    if _OF_A_DIGEST.fullmatch(tag):
        raise UsageError(
            f"the tag {tag[:100]!r} is kept for what is attached to an image", hint="choose one unlike a digest"
        )
    return tag


def check_view(view: str) -> str:
    """Return `view` if it can name a part of a mirror's packages, else raise `UsageError`.

    It becomes folders on the mirror: parts between slashes, each of letters, digits and `_ . + -`.
    """
    parts = view.split("/")
    if len(view) > _MAX_VIEW or not all(_VIEW_PART.fullmatch(part) for part in parts) or _VIEW_FILE in parts:
        raise UsageError(
            f"not the name of a view: {view[:150]!r}",
            hint="letters, digits and _ . + -, starting with none of . + -; slashes only between such parts",
        )
    return view


def parse_repository(text: str, *, scheme: str = "https") -> Repository:
    """Parse `host[:port]/name`. Raises `UsageError` for upper case, `..`, credentials, escapes and empty parts."""
    _refuse_credentials(text)
    if len(text) > _MAX_NAME:
        raise UsageError(f"a repository address of {len(text)} characters: registries take at most {_MAX_NAME}")
    host, slash, name = text.partition("/")
    check_host(host)
    if not slash or not _REPOSITORY.fullmatch(name):
        raise UsageError(
            f"not a repository name: {name[:100]!r} in {text[:150]!r}",
            hint="write HOST[:PORT]/NAME, NAME in lower case: letters, digits and single . _ - between them",
        )
    return Repository(scheme, host, name)


def parse_reference(text: str, *, scheme: str = "https") -> Reference:
    """Parse `host[:port]/name[:tag]` or `host[:port]/name@digest`. Raises `UsageError`.

    The tag of `name:tag@digest` is checked and dropped: the digest decides.
    """
    rest, at, digest_text = text.rpartition("@")
    digest = None
    if at and re.match(r"(sha|md)[0-9]+:", digest_text):
        digest = _digest(digest_text)
    else:
        rest = text
    _refuse_credentials(rest)
    head, slash, last = rest.rpartition("/")
    name, colon, tag = last.partition(":")
    if slash and colon:
        check_tag(tag)
        rest = f"{head}/{name}"
    repository = _canonical(parse_repository(rest, scheme=scheme))
    return Reference(repository, "" if digest else tag, digest)


def _canonical(repository: Repository) -> Repository:
    """Return a repository as it is called at Docker Hub: official images are below `library`."""
    if repository.host not in _HUB_NAMES:
        return repository
    name = repository.name if "/" in repository.name else f"library/{repository.name}"
    return Repository(repository.scheme, DOCKER_HUB, name)


def _refuse_credentials(text: str) -> None:
    if "@" in text:
        # what stands before it may be a password: it is not repeated
        raise UsageError(
            "a repository address holds no @ but the one before a digest",
            hint=Hint(Step.LOG_IN_APART),
        )


def _digest(text: str) -> Digest:
    try:
        return Digest.parse(text)
    except ContentError as error:
        raise UsageError(error.message, hint="a digest is sha256: and 64 digits of 0-9 a-f") from error


def parse_image(text: str) -> Reference:
    """Parse an image reference as docker does: no host means Docker Hub, no tag means `latest`."""
    first, slash, _ = text.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost"):
        text = f"{DOCKER_HUB}/{text}"
    reference = parse_reference(text)
    if reference.tag or reference.digest:
        return reference
    return Reference(reference.repository, "latest")


def package_tag(name: str, version: str, package_hash: str) -> str:
    """Return the tag of a package: `NAME-VERSION-HASH.spack`, characters a tag cannot hold replaced by `_`.

    Longer than 128 characters: the first 64 and the last 64, which keep the hash. Source: Spack's OCI build caches.
    """
    tag = re.sub(r"[^A-Za-z0-9_.-]", "_", f"{name}-{version}-{package_hash}{PACKAGE_SUFFIX}")
    return tag if len(tag) <= _MAX_TAG else tag[:64] + tag[-64:]


def is_package_tag(tag: str) -> bool:
    """Return whether a tag names a package (and not the index or an image)."""
    return tag.endswith(PACKAGE_SUFFIX) and tag != INDEX_TAG


def hash_of_tag(tag: str) -> str:
    """Return the package hash that a package's tag ends with."""
    return tag.removesuffix(PACKAGE_SUFFIX).rpartition("-")[2]


@dataclass(frozen=True, slots=True)
class PackageKey:
    """What a package is looked up by; the hash alone identifies it, name and version say where it lies."""

    name: str
    version: str
    hash: str

    @classmethod
    def of(cls, spec: Spec) -> PackageKey:
        """Return the key of a spec."""
        return cls(spec.name, spec.version, spec.hash)

    @property
    def tag(self) -> str:
        """The package's tag in a registry."""
        return package_tag(self.name, self.version, self.hash)
