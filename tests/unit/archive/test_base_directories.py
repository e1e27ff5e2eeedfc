"""What a base image has above the prefixes of packages."""

import gzip
import io
import tarfile

import pytest

from oci_binpkg.archive.base_directories import (
    Attributes,
    Directories,
    directories_of,
    parents_as_in_base,
    restoring,
)
from oci_binpkg.archive.merged_layer import parents_of
from oci_binpkg.errors import ContentError


def layer(*members):
    """Return the directories of a layer of members: a path with a slash is a directory, (path, target) a link."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member in members:
            match member:
                case (path, int(mode), int(owner)):
                    info = tarfile.TarInfo(path)
                    info.type, info.mode, info.uid, info.gid = tarfile.DIRTYPE, mode, owner, owner + 1
                case (path, target):
                    info = tarfile.TarInfo(path)
                    info.type, info.linkname = tarfile.SYMTYPE, target
                case str():
                    info = tarfile.TarInfo(member.rstrip("/"))
                    info.type, info.mode = (
                        (tarfile.DIRTYPE, 0o755) if member.endswith("/") else (tarfile.REGTYPE, 0o644)
                    )
                    info.size = 3 if info.type == tarfile.REGTYPE and "/.wh." not in f"/{member}" else 0
            archive.addfile(info, io.BytesIO(b"abc"))
    stream.seek(0)
    return directories_of(stream, "a layer")


def base(*layers):
    found = Directories()
    for each in layers:
        found.put(Directories.from_bytes(each.to_bytes()))
    return found


def test_only_directories_that_differ_from_what_packages_say_are_changed():
    found = base(layer(("tmp", 0o1777, 0), "opt/", ("home/app", 0o755, 1000), ("srv", 0o2775, 0), ("root", 0o700, 0)))
    prefixes = ["/tmp/a/p", "/opt/x", "/home/app/tree/p", "/srv/p", "/root/p", "/var/p"]
    assert found.changed_by(prefixes) == {
        "home/app": Attributes(0o755, 1000, 1001, 0),
        "root": Attributes(0o700, 0, 1, 0),
        "srv": Attributes(0o2775, 0, 1, 0),
        "tmp": Attributes(0o1777, 0, 1, 0),
    }
    assert found.changed_by(["/tmp"]) == {}, "a prefix is not above itself"


@pytest.mark.parametrize(
    ("links", "prefix", "real"),
    [
        ([("opt", "var/opt")], "/opt/spack/p", "/var/opt/spack/p"),
        ([("opt", "/var/opt")], "/opt/p", "/var/opt/p"),
        ([("usr/local", "../var/local")], "/usr/local/p", "/var/local/p"),
        ([("opt", "a"), ("a", "b/c"), ("b/c", "../d")], "/opt/p", "/d/p"),
        ([("opt", "../../../../etc")], "/opt/p", "/etc/p"),
        ([("opt/p", "elsewhere")], "/opt/p", "/opt/p"),
        ([("home", "./var//home/")], "/home/a/b/p", "/var/home/a/b/p"),
        ([], "/opt/p", "/opt/p"),
    ],
)
def test_links_are_followed_within_the_image(links, prefix, real):
    assert base(layer(*links)).real(prefix) == real


def test_links_in_a_circle_are_an_error():
    with pytest.raises(ContentError, match="circle"):
        base(layer(("a", "b"), ("b", "a"))).real("/a/p")


def test_upper_layers_decide():
    lower = layer(("tmp", 0o1777, 0), ("a", 0o700, 0), ("a/b", 0o700, 0), ("opt", "var/opt"), ("c", 0o700, 0))
    assert base(lower, layer(("tmp", 0o755, 0))).changed_by(["/tmp/p"])["tmp"].mode == 0o755
    assert base(lower, layer(".wh.a")).changed_by(["/a/b/p"]) == {}
    assert set(base(lower, layer("a/.wh..wh..opq")).changed_by(["/a/b/p"])) == {"a"}
    assert base(lower, layer(".wh..wh..opq")).directories == {}
    assert base(lower, layer(".wh.opt")).real("/opt/p") == "/opt/p"
    assert base(lower, layer("opt/")).real("/opt/p") == "/opt/p"
    assert base(lower, layer(("a", "c"))).real("/a/b/p") == "/c/b/p"
    assert set(base(lower, layer(("a", "c"))).changed_by(["/c/b/p"])) == {"c"}


def test_names_of_any_form_are_read():
    long = "d" * 90 + "/" + "e" * 90
    found = layer((long, 0o700, 3_000_000), "./x/", "/y/", "ä/", "file")
    assert found.directories[long] == Attributes(0o700, 3_000_000, 3_000_001, 0)
    assert {"x", "y", "ä"} <= set(found.directories)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
        info = tarfile.TarInfo(long)
        info.type, info.mode = tarfile.DIRTYPE, 0o711
        archive.addfile(info)
    assert directories_of(io.BytesIO(gzip.compress(stream.getvalue())), "x").directories[long].mode == 0o711


@pytest.mark.parametrize("data", [b"no tar at all" * 100, bytes(100), b"", gzip.compress(b"x" * 1024)])
def test_what_is_no_tar_is_an_error(data):
    with pytest.raises(ContentError):
        directories_of(io.BytesIO(data), "x")


def test_a_header_that_says_it_is_huge_is_not_read():
    info = tarfile.TarInfo("x")
    info.type, info.size = b"x", 2**33
    with pytest.raises(ContentError, match="extended header"):
        directories_of(io.BytesIO(info.tobuf(tarfile.GNU_FORMAT) + bytes(2048)), "x")


def test_names_without_end_are_an_error(monkeypatch):
    monkeypatch.setattr("oci_binpkg.archive.base_directories._MOST_ENTRIES", 3)
    with pytest.raises(ContentError, match="too many"):
        layer("a/", "b/", "c/", "d/")


def test_what_restores_says_what_the_base_says():
    changed = base(layer(("tmp", 0o1777, 5), ("tmp/a", 0o2775, 3_000_000))).changed_by(["/tmp/a/b/p"])
    again = directories_of(io.BytesIO(restoring(changed)), "x")
    assert again.directories == changed
    assert parents_as_in_base("/opt/a/p", {}) == parents_of(["/opt/a/p"])
    mixed = directories_of(io.BytesIO(parents_as_in_base("/tmp/a/b/p", changed) + bytes(1024)), "x")
    assert mixed.directories == changed | {"tmp/a/b": Attributes(0o755, 0, 0, 0)}


@pytest.mark.parametrize(
    ("members", "path", "there"),
    [
        (["lib64/ld-linux-x86-64.so.2"], "/lib64/ld-linux-x86-64.so.2", True),
        (["usr/lib/x/ld-2.31.so", ("lib64", "usr/lib64"), ("usr/lib64/ld.so.2", "../lib/x/ld-2.31.so")], "/lib64/ld.so.2", True),
        (["lib/libc.so", ("lib/ld-musl-x86_64.so.1", "libc.so")], "/lib/ld-musl-x86_64.so.1", True),
        (["lib/ld-musl-x86_64.so.1"], "/lib64/ld-linux-x86-64.so.2", False),
        ([("lib64/ld-linux-x86-64.so.2", "nowhere")], "/lib64/ld-linux-x86-64.so.2", False),
        ([("lib64/ld.so.2", "ld.so.3"), ("lib64/ld.so.3", "ld.so.2")], "/lib64/ld.so.2", False),
        (["lib64/other"], "/lib64/other", False),
    ],
)  # fmt: skip
def test_loaders_are_known_through_links(members, path, there):
    found = base(layer(*members))
    assert found.has_loader(path) == there
    found.put(
        layer(
            ".wh." + members[0][0].split("/")[0] if isinstance(members[0], tuple) else ".wh." + members[0].split("/")[0]
        )
    )
    assert not found.has_loader(path)
