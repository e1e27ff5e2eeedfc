"""What `--verbose`, `--debug` and `--log-file` show of a command, and that they show nothing else to anybody."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from oci_binpkg.client import Client
from oci_binpkg.errors import LocalDiskError, NotFoundError
from tests.support.command_line import Ended, binpkg, binpkg_on_terminal
from tests.support.fake_registry import Bearer, FakeRegistry
from tests.support.spack_trees import Sketch, spack_tree

LOG = logging.getLogger("oci_binpkg.ops.a_room")
FIND = ("find", "--from", "oci-layout:x")
CANARY = "canary-4711-value"


@pytest.fixture
def talking(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Let `find` say what the list holds: with `!` before it as a decision, else as a request."""
    lines = ["!uploaded: the cache lacks it", "GET https://registry.example/v2/ 200 0.012 s"]

    def find(*_arguments: object, **_options: object) -> list[object]:
        for line in lines:
            LOG.log(logging.INFO if line.startswith("!") else logging.DEBUG, "%s", line.removeprefix("!"))
        return []

    monkeypatch.setattr(Client, "find", find)
    yield lines
    package = logging.getLogger("oci_binpkg")
    assert (package.handlers, package.level, package.propagate) == ([], logging.NOTSET, True)


def placed(flags: tuple[str, ...], where: str) -> tuple[str, ...]:
    return (*flags, *FIND) if where == "before" else (*FIND, *flags)


def test_a_command_shows_nothing_of_it_unasked(talking: list[str]) -> None:
    assert binpkg(*FIND) == Ended(0, "", "")


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("flag", ["-v", "--verbose"])
def test_verbose_shows_decisions(talking: list[str], flag: str, where: str) -> None:
    ended = binpkg(*placed((flag,), where))
    assert (ended.code, ended.out) == (0, "")
    first, *lines = ended.err.splitlines()
    assert re.fullmatch(r"info: .* find: oci-binpkg [0-9.]+, Python [0-9.]+, .+", first)
    assert lines == ["info: uploaded: the cache lacks it"]


@pytest.mark.parametrize("way", ["before", "after", "variable"])
def test_debug_shows_requests_too(talking: list[str], way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCI_BINPKG_DEBUG", "1" if way == "variable" else "0")
    ended = binpkg(*(FIND if way == "variable" else placed(("--debug",), way)))
    assert (ended.code, ended.out) == (0, "")
    assert ended.err.splitlines()[1:] == [
        "info: uploaded: the cache lacks it",
        "debug: GET https://registry.example/v2/ 200 0.012 s",
    ]


@pytest.mark.parametrize("where", ["before", "after"])
def test_a_log_file_gets_all_of_it_and_the_terminal_nothing(talking: list[str], tmp_path: Path, where: str) -> None:
    file = tmp_path / "log"
    assert binpkg(*placed(("--log-file", str(file)), where)) == Ended(0, "", "")
    assert file.stat().st_mode & 0o777 == 0o600
    lines = file.read_text().splitlines()
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
    assert len(lines) == 3
    assert re.fullmatch(rf"{stamp} INFO oci_binpkg\.ops\.a_room MainThread: uploaded: the cache lacks it", lines[1])
    assert re.fullmatch(rf"{stamp} DEBUG oci_binpkg\.ops\.a_room MainThread: GET https://.* 0\.012 s", lines[2])
    assert binpkg(*placed(("--log-file", str(file)), where)).code == 0
    assert file.read_text().splitlines()[:3] == lines
    assert len(file.read_text().splitlines()) == 6


def test_terminal_and_file_show_what_each_was_asked_for(talking: list[str], tmp_path: Path) -> None:
    ended = binpkg("-v", *FIND, "--log-file", tmp_path / "log")
    assert ended.err.count("\n") == 2
    assert (tmp_path / "log").read_text().count("\n") == 3


@pytest.mark.parametrize("on_terminal", [False, True])
def test_text_of_strangers_is_cleaned(talking: list[str], tmp_path: Path, on_terminal: bool) -> None:
    talking[:] = ["!a\x1b[31mb\nc\u202ed\udce9"]
    words = (*FIND, "-v", "--log-file", str(tmp_path / "log"))
    shown = binpkg_on_terminal(*words).out if on_terminal else binpkg(*words).err
    assert r"info: a\x1b[31mb\x0ac\u202ed\xe9" in shown
    assert (tmp_path / "log").read_text().splitlines()[1].endswith(r": a\x1b[31mb\x0ac\u202ed\xe9")


@pytest.mark.parametrize(
    "line",
    [
        f"!GET https://me:{CANARY}@registry.example/v2/",
        f"Authorization: Bearer {CANARY}",
        f"!asked with Basic {CANARY}",
        f"the variable holds {CANARY}",
        f"!password={CANARY} of somebody",
    ],
)
def test_a_secret_that_somebody_logs_is_not_shown(
    talking: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.setenv("MY_TOKEN", CANARY)
    talking[:] = [line]
    ended = binpkg(*FIND, "--debug", "--log-file", tmp_path / "log")
    text = (tmp_path / "log").read_text()
    assert "***" in ended.err
    assert "***" in text
    assert CANARY not in ended.err + text


def test_the_file_says_how_a_command_failed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def show(*_arguments: object, **_options: object) -> object:
        raise NotFoundError("there is no such package", hint="look again")

    monkeypatch.setattr(Client, "show", show)
    ended = binpkg("show", "app", "--from", "oci-layout:x", "--log-file", tmp_path / "log")
    assert (ended.code, ended.err) == (
        NotFoundError.exit_code,
        "oci-binpkg: there is no such package\n  look again\n",
    )
    assert "ended with NotFoundError: there is no such package" in (tmp_path / "log").read_text().splitlines()[-1]


@pytest.mark.parametrize("path", ["missing/log", ".", "nul\0"])
def test_a_file_that_cannot_be_opened_is_said_before_anything_is_done(
    talking: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.chdir(tmp_path)
    talking[:] = ["!done"]
    ended = binpkg(*FIND, "-v", "--log-file", path)
    assert ended.code == LocalDiskError.exit_code
    assert "the log cannot be written" in ended.err
    assert "--log-file" in ended.err
    assert "done" not in ended.err


def test_a_file_that_becomes_full_spoils_nothing(talking: list[str]) -> None:
    ended = binpkg(*FIND, "--log-file", "/dev/full")
    assert (ended.code, ended.out) == (0, "")
    assert ended.err.count("warning: the log file lacks lines") == 1


def test_lines_stand_above_what_is_drawn_and_are_not_broken(talking: list[str]) -> None:
    talking.append(f"!{'word ' * 40}end")
    shown = binpkg_on_terminal("-v", *FIND, columns=60)
    assert shown.code == 0
    assert shown.out.count("info: uploaded: the cache lacks it") == 1
    assert shown.out.count(f"info: {'word ' * 40}end") == 1


def test_what_follows_two_dashes_is_for_the_container(monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[object] = []
    monkeypatch.setattr(Client, "run", lambda _self, _image, command, **_options: got.extend(command) or 7)
    ended = binpkg("run", "oci-layout:x:y", "--", "greet", "--debug", "-v", "--log-file", "x")
    assert ended == Ended(7, "", "")
    assert got == ["greet", "--debug", "-v", "--log-file", "x"]


REQUEST = re.compile(r"debug: (GET|HEAD|POST|PUT|PATCH) http://\S+: \d{3} in \d+\.\d+ s, .*")


def test_a_push_shows_each_request_once_with_status_and_time(isolated_home: Path, tmp_path: Path) -> None:
    tree = spack_tree(
        tmp_path / "store", [Sketch("zlib", "1.3", files={"lib/z": b"z"}), Sketch("app", depends=["zlib"])]
    )
    with FakeRegistry(auth=Bearer("user", CANARY)) as registry:
        assert binpkg("login", registry.host, "-u", "user", "--password-stdin", stdin=f"{CANARY}\n").code == 0
        registry.clear()
        ended = binpkg(
            *("push", f"oci://{registry.host}/apps", "--store", tree.root, "--update-index", "--debug"),
            *("--log-file", tmp_path / "log"),
        )
        asked = len(registry.log)
    assert ended.code == 0, ended.err
    lines = ended.err.splitlines()
    requests = [line for line in lines if REQUEST.fullmatch(line)]
    assert len(requests) == asked > 20
    told = re.compile(r"debug: |info: |\[\d/2\] pushed |2 packages for |" + re.escape(registry.host))
    assert all(told.match(line) for line in lines)
    assert any("is pushed" in line for line in lines)
    written = (tmp_path / "log").read_text()
    assert [line for line in requests if line.removeprefix("debug: ") not in written] == []
    assert CANARY not in ended.err + written
