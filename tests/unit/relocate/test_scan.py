"""Which files are binaries, and which are text that mentions a prefix."""

from __future__ import annotations

import pytest

from oci_binpkg.relocate.scan import FileKind, PrefixScanner
from tests.support.effort import cpu_within

ROOT = "/opt/golden/store"
MENTION = f"see {ROOT}/bin".encode()


def kind_of(content: bytes, *, chunk: int = 1 << 20, prefixes: tuple[str, ...] = (ROOT,)) -> FileKind:
    scan = PrefixScanner(prefixes).start()
    for at in range(0, len(content), chunk):
        scan.feed(content[at : at + chunk])
    return scan.finish()


CASES = {
    "elf": (b"\x7fELF\x02\x01\x01\x00" + b"\0" * 100, FileKind.BINARY),
    "macho 64": (b"\xcf\xfa\xed\xfe\x07\x00\x00\x01", FileKind.BINARY),
    "macho 64 big": (b"\xfe\xed\xfa\xcf\x07\x00\x00\x01", FileKind.BINARY),
    "macho 32": (b"\xce\xfa\xed\xfe\x07\x00\x00\x01", FileKind.BINARY),
    "macho 32 big": (b"\xfe\xed\xfa\xce\x07\x00\x00\x01", FileKind.BINARY),
    "universal": (b"\xca\xfe\xba\xbe\x00\x00\x00\x02" + MENTION, FileKind.BINARY),
    "universal little": (b"\xbe\xba\xfe\xca\x02\x00\x00\x00", FileKind.BINARY),
    "java class": (b"\xca\xfe\xba\xbe\x00\x00\x00\x34" + MENTION, FileKind.OTHER),
    "static archive": (b"!<arch>\n" + b"\x00\xff" + MENTION, FileKind.OTHER),
    "elf cut short": (b"\x7fELF\x02\x01", FileKind.OTHER),
    "ascii": (MENTION, FileKind.TEXT),
    "utf-8": ("naïve ☃ ".encode() + MENTION, FileKind.TEXT),
    "utf-8 with NUL": ("☃\0".encode() + MENTION, FileKind.TEXT),
    "utf-8 cut within a character": (MENTION + "☃".encode()[:2], FileKind.OTHER),
    "latin-1 cut like utf-8": (MENTION + b"\xe9", FileKind.TEXT),
    "latin-1": (b"caf\xe9 at " + MENTION, FileKind.TEXT),
    "latin-1 with NUL": (b"caf\xe9\0" + MENTION, FileKind.OTHER),
    "latin-1 with delete": (b"caf\xe9\x7f" + MENTION, FileKind.OTHER),
    "latin-1 with a control character": (b"caf\xe9 \x9f" + MENTION, FileKind.OTHER),
    "utf-16": (MENTION.decode().encode("utf-16"), FileKind.OTHER),
    "no mention": (b"nothing to see here", FileKind.OTHER),
    "mention within a longer path": (b"see /stage" + ROOT.encode() + b"/bin", FileKind.OTHER),
    "both kinds of mention": (b"/stage" + ROOT.encode() + b" -I" + ROOT.encode(), FileKind.TEXT),
    "empty": (b"", FileKind.OTHER),
}


@pytest.mark.parametrize("chunk", [1, 3, 1 << 20])
@pytest.mark.parametrize("name", CASES)
def test_kinds(name: str, chunk: int) -> None:
    content, expected = CASES[name]

    assert kind_of(content, chunk=chunk) is expected


def test_files_shorter_than_eight_bytes_are_neither() -> None:
    assert kind_of(b"=/opt/a", prefixes=("/opt/a",)) is FileKind.OTHER
    assert kind_of(b"==/opt/a", prefixes=("/opt/a",)) is FileKind.TEXT


@pytest.mark.parametrize("before", [b"", b"/", b"/" + b"w" * 700, b"=" + b"w" * 700, b"/a-b_c"])
@pytest.mark.parametrize("offset", range(0, 24, 5))
def test_a_mention_across_chunks(before: bytes, offset: int) -> None:
    content = b" " * 100 + before + ROOT.encode() + b" the end"
    cut = 100 + len(before) + offset - 3
    scan = PrefixScanner([ROOT]).start()
    scan.feed(content[:cut])
    scan.feed(content[cut:])

    assert scan.finish() is (FileKind.OTHER if before.startswith(b"/") else FileKind.TEXT)


def test_without_prefixes_only_binaries_are_found() -> None:
    assert kind_of(MENTION, prefixes=()) is FileKind.OTHER
    assert kind_of(b"\x7fELF\x02\x01\x01\x00", prefixes=()) is FileKind.BINARY


def test_links_into_a_prefix() -> None:
    scanner = PrefixScanner([ROOT])

    assert scanner.is_target(f"{ROOT}/lib")
    assert not scanner.is_target("lib")


def test_big_files_cost_little() -> None:
    """Scanning must not be what a push waits for: far below the cost of compressing the same bytes."""
    line = b"The quick brown fox jumps over the lazy dog, and no prefix is mentioned here.\n"
    chunk = line * (1024 * 1024 // len(line))
    scan = PrefixScanner([ROOT, f"{ROOT}/linux/a", f"{ROOT}/linux/b"]).start()
    with cpu_within(1.0):
        for _ in range(64):
            scan.feed(chunk)

    assert scan.finish() is FileKind.OTHER


def test_what_can_be_no_text_is_not_searched() -> None:
    scan = PrefixScanner([ROOT]).start()
    chunk = b"\xff\0" * 512 * 1024
    with cpu_within(0.5):
        for _ in range(2000):
            scan.feed(chunk)

    assert scan.finish() is FileKind.OTHER
