"""A layer as a directory: what Spack packed and what we pack comes out as it was."""

from __future__ import annotations

import errno
import io
import os
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from oci_binpkg.archive.codec import Codec
from oci_binpkg.archive.extract import Extracted, extract_layer
from oci_binpkg.archive.layer import pack_layer
from oci_binpkg.errors import ContentError, LocalDiskError
from oci_binpkg.model.content import OCI_LAYER_GZIP, OCI_LAYER_ZSTD, Digest
from oci_binpkg.relocate.scan import PrefixScanner
from tests.support import golden
from tests.support.hostile_archives import (
    END,
    Place,
    directory,
    document,
    file,
    gz,
    hard_link,
    package,
    symlink,
    within,
)

DOCUMENT = ".spack/binary_distribution"
SPACK_GZIP = "application/vnd.spack.install.v2.tar+gzip"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return golden.unpack_store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def tree(root: Path) -> dict[str, tuple]:
    """Return kinds, modes reduced to what a layer keeps, contents, and which names are one file."""
    found: dict[str, tuple] = {}
    first: dict[int, str] = {}
    for path in sorted(root.rglob("*")):
        name, status = str(path.relative_to(root)), path.lstat()
        if name == DOCUMENT:
            continue
        if stat.S_ISLNK(status.st_mode):
            found[name] = ("link", os.readlink(path))
        elif stat.S_ISDIR(status.st_mode):
            found[name] = ("directory", 0o755)
        else:
            mode = 0o755 if status.st_mode & stat.S_IXUSR else 0o644
            found[name] = ("file", mode, path.read_bytes(), first.setdefault(status.st_ino, name))
    return found


def modes(root: Path) -> set[tuple[str, int]]:
    kinds = {stat.S_IFDIR: "directory", stat.S_IFREG: "file"}
    statuses = [path.lstat().st_mode for path in [root, *root.rglob("*")] if not path.is_symlink()]
    return {(kinds[stat.S_IFMT(mode)], stat.S_IMODE(mode)) for mode in statuses}


def archives() -> Iterator[Path]:
    """Iterate over all layers of the golden data: those of registries, and of mirrors of both layouts."""
    for one in golden.packages():
        yield golden.LAYOUT / "blobs" / one.layer_digest.replace(":", "/")
    yield from sorted(golden.GOLDEN.glob("v2-*/build_cache/*/*/*/*.spack"))
    for path in sorted(golden.GOLDEN.glob("v3-*/blobs/sha256/*/*")):
        if path.stat().st_size > 4000 and path.read_bytes()[:2] == b"\x1f\x8b":
            yield path


@pytest.mark.parametrize("name", golden.PACKAGES)
def test_golden_layers_come_out_as_the_golden_store(name: str, store: Path, tmp_path: Path) -> None:
    package = golden.package(name)
    layer = golden.read_blob(package.layer_digest)
    came: list[int] = []

    extracted = extract_layer(
        io.BytesIO(layer),
        str(tmp_path / "out"),
        name,
        media_type=OCI_LAYER_GZIP,
        expected_prefix=package.recorded,
        diff_id=Digest.parse(package.diff_id),
        on_bytes=came.append,
    )

    assert tree(tmp_path / "out") == tree(package.prefix_in(store))
    assert (tmp_path / "out" / DOCUMENT).read_bytes() == package.distribution
    assert modes(tmp_path / "out") <= {("directory", 0o755), ("file", 0o755), ("file", 0o644)}
    assert extracted.prefix == package.recorded
    assert extracted.distribution.hash_to_prefix[package.hash] == package.recorded
    assert str(extracted.diff_id) == package.diff_id
    assert extracted.uncompressed_size == len(package.tar) == sum(came)
    sizes = {name: (tmp_path / "out" / name).stat().st_size for name in extracted.files}
    assert extracted.files == sizes
    assert extracted.bytes == sum(sizes.values())


def test_every_golden_archive_can_be_extracted(tmp_path: Path) -> None:
    found = list(archives())
    assert len(found) > 20
    for number, path in enumerate(found):
        destination = tmp_path / str(number)
        with path.open("rb") as stream:
            extracted = extract_layer(stream, str(destination), path.name, media_type=SPACK_GZIP)

        distribution = extracted.distribution
        assert extracted.prefix == f"{distribution.buildpath}/{distribution.relative_prefix}"
        assert next(iter(distribution.hash_to_prefix.values())) == extracted.prefix
        assert (destination / ".spack/spec.json").is_file()
        for listed in (*distribution.relocate_binaries, *distribution.relocate_textfiles):
            assert listed in extracted.files


def test_hard_links_of_the_golden_library(tmp_path: Path) -> None:
    layer = golden.read_blob(golden.package("greetlib-1.3.0").layer_digest)

    extracted = extract_layer(io.BytesIO(layer), str(tmp_path / "out"), "greetlib")

    assert extracted.hard_links == {"bin/greet-config": ("bin/greet-config-1",)}
    assert os.path.samefile(tmp_path / "out/bin/greet-config", tmp_path / "out/bin/greet-config-1")


@pytest.mark.parametrize("codec", ["gzip", "gzip:1", "zstd"])
@pytest.mark.parametrize("name", ["greetlib-1.3.0", "greet-2.1"])
def test_packing_again_what_was_extracted_gives_the_same_diff_id(name: str, codec: str, tmp_path: Path) -> None:
    package = golden.package(name)
    layer = golden.read_blob(package.layer_digest)
    for turn in range(2):
        destination = tmp_path / f"out{turn}"
        media_type = OCI_LAYER_ZSTD if turn and codec == "zstd" else OCI_LAYER_GZIP
        extracted = extract_layer(io.BytesIO(layer), str(destination), name, media_type=media_type)
        distribution = extracted.distribution
        packed = pack_layer(
            str(destination),
            str(tmp_path / f"layer{turn}"),
            Codec.parse(codec),
            distribution=replace(distribution, relocate_binaries=(), relocate_links=(), relocate_textfiles=()),
            classifier=PrefixScanner(distribution.known_prefixes),
            archive_prefix=extracted.prefix,
        )
        assert str(packed.diff_id) == package.diff_id
        assert packed.summary.members == extracted.members
        layer = (tmp_path / f"layer{turn}").read_bytes()


def test_the_prefix_is_found_whatever_comes_first_in_it(place: Place) -> None:
    """Without files of its own the prefix looks like one more parent until its second directory comes."""
    for number, prefix in enumerate(("r/a", "a", "home/me/.spack/store/x", "opt/opt/opt")):
        members = (
            directory(f"{prefix}/opt"),
            file(f"{prefix}/opt/file"),
            file(f"{prefix}/.0"),
            file(f"{prefix}/lib/x"),
        )
        for given in ("", f"/{prefix}"):
            extracted = place.extract(gz(package(*members, prefix=prefix)), expected_prefix=given)

            assert extracted.prefix == f"/{prefix}"
            assert sorted(os.listdir(place.destination)) == [".0", ".spack", "lib", "opt"]
            assert os.listdir(place.destination / "opt") == ["file"]
            place.destination.rename(place.directory / f"done{number}{bool(given)}")


def test_a_package_that_holds_another_installation(place: Place) -> None:
    nested = file(within("opt/other/.spack/binary_distribution"), b"{buildpath: /nested}")
    for members in ((nested,), (file(within("a")), nested)):
        extracted = place.extract(gz(package(*members)))

        assert extracted.prefix == "/opt/store/pkg-1-abc"
        assert extracted.distribution.buildpath == "/opt/store"
        assert (place.destination / "opt/other/.spack/binary_distribution").read_bytes() == b"{buildpath: /nested}"
        place.destination.rename(place.directory / f"done{len(members)}")


def test_an_archive_of_the_oldest_form(place: Place) -> None:
    """It has no parents, its names begin with the last component, and hard links are files of their own."""
    old = b"buildpath: /opt/store\nrelative_prefix: x/pkg-1\nrelative_rpaths: true\nprefix_to_hash: {/opt/store/x/pkg-1: abc}\n"
    tar = directory("pkg-1") + document("pkg-1", old) + file("pkg-1/a", b"1") + file("pkg-1/b", b"1") + END

    extracted = place.extract(gz(tar))

    assert extracted.prefix == "/pkg-1"
    assert extracted.distribution.hash_to_prefix == {"abc": "/opt/store/x/pkg-1"}
    assert not extracted.distribution.hardlinks_deduped
    assert sorted(os.listdir(place.destination)) == [".spack", "a", "b"]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_in_all_forms_of_tar(form: int, store: Path, place: Place) -> None:
    one = golden.package("greetlib-1.3.0")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", format=form) as archive:
        archive.add(one.prefix_in(store), one.recorded.lstrip("/"))
        member = tarfile.TarInfo(f"{one.recorded}/{DOCUMENT}".lstrip("/"))
        member.size = len(one.distribution)
        archive.addfile(member, io.BytesIO(one.distribution))

    extracted = place.extract(out.getvalue(), expected_prefix=one.recorded)

    assert tree(place.destination) == tree(one.prefix_in(store))
    assert [sorted((first, *others)) for first, others in extracted.hard_links.items()] == [
        ["bin/greet-config", "bin/greet-config-1"]
    ]


def test_directories_that_only_their_members_imply(place: Place) -> None:
    extracted = place.extract(gz(document() + file(within("a/b/c")) + directory(within("a/b")) + END))

    assert (place.destination / "a/b/c").read_bytes() == b"data"
    assert extracted.members == 3
    assert modes(place.destination) == {("directory", 0o755), ("file", 0o644)}


def test_files_larger_than_any_buffer_and_at_odd_places(place: Place) -> None:
    sizes = (0, 1, 511, 512, 513, 2**20 - 1, 2**20, 2**20 + 1, 3 * 2**20 + 17)
    contents = {f"f{size}": bytes((number * 7 + size) & 0xFF for number in range(251)) for size in sizes}
    full = {name: (content * (int(name[1:]) // 251 + 1))[: int(name[1:])] for name, content in contents.items()}

    extracted = place.extract(gz(package(*(file(within(name), data) for name, data in full.items()))))

    assert {name: (place.destination / name).read_bytes() for name in full} == full
    assert {name: size for name, size in extracted.files.items() if name in full} == {
        n: len(d) for n, d in full.items()
    }


def test_a_destination_that_exists_is_left_alone(place: Place) -> None:
    for make in (place.destination.mkdir, lambda: place.destination.symlink_to(place.canary), place.destination.touch):
        make()
        with pytest.raises(LocalDiskError, match="out: exists already"):
            place.extract(gz(package()))
        assert os.path.lexists(place.destination)
        assert sorted(os.listdir(place.canary)) == ["below", "file"]
        place.destination.rename(place.directory / f"seen{len(os.listdir(place.directory))}")


def test_a_place_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(LocalDiskError, match="none/out: cannot be written: No such file"):
        extract_layer(io.BytesIO(gz(package())), str(tmp_path / "none" / "out"), "x")


def test_a_slash_at_the_end_of_the_destination(tmp_path: Path) -> None:
    extract_layer(io.BytesIO(gz(package())), f"{tmp_path}/out/", "x")
    assert (tmp_path / "out" / DOCUMENT).is_file()


@pytest.mark.parametrize("call", ["write", "open", "mkdir", "symlink", "link", "rename", "fchmod"])
def test_a_full_disk_names_the_path_and_leaves_nothing(
    place: Place, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = getattr(os, call)

    def fail(*arguments, **options):
        if call in ("open", "mkdir") and "full" not in arguments:
            return real(*arguments, **options)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    members = (
        file(within("full")),
        directory(within("d/full")),
        symlink(within("l"), "x"),
        hard_link(within("h"), within("full")),
    )
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(LocalDiskError, match=r"place/out.*No space left on device") as caught:
        place.extract(gz(package(*members)))
    monkeypatch.undo()

    assert "free space" in caught.value.hint
    assert os.listdir(place.destination.parent) == []


def test_a_root_that_cannot_be_opened_to_all(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last step fails too, as on a file system that went read-only."""
    real = os.fchmod

    def fail(file: int, mode: int) -> None:
        if os.path.samestat(os.fstat(file), place.destination.stat()):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        real(file, mode)

    monkeypatch.setattr(os, "fchmod", fail)
    with pytest.raises(LocalDiskError, match="Read-only"):
        place.extract(gz(package()))
    assert os.listdir(place.destination.parent) == []


def test_a_disk_that_is_full_when_a_file_is_closed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS may accept what is written and say only then that it has no place for it."""
    opened: dict[int, str] = {}
    real_open, real_close = os.open, os.close

    def watch(path: str, *arguments, **options) -> int:
        descriptor = real_open(path, *arguments, **options)
        opened[descriptor] = path
        return descriptor

    def fail(file: int) -> None:
        real_close(file)
        if opened.pop(file, "") == "full":
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "open", watch)
    monkeypatch.setattr(os, "close", fail)
    with pytest.raises(LocalDiskError, match=r"pkg-1-abc/full: cannot be written"):
        place.extract(gz(package(file(within("full")))))
    monkeypatch.undo()
    assert os.listdir(place.destination.parent) == []


def test_a_disk_that_is_full_from_the_begin(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "mkdir", no_space)
    with pytest.raises(LocalDiskError, match="place/out: cannot be written: No space"):
        place.extract(gz(package()))


def test_too_many_open_files_at_once_leaves_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def exhausted(path, *arguments, **options):
        if path == "out":
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", exhausted)
    with pytest.raises(LocalDiskError, match="Too many open files"):
        place.extract(gz(package()))
    assert os.listdir(place.destination.parent) == []


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit, MemoryError])
def test_an_interruption_leaves_nothing(place: Place, interrupt: type[BaseException]) -> None:
    begun: list[list[str]] = []

    def stop(_: int) -> None:
        begun.append(sorted(os.listdir(place.destination)))
        if len(begun) > 1:
            raise interrupt

    with pytest.raises(interrupt):
        place.extract(gz(package(file(within("big"), os.urandom(3 * 2**20)))), on_bytes=stop)
    assert begun == [[], ["opt"]]
    assert os.listdir(place.destination.parent) == []


def test_no_descriptor_stays_open(place: Place) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    place.extract(gz(package(file(within("a/b/c/d")), hard_link(within("x/y"), within("a/b/c/d")))))
    place.destination.rename(place.directory / "done")
    for members in ((file("/x"),), (file(within("a/b/c")), hard_link(within("b"), within("none")))):
        with pytest.raises(ContentError):
            place.extract(gz(package(*members)))
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_until_it_is_complete_only_its_owner_can_enter(place: Place) -> None:
    seen: list[int] = []

    def look(_: int) -> None:
        seen.append(stat.S_IMODE(place.destination.stat().st_mode))

    place.extract(gz(package(file(within("a"), os.urandom(2**21)))), on_bytes=look)

    assert set(seen) == {0o700}
    assert stat.S_IMODE(place.destination.stat().st_mode) == 0o755


def test_few_calls_for_each_file(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Directories are opened once while members of one directory follow each other."""
    opened: list[str] = []
    real = os.open
    monkeypatch.setattr(os, "open", lambda path, *rest, **more: opened.append(path) or real(path, *rest, **more))

    place.extract(gz(package(*(file(within(f"deep/er/f{number}")) for number in range(100)))))

    assert len(opened) < 100 + 30


def test_the_result_is_complete(place: Place) -> None:
    extracted = place.extract(gz(package(file(within("a"), b"123"), symlink(within("l"), "a"))))

    assert isinstance(extracted, Extracted)
    assert list(extracted.files) == ["a", DOCUMENT]
    assert extracted.members == 6
    assert extracted.hard_links == {}
