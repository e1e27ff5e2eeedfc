from __future__ import annotations

import struct

import pytest

from oci_binpkg.errors import ContentError
from oci_binpkg.relocate.macho import relocate_macho
from oci_binpkg.relocate.macho_image import MachImage
from oci_binpkg.relocate.prefixes import PrefixMap
from tests.support.macho_files import LOAD, RPATH, X86_64, Shape, build, build_fat, fixture

MAPPING = PrefixMap.of({"/opt/old": "/new"})
SHAPE = Shape(cpu=X86_64)
THIN = build([(RPATH, "/opt/old/lib"), (LOAD, "/opt/old/lib/libx.dylib")], SHAPE)
FIRST = 32  # the first load command: the segment __TEXT, with one section, of 152 bytes
SECOND = FIRST + 152  # LC_RPATH, of 32 bytes
FAT = build_fat([(X86_64, THIN), (X86_64, THIN)])
FAT_64 = build_fat([(X86_64, THIN)], wide=True)


def patched(data: bytes, at: int, value: int, layout: str = "<I") -> bytes:
    out = bytearray(data)
    struct.pack_into(layout, out, at, value)
    return bytes(out)


@pytest.mark.covers("B45")
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "unknown magic number"),
        (b"\x7fELF and more", "unknown magic number 7f454c46"),
        (THIN[:20], "ends within its header"),
        (THIN[:100], "load commands do not fit into a file of 100 bytes"),
        (patched(THIN, 20, 0xFFFFFFF0), "4294967280 bytes of load commands do not fit"),
        (patched(THIN, 16, 0xFFFFFFFF), "load command 4 of 4294967295 is beyond the end"),
        (patched(THIN, FIRST + 4, 0), "load command 0 of 4 cannot be 0 bytes long"),
        (patched(THIN, FIRST + 4, 4), "cannot be 4 bytes long"),
        (patched(THIN, FIRST + 4, 154), "cannot be 154 bytes long"),
        (patched(THIN, FIRST + 4, 0x7FFFFFFC), "cannot be 2147483644 bytes long"),
        (patched(THIN, FIRST + 64, 2), "2 sections do not fit"),
        (patched(THIN, FIRST + 64, 0xFFFFFFFF), "4294967295 sections do not fit"),
        (patched(THIN, FIRST + 48, 1 << 40, "<Q"), "segment b'__TEXT' ends at byte"),
        (patched(THIN, SECOND + 8, 11), "path of a load command 0x8000001c is outside of it, at byte 11"),
        (patched(THIN, SECOND + 8, 32), "is outside of it, at byte 32"),
        (patched(patched(THIN, SECOND, 0x19), SECOND + 8, 0), "load command 0x19 of only 32 bytes"),
        (build([], Shape(extra=[SHAPE.command(RPATH, b"")])), "of only 8 bytes"),
    ],
)
def test_a_malformed_file_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ContentError, match="malformed Mach-O file") as caught:
        relocate_macho(data, MAPPING)
    assert reason in caught.value.message


@pytest.mark.covers("B45")
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (FAT[:6], "ends within its header"),
        (patched(FAT, 4, 0xFFFFFFFF, ">I"), "4294967295 slices are listed"),
        (patched(FAT, 16, 40, ">I"), "the slice at byte 40 overlaps what ends at byte 48"),
        (patched(FAT, 20, len(THIN) + 40, ">I"), "overlaps what ends at byte"),
        (FAT[:-1], "of a file of"),
        (patched(FAT, 24, 16, ">I"), "aligned to 2**16 bytes"),
        (patched(FAT_64, 16, 1 << 63, ">Q"), "ends at byte"),
        (patched(FAT, 16, len(FAT) - 2, ">I"), "ends at byte"),
    ],
)
def test_slices_must_lie_within_the_file_and_beside_one_another(data: bytes, reason: str) -> None:
    with pytest.raises(ContentError, match="malformed Mach-O file") as caught:
        relocate_macho(data, MAPPING)
    assert reason in caught.value.message


def test_universal_files_without_slices_and_with_strange_ones_stay_as_they_are() -> None:
    for data in (build_fat([]), build_fat([(7, b"")]), build_fat([(7, FAT)])):
        assert relocate_macho(data, MAPPING).data is data


def test_a_path_without_its_end_is_read_to_the_end_of_its_command() -> None:
    command = SHAPE.command(RPATH, struct.pack("<I", 12) + b"/opt/old/lib")
    edit = relocate_macho(build([], Shape(cpu=X86_64, extra=[command])), MAPPING)
    assert b"/new/lib\0" in edit.data


def test_content_within_the_load_commands_leaves_no_room() -> None:
    data = patched(THIN, FIRST + 72 + 48, 40)
    image = MachImage.parse(data)
    assert image.room == image.commands_end - image.header_size
    assert relocate_macho(data, MAPPING).changed


def test_tables_of_the_linker_end_the_padding() -> None:
    def room(*tables: bytes) -> int:
        return MachImage.parse(
            build([], Shape(cpu=X86_64, extra=[*tables, SHAPE.command(0, bytes(72 - sum(map(len, tables))))]))
        ).room

    plain = room()
    limit = 400  # within the padding
    for kind in (0x1D, 0x26, 0x2C):
        assert room(SHAPE.command(kind, struct.pack("<2I", limit, 4))) == limit - 32
        assert room(SHAPE.command(kind, struct.pack("<2I", limit, 0))) == plain
    for symbols in ((limit, 1, 450, 1), (450, 1, limit, 1), (1, 0, limit, 1)):
        assert room(SHAPE.command(0x2, struct.pack("<4I", *symbols))) == limit - 32


def test_a_damaged_signature_is_refused() -> None:
    data = fixture("made/greet")
    at = data.index(b"\xfa\xde\x0c\xc0")
    with pytest.raises(ContentError, match="malformed code signature"):
        relocate_macho(data[:at] + bytes(4) + data[at + 4 :], PrefixMap.of({"/opt/made": "/o"}))
