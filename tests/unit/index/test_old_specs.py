"""Packages of Spack before 1.0 in an index that Spack 1.x reads: one node with a compiler of its own, and it refuses all."""

import json

import pytest

from oci_binpkg.index.document import EMPTY, index_of, read_index
from oci_binpkg.index.spool import Spool
from oci_binpkg.model.spec_document import parse_node, parse_spec_document
from oci_binpkg.model.spec_hash import HashState
from tests.support.golden import GOLDEN
from tests.support.mirrors import index_for, made_up

OLD = parse_spec_document((GOLDEN / "specs" / "greet.spec.v4.json").read_bytes(), "greet")
ROOT = OLD.root.hash


def old_index():
    return index_of([(OLD.root, OLD.graph)])


def nodes(index):
    """Return the version of an index as it is written, and its nodes by hash."""
    database = json.loads(index.to_bytes())["database"]
    return database["version"], {key: record["spec"] for key, record in database["installs"].items()}


def refused_by_spack(node):
    """What makes Spack 1.2 refuse a node of format 5, and with it the whole index."""
    wrong = [key for key in ("compiler",) if key in node]
    return wrong + [edge for edge in node.get("dependencies", ()) if not {"name", "hash", "parameters"} <= edge.keys()]


@pytest.mark.covers("P24")
@pytest.mark.parametrize(
    "base", [EMPTY, index_for(made_up("new"))], ids=["the first packages of an index", "beside packages of format 5"]
)
def test_old_nodes_are_converted_when_they_enter_an_index_of_version_8(base):
    version, found = nodes(base.merged(old_index()))
    assert version == "8"
    assert [each["name"] for each in found.values() if refused_by_spack(each)] == []
    assert found[ROOT]["annotations"] == {"original_specfile_version": 4, "compiler": "gcc@=12.2.0"}
    assert {key for key, node in found.items() if node["hash"] != key} == set()


@pytest.mark.covers("P24")
def test_a_converted_node_keeps_its_hash_and_the_hash_can_still_be_verified():
    _, found = nodes(EMPTY.merged(old_index()))
    assert [parse_node(node, 5, "node").hash_state for node in found.values()] == [HashState.VERIFIED] * len(found)
    changed = {**found[ROOT], "version": "9.9"}
    assert parse_node(changed, 5, "node").hash_state is not HashState.VERIFIED


@pytest.mark.covers("P24")
def test_an_index_of_old_packages_that_gets_a_new_one_is_converted_whole():
    stored = read_index(Spool.filled([old_index().to_bytes()]), "the index")
    assert nodes(stored)[0] == "7"
    version, found = nodes(stored.merged(index_for(made_up("new"))))
    assert (version, [each for each in found.values() if refused_by_spack(each)]) == ("8", [])


@pytest.mark.covers("P24")
def test_an_index_that_somebody_mixed_is_put_right_when_it_is_written_again():
    """Edges of format 3 included; what is in order stays byte for byte."""
    mixed = json.loads(EMPTY.merged(index_for(made_up("new", needs=("lib",)))).to_bytes())
    text = {key: json.dumps(record["spec"]) for key, record in mixed["database"]["installs"].items()}
    old = dict(OLD.root.node)
    old["dependencies"] = [
        {"name": each["name"], "hash": each["hash"], "type": ["link"]} for each in old["dependencies"]
    ]
    mixed["database"]["installs"][ROOT] = {"spec": old, "ref_count": 0, "in_buildcache": True}
    index = read_index(Spool.filled([json.dumps(mixed).encode()]), "the index")
    _, found = nodes(index)
    assert [each for each in found.values() if refused_by_spack(each)] == []
    assert {key: json.dumps(found[key]) for key in text} == text
