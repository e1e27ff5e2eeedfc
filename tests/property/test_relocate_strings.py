"""Constants in binaries: sizes never change, nobody's string loses its end, and every mention is moved or told."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from oci_binpkg.relocate.edits import FindingKind
from oci_binpkg.relocate.prefixes import PrefixMap
from oci_binpkg.relocate.strings import TAIL, relocate_strings, remaining

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
