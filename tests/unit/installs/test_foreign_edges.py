"""Edges in the form of another format than their document says: they are recorded in the form of the tree's own."""

from __future__ import annotations

import json

import pytest

from oci_binpkg.installs.database import empty_document, parse_database, with_package, without_package
from oci_binpkg.model.spec import Spec, SpecGraph
from oci_binpkg.model.spec_document import parse_node

NEEDED = "n" * 32
FORMS = {
    "format 5": [{"name": "needed", "hash": NEEDED, "parameters": {"deptypes": ["link"], "virtuals": ["v"]}}],
    "format 3": [{"name": "needed", "hash": NEEDED, "type": ["link"]}],
    "format 2": [{"name": "needed", "build_hash": NEEDED, "type": ["link"]}],
    "format 2, the other hash": [{"name": "needed", "full_hash": NEEDED, "type": ["link"]}],
    "format 1": {"needed": {"hash": NEEDED, "type": ["link"]}},
    "format 1, a pair": {"needed": [NEEDED, ["link"]]},
    "format 1, a hash alone": {"needed": NEEDED},
}


def spec(name: str, package_hash: str, edges: object, form: int = 5) -> Spec:
    arch = {"platform": "linux", "platform_os": "debian12", "target": "x86_64"}
    node = {"name": name, "version": "1.0", "arch": arch, "dependencies": edges, "hash": package_hash}
    return parse_node(node, form, "it")


def added(app: Spec, needed: Spec, version: str = "8") -> dict:
    document = empty_document()
    document["database"]["version"] = version
    for each in (needed, app):
        document = with_package(
            document, each, SpecGraph([app, needed]), prefix=f"/s/{each.name}", explicit=each is app,
            installation_time=1.0, prefix_for=lambda one: f"/s/{one.name}",
        )  # fmt: skip
    return document


@pytest.mark.parametrize("edges", FORMS.values(), ids=FORMS)
def test_a_tree_of_today_gets_edges_of_today(edges):
    document = added(spec("app", "a" * 32, edges), spec("needed", NEEDED, []))
    (edge,) = document["database"]["installs"]["a" * 32]["spec"]["dependencies"]
    assert (edge["name"], edge["hash"]) == ("needed", NEEDED)
    assert "link" in edge["parameters"]["deptypes"]
    assert document["database"]["installs"][NEEDED]["ref_count"] == 1
    assert "a" * 32 in parse_database(json.dumps(document).encode(), "it").records


@pytest.mark.parametrize("edges", FORMS.values(), ids=FORMS)
def test_an_old_tree_gets_old_edges(edges):
    document = added(spec("app", "a" * 32, edges, 3), spec("needed", NEEDED, [], 3), "6")
    (edge,) = document["database"]["installs"]["a" * 32]["spec"]["dependencies"]
    assert edge["hash"] == NEEDED
    assert "link" in edge["type"]


@pytest.mark.parametrize("edges", FORMS.values(), ids=FORMS)
def test_records_that_are_there_with_such_edges_can_be_removed(edges):
    document = added(spec("app", "a" * 32, []), spec("needed", NEEDED, []))
    installs = document["database"]["installs"]
    installs["a" * 32]["spec"]["dependencies"] = edges
    installs[NEEDED] = {**installs[NEEDED], "ref_count": 1, "installed": False}
    assert without_package(document, "a" * 32)["database"]["installs"] == {}
