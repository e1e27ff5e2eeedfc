# ruff: noqa: RUF001 - the punctuation is the point
"""Texts in encodings of one or two bytes for a character: names end where they do in the language of the text."""

from __future__ import annotations

from pathlib import Path

import pytest

from oci_binpkg.relocate.charsets import shapes
from oci_binpkg.relocate.prefixes import mapping_for
from oci_binpkg.relocate.scan import FileKind, PrefixScanner
from oci_binpkg.relocate.tree import relocate_tree

HASH = "a" * 32
MAPPING = mapping_for({HASH: "/sw/app"}, {HASH: "/srv/n/app-h"}, root=("/sw", "/srv/n"))
JAPANESE = "設定ファイルの一覧を表示します。\n"
CHINESE = "配置文件的列表，显示所有的选项。\n"
TAIWANESE = "設定檔案的清單，顯示所有的選項。\n"


@pytest.mark.parametrize(
    ("encoding", "start", "text", "expected"),
    [
        ("cp932", JAPANESE, "場所は/sw/app/etcにあります。", "場所は/srv/n/app-h/etcにあります。"),
        ("cp932", JAPANESE, "表/sw/app/x ソ/sw/app", "表/srv/n/app-h/x ソ/srv/n/app-h"),
        ("cp932", JAPANESE, "ア/sw/app、能「/sw/app」", "ア/srv/n/app-h、能「/srv/n/app-h」"),
        ("cp932", JAPANESE, "/sw/app表 /sw/appファ", "/sw/app表 /sw/appファ"),
        ("cp932", JAPANESE, "｢/sw/app｣", "｢/srv/n/app-h｣"),
        ("gbk", CHINESE, "目录：/sw/app/lib，和“/sw/app”。", "目录：/srv/n/app-h/lib，和“/srv/n/app-h”。"),
        ("gbk", CHINESE, "誠/sw/app/x 乗/sw/app", "誠/srv/n/app-h/x 乗/srv/n/app-h"),
        ("gbk", CHINESE, "/sw/app中 /sw/app中/x", "/sw/app中 /sw/app中/x"),
        ("big5", TAIWANESE, "功/sw/app，許/sw/app/x", "功/srv/n/app-h，許/srv/n/app-h/x"),
        ("euc-jp", JAPANESE, "場所は/sw/app/etcにあります。", "場所は/srv/n/app-h/etcにあります。"),
        ("cp1252", "", "it’s “/sw/app”… «/sw/app»–/sw/app’s", "it’s “/srv/n/app-h”… «/srv/n/app-h»–/srv/n/app-h’s"),
        ("cp1252", "", "/sw/appÀ /sw/appé /sw/appœuvre /sw/appÿ £", "/sw/appÀ /sw/appé /sw/appœuvre /sw/appÿ £"),
        ("latin-1", "", "caf\xe9/sw/app \xab/sw/app\xbb /sw/app\xa0x", "caf\xe9/srv/n/app-h \xab/srv/n/app-h\xbb /srv/n/app-h\xa0x"),
        ("latin-1", "", "/sw/app\xc1 /sw/app\xf5 /sw/app/\xe9t\xe9", "/sw/app\xc1 /sw/app\xf5 /srv/n/app-h/\xe9t\xe9"),
    ],
)  # fmt: skip
def test_names_end_where_they_end(tmp_path: Path, encoding: str, start: str, text: str, expected: str) -> None:
    content = (start + text).encode(encoding)
    (tmp_path / "text").write_bytes(content)
    scan = PrefixScanner(["/sw"]).start()
    scan.feed(content)

    # some of these are texts to archivers, some are found by the install
    relocate_tree(str(tmp_path), MAPPING, textfiles=["text"] if scan.finish() is FileKind.TEXT else [])

    assert (tmp_path / "text").read_bytes().decode(encoding) == start + expected


def test_shapes_have_the_length_of_the_text() -> None:
    for text in (b"", b"plain", "é".encode(), "été".encode("latin-1"), JAPANESE.encode("cp932"), bytes(range(256))):
        assert len(shapes(text)) == len(text)
    assert shapes("été".encode()) == "été".encode()
    assert shapes(b"it\x92s \xe9") == b"it\xa0s \xc3"


def test_a_path_beyond_ascii_is_replaced_byte_by_byte(tmp_path: Path) -> None:
    mapping = mapping_for({HASH: "/sw/épée"}, {HASH: "/n/épée-h"}, root=("/sw", "/n"))
    (tmp_path / "text").write_bytes(b"it\x92s " + "/sw/épée/x".encode())

    relocate_tree(str(tmp_path), mapping)

    assert (tmp_path / "text").read_bytes() == b"it\x92s " + "/n/épée-h/x".encode()
