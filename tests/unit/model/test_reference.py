"""References to registries, and the tags of packages."""

from __future__ import annotations

import hashlib

import pytest

from oci_binpkg.errors import UsageError
from oci_binpkg.model.content import Digest
from oci_binpkg.model.reference import (
    Reference,
    Repository,
    check_host,
    check_tag,
    hash_of_tag,
    is_loopback,
    is_package_tag,
    package_tag,
    parse_image,
    parse_reference,
    parse_repository,
)

DIGEST = Digest.of(b"")


@pytest.mark.parametrize(
    ("text", "host", "name"),
    [
        ("reg.example/apps", "reg.example", "apps"),
        ("reg.example:5000/a/b__c/d-e--f.g", "reg.example:5000", "a/b__c/d-e--f.g"),
        ("localhost/x", "localhost", "x"),
        ("127.0.0.1:1/0", "127.0.0.1:1", "0"),
        ("[::1]:5000/x", "[::1]:5000", "x"),
        ("[fe80::1]/x", "[fe80::1]", "x"),
        ("Reg.Example/x", "Reg.Example", "x"),
    ],
)
def test_parses_repositories(text: str, host: str, name: str) -> None:
    repository = parse_repository(text)
    assert (repository.host, repository.name) == (host, name)
    assert str(repository) == text
    assert repository.address == f"https://{text}"
    assert parse_repository(text, scheme="http").origin == f"http://{host}"


@pytest.mark.covers("B41")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "reg.example",
        "reg.example/",
        "/apps",
        "reg.example/UPPER",
        "reg.example/a/../b",
        "reg.example/..",
        "reg.example/.a",
        "reg.example/a//b",
        "reg.example/a/",
        "reg.example/-a",
        "reg.example/a-",
        "reg.example/a___b",
        "reg.example/a..b",
        "reg.example/%2e%2e/b",
        "reg.example/a%2Fb",
        "reg.example/a b",
        "reg.example/a\n",
        "reg.example/a\x1b[0m",
        "reg.example/a?b",
        "reg.example/a#b",
        "reg.example/a\\b",
        "reg.example/ä",
        "reg․example/a",  # noqa: RUF001  # ONE DOT LEADER
        "reg。example/a",
        "reg..example/a",
        "-reg.example/a",
        "reg.example-/a",
        "reg.example:/a",
        "reg.example:0/a",
        "reg.example:99999/a",
        "reg.example:123456/a",
        "reg.example:x/a",
        "reg.example:-1/a",
        "::1/a",
        "::1:5000/a",
        "fe80::1/a",
        "[::1/a",
        "[::1]x/a",
        "https://reg.example/a",
        "oci://reg.example/a",
        "reg.example/" + "a" * 250,
    ],
)
def test_refuses_what_is_no_repository(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_repository(text)
    with pytest.raises(UsageError):
        parse_reference(text)
    assert "\x1b" not in caught.value.message
    assert len(caught.value.message) < 400


@pytest.mark.covers("B41", "R11")
@pytest.mark.parametrize(
    "text",
    [
        "user:secret@reg.example/apps",
        "user:secret@reg.example/apps:tag",
        "user:secret@reg.example",
        "user:sec/secret@reg.example/apps",
        "user:x/secret:secret@reg.example",
        "user:sha256-secret@reg.example/apps",
        "user:secret@shasta:5000/apps",
        f"user:secret@reg.example/apps@{DIGEST}",
        "reg.example/apps@secret",
    ],
)
def test_refuses_credentials_and_does_not_repeat_them(text: str) -> None:
    for parse in (parse_repository, parse_reference, parse_image):
        with pytest.raises(UsageError) as caught:
            parse(text)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("reg.example/apps", ("apps", "", None)),
        ("reg.example/apps:1.0", ("apps", "1.0", None)),
        ("reg.example:5000/apps", ("apps", "", None)),
        ("reg.example:5000/a/b:_x", ("a/b", "_x", None)),
        (f"reg.example/apps@{DIGEST}", ("apps", "", DIGEST)),
        (f"reg.example/apps:1.0@{DIGEST}", ("apps", "", DIGEST)),
        (f"[::1]:5000/apps:1.0@{DIGEST}", ("apps", "", DIGEST)),
        (
            f"reg.example/apps@sha512:{hashlib.sha512().hexdigest()}",
            ("apps", "", Digest.parse(f"sha512:{hashlib.sha512().hexdigest()}")),
        ),
    ],
)
def test_parses_references(text: str, expected: tuple[str, str, Digest | None]) -> None:
    reference = parse_reference(text)
    assert (reference.repository.name, reference.tag, reference.digest) == expected


def test_references_are_written_as_they_are_read() -> None:
    repository = Repository("https", "reg.example", "apps")
    assert str(Reference(repository)) == "reg.example/apps"
    assert str(Reference(repository, "1.0")) == "reg.example/apps:1.0"
    assert str(Reference(repository, "", DIGEST)) == f"reg.example/apps@{DIGEST}"


@pytest.mark.covers("B07", "B41")
@pytest.mark.parametrize(
    "tail",
    [
        ":",
        ":-x",
        ":.x",
        ":a b",
        ":a/b",
        ":a:b",
        ":ä",
        ":" + "x" * 129,
        ":x\n",
        "@",
        "@sha256:",
        "@sha256:abc",
        f"@sha256:{DIGEST.hex.upper()}",
        "@sha256:../../x",
        f"@md5:{'0' * 32}",
        f"@sha1:{'0' * 40}",
        f"@{DIGEST}x",
        f"@{DIGEST}@{DIGEST}",
        f":-x@{DIGEST}",
    ],
)
def test_refuses_bad_tags_and_digests(tail: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_reference(f"reg.example/apps{tail}")
    assert caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("debian", "docker.io/library/debian:latest"),
        ("debian:12", "docker.io/library/debian:12"),
        (f"debian@{DIGEST}", f"docker.io/library/debian@{DIGEST}"),
        ("user/app", "docker.io/user/app:latest"),
        ("reg.example/app", "reg.example/app:latest"),
        ("localhost/app:1", "localhost/app:1"),
        ("reg:5000/app", "reg:5000/app:latest"),
    ],
)
def test_parses_images_as_docker_does(text: str, expected: str) -> None:
    assert str(parse_image(text)) == expected


@pytest.mark.covers("R07")
@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("LOCALHOST:5000", True),
        ("127.0.0.1", True),
        ("127.255.0.9:80", True),
        ("[::1]:5000", True),
        ("localhost.example", False),
        ("127.0.0.1.example", False),
        ("1127.0.0.1", False),
        ("10.0.0.1", False),
        ("[::2]", False),
        ("not a host", False),
    ],
)
def test_knows_this_machine(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_checks_give_back_what_is_right() -> None:
    assert check_host("reg.example:443") == "reg.example:443"
    assert check_tag("v1.0_x-Y") == "v1.0_x-Y"
    assert check_tag("x" * 128) == "x" * 128


def test_package_tags() -> None:
    package_hash = "pciyz3mcnwsea3kxfvomliqdagbtq7g5"
    tag = package_tag("greet", "2.1", package_hash)
    assert tag == f"greet-2.1-{package_hash}.spack"
    assert is_package_tag(tag)
    assert hash_of_tag(tag) == package_hash
    assert package_tag("greet", "main=2.1+git", package_hash) == f"greet-main_2.1_git-{package_hash}.spack"
    assert not is_package_tag("index.spack")
    assert not is_package_tag("latest")


def test_long_package_tags_keep_the_hash() -> None:
    package_hash = "pciyz3mcnwsea3kxfvomliqdagbtq7g5"
    tag = package_tag("n" * 100, "1" * 100, package_hash)
    assert len(tag) == 128
    assert hash_of_tag(tag) == package_hash
    assert check_tag(tag) == tag
