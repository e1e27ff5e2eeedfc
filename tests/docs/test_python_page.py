"""The page about Python names every verb and every public name as it is. `test_examples` runs its blocks."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import oci_binpkg
from oci_binpkg import Client
from oci_binpkg.cli.app import COMMANDS
from oci_binpkg.cli.commands import CommandEntry
from oci_binpkg.config.caches import CacheKeys
from tests.docs.blocks import blocks
from tests.docs.world import parts, world
from tests.support.reader_script import run_script

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
TABLE = PAGE[PAGE.index("## Verbs") : PAGE.index("Reports have")]
VERBS = [name for name, _ in inspect.getmembers(Client, inspect.isfunction) if not name.startswith("_")]


def test_every_verb_is_in_the_table() -> None:
    named = set(re.findall(r"`(\w+)\(", TABLE))
    assert named == set(VERBS) - {"close"}


@pytest.mark.parametrize("call", re.findall(r"`(\w+\([^`]*\))`", TABLE))
def test_a_verb_takes_what_the_table_says(call: str) -> None:
    name, _, arguments = call.removesuffix(")").partition("(")
    signature = inspect.signature(getattr(Client, name))
    given = [each.strip() for each in arguments.split(",") if each.strip()]
    keywords = {each.removesuffix("=") for each in given if each.endswith("=")}
    places = [each for each in given if not each.endswith("=")]
    parameters = list(signature.parameters)[1:]
    assert places == parameters[: len(places)]
    assert keywords <= set(parameters) or "keys" in parameters


def test_what_verbs_return_is_public() -> None:
    returned = re.findall(r"`([A-Z]\w+)`", TABLE)
    assert [name for name in returned if name not in oci_binpkg.__all__] == []


def test_each_import_of_the_page_is_a_public_one() -> None:
    lines = [
        line for block in blocks(PAGE) for line in block.text.splitlines() if "oci_binpkg" in line and "import" in line
    ]
    assert lines
    for line in lines:
        module, _, names = line.removeprefix("from ").partition(" import ")
        assert module in ("oci_binpkg", "oci_binpkg.testing")
        if module == "oci_binpkg":
            assert set(names.split(", ")) <= set(oci_binpkg.__all__)


OTHER_WORDS = {
    "from_cache": {"cache", "caches"},
    "on": {"caches"},
    "image_name": {"image"},
    "store": {"root"},
    "cache": {"cache_or_image"},
    "query": {"queries"},
    "password_stdin": {"password"},
    "ttl": {"cache"},  # with it, `find` is `Client.search`
    "offline": {"cache"},
    "all_arch": {"cache"},
}
"""What a command calls otherwise than its method."""
OF_THE_TERMINAL = {"json", "long", "verbose", "debug", "log_file", "strict"}


def commands(entries: Iterable[CommandEntry], prefix: str = "") -> Iterator[tuple[str, CommandEntry]]:
    for entry in entries:
        if entry.below:
            yield from commands(entry.below, f"{entry.name}_")
        elif entry.name != "version":
            yield (prefix + entry.name).replace("-", "_"), entry


ALL = [each for under in COMMANDS.values() for each in commands(under)]


@pytest.mark.parametrize(("name", "entry"), ALL, ids=[name for name, _ in ALL])
def test_a_command_is_a_method_and_its_options_are_keywords(name: str, entry: CommandEntry) -> None:
    """A reader of the help can write the call."""
    keywords = set(inspect.signature(getattr(Client, name)).parameters)
    if name in ("mirror_add", "mirror_set"):
        keywords |= CacheKeys.__annotations__.keys()
    options = {parameter.name for parameter in entry.load().params} - OF_THE_TERMINAL
    assert {option for option in options if not ({option} | OTHER_WORDS.get(option, set())) & keywords} == set()


@pytest.mark.parametrize("place", ["layout", "registry"])
def test_the_first_script_of_a_reader(place: str) -> None:
    with parts() as shared, world(shared) as here:
        cache = f"oci-layout:{here.root}/cache" if place == "layout" else f"oci://{here.registry.host}/script"
        Client().push(cache, shared.store, "zlib")  # the script looks for it
        names, printed = run_script(cache=cache, store=str(shared.store), root=str(here.root / "apps"))
        assert names["report"].index_written  # type: ignore[attr-defined]
        assert re.fullmatch(r"(zlib \S+ [a-z0-9]{32}\n)+", printed)
        assert list((here.root / "apps").glob("linux-*/greet-2.0-*"))
