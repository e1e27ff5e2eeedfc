"""The index document: Spack's are read, merged and written again without losing anything."""

import json
from pathlib import Path

import pytest

from oci_binpkg.cli.hints import words
from oci_binpkg.errors import ContentError
from oci_binpkg.index.document import EMPTY, index_of, read_index
from oci_binpkg.index.spool import Spool
from oci_binpkg.model.spec import SpecGraph
from oci_binpkg.model.spec_document import parse_spec_document
from tests.support.opened_index import open_index

GOLDEN = Path(__file__).parents[3] / "fixtures" / "golden"
GREET_20 = "6fytamqgzio2shuhlaie55hiv2m2stdw"


def golden_bytes() -> bytes:
    layout = GOLDEN / "oci-layout"
    tags = {
        m["annotations"]["org.opencontainers.image.ref.name"]: m
        for m in json.loads((layout / "index.json").read_text())["manifests"]
    }
    manifest = json.loads((layout / "blobs" / tags["index.spack"]["digest"].replace(":", "/")).read_bytes())
    return (layout / "blobs" / manifest["layers"][0]["digest"].replace(":", "/")).read_bytes()


def golden_packages() -> list:
    packages = []
    for entry in json.loads((GOLDEN / "oci-layout" / "index.json").read_text())["manifests"]:
        tag = entry["annotations"]["org.opencontainers.image.ref.name"]
        if tag.endswith(".spack") and tag != "index.spack":
            manifest = json.loads((GOLDEN / "oci-layout" / "blobs" / entry["digest"].replace(":", "/")).read_bytes())
            config = json.loads(
                (GOLDEN / "oci-layout" / "blobs" / manifest["config"]["digest"].replace(":", "/")).read_bytes()
            )
            document = parse_spec_document({"spec": config["spec"]}, tag)
            packages.append((document.root, document.graph))
    return packages


def all_indices() -> list[Path]:
    v2 = [GOLDEN / name / "build_cache" / "index.json" for name in ("v2-signed", "v2-unsigned")]
    v3 = []
    for name in ("v3-signed", "v3-unsigned", "v3-padded"):
        manifest = json.loads((GOLDEN / name / "v3" / "manifests" / "index" / "index.manifest.json").read_text())
        checksum = manifest["data"][0]["checksum"]
        v3.append(GOLDEN / name / "blobs" / "sha256" / checksum[:2] / checksum)
    return v2 + v3


@pytest.mark.parametrize("path", all_indices(), ids=lambda path: path.relative_to(GOLDEN).parts[0])
def test_every_golden_index_is_read_and_written_equal(path):
    index = open_index(path.read_bytes(), "index")
    assert {spec.hash for spec in index.packages()} == index.present()
    assert json.loads(index.to_bytes()) == json.loads(path.read_bytes())


def test_the_registry_index_is_written_byte_for_byte():
    assert open_index(golden_bytes(), "index").to_bytes() == golden_bytes()


def test_an_index_that_was_read_is_changed_like_one_that_was_made():
    packages = golden_packages()
    some, others = index_of(packages[:2]), index_of(packages[2:])
    stored = open_index(some.to_bytes(), "index")
    assert stored.merged(others).to_bytes() == some.merged(others).to_bytes()
    assert others.merged(stored).to_bytes() == others.merged(some).to_bytes()
    assert stored.holds(some)
    assert not stored.holds(others)
    assert [spec.describe() for spec in stored.packages()] == [spec.describe() for spec in some.packages()]


def test_nodes_of_an_opened_index_stay_as_somebody_wrote_them():
    spaced = json.dumps(json.loads(golden_bytes()), indent=1).encode()
    node = json.dumps(json.loads(golden_bytes())["database"]["installs"][GREET_20]["spec"], indent=1)
    written = open_index(spaced, "index").merged(EMPTY).to_bytes()
    assert json.loads(written) == json.loads(golden_bytes())
    assert node.replace("\n", "\n   " + " ").encode() in written


@pytest.mark.parametrize("members", [{"dependencies": {"lib": ["b" * 32, ["build"]]}}, {"dependencies": None}])
def test_nodes_of_unusual_shape_are_opened_too(members):
    node = json.loads(golden_bytes())["database"]["installs"][GREET_20]["spec"] | members
    opened = open_index(change(version="6", installs={GREET_20: {"spec": node}}), "index")
    assert opened.records[GREET_20].spec.hash == GREET_20
    assert list(opened.records[GREET_20].needs) == (["b" * 32] if members["dependencies"] else [])
    assert opened.present() == set()


def test_what_is_wrong_with_a_node_shows_when_it_is_asked_for():
    node = json.loads(golden_bytes())["database"]["installs"][GREET_20]["spec"] | {"arch": 1}
    opened = open_index(change(installs={GREET_20: {"spec": node}}), "index")
    with pytest.raises(ContentError, match=rf"index\.installs\.{GREET_20}.*arch"):
        _ = opened.records[GREET_20].spec


def test_an_index_made_from_the_packages_equals_the_one_spack_made():
    assert json.loads(index_of(golden_packages()).to_bytes()) == json.loads(golden_bytes())


def test_merging_adds_and_never_drops():
    whole = open_index(golden_bytes(), "index")
    some = index_of([pair for pair in golden_packages() if pair[0].name == "greetlib"])
    assert {spec.name for spec in some.packages()} == {"greetlib"}
    merged = some.merged(whole)
    assert json.loads(merged.to_bytes()) == json.loads(golden_bytes())
    assert whole.merged(some).to_bytes() == golden_bytes()
    assert EMPTY.merged(whole).to_bytes() == golden_bytes()


def test_a_dependency_that_arrives_later_becomes_a_package():
    greet = next(pair for pair in golden_packages() if pair[0].hash == GREET_20)
    before = index_of([greet])
    assert [spec.name for spec in before.packages()] == ["greet"]
    lib = next(spec for spec in before.graph.values() if spec.name == "greetlib")
    after = before.merged(index_of([(lib, greet[1])]))
    assert sorted(spec.name for spec in after.packages()) == ["greet", "greetlib"]


def test_unknown_members_survive():
    document = json.loads(golden_bytes())
    document["database"]["new"] = {"a": 1}
    document["database"]["installs"][GREET_20]["note"] = "kept"
    index = open_index(json.dumps(document).encode(), "index")
    written = json.loads(index.merged(EMPTY).to_bytes())["database"]
    assert written["new"] == {"a": 1}
    assert written["installs"][GREET_20]["note"] == "kept"


def change(**changes):
    document = json.loads(golden_bytes())
    document["database"].update(changes)
    return json.dumps(document).encode()


@pytest.mark.covers("B44")
@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"[]", "object"),
        (b'{"database": []}', "database"),
        (change(version="9"), "version '9'"),
        (change(version=8), "version"),
        (change(installs=[]), "installs"),
        (change(installs={"a" * 32: []}), "object"),
        (change(installs={"a" * 32: {"spec": {}}}), "name"),
        (change(installs={"a" * 32: json.loads(golden_bytes())["database"]["installs"][GREET_20]}), "holds the spec"),
    ],
)
def test_a_damaged_index_is_refused_naming_the_place(data, text):
    with pytest.raises(ContentError, match=text):
        open_index(data, "index")


def test_an_empty_graph_has_no_packages():
    assert list(EMPTY.packages()) == []
    assert EMPTY.graph == SpecGraph()


@pytest.mark.parametrize("record", [b"1", b"{}", b'{"spec":{"name":"a"}}', b'{"spec":{"hash":"x","name":"a"}}'])
def test_an_index_of_damaged_records_is_none(record):
    told = []
    data = b'{"database":{"version":"8","installs":{%b}}}'

    def some(count):
        return data % b",".join(b'"%032d":%b' % (number, record) for number in range(count))

    assert len(read_index(Spool.of(some(1000)), "it", lambda *each: told.append(each)).records) == 0
    assert len(told) == 1000
    with pytest.raises(ContentError, match=r"^it: more than 1000 of its records are damaged") as caught:
        read_index(Spool.of(some(30_000)), "it", lambda *each: told.append(each))
    assert "index rebuild" in words(caught.value.hint)
