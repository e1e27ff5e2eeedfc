"""Prefixes without a hash, and the root, count as whole paths only; links and relative paths lead where they led."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from oci_binpkg.relocate.prefixes import PrefixMap, mapping_for
from oci_binpkg.relocate.strings import relocate_strings, remaining
from oci_binpkg.relocate.text import windows
from oci_binpkg.relocate.tree import relocate_tree

HASHES = {name: (name * 32)[:32] for name in ("app", "apps", "long")}


def mapping(old: dict[str, str], root: tuple[str, str] = ("/sw", "/n")) -> PrefixMap:
    known = {HASHES[name]: prefix for name, prefix in old.items()}
    return mapping_for(known, {key: f"{root[1]}/{key[:3]}" for key in known}, root=root)


APP = mapping({"app": "/sw/app", "apps": "/sw/app/2.1"})


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"/sw/app/bin", b"/n/app/bin"),
        (b"-I/sw/app/include -Wl,-rpath,/sw/app", b"-I/n/app/include -Wl,-rpath,/n/app"),
        (b'It is in /sw/app. Or in "/sw/app"; [/sw/app]', b'It is in /n/app. Or in "/n/app"; [/n/app]'),
        (b"A=/sw/app=/x:/sw/app:/sw", b"A=/n/app=/x:/n/app:/n"),
        (b"/sw/app/2.1/lib /sw/app/2.10/lib", b"/n/app/lib /n/app/2.10/lib"),
        ("\u201c/sw/app\u201d \u3001/sw/app\u3001".encode(), "\u201c/n/app\u201d \u3001/n/app\u3001".encode()),
        (b"/sw/app.d /sw/app+x /sw/app~ /sw/app@2 /sw/app_x /sw/apple", None),
        ("/sw/app\u00e9 /sw/app\u4e2d".encode(), None),
        (b"/swap/x /sw.old /sweep http://host/sw/app /etc/sw/app ~/sw/x share/sw/x ${HOME}/sw", None),
        (b"/sw/other/share /sw/tmp", None),
        (b"printf '\\n/sw/app'", b"printf '\\n/n/app'"),
    ],
)
def test_text(before: bytes, after: bytes | None) -> None:
    expected = before if after is None else after
    assert APP.replace_text(before) == expected
    for size in (1, 7, 1000):
        found = windows(io.BytesIO(before).read, APP, size=size)
        assert b"".join(window.replaced() for window in found) == expected


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"<x href='file:///sw/app/dtd'/>", b"<x href='file:///n/app/dtd'/>"),
        (b"file:/sw/app file://localhost/sw/app", b"file:/n/app file://localhost/n/app"),
        (b"dir=//sw/app/x ///sw/app", b"dir=//n/app/x ///n/app"),
        (b"http:///sw/app ftp://sw/app /x//sw/app", None),
    ],
)
def test_slashes_that_mean_nothing(before: bytes, after: bytes | None) -> None:
    assert APP.replace_text(before) == (before if after is None else after)
    assert bool(relocate_strings(before + b"/long/enough\0", APP)) is (after is not None)


@pytest.mark.parametrize(
    "text",
    [
        b"file:///sw/app/x\n",
        b"it\x92s /sw/app/x",
        "\u8868 /sw/app/x".encode("shift_jis"),
        "\u4e02 /sw/app/x".encode("gbk"),
    ],
)
def test_texts_that_no_archiver_declares(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "text").write_bytes(text)
    (tmp_path / "data").write_bytes(b"\x01\x02" + text)

    report = relocate_tree(str(tmp_path), APP)

    assert (tmp_path / "text").read_bytes() == text.replace(b"/sw/app", b"/n/app")
    assert (tmp_path / "data").read_bytes() == b"\x01\x02" + text
    assert [remark.path for remark in report.reported] == ["data"]


@pytest.mark.parametrize(
    "constant",
    [b"/swap/file", b"/etc/sw/app.conf", b"http://host/sw/list", b"/sw/apple/pie", b"/sw.d/x", b"%s/share/sw/x", b"/sw/tmp/x"],
)  # fmt: skip
def test_a_constant_that_is_no_mention_neither_changes_nor_stops_a_package(constant: bytes) -> None:
    data = b"\0" + constant + b"\0"
    for new in ("/n", "/a/much/longer/root"):
        moved = mapping({"app": "/sw/app"}, ("/sw", new))
        edited = relocate_strings(data, moved)
        assert not edited
        assert edited.findings == ()
        assert list(remaining(data, moved)) == []


def test_a_prefix_behind_a_file_name_is_a_string_of_its_own() -> None:
    data = b"file.c/sw/app/include/x\0"

    assert relocate_strings(data, APP).apply(data) == b"file.c//n/app/include/x\0"


def test_a_prefix_with_its_hash_counts_wherever_it_stands() -> None:
    old = f"/sw/long-1-{HASHES['long']}"
    moved = mapping_for({HASHES["long"]: old}, {HASHES["long"]: f"/n/long-1-{HASHES['long']}"}, root=("/sw", "/n"))
    data = f"/x/y{old}next/sw/abc\0".encode()

    assert relocate_strings(data, moved).apply(data) == data.replace(b"/sw/long", b"//n/long")
    assert moved.replace_text(f"{old}-build".encode()) == f"/n/long-1-{HASHES['long']}-build".encode()


def test_the_root_counts_for_what_is_named_by_a_hash() -> None:
    other = f"gcc-12-{HASHES['apps']}"

    assert APP.replace_text(f"/sw/{other}/bin".encode()) == f"/n/{other}/bin".encode()
    assert APP.replace_link(f"/sw/{other}") == f"/n/{other}"
    assert APP.replace_link("/sw/other") == "/sw/other"
    assert APP.replace_link("/sw/apple") == "/sw/apple"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"../../long/lib/x", b"../../lon-1/lib/x"),
        (b"../../long/", b"../../lon-1/"),
        (b"../lib/x", b"../lib/x"),
        (b"../../other/x", b"../../other/x"),
        (b"../../../etc/passwd", b"../../../../etc/passwd"),
        (b"../../../../usr/lib/x", b"../../../../usr/lib/x"),
        (b"x", b"x"),
    ],
)
def test_relative_paths_lead_to_the_new_place(path: bytes, expected: bytes) -> None:
    moved = mapping_for({"a" * 32: "/sw/app", "b" * 32: "/sw/long"}, {"a" * 32: "/n/t/app-1", "b" * 32: "/n/t/lon-1"}, root=("/sw", "/n"))  # fmt: skip

    assert moved.replace_relative(path, b"/sw/app/lib", b"/n/t/app-1/lib") == expected
