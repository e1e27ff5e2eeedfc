"""`make demo` on a clean checkout ends with a program that runs, for root and for an ordinary user."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.real.components import RealParts

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[1]
NEEDED = ("Makefile", "pyproject.toml", "README.md", "LICENSE", "oci_binpkg", "registry-test/tools")
USER = "ocb-demo-user"
SECONDS = 60 + 60  # of somebody who waits: a minute; the other one is for a machine that runs tests beside it


@pytest.fixture
def checkout() -> Iterator[Path]:
    """What the demo takes of a checkout, where everybody may go."""
    folder = Path("/var/tmp/ocb-demo")
    shutil.rmtree(folder, ignore_errors=True)
    for name in NEEDED:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy(source, target)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def user() -> Iterator[str]:
    """A user who was not here before and is nobody special."""
    subprocess.run(["userdel", "--force", "--remove", USER], check=False, capture_output=True)
    subprocess.run(["useradd", "--create-home", USER], check=True, capture_output=True)
    yield USER
    subprocess.run(["userdel", "--force", "--remove", USER], check=False, capture_output=True)


def check(text: str, folder: Path) -> None:
    """The program ran where it was installed, and as a container; nothing was missing, and no step talks for long."""
    assert re.findall(r"warning|gone|missing|left out|not run", text) == []
    where = re.findall(r"^from (/\S+)\nHELLO, world \(lib 1\.3\.0\)$", text, re.MULTILINE)
    assert len(where) == 2, text
    assert re.fullmatch(rf"{folder}/demo/apps/\S+/greet-2\.1-\w+", where[0])
    assert where[1] == f"{folder}/demo/built/greet-2.1"
    assert max(len(step.splitlines()) for step in text.split("\n$ ")) <= 15
    assert len(text.rpartition("\nNext:")[2].splitlines()) == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a user")
def test_an_ordinary_user_sees_it_run_on_a_clean_checkout(parts: RealParts, checkout: Path, user: str) -> None:
    parts.require("python")
    for path in (checkout, *checkout.rglob("*")):
        shutil.chown(path, user)
    before = time.monotonic()
    command = ["runuser", "-l", user, "-c", f"cd {checkout} && PATH=/usr/bin:/bin make --no-print-directory demo"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - before < SECONDS
    assert "installing oci-binpkg" in done.stdout
    check(done.stdout, checkout)
    assert "warning" not in done.stderr.lower()


def test_it_runs_with_what_is_installed_already(checkout: Path) -> None:
    (checkout / ".venv").symlink_to(ROOT / ".venv")
    done = subprocess.run(
        ["make", "--no-print-directory", "demo"], cwd=checkout, check=False, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    check(done.stdout, checkout)
