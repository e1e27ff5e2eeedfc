"""A caller stops an operation: by an object, or by an exception of its observer. What is done stays, nothing is half."""

from __future__ import annotations

import os
import threading
import time

import pytest

from oci_binpkg.cancel import Cancel, CancelledError
from oci_binpkg.client import Client
from oci_binpkg.config.settings import load_settings
from oci_binpkg.events import BytesPacked, BytesSent, PackageFinished, Retrying
from oci_binpkg.objects.directory import FileObjects
from oci_binpkg.store.layout import LayoutStore
from tests.support.fake_registry import Answer, FakeRegistry
from tests.support.spack_trees import Sketch, spack_tree

LARGE = 8 * 1024 * 1024
SOON = 20.0
"""Seconds on a busy machine; without a stop, what is stopped here would never end."""


@pytest.fixture
def settings(tmp_path):
    return load_settings({"HOME": str(tmp_path / "home")})


@pytest.fixture
def tree(tmp_path):
    sketches = [Sketch(f"part{number}", files={"data": os.urandom(LARGE // 8)}) for number in range(8)]
    return str(spack_tree(tmp_path / "opt", sketches).root)


@pytest.fixture
def registry():
    with FakeRegistry() as found:
        yield found


def threads() -> set[str]:
    names = ("pack", "send", "unpack", "copy", "read-ahead", "digest", "deflate", "send-ahead")
    return {thread.name for thread in threading.enumerate() if thread.name.startswith(names)}


class BrokenError(Exception):
    """What the caller's own observer raises."""


def stopping_at(kind, how):
    """An observer that calls `how` at the third event of a kind."""
    seen = []

    def observe(event):
        if isinstance(event, kind):
            seen.append(event)
            if len(seen) == 3:
                how()

    return observe


def raise_broken():
    raise BrokenError


@pytest.mark.parametrize("kind", [BytesPacked, BytesSent, PackageFinished])
@pytest.mark.parametrize("place", ["layout", "registry"])
def test_an_exception_of_the_observer_stops_a_push_and_reaches_the_caller(
    settings, tree, registry, tmp_path, kind, place
):
    cache = f"oci-layout:{tmp_path}/cache" if place == "layout" else f"oci+http://{registry.host}/apps"
    before = threads()
    with pytest.raises(BrokenError):
        Client(config=settings, observer=stopping_at(kind, raise_broken)).push(cache, tree, jobs=2)
    assert threads() <= before  # none is left behind
    whole = Client(config=settings).push(cache, tree, update_index=True)
    assert whole.exit_code == 0
    assert len(Client(config=settings).find(cache=cache)) == 8


@pytest.mark.parametrize("kind", [BytesPacked, BytesSent])
def test_a_cancelled_push_ends_with_an_error_of_its_own(settings, tree, registry, kind):
    cancel = Cancel()
    client = Client(config=settings, observer=stopping_at(kind, cancel.cancel), cancel=cancel)
    before = threads()
    with pytest.raises(CancelledError, match="cancelled"):
        client.push(f"oci+http://{registry.host}/apps", tree, jobs=2)
    assert threads() <= before
    with pytest.raises(CancelledError):
        client.find(cache=f"oci+http://{registry.host}/apps")  # what is cancelled stays so
    assert Client(config=settings).push(f"oci+http://{registry.host}/apps", tree).exit_code == 0


def test_a_registry_that_does_not_answer_is_not_waited_for(settings, tree, registry):
    asked, hold = threading.Event(), threading.Event()

    def never(_exchange):
        asked.set()
        hold.wait(60)
        return Answer(503)

    registry.fault("PUT", "/blobs/uploads/", times=0, answer=never)
    cancel = Cancel()
    outcome = []

    def push():
        try:
            Client(config=settings, cancel=cancel).push(f"oci+http://{registry.host}/apps", tree, jobs=2)
        except CancelledError as error:
            outcome.append(error)

    pushing = threading.Thread(target=push)
    pushing.start()
    assert asked.wait(30)
    cancel.cancel()
    pushing.join(SOON)
    hold.set()
    assert not pushing.is_alive()
    assert len(outcome) == 1


def test_the_wait_before_another_attempt_is_cut_short(settings, tree, registry):
    registry.fault("POST", "/blobs/uploads/", times=0, answer=Answer(503, [("Retry-After", "50")]))
    cancel = Cancel()
    started = time.monotonic()

    def observe(event):
        if isinstance(event, Retrying):
            cancel.cancel()

    with pytest.raises(CancelledError):
        Client(config=settings, observer=observe, cancel=cancel).push(f"oci+http://{registry.host}/apps", tree)
    assert time.monotonic() - started < SOON


def test_a_stopped_install_leaves_what_is_whole_and_nothing_else(settings, tree, registry, tmp_path):
    cache = f"oci+http://{registry.host}/apps"
    Client(config=settings).push(cache, tree, update_index=True)
    names = [f"part{number}" for number in range(8)]
    root = tmp_path / "apps"
    with pytest.raises(BrokenError):
        Client(config=settings, observer=stopping_at(BytesPacked, raise_broken)).install(cache, names, root=root)
    client = Client(config=settings)
    there = (
        {package.prefix for package in client.find(store=root)}
        if root.exists() and (root / ".spack-db").exists()
        else set()
    )
    assert {str(path) for path in root.glob("linux-*/part*")} == there
    assert not list(root.glob("linux-*/.oci-binpkg*"))
    assert client.install(cache, names, root=root).exit_code == 0
    assert all(each.is_good for each in client.verify_store(root))


def test_a_stopped_copy_can_be_run_again(settings, tree, registry, tmp_path):
    cache = f"oci+http://{registry.host}/apps"
    Client(config=settings).push(cache, tree, update_index=True)
    cancel = Cancel()
    observer = stopping_at(BytesSent, cancel.cancel)
    with pytest.raises(CancelledError):
        Client(config=settings, observer=observer, cancel=cancel).copy(cache, f"oci-layout:{tmp_path}/copy")
    assert not threads()
    report = Client(config=settings).copy(cache, f"oci-layout:{tmp_path}/copy")
    assert report.exit_code == 0
    assert len(Client(config=settings).find(cache=f"oci-layout:{tmp_path}/copy")) == 8


def test_what_is_cancelled_before_it_begins_does_nothing(settings, tree, registry):
    cancel = Cancel()
    cancel.cancel()
    with pytest.raises(CancelledError):
        Client(config=settings, cancel=cancel).push(f"oci+http://{registry.host}/apps", tree)
    assert registry.log == []


def test_an_operation_of_its_own_is_cancelled_by_its_client_and_not_the_other_way_round():
    client = Cancel()
    one, other = Cancel(client), Cancel(client)
    one.cancel()
    assert (one.is_cancelled, other.is_cancelled, client.is_cancelled) == (True, False, False)
    client.cancel()
    assert other.is_cancelled
    with pytest.raises(CancelledError):
        other.sleep(60)


def test_failures_of_packages_are_no_cancellation():
    assert not issubclass(CancelledError, Exception)


@pytest.mark.parametrize("place", ["oci-layout:{}/cache", "file://{}/mirror"])
def test_reading_a_folder_is_stopped_between_two_packages(settings, tmp_path, place, monkeypatch):
    """Nothing there reports an event: many packages are read, one by one."""
    sketches = [Sketch(f"part{number}", files={"data": b"x"}) for number in range(60)]
    tree, cache = spack_tree(tmp_path / "opt", sketches).root, place.format(tmp_path)
    Client(config=settings).push(cache, tree, unsigned=True, update_index=True)
    cancel, opened = Cancel(), []
    kind = LayoutStore if cache.startswith("oci-layout") else FileObjects
    original = kind.open

    def open_and_count(self, what):
        opened.append(what)
        if len(opened) == 10:
            cancel.cancel()
        return original(self, what)

    monkeypatch.setattr(kind, "open", open_and_count)
    with pytest.raises(CancelledError):
        Client(config=settings, cancel=cancel).index_rebuild(cache, check_signature=False)
    assert len(opened) < 60
