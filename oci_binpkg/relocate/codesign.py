"""Code signatures of Mach-O files: what an old one says, and a new ad-hoc one in its place. Pure.

An ad-hoc signature names no signer; it is the list of the hashes of the file's pages, which the kernel of macOS
requires before it runs anything on arm64. The structures are those of `cs_blobs.h` in Apple's XNU sources, all of them
big-endian. The order of the parts is the one of `codesign` and of Apple's linker, so that signing what they have signed
gives the bytes that they wrote.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from oci_binpkg.errors import ContentError

ADHOC: Final = 0x2
LINKER_SIGNED: Final = 0x20000
"""A linker wrote the signature; tools may replace it on their own."""

INFO_PLIST: Final = 1
REQUIREMENTS: Final = 2
RESOURCES: Final = 3
ENTITLEMENTS: Final = 5
ENTITLEMENTS_DER: Final = 7

SHA256: Final = 2
PAGE_SHIFTS: Final = (12, 14)
"""Pages of 4 KiB and of 16 KiB, as powers of two: the ones that kernels have."""
MAIN_BINARY: Final = 0x1

_SUPER_BLOB: Final = 0xFADE0CC0
_CODE_DIRECTORY: Final = 0xFADE0C02
_EMPTY_REQUIREMENTS: Final = struct.pack(">3I", 0xFADE0C01, 12, 0)
_EMPTY_CMS: Final = struct.pack(">2I", 0xFADE0B01, 8)
_CMS_SLOT: Final = 0x10000
_DIRECTORY_SLOT: Final = 0
_OTHER_DIRECTORIES: Final = range(0x1000, 0x1005)
_VERSION: Final = 0x20400  # the first one with the fields about the executable segment
_DIRECTORY: Final = struct.Struct(">9I4B4IQ3Q")
_HASH_SIZE: Final = 32
_BLOB_HEADER: Final = 8


class ExecSegment(NamedTuple):
    """What a signature says of the segment with the code: its place in the file, and whether this is a program."""

    base: int
    limit: int
    flags: int


@dataclass(frozen=True, slots=True)
class Signature:
    """What a signature says. `special` are hashes of things beside the code, by slot; `blobs` are parts, by slot."""

    identifier: bytes
    version: int
    flags: int
    hash_type: int
    page_shift: int
    code_limit: int
    exec_segment: ExecSegment | None
    page_hashes: tuple[bytes, ...]
    special: Mapping[int, bytes]
    blobs: Mapping[int, bytes]

    @property
    def linker_signed(self) -> bool:
        """Return whether a linker wrote it, and no `codesign` afterwards."""
        return bool(self.flags & LINKER_SIGNED)

    @property
    def by_identity(self) -> bool:
        """Return whether it was signed with a certificate: such a signature cannot be renewed."""
        return len(self.blobs.get(_CMS_SLOT, b"")) > len(_EMPTY_CMS)


def parse_signature(data: bytes) -> Signature:
    """Read a signature (the bytes that LC_CODE_SIGNATURE points to; padding may follow).

    Of several code directories, for systems of different ages, the one with SHA-256 is read. Raises `ContentError`.
    """
    blobs = _blobs(data)
    directories = [blobs[slot] for slot in (_DIRECTORY_SLOT, *_OTHER_DIRECTORIES) if slot in blobs]
    if not directories:
        raise _malformed("it has no code directory")
    signatures = [_parse_directory(directory, blobs) for directory in directories]
    return next((signature for signature in signatures if signature.hash_type == SHA256), signatures[0])


@dataclass(frozen=True, slots=True)
class SigningPlan:
    """All of an ad-hoc signature but the hashes of the pages.

    `special` are SHA-256 hashes of things outside the signature, by slot; `blobs` are the parts of the signature whose
    hashes are in the code directory, by slot. `bare` leaves out the empty parts that `codesign` writes and linkers do
    not.
    """

    identifier: bytes
    flags: int
    page_shift: int
    exec_segment: ExecSegment
    special: Mapping[int, bytes]
    blobs: Mapping[int, bytes]
    bare: bool

    def size(self, code_limit: int) -> int:
        """Return how many bytes the signature of a file takes that has `code_limit` bytes before it."""
        parts = [*self.blobs.values(), *(() if self.bare else (_EMPTY_CMS,))]
        hashes = self._special_slots + -(-code_limit // (1 << self.page_shift))
        directory = _DIRECTORY.size + len(self.identifier) + 1 + _HASH_SIZE * hashes
        return 12 + 8 * (1 + len(parts)) + directory + sum(map(len, parts))

    def sign(self, code: bytes) -> bytes:
        """Return the signature of `code`, which is everything in the file before it."""
        parts = [(_DIRECTORY_SLOT, self._directory(code)), *sorted(self.blobs.items())]
        if not self.bare:
            parts.append((_CMS_SLOT, _EMPTY_CMS))
        offset = 12 + 8 * len(parts)
        index = b""
        for slot, blob in parts:
            index += struct.pack(">2I", slot, offset)
            offset += len(blob)
        return struct.pack(">3I", _SUPER_BLOB, offset, len(parts)) + index + b"".join(blob for _, blob in parts)

    @property
    def _special_slots(self) -> int:
        return max((*self.special, *self.blobs), default=0)

    def _directory(self, code: bytes) -> bytes:
        page = 1 << self.page_shift
        view = memoryview(code)
        pages = [hashlib.sha256(view[at : at + page]).digest() for at in range(0, len(code), page)]
        hashed = {**self.special, **{slot: hashlib.sha256(blob).digest() for slot, blob in self.blobs.items()}}
        # slot n is n places before the hash of the first page
        special = [hashed.get(slot, bytes(_HASH_SIZE)) for slot in range(self._special_slots, 0, -1)]
        name = self.identifier + b"\0"
        hashes_at = _DIRECTORY.size + len(name) + _HASH_SIZE * len(special)
        header = _DIRECTORY.pack(
            *(_CODE_DIRECTORY, hashes_at + _HASH_SIZE * len(pages), _VERSION, self.flags),
            *(hashes_at, _DIRECTORY.size, len(special), len(pages), len(code)),
            *(_HASH_SIZE, SHA256, 0, self.page_shift),
            *(0, 0, 0, 0, 0),  # spare, scatter, team, spare, a code limit beyond 4 GiB
            *self.exec_segment,
        )
        return b"".join((header, name, *special, *pages))


def first_plan(identifier: bytes, exec_segment: ExecSegment) -> SigningPlan:
    """Plan a signature for a file that has none, as a linker writes it: a code directory and nothing else."""
    return SigningPlan(
        identifier=identifier,
        flags=ADHOC | LINKER_SIGNED,
        page_shift=PAGE_SHIFTS[0],
        exec_segment=exec_segment,
        special={},
        blobs={},
        bare=True,
    )


def renewed_plan(old: Signature, exec_segment: ExecSegment, info_plist: bytes | None = None) -> SigningPlan:
    """Plan the ad-hoc signature that takes the place of `old`.

    Identifier, page size, entitlements and the hashes of what lies outside the file stay; so do requirements, unless
    they come from an identity, whose certificate they would ask for. `info_plist` is the property list in the file
    itself, hashed anew. Everything that only an identity can assert (team, hardened run time) goes, as with
    `codesign -s -`. `exec_segment` is for signatures too old to describe it.
    """
    parts = set(old.blobs) - {_DIRECTORY_SLOT, *_OTHER_DIRECTORIES}
    blobs: dict[int, bytes] = {slot: old.blobs[slot] for slot in (ENTITLEMENTS, ENTITLEMENTS_DER) if slot in parts}
    if parts:
        kept = None if old.by_identity else old.blobs.get(REQUIREMENTS)
        blobs[REQUIREMENTS] = kept or _EMPTY_REQUIREMENTS
    special = {}
    if old.hash_type == SHA256:
        special = {slot: old.special[slot] for slot in (INFO_PLIST, RESOURCES) if slot in old.special}
    if info_plist is not None and INFO_PLIST in old.special:
        special[INFO_PLIST] = hashlib.sha256(info_plist).digest()
    return SigningPlan(
        identifier=old.identifier,
        flags=ADHOC | (old.flags & LINKER_SIGNED),
        page_shift=old.page_shift if old.page_shift in PAGE_SHIFTS else PAGE_SHIFTS[0],
        exec_segment=old.exec_segment or exec_segment,
        special=special,
        blobs=blobs,
        bare=not parts,
    )


def _malformed(reason: str) -> ContentError:
    return ContentError(f"malformed code signature: {reason}", hint="the file is damaged; build or fetch it again")


def _blobs(data: bytes) -> dict[int, bytes]:
    magic, length, count = _unpack(">3I", data, 0)
    if magic != _SUPER_BLOB:
        raise _malformed(f"its magic number is {magic:#x}")
    if length > len(data) or 12 + 8 * count > length:
        raise _malformed(f"{count} parts in {length} bytes do not fit into {len(data)} bytes")
    blobs: dict[int, bytes] = {}
    total = 0
    for index in range(count):
        slot, offset = _unpack(">2I", data, 12 + 8 * index)
        _, size = _unpack(">2I", data, offset)
        total += size
        # parts that lie upon one another would multiply the work and the bytes
        if size < _BLOB_HEADER or offset + size > length or total > length or slot in blobs:
            raise _malformed(f"its part {slot:#x} cannot be {size} bytes at byte {offset}")
        blobs[slot] = data[offset : offset + size]
    return blobs


def _parse_directory(data: bytes, blobs: Mapping[int, bytes]) -> Signature:
    magic, _, version, flags, hashes_at, name_at, special_count, count, limit = _unpack(">9I", data, 0)
    hash_size, hash_type, _, page_shift = _unpack(">4B", data, 36)
    if magic != _CODE_DIRECTORY:
        raise _malformed(f"the magic number of its code directory is {magic:#x}")
    # the numbers come from the file: no loop runs up to them before they are checked against its size
    if not hash_size or special_count * hash_size > hashes_at or hashes_at + count * hash_size > len(data):
        raise _malformed(f"{special_count} and {count} hashes of {hash_size} bytes do not fit into its code directory")
    identifier, end, _ = data[name_at:].partition(b"\0")
    if not end:
        raise _malformed("its identifier has no end")
    starts = range(hashes_at - special_count * hash_size, hashes_at + count * hash_size, hash_size)
    hashes = [data[start : start + hash_size] for start in starts]
    special = enumerate(reversed(hashes[:special_count]), 1)
    return Signature(
        identifier=identifier,
        version=version,
        flags=flags,
        hash_type=hash_type,
        page_shift=page_shift,
        code_limit=limit,
        exec_segment=ExecSegment(*_unpack(">3Q", data, 64)) if version >= _VERSION else None,
        page_hashes=tuple(hashes[special_count:]),
        special={slot: value for slot, value in special if any(value)},
        blobs=blobs,
    )


def _unpack(layout: str, data: bytes, at: int) -> tuple[int, ...]:
    try:
        return struct.unpack_from(layout, data, at)
    except struct.error as error:
        raise _malformed(f"it ends before byte {at + struct.calcsize(layout)}") from error
