"""Prefixes in the constants of binaries: what stays where, and what cannot be done."""

from __future__ import annotations

import pytest

from oci_binpkg.relocate.edits import FindingKind
from oci_binpkg.relocate.prefixes import PrefixMap
from oci_binpkg.relocate.strings import relocate_strings, remaining

HASH = "abcdefghijklmnop"


def moved(data: bytes, *pairs: tuple[str, str]) -> bytes:
    edited = relocate_strings(data, PrefixMap.of(dict(pairs)))
    assert edited.findings == ()
    result = edited.apply(data)
    assert len(result) == len(data)
    return result


@pytest.mark.covers("B45")
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"\0/opt/old/share/x\0", b"\0///new/a/share/x\0"),
        (b"/opt/old/share/x", b"///new/a/share/x"),
        (b"a=/opt/old/library:/opt/old/binaries\0", b"a=///new/a/library:///new/a/binaries\0"),
        (b"file.c/opt/old/include -O2\0", b"file.c///new/a/include -O2\0"),
        (b"/stage/opt/old/sources\0", b"/stage///new/a/sources\0"),
        (b"/opt/older/things\0", b"///new/aer/things\0"),
        (b"//opt/old/share/x\0", b"////new/a/share/x\0"),
        (b"file:///opt/old/share/x\0", b"file://///new/a/share/x\0"),
        (b"/opt/ol\0/opt/other\0", b"/opt/ol\0/opt/other\0"),
        (b"", b""),
    ],
)
def test_a_shorter_prefix_is_padded_in_front(before: bytes, after: bytes) -> None:
    assert moved(before, ("/opt/old", "/new/a")) == after


def test_the_longest_prefix_wins() -> None:
    pairs = ("/opt", "/1"), ("/opt/a/b", "/3"), ("/opt/a", "/2")

    assert moved(b"/opt/a/b/xxxxxxx\0/opt/a/xxxxxxx\0/opt/xxxxxxx\0", *pairs) == (
        b"///////3/xxxxxxx\0/////2/xxxxxxx\0///1/xxxxxxx\0"
    )


def test_a_prefix_that_stays_shields_what_lies_in_it() -> None:
    mapping = PrefixMap.of({"/opt": "/1", "/opt/a": "/opt/a"})
    data = b"/opt/a/xxxxxxx\0/opt/xxxxxxx\0"

    assert relocate_strings(data, mapping).apply(data) == b"/opt/a/xxxxxxx\0///1/xxxxxxx\0"
    assert list(remaining(b"/opt/a/xxxxxxx\0///1/xxxxxxx\0", mapping)) == []


def test_a_tail_that_stays_the_same_is_padded_like_any_other() -> None:
    """The prefix of a package ends with its hash, in the old place and in the new one."""
    assert moved(f"/opt/old/{HASH}\0".encode(), (f"/opt/old/{HASH}", f"/new/{HASH}")) == f"/////new/{HASH}\0".encode()


@pytest.mark.covers("B45")
def test_a_tail_that_changes_is_left_behind_a_nul() -> None:
    """Code may point at `old/dir`, or a shorter end of it, as a string of its own: it must find that."""
    before = b"\0/opt/some/old/dir\0"

    after = moved(before, ("/opt/some/old/dir", "/new"))

    assert after == b"\0/new\0some/old/dir\0"
    assert after.endswith(b"old/dir\0")
    assert moved(b"/opt/some/old/dir/x\0", ("/opt/some/old/dir", "/new")) == b"/new/x\0me/old/dir/x\0"


@pytest.mark.covers("B45")
@pytest.mark.parametrize("shorter", range(1, 8))
def test_a_tail_with_no_room_for_the_nul_is_a_finding(shorter: int) -> None:
    old = "/opt/some/old/dir"
    new = "/new".ljust(len(old) - shorter, "w")
    data = b"\0" + old.encode() + b"/x\0"

    edited = relocate_strings(data, PrefixMap.of({old: new}))

    (finding,) = edited.stale
    assert not edited
    assert finding.kind is FindingKind.CANNOT_SHRINK
    assert (finding.offset, finding.string, finding.room) == (1, old.encode() + b"/x", len(old) - 8)
    # what the finding says would fit does
    assert relocate_strings(data, PrefixMap.of({old: "/new".ljust(finding.room, "w")})).findings == ()


@pytest.mark.parametrize(
    ("suffix", "safe"), [(b"", False), (b"/local", False), (b"/share/", True), (b"/shares/", True)]
)
def test_only_the_last_seven_characters_count(suffix: bytes, safe: bool) -> None:
    edited = relocate_strings(b"/opt/old" + suffix + b"\0", PrefixMap.of({"/opt/old": "/newest"}))

    assert bool(edited) is safe


def test_equal_length_is_written_and_told() -> None:
    edited = relocate_strings(b"\0/opt/old\0", PrefixMap.of({"/opt/old": "/srv/new"}))

    assert edited.apply(b"\0/opt/old\0") == b"\0/srv/new\0"
    (finding,) = edited.findings
    assert finding.kind is FindingKind.TAIL_CHANGED
    assert edited.stale == ()


@pytest.mark.covers("B45")
def test_a_longer_prefix_is_a_finding() -> None:
    data = b"\0data at /opt/old/share\0"

    edited = relocate_strings(data, PrefixMap.of({"/opt/old": "/opt/longer"}))

    (finding,) = edited.findings
    assert finding.kind is FindingKind.CANNOT_GROW
    assert (finding.offset, finding.string, finding.room) == (9, b"data at /opt/old/share", 8)
    assert (finding.old, finding.new) == (b"/opt/old", b"/opt/longer")
    assert edited.stale == (finding,)
    assert not edited


def test_a_very_long_string_is_shown_in_part() -> None:
    data = b"x" * 10000 + b"/opt/old/" + b"y" * 10000

    (finding,) = relocate_strings(data, PrefixMap.of({"/opt/old": "/opt/longer"})).findings

    assert len(finding.string) < 10000
    assert b"/opt/old" in finding.string


@pytest.mark.parametrize(
    "text", [b"\0/opt/a/long/prefix/share/x\0", b"k=/opt/a/long/prefix/lib:/opt/a/long/prefix/binary64\0"]
)
def test_slashes_of_an_earlier_relocation_are_room(text: bytes) -> None:
    pair = ("/opt/a/long/prefix", "/short")

    there = moved(text, pair)

    assert b"/opt" not in there
    assert moved(there, pair[::-1]) == text
    assert moved(there, ("/short", "/of/other/len")).count(b"/of/other/len") == text.count(b"/opt/")


def test_the_slashes_of_an_address_are_no_room() -> None:
    (finding,) = relocate_strings(b"file:///short/x\0", PrefixMap.of({"/short": "/longer"})).findings

    assert finding.room == 6
    assert moved(b"/lib:///short/xxxxxxx\0", ("/short", "/longer")) == b"/lib://longer/xxxxxxx\0"


def test_prefixes_so_short_that_two_stand_in_one_tail() -> None:
    edited = relocate_strings(b"/long/prefix:/a\0", PrefixMap.of({"/long/prefix": "/b", "/a": "/c"}))

    assert edited.apply(b"/long/prefix:/a\0") == b"/long/prefix:/c\0"
    assert [finding.kind for finding in edited.findings] == [FindingKind.CANNOT_SHRINK, FindingKind.TAIL_CHANGED]


def test_parts_of_the_data_are_left_out() -> None:
    data = b"/opt/old/xxxxxxx\0" * 4

    edited = relocate_strings(data, PrefixMap.of({"/opt/old": "/new"}), start=17, end=66, skip=[(34, 51)])

    assert (
        edited.apply(data)
        == b"/opt/old/xxxxxxx\0" + b"/////new/xxxxxxx\0" + b"/opt/old/xxxxxxx\0" + b"/////new/xxxxxxx\0"
    )
    assert list(remaining(data, PrefixMap.of({"/opt/old": "/new"}), skip=[(34, 51)])) == [0, 17, 51]


def test_a_new_prefix_that_contains_the_old_one_is_not_left() -> None:
    mapping = PrefixMap.of({"/opt/a": "/srv/opt/a-2"})

    assert list(remaining(b"/srv/opt/a-2/x\0/opt/a-2/x\0/srv/opt/a/x\0", mapping)) == [15, 30]


def test_without_pairs_nothing_is_looked_at() -> None:
    assert relocate_strings(b"/opt/old\0", PrefixMap.of({})) == relocate_strings(b"", PrefixMap.of({}))
