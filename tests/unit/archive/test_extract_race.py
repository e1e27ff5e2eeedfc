"""Somebody else changes the directory while it is written: nothing gets outside."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from oci_binpkg.errors import LocalDiskError
from tests.support.hostile_archives import (
    PREFIX,
    Place,
    directory,
    file,
    gz,
    hard_link,
    package,
    snapshot,
    symlink,
    within,
)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def swap(place: Place, name: str) -> None:
    """Put a link to the canary in the place of a directory."""
    path = place.destination / PREFIX / name
    path.rename(path.with_name("taken"))
    path.symlink_to(place.canary)


class After:
    """Calls `action` when the call of `os` that creates `name` has been made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, call: str, name: str, action: Callable[[], None]) -> None:
        real = getattr(os, call)
        pending = [action]

        def watched(*arguments, **options):
            result = real(*arguments, **options)
            if name in arguments and pending:
                pending.pop()()
            return result

        monkeypatch.setattr(os, call, watched)


@pytest.mark.covers("B31")
def test_B31_a_directory_exchanged_right_after_it_was_made(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot(place.canary)
    After(monkeypatch, "mkdir", "dir", lambda: swap(place, "dir"))

    with pytest.raises(LocalDiskError, match="was replaced while it was written to"):
        place.extract(gz(package(directory(within("dir")), file(within("dir/evil")))))

    assert snapshot(place.canary) == before
    assert not place.destination.exists()


@pytest.mark.covers("B31")
@pytest.mark.parametrize(
    "last",
    [
        file(within("dir/evil")),
        directory(within("dir/evil")),
        symlink(within("dir/evil"), "x"),
        hard_link(within("evil"), within("dir/first")),
        hard_link(within("dir/evil"), within("other")),
    ],
    ids=["file", "directory", "link", "hard link from there", "hard link to there"],
)
def test_B31_a_directory_exchanged_before_it_is_entered_again(
    place: Place, last: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place.canary / "first").write_bytes(b"a secret")
    before = snapshot(place.canary)
    After(monkeypatch, "open", "other", lambda: swap(place, "dir"))

    with pytest.raises(LocalDiskError, match="was replaced while it was written to"):
        place.extract(gz(package(file(within("dir/first")), file(within("other")), last)))

    assert snapshot(place.canary) == before
    assert not place.destination.exists()


@pytest.mark.covers("B31")
def test_B31_a_directory_exchanged_while_it_is_open_is_the_old_one(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(place.canary)
    After(monkeypatch, "open", "first", lambda: swap(place, "dir"))

    place.extract(gz(package(file(within("dir/first")), file(within("dir/second")))))

    assert snapshot(place.canary) == before
    assert sorted(os.listdir(place.destination / "taken")) == ["first", "second"]


@pytest.mark.covers("B31")
def test_B31_a_destination_that_was_exchanged_is_not_removed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def exchange() -> None:
        place.destination.rename(place.directory / "moved")
        place.destination.symlink_to(place.canary)

    before = snapshot(place.canary)
    After(monkeypatch, "open", "first", exchange)

    with pytest.raises(Exception, match="twice"):
        place.extract(gz(package(file(within("first")), file(within("first")))))

    assert snapshot(place.canary) == before
    assert place.destination.is_symlink()


@pytest.mark.covers("B31")
def test_B31_a_parent_exchanged_before_the_prefix_is_moved_up(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def exchange() -> None:
        (place.destination / "opt").rename(place.destination / "gone")
        (place.destination / "opt").symlink_to(place.canary)

    before = snapshot(place.canary)
    After(monkeypatch, "open", "last", exchange)

    with pytest.raises(LocalDiskError):
        place.extract(gz(package(file(within("a")), file(within("last")))))

    assert snapshot(place.canary) == before
    assert not place.destination.exists()


@pytest.mark.covers("B31")
def test_B31_a_thread_that_exchanges_directories_all_the_time(place: Place) -> None:
    before = snapshot(place.canary)
    done = threading.Event()

    def exchange() -> None:
        root = place.destination / PREFIX
        while not done.is_set():
            for name in ("one", "two"):
                try:
                    os.rename(root / name, root / f"{name}-aside")
                    os.symlink(place.canary, root / name)
                    os.unlink(root / name)
                    os.rename(root / f"{name}-aside", root / name)
                except OSError:
                    continue

    members = [file(within(f"{('one', 'two')[number % 2]}/f{number}")) for number in range(300)]
    layer = gz(package(*members))
    thread = threading.Thread(target=exchange)
    thread.start()
    try:
        outcomes = []
        for _ in range(15):
            try:
                place.extract(layer)
                outcomes.append("extracted")
            except LocalDiskError:
                outcomes.append("refused")
            shutil.rmtree(place.destination, ignore_errors=True)
    finally:
        done.set()
        thread.join()
    assert snapshot(place.canary) == before
    assert len(outcomes) == 15
