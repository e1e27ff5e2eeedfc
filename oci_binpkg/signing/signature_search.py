"""The good signature among many: anybody who may write to a registry can attach signatures to a manifest.

What a signature says about itself is cheap to read: who made it, and two bytes of the hash that it is over. Those that
name no key of the keyring, or another hash, are never given to gpg. The others are given to it many at a time, and what
it finds good is verified again, alone, as strictly as any. So the good one is found among thousands, wherever it
stands, and thousands cost what their bytes cost: gpg takes about a millisecond for each that is made to look right.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from oci_binpkg.errors import SignatureError
from oci_binpkg.signing.armor import BINARY_CLASS, SignatureFacts, read_signature
from oci_binpkg.signing.gpg import Status, statuses, verifying, workplace, written
from oci_binpkg.signing.keyring import Trusted

MOST_LOOKED_AT: Final = 100_000
"""So many signatures are looked at."""
MOST_TRIED: Final = 16_384
"""So many of those that look right are given to gpg."""
_TOGETHER: Final = (1, 16, 256, 1024)
"""How many are given to gpg at a time: one is the rule, and only where it is not good others are asked for."""
_ALONE: Final = 16
"""So many are tried one by one where gpg does not check them together."""
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
    """Lets through what names a key that is known and the hash of the data; keeps an example of what it does not."""

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
    """What gpg found good; one that it says why of (a key that expired, ...), and one that is merely wrong, or ""."""

    good: Sequence[bytes]
    speaking: bytes = b""
    other: bytes = b""


def _signer(told: Mapping[str, Status]) -> str:
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
    good = [one.armored for one, told in pairs if "GOODSIG" in told and _signer(told) in counting]
    speaking = (
        one.armored for one, told in pairs if told.keys() & _SPEAKING or ("GOODSIG" in told and one.armored not in good)
    )
    return _Looked(good, next(speaking, b""), group[0].armored)
