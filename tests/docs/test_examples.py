"""Every example in the documents is run, with fixtures in the place of hosts and of other people's folders."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.docs.blocks import KINDS, NOT_RUN, ROOT, Runner, blocks, commands_of, is_not_run
from tests.docs.world import Parts, parts, world

DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "oci_binpkg" / "README.md"]
)
WITH_BLOCKS = [name for name in DOCUMENTS if list(blocks((ROOT / name).read_text()))]
DRAWINGS = ("docs/architecture.md", "docs/reference/commands.md")
"""Where blocks of plain text may stand: a drawing, and the commands, whose examples `test_help_examples` runs."""


@pytest.fixture(scope="module")
def shared() -> Iterator[Parts]:
    with parts() as made:
        yield made


@pytest.mark.filterwarnings("ignore:Can not control echo")  # the terminal of a prompt is a stand-in
@pytest.mark.parametrize("name", WITH_BLOCKS)
def test_the_examples_of(name: str, shared: Parts) -> None:
    text = (ROOT / name).read_text()
    with world(shared, signing="--key" in text or "keys " in text) as here:
        runner = Runner(here)
        for block in blocks(text):
            assert block.kind in KINDS, f"{name}:{block.line}: a block of an unknown kind is not run"
            assert block.kind != "text" or name in DRAWINGS, f"{name}:{block.line}: nothing is run of plain text"
            try:
                runner.run(block)
            except AssertionError as error:
                raise AssertionError(f"{name}:{block.line}: {error}") from None


def test_each_exception_is_needed() -> None:
    """What is no longer in a document has no place among the commands that are not run."""
    lines = [
        command
        for name in DOCUMENTS
        for block in blocks((ROOT / name).read_text())
        for command in (
            [each.command for each in commands_of(block.text)]
            if block.kind == "console"
            else re.findall(r"(?:^|- run: | - )(.*)", block.text, re.MULTILINE)
        )
    ]
    assert [pattern for pattern in NOT_RUN if not any(re.match(pattern, line.strip()) for line in lines)] == []
    assert is_not_run("docker run image")
    assert not is_not_run("oci-binpkg run image")
