"""What the catalog finds, what it touches for that, and where its bytes come from."""

import shutil
from contextlib import closing
from typing import Any

import pytest

from oci_binpkg.cache.mirror import MirrorCache
from oci_binpkg.cache.mirror_v2 import MirrorV2Cache
from oci_binpkg.cache.oci import OciCache
from oci_binpkg.errors import ContentError, LocalDiskError, NotFoundError
from oci_binpkg.index.catalog import Catalog
from oci_binpkg.index.catalog_database import open_database, read_rows, writing
from oci_binpkg.index.catalog_search import near_names, search
from oci_binpkg.model.content import Digest
from oci_binpkg.model.query import Query
from oci_binpkg.objects.directory import FileObjects
from oci_binpkg.store.layout import LayoutStore
from tests.support.catalog_indices import hash_of, index, node
from tests.support.golden import FIXTURES, LAYOUT
from tests.support.memory_store import MemoryStore
from tests.support.opened_index import open_index

NEEDED = node("gcc-runtime", "12.2.0")
PACKAGES = (
    node("greet", "2.0", "greetlib@1.2"),
    node("greet", "10.0", "greetlib@1.3"),
    node("greetlib", "1.2", "gcc-runtime@12.2.0"),
    node("greetlib", "1.3", "gone@1.0"),
)


@pytest.fixture
def catalog(tmp_path):
    with Catalog(str(tmp_path / "catalog.sqlite")) as opened:
        fill(opened, index(*PACKAGES, only_needed=(NEEDED,)))
        yield opened


def fill(catalog, data, name="lab"):
    assert catalog.store(name, f"url of {name}", 1.0, open_index(data, "index").records, Digest.of(data), known=None)


def found(catalog, *queries, **options):
    matches = search(catalog, [Query.parse(each) for each in queries], **options)
    return [f"{match.spec.name}@{match.spec.version}" for match in matches]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("greet", ["greet@2.0", "greet@10.0"]),
        ("greet@3:", ["greet@10.0"]),
        ("greet ^greetlib@1.2", ["greet@2.0"]),
        ("^gcc-runtime@12", ["greet@2.0", "greetlib@1.2"]),
        ("*%gone", ["greetlib@1.3"]),
        ("*%gone@1", []),
        (f"/{hash_of('greet@2.0')[:7]}", ["greet@2.0"]),
        (f"greetlib/{hash_of('greet@2.0')[:7]}", []),
        ("gcc-runtime", []),
        ("greet os=debian11", []),
        ("greet platform=linux os=debian12 +shared", ["greet@2.0", "greet@10.0"]),
        ("*~shared", []),
    ],
)
def test_queries(catalog, query, expected):
    assert found(catalog, query) == expected


def test_any_of_several_queries_and_each_package_once(catalog):
    assert found(catalog, "greet@2.0", "greet", "greetlib@1.3") == ["greet@2.0", "greet@10.0", "greetlib@1.3"]
    assert len(found(catalog)) == 4


@pytest.mark.parametrize("query", ["greet", f"/{hash_of('greet@2.0')[:7]}"])
def test_a_name_or_hash_is_looked_up_and_not_searched_for(catalog, query):
    steps: list[Any] = []
    catalog._database.set_trace_callback(steps.append)
    found(catalog, query)
    catalog._database.set_trace_callback(None)
    plans = [row[3] for step in steps for row in catalog._database.execute("EXPLAIN QUERY PLAN " + step)]
    assert any(plan.startswith("SEARCH p USING INDEX") for plan in plans)
    assert not any(plan.startswith("SCAN p") for plan in plans if plan != "SCAN parameters")


@pytest.mark.parametrize("query", ["@2.0", "^greetlib@1.2", "%gcc-runtime", "^gone", "greet ^gcc-runtime"])
def test_no_query_looks_through_the_dependencies_of_all_packages(catalog, query):
    steps: list[Any] = []
    catalog._database.set_trace_callback(steps.append)
    found(catalog, query)
    catalog._database.set_trace_callback(None)
    plans = [row[3] for step in steps for row in catalog._database.execute("EXPLAIN QUERY PLAN " + step)]
    assert [plan for plan in plans if plan.startswith(("SCAN e", "SCAN edges", "SCAN t", "SCAN h"))] == []


def test_what_goes_takes_along_what_only_it_named(catalog):
    known = catalog.states()["lab"].digest
    data = index(PACKAGES[3])
    assert catalog.store("lab", "url of lab", 2.0, open_index(data, "index").records, Digest.of(data), known=known)
    assert found(catalog) == ["greetlib@1.3"]
    assert found(catalog, "^gone") == ["greetlib@1.3"]
    assert catalog.select("SELECT count(*) FROM edges") == catalog.select("SELECT count(*) FROM targets") == [(1,)]
    catalog.keep_only({})
    tables = ("packages", "edges", "targets", "kinds", "parameters", "holdings", "caches")
    assert [catalog.select(f"SELECT count(*) FROM {table}") for table in tables] == [[(0,)]] * len(tables)


def test_packages_that_are_there_are_not_written_again(catalog):
    before = catalog._database.total_changes
    fill(catalog, index(*PACKAGES, only_needed=(NEEDED,)), "second")
    assert catalog._database.total_changes - before == 2 + 5  # the cache, and that it holds the five


def test_what_was_only_needed_may_come_to_be_in_the_cache(catalog):
    data = index(*PACKAGES, NEEDED)
    known = catalog.states()["lab"].digest
    assert catalog.store("lab", "url of lab", 2.0, open_index(data, "index").records, Digest.of(data), known=known)
    assert found(catalog, "gcc-runtime") == ["gcc-runtime@12.2.0"]


def test_near_names_leave_out_what_is_only_needed(catalog):
    assert near_names(catalog, [Query.parse("gret"), Query.parse("/abc")]) == ["greet", "greetlib"]
    assert near_names(catalog, [Query.parse("gcc")]) == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "index: "),
        (b"[" * 100_000, "index: "),
        (index(version="5"), "versions 6 to 8"),
        (b'{"database": {"version": "8", "installs": {"a": {}}}}', "spec"),
    ],
)
def test_an_index_that_is_none_is_refused(data, message):
    with pytest.raises(ContentError, match=message):
        open_index(data, "index")


def enter(data):
    records = open_index(data, "index").records
    return list(read_rows(records, records))


@pytest.mark.parametrize(
    ("members", "where"),
    [
        ({"arch": None}, "arch"),
        ({"dependencies": "none"}, "dependencies"),
        ({"parameters": []}, "parameters"),
        ({"compiler": {"name": "gcc"}}, "compiler"),
        ({"name": "../up"}, "name"),
    ],
)
def test_a_record_that_is_wrong_is_refused_naming_the_place(members, where):
    with pytest.raises(ContentError, match=rf"index\.installs\.{hash_of('a@1.0')}\.spec\.{where}"):
        enter(index(node("fine"), node("a") | members))


def test_nodes_of_older_forms_are_read_too(tmp_path):
    old = node("old") | {
        "compiler": {"name": "gcc", "version": "12.2.0"},
        "arch": "linux-debian12-zen4",
        "dependencies": [{"name": "greetlib", "build_hash": hash_of("greetlib@1.2"), "type": ["build"]}],
    }
    oldest = node("oldest") | {"dependencies": {"greetlib": [hash_of("greetlib@1.2"), ["build"]]}}
    with Catalog(str(tmp_path / "catalog.sqlite")) as catalog:
        fill(catalog, index(old, oldest, PACKAGES[2], version="6"))
        assert found(catalog, "^greetlib@1.2") == ["old@1.0", "oldest@1.0"]
        assert found(catalog, "target=zen4 %gcc@12") == ["old@1.0"]
        [match] = search(catalog, [Query.parse("old")])
        assert "%gcc@=12.2.0+shared platform=linux os=debian12 target=zen4" in match.spec.describe()


def golden_mirror(tmp_path, name):
    shutil.copytree(FIXTURES / "golden" / name, tmp_path / name)
    return FileObjects(str(tmp_path / name))


def test_the_indices_that_spack_wrote_are_entered(tmp_path):
    caches: list[Any] = [
        OciCache(LayoutStore(str(LAYOUT)), pause=lambda _: None),
        MirrorCache(golden_mirror(tmp_path, "v3-unsigned"), pause=lambda _: None),
        MirrorV2Cache(golden_mirror(tmp_path, "v2-unsigned")),
    ]
    for number, cache in enumerate(caches):
        read = cache.read_index()
        assert read is not None
        assert cache.read_index(read.digest) is None
        with Catalog(str(tmp_path / f"{number}.sqlite")) as catalog:
            catalog.store("golden", "url", 1.0, read.records, read.digest, known=None)
            assert found(catalog, "greet ^greetlib@1.2") == ["greet@2.0"]
            assert len(found(catalog)) == len(list(read.packages()))


def test_a_cache_without_an_index_says_so(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFoundError):
        OciCache(MemoryStore("empty"), pause=lambda _: None).read_index()
    with pytest.raises(NotFoundError):
        MirrorCache(FileObjects(str(tmp_path / "empty")), pause=lambda _: None).read_index()


def test_a_full_disk_is_named_with_a_way_out(tmp_path):
    path = str(tmp_path / "catalog.sqlite")
    with closing(open_database(path)) as database:
        (pages,) = database.execute("PRAGMA page_count").fetchone()
        database.execute(f"PRAGMA max_page_count = {pages}")
        rows = [(f"{number:0100}",) for number in range(5000)]
        with pytest.raises(LocalDiskError, match=f"{path}: No space left") as caught, writing(database, path):
            database.executemany("INSERT INTO virtuals (names) VALUES (?)", rows)
        assert "XDG_CACHE_HOME" in caught.value.hint
        assert database.execute("SELECT count(*) FROM virtuals").fetchone() == (0,)
