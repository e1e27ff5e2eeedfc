"""The documents: short, linked, in plain English, and as the code is now."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest
from tools import reference_pages, terminal_picture

from oci_binpkg.config import caches, settings
from tests.docs.blocks import ROOT

MOST_LINES = 130
TOP = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
DOCUMENTS = [*(ROOT / name for name in TOP), *sorted(ROOT.glob("docs/**/*.md"))]
UNCLEAR = re.compile(r"is none|that is no\b|what is no\b|cannot be had|is said (of|to)", re.IGNORECASE)
CHECKED_CODE = ("oci_binpkg",)
"""Folders whose text, comments included, keeps to the same words."""
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
_CODE = re.compile(r"`([^`\n]+)`")


def prose(path: Path) -> str:
    """Return a document without its fenced blocks."""
    return _FENCED.sub("", path.read_text(encoding="utf-8"))


def anchors(path: Path) -> set[str]:
    """Return what a link may name in a document, as GitHub and mkdocs make it of headings."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in _HEADING.findall(prose(path))
    }


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_link_leads_somewhere(document: Path) -> None:
    lost = []
    for target in _LINK.findall(prose(document)):
        if re.match(r"https?://", target):
            continue
        file, _, anchor = target.partition("#")
        path = (document.parent / file).resolve() if file else document
        if not path.exists() or (anchor and anchor not in anchors(path)):
            lost.append(target)
    assert lost == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_the_rows_of_a_table_have_as_many_cells_as_its_head(document: Path) -> None:
    uneven, cells = [], 0
    for line in prose(document).splitlines():
        found = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        if found and cells and found != cells:
            uneven.append(line)
        cells = found and (cells or found)
    assert uneven == []


def test_every_page_is_in_the_navigation() -> None:
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/**/*.md")]
    assert [page for page in pages if f": {page}\n" not in site and not page.startswith("adr/0")] == []


def texts() -> Iterator[Path]:
    yield from DOCUMENTS
    for folder in CHECKED_CODE:
        yield from sorted((ROOT / folder).glob("**/*.py"))


def test_no_sentence_needs_a_second_reading() -> None:
    found = [
        f"{name_of(path)}:{number}: {line.strip()}"
        for path in texts()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if UNCLEAR.search(line if path.suffix == ".md" else line.replace("is None", ""))
    ]
    assert found == []


@pytest.mark.parametrize("name", sorted(reference_pages.PAGES))
def test_a_page_that_follows_from_the_code_is_current(name: str) -> None:
    written = (reference_pages.REFERENCE / name).read_text(encoding="utf-8")
    assert written == reference_pages.PAGES[name](), "run `python registry-test/tools/reference_pages.py`"


def test_the_picture_shows_what_the_commands_print() -> None:
    again = "run `python registry-test/tools/terminal_picture.py`"
    kept = terminal_picture.PICTURE.read_text(encoding="utf-8")
    ET.fromstring(kept)
    assert terminal_picture.words(kept) == terminal_picture.words(terminal_picture.picture()), again


def test_each_command_is_described() -> None:
    described = re.findall(r"^### (.+)$", (reference_pages.REFERENCE / "commands.md").read_text(), re.MULTILINE)
    assert described == [" ".join(words) for words, _ in reference_pages.commands()]


def test_the_json_of_each_command_is_described() -> None:
    """What has `--json` stands in a console of the page, whose documents `test_examples` compares with real ones."""
    page = (reference_pages.REFERENCE / "json.md").read_text()
    headings = " ".join(_HEADING.findall(page)).replace(",", "").split()
    with_json = [
        words for words, command in reference_pages.commands() if any("--json" in each.opts for each in command.params)
    ]
    assert [words for words in with_json if not set(words) <= set(headings)] == []


def test_each_key_of_the_configuration_is_described() -> None:
    page = (reference_pages.REFERENCE / "configuration.md").read_text()
    keys = {*settings._KEYS, *settings._REGISTRY, *caches.KEYS}
    shown = " ".join(_CODE.findall(page)) + page
    assert sorted(key for key in keys if not re.search(rf"[`.\[]{key}[`.\]\"]", shown)) == []


def commands_in_prose() -> Iterator[tuple[str, str]]:
    for path in DOCUMENTS:
        for code in _CODE.findall(prose(path)):
            if code.startswith("oci-binpkg ") and path.name != "CHANGELOG.md":
                yield name_of(path), code


@pytest.mark.parametrize(("document", "code"), sorted(set(commands_in_prose())))
def test_a_command_in_a_sentence_or_a_table_exists_with_its_flags(document: str, code: str) -> None:
    known = dict(reference_pages.commands())
    words = shlex.split(code.replace("`", ""))[1:]
    if words[0] in ("--debug", "--install-completion", "--show-completion", "COMMAND"):
        return
    length = 2 if tuple(words[:2]) in known else 1
    command = known[tuple(words[:length])]
    flags = {flag for each in command.params for flag in (*each.opts, *each.secondary_opts)}
    used = [word for word in words[length:] if word.startswith("-") and word != "--"]
    assert [flag for flag in used if flag not in flags] == []


def test_each_module_that_the_architecture_names_exists() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    rooms = "|".join(path.name for path in (ROOT / "oci_binpkg").iterdir() if path.is_dir())
    names = set(re.findall(rf"\b((?:{rooms})\.[a-z_]+)\b", page)) - {"index.md"}
    assert len(names) > 10
    missing = [
        name
        for name in names
        if not any((ROOT / "oci_binpkg" / f"{name.replace('.', '/')}{end}").exists() for end in (".py", "/__init__.py"))
    ]
    assert missing == []


def test_the_rooms_stand_in_the_order_of_the_imports() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| ((?:`[a-z_]+(?:/|\.py)`(?:, )?)+) \|", page, re.MULTILINE)
    rooms = [name.rstrip("/").removesuffix(".py") for row in rows for name in _CODE.findall(row)]
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(each for each in contracts if each["type"] == "layers")["layers"]
    floors = {name.strip().rpartition(".")[2]: floor for floor, layer in enumerate(layers) for name in layer.split("|")}
    assert sorted(set(rooms) ^ set(floors)) == []
    assert [floors[room] for room in rooms] == sorted(floors[room] for room in rooms)


def decisions() -> list[Path]:
    return sorted(ROOT.glob("docs/adr/0*.md"))


@pytest.mark.parametrize("path", decisions(), ids=lambda path: path.stem)
def test_a_decision_has_its_number_and_a_status(path: Path) -> None:
    title, _, status, *_ = path.read_text(encoding="utf-8").split("\n")
    assert title.startswith(f"# {path.name[:4]}: ")
    assert re.fullmatch(r"Status: (accepted|replaced by \[?\d{4}.*), \d{4}-\d{2}-\d{2}", status)


def test_the_decisions_are_numbered_in_a_row_and_listed() -> None:
    numbers = [int(path.name[:4]) for path in decisions()]
    assert numbers == list(range(1, len(numbers) + 1))
    rows = re.findall(
        r"^\| (\d{4}) \| \[(.+)\]\((.+)\) \|", (ROOT / "docs" / "adr" / "index.md").read_text(), re.MULTILINE
    )
    listed = {file: f"# {number}: {title}" for number, title, file in rows}
    assert listed == {path.name: path.read_text(encoding="utf-8").partition("\n")[0] for path in decisions()}


def test_each_test_that_contributing_names_exists() -> None:
    named = re.findall(r"`((?:tests|registry-test)/[^`\s]*)`", (ROOT / "CONTRIBUTING.md").read_text())
    assert named
    assert [name for name in named if not list(ROOT.glob(name.rstrip("/")))] == []


def test_pages_hold_no_python_that_does_not_parse() -> None:
    for path in DOCUMENTS:
        for block in re.findall(r"^```python\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL):
            ast.parse(block)
