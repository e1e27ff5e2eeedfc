"""Signing and verifying with real keys: what is believed, and everything that is not."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from oci_binpkg.cli.hints import words
from oci_binpkg.errors import KeyringError, LocalDiskError, SignatureError, UsageError
from oci_binpkg.signing.clearsign import split
from oci_binpkg.signing.gpg import ProgramResult, run_program
from oci_binpkg.signing.keyring import Keyring
from oci_binpkg.signing.sign import (
    read_clearsigned,
    sign_clear,
    sign_detached,
    verify_any,
    verify_detached,
)
from tests.support.golden import GOLDEN
from tests.support.gpg_keys import TEXT, Keys, gpg_home, gpg_keys, recorded

__all__ = ["gpg_keys"]  # a fixture

V3 = GOLDEN / "v3-signed"
V2 = GOLDEN / "v2-signed"
V3_KEY = "4736BEAE4D40A00FB336279E63CF01CA5202F806"
V2_KEY = "DB65B17EF5666FE79B8C9A6AAEA9A0CC64B361DA"
SPACKS_READER = re.compile(
    r"^-----BEGIN PGP SIGNED MESSAGE-----\s+Hash:\s+[^\s]+\s+(.+)-----BEGIN PGP SIGNATURE-----",
    re.MULTILINE | re.DOTALL,
)


def verify_clearsigned(data, what, keyring):
    return read_clearsigned(data, what, keyring)[0]


@pytest.fixture(scope="module")
def keyring(gpg_keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Keyring:
    """All keys but `other` are trusted."""
    keyring = Keyring(os.fspath(tmp_path_factory.mktemp("trusted") / "keys"))
    for key in (gpg_keys.good, gpg_keys.expired, gpg_keys.revoked, gpg_keys.retired, gpg_keys.old):
        keyring.trust(gpg_keys.home.public(key))
    return keyring


@pytest.fixture
def signer(gpg_keys: Keys, monkeypatch: pytest.MonkeyPatch, keyring: Keyring) -> Keyring:
    """The home with the secret keys is the user's own."""
    monkeypatch.setenv("GNUPGHOME", gpg_keys.home.path)
    return keyring


def refused(data: bytes, keyring: Keyring, what: str = "greet.json") -> str:
    with pytest.raises(SignatureError) as caught:
        verify_clearsigned(data, what, keyring)
    assert caught.value.message.startswith(what)
    return str(caught.value)


def published_key(mirror: Path) -> bytes:
    if mirror == V2:
        return (V2 / f"build_cache/_pgp/{V2_KEY}.pub").read_bytes()
    manifest = json.loads((V3 / f"v3/manifests/key/{V3_KEY}.key.manifest.json").read_bytes())
    checksum = manifest["data"][0]["checksum"]
    return (V3 / "blobs/sha256" / checksum[:2] / checksum).read_bytes()


GOLDEN_DOCUMENTS = {
    V3: sorted((V3 / "v3/manifests/spec").glob("*/*.json")),
    V2: sorted((V2 / "build_cache").glob("*.spec.json.sig")),
}


@pytest.mark.covers("B37")
@pytest.mark.parametrize(("mirror", "key"), [(V3, V3_KEY), (V2, V2_KEY)], ids=["v3", "v2"])
def test_what_spack_signed_is_believed_once_its_published_key_is_trusted_and_not_before(mirror, key, tmp_path):
    keyring = Keyring(os.fspath(tmp_path / "keys"))
    assert [one.fingerprint for one in keyring.inspect(published_key(mirror))] == [key]
    first = GOLDEN_DOCUMENTS[mirror][0].read_bytes()
    assert f"signed by the key {key}, which is not trusted" in refused(first, keyring)
    assert keyring.trust(published_key(mirror)) == (key,)
    for path in GOLDEN_DOCUMENTS[mirror]:
        text = verify_clearsigned(path.read_bytes(), path.name, keyring)
        assert isinstance(json.loads(text), dict)
        assert text in path.read_bytes()
    keyring.untrust(key)
    assert "not trusted" in refused(first, keyring)


def test_what_we_sign_verifies_here_and_with_spacks_way_of_reading(signer, gpg_keys):
    signed = sign_clear(TEXT, gpg_keys.good, signer)
    assert verify_clearsigned(signed, "greet.json", signer) == TEXT
    match = SPACKS_READER.search(signed.decode())
    assert match is not None
    assert match[1].encode() == TEXT
    assert signed.startswith(b"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n{")
    gpg_keys.home.gpg("--verify", stdin=signed)


def test_a_text_without_a_last_line_end_gets_one(signer):
    signed = sign_clear(TEXT.rstrip(), "good@example.org", signer)
    assert verify_clearsigned(signed, "greet.json", signer) == TEXT


@pytest.mark.parametrize("text", [b"a \n", b"-1\n", b"x" * 19_001, b"\xff", b"a\r\n"])
def test_text_that_a_signature_would_not_cover_faithfully_is_not_signed(signer, gpg_keys, text):
    with pytest.raises(SignatureError, match="the document to sign"):
        sign_clear(text, gpg_keys.good, signer)


@pytest.mark.parametrize("key", ["nobody@example.org", "expired@example.org"])
def test_signing_with_a_key_that_cannot_sign_says_so(signer, key):
    with pytest.raises(KeyringError, match="cannot sign with the key") as caught:
        sign_clear(TEXT, key, signer)
    assert "--list-secret-keys" in words(caught.value.hint)
    assert "GNUPG" not in str(caught.value)


@pytest.mark.parametrize("key", ["", " ", "--homedir", "a\nb"])
def test_what_cannot_name_a_key_is_a_usage_error(signer, key):
    with pytest.raises(UsageError, match="not the name of a key"):
        sign_clear(TEXT, key, signer)


def test_a_passphrase_that_cannot_be_asked_for_is_explained(tmp_path, monkeypatch):
    with gpg_home() as home:
        key = home.make("locked", passphrase="secret")
        home.end()
        monkeypatch.setenv("GNUPGHOME", home.path)
        with pytest.raises(KeyringError) as caught:
            sign_detached(b"x", key, Keyring(os.fspath(tmp_path / "keys")))
    assert "GPG_TTY" in caught.value.hint


def test_keys_kept_in_our_own_directory_sign_and_the_agent_ends_with_the_keyring(gpg_keys):
    with gpg_home() as home:
        home.gpg("--import", stdin=gpg_keys.home.secret(gpg_keys.good))
        home.end()
        with Keyring(home.path, own_secrets=True) as keyring:
            signed = sign_clear(TEXT, gpg_keys.good, keyring)
            assert verify_clearsigned(signed, "greet.json", keyring) == TEXT
            assert has_agent(home.path)
        assert not has_agent(home.path)


def has_agent(home: str) -> bool:
    command = ["gpg-connect-agent", "--no-autostart", "--homedir", home, "/bye"]
    return b"no gpg-agent" not in subprocess.run(command, capture_output=True, timeout=30, check=False).stderr


def test_verifying_starts_no_agent_and_touches_nothing_of_the_users(gpg_keys, tmp_path, isolated_home):
    keyring = Keyring(os.fspath(tmp_path / "keys"))
    keyring.trust(gpg_keys.home.public(gpg_keys.good))
    verify_clearsigned(gpg_keys.home.clear(TEXT, gpg_keys.good), "greet.json", keyring)
    assert not [name for name in os.listdir(keyring.home) if name.startswith("S.")]
    assert not (isolated_home / ".gnupg").exists()
    assert os.stat(keyring.home).st_mode & 0o777 == 0o700


@pytest.mark.parametrize("suffix", ["", "!"], ids=["subkey", "primary"])
def test_a_key_counts_with_its_subkeys_though_one_of_them_has_expired(keyring, gpg_keys, suffix):
    signed = gpg_keys.home.clear(TEXT, gpg_keys.old + suffix)
    assert verify_clearsigned(signed, "greet.json", keyring) == TEXT


# ---- B32: who signed, and how


@pytest.mark.covers("B32")
def test_an_unsigned_document_is_refused(keyring):
    assert "greet.json is not signed" in refused(TEXT, keyring)


@pytest.mark.covers("B32", "B37")
def test_a_signature_by_an_unknown_key_is_refused_with_its_fingerprint(keyring, gpg_keys):
    said = refused(gpg_keys.home.clear(TEXT, gpg_keys.other), keyring)
    assert f"signed by the key {gpg_keys.other}, which is not trusted" in said
    assert "from its owner" in said


@pytest.mark.covers("B32")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("expired", "the key that signed it has expired"),
        ("revoked", "the key that signed it has been revoked"),
        ("retired", "a key that is not meant for signing data"),
        ("expired signature", "the signature has expired"),
    ],
)
def test_a_signature_by_a_key_that_does_not_count_any_more_is_refused(keyring, gpg_keys, name, reason):
    assert reason in refused(gpg_keys.documents[name], keyring)


@pytest.mark.covers("B32")
@pytest.mark.parametrize("name", ["SHA1", "SHA224", "RIPEMD160"])
def test_a_weak_hash_is_refused(keyring, gpg_keys, name):
    signed = gpg_keys.home.clear(TEXT, gpg_keys.good, "--digest-algo", name)
    assert name in refused(signed, keyring)
    assert "signed with" in refused(signed.replace(f"Hash: {name}".encode(), b"Hash: SHA256"), keyring)


@pytest.mark.covers("B32")
def test_two_signatures_are_refused_whether_one_is_bad_or_none(keyring, gpg_keys):
    two = gpg_keys.home.clear(TEXT, gpg_keys.good, "--local-user", gpg_keys.other)
    assert "more than one signature" in refused(two, keyring)
    same = gpg_keys.home.clear(TEXT, gpg_keys.good, "--local-user", gpg_keys.old)
    assert "more than one signature" in refused(same, keyring)


@pytest.mark.covers("B32")
def test_a_detached_signature_holds_for_exactly_its_bytes(signer, gpg_keys):
    data = bytes(range(256)) * 10
    signature = sign_detached(data, gpg_keys.good, signer)
    verify_detached(data, signature, "the manifest", signer)
    for other in (data + b"\n", data[:-1], b"", data.replace(b"\0", b"\1", 1)):
        with pytest.raises(SignatureError, match="the manifest: its content is not what was signed"):
            verify_detached(other, signature, "the manifest", signer)


@pytest.mark.covers("B32")
@pytest.mark.parametrize(
    ("key", "options", "at", "reason"),
    [
        ("other", (), "", "not trusted"),
        ("good", ("--digest-algo", "SHA1"), "", "signed with SHA1"),
        ("good", ("--textmode",), "", "not a signature over exact bytes"),
        ("expired", (), "20200101T060000", "has expired"),
        ("good", ("--local-user", "old"), "", "more than one signature"),
    ],
)
def test_a_detached_signature_that_does_not_count_is_refused(keyring, gpg_keys, key, options, at, reason):
    signature = gpg_keys.home.detached(b"data", getattr(gpg_keys, key), *options, at=at)
    with pytest.raises(SignatureError, match=reason):
        verify_detached(b"data", signature, "the manifest", keyring)


@pytest.mark.covers("B32")
def test_one_good_signature_among_those_that_anybody_attached_is_enough(signer, gpg_keys):
    good = sign_detached(b"manifest", gpg_keys.good, signer)
    other = gpg_keys.home.detached(b"manifest", gpg_keys.other)
    verify_any(b"manifest", [b"nonsense", other, good], "greet", signer)
    with pytest.raises(SignatureError, match="which is not trusted"):
        verify_any(b"manifest", [b"nonsense", other], "greet", signer)
    with pytest.raises(SignatureError, match="greet is not signed"):
        verify_any(b"manifest", [], "greet", signer)


# ---- B33, B34: what surrounds the text


@pytest.mark.covers("B33")
def test_text_around_the_block_is_refused_though_gpg_finds_a_good_signature(keyring, gpg_keys):
    signed = gpg_keys.home.clear(TEXT, gpg_keys.good)
    evil = b'{"package":"evil"}\n'
    for data in (evil + signed, signed + evil, evil + signed + evil, b"\n" + signed, signed + b"\n"):
        gpg_keys.home.gpg("--verify", stdin=data)
        refused(data, keyring)


@pytest.mark.covers("B33")
def test_two_blocks_are_refused_in_any_order(keyring, gpg_keys):
    good = gpg_keys.home.clear(TEXT, gpg_keys.good)
    evil = gpg_keys.home.clear(b"evil\n", gpg_keys.other)
    for data in (good + good, good + evil, evil + good):
        assert "more than one signed block" in refused(data, keyring)


@pytest.mark.covers("B34")
@pytest.mark.parametrize("blank", ["\v", "\f", "\x1c", "\xa0"])
def test_a_header_line_that_only_one_of_two_readers_takes_for_one_is_refused(keyring, gpg_keys, blank):
    signed = gpg_keys.home.clear(TEXT, gpg_keys.good, "--digest-algo", "SHA512")
    mark = b"-----BEGIN PGP SIGNATURE-----"
    refused(signed.replace(mark, mark + blank.encode() + b"\n" + mark), keyring)
    refused(signed.replace(b"Hash: SHA512\n", b"Hash: SHA512" + blank.encode() + b"\nevil\n"), keyring)


@pytest.mark.covers("B34")
def test_the_signed_text_as_an_ordinary_message_is_refused(keyring, gpg_keys):
    message = gpg_keys.home.gpg("--armor", "--local-user", gpg_keys.good, "--output", "-", "--sign", stdin=TEXT)
    assert "ordinary PGP message" in refused(message, keyring)
    binary = gpg_keys.home.gpg("--local-user", gpg_keys.good, "--output", "-", "--sign", stdin=TEXT)
    assert "is not signed" in refused(binary, keyring)


@pytest.mark.covers("B34")
def test_a_document_without_dash_escapes_and_one_with_them_are_refused(keyring, gpg_keys):
    plain = gpg_keys.home.clear(TEXT, gpg_keys.good, "--not-dash-escaped")
    assert "'NotDashEscaped' is not accepted" in refused(plain, keyring)
    assert "starts with a dash" in refused(gpg_keys.home.clear(b"- x\n", gpg_keys.good), keyring)


# ---- B35, B36: what is signed


def test_a_good_signature_presented_for_another_package_gives_the_text_that_names_its_own(keyring, gpg_keys):
    signed = gpg_keys.home.clear(TEXT, gpg_keys.good)
    assert json.loads(verify_clearsigned(signed, "other-1.0", keyring))["package"] == "greet"


@pytest.mark.covers("B36")
def test_a_changed_digest_in_the_signed_text_is_refused(keyring, gpg_keys):
    signed = gpg_keys.home.clear(TEXT, gpg_keys.good)
    assert "not what was signed" in refused(signed.replace(b"6fyt", b"7fyt"), keyring)


@pytest.mark.covers("B36")
def test_a_signature_moved_to_another_text_is_refused(keyring, gpg_keys):
    _, signature = split(gpg_keys.home.clear(TEXT, gpg_keys.good), "greet.json")
    other = gpg_keys.home.clear(b'{"package":"other"}\n', gpg_keys.good)
    _, replaced = split(other, "other.json")
    assert "not what was signed" in refused(other.replace(replaced, signature), keyring)


# ---- B38: size and time


@pytest.mark.covers("B38")
def test_a_huge_signature_never_reaches_gpg(tmp_path):
    calls, run = recorded()
    keyring = Keyring(os.fspath(tmp_path / "keys"), run=run)
    block = b"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{}\n-----BEGIN PGP SIGNATURE-----\n\n"
    assert "at most" in refused(block + b"A" * 10_000_000, keyring)
    with pytest.raises(SignatureError, match="at most"):
        verify_detached(b"x", b"A" * 100_000_000, "greet.json", keyring)
    assert calls == []


@pytest.mark.covers("B38")
def test_compressed_packets_never_reach_gpg(gpg_keys, tmp_path):
    calls, run = recorded()
    keyring = Keyring(os.fspath(tmp_path / "keys"), run=run)
    message = gpg_keys.home.gpg("--armor", "--store", "--output", "-", "-z", "9", stdin=bytes(1_000_000))
    bomb = message.replace(b"PGP MESSAGE", b"PGP SIGNATURE")
    with pytest.raises(SignatureError):
        verify_detached(b"x", bomb, "greet.json", keyring)
    assert calls == []


@pytest.mark.covers("B38")
def test_gpg_is_ended_when_it_takes_too_long(gpg_keys, tmp_path):
    slow = tmp_path / "gpg"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    keyring = Keyring(os.fspath(tmp_path / "keys"), gpg=os.fspath(slow), timeout=0.1)
    with pytest.raises(KeyringError, match=r"ended after 0\.1 seconds"):
        verify_clearsigned(gpg_keys.home.clear(TEXT, gpg_keys.good), "greet.json", keyring)


# ---- what gpg says is judged as a whole


def judged(
    gpg_keys: Keys, keyring: Keyring, *, code: int = 0, change: tuple[str, str] = ("", ""), text: bytes = b""
) -> str:
    """Verify a good document with another word of gpg's."""

    def run(arguments: Sequence[str], stdin: bytes, timeout: float) -> ProgramResult:
        done = run_program(arguments, stdin, timeout)
        if "--verify" not in arguments:
            return done
        if text:
            Path(arguments[arguments.index("--output") + 1]).write_bytes(text)
        return ProgramResult(code, re.sub(*change, done.stdout.decode()).encode(), b"gpg: said\x1b something\n")

    lying = Keyring(keyring.home, run=run)
    return refused(gpg_keys.home.clear(TEXT, gpg_keys.good, "--digest-algo", "SHA512"), lying)


@pytest.mark.covers("B32")
@pytest.mark.parametrize(
    "line",
    [
        "ERRSIG 0 0 0 0 0 4",
        "FAILURE x 1",
        "BADARMOR",
        "DECRYPTION_OKAY",
        "SOMETHING_NEW",
        "VALIDSIG x",
        "NEWSIG",
        "GOODSIG x",
        "BADSIG x y",
        "REVKEYSIG x y",
    ],
)
def test_any_word_against_the_signature_refuses_it_though_gpg_ends_well(gpg_keys, keyring, line):
    judged(gpg_keys, keyring, change=("$", f"\n[GNUPG:] {line}\n"))


@pytest.mark.covers("B32", "B33")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ((r"\[GNUPG:\] VALIDSIG.*\n", ""), "no valid signature"),
        ((r"\[GNUPG:\] GOODSIG.*\n", ""), "no valid signature"),
        ((r"(VALIDSIG \S+) .*", r"\1"), "does not say whose"),
        ((r" 10 01 (\S+)\n", r" 2 01 \1\n"), "weak hash"),
        ((r" 10 01 (\S+)\n", r" x 01 \1\n"), "weak hash"),
        ((r" 10 01 (\S+)\n", r" 10 00 \1\n"), "of another kind"),
        ((r" 10 01 (\S+)\n", r" 10 01 " + "A" * 40 + "\n"), f"by the key {'A' * 40}, which is not trusted"),
    ],
)
def test_a_valid_signature_must_be_told_in_full(gpg_keys, keyring, change, reason):
    assert reason in judged(gpg_keys, keyring, change=change)


@pytest.mark.covers("B33")
def test_a_failing_gpg_is_believed_whatever_it_wrote(gpg_keys, keyring):
    assert "said something" in judged(gpg_keys, keyring, code=2)


@pytest.mark.covers("B33")
def test_only_the_text_that_gpg_gives_out_counts(gpg_keys, keyring):
    assert "another text" in judged(gpg_keys, keyring, text=b"other\n")


def test_a_signing_gpg_that_signs_something_else_is_noticed(gpg_keys, tmp_path):
    other = gpg_keys.home.clear(b"other\n", gpg_keys.good)
    keyring = Keyring(os.fspath(tmp_path / "keys"), run=lambda *_: ProgramResult(0, other, b""))
    with pytest.raises(KeyringError, match="another text"):
        sign_clear(TEXT, gpg_keys.good, keyring)


def test_without_a_place_for_temporary_files_there_is_a_clear_error(gpg_keys, keyring, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", os.fspath(tmp_path / "none"))
    with pytest.raises(LocalDiskError, match="no place for temporary files"):
        verify_clearsigned(gpg_keys.home.clear(TEXT, gpg_keys.good), "greet.json", keyring)


def test_an_output_that_is_gone_is_a_local_problem(gpg_keys, keyring):
    signed = gpg_keys.home.clear(TEXT, gpg_keys.good)

    def run(arguments: Sequence[str], stdin: bytes, timeout: float) -> ProgramResult:
        done = run_program(arguments, stdin, timeout)
        if "--output" in arguments:
            Path(arguments[arguments.index("--output") + 1]).unlink()
        return done

    with pytest.raises(LocalDiskError, match="cannot read"):
        verify_clearsigned(signed, "greet.json", Keyring(keyring.home, run=run))


@pytest.fixture(scope="module", autouse=True)
def no_agent_is_left(gpg_keys: Keys, keyring: Keyring) -> Iterator[None]:
    yield
    assert not has_agent(keyring.home)
