"""The catalog finds what a look at every package finds, whatever is asked and however packages hang together."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oci_binpkg.errors import BinpkgError
from oci_binpkg.index import catalog_search
from oci_binpkg.index.catalog import Catalog
from oci_binpkg.index.search import IndexSearch
from oci_binpkg.model.content import Digest
from oci_binpkg.model.query import Query, one, select
from oci_binpkg.model.spec import Spec
from tests.support.catalog_indices import hash_of, node
from tests.support.examples import examples
from tests.support.opened_index import open_index

NAMES = ["app", "lib", "llvm", "mpich"]
VERSIONS = ["1.2", "1.2.1", "2.0"]
NODE_PARTS = st.sampled_from(
    ["", "@1.2", "@=1.2", "@2:", "+shared", "~shared", "api=v2", "os=debian11", "target=x86_64:", "namespace=other"]
)
HASHES = st.sampled_from(["", "/a", "/b", "/" + hash_of("lib@1.2")[:3]])
BELOW = st.builds(
    "{}{}{} {}".format,
    st.sampled_from(["^", "%", "%c=", "^mpi=", "%c,cxx="]),
    st.sampled_from([*NAMES, "clang", "mpi", "gone", "c"]),
    NODE_PARTS.filter(lambda part: "=" not in part),
    HASHES,
)
FREE_BELOW = st.builds(
    "{}{}".format, st.sampled_from(["^", "%"]), NODE_PARTS.filter(lambda part: part[:1] in {"@", "+", "~"})
)
QUERIES = st.builds(
    "{} {} {} {} {}".format, st.sampled_from(["*", *NAMES]), NODE_PARTS, HASHES, BELOW | FREE_BELOW | st.just(""), BELOW
)


@st.composite
def indices(draw: st.DrawFn) -> bytes:
    """An index of packages that need some of those before them, and some that are not there."""
    nodes: list[dict[str, Any]] = []
    for number in range(draw(st.integers(2, 8))):
        name, version = draw(st.sampled_from(NAMES)), draw(st.sampled_from(VERSIONS))
        below = draw(st.lists(st.sampled_from([*nodes, node("gone")]), max_size=3, unique_by=lambda each: each["hash"]))
        compiler = draw(st.sampled_from([None, None, {"name": "clang", "version": "1.2"}]))
        made = node(
            name,
            version,
            target=draw(st.sampled_from(["x86_64", "zen4", "neoverse_v1"])),
            hash=hash_of(f"{name}@{version}" if draw(st.booleans()) else str(number)),
            namespace=draw(st.sampled_from(["builtin", "other"])),
            parameters={"shared": draw(st.booleans()), "api": draw(st.sampled_from(["v1", ["v1", "v2"]]))},
            dependencies=[
                {
                    "name": each["name"],
                    "hash": each["hash"],
                    "parameters": {
                        "deptypes": ["link"],
                        "virtuals": draw(st.lists(st.sampled_from(["c", "cxx", "mpi"]), unique=True)),
                    },
                }
                for each in below
            ],
        )
        nodes.append(made | ({"compiler": compiler} if compiler else {}))
    unique = {each["hash"]: each for each in reversed(nodes)}
    installs = {
        package_hash: {"spec": each, "in_buildcache": draw(st.booleans())} for package_hash, each in unique.items()
    }
    return json.dumps({"database": {"version": "8", "installs": installs}}).encode()


@pytest.fixture(params=["upwards", "downwards"], autouse=True)
def ways(request: pytest.FixtureRequest) -> Iterator[None]:
    """Take both ways through the dependencies, which is otherwise a matter of numbers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalog_search, "_MANY", 1 if request.param == "downwards" else 10_000)
        yield


@examples(60)
@given(indices(), st.lists(QUERIES, min_size=1, max_size=4))
def test_the_catalog_finds_what_a_look_at_every_package_finds(data: bytes, queries: list[str]) -> None:
    index = open_index(data, "index")
    with tempfile.TemporaryDirectory() as folder, Catalog(f"{folder}/catalog.sqlite") as catalog:
        catalog.store("lab", "url", 1.0, index.records, Digest.of(data), known=None)
        for text in queries:
            query = Query.parse(text)
            expected = [spec.describe() for spec in select(query, index.packages(), index.graph)]
            assert [match.spec.describe() for match in catalog_search.search(catalog, [query])] == expected


def told(find: Callable[[], Spec]) -> tuple[str, str]:
    try:
        return find().describe(), ""
    except BinpkgError as error:
        return error.message, error.hint


@examples(60)
@given(
    indices(),
    st.lists(QUERIES | st.sampled_from(["app", "lib@1.2", "/a", "applib", "+shared"]), min_size=1, max_size=4),
)
def test_an_index_by_itself_is_searched_with_the_same_result(data: bytes, queries: list[str]) -> None:
    index = open_index(data, "index")
    packages = list(index.packages())
    with IndexSearch(index) as searched:
        assert {spec.hash for spec in searched.matches()} == index.present()
        for query in map(Query.parse, queries):
            expected = [spec.describe() for spec in select(query, packages, index.graph)]
            assert [spec.describe() for spec in searched.matches(query)] == expected
            assert told(lambda: searched.one(query)) == told(lambda: one(query, packages, index.graph))  # noqa: B023
