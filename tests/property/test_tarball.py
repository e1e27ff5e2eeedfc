"""Any tree that can be packed comes back from the standard reader, and gives the same bytes wherever and whenever."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from oci_binpkg.archive.binary_distribution import MEMBER, Distribution
from oci_binpkg.archive.tar_writer import write_tar
from oci_binpkg.relocate.scan import PrefixScanner
from tests.support.examples import examples

DISTRIBUTION = Distribution("/r/bin/sbang", "/r", "/opt/spack", "a", {"h": "/r/a"})

names = st.text(st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1, max_size=70).filter(
    lambda name: name not in (".", "..") and len(name.encode()) <= 255
)
leaves = st.one_of(
    st.tuples(st.just("file"), st.binary(max_size=1200), st.booleans()),
    st.tuples(st.just("link"), names),
)
trees = st.recursive(
    st.dictionaries(names, leaves, max_size=4),
    lambda inner: st.dictionaries(names, st.one_of(leaves, inner), max_size=4),
    max_leaves=12,
)


def build(tree: dict[str, Any], directory: Path, expected: dict[str, tuple[Any, ...]], relative: str) -> None:
    directory.mkdir()
    expected[relative] = ("directory",)
    for name, node in tree.items():
        path, inner = directory / name, f"{relative}/{name}"
        if isinstance(node, dict):
            build(node, path, expected, inner)
        elif node[0] == "link":
            path.symlink_to(node[1])
            expected[inner] = ("link", node[1])
        else:
            path.write_bytes(node[1])
            path.chmod(0o775 if node[2] else 0o664)
            expected[inner] = ("file", node[1], 0o755 if node[2] else 0o644)


def read(tar: bytes) -> dict[str, tuple[Any, ...]]:
    found: dict[str, tuple[Any, ...]] = {}
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        for member in archive:
            assert member.name not in found
            if member.isdir():
                found[member.name] = ("directory",)
            elif member.issym():
                found[member.name] = ("link", member.linkname)
            else:
                content = archive.extractfile(member)
                assert content is not None
                found[member.name] = ("file", content.read(), member.mode)
    return found


def pack(directory: Path) -> bytes:
    out = bytearray()
    classifier = PrefixScanner(DISTRIBUTION.known_prefixes)
    write_tar(str(directory), out.extend, distribution=DISTRIBUTION, classifier=classifier, archive_prefix="/r/a")
    return bytes(out)


@examples(60)
@given(trees)
def test_round_trip(tree: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as place:
        expected: dict[str, tuple[Any, ...]] = {}
        one, other = Path(place, "one"), Path(place, "other")
        build(tree, one, expected, "r/a")
        build(dict(reversed(tree.items())), other, {}, "r/a")
        os.utime(other, (1, 1))
        tar = pack(one)

        assert pack(other) == tar
        found = read(tar)
        assert found.pop(f"r/a/{MEMBER}")[0] == "file"
        assert found.pop("r") == ("directory",)
        assert found == expected
