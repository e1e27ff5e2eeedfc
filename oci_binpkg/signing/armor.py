"""One OpenPGP signature in ASCII armor, read strictly enough that nothing else can travel in it.

gpg reads much more than signatures from such a file: compressed data that unpack to gigabytes, whole messages that
bring their own text, thousands of signatures. What comes from a mirror is looked at here before gpg sees it.
Source: RFC 4880 sections 4 (packets), 5.2 (signatures) and 6 (armor); RFC 9580 for what came later.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from oci_binpkg.errors import Hint, SignatureError, Step

MAX_SIGNATURE_BYTES: Final = 64 * 1024
STRONG_HASHES: Final = {8: "SHA256", 9: "SHA384", 10: "SHA512"}
"""The hash algorithms a signature may use, by their OpenPGP number."""

BEGIN_SIGNATURE: Final = b"-----BEGIN PGP SIGNATURE-----\n"

_ARMOR: Final = re.compile(
    # gpg before 2.1 put its version there; no other armor header is expected
    rb"-----BEGIN PGP SIGNATURE-----\n(?:Version: [ -~]{1,80}\n)?\n"
    rb"((?:[A-Za-z0-9+/]{1,76}={0,2}\n)+)(?:=[A-Za-z0-9+/]{4}\n)?-----END PGP SIGNATURE-----\n?"
)
_WEAK_HASHES: Final = {1: "MD5", 2: "SHA1", 3: "RIPEMD160", 11: "SHA224"}
BINARY_CLASS: Final = 0
"""The class of a signature over exact bytes."""

_SIGNATURE_TAG: Final = 2
_VERSION_4: Final = 4
_VERSIONS: Final = frozenset({_VERSION_4, 5})
_SHORTEST: Final = 10
_ISSUER_KEY_ID, _ISSUER_FINGERPRINT = 16, 33
_HEAD: Final = 6
"""The bytes before the hashed subpackets: version, class, key and hash algorithm, the length of what follows."""


@dataclass(frozen=True, slots=True)
class SignatureFacts:
    """What a signature says about itself, unproven: the hash's name (`SHA256`) and its class (0 binary, 1 text).

    `issuers` are fingerprints and key ids (16 digits) of the key that made it, in upper case. The hash is over the data
    and then `covered`, and begins with `digest_start`; both are empty where that is not known. `packet` is all of it.
    """

    hash_name: str
    signature_class: int
    issuers: frozenset[str] = frozenset()
    covered: bytes = b""
    digest_start: bytes = b""
    packet: bytes = field(default=b"", compare=False, repr=False)


def read_signature(armored: bytes, what: str) -> SignatureFacts:
    """Return the facts of an armored signature. Raises `SignatureError` unless it is one signature and nothing else."""
    if len(armored) > MAX_SIGNATURE_BYTES:
        raise SignatureError(
            f"{what}: a signature of {len(armored)} bytes; at most {MAX_SIGNATURE_BYTES} are accepted",
            hint="a signature has about a thousand bytes; this file is something else",
        )
    match = _ARMOR.fullmatch(armored)
    if match is None:
        raise SignatureError(
            f"{what}: not exactly one armored PGP signature with LF line ends",
            hint="sign it again; nothing may stand around the signature",
        )
    try:
        packets = base64.b64decode(match[1].replace(b"\n", b""), validate=True)
    except binascii.Error:
        raise SignatureError(f"{what}: the armor of the signature is damaged") from None
    body = _only_packet(packets, what)
    return replace(_facts(body, what), packet=packets)


def _only_packet(data: bytes, what: str) -> bytes:
    tag, start, length = _header(data, what)
    if tag != _SIGNATURE_TAG:
        raise SignatureError(
            f"{what}: the signature holds an OpenPGP packet of type {tag}; only signatures are allowed"
        )
    end = start + length
    if end > len(data):
        raise SignatureError(f"{what}: the signature is cut off")
    if end < len(data):
        raise SignatureError(
            f"{what}: more than one signature, or something behind it",
            hint="exactly one is expected: which of several would count?",
        )
    return data[start:end]


def _header(data: bytes, what: str) -> tuple[int, int, int]:
    """Return a packet's tag, where its body starts, and the body's length."""
    first = data[0] if data else 0
    if not first & 0x80:
        raise SignatureError(f"{what}: the signature is not made of OpenPGP packets")
    if first & 0x40:
        tag = first & 0x3F
        lead = data[1] if len(data) > 1 else 0
        if lead < 192:  # noqa: PLR2004  # RFC 4880, 4.2.2: one octet, two, five; the rest are partial lengths
            return tag, 2, lead
        if lead < 224:  # noqa: PLR2004
            return tag, 3, ((lead - 192) << 8) + int.from_bytes(data[2:3], "big") + 192
        size, start = 4 if lead == 255 else 0, 2  # noqa: PLR2004
    else:
        tag, size, start = first >> 2 & 0x0F, {0: 1, 1: 2, 2: 4}.get(first & 3, 0), 1
    if not size:
        raise SignatureError(f"{what}: an OpenPGP packet without a definite length")
    return tag, start + size, int.from_bytes(data[start : start + size], "big")


def _facts(packet: bytes, what: str) -> SignatureFacts:
    if len(packet) < _SHORTEST:
        raise SignatureError(f"{what}: the signature is cut off")
    version, signature_class, _, hash_number = packet[:4]
    if version not in _VERSIONS:
        raise SignatureError(f"{what}: a signature of version {version}; 4 and 5 are understood")
    if hash_number not in STRONG_HASHES:
        name = _WEAK_HASHES.get(hash_number, f"hash algorithm {hash_number}")
        raise SignatureError(
            f"{what}: signed with {name}; only {', '.join(STRONG_HASHES.values())} are accepted",
            hint=Hint(Step.SIGN_WITH_SHA512),
        )
    return _with_subpackets(SignatureFacts(STRONG_HASHES[hash_number], signature_class), packet)


def _with_subpackets(facts: SignatureFacts, packet: bytes) -> SignatureFacts:
    """Add what the subpackets say, the hashed ones and the others."""
    hashed_end = _HEAD + int.from_bytes(packet[_HEAD - 2 : _HEAD], "big")
    rest = hashed_end + 2
    rest_end = rest + int.from_bytes(packet[hashed_end:rest], "big")
    issuers = set()
    for kind, value in (*_subpackets(packet[_HEAD:hashed_end]), *_subpackets(packet[rest:rest_end])):
        if kind == _ISSUER_KEY_ID:
            issuers.add(value.hex().upper())
        elif kind == _ISSUER_FINGERPRINT:
            issuers.add(value[1:].hex().upper())
    if packet[0] != _VERSION_4 or rest_end + 2 > len(packet):
        return replace(facts, issuers=frozenset(issuers))
    # RFC 4880, 5.2.4: what is hashed of the signature itself, and how long that is
    covered = packet[:hashed_end] + b"\x04\xff" + hashed_end.to_bytes(4, "big")
    return replace(facts, issuers=frozenset(issuers), covered=covered, digest_start=packet[rest_end : rest_end + 2])


def _subpackets(area: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and content of each subpacket; what is cut off is left out."""
    at = 0
    while at < len(area):
        lead = area[at]
        if lead < 192:  # noqa: PLR2004  # RFC 4880, 5.2.3.1: one octet, two, five
            length, at = lead, at + 1
        elif lead < 255:  # noqa: PLR2004
            length, at = ((lead - 192) << 8) + int.from_bytes(area[at + 1 : at + 2], "big") + 192, at + 2
        else:
            length, at = int.from_bytes(area[at + 1 : at + 5], "big"), at + 5
        if length and at + length <= len(area):
            yield area[at] & 0x7F, area[at + 1 : at + length]
        at += length
