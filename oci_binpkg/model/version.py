"""Version order and version constraints, as Spack defines them.

A version is split into numbers and words; separators do not count. Per segment a word is less than a number, and the
names of moving branches are greater than every number. A trailing `alpha`, `beta` or `rc` makes a pre-release, which
comes before the release it leads to.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from oci_binpkg.errors import QueryError
from oci_binpkg.model.identifiers import MAX_BYTES

_SEGMENT: Final = re.compile(r"([0-9]+)|([a-zA-Z]+)", re.ASCII)
_COMMIT: Final = re.compile(r"[a-fA-F0-9]{40}", re.ASCII)
_GIT: Final = re.compile(r"(?:git\.(?P<ref>[^=]+)|(?P<commit>[a-fA-F0-9]{40}))(?:=(?P<version>.+))?", re.ASCII)
_PLAIN: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?", re.ASCII)
_BRANCHES: Final = ("stable", "nightly", "trunk", "head", "master", "main", "develop")
_PRERELEASES: Final = ("alpha", "beta", "rc")
_FINAL: Final = len(_PRERELEASES)
_WORD, _NUMBER, _BRANCH = range(3)

Segment = tuple[int, int, str]  # kind, number or rank, word: comparable with any other segment


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """A version that can be compared with any other; `1.0` and `1-0` are equal.

    `release` holds the segments, `prerelease` the rank of alpha, beta, rc or final and an optional number, `ref` the
    branch, tag or commit of a version taken from git (`git.main=1.2` sorts just above `1.2`), `text` the version as
    written.
    """

    release: tuple[Segment, ...]
    prerelease: tuple[int, ...] = (_FINAL,)
    ref: str = ""
    text: str = field(default="", compare=False)

    @classmethod
    def parse(cls, text: str) -> Version:
        """Parse any text: an installed package's version is what it is. Characters that are no segment separate."""
        git = _GIT.fullmatch(text)
        if git is None:
            return cls(*_split(text), text=text)
        ref = git["ref"] or git["commit"].lower()
        release, prerelease = _split(git["version"] or ("" if git["commit"] else ref))
        return cls(release, prerelease, ref, text)

    def starts_with(self, prefix: Version) -> bool:
        """Return whether this is `prefix` or a version below it, as 1.2.9 is below 1.2."""
        if prefix.prerelease[0] == _FINAL:
            return self.release[: len(prefix.release)] == prefix.release
        return self.release == prefix.release and self.prerelease[: len(prefix.prerelease)] == prefix.prerelease

    @property
    def exact_text(self) -> str:
        """The version as an exact constraint: `=1.2`; a git version is one already."""
        return self.text if self.ref else f"={self.text}"

    def __str__(self) -> str:
        return self.text


def _split(text: str) -> tuple[tuple[Segment, ...], tuple[int, ...]]:
    parts: list[tuple[str, str]] = _SEGMENT.findall(text)
    prerelease: tuple[int, ...] = (_FINAL,)
    if len(parts) >= 3 and parts[-2][1] in _PRERELEASES and parts[-1][0]:  # noqa: PLR2004 - release, word, number
        prerelease = (_PRERELEASES.index(parts[-2][1]), int(parts[-1][0]))
        parts = parts[:-2]
    elif len(parts) >= 2 and parts[-1][1] in _PRERELEASES:  # noqa: PLR2004 - release, word
        prerelease = (_PRERELEASES.index(parts[-1][1]),)
        parts = parts[:-1]
    return tuple(_segment(number, word) for number, word in parts), prerelease


def _segment(number: str, word: str) -> Segment:
    if number:
        return (_NUMBER, int(number), "")
    if word in _BRANCHES:
        return (_BRANCH, _BRANCHES.index(word), "")
    return (_WORD, 0, word)


@dataclass(frozen=True, slots=True)
class VersionRange:
    """Versions from `low` to `high`, both included, `high` with all versions below it; None is unbounded.

    With `exact`, only `low` itself, or any version of its git ref if that is all that was given.
    """

    low: Version | None
    high: Version | None
    exact: bool = False

    def __contains__(self, version: Version) -> bool:
        if self.exact:
            return self.low == version or (self.low is not None and _is_ref_of(self.low, version))
        plain = Version(version.release, version.prerelease)
        if self.low is not None and plain < self.low:
            return False
        return self.high is None or plain <= self.high or plain.starts_with(self.high)


def _is_ref_of(wanted: Version, version: Version) -> bool:
    return bool(wanted.ref) and "=" not in wanted.text and wanted.ref == version.ref


@dataclass(frozen=True, slots=True)
class VersionSet:
    """A union of ranges, joined by commas: `1.2` (and all below it), `=1.2`, `1.2:1.4`, `:1.4`, `git.main=1.2`."""

    ranges: tuple[VersionRange, ...]
    text: str

    @classmethod
    def parse(cls, text: str) -> VersionSet:
        """Parse a constraint, written without the `@`. Raises `QueryError`."""
        return cls(tuple(_range(part.strip()) for part in text.split(",")), text)

    def __contains__(self, version: Version | str) -> bool:
        parsed = Version.parse(version) if isinstance(version, str) else version
        return any(parsed in each for each in self.ranges)


def _range(text: str) -> VersionRange:
    if len(text) > 2 * MAX_BYTES + 1:
        raise QueryError(f"not a version, which has at most {MAX_BYTES} characters: {text[:100]!r}...")
    if _GIT.fullmatch(text):
        version = Version.parse(text)
        return VersionRange(version, version, exact=True)
    if text.startswith("="):
        version = _version(text[1:])
        return VersionRange(version, version, exact=True)
    low_text, colon, high_text = text.partition(":")
    if not colon:
        version = _version(text)
        return VersionRange(version, version)
    low = _version(low_text) if low_text else None
    high = _version(high_text) if high_text else None
    if low is not None and high is not None and low > high and not low.starts_with(high):
        raise QueryError(f"no version is in {text}: {low} is greater than {high}")
    return VersionRange(low, high)


def _version(text: str) -> Version:
    if not _PLAIN.fullmatch(text) and not _COMMIT.fullmatch(text):
        raise QueryError(f"not a version: {text[:100]!r}", hint="a version is made of A-Z a-z 0-9 . _ -, as in 1.2.3")
    return Version.parse(text)
