"""Paths that start at their file and lead into another prefix, whose name changes as packages move."""

from __future__ import annotations

from pathlib import Path

import pytest

from oci_binpkg.relocate.elf import relocate_elf, remaining_in_elf
from oci_binpkg.relocate.macho import relocate_macho
from oci_binpkg.relocate.origins import FileOrigin
from oci_binpkg.relocate.prefixes import PrefixMap
from oci_binpkg.relocate.tree import relocate_tree
from tests.support import elf_files as elf
from tests.support.elf_files import ElfFile, load
from tests.support.macho_files import LOAD, RPATH, X86_64, Shape, build, build_fat, paths_in, slices_of

OLD_APP, NEW_APP = "/src/app", "/apps/linux-x86_64/app-1-abc"
MOVED = PrefixMap.of({OLD_APP: NEW_APP, "/src/dep": "/apps/linux-x86_64/dep-2-xyz"})
BIN = FileOrigin(b"/src/app/bin", b"/apps/linux-x86_64/app-1-abc/bin")
EXECUTABLE = 2


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"$ORIGIN/../../dep/lib", b"$ORIGIN/../../dep-2-xyz/lib"),
        (b"${ORIGIN}/../../dep/lib", b"${ORIGIN}/../../dep-2-xyz/lib"),
        (b"$ORIGIN/../../dep/lib:$ORIGIN/../lib", b"$ORIGIN/../../dep-2-xyz/lib:$ORIGIN/../lib"),
        (b"$ORIGIN/..//./../dep", b"$ORIGIN/../../dep-2-xyz"),
        (b"$ORIGIN/../../dep/lib:/src/dep/lib64", b"$ORIGIN/../../dep-2-xyz/lib:/apps/linux-x86_64/dep-2-xyz/lib64"),
    ],
)
@pytest.mark.parametrize("tag", [elf.RPATH, elf.RUNPATH, elf.AUDIT])
def test_search_paths_follow_what_they_lead_to(old: bytes, new: bytes, tag: int) -> None:
    data = ElfFile(names=[(tag, old)]).build()

    moved = relocate_elf(data, MOVED, BIN).apply(data)

    assert load(moved).texts(tag) == [new]
    assert list(remaining_in_elf(moved, MOVED)) == []


@pytest.mark.parametrize(
    "path", [b"$ORIGIN", b"$ORIGIN/", b"$ORIGIN/../lib", b"$LIB/x", b"../../dep/lib", b"$ORIGINAL/../../dep"]
)
def test_paths_within_the_package_stay(path: bytes) -> None:
    data = ElfFile(names=[(elf.RUNPATH, path)]).build()

    assert relocate_elf(data, MOVED, BIN).patches == ()


def test_without_a_place_relative_paths_stay() -> None:
    data = ElfFile(names=[(elf.RUNPATH, b"$ORIGIN/../../dep/lib")]).build()

    assert relocate_elf(data, MOVED).patches == ()


def test_a_library_that_is_needed_by_a_relative_path_keeps_its_versions() -> None:
    name = b"$ORIGIN/../../dep/lib/libd.so"
    data = ElfFile(names=[(elf.NEEDED, name)], versions=[(name, b"V1")]).build()

    moved = load(relocate_elf(data, MOVED, BIN).apply(data))

    assert moved.texts(elf.NEEDED) == [b"$ORIGIN/../../dep-2-xyz/lib/libd.so"]
    assert list(moved.needed) == moved.texts(elf.NEEDED)


@pytest.mark.parametrize("token", ["@loader_path", "@executable_path"])
def test_programs_of_macos(token: str, tmp_path: Path) -> None:
    paths = [(LOAD, f"{token}/../../dep/lib/libd.dylib"), (RPATH, f"{token}/../../dep/lib"), (RPATH, f"{token}/../lib")]
    data = build(paths, Shape(cpu=X86_64, file_type=EXECUTABLE))
    both = build_fat([(X86_64, data)])

    for moved in (relocate_macho(data, MOVED, BIN).data, *slices_of(relocate_macho(both, MOVED, BIN).data)):
        assert [path for _, path in paths_in(moved, tmp_path)] == [
            f"{token}/../../dep-2-xyz/lib/libd.dylib",
            f"{token}/../../dep-2-xyz/lib",
            f"{token}/../lib",
        ]


def test_the_program_that_loads_a_library_of_macos_is_unknown() -> None:
    data = build([(LOAD, "@executable_path/../../dep/lib/libd.dylib")], Shape(cpu=X86_64))

    assert not relocate_macho(data, MOVED, BIN).changed


@pytest.mark.parametrize("place", ["bin", "libexec/deep/er", ""])
def test_files_that_mention_no_prefix_are_changed_too(tmp_path: Path, place: str) -> None:
    up = "/".join([".."] * (len(place.split("/")) + 1 if place else 1))
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    file = tmp_path / place / "a"
    file.write_bytes(ElfFile(names=[(elf.RUNPATH, f"$ORIGIN/{up}/dep/lib".encode())]).build())
    name = f"{place}/a".lstrip("/")

    report = relocate_tree(
        str(tmp_path), MOVED, binaries=[name], clean={name}, old_prefix=OLD_APP, final_prefix=NEW_APP, root="/apps"
    )

    assert report.changed == (name,)
    assert load(file.read_bytes()).texts(elf.RUNPATH) == [f"$ORIGIN/{up}/dep-2-xyz/lib".encode()]


def test_trees_of_the_same_shape_change_nothing(tmp_path: Path) -> None:
    content = ElfFile(names=[(elf.RUNPATH, b"$ORIGIN/../../dep-2-xyz/lib")]).build()
    (tmp_path / "a").write_bytes(content)
    mapping = PrefixMap.of({"/old/app-1-abc": "/new/app-1-abc", "/old/dep-2-xyz": "/new/dep-2-xyz"})

    report = relocate_tree(
        str(tmp_path), mapping, binaries=["a"], old_prefix="/old/app-1-abc", final_prefix="/new/app-1-abc", root="/new"
    )

    assert report.changed == ()
    assert (tmp_path / "a").read_bytes() == content
