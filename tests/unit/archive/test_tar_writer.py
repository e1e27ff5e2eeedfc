"""A tree as a reproducible tar: Spack's bytes, and an error for every tree that cannot be packed faithfully."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import stat
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from oci_binpkg.archive import tar_writer
from oci_binpkg.archive.binary_distribution import MEMBER, Distribution
from oci_binpkg.archive.tar_writer import TarSummary, walk, write_tar
from oci_binpkg.errors import PackError
from oci_binpkg.relocate.scan import PrefixScanner
from tests.support import golden

RECORDED = "/r/linux/a-1"
DISTRIBUTION = Distribution("/r/bin/sbang", "/r", "/opt/spack", "linux/a-1", {"h": RECORDED})


def pack(
    prefix: Path,
    *,
    distribution: Distribution = DISTRIBUTION,
    recorded: str = RECORDED,
    on_bytes: Callable[[int], None] | None = None,
) -> tuple[bytes, TarSummary]:
    out = bytearray()
    summary = write_tar(
        str(prefix),
        out.extend,
        distribution=distribution,
        classifier=PrefixScanner(distribution.known_prefixes),
        archive_prefix=recorded,
        on_bytes=on_bytes,
    )
    return bytes(out), summary


def members(tar: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        return {member.name: member for member in archive}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return golden.unpack_store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    prefix = tmp_path / "a-1"
    (prefix / "bin").mkdir(parents=True)
    (prefix / "bin" / "tool").write_bytes(b"#!/r/linux/a-1/bin/python\n")
    (prefix / "bin" / "tool").chmod(0o4711)
    (prefix / "readme").write_bytes(b"hello")
    (prefix / "readme").chmod(0o664)
    return prefix


@pytest.mark.parametrize("name", golden.PACKAGES)
def test_golden_prefixes_have_spacks_diff_id(store: Path, name: str) -> None:
    package = golden.package(name)
    parsed = Distribution.parse(package.distribution, name)
    distribution = replace(parsed, relocate_binaries=(), relocate_links=(), relocate_textfiles=())

    tar, summary = pack(package.prefix_in(store), distribution=distribution, recorded=package.recorded)

    assert f"sha256:{hashlib.sha256(tar).hexdigest()}" == package.diff_id
    assert summary.relocations.binaries == parsed.relocate_binaries
    assert summary.relocations.links == parsed.relocate_links
    assert summary.relocations.textfiles == parsed.relocate_textfiles
    assert summary.skipped == ()
    assert summary.members == len(members(tar))


def test_times_modes_and_owners_do_not_show(store: Path, tmp_path: Path) -> None:
    package = golden.package("greetlib-1.3.0")
    other = package.prefix_in(golden.unpack_store(tmp_path))
    for path in sorted(other.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | 0o022)
            os.utime(path, (1_000_000_000, 1_000_000_000))

    assert pack(package.prefix_in(store))[0] == pack(other)[0]


def test_the_order_is_files_before_directories_by_name(tree: Path) -> None:
    (tree / "bin.d").mkdir()
    (tree / "bin" / "z").mkdir()
    (tree / "bin" / "z" / "deep").write_bytes(b"")
    (tree / "zfile").symlink_to("readme")

    assert list(members(pack(tree)[0])) == [
        "r",
        "r/linux",
        "r/linux/a-1",
        "r/linux/a-1/readme",
        "r/linux/a-1/zfile",
        "r/linux/a-1/bin",
        "r/linux/a-1/bin/tool",
        "r/linux/a-1/bin/z",
        "r/linux/a-1/bin/z/deep",
        "r/linux/a-1/bin.d",
        "r/linux/a-1/.spack/binary_distribution",
    ]


def test_modes_are_reduced_to_the_executable_bit(tree: Path) -> None:
    found = members(pack(tree)[0])

    assert found["r/linux/a-1/bin/tool"].mode == 0o755
    assert found["r/linux/a-1/readme"].mode == 0o644
    assert found["r/linux/a-1/bin"].mode == 0o755
    assert {(member.uid, member.gid, member.uname, member.gname, member.mtime) for member in found.values()} == {
        (0, 0, "", "", 0)
    }


def test_the_prefix_itself_is_recorded_by_default(tree: Path) -> None:
    assert f"{str(tree).lstrip('/')}/readme" in members(pack(tree, recorded="")[0])


def test_hard_links_point_to_the_first_name_in_the_archive(tree: Path) -> None:
    os.link(tree / "bin" / "tool", tree / "bin" / "also")
    os.link(tree / "bin" / "tool", tree / "zlast")
    tar, summary = pack(tree)

    found = members(tar)
    assert found["r/linux/a-1/zlast"].isreg()
    assert found["r/linux/a-1/bin/also"].linkname == "r/linux/a-1/zlast"
    assert found["r/linux/a-1/bin/tool"].islnk()
    assert summary.files == 2
    assert summary.relocations.textfiles == ("zlast",)


def test_links_are_kept_and_absolute_ones_into_a_prefix_are_listed(tree: Path) -> None:
    (tree / "in").symlink_to("/r/linux/a-1/bin")
    (tree / "out").symlink_to("/usr/bin")
    (tree / "relative").symlink_to("bin")
    tar, summary = pack(tree)

    found = members(tar)
    assert [found[f"r/linux/a-1/{name}"].linkname for name in ("in", "out", "relative")] == [
        "/r/linux/a-1/bin",
        "/usr/bin",
        "bin",
    ]
    assert summary.relocations.links == ("in",)


def test_spacks_own_records_are_packed_but_never_listed(tree: Path) -> None:
    (tree / ".spack").mkdir()
    (tree / ".spack" / "spec.json").write_bytes(b'{"path": "/r/linux/a-1"}')
    (tree / ".spack" / "link").symlink_to("/r/linux/a-1")
    tar, summary = pack(tree)

    assert {"r/linux/a-1/.spack/spec.json", "r/linux/a-1/.spack/link"} <= set(members(tar))
    assert summary.relocations.textfiles == ("bin/tool",)
    assert summary.relocations.links == ()


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_an_existing_document_is_left_out(tree: Path, kind: str) -> None:
    before, _ = pack(tree)
    (tree / ".spack").mkdir()
    if kind == "file":
        (tree / MEMBER).write_bytes(b"old")
    else:
        (tree / MEMBER).mkdir()
    tar, _ = pack(tree)

    assert list(members(tar)).count(f"r/linux/a-1/{MEMBER}") == 1
    assert set(members(tar)) - set(members(before)) == {"r/linux/a-1/.spack"}


def test_devices_fifos_and_sockets_are_skipped_and_reported(tree: Path) -> None:
    os.mkfifo(tree / "bin" / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        directory = os.getcwd()
        os.chdir(tree)
        try:
            server.bind("socket")
        finally:
            os.chdir(directory)
        tar, summary = pack(tree)

    assert summary.skipped == ("socket", "bin/fifo")
    assert not any("fifo" in name or "socket" in name for name in members(tar))


def test_names_beyond_ustar(tree: Path) -> None:
    long = "n" * 200
    (tree / long).write_bytes(b"1")
    (tree / "naïve ☃ \n").write_bytes(b"2")
    (tree / "link").symlink_to("t" * 300)
    found = members(pack(tree)[0])

    assert {f"r/linux/a-1/{long}", "r/linux/a-1/naïve ☃ \n"} <= set(found)
    assert found["r/linux/a-1/link"].linkname == "t" * 300


@pytest.mark.parametrize("where", ["file", "directory", "link"])
def test_names_that_are_no_text_are_packed_as_bytes(tree: Path, where: str) -> None:
    bad = os.fsencode(tree) + b"/caf\xe9"
    if where == "file":
        os.close(os.open(bad, os.O_CREAT))
    elif where == "directory":
        os.mkdir(bad)
    else:
        os.symlink(b"caf\xe9", os.fsencode(tree / "link"))

    data, _ = pack(tree)

    assert b"21 hdrcharset=BINARY\n" in data
    assert b"caf\xe9/\n" in data or b"caf\xe9\n" in data


def test_a_prefix_that_is_no_text_is_refused(tree: Path) -> None:
    with pytest.raises(PackError, match=r"caf\\xe9/a-1 is not valid UTF-8"):
        pack(tree, recorded="/r/caf\udce9/a-1")


def test_a_list_of_files_that_no_install_reads_is_refused(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_writer, "MAX_BYTES", 100)
    with pytest.raises(PackError, match=r"list of files to relocate of .* bytes; at most 100"):
        pack(tree)


@pytest.mark.parametrize("recorded", ["relative/a", "/r/../etc", "/r//a", "/"])
def test_the_recorded_prefix_must_be_a_plain_absolute_path(tree: Path, recorded: str) -> None:
    with pytest.raises(PackError, match="not an absolute path"):
        pack(tree, recorded=recorded)


def test_an_absent_prefix(tmp_path: Path) -> None:
    with pytest.raises(PackError, match="absent: not there"):
        pack(tmp_path / "absent")


def on_reaching(tree: Path, change: Callable[[], None]) -> Iterator[bytes]:
    """Pack a tree; make the change as soon as the content of `readme` passes by."""
    seen: list[bytes] = []

    def sink(data: bytes) -> None:
        if b"hello" in bytes(data[:5]) and not seen:
            seen.append(data)
            change()

    write_tar(str(tree), sink, distribution=DISTRIBUTION, classifier=PrefixScanner([]), archive_prefix=RECORDED)
    return iter(seen)


@pytest.mark.parametrize("change", ["grow", "rewrite", "shrink", "chmod"])
def test_a_file_that_changes_while_it_is_read_is_named(tree: Path, change: str) -> None:
    path = tree / "readme"
    path.write_bytes(b"hello" * 1_000_000)

    def act() -> None:
        if change == "chmod":
            path.chmod(0o777)
            return
        with path.open("r+b") as file:
            if change == "shrink":
                file.truncate(10)
            else:
                file.seek(0, os.SEEK_END if change == "grow" else os.SEEK_SET)
                file.write(b"!")

    with pytest.raises(PackError, match="readme: changed while it was packed") as caught:
        on_reaching(tree, act)
    assert caught.value.hint


@pytest.mark.parametrize("into", ["nothing", "file", "link", "fifo", "directory"])
def test_a_file_that_is_replaced_meanwhile_is_named(tree: Path, into: str) -> None:
    victim = tree / "zlast"
    victim.write_bytes(b"x")

    def act() -> None:
        victim.unlink()
        if into == "file":
            (tree / "new").write_bytes(b"x")
            (tree / "new").rename(victim)
        elif into == "link":
            victim.symlink_to("/etc/passwd")
        elif into == "fifo":
            os.mkfifo(victim)
        elif into == "directory":
            victim.mkdir()

    if into in ("file", "link", "fifo"):
        # found out only because the directory entry was looked at before: make sure it was
        entries = {entry.name: entry for entry in next(walk(str(tree))).others}
        assert stat.S_ISREG(entries["zlast"].stat(follow_symlinks=False).st_mode)
    if into in ("nothing", "directory"):
        with pytest.raises(PackError, match="zlast"):
            on_reaching(tree, act)
    else:
        on_reaching(tree, act)


def test_a_file_that_is_swapped_between_look_and_open_is_named(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def swapping(path: str, *args: int) -> int:
        (tree / "new").write_bytes(b"hello")
        (tree / "new").rename(tree / "readme")
        return real(path, *args)

    monkeypatch.setattr(os, "open", swapping)
    with pytest.raises(PackError, match="readme: changed"):
        pack(tree)


def test_a_link_that_takes_the_place_of_a_file_is_not_followed(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def swapping(path: str, *args: int) -> int:
        (tree / "readme").unlink()
        (tree / "readme").symlink_to("/etc/passwd")
        return real(path, *args)

    monkeypatch.setattr(os, "open", swapping)
    with pytest.raises(PackError, match="readme: not there, or replaced"):
        pack(tree)


@pytest.mark.parametrize("call", ["open", "read", "scandir", "readlink"])
def test_what_cannot_be_read_is_named(tree: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    (tree / "link").symlink_to("readme")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(PackError, match="cannot be read: Permission denied") as caught:
        pack(tree)
    assert str(tree) in caught.value.message


def test_errors_of_the_sink_pass_unchanged(tree: Path) -> None:
    def full(_: bytes) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_tar(str(tree), full, distribution=DISTRIBUTION, classifier=PrefixScanner([]))


def test_progress_counts_the_bytes_of_files(tree: Path) -> None:
    (tree / "big").write_bytes(bytes(3_000_000))
    counts: list[int] = []
    _, summary = pack(tree, on_bytes=counts.append)

    assert sum(counts) == summary.bytes == 3_000_000 + 26 + 5
    assert max(counts) <= 1024 * 1024


def test_the_end_is_padded_to_a_record(tree: Path) -> None:
    tar, _ = pack(tree)

    assert len(tar) % 10240 == 0
    assert tar.endswith(bytes(1024))
