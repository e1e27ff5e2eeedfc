"""SIGKILL and SIGINT at random moments of everything that writes, and what can be seen after each.

`OCI_KILLS_SEED=N` repeats the moments of a run, `OCI_KILLS=N` asks for more of them.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from kills import (
    PACKAGES,
    Killer,
    Moments,
    Run,
    State,
    forget,
    killer,
    make_tree,
    prefixes,
    recorded,
    state_of,
    whole_layer_cache,
)

from oci_binpkg.cache.oci import OciCache
from oci_binpkg.model.content import Blob
from oci_binpkg.store.layout import LayoutStore
from tests.support.catalog_indices import hash_of, index, node
from tests.support.examples import nightly
from tests.support.opened_index import open_index
from tests.support.real.registry import RealRegistry

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

SEED = int(os.environ.get("OCI_KILLS_SEED") or random.randrange(10**6))
KILLS = int(os.environ.get("OCI_KILLS") or (50 if nightly() else 20))
ROUND = 10
NEW = iter(range(10**6))


@pytest.fixture(scope="module")
def tree(workroot: Path) -> Path:
    return make_tree(workroot / "tree")


@pytest.fixture
def kill(tmp_path: Path) -> Iterator[Killer]:
    with killer(tmp_path) as started:
        yield started


@pytest.fixture(params=["registry", "mirror", "layout"])
def new_cache(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """A function that gives the address of an empty cache."""
    if request.param == "registry":
        registry: RealRegistry = request.getfixturevalue("plain_registry")
        return lambda: f"oci://{registry.host}/kills-{next(NEW)}"
    scheme = {"mirror": "file://", "layout": "oci-layout:"}[request.param]
    return lambda: f"{scheme}{tmp_path}/cache-{next(NEW)}"


def signing(cache: str) -> tuple[str, ...]:
    return ("--unsigned",) if cache.startswith("file://") else ()


def reading(cache: str) -> tuple[str, ...]:
    return ("--no-check-signature",) if cache.startswith("file://") else ()


@dataclass
class Job:
    """A command that is killed. `anew` sets the scene for a round, `again` for each kill of it.

    `arguments()` is the command; `check()` looks at what is there after a kill, `complete()` after the run at the end
    of a round that nobody disturbs.
    """

    arguments: Callable[[], tuple[object, ...]]
    check: Callable[[], object]
    complete: Callable[[], None]
    anew: Callable[[], None] = lambda: None
    again: Callable[[], None] = lambda: None

    def whole(self, kill: Killer) -> Run:
        self.anew()
        self.again()
        done = kill.undisturbed(*self.arguments())
        self.complete()
        return done


def suffer(job: Job, kill: Killer, capsys: pytest.CaptureFixture[str]) -> None:
    """Kill a job `KILLS` times, and let it finish when it was too fast, or after every tenth."""
    whole = min(job.whole(kill).seconds for _ in range(2))
    moments = Moments(SEED)
    kinds = {"killed": 0, "interrupted": 0}
    tries = 0
    while sum(kinds.values()) < KILLS:
        job.anew()
        for _ in range(ROUND):
            job.again()
            after, kind = moments.next(whole)
            tries += 1
            ended = kill.run(*job.arguments(), after=after, kind=kind)
            job.check()
            assert "Traceback" not in ended.text, ended.text
            assert ended.code in ((-9, 130, 0) if ended.killed else (0,)), ended.text
            if not ended.killed:
                break
            kinds["interrupted" if kind is signal.SIGINT else "killed"] += 1
        assert tries <= 6 * KILLS, "the run is too short to be killed"
        job.again()
        kill.undisturbed(*job.arguments())
        job.complete()
    with capsys.disabled():
        print(f"\nseed {SEED}: {kinds} of {tries} runs of {whole:.2f} s", end=" ")


@dataclass
class Growing:
    """A cache that may gain packages, and loses none that anybody has seen."""

    cache: str = ""
    seen: State = field(default_factory=lambda: State({}, {}))

    def start(self, cache: str) -> None:
        self.cache, self.seen = cache, State({}, {})

    def look(self) -> None:
        now = state_of(self.cache)
        assert now.packages.items() >= self.seen.packages.items(), "packages were lost"
        assert now.index.items() >= self.seen.index.items(), "entries of the index were lost"
        self.seen = now


@dataclass
class Same:
    """Remembers the first result; all others must be equal."""

    first: Any = None

    def hold(self, result: Any) -> None:
        self.first = result if self.first is None else self.first
        assert result == self.first


def test_push(tree: Path, new_cache: Callable[[], str], kill: Killer, tmp_path: Path, capsys) -> None:
    target, result = Growing(), Same()
    layers = tmp_path / "layers"
    kill.environment["OCI_BINPKG_LAYER_CACHE"] = str(layers)

    def anew() -> None:
        forget(layers)
        target.start(new_cache())

    def check() -> None:
        target.look()
        whole_layer_cache(layers)

    def complete() -> None:
        check()
        assert len(target.seen.index) == len(target.seen.packages) == PACKAGES
        result.hold(target.seen)

    def push() -> tuple[object, ...]:
        return ("push", target.cache, "--store", tree, "--update-index", *signing(target.cache))

    suffer(Job(push, check, complete, anew), kill, capsys)


@pytest.fixture(scope="module")
def pushed(tree: Path, workroot: Path) -> str:
    """A layout with all packages and its index."""
    cache = f"oci-layout:{workroot}/pushed"
    with killer(workroot) as runner:
        runner.undisturbed("push", cache, "--store", tree, "--update-index")
    return cache


def test_copy(pushed: str, new_cache: Callable[[], str], kill: Killer, capsys) -> None:
    target, result = Growing(), Same()

    def complete() -> None:
        target.look()
        assert len(target.seen.packages) == PACKAGES
        result.hold(target.seen)

    def copy() -> tuple[object, ...]:
        return ("copy", pushed, target.cache, *signing(target.cache))

    suffer(Job(copy, target.look, complete, lambda: target.start(new_cache())), kill, capsys)


@pytest.mark.parametrize("new_cache", ["registry", "mirror"], indirect=True)
def test_index_update(tree: Path, new_cache: Callable[[], str], kill: Killer, capsys) -> None:
    """The index has a third of the packages before each kill."""
    target, result = Growing(), Same()
    old: dict[str, bytes] = {}
    cache = new_cache()
    partial = [f"part{number}" for number in range(PACKAGES // 3)]
    kill.undisturbed("push", cache, *partial, "--store", tree, "--update-index", *signing(cache))
    before = state_of(cache)
    assert 0 < len(before.index) < PACKAGES
    if cache.startswith("file://"):
        file = Path(cache.removeprefix("file://"), "v3/manifests/index/index.manifest.json")
        old["index"] = file.read_bytes()

        def reset() -> None:
            file.write_bytes(old["index"])
            target.start(cache)
            target.look()
    else:
        host, _, name = cache.removeprefix("oci://").partition("/")
        store = registry_store(host, name)
        with store.open(store.resolve("index.spack")) as stream:
            blob = Blob.from_bytes(stream.read(), store.resolve("index.spack").media_type)

        def reset() -> None:
            store.tag(blob, "index.spack")
            target.start(cache)
            target.look()

    kill.undisturbed("push", cache, "--store", tree, *signing(cache))

    def complete() -> None:
        target.look()
        assert len(target.seen.index) == len(target.seen.packages) == PACKAGES
        result.hold(target.seen)

    def update() -> tuple[object, ...]:
        return ("index", "update", cache, *reading(cache))

    suffer(Job(update, target.look, complete, again=reset), kill, capsys)


def registry_store(host: str, name: str) -> Any:
    from oci_binpkg.model.reference import Repository
    from oci_binpkg.store.registry.repository import RegistryStore
    from oci_binpkg.transport.registry_client import RegistryHttpClient

    return RegistryStore(RegistryHttpClient(f"http://{host}"), Repository("http", host, name))


def test_install(pushed: str, kill: Killer, tmp_path: Path, capsys) -> None:
    root, layers = tmp_path / "root", tmp_path / "layers"
    kill.environment["OCI_BINPKG_LAYER_CACHE"] = str(layers)
    expected: dict[str, Any] = {}
    seen: set[str] = set()

    def anew() -> None:
        forget(root, layers)
        seen.clear()

    def check() -> None:
        there, known = prefixes(root), recorded(root)
        assert known <= there.keys(), "recorded, and not there"
        for name, found in there.items():
            assert found == expected.get(name, found), name
        assert seen <= known, "packages were lost"
        seen.update(known)
        whole_layer_cache(layers)
        if known:
            kill.undisturbed("verify-store", root)

    def complete() -> None:
        if not expected:
            expected.update(prefixes(root))
        check()
        assert seen == expected.keys()
        assert len(seen) == PACKAGES
        assert not [path for path in root.glob("linux-*/.*") if path.name.startswith(".oci-binpkg")]

    install = ("install", *(f"part{n}" for n in range(PACKAGES)), "--from", pushed, "--store", root)
    suffer(Job(lambda: install, check, complete, anew), kill, capsys)


def test_layer_cache(tree: Path, kill: Killer, tmp_path: Path, capsys) -> None:
    """A cache with room for half of the layers only: it is written and cleared at once."""
    layers, result = tmp_path / "layers", Same()
    config = tmp_path / "config.toml"
    config.write_text(f'[layer_cache]\npath = "{layers}"\nmax_size = "250 KiB"\n')
    kill.environment["OCI_BINPKG_CONFIG"] = str(config)
    target = Growing()
    written: set[int] = set()

    def again() -> None:
        target.start(f"oci-layout:{tmp_path}/cache-{next(NEW)}")

    def check() -> None:
        written.add(whole_layer_cache(layers))

    def complete() -> None:
        check()
        target.look()
        assert len(target.seen.packages) == PACKAGES
        result.hold(target.seen)
        forget(Path(target.cache.removeprefix("oci-layout:")))

    def push() -> tuple[object, ...]:
        return ("push", target.cache, "--store", tree, "--update-index")

    suffer(Job(push, check, complete, lambda: forget(layers), again), kill, capsys)
    assert len(written) > 1


class CatalogCaches:
    """Three caches, each with two indices that take turns, and what the catalog knows of them."""

    def __init__(self, folder: Path) -> None:
        self.database = folder / "home/oci-binpkg/catalog.sqlite"
        self.caches: dict[str, tuple[LayoutStore, list[Blob]]] = {}
        self.holdings: dict[tuple[str, int], frozenset[str]] = {}
        self._turns = iter(range(10**6))
        for name in ("one", "two", "three"):
            store, made = LayoutStore(str(folder / name)), []
            for turn in range(2):
                numbers = range(turn, 400 + turn)
                nodes = [node(f"{name}{n}", "1.0", *([f"{name}{n - 1}@1.0"] if n else [])) for n in numbers]
                data = index(*nodes, only_needed=(node(f"{name}0"),) if turn else ())
                OciCache(store, pause=lambda _: None).merge_index(open_index(data, name), replace=True)
                with store.open(store.resolve("index.spack")) as stream:
                    made.append(Blob.from_bytes(stream.read(), store.resolve("index.spack").media_type))
                self.holdings[name, turn] = frozenset(hash_of(f"{name}{n}@1.0") for n in numbers)
            self.caches[name] = (store, made)

    def change(self) -> None:
        turn = next(self._turns)
        for number, (store, made) in enumerate(self.caches.values()):
            store.tag(made[(turn + number) % 2], "index.spack")

    def expected(self) -> dict[str, frozenset[str]]:
        return {
            name: self.holdings[
                name, [blob.descriptor.digest for blob in made].index(store.resolve("index.spack").digest)
            ]
            for name, (store, made) in self.caches.items()
        }

    def known(self) -> dict[str, frozenset[str]]:
        """What the catalog has of each cache: all that an index lists, the one before or the one of now, or nothing."""
        if not self.database.exists():
            return {}
        with closing(sqlite3.connect(self.database)) as opened:
            assert opened.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            if not opened.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'holdings'").fetchone()[0]:
                return {}
            rows = opened.execute(
                "SELECT c.name, p.hash FROM holdings h JOIN caches c ON c.id = h.cache "
                "JOIN packages p ON p.id = h.package WHERE h.in_cache"
            ).fetchall()
            names = [name for (name,) in opened.execute("SELECT name FROM caches WHERE has_index")]
        found = {name: frozenset(each for cache, each in rows if cache == name) for name in names}
        for name, hashes in found.items():
            assert hashes in (self.holdings[name, 0], self.holdings[name, 1]), f"{name} is half known"
        return found


def test_catalog(kill: Killer, tmp_path: Path, capsys) -> None:
    """Three caches, whose indices become others before each kill."""
    scene = CatalogCaches(tmp_path)
    config = tmp_path / "config.toml"
    config.write_text("".join(f'[caches.{name}]\nurl = "oci-layout:{tmp_path}/{name}"\n' for name in scene.caches))
    kill.environment |= {"OCI_BINPKG_CONFIG": str(config), "XDG_CACHE_HOME": str(tmp_path / "home")}

    def complete() -> None:
        assert scene.known() == scene.expected()
        answer = kill.undisturbed("search", "--offline", "--all-arch", "--json", "one7")
        assert [each["name"] for each in json.loads(answer.text)] == ["one7"]

    def refresh() -> tuple[object, ...]:
        return ("search", "--ttl", 0, "--all-arch", "one7")

    suffer(Job(refresh, scene.known, complete, lambda: forget(tmp_path / "home"), scene.change), kill, capsys)
    files = {path.name for path in scene.database.parent.iterdir()}
    assert files == {"catalog.sqlite", "catalog.sqlite.lock"}
