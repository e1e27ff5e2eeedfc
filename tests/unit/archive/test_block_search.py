"""What is said to be clean mentions nothing, wherever the pieces are cut."""

from __future__ import annotations

import io
import itertools
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oci_binpkg.archive.binary_distribution import MEMBER, Distribution
from oci_binpkg.archive.block_search import BLOCK, BlockSearch, common_part
from oci_binpkg.archive.extract import Extracted, extract_layer
from oci_binpkg.relocate.spellings import marks_of, wide_marks_of

WANTED = b"/opt/x"
MARKS = (*marks_of(WANTED), *wide_marks_of(WANTED))
SPELLED = [b"/opt//x", b"\\/opt\\/x", b"%2Fopt%2Fx", *("/opt/x".encode(f"utf-{kind}") for kind in ("16-le", "16-be", "32-le", "32-be"))]  # fmt: skip


def searched(data: bytes, cuts: list[int]) -> BlockSearch:
    """A search that took the data in pieces that end at the cuts."""
    bounds = [0, *sorted(cut for cut in cuts if cut <= len(data)), len(data)]
    pieces = [data[begin:end] for begin, end in itertools.pairwise(bounds)]
    search = BlockSearch()
    search.update(pieces[0])
    search.begin(WANTED, pieces[0])
    for piece in pieces[1:]:
        search.update(piece)
    return search


@given(
    st.lists(st.sampled_from([b"a" * 400, b"b" * 3, WANTED, b"/opt/", b"/", b"x", b"\0" * 700]), max_size=12),
    st.lists(st.integers(0, 5000), max_size=8),
)
def test_clean_blocks_begin_no_mention(parts: list[bytes], cuts: list[int]) -> None:
    data = b"".join(parts)
    search = searched(data, cuts)
    for begin in range(0, len(data), BLOCK):
        end = min(begin + BLOCK, len(data))
        mentioned = any(data.startswith(WANTED, at) for at in range(begin, end))
        assert not (search.is_clean(begin, end) and mentioned)
        marked = any(data.startswith(MARKS, at) for at in range(begin, end))
        assert search.is_clean(begin, end) != marked


@given(
    st.lists(st.sampled_from([b"a" * 400, *SPELLED, b"/opt/", b"/", b"x", b"\0" * 700]), max_size=12),
    st.lists(st.integers(0, 5000), max_size=8),
)
def test_other_spellings_are_not_clean(parts: list[bytes], cuts: list[int]) -> None:
    data = b"".join(parts)
    search = searched(data, cuts)
    for spelled in SPELLED:
        at = -1
        while (at := data.find(spelled, at + 1)) >= 0:
            assert not search.is_clean(at // BLOCK * BLOCK, at + len(spelled))


def test_what_was_not_looked_at_is_not_clean() -> None:
    assert not BlockSearch().is_clean(0, 0)
    search = BlockSearch()
    search.begin(WANTED, b"nothing")
    assert search.is_clean(0, 7)
    assert not search.is_clean(0, 8)


def test_a_file_full_of_mentions_costs_one_number_a_block() -> None:
    search = BlockSearch()
    search.begin(WANTED, WANTED * 10_000)
    assert len(search._found) == -(-len(WANTED) * 10_000 // BLOCK)


@pytest.mark.parametrize(
    ("name", "part"),
    [("opt/spack/linux/greet/bin/greet", b"/opt/spack"), ("sw/greet", b"/sw/greet"), ("greet", b"/greet")],
)
def test_the_part_of_a_name_that_old_prefixes_share(name: str, part: bytes) -> None:
    assert common_part(name) == part


def extracted(tmp_path: Path, files: dict[str, bytes]) -> Extracted:
    """A layer of these files below /opt/x/p, extracted."""
    document = Distribution("", "/opt/x", "", "p", {"h" * 32: "/opt/x/p"}).to_bytes()
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for folder in ("opt", "opt/x", "opt/x/p", "opt/x/p/.spack"):
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(info)
        for name, data in {**files, MEMBER: document}.items():
            info = tarfile.TarInfo(f"opt/x/p/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    raw.seek(0)
    return extract_layer(raw, str(tmp_path / "new"), "it")


def test_files_are_sorted_out_while_they_go_by(tmp_path: Path) -> None:
    far = b"\0" * 3_000_000
    files = {
        "plain": b"nothing here",
        "empty": b"",
        "near": b"see /opt/x/p/bin",
        "far": far + b"/opt/x/p" + far,
        "large": far,
        "wide": "/opt/x/p".encode("utf-16"),
        "last": b"nothing",
    }
    layer = extracted(tmp_path, files)
    assert layer.looked_for == b"/opt/x"
    assert layer.clean == {"plain", "empty", "large", "last"}
