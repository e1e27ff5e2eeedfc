"""One OpenPGP signature in ASCII armor, read strictly enough that nothing else can travel in it.

gpg reads much more than signatures from such a file: compressed data that unpack to gigabytes, whole messages that
bring their own text, thousands of signatures. What comes from a mirror is looked at here before gpg sees it.
Source: RFC 4880 sections 4 (packets), 5.2 (signatures) and 6 (armor); RFC 9580 for what came later.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Final

from oci_binpkg.errors import SignatureError

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
_SIGNATURE_TAG: Final = 2
_VERSIONS: Final = frozenset({4, 5})
_SHORTEST: Final = 10


@dataclass(frozen=True, slots=True)
class SignatureFacts:
    """What a signature says about itself, unproven: the hash's name (`SHA256`) and its class (0 binary, 1 text)."""

    hash_name: str
    signature_class: int


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
    return _facts(_only_packet(packets, what), what)


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
            hint="sign it again with --digest-algo SHA512",
        )
    return SignatureFacts(STRONG_HASHES[hash_number], signature_class)
