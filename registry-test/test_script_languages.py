"""Scripts with an interpreter line that is too long for the kernel, run by the languages they are written in."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from oci_binpkg.relocate.interpreter_lines import interpreter_line_is_too_long, with_sbang
from oci_binpkg.relocate.sbang import ensure_launcher, ensure_sbang
from tests.support.real.components import RealParts, command_path

pytestmark = pytest.mark.real

SCRIPTS = {
    "ocaml": ("", 'let () = print_endline (Sys.argv.(0) ^ " " ^ Sys.argv.(1)); exit 7\n'),
    "guile": (" -s", "!#\n(display (string-join (command-line))) (newline) (exit 7)\n"),
    "guile with its own sign": (
        " \\",
        "-e main -s\n!#\n(define (main args) (display (string-join args)) (newline) (exit 7))\n",
    ),
    "ruby": ("", ("# -*- coding: iso-8859-1 -*-\nputs [$0, *ARGV].join(' '), '\xe9'.length - 1 + DATA.read.to_i\n"
             "exit 7\n__END__\n0\n")),
    "escript": ("", '%% -*- coding: latin-1 -*-\nmain([X]) -> io:format("~s ~s~n", [escript:script_name(), X]), halt(7).\n'),
    "escript with arguments": (
        "",
        ('%%! -env SAID 7\nmain([X]) -> io:format("~s ~s~n", [escript:script_name(), X]), '
        'halt(list_to_integer(os:getenv("SAID"))).\n'),
    ),
    "lua5.4": ("", "print(arg[0], arg[1]) os.exit(7)\n"),
    "luajit": (" -O1", "print(arg[0], arg[1]) os.exit(7)\n"),
    "php": ("", '<?php declare(strict_types=1);\nnamespace A; echo "$argv[0] $argv[1]\\n"; exit(7);\n'),
    "Rscript": (" --vanilla", ('cat(sub("--file=", "", grep("--file=", commandArgs(), value = TRUE)), commandArgs(TRUE), '
                '"\\n"); q(status = 7)\n')),
    "tclsh": ("", 'puts "$argv0 $argv"; exit 7\n'),
    "perl": (" -w", 'print "$0 @ARGV\\n"; exit 7;\n'),
    "node": ("", "'use strict'\nconsole.log(process.argv[1], process.argv[2]); process.exit(7)\n"),
    "awk": (" -f", "BEGIN { print ARGV[1]; exit 7 }\n"),
}  # fmt: skip
NAMELESS = {"awk"}
"""Languages that do not tell a script its own name."""


@pytest.mark.parametrize("language", SCRIPTS)
def test_a_script_starts_as_itself(
    language: str, tmp_path: Path, parts: RealParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts.require("languages")
    monkeypatch.setenv("GUILE_AUTO_COMPILE", "0")
    name = language.partition(" ")[0]
    program = tmp_path / ("d" * 130) / name
    program.parent.mkdir()
    program.symlink_to(command_path(name))
    sbang = str(tmp_path / "sbang")
    ensure_sbang(sbang)
    ensure_launcher(sbang)
    argument, body = SCRIPTS[language]

    made = with_sbang(f"#!{program}{argument}\n{body}".encode("latin-1"), sbang.encode())
    script = tmp_path / "script"
    script.write_bytes(made)
    script.chmod(0o755)
    done = subprocess.run([script, "word"], check=False, capture_output=True, text=True, timeout=60)

    assert not interpreter_line_is_too_long(made)
    assert (done.returncode, done.stderr) == (7, "")
    expected = ["word"] if name in NAMELESS else [str(script), "word"]
    assert done.stdout.split()[: len(expected)] == expected
