"""What relocation has to know of a file: whether it is a binary, or text that mentions a prefix. One pass, in chunks.

The rules are Spack's. A binary begins with the magic number of ELF or Mach-O. Text is valid UTF-8 (NUL included), or
else bytes without control characters (00, 7f to 9f), which is how text in Latin-1 looks. Files shorter than 8 bytes
are neither. Static archives and Java classes are no binaries, because nothing in them can be relocated.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from enum import StrEnum
from typing import Final

from oci_binpkg.relocate.boundaries import follows_slash
from oci_binpkg.relocate.prefix_set import PrefixSet

MAGIC_SIZE: Final = 8
_THIN: Final = (b"\x7fELF", b"\xcf\xfa\xed\xfe", b"\xfe\xed\xfa\xcf", b"\xce\xfa\xed\xfe", b"\xfe\xed\xfa\xce")
_FAT: Final = {b"\xca\xfe\xba\xbe": "big", b"\xbe\xba\xfe\xca": "little"}
_MAX_ARCHITECTURES: Final = 10
_CONTROL: Final = bytes((0, *range(0x7F, 0xA0)))
_UTF8: Final = codecs.getincrementaldecoder("utf-8")


class FileKind(StrEnum):
    """What is done with a file at relocation."""

    BINARY = "binary"
    TEXT = "text"
    OTHER = "other"


def is_object_file(magic: bytes) -> bool:
    """Return whether a file that begins with these 8 bytes is ELF or Mach-O.

    A Java class begins like a universal Mach-O file; there the number of architectures stands where Java has its
    version, which began at 45.
    """
    if len(magic) < MAGIC_SIZE:
        return False
    order = _FAT.get(magic[:4])
    if order == "big":
        return int.from_bytes(magic[4:8], "big") < _MAX_ARCHITECTURES
    if order == "little":
        return int.from_bytes(magic[4:8], "little") < _MAX_ARCHITECTURES
    return magic.startswith(_THIN)


class PrefixScanner:
    """Classifies files with respect to a set of prefixes. Immutable; serves any number of threads."""

    def __init__(self, prefixes: PrefixSet | Iterable[str]) -> None:
        self._prefixes = prefixes if isinstance(prefixes, PrefixSet) else PrefixSet.of(prefixes)

    def start(self) -> PrefixScan:
        """Begin with a new file."""
        return PrefixScan(self._prefixes)

    def is_target(self, link: str) -> bool:
        """Return whether a symbolic link with this target is to be relocated."""
        return self._prefixes.is_target(link)


class PrefixScan:
    """The scan of one file: `feed` it all chunks in order, then `finish`.

    Costs about a pass over memory: only searches that run in C, and none at all once the file can be neither a binary
    nor text. Keeps nothing of the file but a tail shorter than the longest prefix.
    """

    __slots__ = ("_decoder", "_head", "_latin", "_mention", "_open", "_pending", "_utf8")

    def __init__(self, prefixes: PrefixSet) -> None:
        self._head = b""
        self._open = True
        self._decoder = _UTF8()
        self._utf8 = True
        self._pending = False
        self._latin = True
        self._mention = _Mention(prefixes)

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the file."""
        if not self._open:
            return
        if len(self._head) < MAGIC_SIZE:
            chunk = self._head + chunk
            self._head = chunk[:MAGIC_SIZE]
            if len(chunk) < MAGIC_SIZE:
                return
            if is_object_file(chunk):
                self._open = False
                return
        self._read_text(chunk)
        if self._utf8 or self._latin:
            self._mention.feed(chunk)
        else:
            self._open = False

    def finish(self) -> FileKind:
        """Return what the file is."""
        if is_object_file(self._head):
            return FileKind.BINARY
        if len(self._head) < MAGIC_SIZE or not self._mention.found:
            return FileKind.OTHER
        if self._pending:
            self._utf8 = False  # the file ends within a character
        return FileKind.TEXT if self._utf8 or self._latin else FileKind.OTHER

    def _read_text(self, chunk: bytes) -> None:
        ascii_only = chunk.isascii()
        if self._latin:
            self._latin = b"\0" not in chunk and b"\x7f" not in chunk
            if self._latin and not ascii_only:
                self._latin = len(chunk.translate(None, _CONTROL)) == len(chunk)
        if self._utf8 and (self._pending or not ascii_only):
            try:
                self._decoder.decode(chunk)
            except UnicodeDecodeError:
                self._utf8 = False
            else:
                self._pending = bool(self._decoder.getstate()[0])


class _Mention:
    """Looks for a mention of a prefix in a stream, by the text rule of `prefixes`."""

    __slots__ = ("_after_slash", "_keep", "_prefixes", "_tail", "found")

    def __init__(self, prefixes: PrefixSet) -> None:
        self.found = False
        self._prefixes = prefixes
        self._keep = max(0, prefixes.longest - 1)
        self._tail = b""
        # whether the run of word characters that ends where the tail begins follows a slash
        self._after_slash = False

    def feed(self, chunk: bytes) -> None:
        if self.found or not self._prefixes.needles:
            return
        text = self._tail + chunk
        self.found = any(self._mentions(text, needle) for needle in self._prefixes.needles)
        cut = max(0, len(text) - self._keep)
        self._after_slash = self._follows_slash(text, cut)
        self._tail = text[cut:]

    def _mentions(self, text: bytes, needle: bytes) -> bool:
        at = text.find(needle)
        while at >= 0:
            if not self._follows_slash(text, at) and self._stands_at(text, at):
                return True
            at = text.find(needle, at + 1)
        return False

    def _stands_at(self, text: bytes, at: int) -> bool:
        return self._prefixes.are_exact or self._prefixes.longest_at(text, at) is not None

    def _follows_slash(self, text: bytes, at: int) -> bool:
        return follows_slash(text, at, before=self._after_slash)
