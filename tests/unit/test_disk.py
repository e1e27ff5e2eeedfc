"""The local disk: paths that cannot leave their root, files that are what they should be, locks that end."""

import fcntl
import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from oci_binpkg import disk
from oci_binpkg.disk import (
    FileTooLargeError,
    NotRegularError,
    PrefixPath,
    Root,
    batch,
    exchange,
    foreign_writers,
    make_folder,
    move_file,
    open_file,
    private_folder,
    read_regular,
    remove_leftovers,
    remove_tree,
    replace_file,
    replacing,
    sync_tree,
)
from oci_binpkg.errors import ContentError, LocalDiskError
from oci_binpkg.file_lock import Patience, locked
from oci_binpkg.times import Time

# what may stand where a file is expected


def _directory(path: Path) -> None:
    path.mkdir()


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path.name)
    finally:
        os.chdir(here)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _link_to_a_fifo(path: Path) -> None:
    other = path.with_name("other")
    os.mkfifo(other)
    path.symlink_to(other)


FOREIGN = [_directory, _fifo, _socket, _device, _link_to_a_fifo]


@pytest.mark.parametrize("make", FOREIGN)
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "document"
    make(path)
    with pytest.raises(NotRegularError, match=r"[Ii]s a "):
        read_regular(str(path), 100)
    with pytest.raises(NotRegularError):
        open_file(str(path))
    with pytest.raises(LocalDiskError, match=r"document: cannot be written: [Ii]s a"):
        replace_file(str(path), b"new")
    if make is not _link_to_a_fifo and make is not _device:
        with pytest.raises(NotRegularError), locked(str(path)):
            pass


def test_links_are_followed_only_where_they_may_be(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"x")
    (tmp_path / "link").symlink_to("real")
    assert read_regular(str(tmp_path / "link"), 10) == b"x"
    with pytest.raises(NotRegularError, match="symbolic link"):
        read_regular(str(tmp_path / "link"), 10, follow=False)


def test_a_lock_is_no_link(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "victim")
    with pytest.raises(NotRegularError, match="symbolic link"), locked(str(tmp_path / "lock")):
        pass
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 3 * 1024 * 1024])
def test_files_are_read_up_to_the_limit(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(size))
    assert len(read_regular(str(path), size)) == size
    assert len(read_regular(str(path), 1 << 40)) == size
    if size:
        with pytest.raises(FileTooLargeError, match="larger than"):
            read_regular(str(path), size - 1)


# replacing


def test_no_link_is_written_through(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"important")
    (tmp_path / "file").symlink_to(victim)
    replace_file(str(tmp_path / "file"), b"new")
    assert victim.read_bytes() == b"important"
    assert (tmp_path / "file").read_bytes() == b"new"
    assert not (tmp_path / "file").is_symlink()


def test_the_name_cannot_be_foreseen_and_nothing_is_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "urandom", bytes)
    victim = tmp_path / "victim"
    victim.write_bytes(b"important")
    (tmp_path / f"{disk.TEMPORARY}{'00' * 16}").symlink_to(victim)
    with pytest.raises(LocalDiskError, match="File exists"):
        replace_file(str(tmp_path / "file"), b"new")
    assert victim.read_bytes() == b"important"


def test_permissions_stay_and_a_folder_exchanged_meanwhile_gets_nothing(tmp_path: Path) -> None:
    folder, aside = tmp_path / "folder", tmp_path / "aside"
    folder.mkdir()
    (folder / "file").write_bytes(b"old")
    (folder / "file").chmod(0o640)
    with replacing(str(folder / "file")) as write:
        folder.rename(aside)
        folder.mkdir()
        write(b"new")
    assert (aside / "file").read_bytes() == b"new"
    assert stat.S_IMODE((aside / "file").stat().st_mode) == 0o640
    assert os.listdir(folder) == []
    assert os.listdir(aside) == ["file"]


def test_a_failure_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail() -> None:
        with replacing(str(path)) as write:
            write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What was synced and renamed, in order, by path."""
    done: list[tuple[str, str]] = []
    fsync, replace = os.fsync, os.replace

    def path_of(descriptor: int) -> str:
        return os.readlink(f"/proc/self/fd/{descriptor}")

    def synced(descriptor: int) -> None:
        done.append(("sync", path_of(descriptor)))
        fsync(descriptor)

    def replaced(old: str, new: str, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None) -> None:
        folder = path_of(dst_dir_fd) if dst_dir_fd is not None else ""
        done.append(("name", os.path.join(folder, new)))
        replace(old, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    return done


def test_a_file_is_synced_before_it_has_its_name_and_its_folder_after(
    tmp_path: Path, calls: list[tuple[str, str]]
) -> None:
    replace_file(str(tmp_path / "file"), b"new")

    (first, temporary), *rest = calls
    assert (first, temporary.startswith(f"{tmp_path}/.tmp-")) == ("sync", True)
    assert rest == [("name", f"{tmp_path}/file"), ("sync", str(tmp_path))]


def test_a_file_that_is_moved_is_synced_and_so_is_its_new_folder(tmp_path: Path, calls: list[tuple[str, str]]) -> None:
    source, target = tmp_path / "source", tmp_path / "folder/target"
    source.write_bytes(b"new")
    make_folder(str(target.parent))
    assert calls.pop() == ("sync", str(tmp_path))
    move_file(str(source), str(target))

    assert calls == [("sync", str(source)), ("name", str(target)), ("sync", str(target.parent))]
    assert target.read_bytes() == b"new"


def test_a_batch_syncs_each_file_and_each_folder_once(tmp_path: Path, calls: list[tuple[str, str]]) -> None:
    names = [tmp_path / f"{number}" for number in range(200)]
    with batch() as files:
        for name in names:
            files.replace(str(name), name.name.encode())

    assert [path for call, path in calls if call == "name"] == [str(name) for name in names]
    assert sum(path.startswith(f"{tmp_path}/.tmp-") for call, path in calls if call == "sync") == len(names)
    folders = [at for at, call in enumerate(calls) if call == ("sync", str(tmp_path))]
    assert (len(folders), folders[-1]) == (4, len(calls) - 1)
    assert {name.read_bytes() for name in names} == {name.name.encode() for name in names}
    assert len(list(tmp_path.iterdir())) == len(names)


def test_a_batch_that_fails_leaves_nothing_half_made(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"old")
    with pytest.raises(KeyError), batch() as files:  # noqa: PT012
        files.replace(str(tmp_path / "old"), b"new")
        raise KeyError

    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").read_bytes() == b"old"


def test_a_tree_is_synced_without_following_links(tmp_path: Path, calls: list[tuple[str, str]]) -> None:
    (tmp_path / "tree/below").mkdir(parents=True)
    (tmp_path / "tree/below/file").write_bytes(b"new")
    (tmp_path / "outside").write_bytes(b"old")
    (tmp_path / "tree/link").symlink_to(tmp_path / "outside")
    os.mkfifo(tmp_path / "tree/pipe")
    sync_tree(str(tmp_path / "tree"))

    assert {path for _, path in calls} == {str(tmp_path / name) for name in ("tree", "tree/below", "tree/below/file")}


@pytest.mark.parametrize("able", [True, False])
def test_many_files_are_synced_at_once_where_that_is_possible(
    tmp_path: Path, calls: list[tuple[str, str]], able: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(65):
        (tmp_path / f"{number}").write_bytes(b"new")

    def unable(*_: object, **__: object) -> None:
        raise OSError

    if not able:
        monkeypatch.setattr("ctypes.CDLL", unable)
    sync_tree(str(tmp_path))
    assert len(calls) == (0 if able else 66)


def test_leftovers_are_removed_when_they_are_old(tmp_path: Path) -> None:
    old, young, other = tmp_path / ".tmp-1", tmp_path / ".tmp-2", tmp_path / "tmp-3"
    for path in (old, young, other):
        path.touch()
    os.utime(old, (0, 0))
    os.utime(other, (0, 0))
    os.utime(young, (100_000, 100_000))
    remove_leftovers(str(tmp_path), 100_001)
    assert sorted(os.listdir(tmp_path)) == [".tmp-2", "tmp-3"]


# locks


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.told: list[tuple[float, str]] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def patience(self, timeout: float) -> Patience:
        return Patience(timeout, lambda path: self.told.append((self.now, path)), Time(clock=self, sleep=self.sleep))


@contextmanager
def held(path: Path, kind: int = fcntl.LOCK_EX) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, kind)
    try:
        yield
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("kind", [fcntl.LOCK_EX, fcntl.LOCK_SH])
def test_waiting_for_a_lock_is_told_once_and_ends(tmp_path: Path, kind: int) -> None:
    path, clock = tmp_path / "lock", Clock()
    with (
        held(path, kind),
        pytest.raises(LocalDiskError, match=r"lock: another process has held this lock for 30 seconds") as raised,
        locked(str(path), clock.patience(30.0)),
    ):
        pass
    assert "lock_timeout" in raised.value.hint
    assert clock.now == pytest.approx(30.0)
    assert [text for _, text in clock.told] == [str(path)]
    assert 5.0 <= clock.told[0][0] < 6.0


def test_a_lock_that_becomes_free_is_taken(tmp_path: Path) -> None:
    path, clock = tmp_path / "lock", Clock()
    other = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(other, fcntl.LOCK_EX)

    def sleep(seconds: float) -> None:
        clock.now += seconds
        if clock.now > 2:
            fcntl.flock(other, fcntl.LOCK_UN)

    with locked(str(path), Patience(30.0, time=Time(clock=clock, sleep=sleep))):
        assert 2 < clock.now < 3
    assert not clock.told
    os.close(other)


# folders of ours


def test_our_folders_are_private(tmp_path: Path) -> None:
    private_folder(str(tmp_path / "a" / "b"))
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    (tmp_path / "a").chmod(0o755)
    private_folder(str(tmp_path / "a"))  # what is there stays
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o755


@pytest.mark.parametrize(
    ("mode", "user", "reason"),
    [
        (0o700, 0, ""),
        (0o755, 0, ""),
        (0o775, 0, r"other users \(mode 0775\)"),
        (0o702, 0, "other users"),
        (0o1777, 0, r"other users \(mode 1777\)"),
        (0o700, 1, "belongs to the user"),
    ],
)
def test_folders_that_others_may_write(tmp_path: Path, mode: int, user: int, reason: str) -> None:
    if os.getuid() == 0 and user:
        os.chown(tmp_path, 4711, -1)
    tmp_path.chmod(mode)
    found = foreign_writers(str(tmp_path), os.getuid() + user)
    assert (not found) if not reason else bool(__import__("re").search(reason, found))


# paths below a root

HOSTILE = [
    "..",
    ".",
    "",
    ".spack-db",
    ".hidden",
    "../victim",
    "a/b",
    "/etc",
    "a\0b",
    "a\nb",
    "a\x1b[2J",
    "a\x7f",
    "a\x9b1m",
    "x" * 256,
    "ä" * 128,
    "\ud800",
]


@pytest.mark.parametrize("part", HOSTILE)
@pytest.mark.parametrize("where", [0, 1, 2])
def test_no_component_leads_elsewhere(tmp_path: Path, part: str, where: int) -> None:
    parts = ["linux-x86_64", "zlib-1-abc", "lib"]
    parts[where] = part
    with pytest.raises(ContentError, match="names no directory below a tree"):
        PrefixPath(Root.of(str(tmp_path)), tuple(parts))


def test_a_path_below_a_root_is_as_it_was_written(tmp_path: Path) -> None:
    root = Root.of(str(tmp_path))
    for text in ("a", "linux-x86_64/zlib-1.3-abc", "gcc@12/zlib/1.3+x~y/abc def"):
        path = root.below(f"{tmp_path}/{text}")
        assert str(path) == f"{tmp_path}/{text}"
        assert path.name == text.rpartition("/")[2]
    assert str(Root.of("/").below("/opt/x")) == "/opt/x"


@pytest.mark.parametrize(
    "text", ["", "/", "{root}", "{root}/", "{root}x/a", "{root}/../victim", "{root}/a/../../v", "{root}//a", "{root}/a/",
             "{root}/./a", "{root}/a/.spack", "/etc", "relative/a", "{root}/.spack-db/x"]
)  # fmt: skip
def test_what_is_not_below_a_root_is_refused(tmp_path: Path, text: str) -> None:
    root = Root.of(str(tmp_path))
    assert not root.holds(text.format(root=tmp_path))
    with pytest.raises(ContentError):
        root.below(text.format(root=tmp_path))


def test_links_below_the_root_are_not_followed_and_links_to_it_are(tmp_path: Path) -> None:
    victim, tree = tmp_path / "victim", tmp_path / "real"
    (victim / "pkg").mkdir(parents=True)
    tree.mkdir()
    (tmp_path / "root").symlink_to(tree)
    root = Root.of(str(tmp_path / "root"))
    (tree / "arch").symlink_to(victim)
    path = root.below(f"{root.path}/arch/pkg")
    for create in (False, True):
        with pytest.raises(LocalDiskError, match=r"root/arch is a symbolic link"), path.parent(create=create):
            pass
    with pytest.raises(LocalDiskError, match="symbolic link"):
        path.status()
    assert not path.is_directory()
    inside = root.below(f"{root.path}/other/pkg")
    with inside.parent(create=True) as directory:
        os.mkdir(inside.name, dir_fd=directory)
    assert (tree / "other" / "pkg").is_dir()
    assert inside.is_directory()
    assert root.below(f"{root.path}/none/pkg").status() is None


def test_a_prefix_that_is_a_link_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "pkg").symlink_to(tmp_path / "victim")
    path = Root.of(str(tmp_path)).below(f"{tmp_path}/pkg")
    assert not path.is_directory()
    found = path.status()
    assert found is not None
    assert stat.S_ISLNK(found.st_mode)
    with path.parent() as directory:
        remove_tree(path.name, directory)
    assert (tmp_path / "victim").is_dir()
    assert not (tmp_path / "pkg").is_symlink()


def test_a_file_on_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "arch").touch()
    path = Root.of(str(tmp_path)).below(f"{tmp_path}/arch/pkg")
    with pytest.raises(LocalDiskError, match="arch is a regular file"), path.parent(create=True):
        pass


def test_two_names_are_exchanged(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        assert exchange("one", directory, "two", directory)
        with pytest.raises(FileNotFoundError):
            exchange("one", directory, "none", directory)
    finally:
        os.close(directory)
    assert os.listdir(tmp_path / "one") == ["two"]
