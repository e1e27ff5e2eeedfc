"""Bytecode of OCaml and applications of Python, made by their own tools, run after an install to any root."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipapp
from pathlib import Path

import pytest

from oci_binpkg.relocate.prefixes import mapping_for
from oci_binpkg.relocate.tree import relocate_tree
from tests.support.real.components import RealParts

pytestmark = pytest.mark.real

HASH = "a" * 32


@pytest.mark.parametrize("name", ["n", "trees", "a-much-longer-root", "a-root-" * 20], ids=["shorter", "equal", "longer", "too long"])  # fmt: skip
def test_programs_that_begin_with_a_line(parts: RealParts, tmp_path: Path, name: str) -> None:
    parts.require("languages")
    old, new = tmp_path / "store", tmp_path / name
    runtime = shutil.which("ocamlrun")
    assert runtime
    for prefix in (old / "app", new / "app-h"):
        (prefix / "bin").mkdir(parents=True)
        (prefix / "bin/ocamlrun").symlink_to(runtime)
        (prefix / "bin/python").symlink_to(sys.executable)
    (tmp_path / "o.ml").write_text('let () = print_string ("ran " ^ Sys.argv.(1))\n')
    command = [
        "ocamlc",
        "-use-runtime",
        str(old / "app/bin/ocamlrun"),
        "-o",
        str(new / "app-h/bin/o"),
        str(tmp_path / "o.ml"),
    ]
    subprocess.run(command, check=True, timeout=60)
    (tmp_path / "z").mkdir()
    (tmp_path / "z/__main__.py").write_text("import sys\nprint('ran', sys.argv[1], end='')\n")
    zipapp.create_archive(tmp_path / "z", new / "app-h/bin/z", interpreter=f"{old}/app/bin/python", compressed=True)
    mapping = mapping_for({HASH: f"{old}/app"}, {HASH: f"{new}/app-h"}, root=(str(old), str(new)))
    shutil.rmtree(old)

    report = relocate_tree(str(new / "app-h"), mapping)

    assert set(report.changed) == {"bin/o", "bin/z"}
    for program in ("o", "z"):
        argv: list[str | Path] = [new / "app-h/bin" / program, "a b"]
        assert subprocess.run(argv, check=True, capture_output=True, text=True, timeout=30).stdout == "ran a b"
