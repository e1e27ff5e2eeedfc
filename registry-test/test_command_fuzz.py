"""The whole command against worlds that nobody should make: a fixed seed, and all that was ever found.

`make fuzz-commands SECONDS=600 SEED=7` goes on where this ends.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_fuzz import grammar, judge, runner, verbs
from command_fuzz.sandbox import Place, snapshot

HERE = Path(__file__).parent
CASES = 500
ENDED = runner.Ended(0, b"", b"", 1.0, 0.1, 0.1)


def fuzz(*arguments: object) -> subprocess.CompletedProcess[str]:
    # the measuring of coverage would only slow it down
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    command = [sys.executable, "-m", "command_fuzz", *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=HERE, env=environment, timeout=290)


def test_every_verb_of_the_command_line_has_a_way_to_be_called():
    assert set(verbs.commands()) == set(verbs.VERBS)


def test_the_same_seed_makes_the_same_case_and_another_one_does_not():
    assert grammar.recipe(7, 11) == grammar.recipe(7, 11)
    assert grammar.recipe(7, 11) != grammar.recipe(8, 11)


def test_many_cases_meet_every_verb_and_every_kind_of_document():
    recipes = [grammar.recipe(1, number) for number in range(1500)]
    called = {" ".join(call["words"]) for each in recipes for call in each["calls"]}
    assert [verb for verb in verbs.VERBS if not any(words.startswith(verb) for words in called)] == []
    edited = {edit["kind"] for each in recipes for edit in each["edits"]}
    assert {"node", "members", "distribution", "config", "manifest", "index", "database", "spec", "layer"} <= edited
    assert {"packages.toml", "config.toml", "mirrors.yaml", "spack.yaml", "answers", "docker", "keyindex"} <= edited
    assert {each["shape"]["form"] for each in recipes} == {1, 2, 3, 4, 5}


def test_a_world_without_edits_can_be_installed_and_what_is_written_elsewhere_is_seen():
    code = (
        "from command_fuzz import runner, verbs\n"
        "install = ['install', 'app', '--from', 'oci-layout:{PLACE}/cache', '--store', '{PLACE}/deep/er/store']\n"
        "calls = [{'words': install, 'writes': [*verbs.ALWAYS, 'deep/er/store']}]\n"
        "push = ['push', 'target', '--store', '{PLACE}/tree']\n"
        "with runner.bench() as bench:\n"
        "    assert bench.run({'calls': calls}) == []\n"
        "    assert bench.codes == {0: 1}, bench.codes\n"
        "    print([each.kind for each in bench.run({'calls': [{'words': push, 'writes': [*verbs.ALWAYS]}]})])\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=HERE, check=False, env=_path()
    )
    assert ended.stdout == "['escape']\n", ended.stderr


@pytest.fixture
def place(tmp_path) -> Place:
    place = Place(str(tmp_path / "place"), 1)
    place.clear()
    return place


def judged(place: Place, words=("find",), **ended) -> list[str]:
    before = snapshot(place.root)
    changed = ended.pop("change", lambda: None)
    changed()
    call = {"writes": ["tmp"]}
    evidence = judge.Evidence(
        place, list(words), call, before, snapshot(place.root), dataclasses.replace(ENDED, **ended)
    )
    return [each.kind for each in judge.findings(evidence)]


def test_the_judge_is_content_with_what_is_right(place):
    assert judged(place) == []
    assert judged(place, code=10, err=b"oci-binpkg: damaged: \\x1b\n") == []


@pytest.mark.parametrize(
    ("facts", "kind"),
    [
        ({"code": 1, "err": b"Traceback (most recent call last):\nValueError: x\n"}, "traceback"),
        ({"code": 70, "err": b"oci-binpkg: unexpected\n"}, "crash"),
        ({"code": -11}, "crash"),
        ({"code": -9, "hung": True}, "hang"),
        ({"code": 99}, "exit code"),
        ({"mib": 300.0}, "memory"),
        ({"cpu": 6.0}, "cpu"),
        ({"err": b"a\x1b[8mb"}, "raw"),
        ({"out": "a\u202eb".encode()}, "raw"),
        ({"out": b"a\x9bb"}, "raw"),
        ({"out": "\x9b".encode()}, "raw"),
        ({"err": b"password: s3cret-Wr4pped-in-A-t0ken"}, "secret"),
        ({"err": b"x: Read-only file system"}, "escape"),
    ],
)
def test_the_judge_sees_what_is_wrong(place, facts, kind):
    assert judged(place, **facts) == [kind]


def test_the_judge_sees_what_was_written(place):
    def write(path: str) -> None:
        Path(place.root, path).write_text("x")

    assert judged(place, change=lambda: write("victim/new")) == ["escape"]
    assert judged(place, change=lambda: write("deep/victim/kept")) == ["escape"]
    assert judged(place, change=lambda: Path(place.root, "home/victim/kept").unlink()) == ["escape"]
    assert judged(place, change=lambda: write("tmp/left")) == ["leftover"]
    assert judged(place, ["download", f"{place.root}/out/x"], change=lambda: write("out/x")) == []


def _path() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parent}"}


@pytest.mark.real
def test_nothing_is_found_in_what_was_found_once_and_in_cases_of_a_fixed_seed():
    """`make sandbox` runs 2,000 of them."""
    ended = fuzz("--corpus", "--seed", 1, "--cases", CASES)
    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-3000:]
    assert "found: nothing" in ended.stdout
