"""Layers of any builder become directories: what they say is kept, and nothing of it reaches anything outside."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest

from oci_binpkg.archive.merged_root import link_layers
from oci_binpkg.archive.root_layer import unpack_root_layer
from oci_binpkg.archive.tar_input import Limits
from oci_binpkg.archive.unpacked_layers import UnpackedLayers
from oci_binpkg.errors import ContentError, LocalDiskError
from oci_binpkg.model.content import OCI_LAYER_GZIP, Blob, Digest
from oci_binpkg.model.image import Layer

Entry = tuple[str, str | None] | tuple[str, str | None, dict[str, Any]]


def tar_of(*entries: Entry, kind: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar: a name that ends with a slash is a directory, `-> x` a link, `=> x` a hard link."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=kind) as tar:
        for name, content, *more in entries:
            member = tarfile.TarInfo(name.rstrip("/"))
            member.mode = 0o755 if name.endswith("/") else 0o644
            if name.endswith("/"):
                member.type = tarfile.DIRTYPE
            elif content is not None and content[:3] in ("-> ", "=> "):
                member.type = tarfile.SYMTYPE if content[0] == "-" else tarfile.LNKTYPE
                member.linkname = content[3:]
            for key, value in (more[0] if more else {}).items():
                setattr(member, key, value)
            data = b"" if member.linkname else (content or "").encode()
            member.size = member.size or len(data)
            tar.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def unpack(target: Path, *entries: Entry) -> Any:
    return unpack_root_layer(
        io.BytesIO(gzip.compress(tar_of(*entries))), str(target), "the image", media_type=OCI_LAYER_GZIP
    )


def layer_of(*entries: Entry) -> Layer:
    tar = tar_of(*entries)
    return Layer(Blob.from_bytes(gzip.compress(tar), OCI_LAYER_GZIP), Digest("sha256", hashlib.sha256(tar).hexdigest()))


def test_what_a_layer_holds_is_there(tmp_path: Path) -> None:
    found = unpack(
        tmp_path / "a",
        ("./", None),
        ("./etc/", None, {"mode": 0o2750}),
        ("etc/motd", "hello", {"mtime": 1234567890, "mode": 0o444}),
        ("usr/bin/tool", "#!", {"mode": 0o4755}),
        ("usr/bin/other", "=> usr/bin/tool"),
        ("bin", "-> usr/bin"),
        ("absolute", "-> /etc/passwd"),
        ("tmp/", None, {"mode": 0o1777}),
        ("run/pipe", None, {"type": tarfile.FIFOTYPE}),
        ("dev/sda", None, {"type": tarfile.BLKTYPE}),
        ("big", "\0" * 3_000_000 + "x"),
    )
    root = tmp_path / "a"
    assert (found.size, found.is_overlay) == (7 + 3_000_001, True)
    assert (root / "etc/motd").stat().st_mtime == 1234567890
    modes = {
        name: oct(stat.S_IMODE((root / name).lstat().st_mode))
        for name in ("etc", "etc/motd", "usr/bin/tool", "tmp", "usr")
    }
    assert modes == {"etc": "0o750", "etc/motd": "0o444", "usr/bin/tool": "0o755", "tmp": "0o1777", "usr": "0o755"}
    assert os.path.samefile(root / "usr/bin/tool", root / "usr/bin/other")
    assert os.readlink(root / "absolute") == "/etc/passwd"
    assert stat.S_ISFIFO((root / "run/pipe").lstat().st_mode)
    assert not (root / "dev/sda").exists()
    assert (root / "big").stat().st_blocks * 512 < 2_000_000
    assert (root / "big").read_bytes().strip(b"\0") == b"x"


def test_a_later_member_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    unpack(tmp_path / "a", ("x", "-> /etc/passwd"), ("x", "mine"), ("d", "file"), ("d/", None), ("d/y", "in it"))
    assert (tmp_path / "a/x").read_text() == "mine"
    assert not (tmp_path / "a/x").is_symlink()
    assert (tmp_path / "a/d/y").read_text() == "in it"


@pytest.mark.parametrize(
    ("entries", "finding"),
    [
        ([("../x", "y")], "leads out"),
        ([("a/../../x", "y")], "leads out"),
        ([("link", "-> /tmp"), ("link/x", "y")], "lies below 'link'"),
        ([("link", "-> .."), ("link/x/", None)], "lies below 'link'"),
        ([("file", "x"), ("file/x", "y")], "lies below 'file'"),
        ([("x", "=> ../../etc/passwd")], "leads out"),
        ([("x", "=> nothing")], "does not have"),
        ([("x", "=> .")], "hard link to nothing"),
        ([("link", "-> /etc"), ("x", "=> link/passwd")], "lies below 'link'"),
        ([("d/x", "y"), ("d", "z")], "name of a directory"),
        ([("/".join("d" * 200), "x")], "too deep"),
        ([(".wh.", None)], "deletes nothing"),
        ([("x", "y", {"pax_headers": {"comment": "x" * 2_000_000}})], "extended header"),
    ],
)
def test_what_leads_out_or_costs_too_much_is_refused(tmp_path: Path, entries: list[Entry], finding: str) -> None:
    with pytest.raises(ContentError, match=finding):
        unpack(tmp_path / "a", *entries)
    assert os.listdir(tmp_path) == []


def test_an_absolute_name_is_below_the_root(tmp_path: Path) -> None:
    unpack(tmp_path / "a", ("/etc/x", "y"))
    assert (tmp_path / "a/etc/x").read_text() == "y"


@pytest.mark.parametrize(
    "data", [b"", b"x" * 5000, gzip.compress(b"no tar" * 500), gzip.compress(tar_of(("a", "b")))[:-20]]
)
def test_what_is_no_layer_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ContentError):
        unpack_root_layer(io.BytesIO(data), str(tmp_path / "a"), "the image", media_type=OCI_LAYER_GZIP)
    assert not (tmp_path / "a").exists()


def test_a_sparse_file_that_claims_to_be_huge_is_refused(tmp_path: Path) -> None:
    member = tarfile.TarInfo("huge")
    member.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.name": "huge"}
    member.pax_headers |= {
        "GNU.sparse.size": str(1 << 50),
        "GNU.sparse.realsize": str(1 << 50),
        "GNU.sparse.map": f"{1 << 50},0",
    }
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(member)
    with pytest.raises(ContentError, match="grows too much"):
        unpack_root_layer(
            io.BytesIO(stream.getvalue()), str(tmp_path / "a"), "the image", limits=Limits(total_bytes=1 << 30)
        )
    assert not (tmp_path / "a").exists()


def test_other_bytes_than_the_diff_id_names_are_refused(tmp_path: Path) -> None:
    data = gzip.compress(tar_of(("a", "b")))
    with pytest.raises(ContentError, match="diff_id"):
        unpack_root_layer(io.BytesIO(data), str(tmp_path / "a"), "the image", diff_id=Digest("sha256", "0" * 64))
    assert not (tmp_path / "a").exists()


def shown(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in sorted(root.rglob("*")) if path.is_file()}


STACK: list[list[Entry]] = [
    [
        ("etc/a", "1"),
        ("etc/b", "1"),
        ("opt/x/old", "1"),
        ("lib", "-> usr/lib"),
        ("usr/lib/l", "1"),
        ("gone/x", "1"),
        ("f", "1"),
    ],
    [("etc/.wh.a", None), ("etc/b", "2"), ("opt/x/.wh..wh..opq", None), ("opt/x/new", "2"), (".wh.gone", None)],
    [("gone/y", "3"), ("lib/m", "3"), (".wh.f", None), ("f/", None), ("f/z", "3"), ("g/", None), (".wh.g", None)],
]
RESULT = {"etc/b": "2", "opt/x/new": "2", "usr/lib/l": "1", "gone/y": "3", "lib/m": "3", "f/z": "3"}


@pytest.mark.parametrize("is_overlay", [True, False])
def test_layers_are_merged_as_an_overlay_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_overlay: bool
) -> None:
    if not is_overlay:  # a file system without attributes, a kernel that keeps whiteouts to root

        def refused(*_: object, **__: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "mknod", refused)
        monkeypatch.setattr(os, "setxattr", refused)
    found = [unpack(tmp_path / f"l{number}", *entries).is_overlay for number, entries in enumerate(STACK)]
    assert found == [True, is_overlay, is_overlay]
    (tmp_path / "merged").mkdir()
    link_layers([str(tmp_path / f"l{number}") for number in range(3)], str(tmp_path / "merged"))
    assert shown(tmp_path / "merged") == RESULT


def test_layers_are_unpacked_once_and_kept_while_they_are_used(tmp_path: Path) -> None:
    first, second = layer_of(("a", "x" * 1000)), layer_of(("b", "y" * 1000))
    cache = UnpackedLayers(str(tmp_path / "cache"), 1500)
    with cache.held([first], "one") as held:
        assert (Path(held[0].path) / "a").is_file()
        with cache.held([second], "two") as other:  # the first one is in use, so that the limit has to wait
            assert (Path(other[0].path) / "b").is_file()
            assert (Path(held[0].path) / "a").is_file()
    broken = Layer(Blob.from_bytes(b"gone", OCI_LAYER_GZIP), second.diff_id)
    with cache.held([broken], "two again") as again:  # not read once more; and the first one makes room
        assert (Path(again[0].path) / "b").is_file()
    assert not Path(held[0].path).exists()
    assert os.listdir(tmp_path / "cache/staging") == []
    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o700


def test_a_layer_that_is_damaged_is_unpacked_anew(tmp_path: Path) -> None:
    layer, cache = layer_of(("a", "x")), UnpackedLayers(str(tmp_path / "cache"), 10**6)
    with cache.held([layer], "one") as held:
        path = Path(held[0].path).parent
    (path / "record.json").write_text("{")
    with cache.held([layer], "one") as held:
        assert (Path(held[0].path) / "a").read_text() == "x"


def test_a_bad_layer_leaves_nothing_in_the_cache(tmp_path: Path) -> None:
    cache = UnpackedLayers(str(tmp_path / "cache"), 10**6)
    bad = Layer(layer_of(("a", "x")).blob, Digest("sha256", "0" * 64))
    with pytest.raises(ContentError, match="diff_id"), cache.held([bad], "one"):
        pass
    assert os.listdir(tmp_path / "cache/layers") == os.listdir(tmp_path / "cache/staging") == []


def test_a_cache_that_is_no_folder_is_a_disk_error(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(LocalDiskError), UnpackedLayers(str(tmp_path / "cache"), 1).held([layer_of(("a", "x"))], "one"):
        pass
