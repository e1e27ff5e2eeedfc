from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oci_binpkg.transport.auth import Challenge, choose, merge_scopes, parse_challenges, repository_of
from tests.support.effort import cpu_within

TOKENS = st.text(string.ascii_letters + string.digits + "!#$%&'*+.^_`|~-", min_size=1, max_size=12)
VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=30)
CHALLENGES = st.builds(Challenge, TOKENS.map(str.lower), st.dictionaries(TOKENS.map(str.lower), VALUES, max_size=4))


def written(challenge: Challenge) -> str:
    parameters = ", ".join(
        '{}="{}"'.format(name, value.replace("\\", "\\\\").replace('"', '\\"'))
        for name, value in challenge.parameters.items()
    )
    return f"{challenge.scheme} {parameters}".strip()


@pytest.mark.covers("R12")
@given(st.lists(CHALLENGES, min_size=1, max_size=4))
def test_what_is_written_is_read(challenges: list[Challenge]) -> None:
    assert parse_challenges(", ".join(map(written, challenges))) == tuple(challenges)


@pytest.mark.covers("R12")
@given(st.text())
def test_anything_is_read_without_an_exception(text: str) -> None:
    for challenge in parse_challenges(text):
        assert challenge.scheme == challenge.scheme.lower()


@pytest.mark.covers("R12", "F28")
@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("Basic", [("basic", {})]),
        ('BASIC Realm="Registry Realm"', [("basic", {"realm": "Registry Realm"})]),
        (
            'Bearer realm="https://auth.example/token",service="reg",scope="repository:a:pull,push"',
            [("bearer", {"realm": "https://auth.example/token", "service": "reg", "scope": "repository:a:pull,push"})],
        ),
        (
            "bearer realm=https://auth.example/token?a=b,service=reg",
            [("bearer", {"realm": "https://auth.example/token?a=b", "service": "reg"})],
        ),
        (
            'Basic realm="a, b", Bearer realm = "https://x/" , error="insufficient_scope"',
            [("basic", {"realm": "a, b"}), ("bearer", {"realm": "https://x/", "error": "insufficient_scope"})],
        ),
        ('Negotiate, NTLM TlRMTVNTUAAB, Basic realm="x"', [("negotiate", {}), ("ntlm", {}), ("basic", {"realm": "x"})]),
        (',, Basic realm="x",,', [("basic", {"realm": "x"})]),
        ('Bearer realm="a" service="b"', [("bearer", {"realm": "a", "service": "b"})]),
        ('Bearer realm="a\\"b\\\\c"', [("bearer", {"realm": 'a"b\\c'})]),
        ('Bearer realm="unfinished', [("bearer", {"realm": "unfinished"})]),
        ('Bearer realm="unfinished\\', [("bearer", {"realm": "unfinished"})]),
        ('Bearer realm="first", realm="second"', [("bearer", {"realm": "first"})]),
        ('realm="nobody"', []),
        ("\x00\x01", []),
        ("", []),
    ],
)
def test_headers_as_servers_write_them(header: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    assert parse_challenges(header) == tuple(Challenge(scheme, parameters) for scheme, parameters in expected)


def test_a_huge_header_is_read_quickly() -> None:
    assert len(parse_challenges('Bearer realm="' * 100_000)) == 1


@pytest.mark.covers("R12", "F28")
@pytest.mark.parametrize(
    ("header", "scheme"),
    [
        ('Basic realm="x", Bearer realm="https://good/"', "bearer"),
        ('Bearer realm="https://bad/", Basic realm="x"', "basic"),
        ('Bearer realm="https://bad/", Bearer realm="https://good/"', "bearer"),
        ('Negotiate, Basic realm="x"', "basic"),
        ('Bearer realm="https://bad/"', None),
        ('Bearer service="x"', None),
        ("Negotiate", None),
        ("", None),
    ],
)
def test_bearer_with_a_usable_realm_then_basic(header: str, scheme: str | None) -> None:
    chosen = choose(parse_challenges(header), lambda realm: "good" in realm)
    assert (chosen.scheme if chosen else None) == scheme


def test_missing_parameters_are_empty() -> None:
    challenge = Challenge("bearer")
    assert (challenge.realm, challenge.service, challenge.scopes, challenge.error) == ("", "", (), "")


@pytest.mark.covers("R13")
def test_scopes_of_one_repository_are_merged_the_first_stays_first() -> None:
    scopes = ("repository:b:pull", "repository:a:pull", "repository:b:pull,push", "registry:catalog:*", "aws", "aws")
    assert merge_scopes(scopes) == ("repository:b:pull,push", "repository:a:pull", "registry:catalog:*", "aws")


def test_the_repository_of_scopes() -> None:
    assert repository_of(("registry:catalog:*", "repository:host:5000/a/b:pull,push")) == "host:5000/a/b"
    assert repository_of(()) == ""


@pytest.mark.parametrize("piece", ["a", "a(", 'a="', "a=", " ", ",", "\\", '"', "a b(", "a ="])
def test_any_header_costs_little(piece: str) -> None:
    with cpu_within(2):
        parse_challenges(piece * (1_000_000 // len(piece)) + "(")


def test_what_follows_an_unreadable_word_is_read() -> None:
    assert [each.scheme for each in parse_challenges("@@@ aaa(bbb, Basic realm=x")] == ["bbb", "basic"]
