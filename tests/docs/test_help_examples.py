"""Every example in the help of a command is run, one after the other, in a world that has what they speak of."""

from __future__ import annotations

import pytest
from tools.reference_pages import commands, examples

from tests.docs.blocks import Runner
from tests.docs.world import parts, world

PREPARED = (
    "oci-binpkg push oci-layout:cache --store /opt/spack/opt --update-index",
    "oci-binpkg push oci://registry.example/apps --store /opt/spack/opt --update-index",
    "oci-binpkg image oci-layout:cache greet@2.0 greet@2.1 --store /opt/spack/opt --tag both",
    "oci-binpkg copy oci-layout:cache file:///srv/mirror --key ci@example.org",
    "oci-binpkg keys publish file:///srv/mirror --key ci@example.org",
    "oci-binpkg copy oci-layout:cache file:///srv/old --key ci@example.org",
    "gpg --armor --export ci@example.org > team.asc",
    "oci-binpkg keys trust team.asc",
    "oci-binpkg mirror add apps oci://registry.example/apps",
    "oci-binpkg index update file:///srv/mirror greet --view stable --key ci@example.org",
    "oci-binpkg search",
)
"""What must be there before the first example."""
LATE = ("uninstall", "verify-store", "mirror remove", "keys untrust", "logout")
"""Commands that need what others make, or take away what others need: they come last, in the order of the help."""
EARLY = ("mirror add", "index check")


def in_order() -> list[str]:
    """Return all examples: what makes something first, what takes it away last."""
    found = [(" ".join(words), example) for words, command in commands() for example in examples(command)]
    return [example for name, example in sorted(found, key=lambda pair: (pair[0] in LATE) - (pair[0] in EARLY))]


def _said(runner: Runner, example: str) -> str:
    done = runner.command(example)
    return "" if done.code == 0 else f"{done.code}: {runner.world.to_document(done.out + done.err)}"


@pytest.mark.filterwarnings("ignore:Can not control echo")  # the terminal of a prompt is a stand-in
def test_every_example_in_the_help_runs() -> None:
    """One test, because later examples need what earlier ones made."""
    with parts() as shared, world(shared, signing=True) as here:
        runner = Runner(here)
        for command in PREPARED:
            assert runner.command(command).code == 0, f"{command}\n{runner.last.err}"
        ended = {example: _said(runner, example) for example in in_order()}
    assert len(ended) > 40
    assert {example: said for example, said in ended.items() if said} == {}


def test_every_command_has_an_example() -> None:
    assert [" ".join(words) for words, command in commands() if not examples(command)] == []
