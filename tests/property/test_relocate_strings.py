"""Constants in binaries: sizes never change, nobody's string loses its end, and every mention is moved or told."""

from __future__ import annotations

import io
import re

from hypothesis import given
from hypothesis import strategies as st

from oci_binpkg.relocate.edits import FindingKind
from oci_binpkg.relocate.prefix_set import PrefixSet
from oci_binpkg.relocate.prefixes import PrefixMap, mapping_for
from oci_binpkg.relocate.scan import _Mention
from oci_binpkg.relocate.strings import TAIL, relocate_strings, remaining
from oci_binpkg.relocate.text import windows

PREFIXES = ["/opt/a", "/opt/a/b-hash123", "/srv/something/long-hash456", "/opt"]
NEW = ["/n", "/opt/x", "/srv/elsewhere/of/length-hash123", "/usr/local/hash456", "/very/" + "long/" * 9]
PIECES = [
    b"/opt/a",
    b"/opt/a/b-hash123",
    b"/srv/something/long-hash456",
    b"\0",
    b"\0\0",
    b"/",
    b"x",
    b"/share/dir",
    b":",
    b"file:",
]

data = st.lists(st.sampled_from(PIECES), max_size=14).map(b"".join)
mappings = st.dictionaries(st.sampled_from(PREFIXES), st.sampled_from(NEW), min_size=1, max_size=3).map(PrefixMap.of)


def plain(text: bytes) -> bytes:
    return re.sub(rb"/+", b"/", text)


def string_at(content: bytes, at: int) -> bytes:
    end = content.find(b"\0", at)
    return content[at : end if end >= 0 else len(content)]


@given(data, mappings)
def test_every_string_is_moved_or_told(content: bytes, mapping: PrefixMap) -> None:
    edited = relocate_strings(content, mapping)
    result = edited.apply(content)
    told = {finding.offset for finding in edited.stale}

    assert len(result) == len(content)
    at = 0
    for text in content.split(b"\0"):
        if not any(at <= offset < at + len(text) for offset in told):
            pattern = b"|".join(re.escape(old) for old, _ in mapping.pairs) or b"(?!)"
            expected = re.sub(pattern, lambda match: dict(mapping.pairs)[match[0]], text)
            assert plain(string_at(result, at)) == plain(expected)
        at += len(text) + 1


@given(data, mappings)
def test_short_ends_of_strings_stay_strings_of_their_own(content: bytes, mapping: PrefixMap) -> None:
    edited = relocate_strings(content, mapping)
    result = edited.apply(content)
    tails = [finding for finding in edited.findings if finding.kind is FindingKind.TAIL_CHANGED]

    at = 0
    for text in content.split(b"\0")[:-1]:
        end = at + len(text)
        if not any(at <= finding.offset < end for finding in tails):
            for start in range(max(at, end - TAIL), end):
                if start > at:
                    assert plain(string_at(result, start)) == plain(content[start:end])
        at = end + 1


@given(data)
def test_the_way_back_from_an_equally_long_prefix(content: bytes) -> None:
    there = PrefixMap.of({"/opt/a": "/new/b", "/srv/something/long-hash456": "/usr/something/long-hash456"})
    back = PrefixMap.of({new.decode(): old.decode() for old, new in there.pairs})

    moved = relocate_strings(content, there).apply(content)

    assert list(remaining(moved, there)) == []
    assert relocate_strings(moved, back).apply(moved) == content


ALPHABET = st.sampled_from(
    [b"/opt/a", b"/opt/a-b", b"/opt", b"/", b"a", b"-", b".", b" ", b"\n", b"x", b"/c", b"b/c", b"\0", b"\xff"]
)
FEW = {"/opt/a": "/new/place", "/opt": "/n", "/a.b/c": "/opt"}
MANY_MORE = {**FEW, **{f"/opt/{number}": f"/n{number}" for number in range(60)}, **{f"/{chr(97 + number)}/c": "/q" for number in range(26)}}  # fmt: skip


@given(st.lists(ALPHABET, max_size=40), st.integers(1, 30))
def test_windows_and_needles_find_what_the_text_rule_finds(pieces: list[bytes], size: int) -> None:
    whole = b"".join(pieces)
    for pairs in (FEW, MANY_MORE):
        mapping = PrefixMap.of(pairs)
        expected = mapping.old.pattern.sub(lambda match, new=mapping.new: match[1] + new[match[2]] + match[3], whole)  # type: ignore[misc]
        found = list(windows(io.BytesIO(whole).read, mapping, size=size))
        assert b"".join(window.text[window.start : window.end] for window in found) == whole
        assert b"".join(window.replaced() for window in found) == expected
        assert mapping.replace_text(whole) == expected
        mention = _Mention(mapping.old)
        for at in range(0, len(whole), size):
            mention.feed(whole[at : at + size])
        assert mention.found == (mapping.old.pattern.search(whole) is not None)


@given(st.lists(st.sampled_from(["/a", "/b", "/a/b", "/c"]), min_size=1, max_size=6), st.binary(max_size=20))
def test_the_longest_prefix_is_found_in_the_sorted_list(parts: list[str], rest: bytes) -> None:
    paths = {"".join(parts[:count]) for count in range(1, len(parts) + 1)} | {"/a/a", "/b/c/d"}
    text = "".join(parts).encode() + rest
    known = PrefixSet.of(paths)
    standing = sorted((path.encode() for path in paths if text.startswith(path.encode())), key=len)
    assert known.longest_of(text) == (standing[-1] if standing else None)
    assert sorted(known.all_of(text), key=len) == standing


SPELLED = st.sampled_from(
    [b"/opt", b"/store", b"/app", b"/zlib-1", b"/", b"//", b"/./", b"/../", b"\\/", b"\\/opt\\/store", b"\\/app", b"%2F", b"%2fopt%2fstore", b"%2Fapp", b" ", b":", b"x", b".", b"file:", b"http:", b'"', b"\0", b"\xe8\xa1\xa8"]
)  # fmt: skip
NAMED = {"a" * 32: "/opt/store/app", "b" * 32: "/opt/store/zlib-1"}


@given(
    st.lists(SPELLED, max_size=40), st.integers(1, 40), st.sampled_from(["/n", "/opt/store/in", "/much/longer/root"])
)
def test_other_spellings_are_found_alike_in_windows_and_leave_nothing(
    pieces: list[bytes], size: int, root: str
) -> None:
    whole = b"".join(pieces)
    mapping = mapping_for(
        NAMED, {key: f"{root}{path[10:]}-h" for key, path in NAMED.items()}, root=("/opt/store", root)
    )
    expected = mapping.replace_text(whole)
    found = list(windows(io.BytesIO(whole).read, mapping, size=size))
    assert b"".join(window.text[window.start : window.end] for window in found) == whole
    assert b"".join(window.replaced() for window in found) == expected
    if mapping.replace_text(expected) == expected:
        assert not any(not mapping.is_new(expected, each) for each in mapping.mentions(expected))

    edited = relocate_strings(whole, mapping)
    result = edited.apply(whole)
    assert len(result) == len(whole)
    wrong = [finding.offset for finding in edited.findings if finding.is_stale]
    assert set(remaining(result, mapping)) <= set(wrong)
    for encoding in ("utf-16-le", "utf-32-be"):
        wide = whole.decode().encode(encoding)
        assert len(relocate_strings(wide, mapping).apply(wide)) == len(wide)
