"""The streaming classifier agrees with the plain reading of its rules, however the file is cut into chunks."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from oci_binpkg.relocate.scan import FileKind, PrefixScanner, is_object_file

PREFIXES = ("/opt/a", "/opt/a/b-1", "/srv/x_y")
PIECES = [
    b"/opt/a",
    b"/opt/a/b-1",
    b"/srv/x_y",
    b"/opt/",
    b"/",
    b"a-b_c9",
    b" ",
    b"\0",
    b"\x7f",
    b"\x85",
    b"\xe9",
    "é☃\U00010348".encode(),
    b"\x7fELF\x02\x01\x01\x00",
    b"\xca\xfe\xba\xbe\x00\x00\x00\x02",
    b"w" * 300,
]


def plain_reading(content: bytes) -> FileKind:
    if is_object_file(content[:8]):
        return FileKind.BINARY
    rule = rb"(?<![\w\-_/])([\w\-_]*?)(%s)([\w\-_/]*)" % b"|".join(re.escape(p.encode()) for p in PREFIXES)
    if len(content) < 8 or not re.search(rule, content):
        return FileKind.OTHER
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return FileKind.OTHER if re.search(rb"[\x00\x7f-\x9f]", content) else FileKind.TEXT
    return FileKind.TEXT


contents = st.one_of(st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join), st.binary(max_size=40))


@given(contents, st.lists(st.integers(1, 40), min_size=1, max_size=8))
def test_chunks_do_not_matter(content: bytes, sizes: list[int]) -> None:
    scan = PrefixScanner(PREFIXES).start()
    at = turn = 0
    while at < len(content):
        size = sizes[turn % len(sizes)]
        scan.feed(content[at : at + size])
        at += size
        turn += 1

    assert scan.finish() is plain_reading(content)
