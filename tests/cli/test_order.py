"""Packages are listed in one order wherever they are listed: by name, and version 1.2 before 1.10."""

from __future__ import annotations

from pathlib import Path

from tests.support.command_line import binpkg

VERSIONS = ["1.2", "1.2.9", "1.10", "2.0-rc1", "2.0", "develop"]


def test_find_and_search_list_versions_in_one_order(tmp_path: Path) -> None:
    folder = tmp_path / "packages"
    text = '[defaults]\narch = { platform = "linux", os = "debian12", target = "x86_64" }\n'
    for version in reversed(VERSIONS):
        (folder / version).mkdir(parents=True)
        text += f'[[package]]\nname="tool"\nversion="{version}"\nprefix="{version}"\n'
    (folder / "packages.toml").write_text(text)
    cache = f"oci-layout:{tmp_path}/cache"
    pushed = binpkg("push", cache, "--store", folder, "--update-index")
    assert pushed.code == 0, pushed.err
    assert binpkg("mirror", "add", "lab", cache).code == 0
    wanted = [f"tool@{version}" for version in VERSIONS]
    for words in (("find", "--store", folder), ("find", "--from", cache), ("find", "tool", "--from", cache)):
        assert [line.split()[1] for line in binpkg(*words).lines] == wanted
    for asked in (["find"], ["search", "tool"]):
        listed = (next((word for word in line.split() if word in wanted), "") for line in binpkg(*asked).lines)
        assert [word for word in listed if word] == wanted
