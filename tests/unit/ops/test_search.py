"""The search over all configured caches: when they are asked, what is kept, and what is found."""

import errno
import multiprocessing
import os
import threading
from pathlib import Path

import pytest

from oci_binpkg.cli.hints import words
from oci_binpkg.errors import ContentError, LocalDiskError, NetworkError, NoMatchError, NotFoundError, TransferError
from oci_binpkg.events import Warned
from oci_binpkg.index.catalog import Catalog
from oci_binpkg.model.query import Query
from oci_binpkg.ops.search import FAILURE_TTL, Refresh, find_in_catalog
from oci_binpkg.times import Time
from tests.support.catalog_indices import Caches, hash_of, index, node

GREETLIB = node("greetlib", "1.3.0")
GREET = node("greet", "2.0", "greetlib@1.3.0")


def shown(warned):
    return f"{warned.text} ({words(warned.hint)})" if warned.hint else warned.text


class Bench:
    """A catalog, its caches, a clock, and what was said to the user."""

    def __init__(self, path, **answers):
        self.path = str(path / "deep" / "catalog.sqlite")
        self.caches = Caches(dict(answers))
        self.urls = {name: f"oci://{name}.example/apps" for name in answers}
        self.now = 1_000_000.0
        self.said = []

    def refresh(self, **options):
        return Refresh(
            self.path,
            self.urls,
            self.caches.read,
            time=Time(now=lambda: self.now),
            observer=lambda event: self.said.append(shown(event)) if isinstance(event, Warned) else None,
            **options,
        )

    def find(self, *queries, family="", **options):
        found = find_in_catalog(self.refresh(**options), [Query.parse(each) for each in queries], family=family)
        return [(f"{each.spec.name}@{each.spec.version}", *each.caches) for each in found]


@pytest.fixture
def lab(tmp_path):
    return Bench(tmp_path, lab=index(GREET, GREETLIB))


@pytest.fixture
def two(tmp_path):
    return Bench(tmp_path, lab=index(GREET, GREETLIB), home=index(GREETLIB, node("zlib")))


def test_within_the_ttl_nothing_is_asked_and_then_only_whether_it_changed(lab):
    assert lab.find("greet") == [("greet@2.0", "lab")]
    assert lab.caches.names == ["lab"]
    lab.now += 599
    assert lab.find("greet") == [("greet@2.0", "lab")]
    assert lab.caches.names == []
    lab.now += 1
    assert lab.find("greet") == [("greet@2.0", "lab")]
    assert [known is not None for _, known in lab.caches.asked] == [True]
    lab.caches.asked.clear()
    lab.now += 599  # an answer that nothing changed counts as an answer
    lab.find("greet")
    assert lab.caches.names == []


def test_a_clock_that_was_set_back_does_not_keep_old_entries_for_ever(lab):
    lab.find()
    lab.now -= 100_000
    lab.find()
    assert lab.caches.names == ["lab", "lab"]


def test_a_new_index_replaces_the_entries_and_unneeded_nodes_go(lab):
    lab.find()
    lab.caches.answers["lab"] = index(node("greet", "2.1"), GREETLIB)
    assert lab.find(ttl=0) == [("greet@2.1", "lab"), ("greetlib@1.3.0", "lab")]
    with Catalog(lab.path) as catalog:
        assert catalog.select("SELECT version FROM packages WHERE name = 'greet'") == [("2.1",)]


@pytest.mark.covers("B15")
def test_an_old_index_that_comes_back_is_told_and_a_new_one_is_not(lab):
    """Nobody signs the time: what is known to be old is what was seen before, and then another in its place."""
    old, new = lab.caches.answers["lab"], index(GREET, GREETLIB, node("zlib"))
    for answer in (old, new, new):
        lab.caches.answers["lab"] = answer
        lab.find(ttl=0)
    assert lab.said == []
    lab.caches.answers["lab"] = old
    lab.find(ttl=0)
    assert len(lab.said) == 1
    assert "the index of lab is an old one again" in lab.said[0]
    for answer in (old, new, index(node("greet", "3.0"))):
        lab.caches.answers["lab"] = answer
        lab.find(ttl=0)
    assert len(lab.said) == 1
    lab.urls["lab"] = "oci://elsewhere.example/apps"
    lab.caches.answers["lab"] = old
    lab.find(ttl=0)
    assert len(lab.said) == 1, "at another address it is another cache"


def test_a_package_of_two_caches_is_found_once_with_both(two):
    assert two.find() == [("greet@2.0", "lab"), ("greetlib@1.3.0", "lab", "home"), ("zlib@1.0", "home")]


@pytest.mark.parametrize(
    "failure",
    [
        NetworkError("no route"),
        ContentError("torn"),
        LocalDiskError("a layout on a full disk"),
        b"{not json",
        b'{"database": 1}',
    ],
)
def test_a_cache_that_fails_keeps_its_entries_and_does_not_hold_up_others(two, failure):
    two.find()
    two.caches.answers = {"lab": failure, "home": index(node("zlib", "1.3"))}
    two.now += 601
    assert two.find() == [("greet@2.0", "lab"), ("greetlib@1.3.0", "lab"), ("zlib@1.3", "home")]
    [said] = two.said
    assert said.startswith("lab could not be read; its entries are those of 1970-01-1")
    states = two.refresh().run()
    assert states["lab"].is_stale
    assert states["lab"].confirmed == 1_000_000.0
    assert not states["home"].is_stale


def test_a_record_that_is_wrong_changes_nothing(lab):
    lab.find()
    bad = node("other")
    good = node("fine")
    lab.caches.answers["lab"] = index(good, bad).replace(f'"hash": "{bad["hash"]}"'.encode(), b'"hash": "abc"')
    assert lab.find(ttl=0) == [("greet@2.0", "lab"), ("greetlib@1.3.0", "lab")]
    assert "holds the spec of abc" in lab.said[-1]


def test_a_failure_is_tried_again_sooner_and_mended_by_the_next_answer(lab):
    lab.caches.answers["lab"] = NetworkError("no route")
    with pytest.raises(NetworkError, match="no route"):
        lab.find("greet")
    assert lab.said == ["lab could not be read: no route"]
    lab.now += FAILURE_TTL - 1
    with pytest.raises(TransferError, match="no route"):
        lab.find()
    assert lab.caches.names == ["lab"]
    lab.now += 1
    lab.caches.answers["lab"] = index(GREET)
    assert lab.find() == [("greet@2.0", "lab")]
    assert not lab.refresh().run()["lab"].is_stale


def test_a_cache_without_an_index_is_remembered_as_such(two):
    two.find()
    two.caches.answers["lab"] = NotFoundError("no index")
    assert two.find(ttl=0) == [("greetlib@1.3.0", "home"), ("zlib@1.0", "home")]
    assert any("lab has no index" in said for said in two.said)
    two.caches.asked.clear()
    two.find()
    assert two.caches.names == []
    assert two.refresh().run()["lab"].has_index is False


def test_caches_no_longer_configured_are_dropped_also_offline(two):
    two.find()
    del two.urls["lab"]
    assert two.find(offline=True) == [("greetlib@1.3.0", "home"), ("zlib@1.0", "home")]


def test_another_url_under_the_same_name_is_another_cache(lab):
    lab.find()
    lab.urls["lab"] = "oci://elsewhere.example/apps"
    lab.caches.answers["lab"] = NetworkError("no route")
    with pytest.raises(NetworkError, match="no route"):
        lab.find()


def test_offline_asks_nobody(lab):
    assert lab.find(offline=True) == []
    assert lab.said == ["lab was never read (run once without --offline)"]
    lab.find()
    lab.caches.asked.clear()
    lab.now += 10**6
    assert lab.find("greet", offline=True) == [("greet@2.0", "lab")]
    assert lab.caches.names == []


@pytest.mark.parametrize("damage", [b"not a database", b"SQLite format 3\0" + b"x" * 5000])
def test_a_file_that_is_no_database_is_replaced(lab, damage):
    lab.find()
    with open(lab.path, "wb") as file:
        file.write(damage)
    assert lab.find("greet") == [("greet@2.0", "lab")]
    assert lab.caches.names == ["lab", "lab"]


def test_damage_that_shows_only_later_is_replaced_too(lab):
    lab.caches.answers["lab"] = index(*(node(f"p{n}") for n in range(2000)))
    assert len(lab.find()) == 2000
    size = os.path.getsize(lab.path)
    with open(lab.path, "r+b") as file:
        for place in range(16384 * 6, size, 16384):
            file.seek(place)
            file.write(b"\xff" * 4096)
    assert len(lab.find()) == 2000
    assert any("is damaged" in said for said in lab.said)


def test_a_catalog_of_another_version_is_replaced(lab):
    lab.find()
    import sqlite3

    database = sqlite3.connect(lab.path)
    database.execute("PRAGMA user_version = 99")
    database.close()
    assert lab.find("greet") == [("greet@2.0", "lab")]


def test_a_folder_in_its_place_is_an_error_of_the_disk(lab):
    os.makedirs(lab.path)
    with pytest.raises(LocalDiskError, match=r"catalog\.sqlite"):
        lab.find()


@pytest.mark.parametrize("place", ["/proc/oci-binpkg", "/dev/null/oci-binpkg", "/sys/oci-binpkg"])
def test_where_nothing_can_be_kept_a_catalog_in_memory_serves(lab, place):
    lab.path = f"{place}/catalog.sqlite"
    assert lab.find("greet") == [("greet@2.0", "lab")]
    assert lab.find("greet") == [("greet@2.0", "lab")]
    assert lab.caches.names == ["lab", "lab"]  # each time it is asked
    assert len(lab.said) == 2
    assert lab.path in lab.said[0]
    with pytest.raises(NoMatchError):
        lab.find("greet", offline=True)


def test_a_catalog_in_memory_starts_with_what_the_file_holds(lab, monkeypatch):
    lab.find()
    lab.caches.asked.clear()
    lab.said.clear()

    def refused(*_):
        raise PermissionError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("oci_binpkg.file_lock.fcntl.flock", refused)
    before = Path(lab.path).read_bytes()
    assert lab.find("greet", offline=True) == [("greet@2.0", "lab")]
    lab.caches.answers["lab"] = index(node("greet", "2.1"), GREETLIB)
    assert lab.find("greet", ttl=0) == [("greet@2.1", "lab")]
    assert Path(lab.path).read_bytes() == before
    assert "Read-only file system: what is read of the caches is not kept" in lab.said[0]


def test_two_threads_may_refresh_at_once(lab):
    together = threading.Barrier(2, timeout=20)
    read, results = lab.caches.read, []

    def slow(name, known):
        answer = read(name, known)
        together.wait()
        return answer

    lab.caches.read = slow
    workers = [threading.Thread(target=lambda: results.append(lab.find("greet"))) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert results == [[("greet@2.0", "lab")]] * 2


def in_a_process(path, url, packages):
    lab = Bench.__new__(Bench)
    lab.path, lab.urls, lab.now, lab.said = path, {"lab": url}, 1_000_000.0, []
    lab.caches = Caches({"lab": index(*(node(f"p{n}") for n in range(packages)))})
    assert len(lab.find(ttl=0)) == packages


def test_several_processes_may_refresh_at_once(lab):
    spawn = multiprocessing.get_context("fork")
    arguments = (lab.path, lab.urls["lab"], 500)
    workers = [spawn.Process(target=in_a_process, args=arguments) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert len(lab.find(offline=True)) == 500


def test_a_slower_reader_does_not_undo_what_another_stored_meanwhile(lab):
    newer = index(node("greet", "3.0"))
    read = lab.caches.read

    def overtaken(name, known):
        answer = read(name, known)
        other = Bench.__new__(Bench)
        other.__dict__ |= lab.__dict__ | {"caches": Caches({"lab": newer})}
        other.find()
        return answer

    lab.caches.read = overtaken
    assert lab.find() == [("greet@3.0", "lab")]


def test_nothing_found_names_what_is_near(lab):
    with pytest.raises(NoMatchError) as caught:
        lab.find("greetlb")
    assert "greetlib" in caught.value.hint
    with pytest.raises(NoMatchError) as caught:
        lab.find("+nothing")
    assert "oci-binpkg search" in words(caught.value.hint)


def test_packages_for_other_machines_are_found_only_when_asked_for(tmp_path):
    bench = Bench(
        tmp_path,
        lab=index(
            node("a", target="zen4"),
            node("b", target={"name": "mystery", "parents": ["neoverse_v1"]}),  # type: ignore[arg-type]
            node("c", arch="linux-debian12-x86_64"),
        ),
    )
    assert bench.find(family="amd64") == [("a@1.0", "lab"), ("c@1.0", "lab")]
    assert bench.find(family="arm64") == [("b@1.0", "lab")]
    assert len(bench.find()) == 3
    with pytest.raises(NoMatchError) as caught:
        bench.find("b", family="amd64")
    assert words(caught.value.hint) == "with --all-arch there is: arm64"


def test_the_answer_as_json(lab):
    [found] = find_in_catalog(lab.refresh(), [Query.parse("greet")])
    assert found.to_json() == {
        "name": "greet",
        "version": "2.0",
        "hash": hash_of("greet@2.0"),
        "arch": {"platform": "linux", "os": "debian12", "target": "x86_64"},
        "spec": "greet@=2.0+shared platform=linux os=debian12 target=x86_64",
        "state": "cached",
        "caches": ["lab"],
    }
