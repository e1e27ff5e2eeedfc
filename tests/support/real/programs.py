"""Small programs with libraries of their own, compiled here, each in a prefix and ready to be broken on purpose."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.real.components import command_path

INNER = "int inner(void) { return 20; }\n"
DEP = "int inner(void);\nint dep(void) { return inner() + 22; }\n"
APP = '#include <stdio.h>\n#include <math.h>\nint dep(void);\nint main(int n, char **v) {{ printf("%d %s\\n", dep(), {print}); return 0; }}\n'
PRINTS = ('"text"', "*v", 'n > 5 ? v[1] : "few"', 'sqrt(n) > 9 ? "many" : "root"')


@dataclass(frozen=True)
class Linking:
    """How a program finds its libraries. `names` are flags for the linker; {root} is the tree."""

    name: str
    app: tuple[str, ...]
    dep: tuple[str, ...]
    needs_by_path: bool = False


LINKINGS = (
    Linking(
        "runpath",
        ("-Wl,--enable-new-dtags,-rpath,{root}/dep/lib",),
        ("-Wl,--enable-new-dtags,-rpath,{root}/inner/lib",),
    ),
    Linking("rpath", ("-Wl,--disable-new-dtags,-rpath,{root}/dep/lib:{root}/inner/lib",), ()),
    Linking(
        "origin",
        ("-Wl,--enable-new-dtags,-rpath,$ORIGIN/../../dep/lib",),
        ("-Wl,--enable-new-dtags,-rpath,$ORIGIN/../../inner/lib",),
    ),
    Linking("fixed", ("-no-pie", "-Wl,--disable-new-dtags,-rpath,$ORIGIN/../../dep/lib:$ORIGIN/../../inner/lib"), ()),
    Linking("path", (), ("-Wl,--enable-new-dtags,-rpath,{root}/inner/lib",), needs_by_path=True),
)


@dataclass(frozen=True)
class Program:
    """A tree with the prefixes app, dep and inner, and the program `app/bin/app` with a script that starts it."""

    root: Path

    @property
    def app(self) -> Path:
        return self.root / "app" / "bin" / "app"

    @property
    def script(self) -> Path:
        return self.root / "app" / "bin" / "script"

    @property
    def dep(self) -> Path:
        return self.root / "dep" / "lib" / "libdep.so.1"

    @property
    def inner(self) -> Path:
        return self.root / "inner" / "lib" / "libinner.so.1"

    @property
    def prefixes(self) -> list[str]:
        return [str(self.root / name) for name in ("app", "dep", "inner")]

    def starts(self) -> bool:
        """Whether the program and the script really run, and print what they should."""
        return all(_prints(path) for path in (self.app, self.script))


def build_program(root: Path, linking: Linking, print_: str, *, compiler: str = "gcc") -> Program:
    """Compile a program; `libdep.so.1` is a link to the library, which defines the version DEP_1.0."""
    program = Program(root)
    for folder in (program.app.parent, program.dep.parent, program.inner.parent):
        folder.mkdir(parents=True)
    with_root = {"root": str(root)}
    dep = program.dep.with_name("libdep.so.1.0")
    _library(compiler, program.inner, INNER, "libinner.so.1")
    flags = [flag.format_map(with_root) for flag in linking.dep]
    _library(
        compiler,
        dep,
        DEP,
        "" if linking.needs_by_path else "libdep.so.1",
        [*flags, str(program.inner)],
        version="DEP_1.0",
    )
    program.dep.symlink_to(dep.name)
    source = root / "app.c"
    source.write_text(APP.format(print=print_))
    flags = [flag.format_map(with_root) for flag in linking.app]
    needed = str(program.dep)
    _run(compiler, "-o", program.app, source, *flags, needed, f"-Wl,-rpath-link,{program.inner.parent}", "-lm")
    program.script.write_text(f"#!{program.app}\n")
    program.script.chmod(0o755)
    return program


def _library(
    compiler: str, path: Path, text: str, soname: str, flags: list[str] | None = None, *, version: str = ""
) -> None:
    source = path.with_suffix(".c")
    source.write_text(text)
    versions = path.with_suffix(".map")
    more = [f"-Wl,-soname,{soname}"] if soname else []
    if version:
        versions.write_text(f"{version} {{ global: *; }};\n")
        more.append(f"-Wl,--version-script,{versions}")
    _run(compiler, "-shared", "-fPIC", "-o", path, source, *more, *(flags or ()))
    source.unlink()
    versions.unlink(missing_ok=True)


def _run(compiler: str, *arguments: str | Path) -> None:
    argv = [command_path(compiler), *map(str, arguments)]
    subprocess.run(argv, check=True, capture_output=True, timeout=60)


def _prints(path: Path) -> bool:
    try:
        done = subprocess.run([path], check=False, capture_output=True, text=True, timeout=60)
    except OSError:
        return False
    return done.returncode == 0 and done.stdout.startswith("42 ")


# one thing broken at a time


def library_removed(program: Program) -> None:
    program.dep.resolve().unlink()
    program.dep.unlink()


def inner_library_removed(program: Program) -> None:
    program.inner.unlink()


def link_cut(program: Program) -> None:
    program.dep.unlink()
    program.dep.symlink_to("libdep.so.1.1")


def version_raised(program: Program) -> None:
    _replace(program.app, b"DEP_1.0\0", b"DEP_1.1\0")


def library_too_old(program: Program) -> None:
    _replace(program.dep, b"DEP_1.0\0", b"DEP_0.9\0")


def c_library_too_old(program: Program) -> None:
    _replace(program.app, b"GLIBC_2.34\0", b"GLIBC_9.34\0")


def interpreter_renamed(program: Program) -> None:
    data = program.app.read_bytes()
    at = data.index(b"/lib", 0, 4096)
    program.app.write_bytes(data[:at] + b"/bil" + data[at + 4 :])


def program_for_another_machine(program: Program) -> None:
    _other_machine(program.app)


def library_for_another_machine(program: Program) -> None:
    _other_machine(program.dep)


def library_cut_short(program: Program) -> None:
    program.dep.write_bytes(program.dep.read_bytes()[:5000])


def script_interpreter_gone(program: Program) -> None:
    program.script.write_text(f"#!{program.app}-1.0\n")


def library_that_is_none(program: Program) -> None:
    program.inner.write_text("GROUP ( libother.so )\n")


def _other_machine(path: Path) -> None:
    data = bytearray(path.read_bytes())
    struct.pack_into("<H", data, 18, 183)
    path.write_bytes(data)


def _replace(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data, (path, old)
    path.write_bytes(data.replace(old, new))


BREAKS: Mapping[str, Callable[[Program], None]] = {
    each.__name__: each
    for each in (
        library_removed,
        inner_library_removed,
        link_cut,
        version_raised,
        library_too_old,
        c_library_too_old,
        interpreter_renamed,
        program_for_another_machine,
        library_for_another_machine,
        library_cut_short,
        script_interpreter_gone,
        library_that_is_none,
    )
}


def copied(program: Program, to: Path) -> None:
    """Keep a copy of a tree, links and all."""
    shutil.copytree(program.root, to, symlinks=True)


def put_back(program: Program, copy: Path) -> None:
    """Let a tree be as its copy is."""
    shutil.rmtree(program.root)
    os.rename(copy, program.root)
