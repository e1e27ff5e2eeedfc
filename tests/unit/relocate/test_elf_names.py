"""Every name of an ELF file that the loader compares or opens: libraries, versions, filters, auditors."""

from __future__ import annotations

import pytest

from oci_binpkg.relocate.elf import relocate_elf, remaining_in_elf
from oci_binpkg.relocate.prefixes import PrefixMap
from tests.support import elf_files as elf
from tests.support.elf_files import ElfFile, load

OLD = b"/opt/old/tree"
ROOTS = [b"/srv/x", b"/srv/x/ytree", b"/srv/much/longer/than/the/old/one"]
each_root = pytest.mark.parametrize("new", ROOTS)
each_class = pytest.mark.parametrize(("bits", "order"), [(64, "<"), (64, ">"), (32, "<"), (32, ">")])


def moved_to(new: bytes, data: bytes) -> bytes:
    mapping = PrefixMap.of({OLD.decode(): new.decode()})
    edited = relocate_elf(data, mapping)
    assert edited.findings == ()
    moved = edited.apply(data)
    assert list(remaining_in_elf(moved, mapping)) == []
    return moved


@each_class
@each_root
def test_a_version_is_needed_from_the_file_that_is_needed(new: bytes, bits: int, order: str) -> None:
    """The loader compares `vn_file` with the name under which it loaded the library."""
    data = ElfFile(
        bits,
        order,
        names=[(elf.NEEDED, OLD + b"/lib/libd.so"), (elf.NEEDED, b"libc.so.6")],
        versions=[(OLD + b"/lib/libd.so", b"V1"), (b"libc.so.6", b"GLIBC_2.17")],
    ).build()

    moved = load(moved_to(new, data))

    assert moved.texts(elf.NEEDED) == [new + b"/lib/libd.so", b"libc.so.6"]
    assert moved.needed == (new + b"/lib/libd.so", b"libc.so.6")


@each_class
@each_root
def test_the_base_definition_is_the_soname_and_has_its_hash(new: bytes, bits: int, order: str) -> None:
    name = OLD + b"/lib/libd.so.1"
    data = ElfFile(bits, order, names=[(elf.SONAME, name)], defined=[name, b"V1"]).build()
    before = load(data).defined

    moved = load(moved_to(new, data))

    assert moved.texts(elf.SONAME) == [new + b"/lib/libd.so.1"]
    assert moved.defined == ((sysv_hash(new + b"/lib/libd.so.1"), new + b"/lib/libd.so.1"), before[1])


@each_root
def test_a_base_definition_without_a_soname_is_the_name_the_linker_was_given(new: bytes) -> None:
    """As gold has it; nothing in the dynamic section names this path."""
    data = ElfFile(defined=[OLD + b"/lib/libx.so", b"V1"], names=[(elf.NEEDED, b"libm.so.6")]).build()

    assert load(moved_to(new, data)).defined[0][1] == new + b"/lib/libx.so"


@each_root
@pytest.mark.parametrize("tag", [elf.FILTER, elf.AUXILIARY, elf.CONFIG])
def test_libraries_that_stand_in_for_others(new: bytes, tag: int) -> None:
    data = ElfFile(names=[(tag, OLD + b"/lib/libreal.so"), (elf.SONAME, b"libstub.so")]).build()

    moved = load(moved_to(new, data))

    assert moved.texts(tag) == [new + b"/lib/libreal.so"]
    assert moved.texts(elf.SONAME) == [b"libstub.so"]


@each_root
@pytest.mark.parametrize("tag", [elf.AUDIT, elf.DEPAUDIT])
def test_lists_of_auditors(new: bytes, tag: int) -> None:
    data = ElfFile(names=[(tag, OLD + b"/lib/a.so:/usr/lib/b.so:" + OLD + b"/lib/c.so")]).build()

    assert load(moved_to(new, data)).texts(tag) == [new + b"/lib/a.so:/usr/lib/b.so:" + new + b"/lib/c.so"]


def test_a_path_that_is_a_symbol_as_well_keeps_the_symbol() -> None:
    """A string that a symbol shares with a version stays for the symbol; the version gets a string of its own."""
    name = OLD + b"/lib/libd.so"
    data = ElfFile(names=[(elf.NEEDED, name)], versions=[(name, b"V1")], symbols=[name]).build()
    mapping = PrefixMap.of({OLD.decode(): "/srv/x"})

    moved = load(relocate_elf(data, mapping).apply(data))

    assert moved.texts(elf.NEEDED) == [b"/srv/x/lib/libd.so"]
    assert moved.needed == (b"/srv/x/lib/libd.so",)
    assert moved.symbols == load(data).symbols


def sysv_hash(name: bytes) -> int:
    """The hash of the gABI, as the specification prints it."""
    value = 0
    for character in name:
        value = ((value << 4) + character) & 0xFFFFFFFFF
        if high := value & 0xF0000000:
            value ^= high >> 24
        value &= ~high & 0xFFFFFFFF
    return value
