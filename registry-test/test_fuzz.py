"""Some seconds of fuzzing for each target: what is found fails the test and is kept beside it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz.targets import TARGETS

from tests.support.examples import nightly
from tests.support.real.components import RealParts

HERE = Path(__file__).parent
SECONDS = 10 if nightly() else 4


@pytest.mark.real
@pytest.mark.parametrize("target", TARGETS)
def test_nothing_is_found_in_some_seconds(parts: RealParts, tmp_path, target):
    parts.require("atheris")
    # a program of its own: atheris ends the process, and the measuring of coverage would only slow it down
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    command = [
        sys.executable,
        "-m",
        "fuzz",
        target,
        "--seconds",
        str(SECONDS),
        "--seed",
        "1",
        "--finds",
        str(tmp_path / "finds"),
    ]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, cwd=HERE, env=environment, timeout=200)
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert "stat::number_of_executed_units" in ended.stderr
    assert list((tmp_path / "finds").iterdir()) == []
