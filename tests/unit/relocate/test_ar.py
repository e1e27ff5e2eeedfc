"""Static archives: members change in place, tables and names do not."""

from __future__ import annotations

import pytest

from oci_binpkg.errors import ContentError
from oci_binpkg.relocate.ar import relocate_archive, remaining_in_archive
from oci_binpkg.relocate.prefixes import PrefixMap

OLD = b"/opt/old"
MOVED = PrefixMap.of({"/opt/old": "/new"})
CONTENT = b"\x7fELF....\0" + OLD + b"/share/x\0"
CHANGED = b"\x7fELF....\0/////new/share/x\0"


def member(name: bytes, content: bytes) -> bytes:
    header = (
        name.ljust(16) + b"0".ljust(12) + b"0".ljust(6) * 2 + b"644".ljust(8) + str(len(content)).encode().ljust(10)
    )
    return header + b"`\n" + content + b"\n" * (len(content) % 2)


def test_members_keep_their_sizes_and_the_tables_stay() -> None:
    def archive(content: bytes) -> bytes:
        return b"!<arch>\n" + b"".join(
            [
                member(b"/", OLD + b"/symbols\0"),
                member(b"//", OLD + b"/name.o/\n"),
                member(b"a.o/", content),
                member(b"/0", content + b"odd"),
                member(b"#1/20", OLD + b"/name.o\0\0\0\0\0" + content),
            ]
        )

    before = archive(CONTENT)

    assert relocate_archive(before, MOVED).apply(before) == archive(CHANGED)
    assert len(list(remaining_in_archive(before, MOVED))) == 3
    assert list(remaining_in_archive(archive(CHANGED), MOVED)) == []


def test_what_cannot_grow_is_a_finding() -> None:
    data = b"!<arch>\n" + member(b"a.o/", CONTENT)

    (finding,) = relocate_archive(data, PrefixMap.of({"/opt/old": "/much/longer"})).stale

    assert data[finding.offset :].startswith(OLD)


@pytest.mark.covers("B45")
@pytest.mark.parametrize(
    "data",
    [
        b"!<thin>\n",
        b"",
        b"!<arch>\n" + member(b"a.o/", CONTENT)[:-9],
        b"!<arch>\n" + b"x" * 80,
        (b"!<arch>\n" + member(b"a.o/", CONTENT)).replace(str(len(CONTENT)).encode(), b"-1"),
    ],
)
def test_damaged_archives(data: bytes) -> None:
    with pytest.raises(ContentError, match="static archive"):
        relocate_archive(data, MOVED)


def test_an_empty_archive() -> None:
    assert not relocate_archive(b"!<arch>\n", MOVED)
