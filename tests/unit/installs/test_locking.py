"""Locks: other processes and other threads are kept out, waiting is told and ends."""

import errno
import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from oci_binpkg.disk import replace_file
from oci_binpkg.errors import InstallsError, LocalDiskError
from oci_binpkg.file_lock import Patience
from oci_binpkg.installs import locking
from oci_binpkg.installs.locking import LockFile, prefix_lock_offset
from oci_binpkg.times import Time

HOLDER = "import fcntl,os,sys; f=os.open(sys.argv[1],os.O_RDWR|os.O_CREAT); fcntl.lockf(f,int(sys.argv[2]),int(sys.argv[4]),int(sys.argv[3])); print('held',flush=True); sys.stdin.read()"


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def patience(self, timeout: float = 3.0) -> Patience:
        return Patience(timeout, time=Time(clock=self, sleep=self.sleep))


@contextmanager
def another_process(path: Path, kind: int, start: int = 0, length: int = 0) -> Iterator[None]:
    """A process that holds a lock as Spack does."""
    command = [sys.executable, "-c", HOLDER, str(path), str(kind), str(start), str(length)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield
        process.communicate("")


def can_lock(path: Path, kind: int, start: int = 0, length: int = 0) -> bool:
    """Whether another process could have the range now."""
    code = "import fcntl,os,sys; f=os.open(sys.argv[1],os.O_RDWR); fcntl.lockf(f,int(sys.argv[2])|fcntl.LOCK_NB,int(sys.argv[4]),int(sys.argv[3]))"
    return (
        subprocess.run(
            [sys.executable, "-c", code, str(path), str(kind), str(start), str(length)],
            capture_output=True,
            check=False,
        ).returncode
        == 0
    )


def test_an_exclusive_lock_keeps_others_out(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = LockFile(str(path))
    with lock.exclusive():
        assert not can_lock(path, fcntl.LOCK_SH)
    assert can_lock(path, fcntl.LOCK_EX)


def test_waiting_ends_and_says_so(tmp_path: Path) -> None:
    path, clock = tmp_path / "lock", Clock()
    with (
        another_process(path, fcntl.LOCK_EX),
        pytest.raises(InstallsError, match=r"lock: another process has held this lock for 3 seconds"),
        LockFile(str(path), clock.patience()).exclusive(),
    ):
        pass
    assert clock.now == pytest.approx(3.0)
    assert clock.pauses[:3] == [0.01, 0.02, 0.04]
    assert max(clock.pauses) == 0.5


def test_ranges_of_one_file_are_independent(tmp_path: Path) -> None:
    path, clock = tmp_path / "prefix_lock", Clock()
    lock = LockFile(str(path), clock.patience())
    with another_process(path, fcntl.LOCK_EX, 5, 1), lock.exclusive(6, 1), lock.exclusive(4, 1):
        with pytest.raises(InstallsError), lock.exclusive(5, 1):
            pass
        assert not can_lock(path, fcntl.LOCK_EX, 6, 1)


def test_one_range_ending_leaves_the_others_locked(tmp_path: Path) -> None:
    path = tmp_path / "prefix_lock"
    lock = LockFile(str(path))
    with ExitStack() as stack:
        stack.enter_context(lock.exclusive(1, 1))
        with lock.exclusive(2, 1):
            pass
        assert can_lock(path, fcntl.LOCK_EX, 2, 1)
        assert not can_lock(path, fcntl.LOCK_EX, 1, 1)
    assert can_lock(path, fcntl.LOCK_EX, 1, 1)


@pytest.mark.parametrize("kind", [fcntl.LOCK_EX, fcntl.LOCK_SH])
def test_a_long_wait_is_told_whoever_holds_the_lock(tmp_path: Path, kind: int) -> None:
    path, clock, told = tmp_path / "lock", Clock(), []
    patience = Patience(20.0, lambda which: told.append((which, clock.now)), Time(clock=clock, sleep=clock.sleep))
    with (
        another_process(path, kind),
        pytest.raises(InstallsError, match="for 20 seconds") as raised,
        LockFile(str(path), patience).exclusive(),
    ):
        pass
    assert "lock_timeout" in raised.value.hint
    assert [which for which, _ in told] == [str(path)]
    assert 5.0 <= told[0][1] < 6.0


def test_two_lock_files_of_one_process_exclude_each_other(tmp_path: Path) -> None:
    path, clock = tmp_path / "lock", Clock()
    first, second = LockFile(str(path)), LockFile(str(path), clock.patience())
    with first.exclusive():
        with pytest.raises(InstallsError, match="for 3 seconds"), second.exclusive():
            pass
        assert not can_lock(path, fcntl.LOCK_SH)  # the second one's end took nothing away
    with second.exclusive():
        pass


def test_without_locks_of_descriptors_those_of_the_process_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locking, "_OWNED_BY_DESCRIPTOR", False)
    path = tmp_path / "lock"
    with LockFile(str(path)).exclusive(5, 1):
        assert not can_lock(path, fcntl.LOCK_EX, 5, 1)
        assert can_lock(path, fcntl.LOCK_EX, 6, 1)
    assert can_lock(path, fcntl.LOCK_EX, 5, 1)


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", unsupported)
    monkeypatch.setattr(fcntl, "fcntl", unsupported)
    with (
        pytest.raises(InstallsError, match="cannot be locked: No locks available"),
        LockFile(str(tmp_path / "lock")).exclusive(),
    ):
        pass


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("victim", path)])
def test_a_lock_is_a_regular_file(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "lock")
    with (
        pytest.raises(InstallsError, match=r"lock: cannot be locked: [Ii]s a"),
        LockFile(str(tmp_path / "lock")).exclusive(),
    ):
        pass
    assert os.listdir(tmp_path) == ["lock"]


def test_threads_exclude_each_other(tmp_path: Path) -> None:
    lock = LockFile(str(tmp_path / "lock"), Patience(30.0))
    inside, most, done = [0], [0], []

    def work() -> None:
        for _ in range(20):
            with lock.exclusive():
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                inside[0] -= 1
        done.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(done), most[0]) == (4, 1)


def test_writers_need_a_folder(tmp_path: Path) -> None:
    with (
        pytest.raises(InstallsError, match="cannot be locked: No such file"),
        LockFile(str(tmp_path / "none" / "lock")).exclusive(),
    ):
        pass


@pytest.mark.parametrize(
    ("package_hash", "offset"),
    [
        ("a" * 32, 0),
        ("7" * 32, 2**63 - 1),
        ("b" + "a" * 31, 2**58),
        ("a" * 12 + "e" + "a" * 19, 1),
        ("a" * 12 + "b" + "a" * 19, 0),
        ("b", 2**58),
    ],
)
def test_prefix_locks_are_at_the_first_63_bits(package_hash: str, offset: int) -> None:
    assert prefix_lock_offset(package_hash) == offset


def test_files_are_replaced_whole_and_keep_their_permissions(tmp_path: Path) -> None:
    path = tmp_path / "index.json"
    replace_file(str(path), b"one")
    path.chmod(0o640)
    replace_file(str(path), b"two")
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["index.json"]


def test_a_failed_replacement_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "index.json"
    path.write_bytes(b"one")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LocalDiskError, match=r"index\.json: cannot be written: No space left"):
        replace_file(str(path), b"two")
    assert path.read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["index.json"]
