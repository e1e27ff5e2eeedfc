"""Mach-O files (programs and libraries of macOS): old prefix -> new prefix, and a signature that fits. Bytes to bytes.

Paths stand in load commands, which may grow into the padding that linkers leave behind them; `install_name_tool` does
the same. Other strings are changed in place; those that no program reads need not fit (`macho_unread`). Works on any
host; nothing of Apple's is needed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from oci_binpkg.relocate.codesign import (
    MAIN_BINARY,
    ExecSegment,
    SigningPlan,
    first_plan,
    parse_signature,
    renewed_plan,
)
from oci_binpkg.relocate.edits import RelocationFinding, merged
from oci_binpkg.relocate.macho_image import (
    ARM64,
    CODE_SIGNATURE,
    EXECUTABLE,
    LOADABLE,
    REQUIRED,
    SEGMENT_64,
    Command,
    MachImage,
    Segment,
    is_image,
    malformed,
)
from oci_binpkg.relocate.macho_unread import unread_in_image
from oci_binpkg.relocate.origins import MACHO_PROGRAM_TOKENS, MACHO_TOKENS, FileOrigin, mover
from oci_binpkg.relocate.prefixes import PrefixMap
from oci_binpkg.relocate.strings import Span, relocate_strings, remaining
from oci_binpkg.relocate.unread import joined, relocate_unread

ID_DYLIB: Final = 0xD
RPATH: Final = 0x1C | REQUIRED
PATH_COMMANDS: Final = frozenset({ID_DYLIB, 0xC, 0x18 | REQUIRED, 0x1F | REQUIRED, 0x20, 0x23 | REQUIRED, RPATH})
"""LC_ID_DYLIB, LC_LOAD_DYLIB and its weak, re-exported, lazy and upward kin, and LC_RPATH."""

_BEFORE_PATH: Final = 12  # of LC_RPATH; the others have more
_UUID: Final = 0x1B
_FAT: Final = {
    b"\xca\xfe\xba\xbe": (">", ">5I"),
    b"\xca\xfe\xba\xbf": (">", ">2I2Q2I"),
    b"\xbe\xba\xfe\xca": ("<", "<5I"),
    b"\xbf\xba\xfe\xca": ("<", "<2I2Q2I"),
}
_FAT_HEADER: Final = 8
_LARGEST: Final = 0xFFFFFFFF  # what 32 bits can say of an offset or a size
_MOST_ALIGNED: Final = 15  # lipo's own limit, as a power of two
_PROCESSORS: Final = {
    7: "i386",
    0x01000007: "x86_64",
    12: "arm",
    0x0100000C: "arm64",
    0x0200000C: "arm64_32",
    18: "ppc",
    0x01000012: "ppc64",
}


@dataclass(frozen=True, slots=True)
class MachoEdit:
    """A file after relocation.

    `findings` are strings in which an old prefix was left, by their place in the original file. `refused` says for
    people why the file could not be changed at all; then `data` is the old content, and must not be installed.
    `unread` counts the old prefixes left where no program reads them.
    """

    data: bytes
    changed: bool
    findings: tuple[RelocationFinding, ...] = ()
    refused: tuple[str, ...] = ()
    unread: int = 0


class _RefusedError(Exception):
    """An image is not malformed, and yet cannot be changed."""


class _Slice(NamedTuple):
    """A slice of a universal file, by its row in the list of slices; `align` is a power of two."""

    row: int
    cpu: int
    offset: int
    size: int
    align: int


def relocate_macho(data: bytes, mapping: PrefixMap, origin: FileOrigin | None = None) -> MachoEdit:
    """Put new prefixes in place of old ones, in a thin or universal Mach-O file of either byte order.

    A path in a load command is mapped if it is an old prefix or lies below one, or, with `origin`, the place of the
    file, if it starts at the file and leads to one; other strings follow the rules of
    `strings`. A changed image gets an ad-hoc signature if it had a signature or cannot run without one (arm64). A
    universal file changes as a whole or not at all. Java classes begin with the same number as universal files: ask
    `scan.is_object_file` first. Raises `ContentError` for malformed files.
    """
    return _relocate_fat(data, mapping, origin) if data[:4] in _FAT else _relocate_thin(data, mapping, origin)


def remaining_in_macho(data: bytes, mapping: PrefixMap) -> Iterator[int]:
    """Yield where old prefixes are left in a relocated file. Raises `ContentError` as `relocate_macho` does."""
    if data[:4] in _FAT:
        for part in _slices(data):
            content = data[part.offset : part.offset + part.size]
            if is_image(content):
                yield from (part.offset + at for at in remaining_in_macho(content, mapping))
        return
    image = MachImage.parse(data)
    for start, end in _path_spans(image):
        path = _path(image, Command(0, data[start:end]))[1]
        if mapping.replace_path(path) != path and next(remaining(path, mapping), None) is not None:
            yield start
    skipped = joined([*_path_spans(image), *unread_in_image(image)])
    yield from remaining(data, mapping, end=_strings_end(image), skip=skipped)


def _relocate_thin(data: bytes, mapping: PrefixMap, origin: FileOrigin | None) -> MachoEdit:
    image = MachImage.parse(data)
    tokens = MACHO_PROGRAM_TOKENS if image.file_type == EXECUTABLE else MACHO_TOKENS
    commands = tuple(_mapped_commands(image, mover(mapping, origin, tokens)))
    missing = sum(len(command.data) for command in commands) - image.room
    if missing > 0:
        return _refused(data, _no_room(missing, "for the paths in its load commands"))
    moved = image if commands == image.commands else MachImage.parse(image.with_commands(commands))
    spans = unread_in_image(moved)
    read = relocate_strings(moved.data, mapping, end=_strings_end(moved), skip=joined([*_path_spans(moved), *spans]))
    edited = merged([read, relocate_unread(moved.data, mapping, spans)])
    if moved is image and not edited:
        return MachoEdit(data, changed=False, findings=edited.findings, unread=edited.unread)
    if edited:
        moved = MachImage.parse(edited.apply(moved.data))
    try:
        return MachoEdit(_signed(moved), changed=True, findings=edited.findings, unread=edited.unread)
    except _RefusedError as refusal:
        return _refused(data, str(refusal))


def _refused(data: bytes, *reasons: str) -> MachoEdit:
    return MachoEdit(data, changed=False, refused=reasons)


def _no_room(missing: int, purpose: str) -> str:
    return f"no room: {missing} bytes are missing {purpose}; link with -headerpad_max_install_names"


def _mapped_commands(image: MachImage, move: Callable[[bytes], bytes]) -> Iterator[Command]:
    """Yield the load commands with their new paths.

    An LC_RPATH that says again what an earlier one says goes, because newer versions of dyld refuse such files.
    Libraries that are loaded twice stay: symbols refer to them by their number.
    """
    mapped = [_mapped(image, command, move) for command in image.commands]
    changed = any(new is not old for new, old in zip(mapped, image.commands, strict=True))
    seen: set[bytes] = set()
    for command in mapped:
        if changed and command.kind == RPATH:
            path = _path(image, command)[1]
            if path in seen:
                continue
            seen.add(path)
        yield command


def _path(image: MachImage, command: Command) -> tuple[int, bytes]:
    """Return where the path in a load command begins, and the path."""
    (at,) = image.numbers(command, 8, "I")
    if not _BEFORE_PATH <= at < len(command.data):
        raise malformed(f"the path of a load command {command.kind:#x} is outside of it, at byte {at}")
    return at, command.data[at:].partition(b"\0")[0]


def _mapped(image: MachImage, command: Command, move: Callable[[bytes], bytes]) -> Command:
    if command.kind not in PATH_COMMANDS:
        return command
    at, path = _path(image, command)
    new = move(path)
    if new == path:
        return command
    # the smallest size, as linkers and install_name_tool have it: the way back then leads to the same bytes
    size = _aligned(at + len(new) + 1, image.alignment)
    resized = Command(command.kind, (command.data[:at] + new).ljust(size, b"\0"))
    return image.patched(resized, 4, "I", size)


def _path_spans(image: MachImage) -> list[Span]:
    """Return where the load commands with paths stand."""
    spans, at = [], image.header_size
    for command in image.commands:
        if command.kind in PATH_COMMANDS:
            spans.append((at, at + len(command.data)))
        at += len(command.data)
    return spans


def _strings_end(image: MachImage) -> int:
    """Return where the strings of an image end: at its signature, which names what has been signed, or at its end."""
    signature = image.table(CODE_SIGNATURE)
    return len(image.data) if signature is None else signature[1]


def _signed(image: MachImage) -> bytes:
    """Return a changed image, signed if it was signed or has to be. Raises `_RefusedError` if that cannot be."""
    linkedit = image.segment(b"__LINKEDIT")
    table = image.table(CODE_SIGNATURE)
    if table is None:
        if image.cpu not in ARM64 or image.file_type not in LOADABLE:
            return image.data
        if linkedit is None or linkedit.end != len(image.data):
            raise _RefusedError("cannot be signed: its segment __LINKEDIT is not at its end")
        return _first_signed(image, linkedit)
    index, offset, size = table
    if linkedit is None or not linkedit.offset <= offset <= offset + size == linkedit.end == len(image.data):
        raise _RefusedError("cannot be signed again: its code signature is not at its end")
    plan = renewed_plan(parse_signature(image.data[offset:]), _exec_segment(image), image.section(b"__info_plist"))
    return _with_signature(image, linkedit, plan, index=index, offset=offset, room=size)


def _first_signed(image: MachImage, linkedit: Segment) -> bytes:
    command = Command(CODE_SIGNATURE, struct.pack(image.order + "4I", CODE_SIGNATURE, 16, 0, 0))
    missing = image.commands_end - image.header_size + len(command.data) - image.room
    if missing > 0:
        raise _RefusedError(_no_room(missing, "for the signature's load command"))
    offset = _aligned(len(image.data), 16)
    padded = replace(image, data=image.data.ljust(offset, b"\0"))
    extended = MachImage.parse(padded.with_commands((*image.commands, command)))
    plan = first_plan(_identifier(image), _exec_segment(image))
    return _with_signature(extended, linkedit, plan, index=len(image.commands), offset=offset, room=0)


def _with_signature(
    image: MachImage, linkedit: Segment, plan: SigningPlan, *, index: int, offset: int, room: int
) -> bytes:
    """Write a signature from `offset` to the end of the file; it keeps the size `room` if it fits into that."""
    size = plan.size(offset)
    size = room if size <= room else _aligned(size, 16)
    if offset + size > _LARGEST:
        raise _RefusedError("cannot be signed: a signature must lie within the first 4 GiB")
    commands = list(image.commands)
    commands[index] = image.patched(commands[index], 8, "2I", offset, size)
    commands[linkedit.command] = _resized(image, linkedit, offset + size - linkedit.offset)
    code = image.with_commands(commands)[:offset]
    return code + plan.sign(code).ljust(size, b"\0")


def _resized(image: MachImage, segment: Segment, size: int) -> Command:
    """Return the load command of a segment that takes `size` bytes in the file."""
    page = 0x4000 if image.cpu in ARM64 else 0x1000
    vm_size = segment.vm_size if size <= segment.vm_size else _aligned(size, page)
    command = image.commands[segment.command]
    if command.kind == SEGMENT_64:
        return image.patched(image.patched(command, 32, "Q", vm_size), 48, "Q", size)
    return image.patched(image.patched(command, 28, "I", vm_size), 36, "I", size)


def _exec_segment(image: MachImage) -> ExecSegment:
    text = image.segment(b"__TEXT")
    flags = MAIN_BINARY if image.file_type == EXECUTABLE else 0
    return ExecSegment(text.offset if text else 0, text.size if text else 0, flags)


def _identifier(image: MachImage) -> bytes:
    """Name an image that has no signature yet: as its library is called, or by its UUID."""
    for command in image.commands:
        if command.kind == ID_DYLIB:
            return _path(image, command)[1].rpartition(b"/")[2]
    uuid = next((command.data[8:24].hex() for command in image.commands if command.kind == _UUID), "unnamed")
    return b"macho-" + uuid.encode()


def _relocate_fat(data: bytes, mapping: PrefixMap, origin: FileOrigin | None) -> MachoEdit:
    """Relocate the slices of a universal file. Slices of something else (archives, bitcode) stay as they are."""
    slices = _slices(data)
    edits = []
    for part in slices:
        content = data[part.offset : part.offset + part.size]
        edits.append(
            _relocate_thin(content, mapping, origin) if is_image(content) else MachoEdit(content, changed=False)
        )
    pairs = list(zip(slices, edits, strict=True))
    refused = [f"{_PROCESSORS.get(part.cpu, hex(part.cpu))}: {why}" for part, edit in pairs for why in edit.refused]
    if refused:
        return _refused(data, *refused)
    findings = tuple(replace(it, offset=it.offset + part.offset) for part, edit in pairs for it in edit.findings)
    unread = sum(edit.unread for edit in edits)
    if not any(edit.changed for edit in edits):
        return MachoEdit(data, changed=False, findings=findings, unread=unread)
    try:
        whole = _joined(data, [(part, edit.data) for part, edit in pairs])
        return MachoEdit(whole, changed=True, findings=findings, unread=unread)
    except _RefusedError as refusal:
        return _refused(data, str(refusal))


def _slices(data: bytes) -> list[_Slice]:
    """Read the header of a universal file. Returns its slices in the order of their bytes."""
    order, layout = _FAT[data[:4]]
    record = struct.Struct(layout)
    if len(data) < _FAT_HEADER:
        raise malformed("it ends within its header")
    (count,) = struct.unpack_from(order + "I", data, 4)
    end = _FAT_HEADER + count * record.size
    if end > len(data):
        raise malformed(f"{count} slices are listed in a file of {len(data)} bytes")
    rows = (record.unpack_from(data, _FAT_HEADER + index * record.size) for index in range(count))
    slices = [_Slice(index, cpu, offset, size, align) for index, (cpu, _, offset, size, align, *_) in enumerate(rows)]
    slices.sort(key=lambda part: (part.offset, part.size))
    for part in slices:
        if part.offset < end:
            raise malformed(f"the slice at byte {part.offset} overlaps what ends at byte {end}")
        end = part.offset + part.size
        if end > len(data):
            raise malformed(f"the slice at byte {part.offset} ends at byte {end} of a file of {len(data)} bytes")
        if part.align > _MOST_ALIGNED:
            raise malformed(f"a slice is aligned to 2**{part.align} bytes; 2**{_MOST_ALIGNED} is the most")
    return slices


def _joined(data: bytes, slices: list[tuple[_Slice, bytes]]) -> bytes:
    """Put a universal file together again. A slice moves only if the ones before it have grown into its place."""
    _, layout = _FAT[data[:4]]
    record = struct.Struct(layout)
    wide = "Q" in layout
    out = bytearray(data[: slices[0][0].offset])
    for part, content in slices:
        offset = part.offset if part.offset >= len(out) else _aligned(len(out), 1 << part.align)
        if not wide and offset + len(content) > _LARGEST:
            raise _RefusedError("its slices would take more than 4 GiB, which its header cannot say")
        out += (data[len(out) : offset] if offset == part.offset else bytes(offset - len(out))) + content
        row = list(record.unpack_from(data, _FAT_HEADER + part.row * record.size))
        row[2:4] = offset, len(content)
        record.pack_into(out, _FAT_HEADER + part.row * record.size, *row)
    last = slices[-1][0]
    return bytes(out) + data[last.offset + last.size :]


def _aligned(size: int, unit: int) -> int:
    return -(-size // unit) * unit
