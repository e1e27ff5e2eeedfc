"""Ctrl-C while the main thread is at each place within Python's machinery of threads, one after the other.

Moments chosen at random (`test_kills.py`) fall there once in some hundred kills, and a lock that stays taken is a
command that never ends.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from kills import PACKAGES, Killer, forget, killer, make_tree, prefixes, recorded, state_of

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

LIBRARY = Path(threading.__file__).parent
MACHINERY = (f"{LIBRARY}/threading.py", f"{LIBRARY}/queue.py", f"{LIBRARY}/concurrent/")
FEW = 20


@pytest.fixture(scope="module")
def pushed(workroot: Path) -> str:
    tree, cache = make_tree(workroot / "interrupted"), f"oci-layout:{workroot}/whole"
    with killer(workroot) as kill:
        kill.undisturbed("push", cache, "--store", tree, "--update-index")
    return cache


@pytest.fixture
def kill(tmp_path: Path) -> Iterator[Killer]:
    with killer(tmp_path) as started:
        started.environment["OCI_BINPKG_LAYER_CACHE"] = str(tmp_path / "layers")
        yield started


def interrupt_everywhere(kill: Killer, arguments: tuple[object, ...], made: tuple[Path, ...]) -> None:
    """Interrupt a command at every place, each time from the start; `made` is what it writes."""
    listed = made[0].parent / "places.json"
    kill.run(*arguments, places=listed)
    steps = [step for name, *_, step in json.loads(listed.read_bytes()) if name.startswith(MACHINERY)]
    assert len(steps) > FEW
    interrupted = 0
    for step in steps:
        forget(*made)
        ended = kill.run(*arguments, at=step)
        # threads make each run a little different: now and then a place comes when all is done, or not at all
        assert ended.code in (130, 0), ended.text
        assert "Traceback" not in ended.text, ended.text
        assert "ignored" not in ended.text, ended.text
        interrupted += ended.code == 130
    assert interrupted > 0.9 * len(steps)
    kill.undisturbed(*arguments)


def test_install(pushed: str, kill: Killer, tmp_path: Path) -> None:
    root = tmp_path / "root"
    packages = [f"part{number}" for number in range(PACKAGES)]
    interrupt_everywhere(kill, ("install", *packages, "--from", pushed, "--store", root), (root, tmp_path / "layers"))
    assert prefixes(root).keys() == recorded(root)
    assert len(recorded(root)) == PACKAGES
    assert not list(root.glob("linux-*/.oci-binpkg*"))


def test_push(pushed: str, kill: Killer, workroot: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    push = ("push", f"oci-layout:{cache}", "--store", workroot / "interrupted", "--update-index")
    interrupt_everywhere(kill, push, (cache, tmp_path / "layers"))
    assert state_of(f"oci-layout:{cache}") == state_of(pushed)


def test_copy(pushed: str, kill: Killer, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    interrupt_everywhere(kill, ("copy", pushed, f"oci-layout:{cache}"), (cache,))
    assert state_of(f"oci-layout:{cache}").packages == state_of(pushed).packages
