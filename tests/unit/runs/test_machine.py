"""Machines: names of architectures, levels of x86-64."""

from __future__ import annotations

import pytest

from oci_binpkg.runs.machine import Machine, elf_architecture, this_machine, x86_64_level

LEVEL_2 = {"cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3", "fpu", "sse2"}
LEVEL_3 = LEVEL_2 | {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave", "abm"}


@pytest.mark.parametrize(
    ("flags", "level"),
    [
        (set(), 1),
        (LEVEL_2, 2),
        (LEVEL_2 - {"popcnt"}, 1),
        (LEVEL_3, 3),
        (LEVEL_3 - {"ssse3"}, 1),
        (LEVEL_3 | {"avx512f"}, 3),
        (LEVEL_3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}, 4),
    ],
)
def test_the_level_of_a_processor(flags: set[str], level: int) -> None:
    assert x86_64_level(frozenset(flags)) == level


@pytest.mark.parametrize(
    ("machine", "bits", "little", "name"),
    [
        (62, 64, True, "x86_64"),
        (62, 32, True, "x32"),
        (3, 32, True, "i386"),
        (183, 64, True, "aarch64"),
        (21, 64, True, "ppc64le"),
        (21, 64, False, "ppc64"),
        (8, 64, True, "mips64el"),
        (8, 64, False, "mips64"),
        (8, 32, True, "mipsel"),
        (22, 64, False, "s390x"),
        (243, 64, True, "riscv64"),
        (258, 64, True, "loongarch64"),
        (247, 64, True, ""),
        (224, 64, True, ""),
    ],
)
def test_names_of_architectures(machine: int, bits: int, little: bool, name: str) -> None:
    assert elf_architecture(machine, bits, little_endian=little) == name


@pytest.mark.parametrize(
    ("here", "other", "runs"),
    [
        ("x86_64", "x86_64", True),
        ("x86_64", "i386", True),
        ("x86_64", "x32", False),
        ("i386", "x86_64", False),
        ("aarch64", "arm", True),
        ("ppc64le", "ppc64", False),
        ("riscv64", "aarch64", False),
    ],
)
def test_what_a_processor_executes(here: str, other: str, runs: bool) -> None:
    assert Machine("linux", here).runs(other) is runs


def test_the_folders_that_glibc_prefers() -> None:
    assert Machine("linux", "x86_64", 3).library_folders == ("x86-64-v3", "x86-64-v2")
    assert Machine("linux", "x86_64", 1).library_folders == ()
    assert Machine("linux", "aarch64", 0).library_folders == ()


def test_this_machine_runs_its_own_programs() -> None:
    here = this_machine()
    assert here.runs(here.architecture)
    assert here.system in {"linux", "darwin"}
    assert (here.level > 0) is (here.architecture == "x86_64" and here.system == "linux")
