"""Texts in UTF-16, texts in pieces, and interpreter lines."""

from __future__ import annotations

import io

import pytest

from oci_binpkg.errors import ContentError
from oci_binpkg.relocate import text
from oci_binpkg.relocate.prefixes import PrefixMap

MOVED = PrefixMap.of({"/opt/old": "/srv/new place"})
SBANG = b"/srv/new/bin/sbang"
LONG = b"#!/" + b"d" * 140


@pytest.mark.parametrize(("mark", "encoding"), [(b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")])
def test_utf16_keeps_its_byte_order(mark: bytes, encoding: str) -> None:
    before = mark + "naïve \U00010348 /opt/old/share\n/stage/opt/old\n".encode(encoding)

    after = text.relocate_utf16(before, MOVED)

    assert after == mark + "naïve \U00010348 /srv/new place/share\n/stage/opt/old\n".encode(encoding)
    assert text.left_in_utf16(before, MOVED)
    assert not text.left_in_utf16(after, MOVED)
    assert text.utf16_mentions(before, MOVED)
    assert text.is_utf16(before[:8])


@pytest.mark.parametrize("data", [b"plain", b"\xff\xfea", b"\xff\xfe\x00\xd8a\x00"])
def test_what_is_not_utf16(data: bytes) -> None:
    with pytest.raises(ContentError, match="not UTF-16"):
        text.relocate_utf16(data, MOVED)
    assert not text.is_utf16("x".encode("utf-32"))


@pytest.mark.parametrize("window", [1, 2, 7, 50, 1000])
def test_pieces_change_like_the_whole(window: int) -> None:
    whole = b"-I/opt/old/include /stage/opt/old\n/opt/old:/opt/old\nab" * 20

    parts = list(text.pieces(io.BytesIO(whole).read, MOVED, window=window))

    assert b"".join(parts) == whole
    assert b"".join(map(MOVED.replace_text, parts)) == MOVED.replace_text(whole)
    assert len(parts) > 1 or window == 1000 + len(whole)


def test_text_without_a_place_to_cut_is_one_piece() -> None:
    assert list(text.pieces(io.BytesIO(b"a/b" * 99).read, MOVED, window=10)) == [b"a/b" * 99]
    assert list(text.pieces(io.BytesIO(b"").read, MOVED)) == []


def test_what_is_left_in_text() -> None:
    mapping = PrefixMap.of({"/opt/old": "/srv /opt/old-2"})

    assert text.left_in_text(b"see /opt/old", mapping)
    assert not text.left_in_text(b"see /srv /opt/old-2/x and /stage/opt/old", mapping)
    assert not text.left_in_text(b"nothing", mapping)


@pytest.mark.parametrize(
    ("line", "second"),
    [
        (LONG + b"/bin/python3 -E", LONG + b"/bin/python3 -E"),
        (LONG + b"/bin/lua5.3", b"--" + LONG[1:] + b"/bin/lua5.3"),
        (LONG + b"/bin/lua", b"--" + LONG[1:] + b"/bin/lua"),
        (LONG + b"/bin/node", b"//" + LONG[1:] + b"/bin/node"),
        (LONG + b"/bin/php", b"<?php " + LONG + b"/bin/php ?>"),
    ],
)
def test_long_interpreter_lines_call_sbang(line: bytes, second: bytes) -> None:
    if line.endswith(b"lua5.3"):
        second = line  # only `lua` by that name, as Spack has it
    script = line + b"\nprint(1)\n"

    assert text.interpreter_line_is_too_long(script)
    assert text.with_sbang(script, SBANG) == b"#!/bin/sh " + SBANG + b"\n" + second + b"\nprint(1)\n"


@pytest.mark.parametrize("script", [b"#!/bin/sh\n", b"", LONG[2:] + b"\n", LONG[:127] + b"\n"])
def test_other_scripts_stay(script: bytes) -> None:
    assert text.with_sbang(script, SBANG) == script
    assert not text.interpreter_line_is_too_long(script)


def test_an_sbang_that_is_as_long_does_not_help() -> None:
    assert text.with_sbang(LONG + b"\n", b"/" + b"s" * 150) == LONG + b"\n"
