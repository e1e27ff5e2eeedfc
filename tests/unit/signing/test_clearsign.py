"""The template of clear-signed documents, on documents of Spack's and on what has been done to such documents."""

from __future__ import annotations

import base64
import json

import pytest

from oci_binpkg.errors import ContentError, SignatureError
from oci_binpkg.signing.armor import read_signature
from oci_binpkg.signing.clearsign import check_text, is_clearsigned, split
from tests.support.golden import GOLDEN

DOCUMENTS = sorted(
    [
        *GOLDEN.glob("v3-signed/v3/manifests/spec/*/*.json"),
        *GOLDEN.glob("v2-signed/build_cache/*.spec.json.sig"),
    ]
)
GREET = next(path for path in DOCUMENTS if path.name.startswith("greet-2.0")).read_bytes()
OPENING = b"-----BEGIN PGP SIGNED MESSAGE-----\n"
SIGNATURE = b"-----BEGIN PGP SIGNATURE-----\n"
END = b"-----END PGP SIGNATURE-----\n"
TEXT, ARMORED = split(GREET, "greet")


def refused(data: bytes) -> str:
    with pytest.raises(SignatureError) as caught:
        split(data, "greet.json")
    assert caught.value.message.startswith("greet.json")
    assert caught.value.exit_code == 14
    return str(caught.value)


def with_packets(packets: bytes) -> bytes:
    """The document with other packets in its armor."""
    return GREET.replace(ARMORED, armored(packets))


def armored(packets: bytes) -> bytes:
    lines = base64.encodebytes(packets)
    return SIGNATURE + b"\n" + lines + END


def packets_of(signature: bytes) -> bytes:
    return base64.b64decode(b"".join(signature.split(b"\n\n", 1)[1].split(b"\n=")[0].split()))


PACKET = packets_of(ARMORED)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name[:40])
def test_a_document_that_spack_signed_is_split_into_its_json_and_its_signature(path):
    data = path.read_bytes()
    text, signature = split(data, "a document")
    assert isinstance(json.loads(text), dict)
    assert data == OPENING + b"Hash: SHA512\n\n" + text + signature
    assert is_clearsigned(data)


def test_there_are_golden_documents_of_both_layouts():
    assert len(DOCUMENTS) == 10


@pytest.mark.parametrize("data", [b"", b"{}", TEXT, b"x" + GREET, SIGNATURE])
def test_what_is_not_clearsigned_does_not_claim_to_be(data):
    assert not is_clearsigned(data)


@pytest.mark.parametrize("lead", [b"\n", b"\xef\xbb\xbf", b" \t\r\n"])
def test_a_document_with_blanks_before_the_block_claims_to_be_signed_and_is_refused(lead):
    assert is_clearsigned(lead + GREET)
    assert "text stands before the signed block" in refused(lead + GREET)


@pytest.mark.covers("B32")
def test_an_unsigned_document_is_refused_as_unsigned():
    assert "is not signed" in refused(TEXT)
    assert "is not signed" in refused(b"")


@pytest.mark.covers("B33")
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"evil":1}\n' + GREET, "before the signed block"),
        (GREET + b'{"evil":1}\n', "around the signature"),
        (GREET + b"\n", "around the signature"),
        (GREET.replace(SIGNATURE, b"evil\n-----END PGP SIGNATURE-----\n" + SIGNATURE, 1), "the mark of a PGP block"),
        (GREET + GREET, "more than one signed block"),
        (OPENING + b"Hash: SHA512\n\n{}\n" + GREET, "the mark of a PGP block"),
        (GREET.replace(ARMORED, b""), "no signature follows"),
        (GREET.replace(END, b""), "not exactly one armored PGP signature"),
        (OPENING + b"Hash: SHA512\n\n" + ARMORED, "no signature follows"),
    ],
    ids=["before", "after", "line after", "inside", "two blocks", "evil block first", "no end", "cut", "no text"],
)
def test_text_around_the_block_and_several_blocks_are_refused(data, reason):
    assert reason in refused(data)


@pytest.mark.covers("B34")
@pytest.mark.parametrize("blank", ["\v", "\f", "\x1c", "\xa0", " ", "\t", "\r", "\u2028", "\x85"])
def test_header_lines_with_odd_blanks_behind_the_dashes_are_refused(blank):
    odd = blank.encode()
    refused(GREET.replace(OPENING, OPENING[:-1] + odd + b"\n"))
    refused(GREET.replace(SIGNATURE, SIGNATURE[:-1] + odd + b"\n"))
    refused(GREET.replace(END, END[:-1] + odd + b"\n"))
    refused(GREET.replace(b"Hash: SHA512\n", b"Hash: SHA512" + odd + b"\n"))
    refused(GREET.replace(b"Hash: SHA512\n\n", b"Hash: SHA512\n" + odd + b"\n"))


@pytest.mark.covers("B34")
@pytest.mark.parametrize("blank", ["\v", "\f", "\x1c", "\xa0", "\u2028", "\x85", "\r", "\0", "\u200b", "\u202e"])
def test_characters_that_readers_see_differently_are_refused_in_the_text(blank):
    refused(GREET.replace(b'"version":3', b'"version":3' + blank.encode()))
    refused(GREET.replace(TEXT, TEXT + blank.encode() + SIGNATURE))


@pytest.mark.covers("B34")
@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"Hash: SHA512\nHash: SHA256\n\n", "several Hash headers"),
        (b"Hash: SHA512\nNotDashEscaped: You need GnuPG to verify\n\n", "'NotDashEscaped' is not accepted"),
        (b"NotDashEscaped: x\nHash: SHA512\n\n", "'NotDashEscaped' is not accepted"),
        (b"Charset: UTF-7\nHash: SHA512\n\n", "'Charset' is not accepted"),
        (b"Hash: SHA512,SHA256\n\n", "not one of SHA256"),
        (b"Hash:  SHA512\n\n", "not one of SHA256"),
        (b"Hash: SHA256\n\n", "the header says SHA256, the signature SHA512"),
        (b"\n", "no proper Hash header"),
        (b"", "no proper Hash header"),
    ],
)
def test_any_other_header_than_one_hash_is_refused(header, reason):
    assert reason in refused(GREET.replace(b"Hash: SHA512\n\n", header))


@pytest.mark.covers("B32")
@pytest.mark.parametrize("name", ["SHA1", "MD5", "RIPEMD160", "SHA224"])
def test_weak_hashes_are_refused(name):
    assert name in refused(GREET.replace(b"Hash: SHA512", b"Hash: " + name.encode()))


@pytest.mark.covers("B32")
@pytest.mark.parametrize(
    ("number", "name"), [(1, "MD5"), (2, "SHA1"), (3, "RIPEMD160"), (11, "SHA224"), (99, "hash algorithm 99")]
)
def test_a_weak_hash_in_the_signature_itself_is_refused(number, name):
    packet = bytearray(PACKET)
    packet[3 + 3] = number
    assert f"signed with {name}" in refused(with_packets(bytes(packet)))


@pytest.mark.covers("B34")
def test_the_same_text_as_an_ordinary_pgp_message_is_refused():
    message = b"-----BEGIN PGP MESSAGE-----\n\n" + base64.encodebytes(PACKET) + b"-----END PGP MESSAGE-----\n"
    assert "ordinary PGP message" in refused(message)


@pytest.mark.covers("B34")
@pytest.mark.parametrize("line", [b"- x\n", b"-1\n", b"From me\n", b"- From me\n", b"- --\n"])
def test_lines_that_need_an_escape_are_refused(line):
    assert "starts with a dash" in refused(GREET.replace(TEXT, TEXT + line))


@pytest.mark.covers("B33", "B34")
@pytest.mark.parametrize("lead", [b"- ", b" ", b'"', b"\t"])
@pytest.mark.parametrize("mark", [OPENING, SIGNATURE, END])
def test_a_mark_of_a_block_within_the_text_is_refused(lead, mark):
    assert "the mark of a PGP block" in refused(GREET.replace(TEXT, TEXT + lead + mark))


@pytest.mark.parametrize("blank", [b" ", b"\t", b"  "])
def test_blanks_at_line_ends_are_refused_for_no_signature_covers_them(blank):
    assert "ends with a blank" in refused(GREET.replace(b"{\n", b"{" + blank + b"\n", 1))


def test_windows_line_ends_are_refused():
    refused(GREET.replace(b"\n", b"\r\n"))


def test_text_that_is_not_utf8_is_refused():
    assert "not UTF-8 (byte 2)" in refused(GREET.replace(TEXT, b"{\n\xff}\n"))


def test_text_outside_ascii_and_tabs_inside_lines_pass():
    check_text('{"name":\t"grüße"}\n'.encode(), "a document")


def test_a_line_too_long_for_gpg_is_refused():
    check_text(b"x" * 19_000, "a document")
    with pytest.raises(SignatureError, match="longer than 19000 bytes"):
        check_text(b"x" * 19_001, "a document")
    with pytest.raises(SignatureError, match="line 2 of the text: longer"):
        check_text(b"\n" + "ü".encode() * 9_501, "a document")


@pytest.mark.covers("B38")
def test_a_huge_signature_is_refused_unread():
    many = ARMORED.replace(b"\n=", b"\n" + b"A" * 76 + b"\n" + (b"A" * 76 + b"\n") * 1000 + b"=")
    assert "at most 65536" in refused(GREET.replace(ARMORED, many))
    with pytest.raises(SignatureError, match="at most 65536"):
        read_signature(b"x" * 100_000_000, "the signature")


@pytest.mark.covers("B38")
def test_a_huge_document_is_refused_unread():
    assert "at most 67108864" in refused(OPENING + bytes(64 * 1024 * 1024))


@pytest.mark.covers("B32", "B38")
@pytest.mark.parametrize("count", [2, 50])
def test_several_signatures_are_refused(count):
    assert "more than one signature" in refused(with_packets(PACKET * count))


@pytest.mark.covers("B38")
@pytest.mark.parametrize(
    ("packets", "reason"),
    [
        (bytes([0xA3, 0x01]) + b"\x78\xda" + bytes(100), "without a definite length"),
        (bytes([0xC8, 0x32, 1]) + bytes(49), "packet of type 8"),
        (bytes([0xA0, 0x32, 1]) + bytes(49), "packet of type 8"),
        (bytes([0xCB, 0x03]) + b"b\0x", "packet of type 11"),
        (bytes([0xC2, 0xE1]) + bytes(10), "without a definite length"),
        (bytes([0x00, 0x10]) + bytes(16), "not made of OpenPGP packets"),
        (bytes([0xC2, 0xC0, 0x01]) + bytes(5), "cut off"),
        (bytes([0xC2]), "cut off"),
        (bytes([0x88, 0x02]) + bytes(2), "cut off"),
        (PACKET[:-1], "cut off"),
        (PACKET[:3] + b"\x03" + PACKET[4:], "version 3"),
        (PACKET[:3] + b"\x06" + PACKET[4:], "version 6"),
        (PACKET[:4] + b"\x00" + PACKET[5:], "not a signature over text"),
    ],
)
def test_nothing_but_one_signature_packet_passes(packets, reason):
    assert reason in refused(with_packets(packets))


@pytest.mark.parametrize("lead", [bytes([0xC2, 0xFF, 0, 0]), bytes([0xC2]), bytes([0x8A, 0, 0])])
def test_every_definite_length_of_a_packet_is_understood(lead):
    body = PACKET[3:]
    length = len(body).to_bytes(2, "big")
    if lead == b"\xc2":
        length = (((len(body) - 192) >> 8) + 192).to_bytes(1, "big") + bytes([(len(body) - 192) & 0xFF])
    facts = read_signature(armored(lead + length + body), "a signature")
    assert (facts.hash_name, facts.signature_class) == ("SHA512", 1)
    short = body[:100]
    assert read_signature(armored(bytes([0xC2, 100]) + short), "a signature") == facts


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"\n\n", b"\nHash: SHA1\n\n"),
        (b"\n\n", b"\nComment: x\nVersion: x\n\n"),
        (b"\n\n", b"\n"),
        (b"\n\n", b"\n\n\n"),
        (b"iQIz", b"iQ z"),
        (b"iQIz", b"iQIz=="),
        (b"iQIz", b"\xc3\xbc"),
        (b"iQIz", b"iQI"),
    ],
)
def test_other_armor_is_refused(old, new):
    with pytest.raises(ContentError, match="a signature: "):
        read_signature(ARMORED.replace(old, new, 1), "a signature")


def test_an_armor_without_checksum_and_the_version_line_of_an_old_gpg_pass():
    lines = ARMORED.split(b"\n")
    plain = b"\n".join(line for line in lines if not line.startswith(b"="))
    assert read_signature(plain, "a signature") == read_signature(ARMORED, "a signature")
    dated = ARMORED.replace(b"\n\n", b"\nVersion: GnuPG v2.0.22 (GNU/Linux)\n\n", 1)
    assert read_signature(dated, "a signature") == read_signature(ARMORED, "a signature")
