"""Whatever is written: queries are read or refused with a place, and versions have one order."""

from __future__ import annotations

import re
from functools import cmp_to_key

from hypothesis import given
from hypothesis import strategies as st

from oci_binpkg.errors import QueryError
from oci_binpkg.model.query import Query, select
from oci_binpkg.model.version import Version, VersionSet
from tests.support.spack_trees import Sketch, graph_of

PLAIN = st.from_regex(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,8}[A-Za-z0-9_])?", fullmatch=True)
PARTS = st.lists(
    st.sampled_from(["0", "1", "2", "10", "a", "b", "rc", "alpha", "beta", "main", "develop"]), min_size=1, max_size=4
).map(".".join)
VARIANTS = st.dictionaries(
    st.from_regex(r"[a-z][a-z_]{2,6}", fullmatch=True),
    st.booleans()
    | st.from_regex(r"[A-Za-z0-9_.]{1,6}", fullmatch=True)
    | st.lists(st.from_regex(r"[a-z]{1,4}", fullmatch=True), min_size=1, unique=True),
    max_size=4,
)


@given(st.text() | st.text(alphabet="ab1.:,@+~-/^%= '\"*[]"))
def test_any_text_is_read_or_refused_with_a_place(text: str) -> None:
    graph, specs = graph_of([Sketch("ab", "1.1"), Sketch("a", "1", depends=["ab"])])
    problem = ""
    try:
        select(Query.parse(text), specs.values(), graph)
    except QueryError as error:
        problem = error.message
    assert not problem or re.fullmatch(r"cannot read this package query\n  .*\n *\^\n  expected .+", problem)


@given(PLAIN, VARIANTS)
def test_a_package_matches_what_is_said_of_it(version: str, variants: dict[str, object]) -> None:
    reserved = {"arch", "platform", "target", "namespace", "patches", "cflags", "fflags", "ldlibs", "ldflags"}
    kept = {name: value for name, value in variants.items() if name not in reserved}
    graph, specs = graph_of([Sketch("pkg", version, variants=kept)])
    spec = specs["pkg"]
    assert Query.parse(spec.describe()).matches(spec, graph)
    assert Query.parse(spec.short).matches(spec, graph)


@given(PARTS | PLAIN, PARTS | PLAIN, PARTS | PLAIN)
def test_versions_have_one_order(a: str, b: str, c: str) -> None:
    x, y, z = sorted([Version.parse(a), Version.parse(b), Version.parse(c)])
    assert x <= y <= z
    assert x <= z
    assert (x == y) == (not x < y and not y < x)
    assert sorted([z, y, x], key=cmp_to_key(lambda one, other: (one > other) - (one < other))) == [x, y, z]  # type: ignore[operator]


@given(PLAIN, PLAIN)
def test_a_version_is_in_the_ranges_it_bounds(a: str, b: str) -> None:
    assert all(a in VersionSet.parse(text) for text in (a, f"={a}", f"{a}:", f":{a}", f"{a}:{a}", ":"))
    low, high = sorted([a, b], key=Version.parse)
    assert low in VersionSet.parse(f"{low}:{high}")
    assert high in VersionSet.parse(f"{low}:{high}")
    assert f"{high}.7" in VersionSet.parse(f":{high}") or Version.parse(high).prerelease[0] != 3
