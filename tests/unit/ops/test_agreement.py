"""`.spack/spec.json` in a layer agrees with the document that led to it, or the package is damaged."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from oci_binpkg.cache.mirror_v2 import MirrorV2Cache
from oci_binpkg.cache.oci import OciCache
from oci_binpkg.errors import ContentError
from oci_binpkg.model.spec_document import parse_spec_document
from oci_binpkg.objects.directory import FileObjects
from oci_binpkg.ops.unpack import MAX_BYTES, SPEC_FILE, check_spec_file
from oci_binpkg.signing.judge import BELIEVING
from oci_binpkg.store.layout import LayoutStore
from tests.support.golden import GOLDEN
from tests.support.memory_store import MemoryStore
from tests.support.mirrors import file_mirror
from tests.unit.ops.test_install import cache, installed, outcomes, pushed, target, tree

__all__ = ["cache", "tree"]  # fixtures


def spec_file(tree, name="zlib"):
    return tree.prefix(name) / SPEC_FILE


def change(tree, name, change):
    path = spec_file(tree, name)
    document = json.loads(path.read_text())
    change(document["spec"]["nodes"])
    path.write_text(json.dumps(document))


def refused(tree, tmp_path, name="zlib"):
    lying = pushed(tree, tmp_path, MemoryStore("lying"))
    report = installed(lying, target(tmp_path), name)
    assert report.packages[-1].error.exit_code == 10
    assert not list((tmp_path / "new").glob(f"linux*/{name}*"))
    return report.packages[-1].error.message


def test_the_document_of_another_package(tree, tmp_path):
    spec_file(tree).write_text(spec_file(tree, "cfg").read_text())
    assert "describes another package: cfg@" in refused(tree, tmp_path)


@pytest.mark.parametrize(
    "member",
    [{"parameters": {"shared": True}}, {"version": "1.4"}, {"namespace": "evil"}, {"more": 1}, {"arch": None}],
    ids=str,
)
def test_the_same_hash_over_another_description(tree, tmp_path, member):
    change(tree, "zlib", lambda nodes: nodes[0].update(member))
    assert SPEC_FILE in refused(tree, tmp_path)


def test_another_description_of_a_dependency(tree, tmp_path):
    change(tree, "app", lambda nodes: nodes[1].update(namespace="evil"))
    assert "describes" in refused(tree, tmp_path, "app")


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "nonsense", '{"spec": {"_meta": {"version": 5}, "nodes": []}}', '{"spec": 1, "spec": 2}', "[" * 99_999],
    ids=["empty", "list", "object", "no json", "no nodes", "twice", "deep"],
)  # fmt: skip
def test_what_is_no_document(tree, tmp_path, text):
    spec_file(tree).write_text(text)
    assert SPEC_FILE in refused(tree, tmp_path)


def test_a_link_in_its_place(tree, tmp_path):
    path = spec_file(tree)
    path.rename(path.with_name("other.json"))
    path.symlink_to("other.json")
    assert "is a symbolic link" in refused(tree, tmp_path)


def test_a_file_that_is_too_large_is_not_read(tree, tmp_path):
    with spec_file(tree).open("r+b") as file:
        os.ftruncate(file.fileno(), MAX_BYTES + 1)
    assert "is larger than" in refused(tree, tmp_path)


def test_the_next_cache_is_asked(tree, cache, tmp_path):
    right = spec_file(tree).read_text()
    spec_file(tree).write_text(spec_file(tree, "cfg").read_text())
    lying = pushed(tree, tmp_path / "other", MemoryStore("lying"))
    spec_file(tree).write_text(right)
    report = installed([lying, cache], target(tmp_path), "zlib")
    assert outcomes(report) == {"zlib": "installed"}
    assert "describes another package" in report.packages[0].passed_over[0]


@pytest.mark.parametrize("how", ["missing", "other order", "more nodes"])
def test_what_is_harmless_is_accepted(tree, tmp_path, how):
    path = spec_file(tree)
    document = json.loads(path.read_text())
    nodes = document["spec"]["nodes"]
    if how == "other order":
        nodes[0] = dict(reversed(nodes[0].items()))
    elif how == "more nodes":
        nodes.append(json.loads(spec_file(tree, "cfg").read_text())["spec"]["nodes"][0])
    path.write_text(json.dumps(document, indent=2))
    if how == "missing":
        path.unlink()
    report = installed(pushed(tree, tmp_path, MemoryStore("right")), target(tmp_path), "zlib")
    assert outcomes(report) == {"zlib": "installed"}


def test_a_document_of_another_format_says_the_same_if_names_versions_and_edges_do(tmp_path):
    arch = {"platform": "linux", "platform_os": "debian12", "target": "x86_64"}
    node = {"name": "zlib", "version": "1.3", "arch": arch, "hash": "z" * 32}

    def document(form, **members):
        return {"spec": {"_meta": {"version": form}, "nodes": [{**node, **members}]}}

    expected = parse_spec_document(document(5, annotations={"original_specfile_version": 4}), "expected")
    (tmp_path / ".spack").mkdir()
    path = tmp_path / SPEC_FILE
    path.write_text(json.dumps(document(4)))
    check_spec_file(str(tmp_path), expected)
    path.write_text(json.dumps(document(4, version="1.4")))
    with pytest.raises(ContentError, match="differently"):
        check_spec_file(str(tmp_path), expected)


@pytest.mark.parametrize("name", ["v3-signed", "v3-unsigned", "v3-padded", "v2-signed", "v2-unsigned", "oci-layout"])
def test_every_golden_layer_agrees_with_its_document(name, tmp_path):
    from oci_binpkg.archive.extract import extract_layer

    cache: Any
    if name == "oci-layout":
        cache = OciCache(LayoutStore(str(GOLDEN / name)), pause=lambda _: None)
    elif name.startswith("v2"):
        cache = MirrorV2Cache(FileObjects(str(GOLDEN / name)), verifier=BELIEVING)
    else:
        cache = file_mirror(GOLDEN / name, verifier=BELIEVING)
    for package_hash, locator in cache.hashes().items():
        entry = cache.entry(locator)
        place = str(tmp_path / package_hash)
        with entry.layer.blob.open() as stream:
            extracted = extract_layer(stream, place, "the layer")
        assert SPEC_FILE in extracted.files
        check_spec_file(place, entry.document)
