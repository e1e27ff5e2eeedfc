"""Texts in UTF-16, and texts in pieces."""

from __future__ import annotations

import io

import pytest

from oci_binpkg.errors import ContentError
from oci_binpkg.relocate import text
from oci_binpkg.relocate.prefixes import PrefixMap

MOVED = PrefixMap.of({"/opt/old": "/srv/new place"})


def in_windows(data: bytes, mapping: PrefixMap, size: int) -> bytes:
    """Replace a text window by window; the windows are the text."""
    found = list(text.windows(io.BytesIO(data).read, mapping, size=size))
    assert b"".join(window.text[window.start : window.end] for window in found) == data
    return b"".join(window.replaced() for window in found)


def is_left(data: bytes, mapping: PrefixMap, size: int = 10) -> bool:
    return any(window.is_left(mapping) for window in text.windows(io.BytesIO(data).read, mapping, size=size))


def relocated_utf16(data: bytes, mapping: PrefixMap, size: int = text.WINDOW) -> bytes:
    out = io.BytesIO()
    encoding = text.wide_encoding(data)[1] or "utf-16-le"
    mark, read = text.wide_reader(io.BytesIO(data).read, encoding)
    write = text.wide_writer(encoding, out.write)
    for window in text.windows(read, mapping, size=size):
        write(window.replaced())
    return mark + out.getvalue()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(("mark", "encoding"), [(b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")])
def test_utf16_keeps_its_byte_order(mark: bytes, encoding: str, size: int) -> None:
    before = mark + "naïve \U00010348 /opt/old/share\n/stage/opt/old\n".encode(encoding)

    after = relocated_utf16(before, MOVED, size)

    assert after == mark + "naïve \U00010348 /srv/new place/share\n/stage/opt/old\n".encode(encoding)
    assert any(mark in before for mark in MOVED.old.spelled.wide_marks)
    assert text.wide_encoding(before[:8]) == (mark, encoding)


@pytest.mark.parametrize("data", [b"plain", b"\xff\xfea", b"\xff\xfe\x00\xd8a\x00"])
def test_what_is_not_utf16(data: bytes) -> None:
    with pytest.raises(ContentError, match="not UTF-16"):
        relocated_utf16(data, MOVED)
    assert text.wide_encoding("x".encode("utf-32"))[1] == "utf-32-le"
    assert text.wide_encoding(b"plain") == (b"", "")


MANY = PrefixMap.of({"/opt/old": "/srv/new place", **{f"/opt/old/p{number}": f"/x/{number}" for number in range(99)}, **{f"/o{number}.b/c": "/y" for number in range(99)}})  # fmt: skip


@pytest.mark.parametrize("mapping", [MOVED, MANY], ids=["one", "many"])
@pytest.mark.parametrize("window", [1, 2, 7, 50, 1000])
def test_windows_change_like_the_whole(window: int, mapping: PrefixMap) -> None:
    whole = b"-I/opt/old/include /stage/opt/old\n/opt/old:/opt/old\nab/o1.b/c:/o1.b/o2.b/c" * 20

    assert in_windows(whole, mapping, window) == mapping.replace_text(whole) != whole


@pytest.mark.parametrize("whole", [b"a/b" * 99, b"/opt/old" * 99, b"", b"-/opt/old" * 50, b"/" * 300])
def test_text_without_a_place_to_cut_is_cut_all_the_same(whole: bytes) -> None:
    assert in_windows(whole, MOVED, 10) == MOVED.replace_text(whole)
    longest = max((len(window.text) for window in text.windows(io.BytesIO(whole).read, MOVED, size=10)), default=0)
    assert longest < 2 * text.reach_of(MOVED)


def test_what_is_left_in_text() -> None:
    mapping = PrefixMap.of({"/opt/old": "/srv /opt/old-2"})

    assert is_left(b"see /opt/old", mapping)
    assert not is_left(b"see /srv /opt/old-2/x and /stage/opt/old", mapping)
    assert not is_left(b"nothing", mapping)
