"""Packages that were built with other dependencies than they have now: their archive is that of the build."""

import json

import pytest

from tests.support.command_line import binpkg
from tests.support.made_layouts import Layout, Package, node, spack_hash


def needing(name, edges, **members):
    """A node with edges that provide virtual packages: (node, virtuals)."""
    dependencies = [
        {"name": n["name"], "hash": n["hash"], "parameters": {"deptypes": ["link"], "virtuals": virtuals}}
        for n, virtuals in edges
    ]
    return node(name, dependencies=dependencies, **members)


Z1, Z2 = node("z", "1"), node("z", "2")
MPICH, OPENMPI = node("mpich"), node("openmpi")
BUILT = needing("lib", [(MPICH, ["mpi"]), (Z1, [])])


def spliced():
    made = needing("lib", [(OPENMPI, ["mpi"]), (Z2, [])], build_spec={"name": "lib", "hash": BUILT["hash"]})
    return {**made, "hash": spack_hash(made)[:-7] + BUILT["hash"][-7:]}


LIB = spliced()
OTHERS = (BUILT, MPICH, Z1, OPENMPI, Z2)
APP = node("app", needs=[LIB])


def place(of):
    return f"/opt/old/{of['name']}-{of['hash']}"


def archive(of, others, document):
    """The package as it was built, under the hash of `of`."""
    text = " ".join(place(each) for each in (BUILT, MPICH, Z1)).encode()
    spec = {"spec": {"_meta": {"version": 5}, "nodes": document}}
    return Package(
        of,
        others,
        files={"share/where": text, ".spack/spec.json": json.dumps(spec).encode()},
        prefix=place(BUILT),
        distribution={
            "hash_to_prefix": {each["hash"]: place(each) for each in (BUILT, MPICH, Z1)},
            "relocate_textfiles": ["share/where"],
        },
    )


@pytest.fixture(params=["under the hash of the build", "under its own hash"])
def cache(request, tmp_path):
    made = Layout(tmp_path / "c")
    if request.param == "under its own hash":
        made.add(archive(LIB, OTHERS, [BUILT, MPICH, Z1]))
    else:
        made.add(archive(BUILT, (MPICH, Z1), [BUILT, MPICH, Z1]))
    for each in (Z2, OPENMPI):
        made.add(Package(each, prefix=place(each)))
    made.add(Package(APP, (LIB, *OTHERS), prefix=place(APP)))
    return made


@pytest.mark.covers("P11")
def test_a_spliced_package_is_that_of_the_build_with_its_own_dependencies(cache, tmp_path):
    store = tmp_path / "s"
    ended = binpkg("install", f"app/{APP['hash'][:7]}", "--from", cache.name, "--store", store)
    assert ended.code == 0, ended.err
    prefixes = {path.name.rpartition("-")[2]: path for path in store.glob("linux-x86_64/*")}
    assert set(prefixes) == {each["hash"] for each in (APP, LIB, OPENMPI, Z2)}
    lib = prefixes[LIB["hash"]]
    assert (lib / "share/where").read_text().split() == [str(prefixes[e["hash"]]) for e in (LIB, OPENMPI, Z2)]
    nodes = json.loads((lib / ".spack/spec.json").read_text())["spec"]["nodes"]
    assert nodes[0] == LIB
    assert {each["hash"] for each in nodes} == {each["hash"] for each in (LIB, *OTHERS)}
    assert binpkg("verify-store", store).code == 0
    records = json.loads((store / ".spack-db/index.json").read_text())["database"]["installs"]
    assert (records[LIB["hash"]]["installed"], records[BUILT["hash"]]["installed"]) == (True, False)


@pytest.mark.covers("P11")
def test_a_spliced_package_that_was_installed_can_be_pushed_and_installed_again(cache, tmp_path):
    assert binpkg("install", "app", "--from", cache.name, "--store", tmp_path / "s").code == 0
    mine = f"oci-layout:{tmp_path}/mine"
    ended = binpkg("push", mine, "app", "--store", tmp_path / "s", "--update-index")
    assert ended.code == 0, ended.err
    ended = binpkg("install", "app", "--from", mine, "--store", tmp_path / "again")
    assert ended.code == 0, ended.err
    (where,) = (tmp_path / "again").glob("linux-x86_64/lib-*/share/where")
    assert [path.rpartition("/")[2].partition("-")[0] for path in where.read_text().split()] == ["lib", "openmpi", "z"]


def test_a_splice_that_no_package_speaks_of_is_not_found(tmp_path):
    made = Layout(tmp_path / "c")
    made.add(archive(BUILT, (MPICH, Z1), [BUILT, MPICH, Z1]))
    ended = binpkg("install", f"/{LIB['hash']}", "--from", made.name, "--store", tmp_path / "s")
    assert ended.code == 4
