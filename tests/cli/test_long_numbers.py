"""Numbers of thousands of digits end in one line, wherever somebody may write a number that becomes one."""

from __future__ import annotations

import json

import pytest

from tests.support.command_line import binpkg

LONG = "9" * 5000


@pytest.mark.parametrize("version", [LONG, "1" + "0" * 4400, "0" * 5000 + "8", LONG + "x", "٣" * 4400])
def test_a_database_of_an_endless_version_is_of_no_version_that_is_known(tmp_path, version):
    (tmp_path / ".spack-db").mkdir()
    (tmp_path / ".spack-db" / "index.json").write_text(json.dumps({"database": {"version": version, "installs": {}}}))
    ended = binpkg("find", "--store", tmp_path)
    assert ended.code == 3
    assert "versions 6 to 8 are understood" in ended.err
    assert len(ended.err) < 1000


@pytest.mark.parametrize(
    ("version", "hint"),
    [("9", "newer"), ("10", "newer"), (LONG, "newer"), ("5", "reindex"), ("007", "reindex"), ("x", "reindex")],
)
def test_a_newer_database_is_told_from_an_older_one(tmp_path, version, hint):
    (tmp_path / ".spack-db").mkdir()
    (tmp_path / ".spack-db" / "index.json").write_text(json.dumps({"database": {"version": version, "installs": {}}}))
    assert hint in binpkg("find", "--store", tmp_path).err


@pytest.mark.parametrize(
    "words",
    [
        ["run", "oci-layout:x:y", "--ulimit", f"nofile={LONG}"],
        ["find", "--from", "oci-layout:x", f"zlib@{LONG}"],
        ["find", "--from", f"oci://127.0.0.1:{LONG}/x"],
        ["show", f"zlib@={LONG}.{LONG}", "--from", "oci-layout:x"],
        ["login", f"registry.example:{LONG}", "-u", "me"],
    ],
    ids=lambda words: " ".join(words)[:40],
)
def test_a_word_of_the_command_line(words):
    ended = binpkg(*words)
    assert ended.code == 2
    assert len(ended.err) < 1000
