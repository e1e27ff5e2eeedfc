"""Whatever can be packed comes out as it was; whatever is changed in between is noticed or changes nothing outside."""

from __future__ import annotations

import io
import os
import stat
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from oci_binpkg.archive.binary_distribution import MEMBER, Distribution
from oci_binpkg.archive.codec import Codec
from oci_binpkg.archive.extract import extract_layer
from oci_binpkg.archive.layer import pack_layer
from oci_binpkg.errors import ContentError
from oci_binpkg.relocate.scan import PrefixScanner
from tests.support.examples import examples
from tests.support.hostile_archives import (
    POSIX,
    directory,
    file,
    gz,
    hard_link,
    header,
    package,
    pax,
    record,
    snapshot,
    symlink,
    within,
)

PREFIX = "/r/store/a-1-hash"
DISTRIBUTION = Distribution("/r/bin/sbang", "/r/store", "/opt/spack", "a-1-hash", {"h": PREFIX})

names = st.text(st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1, max_size=60).filter(
    lambda name: name not in (".", "..") and len(name.encode()) <= 255 and not name.startswith(".wh.")
)
contents = st.one_of(
    st.binary(max_size=1200),
    st.builds(
        lambda seed, size: (bytes([seed]) * 13 + b"\n") * (size // 14), st.integers(0, 255), st.integers(0, 3_000_000)
    ),
)
leaves = st.one_of(
    st.tuples(st.just("file"), contents, st.booleans()),
    st.tuples(st.just("link"), names),
    st.tuples(st.just("hard link"), st.integers(0, 5)),
)
trees = st.recursive(
    st.dictionaries(names, leaves, max_size=4),
    lambda inner: st.dictionaries(names, st.one_of(leaves, inner), max_size=4),
    max_leaves=12,
)


def build(tree: dict, place: Path, files: list[Path]) -> None:
    place.mkdir()
    for name, node in tree.items():
        path = place / name
        if isinstance(node, dict):
            build(node, path, files)
        elif node[0] == "link":
            path.symlink_to(node[1])
        elif node[0] == "hard link":
            if files:
                os.link(files[node[1] % len(files)], path)
        else:
            path.write_bytes(node[1])
            path.chmod(0o755 if node[2] else 0o644)
            files.append(path)


def facts(root: Path) -> dict[str, tuple]:
    found: dict[str, tuple] = {}
    first: dict[int, str] = {}
    for path in sorted(root.rglob("*")):
        name, status = str(path.relative_to(root)), path.lstat()
        if stat.S_ISLNK(status.st_mode):
            found[name] = ("link", os.readlink(path))
        elif stat.S_ISDIR(status.st_mode):
            found[name] = ("directory",)
        else:
            found[name] = (
                "file",
                stat.S_IMODE(status.st_mode),
                path.read_bytes(),
                first.setdefault(status.st_ino, name),
            )
    return found


@examples(40)
@given(trees, st.sampled_from(["gzip:1", "gzip", "zstd"]))
def test_round_trip(tree: dict, codec: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        one, out = Path(place, "one"), Path(place, "out")
        build({**tree, ".spack": {}}, one, [])

        def pack(root: Path, name: str):
            return pack_layer(
                str(root),
                f"{place}/{name}",
                Codec.parse(codec),
                distribution=DISTRIBUTION,
                classifier=PrefixScanner(DISTRIBUTION.known_prefixes),
                archive_prefix=PREFIX,
            )

        packed = pack(one, "layer")
        with open(packed.path, "rb") as stream:
            extracted = extract_layer(
                stream,
                str(out),
                "it",
                media_type=Codec.parse(codec).media_type("oci"),
                diff_id=packed.diff_id,
                members=packed.summary.members,
            )

        assert extracted.prefix == PREFIX
        assert (extracted.uncompressed_size, extracted.diff_id) == (packed.uncompressed_size, packed.diff_id)
        found = facts(out)
        assert found.pop(MEMBER)[0] == "file"
        assert found == facts(one)
        assert pack(out, "again").diff_id == packed.diff_id


paths = st.lists(st.sampled_from(["a", "b", "c", "..", ".", "", "canary", ".wh.a"]), min_size=1, max_size=4).map(
    "/".join
)
targets = st.one_of(paths, st.sampled_from(["/", "../canary", "../../canary", "../../../../canary"]))
builders = st.one_of(
    st.builds(file, paths.map(within), st.binary(max_size=600)),
    st.builds(directory, paths.map(within)),
    st.builds(symlink, paths.map(within), targets),
    st.builds(hard_link, paths.map(within), st.one_of(paths.map(within), targets)),
    st.builds(lambda path: pax(record("path", path)), st.one_of(paths, paths.map(within))),
    st.builds(file, paths),
)


@examples(150)
@given(st.lists(builders, max_size=8))
def test_any_members_in_any_order_touch_nothing_outside(members: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as place:
        canary, destination = Path(place, "canary"), Path(place, "in", "out")
        canary.mkdir()
        destination.parent.mkdir()
        (canary / "a").write_bytes(b"alive")
        before = snapshot(canary)
        try:
            extract_layer(io.BytesIO(gz(package(*members))), str(destination), "it")
        except ContentError:
            assert not destination.exists()
        assert snapshot(canary) == before
        assert sorted(os.listdir(place)) == ["canary", "in"]


fields = st.binary(max_size=12) | st.sampled_from(
    [b"00000000010\0", b"77777777777\0", b"\x80" + bytes(10) + b"\1", b"\xff" * 12]
)
headers = st.builds(
    lambda name, kind, size, mode, target, directory, gnu, data: (
        header(
            name, kind, size=size.ljust(12, b"\0"), mode=mode[:8].ljust(8, b" "), target=target, directory=directory, magic=b"ustar  \0" if gnu else POSIX
        )
        + data
    ),
    st.binary(max_size=110) | paths.map(within).map(str.encode),
    st.sampled_from([b"0", b"\0", b"1", b"2", b"5", b"x", b"g", b"L", b"K"]) | st.binary(min_size=1, max_size=1),
    fields,
    fields,
    st.binary(max_size=110) | targets.map(str.encode),
    st.binary(max_size=150) | st.just(b""),
    st.booleans(),
    st.binary(max_size=20).map(lambda data: data.ljust(512, b"\0")) | st.just(b""),
)  # fmt: skip


@examples(200)
@given(st.lists(headers, min_size=1, max_size=3))
def test_headers_with_any_fields_are_members_or_refused(blocks: list[bytes]) -> None:
    """The checksums are right, so that the fields themselves are read."""
    with tempfile.TemporaryDirectory() as place:
        destination = Path(place, "out")
        try:
            extract_layer(io.BytesIO(gz(package(*blocks))), str(destination), "it")
        except ContentError:
            assert not destination.exists()
        assert set(os.listdir(place)) <= {"out"}


@examples(100)
@given(st.binary(max_size=3000), st.integers(0, 3000))
def test_any_bytes_are_refused_as_content(noise: bytes, at: int) -> None:
    whole = bytearray(package(file(within("a")), symlink(within("b"), "a")))
    whole[at : at + len(noise)] = noise
    with tempfile.TemporaryDirectory() as place:
        for layer in (noise, gz(noise), gz(bytes(whole))):
            destination = Path(place, "out")
            try:
                extract_layer(io.BytesIO(layer), str(destination), "it")
            except ContentError:
                assert not destination.exists()
            else:
                destination.rename(Path(place, "good"))
