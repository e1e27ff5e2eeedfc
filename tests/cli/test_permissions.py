"""What Spack's packages.yaml says of permissions holds for what is installed."""

from __future__ import annotations

import grp
import json
import os
import stat
from pathlib import Path

import pytest

from tests.support.command_line import Ended, binpkg
from tests.support.spack_trees import Sketch, spack_tree

GROUP = next(each for each in grp.getgrall() if each.gr_gid not in (0, os.getgid()))
FILES = {"bin/tool": "#!/bin/sh\nexit {prefix}\n", "share/data": "{prefix}\n", "share/link": "-> data"}
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to any group")


@pytest.fixture
def cache(tmp_path: Path) -> str:
    tree = spack_tree(tmp_path / "tree", [Sketch("app", files=FILES), Sketch("other", files=FILES)])
    (tree.prefix("app") / "bin/tool").chmod(0o755)
    (tree.prefix("other") / "bin/tool").chmod(0o755)
    (tree.prefix("app") / "share/key").write_text("secret")
    (tree.prefix("app") / "share/key").chmod(0o600)
    found = f"oci-layout:{tmp_path}/cache"
    assert binpkg("push", found, "--store", tree.root, "--update-index").code == 0
    return found


def installed(cache: str, tmp_path: Path, *more: object) -> Ended:
    return binpkg("install", "app", "other", "--from", cache, "--store", tmp_path / "s", *more)


def prefix_of(tmp_path: Path, name: str) -> Path:
    (found,) = (tmp_path / "s").glob(f"*/{name}-*")
    return found


def modes(prefix: Path) -> tuple[str, str, str, str]:
    paths = (prefix, prefix / "share", prefix / "bin/tool", prefix / "share/data")
    return tuple(f"{stat.S_IMODE(path.lstat().st_mode):o}" for path in paths)  # type: ignore[return-value]


def permitted(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "packages.yaml"
    path.write_text(f"packages:\n{text}")
    return path


@pytest.mark.covers("P30")
@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ("{read: group, write: group}", ("2770", "2770", "770", "660")),
        ("{read: group}", ("2750", "2750", "750", "640")),
        ("{read: user}", ("700", "700", "700", "600")),
        ("{write: group}", ("2775", "2775", "775", "664")),
        ("{read: world, write: user}", ("2755", "2755", "755", "644")),
    ],
)
def test_read_and_write_become_the_modes_that_spack_gives(
    cache: str, tmp_path: Path, rules: str, expected: tuple[str, ...]
) -> None:
    file = permitted(tmp_path, f"  app:\n    permissions: {rules}\n")

    ended = installed(cache, tmp_path, "--packages-yaml", file)

    assert ended.code == 0, ended.err
    assert modes(prefix_of(tmp_path, "app")) == expected
    assert modes(prefix_of(tmp_path, "other")) == ("755", "755", "755", "644")
    record = json.loads((prefix_of(tmp_path, "app") / ".spack/install_manifest.json").read_text())
    recorded = record[str(prefix_of(tmp_path, "app") / "share/data")]["mode"]
    assert f"{stat.S_IMODE(recorded):o}" == expected[3]
    assert binpkg("verify-store", tmp_path / "s").code == 0


@ROOT_ONLY
def test_a_package_goes_before_all_key_by_key(cache: str, tmp_path: Path) -> None:
    rules = (
        f"  all:\n    permissions: {{read: group, group: {GROUP.gr_name}}}\n  other:\n    permissions: {{read: user}}\n"
    )

    assert installed(cache, tmp_path, "--packages-yaml", permitted(tmp_path, rules)).code == 0

    assert modes(prefix_of(tmp_path, "app")) == ("2750", "2750", "750", "640")
    assert modes(prefix_of(tmp_path, "other")) == ("700", "700", "700", "600")
    for name in ("app", "other"):
        prefix = prefix_of(tmp_path, name)
        found = {path.lstat().st_gid for path in (prefix, *prefix.rglob("*")) if not path.is_symlink()}
        assert found == {GROUP.gr_gid}


def test_what_is_closed_to_others_stays_closed(cache: str, tmp_path: Path) -> None:
    file = permitted(tmp_path, "  all:\n    permissions: {read: world, write: group}\n")
    assert installed(cache, tmp_path, "--packages-yaml", file).code == 0
    assert stat.S_IMODE((prefix_of(tmp_path, "app") / "share/key").stat().st_mode) == 0o600


def test_spacks_scopes_are_read_and_the_environment_goes_first(
    cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = Path.home() / ".spack"
    user.mkdir(parents=True, exist_ok=True)
    (user / "packages.yaml").write_text("packages: {all: {permissions: {read: group, write: group}}}\n")
    (user / "config.yaml").write_text("config: {allow_sgid: false}\n")
    (tmp_path / "env").mkdir()
    (tmp_path / "env/spack.yaml").write_text("spack: {packages: {app: {permissions: {write: user}}}}\n")
    monkeypatch.setenv("SPACK_ENV", str(tmp_path / "env"))

    assert installed(cache, tmp_path).code == 0

    assert modes(prefix_of(tmp_path, "app")) == ("750", "750", "750", "640")
    assert modes(prefix_of(tmp_path, "other")) == ("770", "770", "770", "660")


def test_a_section_with_two_colons_ends_what_lower_scopes_say(
    cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = Path.home() / ".spack"
    user.mkdir(parents=True, exist_ok=True)
    (user / "packages.yaml").write_text("packages: {all: {permissions: {read: user}}}\n")
    (tmp_path / "env").mkdir()
    (tmp_path / "env/spack.yaml").write_text("spack:\n  packages:\n    'all:': {permissions: {write: group}}\n")
    monkeypatch.setenv("SPACK_ENV", str(tmp_path / "env"))

    assert installed(cache, tmp_path).code == 0

    assert modes(prefix_of(tmp_path, "app")) == ("2775", "2775", "775", "664")


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ("{read: everybody}", "user, group or world"),
        ("{read: user, write: group}", "wider than read"),
        ("{write: world}", "pass their group on"),
        ("{group: no-such-group}", "has no group 'no-such-group'"),
    ],
)
def test_rules_that_spack_would_not_take_stop_before_anything_is_written(
    cache: str, tmp_path: Path, rules: str, said: str
) -> None:
    file = permitted(tmp_path, f"  other:\n    permissions: {rules}\n")

    ended = installed(cache, tmp_path, "--packages-yaml", file)

    assert (ended.code, said in ended.err, str(file) in ended.err) == (2, True, True)
    assert list((tmp_path / "s").glob("*/*")) == []


def test_a_file_that_is_not_there(cache: str, tmp_path: Path) -> None:
    ended = installed(cache, tmp_path, "--packages-yaml", tmp_path / "gone")
    assert (ended.code, "no such file" in ended.err) == (2, True)


def test_a_package_that_stays_at_its_prefix_gets_them_as_well(cache: str, tmp_path: Path) -> None:
    file = permitted(tmp_path, "  app:\n    permissions: {read: group, write: group}\n")
    (tmp_path / "tree").rename(tmp_path / "aside")

    ended = binpkg("install", "app", "--from", cache, "--store", tmp_path / "tree", "--packages-yaml", file)

    assert ended.code == 0, ended.err
    (prefix,) = (tmp_path / "tree").glob("*/app-*")
    assert modes(prefix) == ("2770", "2770", "770", "660")
    assert binpkg("verify-store", tmp_path / "tree").code == 0
