"""What a loader reads of an ELF file, of every class and byte order; damage is an error, never nonsense."""

from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given
from hypothesis import strategies as st

from oci_binpkg.errors import ContentError
from oci_binpkg.runs.elf_facts import ElfFacts, ElfRole, VersionNeed, read_facts
from tests.support import elf_files, golden
from tests.support.elf_files import ElfFile
from tests.support.run_trees import FLAGS_1, PIE, elf


def facts_of(data: bytes) -> ElfFacts:
    return read_facts(lambda offset, size: data[offset : offset + size], len(data))


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("sections", [True, False])
def test_all_classes_and_byte_orders(bits: int, order: str, sections: bool) -> None:
    data = ElfFile(
        bits=bits,
        order=order,
        sections=sections,
        interpreter=b"/lib/ld.so",
        names=[
            (elf_files.NEEDED, b"libone.so"),
            (elf_files.NEEDED, b"libtwo.so"),
            (elf_files.RUNPATH, b"/a:$ORIGIN/b"),
        ],
        versions=[(b"libone.so", b"ONE_1"), (b"libtwo.so", b"TWO_2")],
        weak=[b"TWO_2"],
        defined=[b"MINE_1", b"MINE_2"],
        base=0x10000,
    ).build()

    assert facts_of(data) == ElfFacts(
        ElfRole.PROGRAM,
        {(64, "<"): "aarch64", (64, ">"): "s390x", (32, "<"): "arm", (32, ">"): "mips"}[bits, order],
        bits,
        "/lib/ld.so",
        ("libone.so", "libtwo.so"),
        "",
        (),
        ("/a", "$ORIGIN/b"),
        no_default=False,
        versions_needed=(VersionNeed("libone.so", "ONE_1"), VersionNeed("libtwo.so", "TWO_2", weak=True)),
        versions_defined=frozenset({"MINE_1", "MINE_2"}),
    )


def test_an_rpath_is_ignored_beside_a_runpath() -> None:
    assert facts_of(elf(rpath="/old")).rpath == ("/old",)
    both = facts_of(elf(rpath="/old", runpath="/new"))
    assert (both.rpath, both.runpath) == ((), ("/new",))


@pytest.mark.parametrize(
    ("data", "role"),
    [
        (elf(interpreter="/lib/ld.so"), ElfRole.PROGRAM),
        (elf(kind=elf_files.ET_EXEC), ElfRole.PROGRAM),
        (elf(flags=PIE), ElfRole.PROGRAM),
        (elf(), ElfRole.LIBRARY),
        (elf(interpreter="/lib/ld.so", soname="libc.so.6"), ElfRole.LIBRARY),
        (elf(kind=elf_files.ET_REL), ElfRole.OTHER),
    ],
    ids=["interpreter", "fixed address", "static pie", "library", "library that can be started", "object file"],
)
def test_what_a_file_is_for(data: bytes, role: ElfRole) -> None:
    assert facts_of(data).role is role


def test_a_filter_needs_what_it_filters() -> None:
    data = ElfFile(names=[(elf_files.NEEDED, b"liba.so"), (0x7FFFFFFF, b"libf.so")], machine=62).build()
    assert facts_of(data).needed == ("liba.so", "libf.so")


@pytest.mark.parametrize("level", [0, 1, 2, 3, 4])
def test_the_level_of_x86_64(level: int) -> None:
    assert facts_of(elf(level=level)).level == level


def test_other_properties_before_the_level() -> None:
    shadow_stack = struct.pack("<IIII", 0xC0000002, 4, 3, 0)
    level = struct.pack("<IIII", 0xC0008002, 4, 0b111, 0)
    data = ElfFile(machine=62, spare=[elf_files.PT_GNU_PROPERTY], note=shadow_stack + level).build()
    assert facts_of(data).level == 3


def test_files_of_debug_information_have_headers_alone() -> None:
    data = bytearray(elf(needed=["libc.so.6"]))
    shoff, count = struct.unpack_from("<Q", data, 40)[0], struct.unpack_from("<H", data, 60)[0]
    (dynamic,) = (n for n in range(count) if struct.unpack_from("<I", data, shoff + 64 * n + 4)[0] == 6)
    struct.pack_into("<I", data, shoff + 64 * dynamic + 4, 8)  # SHT_NOBITS

    assert facts_of(bytes(data)).role is ElfRole.OTHER


def test_a_name_far_down_a_long_table() -> None:
    data = ElfFile(names=[(elf_files.SONAME, b"libx.so")], symbols=[b"s" * 300_000], machine=62).build()
    late = ElfFile(symbols=[b"s" * 300_000], machine=62)
    late.intern(b"t" * 300_000)
    late.names = [(elf_files.SONAME, b"liblate.so")]

    assert facts_of(data).soname == "libx.so"
    assert facts_of(late.build()).soname == "liblate.so"


@pytest.mark.parametrize("size", [0, 4, 15, 40, 63])
def test_a_file_that_ends_within_its_header(size: int) -> None:
    with pytest.raises(ContentError):
        facts_of(elf()[:size])


def test_a_segment_that_reaches_beyond_the_end() -> None:
    data = elf(constants=bytes(4096))
    with pytest.raises(ContentError, match="would reach to byte"):
        facts_of(data[: len(data) - 4096])


def test_a_table_of_names_that_is_nowhere() -> None:
    data = ElfFile(names=[(elf_files.NEEDED, b"liba.so")], machine=62, numbers=[]).build()
    at = data.index(struct.pack("<qQ", elf_files.STRSZ, 1 + len(b"liba.so\0") + len(b"main\0")))
    broken = data[:at] + struct.pack("<qQ", elf_files.STRSZ, 1) + data[at + 16 :]
    with pytest.raises(ContentError, match="outside the dynamic string table"):
        facts_of(broken)


def test_names_without_end() -> None:
    needed = [(elf_files.NEEDED, b"x" * 50_000)] * 40
    with pytest.raises(ContentError, match="bytes of names"):
        facts_of(ElfFile(machine=62, names=needed).build())


def test_flags_do_not_stand_for_other_flags() -> None:
    assert not facts_of(ElfFile(machine=62, numbers=[(FLAGS_1, 1)]).build()).no_default
    assert facts_of(ElfFile(machine=62, numbers=[(FLAGS_1, 0x801)]).build()).no_default


@given(st.data())
def test_damage_is_an_error_or_harmless(data: st.DataObject) -> None:
    whole = bytearray(elf(interpreter="/lib/ld.so", needed=["liba.so"], versions=[("liba.so", "A_1")], defines=["B_1"]))
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(4, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = whole[: data.draw(st.integers(0, len(whole)))]
    with suppress(ContentError):
        assert isinstance(facts_of(bytes(cut)), ElfFacts)


def test_real_files_are_read_as_pyelftools_reads_them(tmp_path: Path) -> None:
    store, read = golden.unpack_store(tmp_path), 0
    for path in sorted(store.rglob("*")):
        if path.is_symlink() or not path.is_file() or path.read_bytes()[:4] != b"\x7fELF":
            continue
        with path.open("rb") as file:
            dynamic: Any = ELFFile(file).get_section_by_name(".dynamic")
            tags = list(dynamic.iter_tags()) if dynamic else []
            needed = tuple(tag.needed for tag in tags if tag.entry.d_tag == "DT_NEEDED")
            versions = ELFFile(file).get_section_by_name(".gnu.version_r")
            wanted = (
                {(need.name, auxiliary.name) for need, several in versions.iter_versions() for auxiliary in several}  # type: ignore[attr-defined]
                if versions
                else set()
            )
        found = facts_of(path.read_bytes())
        assert found.needed == needed, path
        assert {(need.file, need.version) for need in found.versions_needed} == wanted, path
        read += 1
    assert read >= 2
