"""Whatever a signature says about itself: it is read or refused, never believed by halves and never an accident."""

from __future__ import annotations

import base64

from hypothesis import given
from hypothesis import strategies as st

from oci_binpkg.errors import SignatureError
from oci_binpkg.signing.armor import read_signature
from oci_binpkg.signing.gpg import Status
from oci_binpkg.signing.statement import PLACE_NOTATION, TAG_NOTATION, Signed, Site, Statement, stated

HEAD = bytes([4, 0, 22, 10])  # version 4, over bytes, EdDSA, SHA-512
subpackets = st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=40)), max_size=6)


def armored(body: bytes) -> bytes:
    packet = bytes([0xC2, 0xFF]) + len(body).to_bytes(4, "big") + body
    text = base64.encodebytes(packet).decode()
    return f"-----BEGIN PGP SIGNATURE-----\n\n{text}-----END PGP SIGNATURE-----\n".encode()


def area(found: list[tuple[int, bytes]]) -> bytes:
    data = b"".join(bytes([len(value) + 1, kind]) + value for kind, value in found)
    return len(data).to_bytes(2, "big") + data


@given(st.binary(max_size=300))
def test_no_signature_packet_is_an_accident(body):
    try:
        facts = read_signature(armored(HEAD + body), "it")
    except SignatureError:
        return
    assert all(name == name.upper() for name in facts.issuers)
    assert len(facts.digest_start) in (0, 2)


@given(subpackets, subpackets, st.binary(min_size=2, max_size=2), st.binary(min_size=3, max_size=80))
def test_issuers_are_found_wherever_they_stand(hashed, unhashed, start, proof):
    facts = read_signature(armored(HEAD + area(hashed) + area(unhashed) + start + proof), "it")
    told = [(kind & 0x7F, value) for kind, value in (*hashed, *unhashed)]
    assert {value.hex().upper() for kind, value in told if kind == 16} <= facts.issuers
    assert {value[1:].hex().upper() for kind, value in told if kind == 33} <= facts.issuers
    assert facts.digest_start == start
    assert facts.covered.startswith(HEAD + area(hashed))
    # what is hashed of it ends with how long that is
    assert int.from_bytes(facts.covered[-4:], "big") == len(facts.covered) - 6


keywords = st.sampled_from(["NOTATION_NAME", "NOTATION_DATA", "NOTATION_FLAGS", "GOODSIG"])
arguments = st.lists(
    st.sampled_from([TAG_NOTATION, PLACE_NOTATION, "a", "%00", "%zz", "\u202e", "x" * 600]), max_size=3
)


@given(st.lists(st.builds(lambda word, rest: Status(word, tuple(rest)), keywords, arguments), max_size=12))
def test_a_statement_is_printable_and_short_or_refused(lines):
    try:
        said = stated(lines, "it")
    except SignatureError:
        return
    assert all(text.isprintable() and len(text) <= 1024 for text in (said.tag, said.place))


places = st.sampled_from(["", "oci://a/b", "oci://a/c", "https://m/x", "s3://b/x"])
tags = st.sampled_from(["", "zlib", "app"])


@given(said_tag=tags, said_place=places, tag=st.sampled_from(["zlib", "app"]), name=places, others=st.sets(places))
def test_a_signature_counts_where_it_was_made_for_and_elsewhere_never_in_silence(
    said_tag, said_place, tag, name, others
):
    told: list[str] = []
    site = Site(name, frozenset(others), bool(others), warn=told.append)
    try:
        site.check(Signed("A", 1, Statement(said_tag, said_place)), tag, "it")
    except SignatureError:
        assert said_tag not in ("", tag) or said_place not in ("", name, *others)
        return
    assert said_tag in ("", tag)
    assert said_place in ("", name, *others) or told
