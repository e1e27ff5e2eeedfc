"""The verdict on each program is compared with the loader and the kernel: both must agree that it runs, or that it does not."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from oci_binpkg.runs.elf_facts import ElfFacts, ElfRole
from oci_binpkg.runs.examine import examine
from oci_binpkg.runs.loader import Libraries, Loading
from oci_binpkg.runs.machine import Machine, this_machine
from oci_binpkg.runs.search_rules import usual_interpreter
from oci_binpkg.runs.view import FolderView
from tests.support.elf_corpus import CorpusError, foreign_root
from tests.support.real.components import RealParts, cache_directory, command_path
from tests.support.real.programs import BREAKS, LINKINGS, PRINTS, Linking, Program, build_program, copied, put_back

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(this_machine().system != "linux", reason="Linux's loaders are asked"),
]

FOLDERS = ("/usr/bin", "/usr/sbin", "/usr/lib/x86_64-linux-gnu")
OF_THE_LOADER = {"library", "interpreter", "version", "damaged", "platform", "level"}


def elf_files() -> Iterator[str]:
    """The programs and libraries of this machine."""
    for folder in FOLDERS:
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not os.path.islink(path) and os.access(path, os.R_OK):
                with open(path, "rb") as file:
                    if file.read(4) == b"\x7fELF":
                        yield path


def by_the_loader(path: str) -> tuple[set[str], bool]:
    """The libraries that the loader finds for a file, and whether it is content."""
    loader = usual_interpreter(this_machine().architecture, musl=False)
    done = subprocess.run([loader, "--list", path], check=False, capture_output=True, text=True, timeout=60)
    found = {line.split(" ")[2] for line in done.stdout.splitlines() if " => " in line and "not found" not in line}
    return {each for each in found if each != loader}, done.returncode == 0 and "not found" not in done.stdout


def by_us(libraries: Libraries, path: str) -> Loading | None:
    facts = libraries.facts(path)
    if not isinstance(facts, ElfFacts) or facts.role is ElfRole.OTHER or not facts.needed:
        return None
    interpreter = facts.interpreter or usual_interpreter(facts.architecture, musl=False)
    return None if "musl" in interpreter else libraries.load(path, facts, interpreter, whole=True)


@pytest.mark.timeout(600)
def test_the_libraries_of_all_programs_of_this_machine_are_those_that_the_loader_finds() -> None:
    libraries = Libraries(FolderView(), this_machine())
    loadings = {path: loading for path in elf_files() if (loading := by_us(libraries, path)) is not None}
    with ThreadPoolExecutor() as loaders:
        theirs = dict(zip(loadings, loaders.map(by_the_loader, loadings), strict=True))

    assert len(loadings) > 200
    for path, loading in loadings.items():
        found, is_content = theirs[path]
        ours = {each.path for each in loading.objects[1:] if each.facts.interpreter or "ld-linux" not in each.path}
        assert ours == found, path
        assert (not loading.missing and not loading.versions) is is_content, path


def test_no_program_of_this_machine_is_reported_that_the_loader_takes() -> None:
    verdict = examine(FolderView(), ["/usr/bin"], this_machine())
    reported = {each.path for each in verdict.stopping if each.kind.value in OF_THE_LOADER}

    assert verdict.programs > 100
    assert [path for path in sorted(reported) if by_the_loader(path)[1]] == []


# programs that were broken on purpose


def stopped(program: Program) -> list[str]:
    """What is reported of a program and the script that starts it."""
    verdict = examine(FolderView(), program.prefixes, this_machine())
    return [each.describe() for each in verdict.stopping]


@pytest.mark.parametrize("linking", LINKINGS, ids=lambda linking: linking.name)
@pytest.mark.parametrize("number", range(len(PRINTS)))
def test_programs_with_one_thing_broken_are_found_and_no_others(
    linking: Linking, number: int, parts: RealParts, tmp_path: Path
) -> None:
    """Twelve ways for each of twenty programs: 240 broken ones."""
    parts.require("gcc")
    program = build_program(tmp_path / "tree", linking, PRINTS[number])
    assert program.starts()
    assert stopped(program) == []
    for name, spoil in BREAKS.items():
        copied(program, tmp_path / "copy")
        spoil(program)
        assert not program.starts(), name
        assert stopped(program), name
        put_back(program, tmp_path / "copy")
    assert program.starts()
    assert stopped(program) == []


def test_a_program_for_later_processors_is_found(parts: RealParts, tmp_path: Path) -> None:
    parts.require("gcc")
    here = this_machine()
    if here.architecture != "x86_64" or here.level == 4:
        pytest.skip("every level of x86-64 runs here")
    level = Linking("level", (f"-Wl,-z,x86-64-v{here.level + 1}", "-Wl,-rpath,{root}/dep/lib:{root}/inner/lib"), ())
    fitting = Linking(
        "fits", (f"-Wl,-z,x86-64-v{here.level}", "-Wl,--disable-new-dtags,-rpath,{root}/dep/lib:{root}/inner/lib"), ()
    )

    too_late = build_program(tmp_path / "late", level, PRINTS[0])
    fits = build_program(tmp_path / "fits", fitting, PRINTS[0])

    assert (too_late.starts(), bool(stopped(too_late))) == (False, True)
    assert (fits.starts(), stopped(fits)) == (True, [])


# musl knows no versions, and maps a library for another machine, whose code then does whatever it does
NOT_MUSLS = {"version_raised", "library_too_old", "c_library_too_old", "library_for_another_machine"}
MUSL = [name for name in BREAKS if name not in NOT_MUSLS]


def test_programs_of_musl_with_one_thing_broken(parts: RealParts, tmp_path: Path) -> None:
    parts.require("gcc", "musl")
    program = build_program(tmp_path / "tree", LINKINGS[1], PRINTS[0], compiler="musl-gcc")
    assert program.starts()
    assert stopped(program) == []
    for name in MUSL:
        copied(program, tmp_path / "copy")
        BREAKS[name](program)
        assert (program.starts(), bool(stopped(program))) == (False, True), name
        put_back(program, tmp_path / "copy")


def test_musl_takes_a_library_without_the_version(parts: RealParts, tmp_path: Path) -> None:
    parts.require("gcc", "musl")
    program = build_program(tmp_path / "tree", LINKINGS[1], PRINTS[0], compiler="musl-gcc")
    BREAKS["library_too_old"](program)

    assert program.starts() is not bool(stopped(program))


# a root of another architecture


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("architecture", "name"), [("arm64", "aarch64")])
def test_a_root_of_another_architecture(architecture: str, name: str, parts: RealParts, tmp_path: Path) -> None:
    """The loader of that root, emulated, is asked as well."""
    parts.require("debian-packages", "qemu-user")
    try:
        packages = ("libc6", "libgcc-s1", "libacl1", "libattr1", "libpcre2-8-0", "libselinux1", "sed", "hello")
        root = foreign_root(cache_directory() / "root", tmp_path / "root", architecture, packages)
    except CorpusError as error:
        parts.give_up("debian-packages", str(error))
    there, prefixes = Machine("linux", name), ["/bin", "/usr/bin"]

    def starts(program: str) -> bool:
        argv = [command_path(f"qemu-{name}"), "-L", str(root), str(root / program), "--version"]
        return subprocess.run(argv, check=False, capture_output=True, timeout=60).returncode == 0

    def programs(machine: Machine) -> set[str]:
        return set(examine(FolderView(str(root)), prefixes, machine).stopped)

    assert (starts("bin/sed"), starts("usr/bin/hello")) == (True, True)
    assert programs(there) & {"/bin/sed", "/usr/bin/hello"} == set()
    assert {"/bin/sed", "/usr/bin/hello"} <= programs(Machine("linux", "s390x"))
    (library,) = root.rglob("libselinux.so.1")
    library.rename(library.with_name("away"))
    # without that root's library another of this machine must not be taken
    assert (starts("bin/sed"), starts("usr/bin/hello")) == (False, True)
    assert programs(there) & {"/bin/sed", "/usr/bin/hello"} == {"/bin/sed"}


# real programs, copied with what they need


COPIED = ("xz", "file", "git", "gpg", "sqlite3", "rsync", "openssl", "curl", "tmux", "vim.basic", "less", "tar", "gawk")


def copied_program(name: str, root: Path) -> tuple[Path, list[Path]] | None:
    """A program of this machine in a prefix, with all its libraries but the C library's own."""
    path = f"/usr/bin/{name}"
    if not os.path.isfile(path):
        return None
    libraries, _ = by_the_loader(os.path.realpath(path))
    own = [
        each for each in sorted(libraries) if not re.match(r"(libc|libm|libdl|libpthread|librt|ld-)\b", Path(each).name)
    ]
    if not own:
        return None
    for folder in ("bin", "lib"):
        (root / folder).mkdir(parents=True)
    program = root / "bin" / name
    program.write_bytes(Path(path).read_bytes())
    program.chmod(0o755)
    places = [root / "lib" / Path(each).name for each in own]
    for library, place in zip(own, places, strict=True):
        place.write_bytes(Path(library).read_bytes())
    argv = [command_path("patchelf"), "--force-rpath", "--set-rpath", "$ORIGIN/../lib", str(program)]
    subprocess.run(argv, check=True, capture_output=True, timeout=60)
    return program, places


def starts(program: Path) -> bool:
    """Whether the loader starts it; with which code it ends then is its own business."""
    done = subprocess.run([program, "--version"], check=False, capture_output=True, text=True, timeout=60)
    return done.returncode >= 0 and "error while loading" not in done.stderr


def test_copies_of_real_programs_and_what_breaks_them(parts: RealParts, tmp_path: Path) -> None:
    """Without a library a copy still runs if the system has that one: both answers are compared with reality."""
    parts.require("patchelf")
    answers = {True: 0, False: 0}
    for name in COPIED:
        made = copied_program(name, tmp_path / name)
        if made is None:
            continue
        program, places = made
        for place in [None, *places[:6]]:
            content = place.read_bytes() if place else b""
            if place:
                place.write_bytes(content[:1000])
            verdict = examine(FolderView(), [str(tmp_path / name)], this_machine())
            runs = starts(program)
            assert (str(program) not in verdict.stopped) is runs, (
                name,
                place,
                [o.describe() for o in verdict.stopping],
            )
            answers[runs] += 1
            if place:
                place.write_bytes(content)
    assert answers[True] >= 3
    assert answers[False] >= 10
