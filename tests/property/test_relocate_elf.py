"""ELF files of all forms: names are moved, symbols keep theirs, and damage is told by one kind of error."""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from oci_binpkg.errors import ContentError
from oci_binpkg.relocate.elf import relocate_elf, remaining_in_elf
from oci_binpkg.relocate.prefixes import PrefixMap
from tests.support import elf_files as elf
from tests.support.elf_files import ElfFile, load

OLD = b"/opt/old/tree"
NEWS = ["/n", "/srv/new/tree", "/srv/a/new/tree/that/is/longer"]
TEXTS = [OLD + b"/lib", OLD, OLD + b"/lib:/usr/lib:" + OLD + b"/lib64", b"libx.so", b"/usr/lib", b"lib", b""]
TAGS = [elf.NEEDED, elf.SONAME, elf.RPATH, elf.RUNPATH]

names = st.lists(st.tuples(st.sampled_from(TAGS), st.sampled_from(TEXTS)), max_size=4)
symbols = st.lists(st.sampled_from([b"main", b"lib", b"tree/lib", b"ib64", b"so", b"usr/lib"]), max_size=3)


@st.composite
def built(draw: st.DrawFn) -> bytes:
    return ElfFile(
        draw(st.sampled_from([64, 32])),
        draw(st.sampled_from("<>")),
        kind=draw(st.sampled_from([elf.ET_DYN, elf.ET_EXEC])),
        interpreter=draw(st.sampled_from([b"", OLD + b"/ld.so", b"/lib/ld.so"])),
        names=draw(names),
        symbols=draw(symbols),
        versions=draw(st.sampled_from([(), ((b"libx.so", b"V_1"), (b"lib", b"V_2"))])),
        sections=draw(st.booleans()),
        base=draw(st.sampled_from([0, 0x10000])),
        spare=draw(st.sampled_from([(), (elf.PT_NULL,), (elf.PT_NOTE, elf.PT_GNU_PROPERTY)])),
    ).build()


def moved(text: bytes, new: bytes, *, single: bool) -> bytes:
    if single:
        return new + text[len(OLD) :] if text.startswith(OLD) and ":" not in text.decode() else text
    return b":".join(moved(part, new, single=True) for part in text.split(b":"))


@given(built(), st.sampled_from(NEWS))
def test_names_are_moved_and_symbols_keep_theirs(data: bytes, new: str) -> None:
    mapping = PrefixMap.of({OLD.decode(): new})
    before = load(data)

    result = relocate_elf(data, mapping).apply(data)

    after = load(result)
    for (tag, old), (same, text) in zip(before.names, after.names, strict=True):
        assert tag == same
        if b":" not in old or tag in {elf.RPATH, elf.RUNPATH}:
            assert text == moved(old, new.encode(), single=False)
    assert after.interpreter == moved(before.interpreter, new.encode(), single=True)
    assert after.symbols == before.symbols


@given(built())
def test_the_way_back_gives_the_same_bytes(data: bytes) -> None:
    there, back = PrefixMap.of({OLD.decode(): "/srv/new/tree"}), PrefixMap.of({"/srv/new/tree": OLD.decode()})

    result = relocate_elf(data, there).apply(data)

    if len(result) == len(data):
        assert relocate_elf(result, back).apply(result) == data


@given(built(), st.data())
def test_damage_is_content_error_or_nothing(data: bytes, choose: st.DataObject) -> None:
    changed = bytearray(data)
    for _ in range(choose.draw(st.integers(1, 4))):
        at = choose.draw(st.integers(5, len(changed) - 1))
        changed[at] = choose.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
    damaged = bytes(changed[: choose.draw(st.integers(1, len(changed)))])
    mapping = PrefixMap.of({OLD.decode(): "/srv/a/new/tree/that/is/longer"})

    with contextlib.suppress(ContentError):
        edited = relocate_elf(damaged, mapping)
        if all(patch.offset < 1 << 24 for patch in edited.patches):
            list(remaining_in_elf(edited.apply(damaged), mapping))
