"""Signing documents and verifying them with gpg.

gpg's exit code alone says too little: one good signature among several, a signature by an expired key, text around the
signed block all end well for some way of asking. So a document counts as signed only if gpg reports exactly one valid
signature by a trusted key and nothing that speaks against it; and what it gives out is what is used.
Source: GnuPG's doc/DETAILS (status lines), and what has been done to programs that asked for less.

Among many signatures the good one is found cheaply. What a signature says about itself is cheap to read: who made it,
and two bytes of the hash that it is over. Those that name no key of the keyring, or another hash, are never given to
gpg. The others are given to it many at a time, and what it finds good is verified again, alone, as strictly as any. So
the good one is found among thousands, wherever it stands, and thousands cost what their bytes cost: gpg takes about a
millisecond for each that is made to look right.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from oci_binpkg.disk import disk_refusal
from oci_binpkg.errors import KeyringError, SignatureError
from oci_binpkg.signing.armor import BINARY_CLASS, STRONG_HASHES, SignatureFacts, read_signature
from oci_binpkg.signing.clearsign import UNSIGNED_HINT, check_text, split
from oci_binpkg.signing.gpg import ProgramResult, Status, statuses, verifying, words, workplace, written
from oci_binpkg.signing.keyring import Keyring, Trusted, check_key_name
from oci_binpkg.signing.statement import NOTHING_SAID, Signed, Statement, stated

MOST_LOOKED_AT: Final = 100_000
"""The most signatures that are looked at."""
MOST_TRIED: Final = 16_384
"""The most signatures that are given to gpg, of those that look right."""
_TOGETHER: Final = (1, 16, 256, 1024)
"""How many are given to gpg at a time: usually one, and others only if it is not good."""
_ALONE: Final = 16
"""The most signatures that are tried one by one where gpg does not check them together."""
_SPEAKING: Final = frozenset({"EXPKEYSIG", "REVKEYSIG", "EXPSIG"})


@dataclass(frozen=True, slots=True)
class _Candidate:
    armored: bytes
    facts: SignatureFacts


def promising(data: bytes, signatures: Iterable[bytes], keyring: Trusted) -> Iterator[bytes]:
    """Yield the armored signatures that are worth verifying against `data`, those first that gpg finds good.

    Without a good one, the one whose refusal says most. `signatures` is read no further than needed.
    """
    sieve = _Sieve(data, keyring)
    right = itertools.islice(sieve.right(itertools.islice(signatures, MOST_LOOKED_AT)), MOST_TRIED)
    speaking = other = b""
    tried = False
    for size in itertools.chain(_TOGETHER, itertools.repeat(_TOGETHER[-1])):
        group = list(itertools.islice(right, size))
        if not group:
            break
        found = _looked_at_by_gpg(data, group, keyring) if size > 1 else _Looked([group[0].armored])
        speaking, other = speaking or found.speaking, other or found.other
        tried = tried or bool(found.good)
        yield from found.good
    if speaking:
        yield speaking
    elif other and not tried:
        yield other
    elif not tried:
        yield from sieve.refused()


class _Sieve:
    """Passes signatures that name a known key and the hash of the data; keeps an example of each other kind."""

    def __init__(self, data: bytes, keyring: Trusted) -> None:
        self._hashes = {name: hashlib.new(name, data) for name in ("sha256", "sha384", "sha512")}
        self._keyring = keyring
        self._seen: set[bytes] = set()
        self._malformed = self._strange = self._other = b""

    def right(self, signatures: Iterable[bytes]) -> Iterator[_Candidate]:
        """Yield those that look right, each once."""
        for armored in signatures:
            try:
                facts = read_signature(armored, "a signature")
            except SignatureError:
                self._malformed = self._malformed or armored
                continue
            if facts.signature_class != BINARY_CLASS:
                self._malformed = self._malformed or armored
            elif not self._keyring.key_ids() & facts.issuers:
                self._strange = self._strange or armored
            elif not self._may_cover(facts):
                self._other = self._other or armored
            elif facts.packet not in self._seen:
                self._seen.add(facts.packet)
                yield _Candidate(armored, facts)

    def refused(self) -> Iterator[bytes]:
        """Yield an example of each kind that did not look right; the refusal of the last one says most."""
        yield from (one for one in (self._malformed, self._strange, self._other) if one)

    def _may_cover(self, facts: SignatureFacts) -> bool:
        if not facts.covered:
            return True
        state = self._hashes[facts.hash_name.lower()].copy()
        state.update(facts.covered)
        return state.digest()[: len(facts.digest_start)] == facts.digest_start


@dataclass(frozen=True, slots=True)
class _Looked:
    """The good signature; one that gpg refuses with a reason (an expired key, ...), and a merely wrong one, or ""."""

    good: Sequence[bytes]
    speaking: bytes = b""
    other: bytes = b""


def _good_signer(told: Mapping[str, Status]) -> str:
    """Return the fingerprint of the primary key that made a signature, "" if it is not valid."""
    valid = told.get("VALIDSIG")
    return valid.arguments[-1] if valid is not None and valid.arguments else ""


def _looked_at_by_gpg(data: bytes, group: Sequence[_Candidate], keyring: Trusted) -> _Looked:
    with workplace() as directory:
        signed = written(directory, "data", data)
        packets = written(directory, "signatures", b"".join(one.facts.packet for one in group))
        outcome = verifying(keyring.reader(), packets, signed, each=True)
    found: list[dict[str, Status]] = []
    for status in statuses(outcome.stdout):
        if status.keyword == "NEWSIG":
            found.append({})
        elif found:
            found[-1][status.keyword] = status
    if len(found) != len(group):
        # another gpg, which checks one of several
        return _Looked([one.armored for one in group[:_ALONE]])
    pairs = list(zip(group, found, strict=True))
    counting = keyring.fingerprints()
    good = [one.armored for one, told in pairs if "GOODSIG" in told and _good_signer(told) in counting]
    speaking = (
        one.armored for one, told in pairs if told.keys() & _SPEAKING or ("GOODSIG" in told and one.armored not in good)
    )
    return _Looked(good, next(speaking, b""), group[0].armored)


_DIGEST: Final = ("--digest-algo", "SHA512", "--no-emit-version", "--no-comments")
_TEXT_CLASS: Final = 1
_VALID_FIELDS: Final = 10
_TIME_FIELD, _HASH_FIELD, _CLASS_FIELD, _PRIMARY_FIELD = 2, 7, 8, 9
_CODE_FIELD, _KEY_FIELD = 5, 6
"""Of ERRSIG: libgpg-error's code, and the fingerprint where gpg knows it (`-` where not)."""
_NO_PUBLIC_KEY: Final = "9"
_WRONG_KEY_USAGE: Final = "125"

_EXPECTED: Final = frozenset({"NEWSIG", "GOODSIG", "VALIDSIG"})
_HARMLESS: Final = frozenset(
    {
        *("KEY_CONSIDERED", "SIG_ID", "PLAINTEXT", "PLAINTEXT_LENGTH", "PROGRESS", "VERIFICATION_COMPLIANCE_MODE"),
        *("NOTATION_NAME", "NOTATION_FLAGS", "NOTATION_DATA", "POLICY_URL"),
        # of another subkey of the same key: the one that signed would have given EXPKEYSIG
        *("KEYEXPIRED", "SIGEXPIRED"),
        *("TRUST_UNDEFINED", "TRUST_NEVER", "TRUST_MARGINAL", "TRUST_FULLY", "TRUST_ULTIMATE"),
    }
)
"""All other status lines refuse the document; an unknown one of a later gpg too."""


def _never(_signed: Signed) -> bool:
    """Return False: nothing was verified before."""
    return False


_REASONS: Final[Mapping[str, tuple[str, str]]] = {
    "BADSIG": ("its content is not what was signed", "it was changed after signing; fetch it from another source"),
    "EXPKEYSIG": (
        "the key that signed it has expired",
        "get the key again if its owner has prolonged it, and trust it; else ask for a signature by a key that is good",
    ),
    "REVKEYSIG": ("the key that signed it has been revoked", "do not use it; ask for a new signature"),
    "EXPSIG": ("the signature has expired", "ask for a new signature"),
    "NODATA": ("gpg finds no signature", "sign it again"),
}
"""Status lines that name the reason, the plainest first."""


def read_clearsigned(
    data: bytes, what: str, keyring: Trusted, *, known: Callable[[Signed], bool] = _never
) -> tuple[bytes, Signed]:
    """Return the text of a clear-signed document, exactly as gpg checked it, and who signed it.

    One whose key has expired counts if `known` says that this very document was verified before. What it says must
    still be compared with what was asked for: a good signature on another package's document is good.
    Raises `SignatureError` unless it is one block in the plainest form with one valid signature by a key in `keyring`.
    """
    text, _ = split(data, what)
    with workplace() as directory:
        output = os.path.join(directory, "text")
        document = written(directory, "document", data)
        outcome = verifying(keyring.reader(), document, output=output)
        signed = _judge(outcome, what, keyring, frozenset({_TEXT_CLASS}), known)
        checked = _read(output, len(data))
    if checked != text:
        raise SignatureError(f"{what}: gpg checked another text than the one that stands there")
    return checked, signed


def verify_detached(
    data: bytes, signature: bytes, what: str, keyring: Trusted, *, known: Callable[[Signed], bool] = _never
) -> Signed:
    """Verify an armored signature over exactly these bytes; return who made it. Raises `SignatureError`.

    One whose key has expired counts if `known` says that these very bytes were verified before.
    """
    facts = read_signature(signature, what)
    if facts.signature_class != BINARY_CLASS:
        raise SignatureError(f"{what}: not a signature over exact bytes (class {facts.signature_class})")
    with workplace() as directory:
        signed = written(directory, "data", data)
        outcome = verifying(keyring.reader(), written(directory, "signature", signature), signed)
    return _judge(outcome, what, keyring, frozenset({BINARY_CLASS}), known)


def verify_any(
    data: bytes,
    signatures: Iterable[bytes],
    what: str,
    keyring: Trusted,
    *,
    accept: Callable[[Signed], object] = lambda _: None,
    known: Callable[[Signed], bool] = _never,
) -> Signed:
    """Find one good signature over these bytes among armored ones; anybody may have attached others, and many.

    Returns the first that is good and that `accept` does not refuse by raising `SignatureError`. `signatures` is read
    as far as needed; `promising` says how many are tried, and in which order. Raises `SignatureError`:
    why the best of them does not count, or that it is unsigned. `known` as in `verify_detached`.
    """
    failure = SignatureError(f"{what} is not signed", hint=UNSIGNED_HINT)
    for signature in promising(data, signatures, keyring):
        try:
            signed = verify_detached(data, signature, what, keyring, known=known)
            accept(signed)
        except SignatureError as error:
            failure = error
        else:
            return signed
    raise failure.again() from failure


def sign_clear(data: bytes, key: str, keyring: Keyring, *, statement: Statement = NOTHING_SAID) -> bytes:
    """Return a text clear-signed, in the form that Spack and `read_clearsigned` read. A last line end is added.

    `key` is a fingerprint or part of a user id; the signature covers `statement`, too. Raises `SignatureError` for text
    that this form cannot hold faithfully, `KeyringError` if there is no such secret key or its passphrase is not given.
    """
    what = "the document to sign"
    check_text(data, what)
    signed = _sign(data, key, keyring, statement, "--clearsign")
    text, _ = split(signed, what)
    if text != data.removesuffix(b"\n") + b"\n":
        raise KeyringError("gpg signed another text than the one it was given")
    return signed


def sign_detached(data: bytes, key: str, keyring: Keyring, *, statement: Statement = NOTHING_SAID) -> bytes:
    """Return an armored signature over exactly these bytes, and over `statement`. Raises `KeyringError`."""
    signature = _sign(data, key, keyring, statement, "--no-textmode", "--detach-sign")
    read_signature(signature, "the new signature")
    return signature


class KeySigner:
    """Signs with a key of the user's own: a fingerprint or part of a user id."""

    def __init__(self, key: str, keyring: Keyring) -> None:
        self._key = key
        self._keyring = keyring

    def clear(self, data: bytes, statement: Statement) -> bytes:
        """Return a clear-signed document, as `sign_clear`."""
        return sign_clear(data, self._key, self._keyring, statement=statement)

    def beside(self, data: bytes, statement: Statement) -> bytes:
        """Return a signature beside a document, as `sign_detached`."""
        return sign_detached(data, self._key, self._keyring, statement=statement)

    def try_out(self) -> None:
        """Sign nothing of importance. Raises `KeyringError` for no key, several, and one that cannot be used now."""
        self._keyring.secret_key(self._key)
        sign_detached(b"tried before the work begins", self._key, self._keyring)

    def made(self, signed: Signed) -> bool:
        """Return whether a signature is by this key."""
        return signed.signer in self._keyring.own(self._key).fingerprints()


def _sign(data: bytes, key: str, keyring: Keyring, statement: Statement, *mode: str) -> bytes:
    name = check_key_name(key)
    return keyring.signer().checked(
        *(*_DIGEST, *statement.options(), "--armor", "--local-user", name, "--output", "-", *mode),
        task=f"sign with the key {name!r}",
        stdin=data,
        agent=True,
    )


def _judge(
    outcome: ProgramResult, what: str, keyring: Trusted, classes: frozenset[int], known: Callable[[Signed], bool]
) -> Signed:
    """Return the signature that gpg found good, or raise `SignatureError`.

    For a signature whose only fault is that its key has expired since, `known` decides. The time in the signature
    proves nothing: the owner of an old key can write any time into it.
    """
    found = statuses(outcome.stdout)
    given = [status.keyword for status in found]
    against = [keyword for keyword in given if keyword not in _EXPECTED | _HARMLESS]
    once = all(given.count(keyword) == 1 for keyword in _EXPECTED)
    if outcome.code == 0 and against == ["EXPKEYSIG"] and given.count("VALIDSIG") == given.count("NEWSIG") == 1:
        signed = _signed(found, what, keyring, classes)
        if known(signed):
            return signed
    if outcome.code != 0 or against or not once:
        raise _refusal(outcome, found, against, what)
    return _signed(found, what, keyring, classes)


def _signed(found: Sequence[Status], what: str, keyring: Trusted, classes: frozenset[int]) -> Signed:
    valid = next(status for status in found if status.keyword == "VALIDSIG")
    signer = _signer(valid, what, keyring, classes)
    made = valid.arguments[_TIME_FIELD]
    return Signed(signer, int(made) if made.isdecimal() else 0, stated(found, what))


def _signer(valid: Status, what: str, keyring: Trusted, classes: frozenset[int]) -> str:
    fields = valid.arguments
    if len(fields) < _VALID_FIELDS:
        raise SignatureError(f"{what}: gpg does not say whose signature it is", hint="GnuPG 2.2 or newer is needed")
    if not fields[_HASH_FIELD].isdecimal() or int(fields[_HASH_FIELD]) not in STRONG_HASHES:
        raise SignatureError(f"{what}: signed with a weak hash (algorithm {fields[_HASH_FIELD]})")
    if int(fields[_CLASS_FIELD], 16) not in classes:
        raise SignatureError(f"{what}: a signature of another kind (class {fields[_CLASS_FIELD]})")
    if fields[_PRIMARY_FIELD] not in keyring.fingerprints():
        raise _untrusted(what, fields[_PRIMARY_FIELD])
    return fields[_PRIMARY_FIELD]


def _refusal(outcome: ProgramResult, found: Sequence[Status], against: Sequence[str], what: str) -> SignatureError:
    unchecked = next((status.arguments for status in found if status.keyword == "ERRSIG"), ())
    code = unchecked[_CODE_FIELD] if len(unchecked) > _CODE_FIELD else ""
    if code == _NO_PUBLIC_KEY:
        return _untrusted(what, (*unchecked, "")[_KEY_FIELD].strip("-") or unchecked[0])
    if code == _WRONG_KEY_USAGE:
        return SignatureError(
            f"{what}: signed with a key that is not meant for signing data", hint="ask for a signature by another key"
        )
    for keyword, (reason, hint) in _REASONS.items():
        if keyword in against:
            return SignatureError(f"{what}: {reason}", hint=hint)
    told = f"{', '.join(dict.fromkeys(against)) or 'no valid signature'}: {words(outcome)}"
    return SignatureError(f"{what}: gpg does not accept the signature ({told})")


def _untrusted(what: str, key: str) -> SignatureError:
    return SignatureError(
        f"{what}: signed by the key {key}, which is not trusted",
        hint="get that key from its owner, not from where the package lies, compare its fingerprint, and trust it",
    )


def _read(path: str, limit: int) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(limit + 1)
    except OSError as error:
        raise disk_refusal(f"cannot read {path}", error) from error
