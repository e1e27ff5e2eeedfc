"""What signatures state beside the bytes they cover: signed with real keys, and compared with where they are found."""

from __future__ import annotations

import os
import re

import pytest

from oci_binpkg.cache.open import parse_location
from oci_binpkg.config.trust_policy import place_name
from oci_binpkg.errors import SignatureError
from oci_binpkg.signing.gpg import Status
from oci_binpkg.signing.keyring import Keyring
from oci_binpkg.signing.sign import read_clearsigned, sign_clear, sign_detached, verify_any, verify_detached
from oci_binpkg.signing.statement import PLACE_NOTATION, TAG_NOTATION, Signed, Site, Statement, stated
from tests.support.gpg_keys import TEXT, Keys, gpg_keys

__all__ = ["gpg_keys"]  # a fixture

TAG = "greet-2.0-6fytamqgzio2shuhlaie55hiv2m2stdw.spack"
HERE = "oci://registry.example/apps"
ELSEWHERE = "oci://registry.example/other"


@pytest.fixture
def keyring(gpg_keys: Keys, tmp_path, monkeypatch) -> Keyring:
    """The key `good` is trusted; the secret keys are the user's own."""
    monkeypatch.setenv("GNUPGHOME", gpg_keys.home.path)
    keyring = Keyring(os.fspath(tmp_path / "keys"))
    keyring.trust(gpg_keys.home.public(gpg_keys.good))
    return keyring


@pytest.mark.parametrize(
    "statement",
    [
        Statement(TAG, HERE),
        Statement(TAG),
        Statement("", "https://mirror.example/a%20b/%k"),
        Statement("a=b", "s3://bucket/" + "long/" * 100),
    ],
    ids=["both", "tag", "percent", "long"],
)
def test_a_statement_is_read_back_as_it_was_signed_in_both_forms(statement, keyring, gpg_keys):
    _, clear = read_clearsigned(sign_clear(TEXT, gpg_keys.good, keyring, statement=statement), "greet", keyring)
    beside = verify_detached(TEXT, sign_detached(TEXT, gpg_keys.good, keyring, statement=statement), "greet", keyring)
    for signed in (clear, beside):
        assert (signed.signer, signed.statement) == (gpg_keys.good, statement)
        assert signed.made > 1_600_000_000


def test_the_clear_signed_form_is_the_same_with_a_statement(keyring, gpg_keys):
    signed = sign_clear(TEXT, gpg_keys.good, keyring, statement=Statement(TAG, HERE))
    assert signed.startswith(b"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n" + TEXT)
    gpg_keys.home.gpg("--verify", stdin=signed)


def test_a_signature_without_a_statement_counts_everywhere(keyring, gpg_keys):
    signed = verify_detached(b"x", gpg_keys.home.detached(b"x", gpg_keys.good), "greet", keyring)
    assert signed.statement == Statement()
    Site(HERE, strict=True).check(signed, TAG, "greet")


def test_notations_that_the_signature_does_not_cover_state_nothing(keyring, gpg_keys):
    options = ("--sig-notation", f"comment@example.org={TAG}")
    signed = verify_detached(b"x", gpg_keys.home.detached(b"x", gpg_keys.good, *options), "greet", keyring)
    assert signed.statement == Statement()


def refused(signed: Signed, site: Site, tag: str = TAG) -> str:
    with pytest.raises(SignatureError) as caught:
        site.check(signed, tag, "greet")
    assert caught.value.exit_code == 14
    assert caught.value.hint
    return caught.value.message


def test_a_signature_for_another_tag_is_refused_wherever_it_is():
    signed = Signed("A", 1, Statement("zlib-1.3-x.spack", HERE))
    for site in (Site(HERE), Site(), Site(HERE, frozenset({ELSEWHERE}))):
        assert refused(signed, site) == f"greet: the signature is for zlib-1.3-x.spack, not for {TAG}"


def test_a_signature_for_another_repository_is_refused_unless_the_cache_is_a_copy_of_it():
    signed = Signed("A", 1, Statement(TAG, ELSEWHERE))
    assert refused(signed, Site(HERE, shown="lab")) == f"greet: the signature is for {ELSEWHERE}, not for lab"
    Site(HERE, frozenset({HERE, ELSEWHERE}), strict=True).check(signed, TAG, "greet")
    Site(ELSEWHERE).check(signed, TAG, "greet")


@pytest.mark.parametrize("name", ["", "https://mirror.example/apps", "s3://bucket/apps"])
def test_another_kind_of_address_may_be_the_same_place_which_is_told_unless_the_origins_are_known(name):
    told: list[str] = []
    signed = Signed("A", 1, Statement(TAG, HERE))
    Site(name, shown="lab", warn=told.append).check(signed, TAG, "greet")
    assert len(told) == 1
    assert HERE in told[0]
    assert "origins" in told[0]
    assert "not for" in refused(signed, Site(name, frozenset({"https://other.example"}), strict=True))


def test_the_one_for_this_tag_is_found_among_those_for_others(keyring, gpg_keys):
    site = Site(HERE)

    def sign(tag: str, place: str = HERE) -> bytes:
        return sign_detached(b"manifest", gpg_keys.good, keyring, statement=Statement(tag, place))

    others = [sign(f"other-{number}") for number in range(3)] + [sign(TAG, ELSEWHERE)]
    accept = lambda signed: site.check(signed, TAG, "greet")  # noqa: E731
    found = verify_any(b"manifest", [*others, sign(TAG)], "greet", keyring, accept=accept)
    assert found.statement == Statement(TAG, HERE)
    with pytest.raises(SignatureError, match="the signature is for"):
        verify_any(b"manifest", others, "greet", keyring, accept=accept)


@pytest.mark.parametrize(
    "lines",
    [
        [("NOTATION_NAME", TAG_NOTATION), ("NOTATION_DATA", "a"), ("NOTATION_NAME", TAG_NOTATION)],
        [("NOTATION_NAME", PLACE_NOTATION), ("NOTATION_DATA", "a%0Ab")],
        [("NOTATION_NAME", PLACE_NOTATION), ("NOTATION_DATA", "a%1B[31m")],
        [("NOTATION_NAME", TAG_NOTATION), ("NOTATION_DATA", "%E2%80%AE")],
        [("NOTATION_NAME", TAG_NOTATION), ("NOTATION_DATA", "%FF")],
        [("NOTATION_NAME", TAG_NOTATION), ("NOTATION_DATA", "a" * 2000)],
    ],
    ids=["twice", "line feed", "escape", "override", "not utf-8", "long"],
)
def test_a_statement_with_two_readings_or_unprintable_text_is_refused(lines):
    with pytest.raises(SignatureError, match=re.escape(lines[0][1])):
        stated([Status(keyword, (value,)) for keyword, value in lines], "greet")


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("oci://registry.example:5000/apps", "oci://registry.example:5000/apps"),
        ("oci+http://registry.example/apps", "oci://registry.example/apps"),
        ("docker://registry.example/apps/", "oci://registry.example/apps"),
        ("oci-layout:/srv/cache", ""),
        ("file:///srv/mirror", ""),
        ("https://mirror.example/apps/", "https://mirror.example/apps"),
        ("http://mirror.example:80/apps", "https://mirror.example/apps"),
        ("https://Mirror.Example:443/x/../apps/a%62", "https://mirror.example/apps/ab"),
        ("oci://Registry.example:443/apps", "oci://registry.example/apps"),
        ("oci+http://127.0.0.1:5000/apps", "oci://localhost:5000/apps"),
        ("sftp://user@host.example/apps", "sftp://host.example/apps"),
        ("s3://bucket/apps", "s3://bucket/apps"),
    ],
)
def test_places_have_one_name_and_paths_have_none(address, name):
    assert place_name(parse_location(address)) == name
