"""Programs that were moved to a longer root are taken by the tools that write or edit ELF files, and run afterwards."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from oci_binpkg.relocate.elf import relocate_elf
from oci_binpkg.relocate.prefixes import PrefixMap
from oci_binpkg.runs.machine import this_machine
from oci_binpkg.runs.search_rules import usual_interpreter
from tests.support.real.components import RealParts, command_path

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="notes are those of x86_64, and the others are emulated"),
]

LINKERS = ("bfd", "gold", "lld", "mold")
KINDS = ("-pie", "-no-pie")
NOTES = ("none", "build-id", "property")
LIBRARY = "__thread int t = 7; int foo(void) { return t; }\n"
PROGRAM = """
#include <stdio.h>
static char large[1 << 20];
int foo(void);
int main(int c, char **v) { large[c] = 1; (void)v; printf("ok %d\\n", foo() + large[0]); return 0; }
"""
PLACED = """
#include <stdio.h>
static const char *const place = "PLACE/share";
int main(int c, char **v) { (void)v; puts(place + (c > 5)); return 0; }
"""
# what processor is needed: the least there is
PROPERTY = """
.section .note.gnu.property,"a",@note
.p2align 3
.long 4, 16, 5
.asciz "GNU"
.long 0xc0008002, 4, 1, 0
.section .note.GNU-stack,"",@progbits
"""
LLD = ["-Wl,-z,force-ibt"]  # it drops that property, and makes another, with warnings


@dataclass(frozen=True)
class Machine:
    """Where programs are built for and run on: `name` as compilers have it; "" for this machine."""

    name: str = ""

    @property
    def tools(self) -> str:
        return f"{self.name}-linux-gnu-" if self.name else ""

    @property
    def emulator(self) -> list[str]:
        if not self.name:
            return []
        processor = {"powerpc64le": "ppc64le"}.get(self.name, self.name)
        return [command_path(f"qemu-{processor}"), "-L", f"/usr/{self.name}-linux-gnu"]

    @property
    def loader(self) -> str:
        if not self.name:
            return usual_interpreter(this_machine().architecture, musl=False)
        processor = {"powerpc64le": "ppc64le"}.get(self.name, self.name)
        return f"/usr/{self.name}-linux-gnu/lib/{Path(usual_interpreter(processor, musl=False)).name}"

    def strippers(self) -> Iterator[list[str]]:
        """Nothing, and what writes a file anew."""
        yield []
        for tool in (["strip"], ["strip", "--strip-debug"], ["objcopy"]):
            yield [self.tools + tool[0], *tool[1:]]
        yield ["eu-strip"]


def run(*arguments: str | Path, warnings: bool = False) -> str:
    done = subprocess.run(list(map(str, arguments)), check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, warnings or not done.stderr) == (0, True), (arguments, done)
    return done.stdout


def compiler(machine: Machine, linker: str, folder: Path) -> list[str | Path]:
    """The compiler with a linker, which makes no note of properties by itself; the cross compilers look for all but GNU's in folders that Debian leaves empty."""
    linkers = folder / "linkers"
    linkers.mkdir(exist_ok=True)
    if machine.name and linker != "bfd":
        (linkers / f"ld.{linker}").unlink(missing_ok=True)
        (linkers / f"ld.{linker}").symlink_to(command_path("mold" if linker == "mold" else f"ld.{linker}"))
    if not machine.name and not (linkers / "crt1.o").exists():
        # these objects of the C library bring a note of properties with them
        for name in ("crt1.o", "Scrt1.o"):
            start = run("gcc", f"-print-file-name={name}").strip()
            run("objcopy", "--remove-section", ".note.gnu.property", start, linkers / name)
    return [f"{machine.tools}gcc", "-g", f"-B{linkers}", f"-fuse-ld={linker}"]


def built(folder: Path, machine: Machine, linker: str, kind: str, note: str) -> list[Path]:
    """A program and a library that names itself by its path, in `folder`; the interpreter is a copy of ours there."""
    library, program = folder / "lib" / "libd.so", folder / "bin" / "a"
    for path in (library, program):
        path.parent.mkdir(parents=True)
    sources = folder.parent
    (sources / "d.c").write_text(LIBRARY)
    (sources / "a.c").write_text(PROGRAM)
    (sources / "note.s").write_text(PROPERTY)
    build_id = "none" if note == "none" else "sha1"
    gcc = [*compiler(machine, linker, sources), f"-Wl,--build-id={build_id}", f"-Wl,-rpath,{folder}/lib"]
    more: list[str | Path] = [sources / "note.s", *(LLD if linker == "lld" else [])] if note == "property" else []
    run(*gcc, "-shared", "-fPIC", "-o", library, sources / "d.c", *more, f"-Wl,-soname,{library}", warnings=True)
    pic = "-fPIE" if kind == "-pie" else "-fno-pie"
    loader = f"-Wl,--dynamic-linker={folder}/lib/loader.so"
    run(*gcc, kind, pic, "-o", program, sources / "a.c", library, *more, loader, warnings=True)
    return [library, program]


def moved_files(files: list[Path], old: Path, new: Path, machine: Machine) -> dict[Path, bytes]:
    """Move files to a longer place, with the loader that they ask for there."""
    mapping = PrefixMap.of({str(old): str(new)})
    moved = {}
    for file in files:
        data = file.read_bytes()
        moved[new / file.relative_to(old)] = edited = relocate_elf(data, mapping).apply(data)
        assert len(edited) > len(data), file  # there is one more segment
    shutil.rmtree(old)
    for path in moved:
        path.parent.mkdir(parents=True)
    shutil.copy(machine.loader, new / "lib" / "loader.so")
    return moved


def survives(files: list[Path], old: Path, new: Path, machine: Machine) -> None:
    """Move files, and see that they run as they are and after each tool, twice."""
    moved = moved_files(files, old, new, machine)
    for tool in machine.strippers():
        for path, data in moved.items():
            path.write_bytes(data)
            path.chmod(0o755)
            if tool:
                run(*tool, path)
                run(*tool, path)  # what a tool has written is taken by it as well
        assert run(*machine.emulator, new / "bin" / "a") == "ok 7\n", tool


def places(folder: Path) -> tuple[Path, Path]:
    return folder / "old", folder / "a-much-longer-destination-than-the-one-it-was-built-in-by-far"


@pytest.mark.parametrize("linker", LINKERS)
@pytest.mark.parametrize(("kind", "note"), list(itertools.product(KINDS, NOTES)))
def test_what_was_moved_survives_strip(linker: str, kind: str, note: str, parts: RealParts, tmp_path: Path) -> None:
    parts.require("gcc", "linkers", "gold", "elfutils")
    old, new = places(tmp_path)
    survives(built(old, Machine(), linker, kind, note), old, new, Machine())


# lld of Debian 12 cannot link what riscv64's compiler makes
OTHERS = [
    *itertools.product(("aarch64", "powerpc64le"), ("bfd", "lld", "mold")),
    ("riscv64", "bfd"),
    ("riscv64", "mold"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "linker"), OTHERS)
def test_what_was_moved_survives_strip_on_other_machines(
    name: str, linker: str, kind: str, parts: RealParts, tmp_path: Path
) -> None:
    parts.require(f"gcc-{name}", "linkers", "elfutils", "qemu-user")
    old, new = places(tmp_path)
    survives(built(old, Machine(name), linker, kind, "build-id"), old, new, Machine(name))


# the C library has no static position-independent programs on the other two
STATIC = [*itertools.product(("", "aarch64"), ("bfd", "lld", "mold"), ("-static-pie", "-static"))]
STATIC += [(name, linker, "-static") for name, linker in OTHERS if name != "aarch64"]


@pytest.mark.parametrize(("name", "linker", "kind"), STATIC)
def test_static_programs_with_paths_survive_strip(
    name: str, linker: str, kind: str, parts: RealParts, tmp_path: Path
) -> None:
    """They have no search path, as glibc's do not start with one: the place is a constant."""
    machine = Machine(name)
    parts.require(f"gcc-{name}" if name else "gcc", "linkers", "elfutils", *(["qemu-user"] if name else []))
    old, new = "/opt/some/old/place", "/srv/new"
    (tmp_path / "a.c").write_text(PLACED.replace("PLACE", old))
    gcc, program = compiler(machine, linker, tmp_path), tmp_path / "a"
    run(*gcc, kind, "-fPIE" if kind == "-static-pie" else "-fno-pie", "-o", program, tmp_path / "a.c")
    data = program.read_bytes()
    for tool in machine.strippers():
        program.write_bytes(relocate_elf(data, PrefixMap.of({old: new})).apply(data))
        if tool:
            run(*tool, program)
        assert os.path.normpath(run(*machine.emulator, program).strip().replace("//", "/")) == f"{new}/share", tool


EDITS = {
    "search path": ["--set-rpath", "NEW/lib:/a/path/that/is/longer/than/any/that/was/there/before/by/a/good/deal"],
    "old search path": ["--force-rpath", "--set-rpath", "NEW/lib:NEW/share:NEW"],
    "interpreter": ["--set-interpreter", "NEW/lib/./././././././././././././././././././././loader.so"],
    "library": ["--add-needed", "libm.so.6"],
}


# what mold links makes this patchelf crash, moved or not
@pytest.mark.parametrize("linker", ["bfd", "gold", "lld"])
@pytest.mark.parametrize(("kind", "note"), list(itertools.product(KINDS, NOTES)))
def test_what_was_moved_is_taken_by_patchelf(
    linker: str, kind: str, note: str, parts: RealParts, tmp_path: Path
) -> None:
    parts.require("gcc", "linkers", "gold", "patchelf")
    old, new = places(tmp_path)
    moved = moved_files(built(old, Machine(), linker, kind, note), old, new, Machine())
    for name, edit in EDITS.items():
        if (name, linker, kind) == ("library", "bfd", "-no-pie"):
            continue  # it puts the dynamic section into a segment that is only read, and warns of nothing
        for path, data in moved.items():
            path.write_bytes(data)
            path.chmod(0o755)
        for _ in range(2):
            for path in moved:
                if name != "interpreter" or path.name == "a":
                    run("patchelf", *(word.replace("NEW", str(new)) for word in edit), path)
            assert run(new / "bin" / "a") == "ok 7\n", name
