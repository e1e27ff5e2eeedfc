"""A clear-signed document is read in one way or not at all."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from oci_binpkg.errors import SignatureError
from oci_binpkg.signing.clearsign import check_text, split
from tests.support.golden import GOLDEN

GREET = next(GOLDEN.glob("v3-signed/v3/manifests/spec/greet/greet-2.0-*.json")).read_bytes()
TEXT, SIGNATURE = split(GREET, "greet")
HEAD = GREET[: GREET.index(TEXT)]
PIECES = [
    *(b"-----BEGIN PGP SIGNED MESSAGE-----\n", b"-----BEGIN PGP SIGNATURE-----\n", b"-----END PGP SIGNATURE-----\n"),
    *(
        b"-----BEGIN PGP SIGNATURE-----",
        b"Hash: SHA512\n",
        b"\n",
        b"\r\n",
        b" ",
        b"- ",
        b"-",
        b"\f",
        b"\xc2\xa0",
        b"=",
        b"\0",
    ),
    *(HEAD, TEXT, SIGNATURE, GREET),
]


def read_in_one_way(data: bytes) -> None:
    """Nothing else than header, text and signature can be in what passes, and no reader finds another block in it."""
    try:
        text, signature = split(data, "a document")
    except SignatureError:
        return
    start = data.index(b"\n\n") + 2
    assert data[start:] == text + signature
    assert data.count(b"-----BEGIN PGP") == 2
    assert data.count(b"-----END PGP") == 1
    assert all(not line.startswith(b"-") for line in text.split(b"\n"))
    assert text.decode().splitlines() == text.decode().removesuffix("\n").split("\n")


@given(st.integers(0, len(GREET)), st.integers(0, 4), st.binary(max_size=6) | st.sampled_from(PIECES))
@example(0, 0, GREET)
@example(len(GREET), 0, GREET)
def test_a_document_with_something_put_into_it_is_read_in_one_way(position, removed, inserted):
    read_in_one_way(GREET[:position] + inserted + GREET[position + removed :])


@given(st.lists(st.sampled_from(PIECES), max_size=8))
def test_any_sequence_of_the_pieces_is_read_in_one_way(pieces):
    read_in_one_way(b"".join(pieces))


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_and_nothing_else_happens(data):
    read_in_one_way(data)
    read_in_one_way(HEAD + data + SIGNATURE)


@given(st.text(min_size=1, max_size=200))
def test_text_that_may_be_signed_comes_back_from_a_signed_document(text):
    data = (text.removesuffix("\n") + "\n").encode("utf-8", "surrogatepass")
    try:
        check_text(data, "a text")
    except SignatureError:
        return
    assert split(HEAD + data + SIGNATURE, "a document") == (data, SIGNATURE)
