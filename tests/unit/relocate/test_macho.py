from __future__ import annotations

import struct
from pathlib import Path

import pytest

from oci_binpkg.relocate import macho
from oci_binpkg.relocate.edits import FindingKind
from oci_binpkg.relocate.macho import MachoEdit, relocate_macho, remaining_in_macho
from oci_binpkg.relocate.prefixes import PrefixMap
from tests.support.macho_files import (
    ARM64,
    I386,
    ID,
    LAZY,
    LOAD,
    OBJECT,
    PPC,
    PPC64,
    REEXPORT,
    RPATH,
    UPWARD,
    WEAK,
    X86_64,
    Shape,
    build,
    build_fat,
    check_signature,
    fixture,
    has_signature,
    paths_in,
    segment_sizes,
    signature_of,
    slices_of,
    without_signature,
)

OLD, SHORT, LONG = "/opt/made/greet", "/o/g", "/opt/a/longer/place/greet"
ALL_KINDS = [
    (ID, "/opt/old/lib/liba.dylib"),
    (LOAD, "/opt/old/lib/libb.dylib"),
    (WEAK, "/opt/old/lib/libc.dylib"),
    (REEXPORT, "/opt/old/lib/libd.dylib"),
    (LAZY, "/opt/old/lib/libe.dylib"),
    (UPWARD, "/opt/old/lib/libf.dylib"),
    (RPATH, "/opt/old/lib"),
    (LOAD, "/usr/lib/libSystem.B.dylib"),
    (LOAD, "@rpath/libg.dylib"),
    (LOAD, "/opt/older/lib/libh.dylib"),
]
UNSIGNED = [
    Shape(cpu=X86_64),
    Shape(cpu=I386, wide=False),
    Shape(cpu=PPC, wide=False, order=">"),
    Shape(cpu=PPC64, order=">"),
]
THIN_FIXTURES = [
    ("made/greet", "/opt/made"),
    ("libxau/libXau-arm64.dylib", "/DLC/PIL"),
    ("libxau/libXau-x86_64.dylib", "/DLC/PIL"),
    ("markupsafe/speedups-arm64.so", "/usr/lib"),
    ("markupsafe/speedups-x86_64.so", "/usr/lib"),
]


def move(data: bytes, old: str, new: str) -> bytes:
    edit = relocate_macho(data, PrefixMap.of({old: new}))
    assert edit.refused == ()
    assert edit.changed
    return edit.data


@pytest.mark.parametrize("shape", UNSIGNED, ids=["x86-64", "i386", "ppc", "ppc64"])
@pytest.mark.parametrize("new", ["/n", "/opt/new", "/opt/somewhere/else"])
def test_every_kind_of_path_is_mapped_whatever_the_layout(shape: Shape, new: str, tmp_path: Path) -> None:
    data = build(ALL_KINDS, shape)
    moved = move(data, "/opt/old", new)
    assert len(moved) == len(data)
    before, after = paths_in(data, tmp_path), paths_in(moved, tmp_path)
    assert len(before) == len(ALL_KINDS)
    assert after == [(kind, path.replace("/opt/old/", f"{new}/")) for kind, path in before]
    assert move(moved, new, "/opt/old") == data


@pytest.mark.parametrize(("name", "old"), THIN_FIXTURES)
def test_a_real_file_moves_and_its_signature_fits(name: str, old: str, tmp_path: Path) -> None:
    data = fixture(name)
    moved = move(data, old, "/o")
    assert len(moved) == len(data)
    assert paths_in(moved, tmp_path) == [(kind, path.replace(old, "/o")) for kind, path in paths_in(data, tmp_path)]
    assert has_signature(moved) == has_signature(data)
    if has_signature(moved):
        before, after = check_signature(moved), check_signature(move(moved, "/o", old))
        assert before["name"] == after["name"]


@pytest.mark.parametrize("name", ["markupsafe/speedups-arm64.so", "markupsafe/speedups-universal2.so"])
@pytest.mark.parametrize("new", ["/l", "/a/much/longer/place/than/before"])
def test_there_and_back_is_what_apples_linker_wrote(name: str, new: str) -> None:
    data = fixture(name)
    moved = move(data, "/usr/lib", new)
    assert moved != data
    assert move(moved, new, "/usr/lib") == data


@pytest.mark.parametrize("name", ["libxau/libXau-arm64.dylib", "libxau/libXau-x86_64.dylib"])
def test_there_and_back_differs_from_codesign_in_the_signature_at_most(name: str) -> None:
    data = fixture(name)
    back = move(move(data, "/DLC", "/a/longer/DLC"), "/a/longer/DLC", "/DLC")
    assert without_signature(back) == without_signature(data)
    assert len(back) == len(data)


def test_a_universal_file_of_a_linker_moves_slice_by_slice(tmp_path: Path) -> None:
    data = fixture("made/libgreet.dylib")
    moved = move(data, OLD, LONG)
    assert len(slices_of(moved)) == 2
    for old, new in zip(slices_of(data), slices_of(moved), strict=True):
        assert paths_in(new, tmp_path) == [(kind, path.replace(OLD, LONG)) for kind, path in paths_in(old, tmp_path)]
        assert has_signature(new) == has_signature(old)
    check_signature(slices_of(moved)[1])
    back = move(moved, LONG, OLD)
    assert slices_of(back)[0] == slices_of(data)[0]
    assert without_signature(slices_of(back)[1]) == without_signature(slices_of(data)[1])


def test_a_file_that_mentions_no_old_prefix_is_left_as_it_is() -> None:
    data = fixture("made/libgreet.dylib")
    edit = relocate_macho(data, PrefixMap.of({"/opt/made/greeting": "/x", "/elsewhere": "/y"}))
    assert edit == MachoEdit(data, changed=False)
    assert edit.data is data


@pytest.mark.covers("B45")
def test_without_padding_a_longer_path_is_refused_and_the_missing_bytes_are_counted() -> None:
    data = fixture("made/greet")
    edit = relocate_macho(data, PrefixMap.of({OLD: OLD + "/a-longer-place"}))
    assert (edit.data, edit.changed) == (data, False)
    (reason,) = edit.refused
    assert reason.startswith("no room: 16 bytes are missing")


def test_paths_grow_to_the_last_byte_of_the_padding() -> None:
    shape = Shape(cpu=X86_64, padding=16)
    data = build([(RPATH, "/opt/old"), (RPATH, "@loader_path")], shape)
    grown = move(data, "/opt/old", "/opt/old" + 16 * "x")
    assert grown[-len(shape.text) - len(shape.linkedit) :] == shape.text + shape.linkedit
    edit = relocate_macho(data, PrefixMap.of({"/opt/old": "/opt/old" + 32 * "x"}))
    assert edit.refused[0].startswith("no room: 16 bytes are missing")


def test_padding_that_holds_something_is_no_room() -> None:
    data = bytearray(build([(RPATH, "/opt/old")], Shape(cpu=X86_64, padding=64)))
    commands_end = 32 + int.from_bytes(data[20:24], "little")
    data[commands_end + 16] = 1
    edit = relocate_macho(bytes(data), PrefixMap.of({"/opt/old": "/opt/old" + 32 * "x"}))
    assert edit.refused[0].startswith("no room: 16 bytes are missing")


def test_a_path_that_shrinks_makes_room_for_one_that_grows(tmp_path: Path) -> None:
    data = build([(RPATH, "/opt/aaaaaaaaaaaaaaaa"), (RPATH, "/b")], Shape(cpu=X86_64, padding=0))
    edit = relocate_macho(data, PrefixMap.of({"/opt/aaaaaaaaaaaaaaaa": "/a", "/b": "/opt/bbbbbbbbbbbbbbbb"}))
    assert edit.changed
    assert paths_in(edit.data, tmp_path) == [("rpath", "/a"), ("rpath", "/opt/bbbbbbbbbbbbbbbb")]


def test_rpaths_that_become_equal_are_said_once_and_libraries_keep_their_numbers(tmp_path: Path) -> None:
    paths = [(RPATH, "/a/lib"), (LOAD, "/a/x"), (RPATH, "/b/lib"), (LOAD, "/b/x"), (RPATH, "@loader_path")]
    edit = relocate_macho(build(paths, Shape(cpu=X86_64)), PrefixMap.of({"/a": "/one", "/b": "/one"}))
    assert paths_in(edit.data, tmp_path) == [
        ("rpath", "/one/lib"),
        ("load", "/one/x"),
        ("load", "/one/x"),
        ("rpath", "@loader_path"),
    ]


def test_rpaths_that_were_equal_before_do_not_make_a_change() -> None:
    data = build([(RPATH, "/a"), (RPATH, "/a")])
    assert not relocate_macho(data, PrefixMap.of({"/b": "/c"})).changed


def test_the_longest_old_prefix_wins(tmp_path: Path) -> None:
    data = build([(LOAD, "/opt/a/b/lib"), (LOAD, "/opt/a/lib")], Shape(cpu=X86_64))
    edit = relocate_macho(data, PrefixMap.of({"/opt/a": "/x", "/opt/a/b": "/y"}))
    assert paths_in(edit.data, tmp_path) == [("load", "/y/lib"), ("load", "/x/lib")]


def test_names_in_any_encoding_survive() -> None:
    data = build([(LOAD, "/opt/old/lib-X")], Shape(cpu=X86_64)).replace(b"lib-X", b"lib-\xe9")
    assert b"/n/lib-\xe9\0" in move(data, "/opt/old", "/n")


def test_strings_are_rewritten_in_place_and_signed_with_the_rest() -> None:
    data = slices_of(fixture("made/libgreet.dylib"))[1]
    mapping = PrefixMap.of({OLD: SHORT})
    edit = relocate_macho(data, mapping)
    assert (edit.findings, edit.refused) == ((), ())
    assert OLD.encode() not in edit.data
    assert SHORT.rjust(len(OLD), "/").encode() + b"/share/hello\0" in edit.data
    check_signature(edit.data)
    assert list(remaining_in_macho(edit.data, mapping)) == []
    assert len(list(remaining_in_macho(data, mapping))) == 3


def test_a_string_alone_makes_a_change() -> None:
    data = build([], Shape(cpu=X86_64, text=b"/opt/old/share/x\0"))
    edit = relocate_macho(data, PrefixMap.of({"/opt/old": "/new"}))
    assert edit == MachoEdit(data.replace(b"/opt/old", b"/////new"), changed=True)


def test_strings_that_cannot_grow_are_findings_with_their_place_in_the_file() -> None:
    data = fixture("made/libgreet.dylib")
    mapping = PrefixMap.of({OLD: LONG})
    edit = relocate_macho(data, mapping)
    assert edit.changed
    assert [found.kind for found in edit.findings] == [FindingKind.CANNOT_GROW] * 2
    for found in edit.findings:
        assert data[found.offset :].startswith(b"/opt/made/greet/share/hello\0")
    assert list(remaining_in_macho(edit.data, mapping)) == [found.offset for found in edit.findings]


def test_findings_alone_change_nothing() -> None:
    text = b"/opt/old/share/x\0"
    for data in (thin := build([], Shape(text=text)), build_fat([(ARM64, thin)])):
        edit = relocate_macho(data, PrefixMap.of({"/opt/old": "/opt/a/longer"}))
        assert not edit.changed
        assert edit.data is data
        assert [found.offset for found in edit.findings] == [data.index(text)]


def test_a_path_in_another_load_command_is_changed_in_place() -> None:
    environment = Shape().command(0x27, struct.pack("<I", 12) + b"DYLD_X=/opt/old/lib/more\0\0\0\0")
    edit = relocate_macho(build([], Shape(cpu=X86_64, extra=[environment])), PrefixMap.of({"/opt/old": "/new"}))
    assert b"DYLD_X=/////new/lib/more\0" in edit.data


def test_what_a_signature_mentions_is_no_string_to_change() -> None:
    data = build([(ID, "/opt/old/x")])
    signed = move(data, "/opt/old", "/new")
    at = signed.rindex(b"x\0")
    named = signed[: at - 8] + b"/opt/old" + signed[at:]
    edit = relocate_macho(named, PrefixMap.of({"/opt/old": "/n"}))
    assert not edit.changed
    assert edit.findings == ()


def test_an_old_prefix_left_in_a_load_command_is_seen() -> None:
    data = build([(RPATH, "/opt/old/lib"), (RPATH, "/opt/older")])
    mapping = PrefixMap.of({"/opt/old": "/opt/old/inner"})
    assert list(remaining_in_macho(data, mapping)) == [data.index(b"/opt/old/lib") - 12]
    assert list(remaining_in_macho(relocate_macho(data, mapping).data, mapping)) == []


# --- signatures where there was none ---


def test_a_changed_library_for_arm64_gets_a_signature_and_is_called_as_it_is_named(tmp_path: Path) -> None:
    data = build([(ID, "/opt/old/lib/liba.dylib")])
    moved = move(data, "/opt/old", "/n")
    signed = check_signature(moved)
    assert signed["name"] == b"liba.dylib"
    assert signed["flags"] == 0x20002
    assert list(signed["parts"]) == [0]
    offset, size, in_memory = segment_sizes(moved)
    assert offset + size == len(moved)
    assert size <= in_memory
    assert in_memory % 0x4000 == 0
    assert paths_in(moved, tmp_path) == [("id", "/n/lib/liba.dylib")]


def test_a_program_is_called_by_its_uuid_and_said_to_be_one() -> None:
    shape = Shape(file_type=2)
    uuid = Shape().command(0x1B, bytes(range(16)))
    signed = check_signature(move(build([(RPATH, "/opt/old")], Shape(file_type=2, extra=[uuid])), "/opt/old", "/n"))
    assert signed["name"] == b"macho-" + bytes(range(16)).hex().encode()
    assert signed["exec"][2] == 1
    assert check_signature(move(build([(RPATH, "/opt/old")], shape), "/opt/old", "/n"))["name"] == b"macho-unnamed"


def test_object_files_and_other_processors_are_not_signed() -> None:
    for shape in (Shape(file_type=OBJECT), Shape(cpu=X86_64)):
        assert not has_signature(move(build([(RPATH, "/opt/old")], shape), "/opt/old", "/n"))


def test_no_slot_for_the_signature_is_no_room() -> None:
    data = build([(RPATH, "/opt/old")], Shape(padding=8))
    edit = relocate_macho(data, PrefixMap.of({"/opt/old": "/opt/new"}))
    assert (edit.data, edit.changed) == (data, False)
    assert edit.refused[0].startswith("no room: 8 bytes are missing for the signature's load command")


def test_what_follows_the_linkers_segment_forbids_a_signature() -> None:
    data = build([(RPATH, "/opt/old")]) + b"appended"
    edit = relocate_macho(data, PrefixMap.of({"/opt/old": "/opt/new"}))
    assert (edit.data, edit.changed) == (data, False)
    assert edit.refused == ("cannot be signed: its segment __LINKEDIT is not at its end",)
    edit = relocate_macho(fixture("made/greet") + b"appended", PrefixMap.of({OLD: SHORT}))
    assert edit.refused == ("cannot be signed again: its code signature is not at its end",)


# --- universal files ---


@pytest.mark.parametrize(("order", "wide"), [(">", False), (">", True), ("<", False), ("<", True)])
def test_a_slice_that_gets_a_signature_moves_the_ones_behind_it(order: str, wide: bool, tmp_path: Path) -> None:
    paths = [(ID, "/opt/old/lib/liba.dylib")]
    slices = [(ARM64, build(paths)), (X86_64, build(paths, Shape(cpu=X86_64))), (PPC, b"!<arch>\nnot ours")]
    moved = move(build_fat(slices, order=order, wide=wide, align=12), "/opt/old", "/opt/new")
    arm, intel, archive = slices_of(moved)
    check_signature(arm)
    for part in (arm, intel):
        assert paths_in(part, tmp_path) == [("id", "/opt/new/lib/liba.dylib")]
    assert archive == b"!<arch>\nnot ours"


def test_bytes_around_the_slices_survive() -> None:
    data = bytearray(build_fat([(X86_64, build([(RPATH, "/opt/old")], Shape(cpu=X86_64)))], align=8) + b"behind")
    data[100:106] = b"before"
    moved = move(bytes(data), "/opt/old", "/n")
    assert moved.endswith(b"behind")
    assert moved[100:106] == b"before"


@pytest.mark.covers("B45")
def test_a_universal_file_changes_as_a_whole_or_not_at_all() -> None:
    good = build([(RPATH, "/opt/old")], Shape(cpu=X86_64))
    tight = build([(RPATH, "/opt/old")], Shape(cpu=I386, wide=False, padding=0))
    data = build_fat([(X86_64, good), (I386, tight)])
    edit = relocate_macho(data, PrefixMap.of({"/opt/old": "/opt/longer/than/before"}))
    assert (edit.data, edit.changed) == (data, False)
    assert [reason.partition(":")[0] for reason in edit.refused] == ["i386"]


def test_what_32_bits_cannot_say_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    thin = build([(RPATH, "/opt/old")])
    universal = build_fat([(X86_64, build([(RPATH, "/opt/old")], Shape(cpu=X86_64)))])
    monkeypatch.setattr(macho, "_LARGEST", 500)
    for data in (thin, universal):
        edit = relocate_macho(data, PrefixMap.of({"/opt/old": "/new"}))
        assert (edit.data, edit.changed) == (data, False)
        assert "4 GiB" in edit.refused[0]


def test_the_same_input_gives_the_same_bytes() -> None:
    data = fixture("made/libgreet.dylib")
    assert move(data, OLD, LONG) == move(data, OLD, LONG)
    assert signature_of(slices_of(move(data, OLD, LONG))[1])
