"""Scripts whose interpreter line grew too long, started as the kernel starts them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from oci_binpkg.relocate.interpreter_lines import interpreter_line_is_too_long, language_of, split_line, with_sbang
from oci_binpkg.relocate.sbang import ensure_launcher, ensure_sbang

SBANG = b"/srv/new/bin/sbang"
LONG = b"#!/" + b"d" * 140
TELLS_PYTHON = b"import sys\nprint(*sys.argv)\n"
TELLS = """#!/bin/sh
printf '[%s]' "$@"
exit 3
"""
"""An interpreter: says its arguments."""


def far(tmp_path: Path, name: str, program: Path | None = None) -> Path:
    """An interpreter at a path that is too long for the kernel."""
    path = tmp_path / ("d" * 130) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if program is None:
        return executable(path, TELLS.encode())
    path.symlink_to(program)
    return path


def executable(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    path.chmod(0o755)
    return path


def ran(script: Path, *words: str, code: int = 0) -> str:
    done = subprocess.run([script, *words], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, "")
    return done.stdout


def starts(tmp_path: Path) -> bytes:
    """The path of sbang, with the launcher beside it."""
    path = str(tmp_path / "bin" / "sbang")
    ensure_sbang(path)
    ensure_launcher(path)
    return path.encode()


@pytest.mark.parametrize(
    ("line", "second"),
    [
        (LONG + b"/bin/python3 -E", LONG + b"/bin/python3 -E"),
        (LONG + b"/bin/lua5.3", b"--" + LONG[1:] + b"/bin/lua5.3"),
        (LONG + b"/bin/lua", b"--" + LONG[1:] + b"/bin/lua"),
        (LONG + b"/bin/luajit-2.1", b"--" + LONG[1:] + b"/bin/luajit-2.1"),
        (LONG + b"/bin/node", b"//" + LONG[1:] + b"/bin/node"),
        (LONG + b"/bin/nodejs --no-warnings", b"//" + LONG[1:] + b"/bin/nodejs --no-warnings"),
        (LONG + b"/bin/php8.2", b"<?php " + LONG + b"/bin/php8.2 ?>"),
        (LONG + b"/bin/luatool", LONG + b"/bin/luatool"),
        (LONG + b"/bin/php", b"<?php " + LONG + b"/bin/php ?>"),
    ],
)
def test_long_interpreter_lines_call_sbang(line: bytes, second: bytes) -> None:
    script = line + b"\nprint(1)\n"

    assert interpreter_line_is_too_long(script)
    assert with_sbang(script, SBANG) == b"#!/bin/sh " + SBANG + b"\n" + second + b"\nprint(1)\n"


@pytest.mark.parametrize("script", [b"#!/bin/sh\n", b"", LONG[2:] + b"\n", LONG[:127] + b"\n"])
def test_other_scripts_stay(script: bytes) -> None:
    assert with_sbang(script, SBANG) == script
    assert not interpreter_line_is_too_long(script)


def test_an_sbang_that_is_as_long_does_not_help() -> None:
    assert with_sbang(LONG + b"\n", b"/" + b"s" * 150) == LONG + b"\n"


def test_python_needs_no_sbang_where_its_path_is_too_long(tmp_path: Path) -> None:
    python = far(tmp_path, "python3", Path(sys.executable))
    script = executable(tmp_path / "script", with_sbang(f"#!{python} -E\n".encode() + TELLS_PYTHON, b"/" + b"s" * 250))

    assert ran(script, "a b") == f"{script} a b\n"


@pytest.mark.parametrize(
    ("coding", "letter"), [("# -*- coding: latin-1 -*-", b"\xe9"), ("# vim: set fileencoding=cp1251 :", b"\xe9"), ("\t#coding=koi8-r", b"\xc1")]
)  # fmt: skip
@pytest.mark.parametrize("option", ["", " -E"])
def test_a_script_that_names_its_encoding_runs_in_it(tmp_path: Path, coding: str, letter: bytes, option: str) -> None:
    python = tmp_path / ("d" * 100) / "bin" / "python3.99"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    body = b"from __future__ import annotations\nimport sys\nprint(len('" + letter + b"'), *sys.argv[1:])\n"
    script = tmp_path / "script"

    made = with_sbang(f"#!{python}{option}\n{coding}\n".encode() + body, SBANG)
    script.write_bytes(made)
    script.chmod(0o755)

    assert made.split(b"\n")[1].decode() == coding
    assert not interpreter_line_is_too_long(made)
    ended = subprocess.run([script, "a b", "c"], check=True, capture_output=True, text=True)
    assert ended.stdout == "1 a b c\n"


@pytest.mark.parametrize(
    ("interpreter", "body", "third"),
    [
        ("ocaml", "let () = exit 3\n", "!#"),
        ("ocaml4.14", "let () = exit 3\n", "!#"),
        ("guile", "!#\n(exit 3)\n", "!#"),
        ("guile3.0 -s", "!#\n(exit 3)\n", "!#"),
        ("guile \\", "-e main -s\n!#\n(define (main args) (exit 3))\n", "!#"),
        ("env guile", "!#\n(exit 3)\n", "!#"),
    ],
)
def test_languages_that_skip_what_stands_between_two_signs_are_started_by_sh(
    tmp_path: Path, interpreter: str, body: str, third: str
) -> None:
    name, _, argument = interpreter.partition(" ")
    path = far(tmp_path, name)
    line = f"#!{path} {argument}".rstrip()

    made = with_sbang(f"{line}\n{body}".encode(), SBANG)
    script = executable(tmp_path / "script", made)

    lines = made.decode().split("\n")
    assert (lines[0], lines[2]) == ("#!/bin/sh", third)
    given = {"\\": "[-e][main][-s]", "": ""}.get(argument, f"[{argument}]")
    assert ran(script, "a b", code=3) == f"{given}[{script}][a b]"


@pytest.mark.parametrize(
    ("line", "body", "second"),
    [
        ("escript", "main(_) -> ok.\n", "%% #!LINE"),
        ("escript", "%%! -smp enable\nmain(_) -> ok.\n", "%% #!LINE"),
        ("escript", "%% -*- coding: latin-1 -*-\nmain(_) -> ok.\n", "%% -*- coding: latin-1 -*- #!LINE"),
        ("swipl -q", ":- initialization(main).\n", "%% #!LINE"),
        ("sbcl --script", "(exit)\n", ";; #!LINE"),
        ("emacs --script", ";; -*- lexical-binding: t -*-\n(x)\n", ";; -*- lexical-binding: t -*- #!LINE"),
        ("psql -f", "select 1;\n", "-- #!LINE"),
        ("runhaskell", "main = pure ()\n", "-- #!LINE"),
        ("rust-script", "fn main() {}\n", "// #!LINE"),
        ("env -S sbcl --script", "(exit)\n", ";; #!LINE"),
        ("env -S X='a b' python3 -u", "pass\n", "# #!LINE"),
        ('env -S "node" --x', "1\n", "// #!LINE"),
    ],
)
def test_other_languages_are_started_by_the_launcher(tmp_path: Path, line: str, body: str, second: str) -> None:
    name, _, argument = line.partition(" ")
    path, sbang = far(tmp_path, name), starts(tmp_path)

    made = with_sbang(f"#!{path} {argument}".rstrip().encode() + b"\n" + body.encode(), sbang)
    script = executable(tmp_path / "script", made)

    whole = f"{path} {argument}".rstrip()
    assert made.decode().split("\n")[:2] == [f"#!/bin/sh {sbang.decode()}-launch", second.replace("LINE", whole)]
    assert ran(script, "a b", code=3) == (f"[{argument}]" if argument else "") + f"[{script}][a b]"


def test_php_keeps_its_first_statement_first() -> None:
    line = LONG + b"/bin/php8.2"
    strict = line + b"\n<?php declare(strict_types=1);\necho 1;\n"
    page = line + b"\n<html>\n"

    assert with_sbang(strict, SBANG).split(b"\n", 1)[1] == b"<?php " + line + b"\n declare(strict_types=1);\necho 1;\n"
    assert with_sbang(page, SBANG).split(b"\n", 1)[1] == b"<?php " + line + b" ?>\n<html>\n"


@pytest.mark.parametrize(
    ("words", "second"),
    [
        (b"node", b"//!"),
        (b"-S node --no-warnings", b"//!"),
        (b"-S LANG=C luajit", b"--!"),
        (b"-S -u HOME php", b"<?php #!"),
        (b"perl", b"#!"),
        (b"-S", b"#!"),
    ],
)
def test_behind_env_the_program_that_it_starts_decides(words: bytes, second: bytes) -> None:
    line = LONG + b"/bin/env " + words

    assert with_sbang(line + b"\n1\n", SBANG).split(b"\n")[1].startswith(second)


def test_a_coding_line_behind_env_stays_where_python_looks(tmp_path: Path) -> None:
    line = f"#!{far(tmp_path, 'env', Path('/usr/bin/env'))} -S X='a b' python3".encode()
    body = b"# coding: latin-1\nimport os, sys\nprint(len('\xe9'), os.environ['X'], *sys.argv[1:])\n"

    script = executable(tmp_path / "script", with_sbang(line + b"\n" + body, SBANG))

    assert ran(script, "a b") == "1 a b a b\n"


def test_the_launcher_tells_perl_to_look_for_its_own_line(tmp_path: Path) -> None:
    path, sbang = far(tmp_path, "env"), starts(tmp_path)
    script = executable(tmp_path / "x", with_sbang(f"#!{path} -S X='1 2' perl -w\n1;\n".encode(), sbang))

    assert ran(script, code=3) == f"[-S X='1 2' perl -w][-x][{script}]"


def test_a_launcher_that_finds_nothing_says_so(tmp_path: Path) -> None:
    launcher = starts(tmp_path).decode() + "-launch"
    script = executable(tmp_path / "x", f"#!/bin/sh {launcher}\nnothing\n".encode())

    done = subprocess.run([script], check=False, capture_output=True, text=True)
    assert (done.returncode, str(script) in done.stderr) == (2, True)
    assert subprocess.run([launcher], check=False, capture_output=True).returncode == 2


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        (b"#! /bin/sh", (b"/bin/sh", b"")),
        (b"#!/bin/sh \t-e  x ", (b"/bin/sh", b"-e  x")),
        (b"#!", (b"", b"")),
        (b"#!/bin/env\tpython3\r", (b"/bin/env", b"python3")),
    ],
)
def test_lines_are_split_as_the_kernel_splits_them(line: bytes, parts: tuple[bytes, bytes]) -> None:
    assert split_line(line) == parts


def test_env_alone_is_no_language() -> None:
    assert language_of(b"/usr/bin/env", b"-S X=1 'node'") == b"node"
    assert language_of(b"/usr/bin/env", b"-i") == b"env"
