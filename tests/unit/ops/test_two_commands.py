"""Two commands at once: what one decides is decided under the lock that protects what it is about."""

import fcntl
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from oci_binpkg.archive.codec import Codec
from oci_binpkg.archive.layer_cache import LayerCache
from oci_binpkg.cache.oci import OciCache
from oci_binpkg.errors import BinpkgError, InstallsError, LocalDiskError
from oci_binpkg.events import BytesPacked, PackageStarted
from oci_binpkg.file_lock import Patience
from oci_binpkg.installs.spack import SpackInstalls
from oci_binpkg.installs.transaction import sweep
from oci_binpkg.model.query import Query
from oci_binpkg.ops.install import Installed, InstallOptions, install
from oci_binpkg.ops.layer_packer import LayerPacker
from oci_binpkg.ops.push import PushOptions, push
from oci_binpkg.ops.selection import select
from oci_binpkg.ops.sources import Sources
from oci_binpkg.ops.upkeep import uninstall
from oci_binpkg.store.layout import LayoutStore
from oci_binpkg.times import Time
from tests.support.memory_store import MemoryStore
from tests.support.spack_trees import Sketch, Tree, spack_tree

SKETCHES = [
    Sketch("zlib", "1.3", files={"lib/libz.so": b"z"}),
    Sketch("cfg", "1.0", files={"etc/cfg": "x\n"}),
    Sketch("lib", "1.0", files={"lib/liblib.so": b"l"}, depends=["zlib"]),
    Sketch("app", "2.0", files={"bin/app": "#!/bin/sh\n"}, depends=["lib", ("cfg", ("run",)), ("zlib", ("build",))]),
]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return spack_tree(tmp_path / "old", SKETCHES)


@pytest.fixture
def cache(tree: Tree, tmp_path: Path) -> OciCache:
    cache = OciCache(MemoryStore("cache"), pause=lambda _: None)
    installs = tree.installs()
    packer = LayerPacker(
        installs, LayerCache(str(tmp_path / "layers"), 2**30, time=Time(now=lambda: 0.0)), Codec.parse("gzip")
    )
    push(installs, select(installs, []), cache, packer, options=PushOptions(update_index=True))
    return cache


def new(tmp_path: Path) -> SpackInstalls:
    return SpackInstalls(str(tmp_path / "new"), create=True)


def add(
    cache: OciCache, installs: SpackInstalls, query: str, observer: Callable[..., None] = lambda _: None, **options
):
    sources = Sources([cache], lambda _: None)
    return install(installs, sources, [Query.parse(query)], InstallOptions(**options), observer)


def names(tmp_path: Path) -> set[str]:
    return {record.spec.name for record in new(tmp_path).records() if record.installed}


def complete(tmp_path: Path) -> bool:
    """Whether all that installed packages need is installed, recorded and there."""
    records = {record.spec.hash: record for record in new(tmp_path).records()}
    return all(
        records[edge.hash].installed and records[edge.hash].is_present
        for record in records.values()
        if record.installed
        for edge in record.spec.dependencies_of(("link", "run"))
    )


class Meanwhile:
    """Does something in another command, once, while a package is unpacked."""

    def __init__(self, package_hash: str, act: Callable[[], object]) -> None:
        self._hash = package_hash
        self._act = act
        self._lock = threading.Lock()
        self.outcome: object = None
        self.done = False

    def __call__(self, event: object) -> None:
        if isinstance(event, BytesPacked | PackageStarted) and event.key == self._hash:
            with self._lock:
                if self.done:
                    return
                self.done = True
            try:
                self.outcome = self._act()
            except BinpkgError as error:
                self.outcome = error


@pytest.mark.parametrize("needed", ["lib", "cfg"])
@pytest.mark.parametrize("force", [False, True])
def test_a_dependency_that_is_uninstalled_while_its_dependent_is_unpacked(
    cache: OciCache, tree: Tree, tmp_path: Path, needed: str, force: bool
) -> None:
    add(cache, new(tmp_path), "lib")
    add(cache, new(tmp_path), "cfg")
    meanwhile = Meanwhile(tree.hashes["app"], lambda: uninstall(new(tmp_path), [Query.parse(needed)]))
    report = add(cache, new(tmp_path), "app", meanwhile, force=force)
    assert isinstance(meanwhile.outcome, list)
    (failed,) = report.by(Installed.FAILED)
    assert failed.spec.name == "app"
    assert f"needs {needed}@1.0" in failed.error.message
    assert "uninstalled" in failed.error.message
    assert "install it again" in failed.error.hint
    assert names(tmp_path) == {"zlib", "lib", "cfg"} - {needed}
    assert complete(tmp_path)
    assert not any(name.startswith(("app", ".")) for name in os.listdir(tmp_path / "new" / "linux-x86_64"))
    assert add(cache, new(tmp_path), "app").exit_code == 0
    assert complete(tmp_path)


def test_a_build_dependency_may_go(cache: OciCache, tree: Tree, tmp_path: Path) -> None:
    sketches = [Sketch("tool", "1.0"), Sketch("user", "1.0", depends=[("tool", ("build",))])]
    built = spack_tree(tmp_path / "other", sketches)
    source = OciCache(MemoryStore("other"), pause=lambda _: None)
    packer = LayerPacker(
        built.installs(), LayerCache(str(tmp_path / "l2"), 2**30, time=Time(now=lambda: 0.0)), Codec.parse("gzip")
    )
    push(built.installs(), select(built.installs(), []), source, packer, options=PushOptions(update_index=True))
    add(source, new(tmp_path), "tool")
    meanwhile = Meanwhile(built.hashes["user"], lambda: uninstall(new(tmp_path), [Query.parse("tool")]))
    assert add(source, new(tmp_path), "user", meanwhile).exit_code == 0
    assert names(tmp_path) == {"user"}


def test_everything_is_uninstalled_meanwhile(cache: OciCache, tree: Tree, tmp_path: Path) -> None:
    add(cache, new(tmp_path), "lib")
    meanwhile = Meanwhile(tree.hashes["app"], lambda: uninstall(new(tmp_path), [Query.parse("zlib")], dependents=True))
    report = add(cache, new(tmp_path), "app", meanwhile)
    assert {result.spec.name: result.outcome.value for result in report.packages}["app"] == "failed"
    assert names(tmp_path) == {"cfg"}
    assert complete(tmp_path)


def test_a_package_that_was_left_out_is_not_missed(tree: Tree, tmp_path: Path) -> None:
    store = MemoryStore("cache")
    cache = OciCache(store, pause=lambda _: None)
    installs = tree.installs()
    packer = LayerPacker(
        installs, LayerCache(str(tmp_path / "layers"), 2**30, time=Time(now=lambda: 0.0)), Codec.parse("gzip")
    )
    push(installs, select(installs, []), cache, packer, options=PushOptions(update_index=True))
    store.remove(next(tag for tag in store.tags() if tag.startswith("cfg-")))
    report = add(cache, new(tmp_path), "app", allow_missing=True)
    assert "app" in {result.spec.name for result in report.by(Installed.INSTALLED)}


def test_an_uninstall_sees_what_was_installed_since_it_began(
    cache: OciCache, tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(cache, new(tmp_path), "lib")
    add(cache, new(tmp_path), "cfg")
    installs = new(tmp_path)
    really_locked = SpackInstalls.locked

    def locked_later(self, spec):
        if self is installs:  # between the first decision and the lock
            monkeypatch.setattr(SpackInstalls, "locked", really_locked)
            add(cache, new(tmp_path), "app")
        return really_locked(self, spec)

    monkeypatch.setattr(SpackInstalls, "locked", locked_later)
    with pytest.raises(InstallsError, match=r"cfg@1\.0/\w+ is needed by app@2\.0/\w+, which was installed meanwhile"):
        uninstall(installs, [Query.parse("cfg")])
    assert names(tmp_path) == {"zlib", "lib", "cfg", "app"}
    assert complete(tmp_path)


def test_two_uninstalls_of_one_package(cache: OciCache, tree: Tree, tmp_path: Path) -> None:
    add(cache, new(tmp_path), "app")
    first, second = new(tmp_path), new(tmp_path)
    assert [spec.name for spec in uninstall(first, [Query.parse("app")])] == ["app"]
    uninstall(second, [Query.parse("app")])  # it is gone: what was asked for is true
    assert names(tmp_path) == {"zlib", "lib", "cfg"}


def test_an_uninstall_does_not_remove_what_was_installed_anew_elsewhere(
    cache: OciCache, tree: Tree, tmp_path: Path
) -> None:
    add(cache, new(tmp_path), "cfg")
    stale = new(tmp_path)
    uninstall(new(tmp_path), [Query.parse("cfg")])
    (tmp_path / "new" / "linux-x86_64" / f"cfg-1.0-{tree.hashes['cfg']}").mkdir()  # somebody's own
    uninstall(stale, [Query.parse("cfg")])
    assert (tmp_path / "new" / "linux-x86_64" / f"cfg-1.0-{tree.hashes['cfg']}").is_dir()


def together(*acts: Callable[[], object]) -> list[object]:
    """Run calls at the same moment; return what each gave or raised."""
    barrier = threading.Barrier(len(acts), timeout=60)
    outcomes: list[object] = [None] * len(acts)

    def run(position: int, act: Callable[[], object]) -> None:
        barrier.wait()
        try:
            outcomes[position] = act()
        except BinpkgError as error:
            outcomes[position] = error

    threads = [threading.Thread(target=run, args=each) for each in enumerate(acts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def test_two_pushes_to_one_layout_keep_each_others_tags(tree: Tree, tmp_path: Path) -> None:
    def pushed(name: str) -> Callable[[], object]:
        def run() -> object:
            installs = tree.installs()
            layers = LayerCache(str(tmp_path / f"layers-{name}"), 2**30, time=Time(now=lambda: 0.0))
            cache = OciCache(LayoutStore(str(tmp_path / "layout")), pause=lambda _: None)
            packer = LayerPacker(installs, layers, Codec.parse("gzip"))
            chosen = select(installs, [Query.parse(name)])
            return push(installs, chosen, cache, packer, options=PushOptions(update_index=True)).exit_code

        return run

    assert together(*map(pushed, ("app", "lib", "cfg", "zlib"))) == [0, 0, 0, 0]
    cache = OciCache(LayoutStore(str(tmp_path / "layout")), pause=lambda _: None)
    assert {spec.name for spec in cache.read_index().packages()} == {"app", "lib", "cfg", "zlib"}


def test_an_index_update_and_a_removal_at_once(tree: Tree, tmp_path: Path) -> None:
    store = LayoutStore(str(tmp_path / "layout"))
    installs = tree.installs()
    packer = LayerPacker(
        installs, LayerCache(str(tmp_path / "layers"), 2**30, time=Time(now=lambda: 0.0)), Codec.parse("gzip")
    )
    cache = OciCache(store, pause=lambda _: None)
    push(installs, select(installs, []), cache, packer, options=PushOptions(update_index=False))
    tag = next(each for each in store.tags() if each.startswith("app-"))

    def updated() -> object:
        mine = OciCache(LayoutStore(str(tmp_path / "layout")), pause=lambda _: None)
        return push(installs, select(installs, []), mine, packer, options=PushOptions(update_index=True)).exit_code

    outcomes = together(updated, lambda: LayoutStore(str(tmp_path / "layout")).remove(tag))
    assert outcomes[1] is None
    tags = set(LayoutStore(str(tmp_path / "layout")).tags())
    assert {each.partition("-")[0] for each in tags} >= {"lib", "cfg", "zlib", "index.spack"}
    json.loads((tmp_path / "layout" / "index.json").read_text())


def test_a_layer_that_is_in_use_is_not_dropped_by_another_thread(tree: Tree, tmp_path: Path) -> None:
    installs = tree.installs()
    layers = LayerCache(str(tmp_path / "layers"), 1, time=Time(now=lambda: 0.0))  # no room for any
    packer = LayerPacker(installs, layers, Codec.parse("gzip"))
    records = [record for record in installs.records() if record.spec.name in {"app", "lib", "cfg", "zlib"}]

    def packed(record) -> Callable[[], object]:
        def run() -> object:
            layer = packer(record)
            with layer.layer.blob.open() as stream:
                size = len(stream.read())
            layer.release()
            return size == layer.layer.blob.descriptor.size

        return run

    assert together(*map(packed, records)) == [True] * 4


def test_another_process_that_makes_room_costs_work_and_no_layer(tree: Tree, tmp_path: Path) -> None:
    installs = tree.installs()
    record = installs.record(tree.hashes["app"])
    packer = LayerPacker(
        installs, LayerCache(str(tmp_path / "layers"), 2**30, time=Time(now=lambda: 0.0)), Codec.parse("gzip")
    )
    first = packer(record)  # type: ignore[arg-type]
    other = LayerCache(str(tmp_path / "layers"), 0, time=Time(now=lambda: 0.0))
    LayerPacker(installs, other, Codec.parse("gzip"))(installs.record(tree.hashes["cfg"]))  # type: ignore[arg-type]  # drops what is not its own
    assert not first.reused
    again = packer(record)  # type: ignore[arg-type]
    with again.layer.blob.open() as stream:
        assert len(stream.read()) == again.layer.blob.descriptor.size


def test_a_lock_that_is_never_given_back_ends_the_wait_of_a_push(tree: Tree, tmp_path: Path) -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    told: list[str] = []
    layout = tmp_path / "layout"
    layout.mkdir()
    held = os.open(layout / "index.json.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(held, fcntl.LOCK_SH)  # a reader is enough to keep writers out
    store = LayoutStore(str(layout), patience=Patience(30.0, told.append, Time(clock=lambda: now[0], sleep=sleep)))
    cache = OciCache(store, pause=lambda _: None)
    packer = LayerPacker(
        tree.installs(), LayerCache(str(tmp_path / "l"), 2**30, time=Time(now=lambda: 0.0)), Codec.parse("gzip")
    )
    report = None
    try:
        report = push(
            tree.installs(), select(tree.installs(), []), cache, packer, options=PushOptions(update_index=False)
        )
    except LocalDiskError as error:
        assert "for 30 seconds" in error.message  # noqa: PT017
    os.close(held)
    assert report is None or report.exit_code != 0
    assert told[0] == str(layout / "index.json.lock")


def test_a_layer_is_made_without_the_lock_that_another_keeps(tree: Tree, tmp_path: Path) -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    layers = LayerCache(
        str(tmp_path / "l"),
        2**30,
        time=Time(now=lambda: 0.0),
        patience=Patience(9.0, time=Time(clock=lambda: now[0], sleep=sleep)),
    )
    packer = LayerPacker(tree.installs(), layers, Codec.parse("gzip"))
    packer(tree.installs().record(tree.hashes["cfg"]))  # type: ignore[arg-type]
    (path,) = (tmp_path / "l" / "locks").iterdir()
    lock = os.open(path, os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    for record in (tmp_path / "l" / "records").rglob("*.json"):
        record.unlink()
    assert packer(tree.installs().record(tree.hashes["cfg"])).reused is False  # type: ignore[arg-type]
    os.close(lock)


def test_leavings_of_a_living_install_are_not_swept(cache: OciCache, tree: Tree, tmp_path: Path) -> None:
    swept: list[bool] = []

    def other() -> None:
        sweep(new(tmp_path).place_for(tree.spec("app")))
        swept.append(True)

    meanwhile = Meanwhile(tree.hashes["lib"], other)
    assert add(cache, new(tmp_path), "app", meanwhile).exit_code == 0
    assert swept
