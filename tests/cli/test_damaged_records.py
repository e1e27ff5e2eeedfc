"""One damaged record of an index spoils itself alone, whatever the verb; it is named, and the others are there."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from tests.support.command_line import binpkg
from tests.support.spack_trees import Sketch, spack_tree


@pytest.fixture
def layout(tmp_path) -> Path:
    """A layout with `app`, which needs nothing, and `bad`, whose record in the index says another thing about its target."""
    tree = spack_tree(tmp_path / "store", [Sketch("app", files={"x": b"x"}), Sketch("bad", files={"x": b"x"})])
    cache = tmp_path / "cache"
    assert binpkg("push", f"oci-layout:{cache}", "--store", tree.root, "--update-index").code == 0
    names = json.loads((cache / "index.json").read_bytes())
    entry = next(e for e in names["manifests"] if "index.spack" in e["annotations"].values())
    manifest = json.loads(blob(cache, entry["digest"]).read_bytes())
    index = json.loads(blob(cache, manifest["layers"][0]["digest"]).read_bytes())
    index["database"]["installs"][tree.hashes["bad"]]["spec"]["arch"]["target"] = "/../../elsewhere"
    manifest["layers"][0] |= put(cache, json.dumps(index).encode())
    entry |= put(cache, json.dumps(manifest).encode())
    (cache / "index.json").write_text(json.dumps(names))
    return cache


def blob(cache: Path, digest: str) -> Path:
    return cache / "blobs" / digest.replace(":", "/")


def put(cache: Path, data: bytes) -> dict[str, object]:
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    blob(cache, digest).write_bytes(data)
    return {"digest": digest, "size": len(data)}


@pytest.mark.parametrize(
    "words",
    [
        ["find", "--from", "{cache}"],
        ["find", "--from", "{cache}", "@1.0"],
        ["show", "app", "--from", "{cache}"],
        ["copy", "{cache}", "oci-layout:{place}/copy"],
        ["copy", "{cache}", "file://{place}/mirror", "--unsigned"],
        ["copy", "{cache}", "oci-layout:{place}/some", "app"],
        ["save-specs", "app", "--from", "{cache}", "--output-dir", "{place}/specs"],
        ["save-specs", "@1.0", "--from", "{cache}", "--output-dir", "{place}/specs"],
        ["install", "app", "--from", "{cache}", "--store", "{place}/new"],
        ["download", "app", "{place}/files", "--from", "{cache}"],
        ["inspect", "{cache}"],
    ],
    ids=" ".join,
)
def test_what_is_not_damaged_is_served(layout, tmp_path, words):
    ended = binpkg(*(word.format(cache=f"oci-layout:{layout}", place=tmp_path) for word in words))
    assert ended.code == 0, ended.err
    assert "app" in ended.out


def test_a_copy_says_what_is_damaged_and_has_the_rest(layout, tmp_path):
    ended = binpkg("copy", f"oci-layout:{layout}", f"oci-layout:{tmp_path}/copy")
    assert ended.code == 0
    assert "is damaged and left out" in ended.err
    listed = binpkg("find", "--from", f"oci-layout:{tmp_path}/copy")
    assert "app@1.0" in listed.out
