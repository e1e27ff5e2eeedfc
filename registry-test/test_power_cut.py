"""What a command has written outlives a power cut: a file is synced before it gets its name, and its folder after.

Commands run under strace, which records each write, sync and change of a name. Files of gpg need to be synced at the
end only: gpg itself syncs nothing.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from kills import PACKAGES, make_tree

from tests.support.command_line import unmeasured_environment
from tests.support.fake_registry import Basic, FakeRegistry
from tests.support.gpg_keys import gpg_home
from tests.support.real.components import RealParts, command_path, component, why_missing

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

REPOSITORY = Path(__file__).parents[1]
WRITES = ("write", "pwrite64", "writev", "copy_file_range", "sendfile", "ftruncate")
NAMES = ("rename", "renameat", "renameat2", "link", "linkat")
SYNCS = ("fsync", "fdatasync")
BEGUN = re.compile(r"^(?P<pid>\d+) +(?P<call>\w+)\((?P<rest>.*) <unfinished \.\.\.>$")
RESUMED = re.compile(r"^(?P<pid>\d+) +<\.\.\. (?P<call>\w+) resumed>(?P<rest>.*)$")
DONE = re.compile(r"^(\d+) +(\w+)\((.*)\) += \d+")
OPENED = re.compile(r"\d+<(/[^>]*)>")
NAMED = re.compile(r'(?:(?:AT_FDCWD|\d+)<(?P<folder>[^>]*)>, )?"(?P<name>[^"]*)"')
STAGED = ("/.oci-binpkg-", "/layers/staging/")
"""Parts of paths of what has no final name yet: a prefix is made in a folder of its own, and renamed as a whole."""


@dataclass
class Writes:
    """What a command did to files, in order, and what a power cut could take away."""

    time: int = 0
    written: dict[str, int] = field(default_factory=dict)
    synced: dict[str, int] = field(default_factory=dict)
    owed: dict[str, int] = field(default_factory=dict)
    named: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def take(self, call: str, rest: str, *, foreign: bool) -> None:
        """Take over one call that succeeded."""
        self.time += 1
        opened = OPENED.match(rest)
        if call in SYNCS and opened:
            self.synced[opened[1]] = self.time
            self.owed.pop(opened[1], None)
        elif call == "syncfs":
            self.synced.update(dict.fromkeys(self.written, self.time))
        elif call in WRITES and opened:
            self.written[opened[1]] = self.time
        elif call in NAMES:
            source, target = (str(Path(each["folder"] or "/", each["name"])) for each in NAMED.finditer(rest))
            self._name(source, target, foreign=foreign)

    def unsynced(self, path: str) -> list[str]:
        """Return the files at or below a path that hold what the disk need not have."""
        return [
            each for each, when in self.written.items() if _is_below(each, path) and self.synced.get(each, 0) < when
        ]

    def _name(self, source: str, target: str, *, foreign: bool) -> None:
        if not any(part in target for part in STAGED):
            self.named[target] = self.time
            self.owed[str(Path(target).parent)] = self.time
            if not foreign:
                self.wrong += [f"{target} got its name before {each} was synced" for each in self.unsynced(source)]
        for known in (self.written, self.synced):
            for each in [path for path in known if _is_below(path, source)]:
                known[target + each.removeprefix(source)] = known.pop(each)

    def end(self, root: Path) -> None:
        """Note what is not synced below `root` at the end of the command."""
        self.wrong += [f"{path} got a new name and was not synced" for path in self.owed if _is_below(path, str(root))]
        self.wrong += [
            f"{each} was not synced" for path in self.named for each in self.unsynced(path) if Path(each).exists()
        ]


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def calls(lines: list[str]) -> Iterator[tuple[str, str, str]]:
    """Yield process, call and arguments of each call that succeeded, when it was over."""
    begun: dict[str, str] = {}
    for line in lines:
        if found := BEGUN.match(line):
            begun[found["pid"]] = f"{found['pid']} {found['call']}({found['rest']}"
            continue
        whole = line
        if found := RESUMED.match(line):
            whole = begun.pop(found["pid"]) + found["rest"]
        if done := DONE.match(whole):
            yield done[1], done[2], done[3]


@dataclass
class Traced:
    """Runs commands and looks at what they wrote below `root`."""

    root: Path

    def run(self, *arguments: object, stdin: str = "") -> Writes:
        """Run a command to a good end; return what it wrote, of which nothing may be lost."""
        log = self.root / "strace.txt"
        traced = ",".join(("execve", "syncfs", *WRITES, *NAMES, *SYNCS))
        argv = [command_path("strace"), "-f", "-y", "-s", "400", "-e", f"trace={traced}", "-e", "signal=none"]
        argv += ["-o", str(log), sys.executable, "-m", "oci_binpkg", *map(str, arguments)]
        environment = {**unmeasured_environment(), "PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run(argv, input=stdin, text=True, capture_output=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        writes, programs = Writes(), {}
        for process, call, rest in calls(log.read_text(errors="replace").splitlines()):
            if call == "execve":
                programs[process] = rest.partition(",")[0]
            writes.take(call, rest, foreign="gpg" in programs.get(process, ""))
        writes.end(self.root)
        assert writes.wrong == []
        return writes


@pytest.fixture
def traced(parts: RealParts, tmp_path: Path) -> Traced:
    # never skipped: nothing else shows what is promised here
    if reason := why_missing(component("strace")):
        pytest.fail(reason, pytrace=False)
    parts.require("strace")
    return Traced(tmp_path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = make_tree(tmp_path / "tree")
    for number in range(100):  # enough to be synced at once
        (root / "part11-1.0/share" / f"more{number}").write_text("more\n")
    return root


@pytest.fixture
def layout(traced: Traced, tree: Path) -> str:
    address = f"oci-layout:{traced.root / 'layout'}"
    writes = traced.run("push", address, "--store", tree, "--update-index")
    blobs = [name for name in writes.named if "/layout/blobs/" in name]
    assert len(blobs) > 3 * PACKAGES
    assert f"{traced.root}/layout/index.json" in writes.named
    # the layer cache, too: a layer and a record for each package
    assert sum("/records/" in name for name in writes.named) == PACKAGES
    return address


def test_an_install(traced: Traced, layout: str) -> None:
    root = traced.root / "installed"
    writes = traced.run("install", "part11", "--from", layout, "--store", root)

    index = f"{root}/.spack-db/index.json"
    prefixes = [name for name in writes.named if re.search(r"/part\d+-1\.0-\w+$", name)]
    assert len(prefixes) > 1
    parent = str(Path(prefixes[0]).parent)
    assert max(writes.named[prefix] for prefix in prefixes) < writes.synced[parent] < writes.named[index]
    assert any(name.endswith("/share/more99") for name in writes.synced)
    assert any(name.endswith("/share/noise") for name in writes.written)


def test_a_copy_to_a_mirror_and_what_comes_of_it(traced: Traced, layout: str) -> None:
    mirror = f"file://{traced.root / 'mirror'}"
    assert any("/mirror/blobs/" in name for name in traced.run("copy", layout, mirror, "--unsigned").named)

    saved = traced.run("save-specs", "part11", "--from", layout, "--output-dir", traced.root / "specs").named
    assert [Path(name).suffixes[-2:] for name in saved] == [[".spec", ".json"]]
    downloaded = traced.run("download", "part0", traced.root / "down", "--from", layout).named
    assert any(name.endswith(".spack") or ".tar" in name for name in downloaded)


def test_configuration_keys_and_logins(traced: Traced, isolated_home: Path) -> None:
    assert any(name.endswith(".toml") for name in traced.run("mirror", "add", "lab", "file:///nowhere").named)
    key = traced.root / "key.asc"
    with gpg_home() as home:
        key.write_bytes(home.public(home.make("owner")))
    writes = traced.run("keys", "trust", key)
    assert any("pubring" in name for name in (*writes.named, *writes.written))
    with FakeRegistry(auth=Basic("user", "horse")) as registry:
        named = traced.run("login", registry.host, "-u", "user", "--password-stdin", stdin="horse\n").named
    assert any(name.endswith("config.json") for name in named)
    assert json.loads((isolated_home / ".docker/config.json").read_text())["auths"]
