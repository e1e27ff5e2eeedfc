"""Mach-O files, by dyld's rules."""

from __future__ import annotations

from pathlib import Path

import pytest

from oci_binpkg.errors import ContentError
from oci_binpkg.runs.dylibs import read_mach
from oci_binpkg.runs.machine import Machine
from tests.support.macho_files import (
    ARM64,
    EXECUTE,
    ID,
    LOAD,
    RPATH,
    WEAK,
    X86_64,
    Shape,
    build,
    build_fat,
    fixture,
)
from tests.support.run_trees import RunTree

MAC = Machine("darwin", "aarch64")
INTEL = Machine("darwin", "x86_64")


@pytest.fixture
def tree(tmp_path: Path) -> RunTree:
    return RunTree.at(tmp_path)


def program(*paths: tuple[int, str], cpu: int = ARM64) -> bytes:
    return build(paths, Shape(file_type=EXECUTE, cpu=cpu))


def library(*paths: tuple[int, str], cpu: int = ARM64) -> bytes:
    return build(paths, Shape(cpu=cpu))


def test_a_file_for_macos_does_not_run_here(tree: RunTree) -> None:
    tree.file("/apps/app/bin/app", program(), mode=0o755)

    (found,) = tree.examined().obstacles

    assert (found.kind.value, found.stops) == ("platform", True)
    assert found.reason == "is for macOS on aarch64; this is linux on x86_64 (level 2)"


@pytest.mark.parametrize("name", ["libxau/libXau-arm64.dylib", "markupsafe/speedups-universal2.so", "made/greet"])
def test_real_files_for_macos_do_not_run_here(tree: RunTree, name: str) -> None:
    tree.file("/apps/app/lib/x", fixture(name))

    assert [kind for _, kind, *_ in tree.obstacles()] == ["platform"]


def test_a_file_for_macos_among_programs_of_this_machine_is_data(tree: RunTree) -> None:
    tree.file("/apps/app/lib/vendored.dylib", library())
    tree.program("/apps/app/bin/app")
    tree.file("/apps/mac/lib/only.dylib", library())

    assert [(path, stops) for path, _, _, stops in tree.obstacles()] == [
        ("/apps/app/lib/vendored.dylib", False),
        ("/apps/mac/lib/only.dylib", True),
    ]


def test_what_a_program_loads_is_there(tree: RunTree) -> None:
    tree.file("/apps/app/lib/libown.dylib", library((ID, "@rpath/libown.dylib"), (LOAD, "@loader_path/libnext.dylib")))
    tree.file("/apps/app/lib/libnext.dylib", library())
    tree.file("/apps/dep/lib/libdep.dylib", library())
    tree.file(
        "/apps/app/bin/app",
        program(
            (LOAD, "@rpath/libown.dylib"),
            (LOAD, "@executable_path/../lib/libnext.dylib"),
            (LOAD, "/apps/dep/lib/libdep.dylib"),
            (LOAD, "/usr/lib/libSystem.B.dylib"),
            (LOAD, "/System/Library/Frameworks/CoreFoundation.framework/Versions/A/CoreFoundation"),
            (WEAK, "/apps/gone/libweak.dylib"),
            (RPATH, "@loader_path/../lib"),
        ),
        mode=0o755,
    )

    assert tree.obstacles(machine=MAC) == []


def test_a_library_that_is_not_there(tree: RunTree) -> None:
    tree.file("/apps/app/bin/app", program((LOAD, "@rpath/libgone.dylib"), (RPATH, "/apps/a"), (RPATH, "/apps/b")))

    (found,) = tree.examined("/apps/app", machine=MAC).obstacles

    assert (found.kind.value, found.needed) == ("library", "@rpath/libgone.dylib")
    assert found.looked == ("/apps/a/libgone.dylib", "/apps/b/libgone.dylib")


def test_the_search_path_of_a_program_serves_its_libraries(tree: RunTree) -> None:
    tree.file("/apps/app/lib/libouter.dylib", library((LOAD, "@rpath/libinner.dylib")))
    tree.file("/apps/app/private/libinner.dylib", library())
    loads = (LOAD, "/apps/app/lib/libouter.dylib")
    tree.file("/apps/app/bin/app", program(loads, (RPATH, "@executable_path/../private")))

    assert tree.obstacles("/apps/app/bin", machine=MAC) == []


def test_a_library_that_a_library_lacks(tree: RunTree) -> None:
    tree.file("/lib/libouter.dylib", library((LOAD, "/apps/gone.dylib")))
    tree.file("/apps/app/bin/app", program((LOAD, "/lib/libouter.dylib")))

    (found,) = tree.examined(machine=MAC).obstacles

    assert (found.path, found.needed, found.by) == ("/apps/app/bin/app", "/apps/gone.dylib", "/lib/libouter.dylib")


def test_a_library_for_another_processor_is_not_taken(tree: RunTree) -> None:
    tree.file("/lib/libx.dylib", library(cpu=X86_64))
    tree.file("/apps/app/bin/app", program((LOAD, "/lib/libx.dylib")))

    assert tree.obstacles(machine=MAC) == [("/apps/app/bin/app", "library", "/lib/libx.dylib", True)]


def test_a_universal_file_fits_all_its_processors(tree: RunTree) -> None:
    slices = [(X86_64, program(cpu=X86_64)), (ARM64, program((LOAD, "/apps/gone.dylib")))]
    tree.file("/apps/app/bin/app", build_fat(slices))

    assert tree.obstacles(machine=INTEL) == []
    assert tree.obstacles(machine=MAC) == [("/apps/app/bin/app", "library", "/apps/gone.dylib", True)]
    assert tree.obstacles(machine=Machine("darwin", "ppc"))[0][1] == "platform"


def test_a_file_that_is_cut_short(tree: RunTree) -> None:
    tree.file("/apps/app/bin/app", program((LOAD, "/apps/gone.dylib"))[:60])

    assert [kind for _, kind, *_ in tree.obstacles(machine=MAC)] == ["damaged"]


def test_a_java_class_is_no_universal_file(tree: RunTree) -> None:
    tree.file("/apps/app/lib/Main.class", b"\xca\xfe\xba\xbe\0\0\0\x3d" + bytes(100))

    assert tree.obstacles(machine=MAC) == []


def test_a_real_universal_file() -> None:
    facts = read_mach(fixture("markupsafe/speedups-universal2.so"))

    assert [each.architecture for each in facts] == ["x86_64", "aarch64"]
    assert facts[0].needed == ("/usr/lib/libSystem.B.dylib",)
    assert not facts[0].is_program


@pytest.mark.parametrize("size", [4, 20, 40, 100])
def test_damage_is_an_error(size: int) -> None:
    with pytest.raises(ContentError):
        read_mach(fixture("libxau/libXau-arm64.dylib")[:size])
