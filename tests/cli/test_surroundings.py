"""Odd surroundings: streams that are closed or full, locales, limits, lost folders, text that is none.

What a user meets is the result or one clear line with a documented exit code; never a traceback, never silently nothing.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from oci_binpkg.cli import crash
from oci_binpkg.config.scene import Scene
from tests.support.command_line import binpkg, unmeasured_environment
from tests.support.fake_registry import Basic, Bearer, FakeRegistry
from tests.support.spack_trees import Sketch, spack_tree

OUTPUT, SCARCE, INTERNAL, READER_GONE = 16, 17, 70, 141
PROGRAM = f"{sys.executable} -m oci_binpkg"
LOCAL_DISK = 11


@dataclass(frozen=True)
class Place:
    folder: Path
    tree: Path
    cache: str

    def shell(self, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a line of bash; `TOOL` is the program, stdin is /dev/null."""
        return subprocess.run(
            ["bash", "-c", command.replace("TOOL", PROGRAM)],
            cwd=self.folder,
            env={**unmeasured_environment(), "PYTHONPATH": str(Path(__file__).parents[2]), **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            check=False,
        )

    def here(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command in this process, where neither streams nor arguments are odd."""
        ended = binpkg(*words)
        return subprocess.CompletedProcess(words, ended.code, ended.out, ended.err)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, isolated_session: None) -> Path:
    """A folder with a tree and a cache, which nobody changes."""
    folder = tmp_path_factory.mktemp("built")
    tree = spack_tree(folder / "tree", [Sketch("zlib", "1.3", files={"lib/z": b"z"}), Sketch("app", depends=["zlib"])])
    assert binpkg("push", f"oci-layout:{folder}/cache", "--store", tree.root, "--update-index").code == 0
    return folder


@pytest.fixture
def place(built: Path, tmp_path: Path) -> Place:
    return Place(tmp_path, built / "tree", f"oci-layout:{built}/cache")


def is_one_line(ended: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """One error, perhaps with the place in a query and what to do next, and its exit code."""
    assert ended.returncode == code, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr
    last = ended.stderr.rstrip().split("oci-binpkg: ")[-1].splitlines()
    assert 1 <= len(last) <= (4 if "package query" in last[0] else 2), ended.stderr
    for word in words:
        assert word in " ".join(last)


# standard streams


@pytest.mark.parametrize(
    ("command", "where"),
    [
        ("find --from CACHE", ">&-"),
        ("find --from CACHE", ">/dev/full"),
        ("version", "1</dev/null"),
        ("version", ">&-"),
        ("show app --from CACHE --json", ">/dev/full"),
        ("-h", ">&-"),
        ("find -h", ">/dev/full"),
    ],
)
def test_output_that_cannot_be_written_is_told(place: Place, command: str, where: str) -> None:
    ended = place.shell(f"TOOL {command} {where}".replace("CACHE", place.cache))
    is_one_line(ended, OUTPUT, "standard output cannot be written")


@pytest.mark.parametrize("where", [">&-", ">/dev/full"])
def test_the_work_is_done_though_its_output_is_lost(place: Place, where: str) -> None:
    ended = place.shell(f"TOOL push oci-layout:new --store {place.tree} {where}")
    is_one_line(ended, OUTPUT, "what the command did stands")
    assert len(binpkg("find", "--from", f"oci-layout:{place.folder}/new").lines) == 2


@pytest.mark.parametrize("where", ["2>&-", "2>/dev/full", "2>&- <&-", "2>&1 >/dev/null | true"])
def test_without_stderr_the_work_is_done_all_the_same(place: Place, where: str) -> None:
    place.shell(f"TOOL push oci-layout:new --store {place.tree} {where}")
    assert len(binpkg("find", "--from", f"oci-layout:{place.folder}/new").lines) == 2


def test_descriptors_that_are_closed_are_not_taken_by_files(place: Place) -> None:
    ended = place.shell(f"TOOL push oci-layout:new --store {place.tree} --update-index <&- >&- 2>&-")
    assert ended.returncode == OUTPUT
    assert binpkg("index", "check", f"oci-layout:{place.folder}/new").code == 0


def test_a_reader_that_has_seen_enough_is_no_error(place: Place) -> None:
    ended = place.shell(f"set -o pipefail; (TOOL show app --from {place.cache}; echo $? >code) | :")
    assert "Traceback" not in ended.stderr
    assert (place.folder / "code").read_text().strip() in {"0", str(READER_GONE)}


@pytest.mark.parametrize("stdin", ["<&-", "</dev/null"])
def test_a_password_that_cannot_be_read_is_told(place: Place, stdin: str) -> None:
    is_one_line(place.shell(f"TOOL login registry.example -u me --password-stdin {stdin}"), 2)


def test_a_password_that_is_no_text_is_told(place: Place) -> None:
    is_one_line(place.shell(r"printf '\xff\xfe' | TOOL login registry.example -u me --password-stdin"), 2, "not UTF-8")


# locales and bytes that are no text


@pytest.mark.parametrize(
    "locale",
    [
        {"LC_ALL": "C"},
        {"PYTHONIOENCODING": "ascii:strict"},
        {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "latin-1"},
    ],
    ids=str,
)
def test_trees_are_drawn_in_every_locale(place: Place, locale: dict[str, str]) -> None:
    ended = place.shell(f"TOOL inspect {place.cache}; TOOL find 'gr\u00fc\u00dfe' --from {place.cache}", **locale)
    assert "packages (2)" in ended.stdout
    assert "app-1.0" in ended.stdout
    assert "Traceback" not in ended.stderr
    assert "cannot read this package query" in ended.stderr


@pytest.mark.parametrize(
    "command",
    [
        "find $'a\\xff' --from CACHE",
        "find --from $'oci-layout:\\xff'",
        "find --store $'\\xff'",
        "find --from $'http://\\xff/x'",
        "push CACHE --store $'\\xff'",
        "image CACHE app --store TREE --tag x --env $'A=\\xff'",
        "mirror add n $'s3://\\xff/x'",
        "mirror add $'\\xff' file:///x",
        "show $'\\xed\\xa0\\x80' --from CACHE",
        "login $'\\xff' -u x --password-stdin",
        "keys trust $'\\xff'",
        "$'\\xff'",
    ],
)
def test_arguments_that_are_no_text_are_told(place: Place, command: str) -> None:
    ended = place.shell(f"TOOL {command}".replace("CACHE", place.cache).replace("TREE", str(place.tree)))
    assert ended.returncode not in {0, 1, INTERNAL}
    is_one_line(ended, ended.returncode)
    assert not re.search("[\udc80-\udcff]", ended.stderr)


def test_paths_that_are_no_text_are_used(place: Place) -> None:
    ended = place.shell(
        "TOOL copy CACHE oci-layout:$'c\\xff' && TOOL find --from oci-layout:$'c\\xff'"
        " && TOOL download app --from CACHE $'d\\xff'".replace("CACHE", place.cache)
    )
    assert ended.returncode == 0, ended.stderr
    assert len(ended.stdout.splitlines()) == 2 + 2 + 2
    assert {b"c\xff", b"d\xff"} <= set(os.listdir(os.fsencode(place.folder)))
    assert r"c\xff: 2 copied" in ended.stderr


def test_a_tree_whose_path_is_no_text_is_refused_before_anything_is_written(place: Place) -> None:
    ended = place.shell(f"TOOL install app --from {place.cache} --store $'s\\xff'")
    is_one_line(ended, 2, r"s\xff", "not UTF-8")
    assert b"s\xff" not in os.listdir(os.fsencode(place.folder))


@pytest.mark.parametrize(
    "entry",
    [
        {"username": "\ud800", "password": "x"},
        {"identitytoken": "a\ud800"},
        {"registrytoken": "a\nX-Other: b"},
        {"registrytoken": "\ud800"},
        {"auth": base64.b64encode(b"\xff:x").decode()},
        {"auth": "\ud800"},
    ],
    ids=str,
)
def test_logins_that_cannot_be_sent_are_told(place: Place, entry: dict[str, str], isolated_home: Path) -> None:
    (isolated_home / ".docker").mkdir()
    file = isolated_home / ".docker" / "config.json"
    with FakeRegistry(auth=Bearer("user", "secret")) as registry:
        file.write_text(json.dumps({"auths": {registry.host: entry}}))
        file.chmod(0o600)
        ended = place.here("find", "--from", f"oci://{registry.host}/apps")
    is_one_line(ended, 22, registry.host)


def test_what_others_wrote_into_the_logins_stays(isolated_home: Path) -> None:
    (isolated_home / ".docker").mkdir()
    file = isolated_home / ".docker" / "config.json"
    file.write_text('{"auths": {}, "other": "\\ud800"}')
    with FakeRegistry(auth=Basic("user", "secret")) as registry:
        assert binpkg("login", registry.host, "-u", "user", "--password-stdin", stdin="secret\n").code == 0
    assert json.loads(file.read_text())["other"] == "\ud800"


@pytest.mark.parametrize(
    "settings",
    [
        r'store = "a\u0000b"',
        r'[layer_cache]\npath = "\u0000"',
        r'[caches.x]\nurl = "oci-layout:\u0000"',
        r'[caches.x]\nurl = "file:///a%00b"',
        r'[caches.x]\nurl = "file:///x\u001b"',
        r'[registries."h"]\nca_file = "\u0000"',
        r'spack_mirrors = "\u0000"',
    ],
)
def test_settings_that_no_path_or_address_can_be_are_told(
    place: Place, settings: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place.folder / "config.toml").write_text(settings.replace(r"\n", "\n"))
    monkeypatch.setenv("OCI_BINPKG_CONFIG", str(place.folder / "config.toml"))
    is_one_line(place.here("find", "--from", "x"), 2)


# folders and limits


def test_a_working_folder_that_is_gone_is_told_where_it_matters(place: Place) -> None:
    gone = "mkdir gone; cd gone; rmdir ../gone; "
    assert place.shell(f"{gone} TOOL find --from {place.cache}").returncode == 0
    is_one_line(place.shell(f"{gone} TOOL find --from oci-layout:cache"), LOCAL_DISK, "working folder no longer exists")
    is_one_line(place.shell(f"{gone} TOOL find --store tree"), LOCAL_DISK)


@pytest.mark.parametrize("variables", [{"XDG_CACHE_HOME": "/proc/none"}, {"XDG_CACHE_HOME": "/dev/null/none"}], ids=str)
def test_caches_that_cannot_be_written_hold_nobody_up(place: Place, variables: dict[str, str]) -> None:
    (place.folder / "config.toml").write_text(f'[caches.lab]\nurl = "{place.cache}"\n')
    ended = place.shell("TOOL search app --all-arch", OCI_BINPKG_CONFIG=str(place.folder / "config.toml"), **variables)
    assert (ended.returncode, len(ended.stdout.splitlines())) == (0, 1)
    assert "is not kept" in ended.stderr


@pytest.mark.parametrize(
    ("limit", "command"),
    [
        ("ulimit -v 70000", "find --from CACHE"),
        ("ulimit -v 90000", "install app --from CACHE --store new"),
        ("ulimit -v 130000", "install app --from CACHE --store new"),
        ("ulimit -v 130000", "copy CACHE oci-layout:o"),
        ("ulimit -n 6", "copy CACHE oci-layout:o"),
        ("ulimit -n 6", "find --from CACHE"),
        ("ulimit -n 12", "install app --from CACHE --store new"),
    ],
)
def test_small_limits_give_a_result_or_one_line(place: Place, command: str, limit: str) -> None:
    ended = place.shell(f"{limit}; TOOL {command}".replace("CACHE", place.cache))
    assert "Traceback" not in ended.stderr
    assert ended.returncode in {0, 1, LOCAL_DISK, SCARCE}, ended.stderr
    assert ended.returncode == 0 or ended.stderr


# faults of our own


def fails(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def show(*_arguments: object, **_options: object) -> int:
        password = "a-local-secret"
        assert password
        raise error

    monkeypatch.setattr("oci_binpkg.client.Client.show", show)


def test_a_fault_is_one_line_with_an_id_and_a_file(monkeypatch: pytest.MonkeyPatch, isolated_home: Path) -> None:
    monkeypatch.setenv("MY_TOKEN", "value-of-a-variable")
    text = "https://me:pass-word@host/x Authorization: Basic bWU6cGFzcw== value-of-a-variable ghp_abcdefghijkl \x1b[31m"
    fails(monkeypatch, KeyError(text))
    ended = binpkg("show", "app", "--from", "oci-layout:x")
    assert ended.code == INTERNAL
    found = re.fullmatch(r"oci-binpkg: internal error ([0-9a-f]{8}) \(KeyError\).*: (/\S+) says where.*\n", ended.err)
    assert found, ended.err
    file = Path(found[2])
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.is_relative_to(isolated_home)
    told = file.read_text()
    assert "KeyError" in told
    assert re.search(r"test_surroundings\.py:\d+ show", told)
    assert "oci_binpkg/cli/find.py:" in told
    for secret in ("pass-word", "bWU6", "value-of-a-variable", "ghp_", "a-local-secret", "\x1b"):
        assert secret not in told + ended.err
    again = binpkg("show", "app", "--from", "oci-layout:x")
    assert again.err == ended.err
    assert len(list(file.parent.iterdir())) == 1


@pytest.mark.parametrize("way", ["flag", "variable"])
def test_who_asks_sees_where_it_happened(monkeypatch: pytest.MonkeyPatch, isolated_home: Path, way: str) -> None:
    fails(monkeypatch, RuntimeError("no\nway"))
    monkeypatch.setenv("OCI_BINPKG_DEBUG", "1" if way == "variable" else "0")
    ended = binpkg(*(["--debug"] if way == "flag" else []), "show", "app", "--from", "oci-layout:x")
    assert ended.code == INTERNAL
    assert r"RuntimeError: no\x0away" in ended.err
    assert "test_surroundings.py:" in ended.err
    assert not list(isolated_home.rglob("crash-*"))


def test_where_no_file_can_be_written_the_way_to_see_more_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/none")
    fails(monkeypatch, RuntimeError("no"))
    ended = binpkg("show", "app", "--from", "oci-layout:x")
    assert (ended.code, "--debug" in ended.err) == (INTERNAL, True)


def test_a_link_in_the_place_of_the_file_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("theirs")
    scene = Scene(str(tmp_path / "state"), {}, debug=False)
    first = str(crash.report(RuntimeError("no"), scene))
    (path,) = (tmp_path / "state").iterdir()
    path.unlink()
    path.symlink_to(tmp_path / "theirs")
    assert str(crash.report(RuntimeError("no"), scene)) == first
    assert (tmp_path / "theirs").read_text() == "theirs"
    assert not path.is_symlink()


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (MemoryError(), SCARCE, "not enough memory"),
        (RuntimeError("can't start new thread"), SCARCE, "threads"),
        (OSError(24, "Too many open files", "/x"), SCARCE, "files are open"),
        (ImportError("x.so: failed to map segment from shared object"), SCARCE, "not enough memory"),
        (PermissionError(13, "Permission denied", "/x/y"), LOCAL_DISK, "/x/y"),
        (OSError(28, "No space left on device", "/x/y"), LOCAL_DISK, "No space left"),
        (ValueError("embedded null byte"), 2, "NUL"),
        (BrokenPipeError(32, "Broken pipe"), INTERNAL, "internal error"),
    ],
)
def test_what_the_machine_refuses_is_told_as_such(
    monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, words: str
) -> None:
    fails(monkeypatch, error)
    ended = binpkg("show", "app", "--from", "oci-layout:x")
    assert (ended.code, words in ended.err) == (code, True), ended.err
    assert "Traceback" not in ended.err
