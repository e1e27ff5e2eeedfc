"""What keeps programs and libraries from running, one thing at a time, and its siblings that run."""

from __future__ import annotations

from pathlib import Path

import pytest

from oci_binpkg.runs.machine import Machine
from tests.support import elf_files
from tests.support.run_trees import AARCH64, BPF, GLIBC, HERE, I386, MUSL, NODEFLIB, PIE, RunTree, elf


@pytest.fixture
def tree(tmp_path: Path) -> RunTree:
    return RunTree.at(tmp_path)


def test_a_program_with_all_it_needs_runs(tree: RunTree) -> None:
    tree.library("/apps/dep/lib/libdep.so.1", defines=["DEP_1"], needed=["libc.so.6"])
    tree.program(
        "/apps/app/bin/app",
        needed=["libdep.so.1", "libc.so.6"],
        runpath="/apps/dep/lib",
        versions=[("libdep.so.1", "DEP_1"), ("libc.so.6", "GLIBC_2.34")],
    )

    verdict = tree.examined()

    assert (verdict.runs, verdict.obstacles, verdict.stopped) == (True, (), ())
    assert (verdict.programs, verdict.libraries, verdict.scripts) == (1, 1, 0)


# the interpreter


def test_an_interpreter_that_is_not_there(tree: RunTree) -> None:
    tree.program("/apps/app/bin/app", interpreter="/apps/glibc/lib/ld-linux-x86-64.so.2")

    assert tree.obstacles() == [("/apps/app/bin/app", "interpreter", "/apps/glibc/lib/ld-linux-x86-64.so.2", True)]
    assert tree.examined().stopped == ("/apps/app/bin/app",)


def test_without_an_interpreter_nothing_else_is_told_of_a_program_and_its_own_libraries(tree: RunTree) -> None:
    tree.program(
        "/apps/app/bin/app", interpreter="/gone/ld.so", needed=["libouter.so", "libgone.so"], rpath="/apps/app/lib"
    )
    tree.library("/apps/app/lib/libouter.so", needed=["libinner.so"])
    tree.library("/apps/app/lib/libinner.so")

    assert tree.obstacles() == [("/apps/app/bin/app", "interpreter", "/gone/ld.so", True)]


def test_an_interpreter_of_another_class(tree: RunTree) -> None:
    tree.file("/lib64/other.so", elf(machine=I386, bits=32), mode=0o755)
    tree.program("/apps/app/bin/app", interpreter="/lib64/other.so")

    (found,) = tree.examined().obstacles

    assert (found.kind.value, found.stops) == ("interpreter", True)
    assert found.describe() == (
        "/apps/app/bin/app: its interpreter /lib64/other.so is for i386, the program for x86_64"
    )


def test_an_interpreter_of_another_machine(tree: RunTree) -> None:
    tree.file("/lib64/other.so", elf(machine=AARCH64), mode=0o755)
    tree.program("/apps/app/bin/app", interpreter="/lib64/other.so")

    assert tree.obstacles() == [("/apps/app/bin/app", "interpreter", "/lib64/other.so", True)]


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", b"\x7fELF\x02\x01\x01"], ids=["empty", "script", "cut"])
def test_an_interpreter_that_is_no_loader(tree: RunTree, content: bytes) -> None:
    tree.file("/lib64/other.so", content, mode=0o755)
    tree.program("/apps/app/bin/app", interpreter="/lib64/other.so")

    assert tree.obstacles() == [("/apps/app/bin/app", "interpreter", "/lib64/other.so", True)]


def test_an_interpreter_that_may_not_be_executed(tree: RunTree) -> None:
    tree.place(GLIBC).chmod(0o644)
    tree.program("/apps/app/bin/app")

    assert tree.obstacles("/apps/app") == [("/apps/app/bin/app", "interpreter", GLIBC, True)]


def test_an_interpreter_behind_a_link_that_was_cut(tree: RunTree) -> None:
    tree.link("/apps/glibc/lib/ld.so", "ld-2.99.so")
    tree.program("/apps/app/bin/app", interpreter="/apps/glibc/lib/ld.so")

    assert ("/apps/app/bin/app", "interpreter", "/apps/glibc/lib/ld.so", True) in tree.obstacles()


def test_a_static_program_needs_nothing(tree: RunTree) -> None:
    tree.file("/apps/app/bin/static", elf(kind=elf_files.ET_EXEC), mode=0o755)
    tree.file("/apps/app/bin/static-pie", elf(flags=PIE), mode=0o755)

    verdict = tree.examined()

    assert (verdict.runs, verdict.programs, verdict.libraries) == (True, 2, 0)


# libraries


def test_a_library_that_was_removed(tree: RunTree) -> None:
    tree.program("/apps/app/bin/app", needed=["libgone.so.3"], runpath="/apps/dep/lib:$ORIGIN/../lib")

    (found,) = tree.examined().obstacles

    assert (found.path, found.kind.value, found.needed, found.stops) == (
        "/apps/app/bin/app",
        "library",
        "libgone.so.3",
        True,
    )
    assert found.looked[:2] == ("/apps/dep/lib", "/apps/app/bin/../lib")
    assert "/usr/lib/x86_64-linux-gnu" in found.looked
    assert found.offered == ()


def test_who_would_have_a_library_is_said(tree: RunTree) -> None:
    tree.library("/apps/dep/lib/libdep.so.1")
    tree.program("/apps/app/bin/app", needed=["libdep.so.1"], runpath="/apps/old/lib")

    (found,) = tree.examined().obstacles

    assert found.offered == ("/apps/dep/lib/libdep.so.1",)
    assert "there is /apps/dep/lib/libdep.so.1" in found.describe()


def test_who_would_have_a_library_is_looked_up_in_the_rest_of_the_tree(tree: RunTree) -> None:
    tree.library("/apps/dep/lib64/libdep.so.1")
    tree.program("/apps/app/bin/app", needed=["libdep.so.1"])

    (found,) = tree.examined("/apps/app", tree=("/apps/app", "/apps/dep")).obstacles

    assert found.offered == ("/apps/dep/lib64/libdep.so.1",)


def test_a_library_that_a_library_needs_is_missed_once_and_there(tree: RunTree) -> None:
    tree.library("/apps/dep/lib/libdep.so.1", needed=["libgone.so"])
    for name in ("one", "two"):
        tree.program(f"/apps/app/bin/{name}", needed=["libdep.so.1"], runpath="/apps/dep/lib")

    assert tree.obstacles() == [("/apps/dep/lib/libdep.so.1", "library", "libgone.so", True)]
    assert tree.examined().stopped == ("/apps/app/bin/one", "/apps/app/bin/two")


def test_a_library_of_the_system_that_lacks_something_is_told_of_its_user(tree: RunTree) -> None:
    tree.library("/usr/lib/libsystem.so.1", needed=["libgone.so"])
    tree.program("/apps/app/bin/app", needed=["libsystem.so.1"])

    (found,) = tree.examined().obstacles

    assert (found.path, found.needed, found.by) == ("/apps/app/bin/app", "libgone.so", "/usr/lib/libsystem.so.1")
    assert "(asked for by /usr/lib/libsystem.so.1)" in found.describe()


def test_a_link_to_a_library_that_was_cut(tree: RunTree) -> None:
    tree.link("/apps/dep/lib/libdep.so.1", "libdep.so.1.0")
    tree.program("/apps/app/bin/app", needed=["libdep.so.1"], runpath="/apps/dep/lib")

    assert tree.obstacles() == [
        ("/apps/app/bin/app", "library", "libdep.so.1", True),
        ("/apps/dep/lib/libdep.so.1", "link", "libdep.so.1.0", True),
    ]


def test_a_library_for_another_machine_is_not_taken(tree: RunTree) -> None:
    tree.library("/apps/dep/lib/libdep.so.1", machine=AARCH64)
    tree.program("/apps/app/bin/app", needed=["libdep.so.1"], runpath="/apps/dep/lib")

    (found,) = tree.examined("/apps/app").obstacles

    assert found.kind.value == "library"
    assert found.offered == ("/apps/dep/lib/libdep.so.1 (for aarch64)",)


def test_a_library_for_another_machine_is_passed_over(tree: RunTree) -> None:
    tree.library("/apps/dep/lib/libdep.so.1", machine=I386, bits=32)
    tree.library("/usr/lib/libdep.so.1")
    tree.program("/apps/app/bin/app", needed=["libdep.so.1"], runpath="/apps/dep/lib")

    assert tree.obstacles("/apps/app") == []


def test_what_is_no_library_is_not_passed_over(tree: RunTree) -> None:
    tree.file("/apps/dep/lib/libdep.so.1", "INPUT(libdep.a)\n")
    tree.library("/usr/lib/libdep.so.1")
    tree.program("/apps/app/bin/app", needed=["libdep.so.1"], runpath="/apps/dep/lib")

    (found,) = tree.examined("/apps/app").obstacles

    assert found.offered == ("/apps/dep/lib/libdep.so.1 (no ELF file)",)


def test_a_library_that_is_cut_short(tree: RunTree) -> None:
    tree.library("/apps/dep/lib/libdep.so.1", constants=bytes(5000))
    place = tree.place("/apps/dep/lib/libdep.so.1")
    place.write_bytes(place.read_bytes()[:3000])
    tree.program("/apps/app/bin/app", needed=["libdep.so.1"], runpath="/apps/dep/lib")

    assert tree.obstacles() == [
        ("/apps/app/bin/app", "library", "libdep.so.1", True),
        ("/apps/dep/lib/libdep.so.1", "damaged", "", True),
    ]


def test_a_program_that_is_cut_short(tree: RunTree) -> None:
    tree.program("/apps/app/bin/app", constants=bytes(5000))
    place = tree.place("/apps/app/bin/app")
    place.write_bytes(place.read_bytes()[:3000])

    (found,) = tree.examined().obstacles

    assert (found.kind.value, found.stops) == ("damaged", True)
    assert "would reach to byte" in found.reason


def test_a_library_that_no_program_loads_answers_for_itself(tree: RunTree) -> None:
    tree.library("/apps/python/lib/python3/_fast.so", needed=["libgone.so.1", "libc.so.6"])

    assert tree.obstacles() == [("/apps/python/lib/python3/_fast.so", "library", "libgone.so.1", True)]


def test_a_library_that_a_program_lends_its_path_to_is_not_judged_alone(tree: RunTree) -> None:
    tree.program("/apps/app/bin/app", needed=["libouter.so"], rpath="$ORIGIN/../lib:$ORIGIN/../private")
    tree.library("/apps/app/lib/libouter.so", needed=["libinner.so"])
    tree.library("/apps/app/private/libinner.so")

    assert tree.obstacles() == []


def test_a_runpath_is_lent_to_nobody(tree: RunTree) -> None:
    tree.program("/apps/app/bin/app", needed=["libouter.so"], runpath="$ORIGIN/../lib:$ORIGIN/../private")
    tree.library("/apps/app/lib/libouter.so", needed=["libinner.so"])
    tree.library("/apps/app/private/libinner.so")

    assert tree.obstacles() == [("/apps/app/lib/libouter.so", "library", "libinner.so", True)]


def test_a_plugin_whose_library_its_own_package_has_may_work(tree: RunTree) -> None:
    """As in a JDK: libjava.so needs libjvm.so, which the launcher has loaded before by its path."""
    tree.library("/apps/jdk/lib/libjava.so", needed=["libjvm.so"], runpath="$ORIGIN")
    tree.library("/apps/jdk/lib/server/libjvm.so")

    (found,) = tree.examined().obstacles

    assert (found.path, found.needed, found.stops) == ("/apps/jdk/lib/libjava.so", "libjvm.so", False)
    assert "must have loaded before" in found.reason


def test_a_plugin_for_a_driver_of_other_machines_is_told(tree: RunTree) -> None:
    tree.library("/apps/gpu/lib/libgpu.so", needed=["libcuda.so.1"])

    assert tree.obstacles() == [("/apps/gpu/lib/libgpu.so", "library", "libcuda.so.1", True)]


def test_without_default_directories_the_system_is_not_searched(tree: RunTree) -> None:
    tree.library("/usr/lib/libdep.so.1")
    tree.program("/apps/app/bin/app", needed=["libdep.so.1"], flags=NODEFLIB | PIE)

    assert tree.obstacles() == [("/apps/app/bin/app", "library", "libdep.so.1", True)]


# versions


def test_a_version_that_the_c_library_is_too_old_for(tree: RunTree) -> None:
    tree.program("/apps/app/bin/app", versions=[("libc.so.6", "GLIBC_2.34"), ("libc.so.6", "GLIBC_2.38")])

    (found,) = tree.examined().obstacles

    assert (found.kind.value, found.needed, found.stops) == ("version", "GLIBC_2.38", True)
    assert found.describe() == (
        "/apps/app/bin/app: needs the version GLIBC_2.38 of /lib/x86_64-linux-gnu/libc.so.6, "
        "which defines up to GLIBC_2.36"
    )


def test_a_version_that_a_library_of_the_tree_lacks(tree: RunTree) -> None:
    tree.library("/apps/dep/lib/libdep.so.1", defines=["DEP_1.9", "DEP_1.10"])
    tree.program(
        "/apps/app/bin/app", needed=["libdep.so.1"], runpath="/apps/dep/lib", versions=[("libdep.so.1", "DEP_2.0")]
    )

    (found,) = tree.examined().obstacles

    assert (found.kind.value, found.needed) == ("version", "DEP_2.0")
    assert "defines up to DEP_1.10" in found.reason


def test_a_library_that_no_program_loads_needs_its_versions_too(tree: RunTree) -> None:
    tree.library("/apps/app/lib/plugin.so", needed=["libc.so.6"], versions=[("libc.so.6", "GLIBC_2.99")])

    assert tree.obstacles() == [("/apps/app/lib/plugin.so", "version", "GLIBC_2.99", True)]


def test_a_library_of_the_tree_that_asks_too_much_stops_its_program(tree: RunTree) -> None:
    tree.library("/apps/app/lib/libdep.so.1", needed=["libc.so.6"], versions=[("libc.so.6", "GLIBC_2.99")])
    tree.program("/apps/app/bin/app", needed=["libdep.so.1"], runpath="$ORIGIN/../lib")

    assert tree.obstacles() == [("/apps/app/lib/libdep.so.1", "version", "GLIBC_2.99", True)]
    assert tree.examined().stopped == ("/apps/app/bin/app",)


def test_a_weak_version_may_be_absent(tree: RunTree) -> None:
    tree.program("/apps/app/bin/app", versions=[("libc.so.6", "GLIBC_2.99")], weak=["GLIBC_2.99"])

    assert tree.obstacles() == []


def test_a_library_without_any_versions_serves_all(tree: RunTree) -> None:
    tree.library("/apps/dep/lib/libdep.so.1")
    tree.program(
        "/apps/app/bin/app", needed=["libdep.so.1"], runpath="/apps/dep/lib", versions=[("libdep.so.1", "DEP_2.0")]
    )

    assert tree.obstacles() == []


def test_a_version_of_the_loader_itself(tree: RunTree) -> None:
    tree.file(GLIBC, elf(soname="ld-linux-x86-64.so.2", defines=["GLIBC_2.3"]), mode=0o755)
    needed = ["ld-linux-x86-64.so.2"]
    tree.program("/apps/good/bin/app", needed=needed, versions=[(needed[0], "GLIBC_2.3")])
    tree.program("/apps/wrong/bin/app", needed=needed, versions=[(needed[0], "GLIBC_2.40")])

    assert tree.obstacles() == [("/apps/wrong/bin/app", "version", "GLIBC_2.40", True)]


# musl


def test_musl_takes_any_version_and_is_its_own_c_library(tree: RunTree) -> None:
    tree.file(MUSL, elf(soname="libc.so", constants=b"\0/lib:/usr/local/lib:/usr/lib\0"), mode=0o755)
    tree.library("/usr/local/lib/libdep.so.1", defines=["DEP_1"])
    tree.program(
        "/apps/app/bin/app",
        interpreter=MUSL,
        needed=["libdep.so.1", "libc.musl-x86_64.so.1", "libpthread.so.0"],
        versions=[("libdep.so.1", "DEP_2")],
    )

    assert tree.obstacles() == []


def test_musl_looks_in_no_directory_of_another_c_library(tree: RunTree) -> None:
    tree.file(MUSL, elf(soname="libc.so"), mode=0o755)
    tree.library("/lib/x86_64-linux-gnu/libdep.so.1")
    tree.program("/apps/app/bin/app", interpreter=MUSL, needed=["libdep.so.1"])

    (found,) = tree.examined().obstacles

    assert (found.kind.value, found.looked) == ("library", ("/lib", "/usr/local/lib", "/usr/lib"))


def test_musl_passes_over_no_library_for_another_machine(tree: RunTree) -> None:
    tree.file(MUSL, elf(soname="libc.so"), mode=0o755)
    tree.library("/lib/libdep.so.1", machine=AARCH64)
    tree.library("/usr/lib/libdep.so.1")
    tree.program("/apps/app/bin/app", interpreter=MUSL, needed=["libdep.so.1"])

    assert tree.obstacles() == [("/apps/app/bin/app", "library", "libdep.so.1", True)]


# platform


@pytest.mark.parametrize(("machine", "name"), [(AARCH64, "aarch64"), (21, "ppc64le"), (243, "riscv64")])
def test_a_program_for_another_machine(tree: RunTree, machine: int, name: str) -> None:
    tree.program("/apps/app/bin/app", machine=machine, needed=["libgone.so"])

    (found,) = tree.examined().obstacles

    assert (found.kind.value, found.needed, found.stops) == ("platform", name, True)
    assert found.reason == f"is for Linux on {name}; this is linux on x86_64 (level 2)"
    assert tree.examined().stopped == ("/apps/app/bin/app",)


def test_the_same_program_on_its_machine(tree: RunTree) -> None:
    tree.file("/lib/ld-linux-aarch64.so.1", elf(machine=AARCH64), mode=0o755)
    tree.program("/apps/app/bin/app", machine=AARCH64, interpreter="/lib/ld-linux-aarch64.so.1", needed=[])

    assert tree.obstacles(machine=Machine("linux", "aarch64")) == []


def test_a_plugin_for_another_machine(tree: RunTree) -> None:
    tree.library("/apps/python/lib/python3/_fast.so", machine=AARCH64)

    assert tree.obstacles() == [("/apps/python/lib/python3/_fast.so", "platform", "aarch64", True)]


def test_a_cross_compilers_libraries_are_remarked(tree: RunTree) -> None:
    tree.library("/apps/gcc/aarch64-linux-gnu/lib/libgcc_s.so.1", machine=AARCH64)

    assert tree.obstacles() == [("/apps/gcc/aarch64-linux-gnu/lib/libgcc_s.so.1", "platform", "aarch64", False)]


def test_code_for_other_processors_is_data(tree: RunTree) -> None:
    tree.library("/apps/bpf/lib/filter.o", machine=BPF)

    assert tree.obstacles() == []


def test_a_program_of_32_bits_runs_with_its_own_loader(tree: RunTree) -> None:
    tree.file("/lib/ld-linux.so.2", elf(machine=I386, bits=32), mode=0o755)
    tree.program("/apps/app/bin/app", machine=I386, bits=32, interpreter="/lib/ld-linux.so.2", needed=["libold.so.1"])
    tree.library("/usr/lib/libold.so.1", machine=I386, bits=32)

    assert tree.obstacles() == []


def test_a_program_for_linux_on_a_mac(tree: RunTree) -> None:
    tree.program("/apps/app/bin/app")

    assert tree.obstacles(machine=Machine("darwin", "x86_64")) == [("/apps/app/bin/app", "platform", "x86_64", True)]


# level


@pytest.mark.parametrize(("level", "here", "runs"), [(3, 2, False), (2, 2, True), (4, 3, False), (3, 0, True)])
def test_a_program_for_a_level_of_processors(tree: RunTree, level: int, here: int, runs: bool) -> None:
    tree.program("/apps/app/bin/app", level=level)

    expected = [] if runs else [("/apps/app/bin/app", "level", str(level), True)]
    assert tree.obstacles(machine=Machine("linux", "x86_64", here)) == expected


def test_a_library_for_a_later_processor_stops_its_program(tree: RunTree) -> None:
    tree.library("/usr/lib/libdep.so.1", level=4)
    tree.program("/apps/app/bin/app", needed=["libdep.so.1"])

    (found,) = tree.examined().obstacles

    assert (found.kind.value, found.offered) == ("library", ("/usr/lib/libdep.so.1 (for level 4 of x86-64)",))


def test_libraries_for_later_processors_beside_one_for_all(tree: RunTree) -> None:
    tree.library("/apps/dep/lib/libdep.so.1")
    tree.library("/apps/dep/lib/glibc-hwcaps/x86-64-v3/libdep.so.1", level=3)
    tree.program("/apps/app/bin/app", needed=["libdep.so.1"], runpath="/apps/dep/lib")

    assert [stops for *_, stops in tree.obstacles()] == [False]
    assert tree.examined().runs


def test_the_best_library_for_this_processor_is_taken(tree: RunTree) -> None:
    tree.library("/apps/dep/lib/libdep.so.1")
    tree.library("/apps/dep/lib/glibc-hwcaps/x86-64-v2/libdep.so.1", needed=["libgone.so"])
    tree.program("/apps/app/bin/app", needed=["libdep.so.1"], runpath="/apps/dep/lib")

    better = "/apps/dep/lib/glibc-hwcaps/x86-64-v2/libdep.so.1"
    assert tree.obstacles() == [(better, "library", "libgone.so", True)]
    assert tree.examined(machine=Machine("linux", "x86_64", 1)).stopped == ()
    assert HERE.library_folders == ("x86-64-v2",)


def test_files_of_debug_information_and_object_files_are_not_judged(tree: RunTree) -> None:
    tree.file("/apps/app/lib/crt1.o", elf(kind=elf_files.ET_REL, needed=["libgone.so"]))

    assert tree.obstacles() == []


def test_a_file_with_two_names_is_told_once(tree: RunTree) -> None:
    tree.program("/apps/app/bin/app", needed=["libgone.so"])
    tree.place("/apps/app/bin/twin").hardlink_to(tree.place("/apps/app/bin/app"))

    assert tree.obstacles() == [("/apps/app/bin/app", "library", "libgone.so", True)]


def test_a_file_that_asks_for_too_much_is_damaged(tree: RunTree) -> None:
    """What a stranger's file asks for is bounded, whatever it costs to ask for it."""
    rpath = ":".join(f"/d{n}" for n in range(300))
    tree.library("/apps/one/lib/liba.so", needed=[f"lib{n}.so" for n in range(400)], rpath=rpath)

    (found,) = tree.examined().obstacles

    assert (found.kind.value, found.stops) == ("damaged", True)
    assert "400 libraries in 300 directories" in found.reason


def test_files_that_together_ask_for_too_much_end_the_search(tree: RunTree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oci_binpkg.runs.examine._LOOKS", 0)
    monkeypatch.setattr("oci_binpkg.runs.examine._LOOKS_PER_FILE", 50)
    rpath = ":".join(f"/d{n}" for n in range(30))
    for name in ("one", "two"):
        tree.program(f"/apps/{name}/bin/app", needed=["liba.so", "libb.so"], rpath=rpath)

    found = [one for one in tree.examined().obstacles if one.kind.value == "damaged"]

    assert [(one.path, one.reason) for one in found] == [
        ("/apps/two/bin/app", "libraries are looked for in more than 100 places")
    ]
