"""Strings of UTF-16 and UTF-32: in binaries they keep their size, as texts they do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from oci_binpkg.errors import RelocationError
from oci_binpkg.relocate.edits import FindingKind
from oci_binpkg.relocate.prefixes import PrefixMap, mapping_for
from oci_binpkg.relocate.strings import relocate_strings, remaining
from oci_binpkg.relocate.tree import relocate_tree
from tests.support.effort import cpu_within

HASH = "a" * 32
SHORT, LONG = (mapping_for({HASH: "/opt/store/app"}, {HASH: f"{root}/app-h"}, root=("/opt/store", root)) for root in ("/n", "/a/longer/root/of/it"))  # fmt: skip
ENCODINGS = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
each_encoding = pytest.mark.parametrize("encoding", ENCODINGS)


def constant(text: str, encoding: str) -> bytes:
    return "before\0".encode(encoding) + text.encode(encoding) + "\0behind".encode(encoding)


@each_encoding
@pytest.mark.parametrize("shift", [0, 1, 2, 3], ids="shift{}".format)
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("/opt/store/app/share/locale", "///////n/app-h/share/locale"),
        ("a=/opt/store/app/library:/opt/store//app/binaries", "a=///////n/app-h/library:////////n/app-h/binaries"),
        ("naïve ☃ “/opt/store/app/share/x”", "naïve ☃ “///////n/app-h/share/x”"),
    ],
)
def test_a_shorter_path_is_padded(before: str, after: str, encoding: str, shift: int) -> None:
    data = bytes(range(1, shift + 1)) + constant(before, encoding) + b"\1\2\3"

    edited = relocate_strings(data, SHORT)
    result = edited.apply(data)

    assert edited.findings == ()
    assert result == bytes(range(1, shift + 1)) + constant(after, encoding) + b"\1\2\3"
    assert list(remaining(result, SHORT)) == []


@each_encoding
def test_a_longer_path_is_a_finding_with_its_place(encoding: str) -> None:
    data = constant("in /opt/store/app/share", encoding)
    width = len("x".encode(encoding))

    edited = relocate_strings(data, LONG)

    (finding,) = edited.stale
    assert not edited
    assert (finding.kind, finding.room) == (FindingKind.CANNOT_GROW, len("/opt/store/app"))
    assert finding.offset in range((len("before\0in ")) * width, (len("before\0in ") + 1) * width)
    assert list(remaining(data, LONG)) == [finding.offset]


@each_encoding
@pytest.mark.parametrize(
    "text", ["/opt/store/apple/x", "/etc/opt/store/app", "/opt/storeroom", "/opt/store/other", "x/store/app", "☃store"]
)
def test_what_is_no_mention_is_no_obstacle(text: str, encoding: str) -> None:
    data = constant(text, encoding)
    for mapping in (SHORT, LONG):
        assert relocate_strings(data, mapping) == relocate_strings(b"", mapping)
        assert list(remaining(data, mapping)) == []


@each_encoding
def test_a_short_end_stays_a_string_of_its_own(encoding: str) -> None:
    mapping = mapping_for({HASH: "/opt/some/long/dir"}, {HASH: "/n"}, root=("/opt/some", "/n"))
    data = constant("/opt/some/long/dir", encoding)

    assert relocate_strings(data, mapping).apply(data) == constant("/n\0t/some/long/dir", encoding)


@each_encoding
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["no mark", "mark"])
@pytest.mark.parametrize("mapping", [SHORT, LONG], ids=["shorter", "longer"])
def test_texts_grow_and_shrink(tmp_path: Path, mapping: PrefixMap, mark: str, encoding: str) -> None:
    text = 'p=/opt/store/app/x\n“/opt/store/app” é/opt/store//app\r\n{"u":"\\/opt\\/store\\/app"} /opt/store/apple ☃\n'
    (tmp_path / "text").write_bytes((mark + text).encode(encoding))

    report = relocate_tree(str(tmp_path), mapping)

    expected = mapping.replace_text(text.encode()).decode()
    assert (tmp_path / "text").read_bytes() == (mark + expected).encode(encoding)
    assert (report.changed, report.reported) == (("text",), ())


@pytest.mark.parametrize("tail", [b"\0", b"\1\0\2\0", b"x"], ids=["odd", "control", "half"])
def test_data_with_such_strings_are_left_alone_and_remarked(tmp_path: Path, tail: bytes) -> None:
    content = b"\0\0\0\1" + "/opt/store/app/x".encode("utf-16-le") + tail
    (tmp_path / "data").write_bytes(content)

    report = relocate_tree(str(tmp_path), SHORT)

    assert (tmp_path / "data").read_bytes() == content
    assert [remark.path for remark in report.reported] == ["data"]


def test_a_program_with_a_longer_root_is_refused_as_for_other_strings(tmp_path: Path) -> None:
    program = b"\x7fELF\x02\x01\x01\0" + bytes(120) + "/opt/store/app/share/x\0".encode("utf-32-le")
    (tmp_path / "program").write_bytes(program)

    with pytest.raises(RelocationError, match="no room for"):
        relocate_tree(str(tmp_path), LONG, binaries=["program"])
    assert relocate_tree(str(tmp_path), LONG, binaries=["program"], allow_stale=["program"]).stale
    relocate_tree(str(tmp_path), SHORT, binaries=["program"])
    assert "///////n/app-h/share/x".encode("utf-32-le") in (tmp_path / "program").read_bytes()


def test_nothing_but_marks_costs_little() -> None:
    data = "/store".encode("utf-16-le") * 5000
    with cpu_within(1.0):
        assert not relocate_strings(data, SHORT)
