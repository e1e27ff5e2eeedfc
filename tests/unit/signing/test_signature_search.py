"""The good signature is found among many, whatever the others say, at a bounded cost. With real keys."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from oci_binpkg.errors import SignatureError
from oci_binpkg.model.content import Blob
from oci_binpkg.signing.armor import read_signature
from oci_binpkg.signing.gpg import ProgramResult, run_program
from oci_binpkg.signing.keyring import Keyring
from oci_binpkg.signing.sign import verify_any
from oci_binpkg.store.referrers import SIGNATURE_ARTIFACT, attach, attach_signature, iter_signatures, signatures
from tests.support.effort import cpu_within
from tests.support.gpg_keys import Keys, gpg_keys
from tests.support.memory_store import MemoryStore
from tests.support.stores import put_image, small_image

__all__ = ["gpg_keys"]  # a fixture

DATA = b"the bytes of a manifest"


@pytest.fixture
def calls() -> list[list[str]]:
    """How gpg was called."""
    return []


@pytest.fixture
def keyring(gpg_keys: Keys, tmp_path, calls) -> Keyring:
    """The keys `good`, `old` and `expired` are trusted."""

    def run(arguments, stdin: bytes, timeout: float) -> ProgramResult:
        calls.append(list(arguments))
        return run_program(arguments, stdin, timeout)

    keyring = Keyring(os.fspath(tmp_path / "keys"), run=run)
    for key in (gpg_keys.good, gpg_keys.old, gpg_keys.expired, gpg_keys.revoked):
        keyring.trust(gpg_keys.home.public(key))
    keyring.key_ids()
    calls.clear()
    return keyring


@pytest.fixture
def good(gpg_keys: Keys) -> bytes:
    return gpg_keys.home.detached(DATA, gpg_keys.good, "--digest-algo", "SHA512")


def variants(armored: bytes, count: int) -> Iterator[bytes]:
    """Signatures that differ from a good one in what proves it, and in nothing else: they look right until verified."""
    packet = read_signature(armored, "it").packet
    for number in range(count):
        changed = packet[:-4] + number.to_bytes(4, "big")
        text = base64.encodebytes(changed).decode()
        yield f"-----BEGIN PGP SIGNATURE-----\n\n{text}-----END PGP SIGNATURE-----\n".encode()


def test_the_good_one_is_found_among_ten_thousand_of_other_keys_without_giving_these_to_gpg(
    keyring, calls, gpg_keys, good
):
    other = gpg_keys.home.detached(DATA, gpg_keys.other)
    crowd = list(variants(other, 10_000))
    for place in (0, 5_000, 10_000):
        calls.clear()
        assert verify_any(DATA, [*crowd[:place], good, *crowd[place:]], "greet", keyring).signer == gpg_keys.good
        assert len(calls) == 1


def test_the_good_one_is_found_among_ten_thousand_by_the_same_key_over_other_bytes(keyring, calls, gpg_keys, good):
    crowd = variants(gpg_keys.home.detached(b"other bytes", gpg_keys.good), 10_000)
    assert verify_any(DATA, [*crowd, good], "greet", keyring).signer == gpg_keys.good
    assert len(calls) == 1


def test_the_good_one_is_found_among_many_that_look_right(keyring, calls, gpg_keys, good):
    crowd = list(variants(good, 1_500))
    with cpu_within(5):
        assert verify_any(DATA, [*crowd, good], "greet", keyring).signer == gpg_keys.good
    assert len(calls) <= 6


def test_a_crowd_without_a_good_one_ends_and_says_what_is_wrong(keyring, calls, gpg_keys, good):
    with pytest.raises(SignatureError, match="greet: its content is not what was signed"):
        verify_any(DATA, variants(good, 300), "greet", keyring)
    assert len(calls) <= 5


def test_a_signature_that_says_why_it_does_not_count_is_told_before_one_that_is_merely_wrong(keyring, gpg_keys, good):
    expired = gpg_keys.home.detached(DATA, gpg_keys.expired, at="20200101T060000")
    crowd = list(variants(good, 40))
    with pytest.raises(SignatureError, match="the key that signed it has expired"):
        verify_any(DATA, [*crowd, expired], "greet", keyring)


def test_the_same_signature_many_times_is_tried_once(keyring, calls, gpg_keys, good):
    (wrong,) = variants(good, 1)
    with pytest.raises(SignatureError):
        verify_any(DATA, [wrong] * 5_000, "greet", keyring)
    assert len(calls) == 1


def test_no_more_is_read_than_is_needed(keyring, good):
    def endless() -> Iterator[bytes]:
        yield good
        raise AssertionError("the first one is good")

    verify_any(DATA, endless(), "greet", keyring)


def test_signatures_without_end_are_not_read_without_end(keyring, gpg_keys):
    read = 0

    def endless() -> Iterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield b"nonsense"

    with pytest.raises(SignatureError):
        verify_any(DATA, endless(), "greet", keyring)
    assert read <= 100_001


def test_a_gpg_that_checks_one_of_several_still_finds_the_good_one(keyring, gpg_keys, good, tmp_path):
    def one_only(arguments, stdin: bytes, timeout: float) -> ProgramResult:
        done = run_program(arguments, stdin, timeout)
        lines = done.stdout.split(b"\n")
        starts = [number for number, line in enumerate(lines) if b"NEWSIG" in line]
        return ProgramResult(done.code, b"\n".join(lines[: starts[1]] if len(starts) > 1 else lines), done.stderr)

    other = Keyring(keyring.home, run=one_only)
    crowd = list(variants(good, 10))
    assert verify_any(DATA, [*crowd, good], "greet", other).signer == gpg_keys.good


def test_a_signature_by_a_new_subkey_counts_once_the_key_is_trusted_anew(tmp_path, gpg_keys):
    home = gpg_keys.home
    key = home.make("rotating")
    keyring = Keyring(os.fspath(tmp_path / "keys"))
    keyring.trust(home.public(key))
    home.gpg("--quick-add-key", key, "ed25519", "sign", "0")
    signature = home.detached(DATA, key)  # gpg takes the newest subkey
    with pytest.raises(SignatureError, match="not trusted"):
        verify_any(DATA, [signature], "greet", keyring)
    keyring.trust(home.public(key))
    assert verify_any(DATA, [signature], "greet", keyring).signer == key


# ---- what the store gives


def crowded(count: int, make: Callable[..., None]) -> tuple[MemoryStore, Any]:
    store = MemoryStore()
    subject = put_image(store, small_image(), "greet")
    for number in range(count):
        make(store, subject, number)
    return store, subject


def never(_round: int) -> None:
    raise AssertionError("nobody else writes here")


def test_a_signature_that_the_list_shows_is_found_behind_any_number_of_artifacts():
    def hidden(store, subject, number):
        attach(store, subject, SIGNATURE_ARTIFACT, Blob.from_bytes(f"{number}".encode(), "text/plain"), pause=never)

    store, subject = crowded(200, hidden)
    attach_signature(store, subject, b"ours", pause=never)
    opened: list[object] = []
    original = store.open
    store.open = lambda descriptor: opened.append(descriptor) or original(descriptor)  # type: ignore[method-assign]
    assert next(iter_signatures(store, subject)) == b"ours"
    assert len(opened) == 1
    assert len(signatures(store, subject)) == 1 + 64


@pytest.mark.parametrize("text", ["", "!", "A" * 9_000, "YQ"], ids=["empty", "not base64", "long", "cut"])
def test_a_list_that_shows_nonsense_does_not_hide_the_artifact(text):
    store, subject = crowded(0, never)
    content = Blob.from_bytes(b"ours", "application/pgp-signature")
    annotations = {"io.oci-binpkg.signature": text}
    attach(store, subject, SIGNATURE_ARTIFACT, content, pause=never, annotations=annotations)
    assert signatures(store, subject) == [b"ours"]
