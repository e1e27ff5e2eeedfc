"""Whatever the graph: walks hold their promises and documents survive."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from oci_binpkg.model.spec import Spec, SpecGraph
from oci_binpkg.model.spec_document import parse_node, parse_spec_document, spec_document
from tests.support.spack_trees import Sketch, graph_of

TYPES = st.sets(st.sampled_from(["build", "link", "run", "test"]), min_size=1).map(lambda types: tuple(sorted(types)))


@st.composite
def graphs(draw: st.DrawFn) -> tuple[SpecGraph, list[Spec]]:
    """A graph in which each package depends on some of the earlier ones."""
    sketches: list[Sketch] = []
    for number in range(draw(st.integers(1, 8))):
        names = draw(st.sets(st.sampled_from([each.name for each in sketches]))) if sketches else set()
        depends = [(name, draw(TYPES)) for name in sorted(names)]
        external = "/usr" if draw(st.integers(0, 5)) == 0 else ""
        # names in no particular order of the alphabet
        sketches.append(Sketch(f"{'hcfagbed'[number]}{number}", depends=depends, external=external))
    graph, specs = graph_of(sketches)
    return graph, list(specs.values())


@given(graphs(), st.data())
def test_closures_are_complete_and_ordered(made: tuple[SpecGraph, list[Spec]], data: st.DataObject) -> None:
    graph, specs = made
    roots = data.draw(st.lists(st.sampled_from(specs), min_size=1, max_size=3))
    types = data.draw(st.sampled_from([("link", "run"), ("link",), None]))
    order = graph.closure(roots, types, externals=True)
    place = {spec: position for position, spec in enumerate(order)}
    assert len(place) == len(order)
    assert set(roots) <= set(order)
    for spec in order:
        assert all(place[child] < place[spec] for child in graph.children(spec, types))
    assert set(order) == {each for root in roots for each in graph.breadth_first(root, types)}
    assert graph.closure(roots, types) == tuple(spec for spec in order if not spec.is_external)


@given(graphs())
def test_documents_survive(made: tuple[SpecGraph, list[Spec]]) -> None:
    graph, specs = made
    for root in specs:
        document = spec_document(root, graph)
        parsed = parse_spec_document(json.dumps(document).encode(), "x")
        assert parsed.root == root
        assert spec_document(parsed.root, parsed.graph) == document
        assert set(parsed.graph.values()) == set(graph.breadth_first(root, None))


@given(graphs())
def test_relocation_starts_with_the_package(made: tuple[SpecGraph, list[Spec]]) -> None:
    graph, specs = made
    for spec in specs:
        found = graph.relocation_order(spec)
        assert spec.is_external or found[0] == spec
        assert len(set(found)) == len(found)
        assert {each for each in graph.children(spec, ("run",)) if not each.is_external} <= set(found)


@given(st.dictionaries(st.text(min_size=1).filter(lambda key: key not in NODE), st.integers() | st.text()))  # type: ignore[arg-type, has-type]
def test_members_we_do_not_know_survive(extra: dict[str, object]) -> None:
    known = {"patches", "compiler", "annotations", "external", "build_spec", "dependencies", "parameters", "namespace"}
    node = {**NODE, **{key: value for key, value in extra.items() if key not in known}}
    spec = parse_node(node, 5, "x")
    assert spec_document(spec, SpecGraph([spec]))["spec"]["nodes"] == [node]


NODE = {
    "name": "a",
    "version": "1",
    "hash": "a" * 32,
    "arch": {"platform": "linux", "platform_os": "x", "target": "y"},
    "full_hash": "b",
    "build_hash": "c",
}
