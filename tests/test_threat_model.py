"""Every promise of the threat model names tests, and these exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "docs" / "threat-model.md"
LEAST = 35
_ID = re.compile(r"`([a-z-]+/[A-Za-z0-9_/]+\.py)::(test_\w+)`")


def promises() -> dict[str, list[tuple[str, str]]]:
    """Return each promise with the tests that it names: the rows of all tables headed `promise | tests`."""
    found: dict[str, list[tuple[str, str]]] = {}
    within = False
    for line in MODEL.read_text(encoding="utf-8").splitlines():
        if line.startswith("| promise |"):
            within = True
        elif not line.startswith("|"):
            within = False
        elif within and not line.startswith("|---"):
            promise, _, ids = line.strip("| ").partition(" | ")
            found[promise] = _ID.findall(ids)
    return found


@cache
def functions_of(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_promise_has_tests():
    assert len(promises()) >= LEAST
    assert [promise for promise, ids in promises().items() if not ids] == []


def test_all_ids_are_in_promises_and_none_is_cut():
    named = re.findall(r"[a-z/-]+/test_\w+\.py\S*", MODEL.read_text(encoding="utf-8"))
    assert len(named) == sum(map(len, promises().values()))


@pytest.mark.parametrize(("file", "test"), sorted({each for ids in promises().values() for each in ids}))
def test_every_test_that_a_promise_names_exists(file, test):
    assert test in functions_of(file)


def test_the_readme_leads_to_both():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "](SECURITY.md)" in text
    assert "](docs/threat-model.md)" in text
    assert "](docs/threat-model.md)" in (ROOT / "SECURITY.md").read_text(encoding="utf-8")
