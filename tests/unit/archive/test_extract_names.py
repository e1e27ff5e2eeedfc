"""Names, links and kinds of members that a layer must not have: all refused, and nothing is left or touched outside."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from oci_binpkg.archive.tar_input import Limits
from oci_binpkg.errors import ContentError
from tests.support.hostile_archives import (
    END,
    GNU,
    PREFIX,
    Place,
    directory,
    document,
    file,
    gnu_long,
    gz,
    hard_link,
    header,
    package,
    parents,
    pax,
    record,
    symlink,
    within,
)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.covers("B16")
@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "//etc/passwd",
        "../evil",
        f"{PREFIX}/../../../../evil",
        f"{PREFIX}/..",
        f"{PREFIX}/a/../b",
        f"./{PREFIX}/a",
        f"{PREFIX}/./a",
        f"{PREFIX}//a",
        f"{PREFIX}/a/",
        ".",
        "..",
        "/",
        "",
    ],
)
def test_B16_names_that_lead_elsewhere_or_nowhere(place: Place, name: str) -> None:
    place.refuse_members(file(name), reason="absolute, or has")
    place.refuse_members(symlink(name, "x"), reason="absolute, or has")


@pytest.mark.covers("B16")
@pytest.mark.parametrize("name", [f"{PREFIX}/a//", f"{PREFIX}/../", "./", "/"])
def test_B16_directories_may_end_with_one_slash_and_no_more(place: Place, name: str) -> None:
    place.refuse_members(directory(name), reason="absolute, or has")


@pytest.mark.covers("B16")
def test_B16_a_name_that_is_not_utf_8_says_that_it_is_bytes(place: Place) -> None:
    raw = within("").encode() + b"\xff\x1b[2J"
    error = place.refuse_members(pax(record("path", raw)), file(raw), reason="does not say that it is bytes")

    assert r"pkg-1-abc/\\xff" in error.message
    assert "\x1b" not in error.message
    place.refuse_members(pax(record("linkpath", b"\xfe")), symlink(within("a"), b"\xfe"), reason="target is not UTF-8")


@pytest.mark.covers("B16")
@pytest.mark.parametrize("name", [b"caf\xe9", b"\xe2\x82", b"\xed\xa0\x80", b"\xff" * 200])
@pytest.mark.parametrize("form", ["pax", "question marks", "gnu", "plain"])
def test_B16_a_name_of_bytes_stays_as_it_is(place: Place, name: bytes, form: str) -> None:
    raw = within("").encode() + name
    binary = pax(record("hdrcharset", "BINARY"), record("path", raw), record("linkpath", name))
    marks = raw.decode("utf-8", "surrogateescape").encode("ascii", "replace")
    members = {
        "pax": [binary, symlink(raw[:100], name[:100])],
        "question marks": [binary, symlink(marks[:100], marks[len(within("")) :][:100])],
        "gnu": [gnu_long(raw), file(raw[:100])],
        "plain": [file(raw[:100])],
    }[form]

    place.extract(gz(package(*members)))

    found = os.fsencode(place.destination) + b"/" + (name if form != "plain" else raw[:100][len(within("")) :])
    assert os.path.lexists(found)
    if form in {"pax", "question marks"}:
        assert os.readlink(found) == name


@pytest.mark.covers("B16")
def test_B16_a_nul_within_a_long_name(place: Place) -> None:
    place.refuse_members(pax(record("path", within("a\0b"))), file(within("a")), reason="holds a NUL")
    place.refuse_members(gnu_long(within("a\0b")), file(within("a")), reason="holds a NUL")


@pytest.mark.covers("B16")
def test_B16_long_components_and_long_names(place: Place) -> None:
    long = within("c" * 256)
    place.refuse_members(pax(record("path", long)), file(long), reason="more than 255 bytes")
    wide = within("é" * 128)
    place.refuse_members(pax(record("path", wide)), file(wide), reason="more than 255 bytes")
    deep = within("/".join(["d" * 200] * 21))
    place.refuse_members(pax(record("path", deep)), file(deep), reason="4096")


@pytest.mark.covers("B16")
@pytest.mark.parametrize(
    "name", ["dev-disk-by\\x2dlabel.swap", "back\\slash", "a\nb", "\x1b[31m", "nul", "C:", "x.", "-rf", "~", "naïve"]
)
def test_B16_names_that_are_only_odd_are_kept(place: Place, name: str) -> None:
    long = within(name)

    extracted = place.extract(gz(package(pax(record("path", long)), file(long, b"odd"))))

    assert (place.destination / name).read_bytes() == b"odd"
    assert extracted.files[name] == 3


@pytest.mark.covers("B17")
@pytest.mark.parametrize("name", [f"{PREFIX}-evil/a", "opt/store/other/a", "opt/file", "etc", f"{PREFIX}x"])
def test_B17_members_beside_the_prefix(place: Place, name: str) -> None:
    for members in (file(name), symlink(name, "/etc"), directory(name)):
        place.refuse_members(members, reason="outside of the prefix")
        place.refuse_members(members, reason="outside of the prefix", expected_prefix=f"/{PREFIX}")


@pytest.mark.covers("B17")
def test_B17_a_parent_that_is_no_directory(place: Place) -> None:
    tar = symlink("opt", str(place.canary)) + directory("opt/store") + document() + END
    place.refuse(gz(tar), "'opt' is a file or a link")

    tar = parents() + file("opt/x") + document() + END
    place.refuse(gz(tar), "'opt/x' is outside of the prefix")


@pytest.mark.covers("B17")
def test_B17_another_prefix_than_the_expected_one(place: Place) -> None:
    place.refuse(gz(package()), "outside of the prefix 'opt/store/other'", expected_prefix="/opt/store/other")
    place.refuse(gz(package()), "outside of the prefix", expected_prefix="/opt/store/pkg-1-abc/.spack/deeper")
    other = parents() + document(within("nested")) + END
    place.refuse(gz(other), "no document", expected_prefix=f"/{PREFIX}")
    place.refuse(gz(parents() + END), "no document")


@pytest.mark.covers("B18")
@pytest.mark.parametrize("target", ["CANARY", "../canary", "..", ".", "/", "self/x", "sub"])
@pytest.mark.parametrize("name", ["link/evil", "link/below/evil"])
def test_B18_a_member_below_a_link(place: Place, target: str, name: str) -> None:
    target = target.replace("CANARY", str(place.canary))
    members = (directory(within("sub")), symlink(within("link"), target), file(within(name)))

    place.refuse_members(*members, reason="is a file or a link, and another member lies below")


@pytest.mark.covers("B18")
def test_B18_directories_and_links_below_a_link(place: Place) -> None:
    link = symlink(within("link"), str(place.canary))
    for member in (
        directory(within("link/evil")),
        symlink(within("link/evil"), "x"),
        hard_link(within("link/evil"), within("a")),
    ):
        place.refuse_members(file(within("a")), link, member, reason="another member lies below")
    place.refuse_members(link, directory(within("link")), reason="appears twice")
    place.refuse_members(link, file(within("link")), reason="appears twice")


@pytest.mark.covers("B18")
def test_B18_a_chain_of_links(place: Place) -> None:
    members = (
        symlink(within("one"), str(place.canary)),
        symlink(within("two"), "one"),
        symlink(within("three"), "two/below"),
        file(within("three/evil")),
    )
    place.refuse_members(*members, reason="'opt/store/pkg-1-abc/three' is a file or a link")


@pytest.mark.covers("B18")
def test_B18_a_directory_replaced_by_a_link(place: Place) -> None:
    members = (directory(within("a")), symlink(within("a"), str(place.canary)), file(within("a/evil")))
    place.refuse_members(*members, reason="appears twice")


@pytest.mark.covers("B18")
def test_B18_links_may_point_anywhere_as_long_as_nothing_is_written_through_them(place: Place) -> None:
    targets = {"up": "../../x", "out": "/etc/passwd", "loop": "loop", "gone": "not there", "odd": "a//b/./c/"}

    place.extract(gz(package(*(symlink(within(name), target) for name, target in targets.items()))))

    assert {name: os.readlink(place.destination / name) for name in targets} == targets


@pytest.mark.covers("B18")
def test_B18_links_without_a_target_or_with_an_impossible_one(place: Place) -> None:
    place.refuse_members(symlink(within("a"), ""), reason="target has 0 bytes")
    long = "x/" * 2048
    place.refuse_members(pax(record("linkpath", long)), symlink(within("a"), long), reason="target has 4096 bytes")


@pytest.mark.covers("B19")
@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (within("missing"), "is no file before it"),
        (within("later"), "is no file before it"),
        (within("hard"), "is no file before it"),
        (within("link"), "is no file before it"),
        (within("dir"), "is no file before it"),
        (within("link/file"), "is no file before it"),
        ("opt/store/other", "is no file before it"),
        ("file", "is no file before it"),
        ("/etc/passwd", "whose target has a name that is absolute"),
        ("../../canary/file", "whose target has a name that is absolute"),
        ("", "whose target has a name that"),
    ],
)
def test_B19_hard_links_to_anything_but_a_file_before(place: Place, target: str, reason: str) -> None:
    members = (
        directory(within("dir")),
        symlink(within("link"), str(place.canary)),
        hard_link(within("hard"), target),
        file(within("later")),
    )
    place.refuse_members(*members, reason=reason)


@pytest.mark.covers("B19")
def test_B19_a_hard_link_to_a_link_does_not_reach_what_that_points_to(place: Place) -> None:
    secret = str(place.canary / "file")
    place.refuse_members(symlink(within("a"), secret), hard_link(within("b"), within("a")), reason="no file before it")
    assert os.stat(secret).st_nlink == 1


@pytest.mark.covers("B19")
def test_B19_a_hard_link_with_data(place: Place) -> None:
    first = file(within("a"))
    place.refuse_members(first, hard_link(within("b"), within("a"), size=4) + b"x" * 512, reason="hardlink with data")
    sized = pax(record("size", "4")) + hard_link(within("b"), within("a")) + b"x" * 512
    place.refuse_members(first, sized, reason="hardlink with data")


@pytest.mark.covers("B19")
def test_B19_hard_links_to_files_before_are_one_file(place: Place) -> None:
    members = (
        file(within("bin/a"), b"once"),
        hard_link(within("bin/b"), within("bin/a")),
        hard_link(within("lib/c"), within("bin/b")),
    )
    extracted = place.extract(gz(package(*members)))

    assert os.path.samefile(place.destination / "bin/a", place.destination / "lib/c")
    assert (place.destination / "bin/b").stat().st_nlink == 3
    assert extracted.hard_links == {"bin/a": ("bin/b", "lib/c")}
    assert extracted.files["bin/a"] == 4
    assert "bin/b" not in extracted.files


@pytest.mark.covers("B20")
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (b"3", "a character device"),
        (b"4", "a block device"),
        (b"6", "a FIFO"),
        (b"7", "a contiguous file"),
        (b"D", "a directory dump"),
        (b"M", "another volume"),
        (b"S", "a sparse file"),
        (b"V", "a volume label"),
        (b"X", "of Solaris"),
        (b"s", "unknown kind"),
        (b"Z", "unknown kind"),
        (b"\xff", "unknown kind"),
    ],
)
def test_B20_kinds_of_members(place: Place, kind: bytes, reason: str) -> None:
    error = place.refuse_members(header(within("device"), kind), reason=reason)
    assert "pkg-1-abc/device" in error.message


@pytest.mark.covers("B20")
@pytest.mark.parametrize("key", ["GNU.sparse.major", "GNU.sparse.map", "GNU.sparse.realsize"])
def test_B20_sparse_files_in_pax_headers(place: Place, key: str) -> None:
    place.refuse_members(pax(record(key, "1")), file(within("a")), reason="a sparse file")


@pytest.mark.covers("B20")
def test_B20_directories_and_links_with_data(place: Place) -> None:
    place.refuse_members(directory(within("a"), size=512) + bytes(512), reason="directory with data")
    place.refuse_members(header(within("a"), b"2", target="x", size=1) + bytes(512), reason="symlink with data")


@pytest.mark.covers("B21")
@pytest.mark.parametrize("mode", [0o0, 0o644, 0o666, 0o777, 0o100, 0o4755, 0o2755, 0o1777, 0o7777, 0o6644, 0o011])
def test_B21_modes_are_reduced_to_the_executable_bit(place: Place, mode: int) -> None:
    members = (
        header(within("dir"), b"5", mode=mode, uid=12345),
        file(within("dir/file"), b"x", mode=mode, uid=12345),
    )
    previous = os.umask(0o077)
    try:
        place.extract(gz(package(*members)))
    finally:
        os.umask(previous)

    for path in (place.destination, place.destination / "dir", place.destination / ".spack"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o755
    status = (place.destination / "dir/file").stat()
    assert stat.S_IMODE(status.st_mode) == (0o755 if mode & 0o100 else 0o644)
    assert (status.st_uid, status.st_gid) == (os.getuid(), place.destination.stat().st_gid)


@pytest.mark.covers("B22")
@pytest.mark.parametrize(
    "key", ["SCHILY.xattr.security.capability", "LIBARCHIVE.xattr.security.ima", "security.selinux"]
)
def test_B22_attributes_of_security(place: Place, key: str) -> None:
    place.refuse_members(pax(record(key, b"\1\0\0\2")), file(within("a")), reason="sets the attribute")


@pytest.mark.covers("B22")
def test_B22_what_is_not_known_or_not_wanted_is_ignored(place: Place) -> None:
    ignored = pax(
        record("SCHILY.xattr.user.x", b"\0"), record("mtime", "1e9"), record("uid", "0"), record("uname", "root")
    )
    comment = pax(record("comment", "made by somebody"), kind=b"g")

    place.extract(gz(comment + package(ignored, file(within("a")))))

    assert (place.destination / "a").read_bytes() == b"data"
    assert (place.destination / "a").stat().st_mtime > 1.5e9


@pytest.mark.covers("B22")
def test_B22_extended_headers_that_contradict_the_header(place: Place) -> None:
    place.refuse_members(pax(record("path", "../evil")), file(within("a")), reason="is called b'../evil' by")
    place.refuse_members(pax(record("path", within("b"))), file(within("a")), reason="by its extended header")
    place.refuse_members(gnu_long(within("b")), file(within("a")), reason="by its extended header")
    place.refuse_members(pax(record("linkpath", "/b")), symlink(within("a"), "/a"), reason="by its extended header")
    place.refuse_members(pax(record("size", "3")), file(within("a")), reason="has two sizes")
    place.refuse_members(pax(record("path", "")), file(within("a")), reason="empty")
    both = pax(record("path", within("a"))) + gnu_long(within("a"))
    place.refuse_members(both, file(within("a")), reason="contradict each other")


@pytest.mark.covers("B22")
def test_B22_headers_that_come_twice_or_belong_to_nothing(place: Place) -> None:
    one = pax(record("path", within("a")))
    place.refuse_members(one, one, file(within("a")), reason="two extended headers")
    place.refuse_members(pax(record("path", "x"), record("path", "x")), file("x"), reason="'path' twice")
    place.refuse(gz(package(end=one + END)), "belongs to no member")


@pytest.mark.covers("B22")
@pytest.mark.parametrize("key", ["path", "linkpath", "size"])
def test_B22_a_global_header_that_speaks_of_every_member(place: Place, key: str) -> None:
    place.refuse(gz(pax(record(key, "1"), kind=b"g") + package()), "names or sizes all members")


@pytest.mark.covers("B22")
def test_B22_global_headers_without_end(place: Place) -> None:
    place.refuse(gz(pax(record("comment", "x"), kind=b"g") * 17 + package()), "more than 16 global headers")


@pytest.mark.covers("B22")
@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
def test_B22_a_huge_extended_header_is_not_read(place: Place, kind: bytes) -> None:
    tar = parents() + header("././@PaxHeader", kind, size=200 * 1024**2)
    place.refuse(gz(tar), "extended header of 209715200 bytes")


@pytest.mark.covers("B22")
@pytest.mark.parametrize(
    "data",
    [
        b"x",
        b"5 a=b",
        b"6 a=b\n\0",
        b"7 a=b\n",
        b"6 abc\n",
        b"4 =\n",
        b"-6 a=b\n",
        b"0 a=b\n",
        b"99999999 a=b\n",
        b" a=b\n",
        b"1 \n",
    ],
)
def test_B22_extended_headers_that_are_not_made_of_records(place: Place, data: bytes) -> None:
    place.refuse_members(pax(data), file(within("a")), reason="not made of records")


@pytest.mark.covers("B23")
def test_B23_names_that_appear_twice(place: Place) -> None:
    kinds = (
        file(within("a")),
        directory(within("a")),
        symlink(within("a"), "x"),
        hard_link(within("a"), within("b")),
    )
    for first in kinds:
        for second in kinds:
            place.refuse_members(file(within("b")), first, second, reason="'opt/store/pkg-1-abc/a' appears twice")
    place.refuse_members(directory(PREFIX), reason="appears twice")
    place.refuse_members(document(), reason="appears twice")


@pytest.mark.covers("B23")
def test_B23_a_file_with_something_below_it(place: Place) -> None:
    place.refuse_members(file(within("a")), file(within("a/b")), reason="another member lies below")
    place.refuse_members(file(within("a/b")), file(within("a")), reason="same as that of another member")


@pytest.mark.covers("B23")
@pytest.mark.parametrize("second", ["file", "directory", "link", "hard link"])
def test_B23_names_that_the_file_system_takes_for_the_same(
    place: Place, second: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that folds case says so when the second name is created."""
    real = {name: getattr(os, name) for name in ("open", "mkdir", "symlink", "link")}

    def folding(name: str):
        def create(*arguments, **options):
            path = arguments[1] if name in ("symlink", "link") else arguments[0]
            if path == "README":
                raise FileExistsError(errno.EEXIST, "File exists")
            return real[name](*arguments, **options)

        return create

    for name in real:
        monkeypatch.setattr(os, name, folding(name))
    member = {
        "file": file(within("README")),
        "directory": directory(within("README")),
        "link": symlink(within("README"), "x"),
        "hard link": hard_link(within("README"), within("readme")),
    }[second]

    place.refuse_members(file(within("readme")), member, reason="README' has a name that this file system takes for")


@pytest.mark.covers("B23")
def test_B23_names_that_differ_in_case_are_two_where_they_can_be(place: Place) -> None:
    place.extract(gz(package(file(within("readme"), b"1"), file(within("README"), b"2"))))

    assert (place.destination / "readme").read_bytes() == b"1"
    assert (place.destination / "README").read_bytes() == b"2"


@pytest.mark.covers("B29")
@pytest.mark.parametrize("name", [".wh.lib", ".wh..wh..opq", ".wh.", "lib/.wh.x", ".wh.dir/x"])
def test_B29_whiteouts(place: Place, name: str) -> None:
    place.refuse_members(file(within(name), b""), reason="whiteout")
    place.refuse_members(file(within("a")), hard_link(within("b"), within(name)), reason="whiteout")


def test_long_names_of_gnu_tar(place: Place) -> None:
    name, target = within("d" * 120 + "/file"), "/t" * 80
    place.extract(
        gz(
            package(
                gnu_long(name),
                file(name, magic=GNU),
                gnu_long(target, b"K"),
                gnu_long(name + "2"),
                header(name + "2", b"2", target=target, magic=GNU),
                gnu_long(name, b"K"),
                header(within("hard"), b"1", target=name, magic=GNU),
            )
        )
    )
    assert (place.destination / ("d" * 120) / "file").read_bytes() == b"data"
    assert os.readlink(place.destination / ("d" * 120) / "file2") == target
    assert (place.destination / "hard").stat().st_nlink == 2


def test_long_names_of_ustar(place: Place) -> None:
    place.extract(gz(package(file("y" * 90, directory=within("x" * 100).encode()))))

    assert (place.destination / ("x" * 100) / ("y" * 90)).read_bytes() == b"data"


def test_short_forms_of_long_names_as_several_programs_write_them(place: Place) -> None:
    for number, short in enumerate((b"na?ve", b"nave", "naïve".encode(), b"")):
        long = within(f"{number}/naïve")
        field = within(f"{number}/").encode() + short
        members = pax(record("path", long)), file(field)
        place.extract(gz(package(*members)))
        assert (place.destination / str(number) / "naïve").read_bytes() == b"data"
        place.destination.rename(place.directory / f"done{number}")


def test_a_message_shows_what_a_name_holds_but_does_not_act_on_it(place: Place) -> None:
    with pytest.raises(ContentError) as caught:
        place.extract(gz(package(header(within("\x1b[2J"), b"6"))))
    assert "\x1b" not in caught.value.message
    assert r"\x1b" in caught.value.message


def test_depth_is_limited(place: Place) -> None:
    name = within("/".join("d" * 98))
    place.refuse_members(pax(record("path", name)), file(name), reason="more than 100 directories deep")
    place.refuse_members(file(within("a/b")), reason="more than 4 dir", limits=Limits(depth=4))
