"""What a command logs: each request once, the reasons of its decisions, and no secret."""

from __future__ import annotations

import logging
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.support.command_line import binpkg
from tests.support.fake_registry import RESET, Basic, Bearer, FakeRegistry
from tests.support.spack_trees import Sketch, Tree, spack_tree

SECRET = "correct-horse-battery-staple"
SHOWN = re.compile(r"\b([A-Z]+) https?://\S+: (\d{3}) in \d+\.\d+ s, attempt")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    sketches = [
        Sketch("zlib", "1.3", files={"lib/z": b"z"}),
        Sketch("app", "2.0", files={"bin/app": b"a"}, depends=["zlib"]),
    ]
    return spack_tree(tmp_path / "store", sketches)


def logged(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == level and r.name.startswith("oci_binpkg.")]


def requests(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "oci_binpkg.transport" and r.levelno == logging.DEBUG]


@pytest.mark.parametrize("auth", [None, Basic("user", SECRET), Bearer("user", SECRET)], ids=["open", "basic", "bearer"])
def test_a_push_logs_each_request_once(
    tree: Tree, isolated_home: Path, caplog: pytest.LogCaptureFixture, auth: Basic | Bearer | None
) -> None:
    caplog.set_level(logging.DEBUG, "oci_binpkg")
    with FakeRegistry(auth=auth) as registry:
        if auth:
            done = binpkg("login", registry.host, "-u", "user", "--password-stdin", stdin=f"{SECRET}\n")
            assert done.code == 0, done.err
        caplog.clear()
        before = len(registry.log)
        done = binpkg("push", f"oci://{registry.host}/apps", "--store", tree.root, "--update-index")
        assert done.code == 0, done.err
        asked = Counter(exchange.method for exchange in list(registry.log)[before:])
    lines = requests(caplog)
    assert Counter(line.split()[0] for line in lines) == asked
    assert all(" s, attempt " in line for line in lines)
    assert SECRET not in caplog.text


def test_a_push_logs_why(tree: Tree, isolated_home: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "oci_binpkg")
    with FakeRegistry() as registry:
        cache = f"oci://{registry.host}/apps"
        assert binpkg("push", cache, "zlib", "--store", tree.root).code == 0
        first = "\n".join(logged(caplog, logging.INFO))
        caplog.clear()
        assert binpkg("push", cache, "--store", tree.root).code == 0
        second = "\n".join(logged(caplog, logging.INFO))
    name = f"{registry.host}/apps"
    assert f"is pushed: {name} does not have it" in first
    assert "is packed: the layer cache does not hold it" in first
    assert f"is sent to {name}, which does not have it" in first
    assert "zlib@1.3" in second
    assert f"is skipped: {name} has it" in second


def test_what_is_tried_again_is_logged(tree: Tree, isolated_home: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "oci_binpkg")
    with FakeRegistry() as registry:
        registry.fault("GET", "/tags/list", times=1, before=RESET)
        assert binpkg("push", f"oci://{registry.host}/apps", "--store", tree.root).code == 0
    listed = [line for line in requests(caplog) if "/tags/list" in line]
    assert [("attempt 1" in line, "attempt 2" in line) for line in listed][:2] == [(True, False), (False, True)]
    assert any("attempt 1 failed, the next one follows in" in line for line in logged(caplog, logging.INFO))


def test_debug_shows_each_request_once_and_no_secret(tree: Tree, isolated_home: Path) -> None:
    """What a user sees of a push: as many lines as the registry took requests, each with status and time."""
    with FakeRegistry(auth=Bearer("user", SECRET)) as registry:
        done = binpkg("login", registry.host, "-u", "user", "--password-stdin", stdin=f"{SECRET}\n")
        assert done.code == 0, done.err
        registry.fault("GET", "/tags/list", times=1, status=503)
        before = len(registry.log)
        done = binpkg("push", f"oci://{registry.host}/apps", "--store", tree.root, "--update-index", "--debug")
        assert done.code == 0, done.err
        taken = [(one.method, str(one.status)) for one in list(registry.log)[before:]]
        tokens = {one.headers.get("authorization", "").rpartition(" ")[2] for one in registry.log} - {""}
    shown = SHOWN.findall(done.err)
    assert sorted(shown) == sorted(taken)
    assert ("GET", "503") in shown
    assert len(tokens) > 1
    assert [secret for secret in (SECRET, *tokens) if secret in done.err] == []
