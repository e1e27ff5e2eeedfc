"""The keyring of trusted keys."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

import pytest

from oci_binpkg.errors import ContentError, KeyringError, LocalDiskError, NotFoundError, UsageError
from oci_binpkg.signing.gpg import Gpg, ProgramResult, statuses, words
from oci_binpkg.signing.keyring import Keyring, parse_fingerprint
from tests.support.gpg_keys import gpg_home, gpg_keys, recorded

__all__ = ["gpg_keys"]  # a fixture


@pytest.fixture
def keyring(tmp_path):
    return Keyring(os.fspath(tmp_path / "below" / "keys"))


def test_a_keyring_that_does_not_exist_has_no_keys_and_looking_creates_none(keyring):
    assert keyring.keys() == []
    assert keyring.fingerprints() == frozenset()
    assert not os.path.exists(keyring.home)


def test_trusted_keys_are_listed_with_what_is_known_about_them(keyring, gpg_keys):
    assert keyring.trust(gpg_keys.home.public(gpg_keys.good)) == (gpg_keys.good,)
    (key,) = keyring.keys()
    assert (key.fingerprint, key.user_ids) == (gpg_keys.good, ("good <good@example.org>",))
    assert key.created > 1_600_000_000
    assert (key.expires, key.trusted, key.revoked, key.expired, key.signs) == (None, True, False, False, True)
    assert keyring.fingerprints() == {gpg_keys.good}


def test_several_keys_in_one_file_are_all_taken_in(keyring, gpg_keys):
    both = gpg_keys.home.public(gpg_keys.good) + gpg_keys.home.public(gpg_keys.other)
    assert sorted(keyring.trust(both)) == sorted([gpg_keys.good, gpg_keys.other])
    listed = keyring.keys()
    assert [key.fingerprint for key in listed] == sorted([gpg_keys.good, gpg_keys.other])


@pytest.mark.covers("B37")
def test_a_key_can_be_looked_at_without_trusting_it(keyring, gpg_keys):
    (key,) = keyring.inspect(gpg_keys.home.public(gpg_keys.good))
    assert (key.fingerprint, key.trusted) == (gpg_keys.good, False)
    assert keyring.keys() == []
    keyring.trust(gpg_keys.home.public(gpg_keys.good))
    (key,) = keyring.inspect(gpg_keys.home.public(gpg_keys.good))
    assert key.trusted


@pytest.mark.covers("B32")
def test_expired_revoked_and_retired_keys_are_shown_as_such(keyring, gpg_keys):
    for name in ("expired", "revoked", "retired"):
        keyring.trust(gpg_keys.home.public(getattr(gpg_keys, name)))
    listed = keyring.keys()
    found = {key.fingerprint: key for key in listed}
    assert found[gpg_keys.expired].expired
    assert found[gpg_keys.expired].expires == 1577836800 + 86400
    assert found[gpg_keys.revoked].revoked
    assert not found[gpg_keys.retired].signs
    assert gpg_keys.revoked not in keyring.fingerprints()


def test_a_key_that_is_taken_in_again_brings_its_revocation(keyring):
    with gpg_home() as home:
        key = home.make("once")
        keyring.trust(home.public(key))
        assert keyring.fingerprints() == {key}
        home.revoke(key)
        keyring.trust(home.public(key))
    assert keyring.fingerprints() == frozenset()
    assert keyring.keys()[0].revoked


def test_a_key_that_is_not_trusted_any_more_is_gone(keyring, gpg_keys):
    keyring.trust(gpg_keys.home.public(gpg_keys.good))
    keyring.trust(gpg_keys.home.public(gpg_keys.other))
    keyring.untrust(gpg_keys.good.lower())
    assert keyring.fingerprints() == {gpg_keys.other}
    with pytest.raises(NotFoundError, match="no trusted key"):
        keyring.untrust(gpg_keys.good)


def test_the_public_half_of_a_signing_key_is_exported_from_the_users_keyring(keyring, gpg_keys, monkeypatch):
    monkeypatch.setenv("GNUPGHOME", gpg_keys.home.path)
    data = keyring.export_signer("good@example.org")
    assert [key.fingerprint for key in keyring.inspect(data)] == [gpg_keys.good]
    with pytest.raises(KeyringError, match=r"no key 'nobody@example\.org'"):
        keyring.export_signer("nobody@example.org")
    with pytest.raises(KeyringError, match=r"'example\.org' names several keys: .*, "):
        keyring.export_signer("example.org")


def test_a_secret_key_is_never_taken_in(keyring, gpg_keys):
    with pytest.raises(ContentError, match="holds a secret key"):
        keyring.trust(gpg_keys.home.secret(gpg_keys.good), "the mirror's key")
    assert keyring.keys() == []


@pytest.mark.parametrize("data", [b"", b"nonsense", b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nAAAA\n"])
def test_a_file_without_keys_is_refused(keyring, data):
    with pytest.raises(ContentError, match="the key file holds no public key"):
        keyring.trust(data)


@pytest.mark.covers("B38")
def test_a_huge_key_file_is_refused_unread(tmp_path):
    calls, run = recorded()
    with pytest.raises(ContentError, match="at most 1048576"):
        Keyring(os.fspath(tmp_path), run=run).inspect(bytes(1024 * 1024 + 1))
    assert calls == []


def test_a_key_whose_owner_has_an_odd_name_is_shown_printable(keyring):
    with gpg_home() as home:
        home.gpg("--quick-gen-key", "Zoë: a\\b <zoe@example.org>", "ed25519", "sign,cert", "0")
        data = home.public("zoe@example.org")
    (key,) = keyring.inspect(data)
    assert key.user_ids[0].startswith("Zoë: a")


def test_a_listing_with_control_characters_is_shown_printable(tmp_path):
    listing = (
        b"pub:-:255:22:X:1:::-:::scSC:\nfpr:::::::::AB:\nuid:-::::1::H::a\\x3ab\\x1b[31m\\xff::\nuid:-::::::::b:\n"
    )
    keyring = Keyring(os.fspath(tmp_path), run=lambda *_: ProgramResult(0, listing, b""))
    assert keyring.keys()[0].user_ids == ("a:b?[31mÿ", "b")


def test_gpg_that_takes_nothing_in_though_it_says_so_is_noticed(gpg_keys, tmp_path):
    listing = b"pub:-:255:22:X:1:::-:::scSC:\nfpr:::::::::AB:\n"

    def run(arguments: Sequence[str], stdin: bytes, timeout: float) -> ProgramResult:
        return ProgramResult(0, listing if "--show-keys" in arguments else b"", b"")

    with pytest.raises(ContentError, match="does not take in AB"):
        Keyring(os.fspath(tmp_path), run=run).trust(b"key")


@pytest.mark.parametrize("text", ["", "A" * 8, "A" * 16, "g" * 40, "A" * 41, "--yes"])
def test_nothing_but_a_whole_fingerprint_names_a_key(text):
    with pytest.raises(UsageError, match="not a fingerprint"):
        parse_fingerprint(text)


def test_a_fingerprint_may_have_blanks_and_lower_case():
    assert parse_fingerprint("0x" + "abcd " * 10) == "ABCD" * 10
    assert parse_fingerprint("a" * 64) == "A" * 64


def test_without_gpg_the_error_says_what_to_install(tmp_path):
    with pytest.raises(KeyringError, match="there is no program '/nowhere/gpg'") as caught:
        Keyring(os.fspath(tmp_path), gpg="/nowhere/gpg").keys()
    assert caught.value.hint == "install the package gnupg"
    assert caught.value.exit_code == 15


def test_a_gpg_that_may_not_be_run_is_an_error(tmp_path):
    (tmp_path / "gpg").write_text("")
    with pytest.raises(KeyringError, match="cannot run"):
        Keyring(os.fspath(tmp_path), gpg=os.fspath(tmp_path / "gpg")).keys()


def test_a_keyring_that_cannot_be_created_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LocalDiskError, match="cannot create the keyring"):
        Keyring(os.fspath(tmp_path / "file" / "keys")).inspect(b"x")


def test_a_damaged_keyring_is_an_error_and_not_an_empty_one(tmp_path):
    (tmp_path / "pubring.kbx").write_bytes(b"nonsense" * 100)
    os.chmod(tmp_path, 0o700)
    keyring = Keyring(os.fspath(tmp_path))
    with pytest.raises(KeyringError, match="cannot list the keys"):
        keyring.keys()


def test_closing_a_keyring_that_signed_nothing_runs_nothing(tmp_path):
    calls, run = recorded()
    with Keyring(os.fspath(tmp_path), run=run, own_secrets=True):
        pass
    Gpg("", run=run).end_agents()
    assert calls == []


def test_a_path_too_long_for_an_agent_is_explained(tmp_path):
    home = tmp_path / ("x" * 120)
    home.mkdir(mode=0o700)
    gpg = Gpg(os.fspath(home))
    arguments = ("--pinentry-mode", "loopback", "--passphrase", "", "--quick-gen-key", "x")
    with pytest.raises(KeyringError) as caught:
        gpg.checked(*arguments, task="make a key", agent=True)
    assert "too long for its socket" in caught.value.hint


def test_what_gpg_says_is_cut_and_printable():
    said = ProgramResult(
        2, b"", b"gpg: WARNING: x\nWARNING: y\n[GNUPG:] FAILURE sign\ngpg: bad\x1b[31m\n" + b"z" * 1000
    )
    assert len(words(said)) == 300
    assert "\x1b" not in words(said)
    assert words(ProgramResult(3, b"", b"")) == "gpg ended with code 3"
    assert statuses(b"[GNUPG:] NEWSIG\nother\n")[0].keyword == "NEWSIG"


def test_the_user_directory_of_gpg_is_not_created_by_our_keyring(keyring, gpg_keys, isolated_home):
    keyring.trust(gpg_keys.home.public(gpg_keys.good))
    assert not (isolated_home / ".gnupg").exists()
    command = ["gpg-connect-agent", "--no-autostart", "--homedir", keyring.home, "/bye"]
    assert b"no gpg-agent" in subprocess.run(command, capture_output=True, timeout=30, check=False).stderr
