"""The commands about caches as a whole: index, copy, check, save-specs."""

import json
import shutil
from pathlib import Path

import pytest

from oci_binpkg.store.layout import LayoutStore
from tests.support.command_line import binpkg
from tests.support.golden import GOLDEN
from tests.support.spack_trees import Sketch, spack_tree

LAYOUT = f"oci-layout:{GOLDEN / 'oci-layout'}"


@pytest.fixture
def tree(tmp_path):
    sketches = [
        Sketch("zlib", "1.3", files={"lib/z": b"z"}, explicit=False),
        Sketch("app", "2.0", files={"bin/app": b"a"}, depends=["zlib"]),
        Sketch("tool", "1.0", files={"bin/tool": b"t"}),
    ]
    return spack_tree(tmp_path / "store", sketches)


@pytest.fixture
def cache(tmp_path):
    return f"oci-layout:{tmp_path / 'cache'}"


def names(cache):
    return [line.split()[1] for line in binpkg("find", "--from", cache).lines]


@pytest.mark.parametrize(
    "command", [["index", "update"], ["index", "rebuild"], ["index", "check"], ["copy"], ["check"], ["save-specs"]]
)
def test_every_command_has_an_example(command):
    ended = binpkg(*command, "-h")
    assert ended.code == 0
    assert f"\n    oci-binpkg {' '.join(command)}" in ended.out


def test_an_index_is_made_checked_and_brought_up_to_date(tree, cache, tmp_path):
    binpkg("push", cache, "app", "--store", tree.root)
    assert binpkg("index", "check", cache).code == 10
    updated = binpkg("index", "update", cache, "--json").json
    assert updated["written"]
    assert len(updated["unlisted"]) == 2
    assert binpkg("index", "check", cache).code == 0
    binpkg("push", cache, "tool", "--store", tree.root)
    report = binpkg("index", "check", cache)
    assert report.code == 10
    assert tree.hashes["tool"] in report.out
    assert "written" in binpkg("index", "update", cache).out
    assert "unchanged" in binpkg("index", "update", cache).out
    assert names(cache) == ["app@2.0", "tool@1.0", "zlib@1.3"]
    store = LayoutStore(str(tmp_path / "cache"))
    store.remove(next(tag for tag in store.tags() if tag.startswith("tool")))
    gone = binpkg("index", "check", cache)
    assert gone.code == 10
    assert "not there" in gone.out
    assert binpkg("index", "rebuild", cache).code == 1
    assert names(cache) == ["app@2.0", "zlib@1.3"]
    assert binpkg("index", "check", cache, "--json").json["vanished"] == []


def test_a_damaged_package_is_left_out_of_the_index_and_reported(tree, cache, tmp_path):
    binpkg("push", cache, "--store", tree.root, "--tag", "all")
    store = LayoutStore(str(tmp_path / "cache"))
    manifest = store.resolve("all")
    from oci_binpkg.model.content import Blob

    tag = next(tag for tag in store.tags() if tag.startswith("tool"))
    store.tag(Blob(manifest, lambda: store.open(manifest)), tag)
    rebuilt = binpkg("index", "rebuild", cache)
    assert rebuilt.code == 1
    assert f"damaged: {tag}" in rebuilt.out
    assert names(cache) == ["app@2.0", "zlib@1.3"]


def test_an_index_stays_as_it_is_if_no_package_can_be_read(tree, tmp_path):
    mirror = f"file://{tmp_path}/mirror"
    assert binpkg("push", mirror, "--store", tree.root, "--unsigned", "--update-index").code == 0
    before = binpkg("find", "--from", mirror).lines
    refused = binpkg("index", "rebuild", mirror)  # a mirror's packages count with a signature only
    assert refused.code == 10, refused.err
    assert "none of its 3 packages could be read, so its index stays as it is" in refused.err
    assert binpkg("find", "--from", mirror).lines == before
    assert binpkg("index", "rebuild", mirror, "--no-check-signature").code == 0


def test_a_whole_cache_is_copied_byte_for_byte(tmp_path):
    target = f"oci-layout:{tmp_path / 'copy'}"
    ended = binpkg("copy", LAYOUT, target)
    assert ended.code == 0, ended.err
    assert "6 copied, 0 there already" in ended.err
    source, copied = LayoutStore(str(GOLDEN / "oci-layout")), LayoutStore(str(tmp_path / "copy"))
    for tag in source.tags():
        if tag != "index.spack":
            assert copied.resolve(tag).digest == source.resolve(tag).digest
    assert names(target) == names(LAYOUT)
    again = binpkg("copy", LAYOUT, target, "--json").json
    assert (again["copied"], len(again["skipped"]), again["index_written"]) == ([], 6, False)


def test_some_packages_bring_what_they_need(tmp_path):
    target = f"oci-layout:{tmp_path / 'copy'}"
    assert binpkg("copy", LAYOUT, target, "greet@2.0").code == 0
    assert names(target) == ["greet@2.0", "greetcfg@0.9", "greetlib@1.2.0"]


def test_a_copy_that_fails_says_of_what(tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(GOLDEN / "oci-layout", damaged)
    (damaged / "blobs/sha256/08b3a9c0721b57343b1ed235f28d5b386a46faa97544916065264ca7dbe08ab7").write_bytes(b"x")
    ended = binpkg("copy", f"oci-layout:{damaged}", f"oci-layout:{tmp_path / 'copy'}")
    assert ended.code == 1
    assert "failed  greetcfg-0.9" in ended.out
    assert names(f"oci-layout:{tmp_path / 'copy'}") == ["greetlib@1.2.0", "greetlib@1.3.0"]


def test_check_tells_what_a_cache_lacks(tree, cache, tmp_path):
    binpkg("push", cache, "app", "--store", tree.root)
    ended = binpkg("check", "--store", tree.root, "--on", cache, "--output", tmp_path / "out" / "rebuilds.json")
    assert ended.code == 1
    assert [line.split()[1].split("/")[0] for line in ended.lines] == ["tool@1.0"]
    (answer,) = json.loads((tmp_path / "out" / "rebuilds.json").read_text()).values()
    assert answer["mirrorUrl"] == cache
    assert answer["rebuildSpecs"] == [
        {"short_spec": f"tool@1.0/{tree.hashes['tool'][:7]}", "hash": tree.hashes["tool"]}
    ]
    assert binpkg("check", "app", "--store", tree.root, "--on", cache).code == 0


def test_check_can_look_at_the_content(tree, cache, tmp_path):
    binpkg("push", cache, "--store", tree.root)
    (info,) = binpkg("inspect", f"{cache}:zlib-1.3-{tree.hashes['zlib']}.spack", "--json").json
    layer = tmp_path / "cache" / "blobs" / info["layers"][0]["digest"].replace(":", "/")
    data = bytearray(layer.read_bytes())
    data[60] ^= 1
    layer.write_bytes(data)
    assert binpkg("check", "--store", tree.root, "--on", cache).code == 0
    ended = binpkg("check", "--store", tree.root, "--on", cache, "--thorough", "--json")
    assert ended.code == 1
    assert [spec["hash"] for spec in ended.json[0]["rebuildSpecs"]] == [tree.hashes["zlib"]]


def test_saved_specs_name_exact_packages(tree, cache, tmp_path):
    binpkg("push", cache, "--store", tree.root)
    ended = binpkg("save-specs", "app", "--store", tree.root, "--output-dir", tmp_path / "specs")
    assert ended.code == 0, ended.err
    query, path = ended.out.split()
    assert query == f"app@=2.0/{tree.hashes['app']}"
    document = json.loads(Path(path).read_text())
    assert document["spec"]["nodes"][0]["hash"] == tree.hashes["app"]
    assert binpkg("install", query, "--from", cache, "--store", tmp_path / "new").code == 0
    rows = binpkg("save-specs", "greet", "--from", LAYOUT, "--output-dir", tmp_path / "specs", "--json").json
    assert len(rows) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["check", "--store", "{store}"], 2, "--on"),
        (["save-specs", "app", "--store", "{store}", "--from", LAYOUT], 2, "exclude"),
        (["copy", "oci-layout:/nowhere", "{cache}"], 6, "/nowhere"),
        (["index", "check", "oci-layout:/nowhere"], 6, "/nowhere"),
        (["index"], 2, "index"),
    ],
)
def test_what_is_wrong_is_said(tree, cache, arguments, code, text):
    ended = binpkg(*(word.format(store=tree.root, cache=cache) for word in arguments))
    assert ended.code == code, ended.err
    assert text in ended.err + ended.out


@pytest.mark.parametrize(
    "words",
    [
        "check {query} --store {store} --on {cache}",
        "check tool {query} --store {store} --on {cache}",
        "find {query} --from {cache}",
        "find {query} --from {mirror}",
        "find {query} other --store {store}",
        "copy {cache} {new} {query}",
        "copy {cache} {new} tool {query}",
        "copy {mirror} {new} {query}",
        "save-specs {query} --from {cache} --output-dir {out}",
        "save-specs tool {query} --from {mirror} --output-dir {out}",
        "save-specs {query} --store {store} --output-dir {out}",
        "verify-store {store} {query}",
        "verify-store {store} tool {query}",
        "show {query} --from {cache}",
        "download {query} {out} --from {cache}",
        "install {query} --from {cache} --store {new}",
        "uninstall {query} --store {store}",
        "index update {mirror} {query} --view some",
    ],
)
@pytest.mark.parametrize("query", ["zlip", "zlib@9", "^nothing", "/zzzzzzz"])
def test_a_query_that_matches_nothing_has_its_own_exit_code(tree, cache, tmp_path, words, query):
    mirror, out, new = (tmp_path / "mirror").as_uri(), tmp_path / "out", tmp_path / "new"
    assert binpkg("push", cache, "--store", tree.root, "--update-index").code == 0
    if "{mirror}" in words:
        assert binpkg("push", mirror, "--store", tree.root, "--update-index", "--unsigned").code == 0
    layout = f"oci-layout:{new}" if words.startswith("copy") else new
    ended = binpkg(
        *(
            word.format(query=query, store=tree.root, cache=cache, mirror=mirror, out=out, new=layout)
            for word in words.split()
        )
    )
    assert ended.code == 4, ended.err
    assert query in ended.err
    assert not out.exists()
    assert not (new / "index.json").exists()


def test_a_query_that_matches_nothing_names_what_is_near_and_leaves_a_document(tree, cache):
    binpkg("push", cache, "--store", tree.root, "--update-index")
    for place in (["--from", cache], ["--store", tree.root]):
        ended = binpkg("find", "zlip", *place, "--json")
        assert (ended.code, ended.json) == (4, [])
        assert "did you mean zlib?" in ended.err
        assert binpkg("find", "zlip", "tool", *place).code == 0  # what any of the queries means is listed
    assert "there is zlib@1.3" in binpkg("check", "zlib@9", "--store", tree.root, "--on", cache).err
