from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping

import pytest

from oci_binpkg.errors import ContentError
from oci_binpkg.relocate.codesign import (
    ADHOC,
    ENTITLEMENTS,
    ENTITLEMENTS_DER,
    LINKER_SIGNED,
    REQUIREMENTS,
    SHA256,
    ExecSegment,
    first_plan,
    parse_signature,
    renewed_plan,
)
from oci_binpkg.relocate.macho import relocate_macho
from oci_binpkg.relocate.prefixes import PrefixMap
from tests.support.macho_files import (
    RPATH,
    Shape,
    build,
    check_signature,
    fixture,
    signature_of,
    slices_of,
    without_signature,
)

NO_REQUIREMENTS = struct.pack(">3I", 0xFADE0C01, 12, 0)
NOWHERE = ExecSegment(0, 0, 0)
CMS = 0x10000


def blob(magic: int, body: bytes) -> bytes:
    return struct.pack(">2I", magic, 8 + len(body)) + body


def directory(
    *,
    name: bytes = b"org.example.tool",
    flags: int = 0x10000,
    version: int = 0x20400,
    hash_type: int = SHA256,
    shift: int = 12,
    special: Mapping[int, bytes] | None = None,
    team: bytes = b"",
) -> bytes:
    """Write a code directory with one page hash, as somebody else would."""
    special = special or {}
    size = 20 if hash_type == 1 else 32
    slots = b"".join(special.get(n, bytes(size)) for n in range(max(special, default=0), 0, -1))
    names = name + b"\0" + (team + b"\0" if team else b"")
    fixed = 88 if version >= 0x20400 else 52
    hashes_at = fixed + len(names) + len(slots)
    header = struct.pack(">6I", version, flags, hashes_at, fixed, len(slots) // size, 1)
    header += struct.pack(">I4B", 4096, size, hash_type, 0, shift) + bytes(8)
    header += struct.pack(">I", fixed + len(name) + 1 if team else 0) + bytes(12)
    header += struct.pack(">3Q", 0, 4096, 0x41)
    return blob(0xFADE0C02, header[: fixed - 8] + names + slots + bytes(size))


def super_blob(parts: Mapping[int, bytes]) -> bytes:
    index, body, at = b"", b"", 12 + 8 * len(parts)
    for slot, part in parts.items():
        index += struct.pack(">2I", slot, at + len(body))
        body += part
    return struct.pack(">3I", 0xFADE0CC0, at + len(body), len(parts)) + index + body


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("markupsafe/speedups-arm64.so", 0),
        ("markupsafe/speedups-universal2.so", 1),
        ("libxau/libXau-arm64.dylib", 0),
    ],
)
def test_signing_again_gives_what_apples_tools_wrote(name: str, part: int) -> None:
    data = slices_of(fixture(name))[part]
    code, signature = without_signature(data), signature_of(data)
    plan = renewed_plan(parse_signature(signature), NOWHERE)
    assert plan.sign(code) == signature
    assert plan.size(len(code)) == len(signature)


def test_a_signature_of_apples_linker_is_read() -> None:
    data = fixture("markupsafe/speedups-arm64.so")
    signature = parse_signature(signature_of(data))
    assert signature.identifier == b"_speedups.cpython-311-darwin.so"
    assert signature.flags == ADHOC | LINKER_SIGNED
    assert signature.linker_signed
    assert not signature.by_identity
    assert (signature.version, signature.hash_type, signature.page_shift) == (0x20400, SHA256, 12)
    assert signature.code_limit == len(without_signature(data))
    assert signature.page_hashes[0] == hashlib.sha256(data[:4096]).digest()
    assert signature.special == {}
    assert list(signature.blobs) == [0]


def test_of_two_code_directories_the_one_with_sha256_is_read() -> None:
    data = fixture("libxau/libXau-x86_64.dylib")
    signature = parse_signature(signature_of(data))
    assert signature.hash_type == SHA256
    assert not signature.linker_signed
    assert signature.page_hashes[0] == hashlib.sha256(data[:4096]).digest()
    assert signature.special == {REQUIREMENTS: hashlib.sha256(NO_REQUIREMENTS).digest()}


def test_two_code_directories_become_one_that_fits() -> None:
    data = fixture("libxau/libXau-x86_64.dylib")
    edit = relocate_macho(data, PrefixMap.of({"/DLC": "/elsewhere"}))
    signed = check_signature(edit.data)
    assert len(edit.data) == len(data)
    assert list(signed["parts"]) == [0, REQUIREMENTS, CMS]
    assert signed["parts"][REQUIREMENTS] == NO_REQUIREMENTS
    assert signed["name"] == b"libXau.6"
    assert signed["flags"] == ADHOC


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 40000])
def test_the_size_is_known_before_signing(size: int) -> None:
    plan = first_plan(b"tool", NOWHERE)
    signature = plan.sign(bytes(size))
    assert len(signature) == plan.size(size)
    assert len(parse_signature(signature).page_hashes) == -(-size // 4096)
    assert parse_signature(signature + bytes(5)) == parse_signature(signature)


def test_what_an_identity_asserted_goes_and_entitlements_stay() -> None:
    xml, der = blob(0xFADE7171, b"<plist/>"), blob(0xFADE7172, b"\x70\x00")
    resources = b"r" * 32
    old = parse_signature(
        super_blob(
            {
                0: directory(special={1: b"i" * 32, 3: resources}, team=b"TEAM", shift=14),
                REQUIREMENTS: blob(0xFADE0C01, b"\0\0\0\1certificate leaf"),
                ENTITLEMENTS: xml,
                ENTITLEMENTS_DER: der,
                CMS: blob(0xFADE0B01, b"a certificate"),
            }
        )
    )
    assert old.by_identity
    new = parse_signature(renewed_plan(old, NOWHERE).sign(bytes(20000)))
    assert new.flags == ADHOC
    assert new.identifier == b"org.example.tool"
    assert new.exec_segment == ExecSegment(0, 4096, 0x41)
    assert len(new.page_hashes) == 2
    assert new.blobs[REQUIREMENTS] == NO_REQUIREMENTS
    assert (new.blobs[ENTITLEMENTS], new.blobs[ENTITLEMENTS_DER]) == (xml, der)
    assert not new.by_identity
    assert new.special == {
        1: b"i" * 32,
        REQUIREMENTS: hashlib.sha256(NO_REQUIREMENTS).digest(),
        3: resources,
        ENTITLEMENTS: hashlib.sha256(xml).digest(),
        ENTITLEMENTS_DER: hashlib.sha256(der).digest(),
    }


def test_requirements_of_an_adhoc_signature_stay() -> None:
    wanted = blob(0xFADE0C01, b"\0\0\0\1identifier only")
    old = parse_signature(super_blob({0: directory(flags=ADHOC), REQUIREMENTS: wanted, CMS: blob(0xFADE0B01, b"")}))
    assert renewed_plan(old, NOWHERE).blobs == {REQUIREMENTS: wanted}


def test_a_signature_from_before_sha256_is_brought_up_to_date() -> None:
    old = parse_signature(super_blob({0: directory(version=0x20100, hash_type=1, shift=0, special={1: b"i" * 20})}))
    assert old.exec_segment is None
    plan = renewed_plan(old, ExecSegment(0, 8192, 1))
    assert (plan.exec_segment, plan.page_shift, plan.special) == (ExecSegment(0, 8192, 1), 12, {})
    plan = renewed_plan(old, NOWHERE, b"<plist/>")
    assert plan.special == {1: hashlib.sha256(b"<plist/>").digest()}


def test_the_property_list_within_a_file_is_hashed_as_it_is_after_the_move() -> None:
    before, after = b"<plist>/opt/old/share</plist>\0", b"<plist>/////new/share</plist>\0"
    shape = Shape(file_type=2, text=bytes(20000), sections=[(b"__info_plist", before)])
    signed = relocate_macho(
        build([(RPATH, "/opt")], shape), PrefixMap.of({"/opt": "/tmp", "/opt/old": "/opt/old"})
    ).data
    code = without_signature(signed)
    assert before in code
    theirs = super_blob({0: directory(special={1: hashlib.sha256(before).digest()})})
    edit = relocate_macho(code + theirs.ljust(len(signed) - len(code), b"\0"), PrefixMap.of({"/opt/old": "/new"}))
    assert after in edit.data
    assert check_signature(edit.data)["hashes"] == {1: hashlib.sha256(after).digest()}


GOOD = super_blob({0: directory(), REQUIREMENTS: NO_REQUIREMENTS})


def patched(at: int, value: int, size: int = 4) -> bytes:
    return GOOD[:at] + value.to_bytes(size, "big") + GOOD[at + size :]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "ends before byte 12"),
        (GOOD[:-1], "do not fit into"),
        (patched(0, 1), "its magic number is 0x1"),
        (patched(8, 0xFFFFFFFF), "4294967295 parts"),
        (patched(12, 7), "no code directory"),
        (patched(16, 0xFFFFFFF0), "ends before byte"),
        (patched(20, 0), "its part 0x0 cannot be"),
        (patched(24, 28), "its part 0x2 cannot be"),
        (patched(32, 0x10000), "its part 0x0 cannot be 65536 bytes"),
        (patched(32, 4), "its part 0x0 cannot be 4 bytes"),
        (patched(28, 1), "the magic number of its code directory is 0x1"),
        (patched(28 + 24, 0xFFFFFFFF), "4294967295 and 1 hashes of 32 bytes"),
        (patched(28 + 28, 0xFFFFFFFF), "0 and 4294967295 hashes"),
        (patched(28 + 36, 0, 1), "hashes of 0 bytes"),
        (patched(28 + 20, 0xFFFF), "identifier has no end"),
    ],
)
def test_a_malformed_signature_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ContentError, match=reason):
        parse_signature(data)
