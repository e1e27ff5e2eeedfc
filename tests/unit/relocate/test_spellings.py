"""Paths that are written in another way than usual lead to the new place, and keep their spelling."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from urllib.parse import quote, unquote

import pytest

from oci_binpkg.relocate.edits import FindingKind
from oci_binpkg.relocate.prefixes import PrefixMap, mapping_for
from oci_binpkg.relocate.spellings import is_odd, marks_of, normal, wide_marks_of
from oci_binpkg.relocate.strings import relocate_strings, remaining
from oci_binpkg.relocate.text import windows
from oci_binpkg.relocate.tree import relocate_tree
from tests.support.effort import cpu_within

OLD = {"app": "/opt/store/app", "zlib": "/opt/store/zlib-1", "greet": "/opt/store/greet-1"}
HASHED = "gcc-12-" + "gcc" * 10 + "gc"


def moved(root: str, old: dict[str, str] | None = None, old_root: str = "/opt/store") -> PrefixMap:
    """The packages of a store as they are named below another root: with a hash."""
    known = {(name * 32)[:32]: prefix for name, prefix in (old or OLD).items()}
    new = {key: f"{root}/{prefix.rpartition('/')[2]}-h" for key, prefix in known.items()}
    return mapping_for(known, new, root=(old_root, root))


SHORT, LONG = moved("/n"), moved("/a/much/longer/root/for/it")


def in_windows(text: bytes, mapping: PrefixMap, size: int) -> bytes:
    return b"".join(window.replaced() for window in windows(io.BytesIO(text).read, mapping, size=size))


DETOURS = [
    (b"/opt/store//zlib-1/lib", b"/n/zlib-1-h/lib"),
    (b"/opt/store/./zlib-1/lib", b"/n/zlib-1-h/lib"),
    (b"/opt//store/zlib-1", b"/n/zlib-1-h"),
    (b"/opt/./store/././zlib-1/", b"/n/zlib-1-h/"),
    (b"-L/opt/store///zlib-1//lib -L/opt/store/app", b"-L/n/zlib-1-h//lib -L/n/app-h"),
    (b"/opt/store/zlib-1/bin/../lib", b"/n/zlib-1-h/bin/../lib"),
    (b"/opt/store/zlib-1/./lib//x", b"/n/zlib-1-h/./lib//x"),
    (b"/opt/store/greet-1/../zlib-1/lib", b"/n/zlib-1-h/lib"),
    (b"/opt/store/greet-1/lib/../../zlib-1/lib:/opt/store/app", b"/n/zlib-1-h/lib:/n/app-h"),
    (b"/opt/store/app/../../../usr/lib", b"/n/app-h/../../../usr/lib"),
    (b"/opt/store/zlib-1/. And /opt/store/app/...", b"/n/zlib-1-h/. And /n/app-h/..."),
    (b"file:////opt//store/./app", b"file:////n/app-h"),
    (f"/opt/store//{HASHED}/x /opt/store/app/../{HASHED}".encode(), f"/n//{HASHED}/x /n/app-h/../{HASHED}".encode()),
]


@pytest.mark.parametrize(("before", "after"), DETOURS)
def test_detours_in_text(before: bytes, after: bytes) -> None:
    assert SHORT.replace_text(before) == after
    for size in (7, 1000):
        assert in_windows(before, SHORT, size) == after


@pytest.mark.parametrize(("before", "after"), DETOURS)
def test_detours_in_constants_keep_the_size(before: bytes, after: bytes) -> None:
    data = b"\0" + before + b"/long/enough\0"

    edited = relocate_strings(data, SHORT)
    result = edited.apply(data)

    assert edited.findings == ()
    assert len(result) == len(data)
    assert list(remaining(result, SHORT)) == []
    assert re.sub(rb"/+", b"/", result) == re.sub(rb"/+", b"/", b"\0" + after + b"/long/enough\0")


def test_what_is_behind_a_detour_is_room() -> None:
    data = b"\0/opt/store/greet-1/share/../../zlib-1/lib/libz.so\0"

    result = relocate_strings(data, LONG).apply(data)
    assert len(result) == len(data)
    assert result.lstrip(b"\0/") == b"a/much/longer/root/for/it/zlib-1-h/lib/libz.so\0"
    (finding,) = relocate_strings(b"\0/opt/store//zlib-1/lib/libz.so\0", LONG).findings
    assert (finding.kind, finding.room) == (FindingKind.CANNOT_GROW, len("/opt/store//zlib-1"))


def test_a_way_out_of_the_tree_leads_to_the_same_place_from_a_deeper_root() -> None:
    text = b"/opt/store/app/../../../usr/lib"

    assert LONG.replace_text(text) == b"/usr/lib"
    assert LONG.replace_path(text) == b"/usr/lib"


@pytest.mark.parametrize(
    "text",
    [
        b"/opt/store/../etc /opt/storeroom//zlib-1 /etc/opt//store/zlib-1 //opt//store/other",
        b"/opt/store//other/x /opt/store/./zlib-10/lib /opt/store/other/../more",
        b"http://opt//store/zlib-1 ./x/opt//store/app",
        b"\\/opt\\/storeroom \\/etc\\/opt\\/store\\/app http:\\/\\/opt\\/store\\/app \\/opt\\/store\\/application",
        b"http%3A%2F%2Fopt%2Fstore%2Fapp %2Fopt%2Fstorage %2Fopt%2Fstore%2Fapplication",
        b"/store/opt \\/store\\/app 2Fstore /storeapp %2Fstore",
    ],
)
def test_what_is_no_mention_is_neither_changed_nor_an_obstacle(text: bytes) -> None:
    data = b"\0" + text + b"/long/enough\0"
    for mapping in (SHORT, LONG):
        assert mapping.replace_text(text) is text
        assert relocate_strings(data, mapping) == relocate_strings(b"", mapping)
        assert list(remaining(data, mapping)) == []


@pytest.mark.parametrize("mapping", [SHORT, LONG], ids=["shorter", "longer"])
@pytest.mark.parametrize(
    "spelled",
    [
        r'{"p": "\/opt\/store\/zlib-1\/lib", "q": "x:\/opt\/store\/app"}',
        r'{"p": "\u002fopt\u002Fstore\u002fzlib-1"}',
        r'["file:\/\/\/opt\/store\/greet-1\/x", "\/opt\/\/store\/.\/app"]',
    ],
)
def test_escaped_slashes(spelled: str, mapping: PrefixMap) -> None:
    text = mapping.replace_text(spelled.encode()).decode()

    plain = json.dumps(json.loads(spelled)).replace("/opt//store/./", "/opt/store/")
    assert json.dumps(json.loads(text)) == mapping.replace_text(plain.encode()).decode()
    assert "/opt" not in text
    assert len(re.findall(r"\\(?:/|u002f)", text, re.IGNORECASE)) >= text.count("/")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (rb"s/\/opt\/store\/app/X/g", rb"s/\/n\/app-h/X/g"),
        (rb"/^\/opt\/store\/zlib-1\/(.*)$/.test(x)", rb"/^\/n\/zlib-1-h\/(.*)$/.test(x)"),
        (rb'"{\"p\": \"\\\/opt\\\/store\\\/app\"}"', rb'"{\"p\": \"\\\/n\\\/app-h\"}"'),
        (rb"\n/opt/store/app", rb"\n/n/app-h"),
        (rb"^\/opt\/store\/zlib\-1\/lib\/libz\.so$", rb"^\/n\/zlib-1-h\/lib\/libz\.so$"),
    ],
)
def test_slashes_that_programs_escape(before: bytes, after: bytes) -> None:
    assert SHORT.replace_text(before) == after


def test_a_root_of_one_name_with_escaped_slashes() -> None:
    mapping = moved("/srv/t", {"app": "/sw/app"}, "/sw")

    assert (
        mapping.replace_text(rb'"\/sw\/app\/x" "\/swap" s/\/sw/y/') == rb'"\/srv\/t\/app-h\/x" "\/swap" s/\/srv\/t/y/'
    )
    assert mapping.replace_text("表/sw/app/x".encode("shift_jis")) == "表/srv/t/app-h/x".encode("shift_jis")


def test_escaped_slashes_in_a_constant() -> None:
    for constant in (
        rb'{"p":"\/opt\/store\/zlib-1\/x"}',
        rb'{"p":"\/opt\/store\/app\/x"}',
        b"u=%2Fopt%2Fstore%2Fapp%2F;",
    ):
        data = constant + b"/long/enough\0"
        result = relocate_strings(data, SHORT).apply(data)
        assert len(result) == len(data)
        assert list(remaining(result, SHORT)) == []
        if constant.startswith(b"{"):
            assert re.sub("/+", "/", json.loads(result.partition(b"}")[0] + b"}")["p"]).startswith("/n/")


@pytest.mark.parametrize("mapping", [SHORT, LONG, moved("/srv/my tree")], ids=["shorter", "longer", "blank"])
@pytest.mark.parametrize(
    "spelled",
    [
        "file:///opt/store/zlib-1/x.html",
        "file:///opt/store%2Fzlib-1%2Fx",
        "q?u=file%3A%2F%2F%2Fopt%2Fstore%2Fapp%2fx&v=%2Fopt%2Fstore%2Fgreet-1",
        "vscode://open?dir=%2fopt%2fstore%2fapp",
    ],
)
def test_addresses(spelled: str, mapping: PrefixMap) -> None:
    text = mapping.replace_text(spelled.encode()).decode()

    expected = mapping.replace_text(unquote(spelled).encode()).decode()
    assert unquote(text) == unquote(expected)
    assert " " not in text
    assert text.count("/") == spelled.count("/") or "%2F" not in spelled.upper() or spelled.startswith("file")


SPECIAL = moved("/n", {"app": "/my apps/R&D/a b", "x": "/my apps/R&D/c+d"}, "/my apps/R&D")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'"/my apps/R&D/a b/bin"', b'"/n/a b-h/bin"'),
        (rb"PATH=/my\ apps/R\&D/a\ b/bin:$PATH", rb"PATH=/n/a\ b-h/bin:$PATH"),
        (b'<a href="/my apps/R&amp;D/a b"/>', b'<a href="/n/a b-h"/>'),
        (b'<a href="/my apps/R&#38;D/a b"/>', b'<a href="/n/a b-h"/>'),
        (b"file:///my%20apps/R%26D/a%20b/x", b"file:///n/a%20b-h/x"),
        (b"%2Fmy%20apps%2FR%26D%2Fa%20b", b"%2Fn%2Fa%20b-h"),
        (b"/my apps/R&D/c+d/x", b"/n/c+d-h/x"),
        (b"/my%20apps/R%26D/c%2Bd/x", b"/n/c+d-h/x"),
        (rb"/my\ apps/R&amp;D/a b", None),
        (rb"x /my apps/R&D/other y=/my\ apps/R\&D/c+d", rb"x /my apps/R&D/other y=/n/c+d-h"),
    ],
)
def test_names_with_characters_that_have_a_meaning(before: bytes, after: bytes | None) -> None:
    assert SPECIAL.replace_text(before) == (after or before)


def test_a_new_name_with_such_characters_is_written_like_the_old_one() -> None:
    mapping = moved("/your apps", {"app": "/my apps/a&b"}, "/my apps")

    assert mapping.replace_text(rb"/my\ apps/a\&b/x") == rb"/your\ apps/a\&b-h/x"
    assert mapping.replace_text(b"file:///my%20apps/a%26b") == b"file:///your%20apps/a%26b-h"
    assert mapping.replace_text(b"</my apps/a&amp;b>") == b"</your apps/a&amp;b-h>"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/opt/store//zlib-1/lib", b"/n/zlib-1-h/lib"),
        (b"/opt/store/./zlib-1/./lib", b"/n/zlib-1-h/./lib"),
        (b"/opt/store/greet-1/../zlib-1", b"/n/zlib-1-h"),
        (b"//opt/store/greet-1/lib/../../zlib-1/", b"/n/zlib-1-h/"),
        (b"/opt/store/zlib-1/../other", b"/n/zlib-1-h/../other"),
        (b"/opt/x/../store/app", b"/n/app-h"),
        (b"/opt/store/../x", b"/opt/store/../x"),
        (b"/opt/store/zlib-10//x", b"/opt/store/zlib-10//x"),
        (b"../zlib-1//x", b"../zlib-1//x"),
    ],
)
def test_single_paths(path: bytes, expected: bytes) -> None:
    assert SHORT.replace_path(path) == expected


def test_links_with_detours(tmp_path: Path) -> None:
    for name, target in {"a": "/opt/store//zlib-1/lib", "b": "/opt/store/app/../zlib-1", "c": "../zlib-1/./x"}.items():
        (tmp_path / name).symlink_to(target)

    relocate_tree(str(tmp_path), SHORT, final_prefix="/n/app-h", old_prefix="/opt/store/app")

    assert {path.name: str(path.readlink()) for path in tmp_path.iterdir()} == {
        "a": "/n/zlib-1-h/lib",
        "b": "/n/zlib-1-h",
        "c": "../zlib-1-h/x",
    }


def test_a_new_root_that_lies_in_the_old_one_is_not_left_in_any_spelling() -> None:
    mapping = moved("/opt/store/new")
    for text in (
        rb'"\/opt\/store\/app\/x"',
        b"%2Fopt%2Fstore%2Fapp",
        b"/opt/store//app/x",
        b"/opt/store/app/../zlib-1",
    ):
        data = mapping.replace_text(text)
        assert b"new" in data
        assert mapping.replace_text(data) == data
        assert list(remaining(data + b"\0", mapping)) == []


@pytest.mark.parametrize("path", [b"/opt/store", b"/a-b/c.d", b"/my apps/R&D", b"/x", "/é/b".encode()])
def test_a_mark_stands_wherever_the_path_does(path: bytes) -> None:
    spelled = (
        path,
        path.replace(b"/", rb"\/"),
        path.replace(b"/", b"//"),
        path.replace(b"/", b"%2f"),
        quote(path, "").encode(),
    )
    for text in spelled:
        assert any(mark in text for mark in marks_of(path))
    for encoding in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"):
        wide = path.decode().encode(encoding)
        assert not wide_marks_of(path) or any(mark in wide for mark in wide_marks_of(path))


def test_an_address_of_letters_beyond_ascii() -> None:
    mapping = moved("/n", {"app": "/sw/épée/a"}, "/sw/épée")

    assert mapping.replace_text(b"file:///sw/%C3%A9p%c3%a9e/a/x") == b"file:///n/a-h/x"
    assert mapping.replace_text("/sw/épée/a/x".encode()) == b"/n/a-h/x"


@pytest.mark.parametrize("filler", [b'"x",\n', b"\xe2\x98\x83\n", b"\xff\n", b"\0\n"])
def test_a_long_text_that_no_archiver_declares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, filler: bytes) -> None:
    monkeypatch.setattr("oci_binpkg.relocate.files.WHOLE", 10_000)
    content = filler * 5000 + rb'{"p": "\/opt\/store\/app\/x"}' + filler * 5000
    (tmp_path / "a.json").write_bytes(content)

    report = relocate_tree(str(tmp_path), SHORT)

    is_text = filler not in {b"\xff\n", b"\0\n"}
    expected = content.replace(rb"\/opt\/store\/app", rb"\/n\/app-h") if is_text else content
    assert (tmp_path / "a.json").read_bytes() == expected
    assert bool(report.reported) is not is_text


def test_paths_with_detours() -> None:
    assert [is_odd(path) for path in (b"/a/b", b"/a//b", b"/a/./b", b"/a/..", b"/.a/..b/c.", b"/a/")] == [False, True, True, True, False, False]  # fmt: skip
    assert normal(b"//a/./b/../c/") == b"/a/c"


@pytest.mark.parametrize(
    "filler", [b"/store", b"\\/opt\\/stor", b"/opt/store/../" * 3, b"%2Fopt%2Fstore%2E", b"//", b"/opt/store/./"]
)
def test_spellings_made_to_waste_time_cost_little(filler: bytes) -> None:
    text = filler * (50_000 // len(filler))
    with cpu_within(1.0):
        SHORT.replace_text(text)
        relocate_strings(text, SHORT)
