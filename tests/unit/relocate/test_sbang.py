"""The script for long interpreter lines, run as the kernel would run it."""

import subprocess

import pytest

from oci_binpkg.errors import LocalDiskError
from oci_binpkg.relocate.sbang import ensure_sbang


@pytest.fixture
def sbang(tmp_path):
    path = tmp_path / "bin" / "sbang"
    assert ensure_sbang(str(path))
    assert not ensure_sbang(str(path))
    return path


def run(sbang, tmp_path, second, name="interp"):
    interpreter = tmp_path / name
    interpreter.write_text('#!/bin/sh\necho "$@"\n')
    interpreter.chmod(0o755)
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh {sbang}\n{second.format(interpreter)}\nrest\n")
    script.chmod(0o755)
    return subprocess.run([script, "a", "b c"], capture_output=True, text=True, check=False), script


@pytest.mark.parametrize("second", ["#!{}", "//!{}", "--!{}", "<?php #!{} ?>", "<?php #!{}?>"])
def test_each_language_has_its_own_comment(sbang, tmp_path, second):
    done, script = run(sbang, tmp_path, second)
    assert (done.stdout, done.stderr) == (f"{script} a b c\n", "")


def test_arguments_of_the_interpreter_are_kept(sbang, tmp_path):
    done, script = run(sbang, tmp_path, "#!{} -w")
    assert done.stdout == f"-w {script} a b c\n"


def test_perl_is_told_to_look_for_its_own_line(sbang, tmp_path):
    done, script = run(sbang, tmp_path, "#!{}", name="perl5")
    assert done.stdout == f"-x {script} a b c\n"


def test_a_script_without_a_second_interpreter_line_is_an_error(sbang, tmp_path):
    done, script = run(sbang, tmp_path, "print 1")
    assert done.returncode == 2
    assert str(script) in done.stderr
    assert subprocess.run([sbang], capture_output=True, check=False).returncode == 2


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LocalDiskError):
        ensure_sbang(str(tmp_path / "file" / "bin" / "sbang"))
