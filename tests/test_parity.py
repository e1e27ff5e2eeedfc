"""Every row of the page that compares us with Spack names tests, and these exist and carry the row's id."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "parity.md"
IDS = [f"P{number:02}" for number in range(1, 31)]
_ROW = re.compile(r"^\| (P\d\d) \| (.+) \| (.+) \| (.+) \| (.+) \|$")
_MARK = re.compile(r'covers\([^)]*"P\d\d"')
_TEST = re.compile(r"`([a-z-]+/[A-Za-z0-9_/]+\.py)::(test_\w+)`")


def rows() -> dict[str, list[tuple[str, str]]]:
    """Return file and name of the tests of each row, by its id."""
    found = [match for line in PAGE.read_text(encoding="utf-8").splitlines() if (match := _ROW.match(line))]
    return {row[1]: _TEST.findall(row[5]) for row in found}


def marks_of(file: Path) -> Iterator[tuple[str, str]]:
    """Yield id and test for every mark `covers("Pxx")` of a file."""
    text = file.read_text(encoding="utf-8")
    tree = ast.parse(text) if _MARK.search(text) else ast.Module([], [])
    for node in [each for each in tree.body if isinstance(each, ast.FunctionDef)]:
        for mark in node.decorator_list:
            if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.covers":
                words = [word.value for word in mark.args if isinstance(word, ast.Constant)]
                yield from ((str(word), node.name) for word in words if str(word).startswith("P"))


@cache
def marked() -> frozenset[tuple[str, str, str]]:
    """Return id, file and test for each mark in all tests."""
    files = [file for folder in ("tests", "registry-test") for file in (ROOT / folder).rglob("test_*.py")]
    return frozenset((each, file.relative_to(ROOT).as_posix(), name) for file in files for each, name in marks_of(file))


def test_rows_stand_in_order_and_each_once():
    lines = re.findall(r"^\| (P\d\d) ", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert lines == sorted(set(lines) & set(IDS))
    assert list(rows()) == lines, "a row has five cells: id, behaviour, Spack, ours, tests"


def test_each_test_of_a_row_exists_and_carries_its_id():
    assert [each for each, tests in rows().items() if not tests] == []
    assert [(i, *t) for i, tests in rows().items() for t in tests if (i, *t) not in marked()] == []


def test_each_id_that_a_test_carries_has_a_row():
    assert sorted({each for each, *_ in marked()} - set(rows())) == []
