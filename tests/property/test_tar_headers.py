"""Our own tar headers are those of the library, for every name, size and target."""

from __future__ import annotations

import os
import tarfile

from hypothesis import given
from hypothesis import strategies as st

from oci_binpkg.archive.tar_writer import header

parts = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=40)
plain = st.text("abcz019._-+", min_size=1, max_size=60)
raw = st.binary(min_size=1, max_size=40).map(
    lambda name: os.fsdecode(name.replace(b"/", b"").replace(b"\0", b"") or b"\xff")
)
paths = st.lists(st.one_of(parts, plain, raw), min_size=1, max_size=5).map("/".join)
sizes = st.one_of(st.integers(0, 2**20), st.integers(8**11 - 2, 8**11 + 2), st.integers(0, 2**40))


@given(paths, st.sampled_from([0o644, 0o755]), sizes)
def test_files(name: str, mode: int, size: int) -> None:
    assert header(name, tarfile.REGTYPE, mode, size=size) == _librarys(name, tarfile.REGTYPE, mode, size)


@given(paths, st.sampled_from([tarfile.SYMTYPE, tarfile.LNKTYPE]), paths)
def test_links(name: str, kind: bytes, target: str) -> None:
    assert header(name, kind, 0o755, target=target) == _librarys(name, kind, 0o755, target=target)


@given(paths)
def test_directories(name: str) -> None:
    assert header(name, tarfile.DIRTYPE, 0o755) == _librarys(name, tarfile.DIRTYPE, 0o755)


def _librarys(name: str, kind: bytes, mode: int, size: int = 0, target: str = "") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.size, info.linkname = kind, mode, size, target
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
