"""Layers nobody should send: tars made block by block, so that anything can be said, and the proof that nothing came of it.

The code of the package under test and the standard library's tarfile take no part.
"""

from __future__ import annotations

import gzip
import io
import os
from pathlib import Path
from typing import Any

import pytest
import zstandard

from oci_binpkg.archive.extract import Extracted, extract_layer
from oci_binpkg.errors import ContentError

PREFIX = "opt/store/pkg-1-abc"
DOCUMENT = b"{buildpath: /opt/store, hash_to_prefix: {abc: /opt/store/pkg-1-abc}, hardlinks_deduped: true}\n"
END = bytes(1024)
POSIX = b"ustar\x0000"
GNU = b"ustar  \x00"


def encode(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


def header(
    name: str | bytes,
    kind: bytes = b"0",
    *,
    size: int | bytes = 0,
    mode: int | bytes = 0o644,
    target: str | bytes = b"",
    directory: bytes = b"",
    magic: bytes = POSIX,
    uid: int = 0,
    checksum: int | None = None,
) -> bytes:
    """Return the block of a member; `size` and `mode` may be given as the bytes of their fields."""
    block = bytearray(512)
    block[0:100] = encode(name)[:100].ljust(100, b"\0")
    block[100:108] = mode if isinstance(mode, bytes) else b"%07o\0" % mode
    block[108:116] = block[116:124] = b"%07o\0" % uid
    block[124:136] = size if isinstance(size, bytes) else b"%011o\0" % size
    block[136:148] = b"%011o\0" % 0
    block[148:156] = b" " * 8
    block[156:157] = kind
    block[157:257] = encode(target)[:100].ljust(100, b"\0")
    block[257:265] = magic
    block[345:500] = directory.ljust(155, b"\0")
    block[148:156] = b"%06o\0 " % (sum(block) if checksum is None else checksum)
    assert len(block) == 512
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def file(name: str | bytes, data: bytes = b"data", **options: Any) -> bytes:
    return header(name, size=len(data), **options) + padded(data)


def directory(name: str | bytes, **options: Any) -> bytes:
    return header(name, b"5", mode=0o755, **options)


def symlink(name: str | bytes, target: str | bytes) -> bytes:
    return header(name, b"2", target=target)


def hard_link(name: str, target: str | bytes, **options: Any) -> bytes:
    return header(name, b"1", target=target, **options)


def record(key: str | bytes, value: str | bytes) -> bytes:
    """Return a record of a pax header; its length counts its own digits."""
    rest = b" " + encode(key) + b"=" + encode(value) + b"\n"
    length = len(rest) + 1
    while len(str(length)) + len(rest) != length:
        length = len(str(length)) + len(rest)
    return b"%d" % length + rest


def pax(*records: bytes, kind: bytes = b"x") -> bytes:
    data = b"".join(records)
    return header("././@PaxHeader", kind, size=len(data)) + padded(data)


def gnu_long(value: str | bytes, kind: bytes = b"L") -> bytes:
    data = encode(value) + b"\0"
    return header("././@LongLink", kind, size=len(data), magic=GNU) + padded(data)


def parents(prefix: str = PREFIX) -> bytes:
    parts = prefix.split("/")
    return b"".join(directory("/".join(parts[: depth + 1]) + "/") for depth in range(len(parts)))


def document(prefix: str = PREFIX, data: bytes | None = None) -> bytes:
    return file(
        f"{prefix}/.spack/binary_distribution",
        data if data is not None else DOCUMENT.replace(PREFIX.encode(), prefix.encode()),
    )


def package(*members: bytes, prefix: str = PREFIX, end: bytes = END) -> bytes:
    """Return the tar of a package that is good but for `members`."""
    return parents(prefix) + b"".join(members) + document(prefix) + end


def within(name: str) -> str:
    return f"{PREFIX}/{name}"


def gz(tar: bytes) -> bytes:
    return gzip.compress(tar, 6, mtime=0)


def zst(tar: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True, write_content_size=False).compress(tar)


def snapshot(directory: Path) -> dict[str, tuple]:
    """Return what is in a directory: kinds, modes, contents and targets."""
    found: dict[str, tuple] = {}
    for path in sorted(directory.rglob("*")):
        status = path.lstat()
        if path.is_symlink():
            content: object = os.readlink(path)
        else:
            content = path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(directory))] = (oct(status.st_mode), status.st_mtime_ns, status.st_nlink, content)
    return found


class Place:
    """A directory with a canary, beside which layers are extracted into `place/out`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.canary = directory / "canary"
        self.destination = directory / "place" / "out"
        self.destination.parent.mkdir()
        self.canary.mkdir()
        (self.canary / "file").write_bytes(b"alive")
        (self.canary / "below").mkdir()

    def extract(self, layer: bytes, **options: Any) -> Extracted:
        return extract_layer(io.BytesIO(layer), str(self.destination), "the layer of pkg", **options)

    def refuse(self, layer: bytes, reason: str, **options: Any) -> ContentError:
        """Assert that a layer is refused for `reason` (a pattern), and that this left no trace."""
        before = snapshot(self.canary)
        with pytest.raises(ContentError, match=reason) as caught:
            self.extract(layer, **options)
        assert "the layer of pkg" in caught.value.message
        assert os.listdir(self.destination.parent) == []
        assert sorted(os.listdir(self.directory)) == ["canary", "place"]
        assert snapshot(self.canary) == before
        return caught.value

    def refuse_members(self, *members: bytes, reason: str, **options: Any) -> ContentError:
        """Assert that a package with these members is refused."""
        return self.refuse(gz(package(*members)), reason, **options)
