"""The order of versions and what a version constraint takes in."""

import random

import pytest

from oci_binpkg.errors import QueryError
from oci_binpkg.model.version import Version, VersionSet

ASCENDING = [
    "0.9", "1.a", "1.0alpha", "1.0alpha1", "1.0beta1", "1.0-beta.2", "1.0rc1", "1.0", "1.0a", "1.0.0", "1.0.1", "1.2.9", "1.9", "1.10",
    "1.10.0-rc2", "1.10.0", "2", "10", "20240101", "stable", "nightly", "trunk", "head", "master", "main", "develop", "develop.1",
]  # fmt: skip


def test_versions_sort_as_spack_sorts_them() -> None:
    shuffled = ASCENDING[:]
    random.Random(7).shuffle(shuffled)
    assert [str(version) for version in sorted(map(Version.parse, shuffled))] == ASCENDING


@pytest.mark.parametrize(
    ("one", "other"), [("1.0", "1-0"), ("1_2.3", "1.2.3"), ("1.02", "1.2"), ("1.0rc1", "1.0-rc.1")]
)
def test_separators_and_leading_zeros_do_not_count(one: str, other: str) -> None:
    assert Version.parse(one) == Version.parse(other)
    assert hash(Version.parse(one)) == hash(Version.parse(other))


def test_git_versions_sort_by_the_version_given_to_them() -> None:
    ordered = ["1.1", "1.2", "git.fix/that=1.2", "1.2.1", "2.0"]
    assert [str(v) for v in sorted(Version.parse(each) for each in reversed(ordered))] == ordered
    commit = "A" * 40
    assert Version.parse(f"{commit}=1.2").ref == "a" * 40
    assert Version.parse(commit) < Version.parse("0")
    assert Version.parse("git.main") > Version.parse("99")


def test_any_text_is_some_version() -> None:
    assert Version.parse("") == Version.parse("...")
    assert Version.parse("1.2+dfsg~1").release[0] == Version.parse("1").release[0]


@pytest.mark.parametrize(
    ("constraint", "version", "inside"),
    [
        ("1.2", "1.2", True), ("1.2", "1.2.9", True), ("1.2", "1.20", False), ("1.2", "1.3", False), ("1.2", "1.2.0rc1", True),
        ("=1.2", "1.2", True), ("=1.2", "1.2.1", False), ("=1.2", "1-2", True),
        ("1.2:1.4", "1.2", True), ("1.2:1.4", "1.4.9", True), ("1.2:1.4", "1.1.9", False), ("1.2:1.4", "1.5", False),
        ("1.2:1.4", "1.5alpha1", False), ("1.2:", "develop", True), ("1.2:", "1.2rc1", False), (":1.4", "1.4.9", True), (":1.4", "1.4rc1", True),
        (":1.4", "0", True), (":1.4", "1.5", False), (":", "main", True), ("1.4.5:1.4", "1.4.7", True), ("1.4.5:1.4", "1.4.1", False),
        ("1.2,1.4:", "1.2.3", True), ("1.2,1.4:", "1.3", False), ("1.2,1.4:", "9", True), ("1.2 , =3", "3", True),
        (":1.2rc", "1.2rc2", True), (":1.2rc", "1.2", False),
        ("1.2", "git.main=1.2", True), ("=1.2", "git.main=1.2", False), ("1.2:1.3", "git.main=1.3.1", True),
        ("git.main=1.2", "git.main=1.2", True), ("git.main=1.2", "git.main=1.3", False), ("git.main", "git.main=1.3", True),
        ("git.main", "git.dev=1.3", False), ("git.main", "main", False), ("b" * 40, f"{'b' * 40}=1.2", True), ("b" * 40, "1.2", False),
    ],
)  # fmt: skip
def test_constraints(constraint: str, version: str, inside: bool) -> None:
    assert (version in VersionSet.parse(constraint)) is inside
    assert (Version.parse(version) in VersionSet.parse(constraint)) is inside


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("1.4:1.2", "1.4 is greater than 1.2"),
        ("", "not a version"),
        ("=", "not a version"),
        ("a b", "not a version"),
        ("1:2:3", "not a version"),
    ],
)
def test_constraints_that_mean_nothing(text: str, complaint: str) -> None:
    with pytest.raises(QueryError, match=complaint):
        VersionSet.parse(text)


@pytest.mark.parametrize(("text", "exact"), [("1.2", "=1.2"), ("git.main=1.2", "git.main=1.2")])
def test_exact_text(text: str, exact: str) -> None:
    assert Version.parse(text).exact_text == exact
    assert text in VersionSet.parse(exact)
