"""Programs that were moved to a longer root are taken by the tools that write ELF files anew, and run afterwards."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from pathlib import Path

import pytest

from oci_binpkg.relocate.elf import relocate_elf
from oci_binpkg.relocate.prefixes import PrefixMap
from oci_binpkg.runs.machine import this_machine
from oci_binpkg.runs.search_rules import usual_interpreter

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(this_machine().system != "linux", reason="the programs are Linux's"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc"),
]

LINKERS = {"bfd": "ld.bfd", "gold": "ld.gold", "lld": "ld.lld", "mold": "mold"}
KINDS = ("-pie", "-no-pie")
NOTES = ("none", "sha1")
STRIPPERS = (["strip"], ["strip", "--strip-debug"], ["eu-strip"], ["objcopy"])
LIBRARY = "__thread int t = 7; int foo(void) { return t; }\n"
PROGRAM = """
#include <stdio.h>
static char large[1 << 20];
int foo(void);
int main(int c, char **v) { large[c] = 1; (void)v; printf("ok %d\\n", foo() + large[0]); return 0; }
"""


def run(*arguments: str | Path) -> str:
    done = subprocess.run(list(map(str, arguments)), check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, ""), (arguments, done)
    return done.stdout


def built(folder: Path, linker: str, kind: str, build_id: str) -> list[Path]:
    """A program and a library that names itself by its path, in `folder`; the interpreter is a copy of ours there."""
    library, program = folder / "lib" / "libd.so", folder / "bin" / "a"
    for path in (library, program):
        path.parent.mkdir(parents=True)
    sources = folder.parent
    (sources / "d.c").write_text(LIBRARY)
    (sources / "a.c").write_text(PROGRAM)
    gcc = ["gcc", "-g", f"-fuse-ld={linker}", f"-Wl,--build-id={build_id}", f"-Wl,-rpath,{folder}/lib"]
    run(*gcc, "-shared", "-fPIC", "-o", library, sources / "d.c", f"-Wl,-soname,{library}")
    pic = "-fPIE" if kind == "-pie" else "-fno-pie"
    run(*gcc, kind, pic, "-o", program, sources / "a.c", library, f"-Wl,--dynamic-linker={folder}/lib/loader.so")
    return [library, program]


@pytest.mark.parametrize("linker", LINKERS)
@pytest.mark.parametrize(("kind", "build_id"), list(itertools.product(KINDS, NOTES)))
def test_what_was_moved_survives_strip(linker: str, kind: str, build_id: str, tmp_path: Path) -> None:
    if shutil.which(LINKERS[linker]) is None:
        pytest.skip(f"needs {LINKERS[linker]}")
    old, new = tmp_path / "old", tmp_path / "a-much-longer-destination-than-the-one-it-was-built-in-by-far"
    files = built(old, linker, kind, build_id)
    mapping = PrefixMap.of({str(old): str(new)})
    moved = {}
    for file in files:
        data = file.read_bytes()
        moved[new / file.relative_to(old)] = relocate_elf(data, mapping).apply(data)
    shutil.rmtree(old)
    for path in moved:
        path.parent.mkdir(parents=True)
    shutil.copy(usual_interpreter(this_machine().architecture, musl=False), new / "lib" / "loader.so")

    for tool in ([], *(tool for tool in STRIPPERS if shutil.which(tool[0]))):
        for path, data in moved.items():
            path.write_bytes(data)
            path.chmod(0o755)
            if tool:
                run(*tool, path)
                run(*tool, path)  # what a tool has written is taken by it as well
        assert run(new / "bin" / "a") == "ok 7\n", tool
