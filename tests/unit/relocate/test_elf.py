"""ELF files of both classes and byte orders: interpreter, search paths, names and constants."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

import pytest

from oci_binpkg.errors import ContentError
from oci_binpkg.relocate.elf import relocate_elf, remaining_in_elf
from oci_binpkg.relocate.prefixes import PrefixMap, mapping_for
from tests.support import elf_files as elf
from tests.support.elf_files import ElfFile, load

OLD, NEW = b"/opt/old/tree", b"/srv/a/longer/place/for/the/tree"
MOVED = PrefixMap.of({OLD.decode(): NEW.decode()})
BACK = PrefixMap.of({NEW.decode(): OLD.decode()})
FORMS = [(64, "<"), (64, ">"), (32, "<"), (32, ">")]
forms = pytest.mark.parametrize(("bits", "order"), FORMS)


def relocated(data: bytes, mapping: PrefixMap) -> bytes:
    edited = relocate_elf(data, mapping)
    assert not edited.stale
    result = edited.apply(data)
    assert list(remaining_in_elf(result, mapping)) == []
    return result


def sample(bits: int, order: str, prefix: bytes = OLD, **more: object) -> ElfFile:
    given = {
        "interpreter": prefix + b"/lib/ld.so",
        "names": [
            (elf.NEEDED, b"libc.so.6"),
            (elf.NEEDED, prefix + b"/lib/libabs.so"),
            (elf.SONAME, prefix + b"/lib/libself.so"),
            (elf.RPATH, prefix + b"/lib:$ORIGIN/../lib:/usr/lib:" + prefix),
            (elf.RUNPATH, b"/stage" + prefix + b":" + prefix + b"2/lib:" + prefix + b"/lib64"),
            (elf.AUDIT, prefix + b"/audit.so"),
        ],
        "symbols": [b"main", b"puts", b"libself.so", b"lib"],
        "versions": [(b"libc.so.6", b"GLIBC_2.2.5"), (b"libm.so.6", b"GLIBC_2.29")],
        "defined": [b"libself.so", b"V_1"],
    } | more
    return ElfFile(bits, order, **given)  # type: ignore[arg-type]


def expect_moved(data: bytes, prefix: bytes) -> None:
    seen = load(data)
    assert seen.interpreter == prefix + b"/lib/ld.so"
    assert seen.texts(elf.NEEDED) == [b"libc.so.6", prefix + b"/lib/libabs.so"]
    assert seen.texts(elf.SONAME) == [prefix + b"/lib/libself.so"]
    assert seen.texts(elf.RPATH) == [prefix + b"/lib:$ORIGIN/../lib:/usr/lib:" + prefix]
    assert seen.texts(elf.RUNPATH) == [b"/stage" + OLD + b":" + OLD + b"2/lib:" + prefix + b"/lib64"]
    assert seen.texts(elf.AUDIT) == [prefix + b"/audit.so"]
    assert seen.symbols == (b"", b"main", b"puts", b"libself.so", b"lib")


@forms
@pytest.mark.parametrize("kind", [elf.ET_DYN, elf.ET_EXEC])
@pytest.mark.parametrize("sections", [True, False])
def test_a_longer_prefix_makes_the_file_longer(bits: int, order: str, kind: int, sections: bool) -> None:
    data = sample(bits, order, kind=kind, sections=sections, base=0x10000 if kind == elf.ET_EXEC else 0).build()

    moved = relocated(data, MOVED)

    expect_moved(moved, NEW)
    assert len(moved) > len(data)
    if sections:
        texts = [content for kind, _, content in load(moved).sections if kind == 3]
        assert any(NEW + b"/lib64" in content for content in texts)
        assert any(content == NEW + b"/lib/ld.so\0" for kind, _, content in load(moved).sections if kind == 1)


@forms
def test_the_same_length_changes_nothing_else(bits: int, order: str) -> None:
    same = PrefixMap.of({OLD.decode(): "/srv/new/tree"})
    data = sample(bits, order, constants=b"\0" + OLD + b"/share\0").build()

    edited = relocate_elf(data, same)
    moved = edited.apply(data)

    assert len(moved) == len(data)
    expect_moved(moved, b"/srv/new/tree")
    assert relocated(moved, PrefixMap.of({"/srv/new/tree": OLD.decode()})) == data


@forms
def test_a_shorter_prefix_stays_in_place_and_comes_back(bits: int, order: str) -> None:
    data = sample(bits, order, NEW, symbols=[b"main"], defined=(), constants=b"\0" + NEW + b"/share\0").build()

    moved = relocated(data, BACK)

    assert len(moved) == len(data)
    seen = load(moved)
    assert seen.interpreter == OLD + b"/lib/ld.so"
    assert seen.texts(elf.RPATH) == [OLD + b"/lib:$ORIGIN/../lib:/usr/lib:" + OLD]
    assert b"\0" + b"/" * (len(NEW) - len(OLD)) + OLD + b"/share\0" in moved
    assert relocated(moved, MOVED) == data


@forms
def test_a_name_that_symbols_share_is_not_cut(bits: int, order: str) -> None:
    """`lib` is stored as the end of the search path: shortening that in place would rename the symbol."""
    data = ElfFile(bits, order, names=[(elf.RUNPATH, NEW + b"/lib")], symbols=[b"lib"]).build()

    moved = relocated(data, BACK)

    assert load(moved).texts(elf.RUNPATH) == [OLD + b"/lib"]
    assert load(moved).symbols == (b"", b"lib")
    assert NEW not in moved


def test_a_path_that_is_the_end_of_another_name() -> None:
    file = ElfFile(names=[(elf.NEEDED, b"x" + NEW), (elf.RPATH, NEW)])
    moved = relocated(file.build(), BACK.__class__(BACK.pairs))

    assert load(moved).texts(elf.NEEDED) == [b"x" + NEW]
    assert load(moved).texts(elf.RPATH) == [OLD]


def test_an_empty_name_behind_a_path_stays_empty() -> None:
    """The NULs behind a path are room for it only as far as nobody's empty name is there."""
    file = ElfFile(names=[(elf.RPATH, OLD)], symbols=[b"a"])
    file.table += OLD + bytes(40)
    file.symbols = [b"a"]
    data = bytearray(file.build())
    assert relocate_elf(bytes(data), MOVED).apply(bytes(data)).count(NEW) == 1
    at = data.find(OLD)
    assert len(relocated(bytes(data), MOVED)) == len(data)
    # now a second symbol whose name is the NUL ten bytes behind the path
    start = load(bytes(data))
    table = bytes(data).find(OLD) - 1
    symbol = struct.pack("<I", at - table + len(OLD) + 10)
    place = bytes(data).find(struct.pack("<IBBHQQ", file.table.find(b"a\0"), 0x12, 0, 1, 0, 0))
    data[place : place + 4] = symbol
    moved = relocated(bytes(data), MOVED)
    assert start.texts(elf.RPATH) == [OLD]
    assert load(moved).texts(elf.RPATH) == [NEW]
    assert load(moved).symbols == (b"", b"")


@pytest.mark.covers("B45")
def test_two_search_paths_in_one_string() -> None:
    data = ElfFile(names=[(elf.RPATH, OLD + b"/lib"), (elf.RPATH, OLD + b"/lib"), (elf.RUNPATH, OLD + b"/lib")]).build()

    seen = load(relocated(data, MOVED))

    assert seen.texts(elf.RPATH) == [NEW + b"/lib"] * 2
    assert seen.texts(elf.RUNPATH) == [NEW + b"/lib"]
    assert relocated(data, MOVED).count(NEW) == 1


def test_paths_that_begin_with_many_slashes() -> None:
    data = ElfFile(names=[(elf.RPATH, b"///" + OLD + b"/lib")]).build()

    assert load(relocated(data, MOVED)).texts(elf.RPATH) == [NEW + b"/lib"]


@forms
@pytest.mark.parametrize("new", ["/n", "/srv/a/longer/place/for/the/tree"])
def test_search_paths_with_detours(bits: int, order: str, new: str) -> None:
    old = {"a" * 32: "/opt/store/app", "b" * 32: "/opt/store/zlib-1"}
    mapping = mapping_for(old, {"a" * 32: f"{new}/app-h", "b" * 32: f"{new}/zlib-1-h"}, root=("/opt/store", new))
    paths = b"/opt/store//zlib-1/lib:/opt/store/app/../zlib-1/lib64:/opt/./store/app/lib:/opt/store/app/lib/../lib64"
    data = ElfFile(bits, order, interpreter=b"/opt/store/./zlib-1/ld.so", names=[(elf.RUNPATH, paths)]).build()

    seen = load(relocated(data, mapping))

    assert seen.texts(elf.RUNPATH) == [f"{new}/zlib-1-h/lib:{new}/zlib-1-h/lib64:{new}/app-h/lib:{new}/app-h/lib/../lib64".encode()]  # fmt: skip
    assert seen.interpreter == f"{new}/zlib-1-h/ld.so".encode()


@pytest.mark.covers("B45")
def test_constants_are_findings_when_they_cannot_grow() -> None:
    data = ElfFile(names=[(elf.RPATH, OLD + b"/lib")], constants=b"\0see " + OLD + b"/share\0").build()

    edited = relocate_elf(data, MOVED)

    (finding,) = edited.stale
    assert finding.string == b"see " + OLD + b"/share"
    assert finding.room == len(OLD)
    assert data[finding.offset :].startswith(OLD)
    moved = edited.apply(data)
    assert load(moved).texts(elf.RPATH) == [NEW + b"/lib"]
    assert list(remaining_in_elf(moved, MOVED)) == [finding.offset]


def test_strings_that_nobody_uses_are_cleaned_too() -> None:
    """`chrpath -d` and older tools leave the path in the table."""
    file = ElfFile(names=[(elf.RPATH, NEW + b"/lib")])
    file.table += NEW + b"/orphan\0"

    moved = relocated(file.build(), BACK)

    assert NEW not in moved
    grown = ElfFile(names=[(elf.RPATH, OLD + b"/lib")])
    grown.table += OLD + b"/orphan\0"
    edited = relocate_elf(grown.build(), PrefixMap.of({OLD.decode(): NEW.decode(), "/opt/old/tree/orphan": "/x"}))
    assert not edited.stale
    assert OLD not in edited.apply(grown.build())


def test_nothing_to_change() -> None:
    data = sample(64, "<").build()

    assert not relocate_elf(data, PrefixMap.of({"/elsewhere": "/new"}))
    assert relocate_elf(ElfFile().build(), MOVED).patches == ()


def test_a_mapped_file_can_be_closed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(sample(64, "<", constants=b"\0" + OLD + b"/x\0").build())
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        edited = relocate_elf(data, MOVED)
        assert any(remaining_in_elf(data, MOVED))

    assert edited == relocate_elf(path.read_bytes(), MOVED)


def test_relocatable_objects_have_only_constants() -> None:
    data = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", elf.ET_REL, 62, 1, 0, 0, 0, 0, 64, 0, 0, 0, 0, 0)
    data += NEW + b"/include/x.h\0"

    assert OLD + b"/include/x.h\0" in relocated(data, BACK)


def test_files_of_debug_information_keep_headers_without_content() -> None:
    data = bytearray(sample(64, "<").build())
    # .interp and .dynamic are there as SHT_NOBITS only
    (shoff,) = struct.unpack_from("<Q", data, 40)
    for number in (1, 4):
        struct.pack_into("<I", data, shoff + 64 * number + 4, 8)
    at = data.find(OLD + b"/lib/ld.so")
    data[at : at + 4] = b"\xff\xff\xff\xff"

    assert relocate_elf(bytes(data), PrefixMap.of({OLD.decode(): "/x"})).patches


@pytest.mark.covers("B45")
@forms
def test_files_that_are_cut_short(bits: int, order: str) -> None:
    data = sample(bits, order).build()
    for size in (5, 20, 60, 100, len(data) // 2, len(data) - 1):
        with pytest.raises(ContentError):
            relocate_elf(data[:size], MOVED)


def field_changed(data: bytes, offset: int, value: int, layout: str = "<Q") -> bytes:
    changed = bytearray(data)
    struct.pack_into(layout, changed, offset, value)
    return bytes(changed)


def dynamic_entry(data: bytes, tag: int) -> int:
    """Where the value of an entry stands (64-bit, little-endian)."""
    offset = next(offset for kind, offset, _, _ in load(data).segments if kind == elf.PT_DYNAMIC)
    while struct.unpack_from("<q", data, offset)[0] != tag:
        offset += 16
    return offset + 8


@pytest.mark.covers("B45")
@pytest.mark.parametrize(
    ("tag", "value", "message"),
    [
        (elf.STRTAB, 1 << 40, "DT_STRTAB leads to address"),
        (elf.STRSZ, 1 << 33, "string table would reach"),
        (elf.STRSZ, 1, "outside the dynamic string table"),
        (elf.RPATH, 1 << 32, "outside the dynamic string table"),
        (elf.VERNEED, 1 << 20, "DT_VERNEED leads to address"),
        (elf.SYMTAB, 1 << 20, "DT_SYMTAB leads to address"),
    ],
)
def test_tables_that_lead_nowhere(tag: int, value: int, message: str) -> None:
    data = sample(64, "<", sections=False).build()

    with pytest.raises(ContentError, match=message):
        relocate_elf(field_changed(data, dynamic_entry(data, tag), value), MOVED)


@pytest.mark.covers("B45")
def test_offsets_beyond_four_gigabytes() -> None:
    data = sample(64, "<").build()

    with pytest.raises(ContentError, match="would reach to byte"):
        relocate_elf(field_changed(data, 40, 1 << 33), MOVED)
    with pytest.raises(ContentError, match="would reach to byte"):
        relocate_elf(field_changed(data, 32, 1 << 33), MOVED)


@pytest.mark.covers("B45")
def test_a_string_table_without_an_end() -> None:
    data = sample(64, "<", names=[(elf.RPATH, OLD)], symbols=(), versions=(), defined=()).build()
    size = dynamic_entry(data, elf.STRSZ)

    with pytest.raises(ContentError, match="not terminated"):
        relocate_elf(field_changed(data, size, 5), MOVED)


def test_names_that_are_left_are_found() -> None:
    data = sample(64, "<").build()
    seen = load(data)

    left = list(remaining_in_elf(data, MOVED))

    entries = [at for at in left if at < len(data)]
    assert next(offset for kind, offset, _, _ in seen.segments if kind == elf.PT_INTERP) in entries
    assert len(left) == len(seen.names) - len([text for _, text in seen.names if OLD not in text]) + 1


def test_a_table_whose_last_string_has_no_end_gets_one() -> None:
    data = ElfFile(names=[(elf.RPATH, OLD)], symbols=[b"zz"], sections=False).build()
    data = field_changed(data, dynamic_entry(data, elf.STRSZ), data.find(b"zz\0") + 2 - data.find(b"\0" + OLD + b"\0"))

    moved = relocated(data, MOVED)

    assert load(moved).texts(elf.RPATH) == [NEW]
    assert load(moved).symbols == (b"", b"zz")


def test_versions_that_run_in_circles() -> None:
    data = bytearray(sample(64, "<", sections=False).build())
    start = next(struct.unpack_from("<Q", data, dynamic_entry(bytes(data), tag))[0] for tag in (elf.VERNEED,))
    # every record is followed by itself, a byte further on
    for at in range(start, start + 60):
        data[at] = 1
    number = dynamic_entry(bytes(data), elf.VERNEEDNUM)

    with pytest.raises(ContentError):
        relocate_elf(field_changed(bytes(data), number, 1 << 40), MOVED)


def test_interpreter_and_names_grow_together_or_apart() -> None:
    names = [(elf.RPATH, OLD + b"/lib")]
    both = ElfFile(interpreter=OLD + b"/ld.so", names=names).build()
    short = PrefixMap.of({f"{OLD.decode()}/lib": "/n/lib", f"{OLD.decode()}/ld.so": "/srv/a/longer/loader/ld.so"})
    other = PrefixMap.of({f"{OLD.decode()}/lib": "/srv/a/longer/path/lib", f"{OLD.decode()}/ld.so": "/n/ld.so"})

    first, second = load(relocated(both, short)), load(relocated(both, other))

    assert (first.interpreter, first.texts(elf.RPATH)) == (b"/srv/a/longer/loader/ld.so", [b"/n/lib"])
    assert (second.interpreter, second.texts(elf.RPATH)) == (b"/n/ld.so", [b"/srv/a/longer/path/lib"])
