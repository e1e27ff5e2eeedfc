"""What is fuzzed, and with which seeds. Refusing the bytes with the module's own error is right; all else is a find.

A target takes bytes. Where there are several readers or mappings, the first byte says which. A tar gets right checksums
and a right compression before it is read: nothing would be behind them otherwise.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oci_binpkg.archive.binary_distribution import Distribution
from oci_binpkg.archive.extract import extract_layer
from oci_binpkg.cache.mirror_manifest import parse_mirror_manifest
from oci_binpkg.errors import ContentError, InstallsError
from oci_binpkg.index.catalog_database import read_rows
from oci_binpkg.installs.database import parse_database
from oci_binpkg.model.manifest import parse_config, parse_manifest
from oci_binpkg.model.spec_document import parse_spec_document
from oci_binpkg.relocate.codesign import parse_signature
from oci_binpkg.relocate.files import left_in_binary, relocate_binary
from oci_binpkg.relocate.macho import relocate_macho, remaining_in_macho
from oci_binpkg.relocate.prefixes import PrefixMap
from oci_binpkg.signing.armor import read_signature
from oci_binpkg.signing.clearsign import split
from oci_binpkg.transport.failures import parse_error_body
from tests.support import elf_files as elf
from tests.support import hostile_archives as tars
from tests.support import macho_files as macho
from tests.support.golden import GOLDEN
from tests.support.opened_index import open_index

OLD = "/opt/old/tree"
MAPPINGS = [
    PrefixMap.of({OLD: new, "/opt/made": new, "/DLC": new}) for new in ("/n", "/srv/new/tree", "/srv/a/much/longer/one")
]
MOST_GROWN = (1 << 32) + (1 << 20)  # behind uninitialised data a file may get a hole as large as this
MOST_READ = 1 << 28
_BLOCK = 512


@dataclass(frozen=True)
class Target:
    """`words` are the pieces that mutations are made of, `longest` bounds them in bytes."""

    run: Callable[[bytes], None]
    seeds: Callable[[], Iterator[bytes]]
    words: tuple[bytes, ...] = ()
    longest: int = 8192


def mended(tar: bytes) -> bytes:
    """Return a tar whose headers have right checksums, whatever else was done to them."""
    blocks = bytearray(tar)
    for at in range(0, len(blocks) - _BLOCK + 1, _BLOCK):
        if blocks[at + 257 : at + 262] == b"ustar":
            blocks[at + 148 : at + 156] = b" " * 8
            blocks[at + 148 : at + 156] = b"%06o\0 " % sum(blocks[at : at + _BLOCK])
    return bytes(blocks)


def extract(data: bytes) -> None:
    wrap = (bytes, lambda tar: tars.gz(mended(tar)), lambda tar: tars.zst(mended(tar)))[_choice(data) % 3]
    with tempfile.TemporaryDirectory(prefix="fuzz") as place:
        destination = Path(place, "out")
        try:
            extract_layer(io.BytesIO(wrap(data[1:])), str(destination), "it")
        except ContentError:
            assert not destination.exists(), "something stays of what was refused"
        assert [path for path in Path(place).iterdir() if path.name != "out"] == [], "something is outside"


def layers() -> Iterator[bytes]:
    within = tars.within
    members = [
        tars.file(within("a"), b"x" * 600),
        tars.symlink(within("b"), "a"),
        tars.hard_link(within("c"), within("a")),
        tars.directory(within("d")),
        tars.pax(tars.record("path", within("e" * 120))) + tars.file("e"),
        tars.gnu_long(within("f" * 120)) + tars.file("f"),
    ]
    whole = tars.package(*members)
    yield b"\0" + tars.gz(whole)
    yield b"\0" + tars.zst(whole)
    yield from (bytes([way]) + tars.package(*members[:count]) for way in (1, 2) for count in (1, 4, 6))


def read_elf(data: bytes) -> None:
    mapping = MAPPINGS[_choice(data) % len(MAPPINGS)]
    with tempfile.NamedTemporaryFile() as file:
        file.write(data[1:])
        file.flush()
        relocate_binary(file.name, mapping)
        size = os.stat(file.name).st_size
        if size <= MOST_READ:
            left_in_binary(file.name, mapping)
        assert size <= MOST_GROWN, "a small file has become a huge one"


def elf_files() -> Iterator[bytes]:
    old = OLD.encode()
    names = [(elf.NEEDED, b"libx.so"), (elf.RUNPATH, old + b"/lib:/usr/lib"), (elf.SONAME, old + b"/x.so")]
    for bits, order in ((64, "<"), (64, ">"), (32, "<"), (32, ">")):
        for sections in (True, False):
            file = elf.ElfFile(
                bits,
                order,
                interpreter=old + b"/ld.so",
                names=names,
                symbols=[b"main", b"tree/lib"],
                versions=((b"libx.so", b"V_1"),),
                sections=sections,
                spare=(elf.PT_NULL,),
            ).build()
            yield from (bytes([way]) + file for way in range(3))


def read_macho(data: bytes) -> None:
    way = _choice(data)
    with suppress(ContentError):
        if way == len(MAPPINGS):
            parse_signature(data[1:])
        else:
            mapping = MAPPINGS[way % len(MAPPINGS)]
            list(remaining_in_macho(relocate_macho(data[1:], mapping).data, mapping))


def macho_files() -> Iterator[bytes]:
    thin = macho.build([(macho.RPATH, "/opt/made/lib"), (macho.LOAD, f"{OLD}/x"), (macho.ID, "/opt/made/x")])
    big = macho.build([(macho.RPATH, "/opt/made")], macho.Shape(order=">", wide=False, cpu=macho.PPC))
    fat = macho.build_fat([(macho.ARM64, thin), (macho.I386, big)])
    greet = macho.fixture("made/greet")
    yield from (bytes([way]) + file for way in range(3) for file in (thin, big, fat, greet))
    yield bytes([len(MAPPINGS)]) + macho.signature_of(greet)


def _index(data: bytes) -> None:
    with suppress(ContentError):
        open_index(data, "it")
    with suppress(ContentError):
        list(_touched(open_index(data, "it")))
    with suppress(ContentError):
        records = open_index(data, "it").records
        list(read_rows(records, records))


def _touched(index: Any) -> Iterator[Any]:
    return (record.spec for record in index.records.values())


READERS: tuple[Callable[[bytes], Any], ...] = (
    lambda data: parse_manifest(data, "it"),
    lambda data: parse_config(data, "it"),
    lambda data: parse_spec_document(data, "it"),
    _index,
    lambda data: parse_mirror_manifest(data, "it"),
    lambda data: parse_database(data, "it"),
    lambda data: split(data, "it"),
    lambda data: read_signature(data, "it"),
    lambda data: Distribution.parse(data, "it"),
    parse_error_body,
)


def read_document(data: bytes) -> None:
    with suppress(ContentError, InstallsError):
        READERS[_choice(data) % len(READERS)](data[1:])


def documents() -> Iterator[bytes]:
    layout = GOLDEN / "oci-layout"
    for file in sorted(layout.glob("blobs/sha256/*")):
        if (data := file.read_bytes())[:1] == b"{":
            yield bytes([0 if b'"layers"' in data else 2 if b'"spec"' in data else 1]) + data
    yield b"\0" + (layout / "index.json").read_bytes()
    yield b"\2" + (GOLDEN / "specs/greet.spec.v4.json").read_bytes()
    index = (GOLDEN / "specs/store-index.v7.json").read_bytes()
    yield from (b"\3" + index, b"\5" + index)
    signed = next(iter(sorted(GOLDEN.glob("v3-signed/v3/manifests/spec/greet/*.json")))).read_bytes()
    text, signature = split(signed, "it")
    yield from (b"\4" + text, b"\6" + signed, b"\7" + signature, b"\x08" + tars.DOCUMENT)
    yield b"\x09" + json.dumps({"errors": [{"code": "DENIED", "message": "no", "detail": None}]}).encode()


KEYS = (
    *("schemaVersion", "mediaType", "config", "layers", "manifests", "digest", "size", "annotations", "platform"),
    *("rootfs", "diff_ids", "history", "database", "installs", "version", "spec", "nodes", "hash", "dependencies"),
    *("parameters", "arch", "data", "checksum", "contentLength", "compression", "errors", "code", "message"),
)
WORDS = [f'"{key}"'.encode() for key in KEYS]

TARGETS = {
    "extractor": Target(
        extract, layers, (b"ustar\00000", b"ustar  \0", b"\x28\xb5\x2f\xfd", b"\x1f\x8b\x08", b"GNU.sparse")
    ),
    "elf": Target(read_elf, elf_files, (OLD.encode(), b"\x7fELF", b"\xff\xff\xff\xff", b"\0\0\0\x80")),
    "macho": Target(
        read_macho, macho_files, (b"/opt/made", b"\xca\xfe\xba\xbe", b"\xcf\xfa\xed\xfe", b"\xfa\xde\x0c\xc0"), 65536
    ),
    "documents": Target(
        read_document,
        documents,
        (*WORDS, b"-----BEGIN PGP SIGNATURE-----\n", b"null", b"true", b"[]", b"{}", b"1e999", b"\\ud800", b"\xff"),
    ),
}


def corpus(name: str) -> list[Path]:
    """Return the files of what was found once for a target."""
    return sorted(path for path in (Path(__file__).parent / "corpus" / name).glob("*") if path.is_file())


def _choice(data: bytes) -> int:
    return data[0] if data else 0
