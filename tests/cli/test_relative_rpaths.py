"""Archives that Spack made with relative rpaths once: paths between prefixes lead to the same packages again."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from oci_binpkg.archive.binary_distribution import Distribution, Relocations
from tests.support.command_line import binpkg
from tests.support.elf_files import RPATH, RUNPATH, ElfFile, load
from tests.support.spack_trees import Sketch, Tree, spack_tree

SKETCHES = (Sketch("zlib", files={"lib/libz.so": "z"}), Sketch("app", files={"share/x": "{prefix}"}, depends=["zlib"]))


def as_spack_did(self: Distribution, relocations: Relocations | None = None) -> bytes:
    """Write the document of an archive as `spack buildcache create --rel` did, before hard links were deduplicated."""
    found = relocations or Relocations()
    document = {
        "sbang_install_path": self.sbang_install_path,
        "relative_rpaths": True,
        "buildpath": self.buildpath,
        "spackprefix": self.spackprefix,
        "relative_prefix": self.relative_prefix,
        "relocate_textfiles": list(found.textfiles),
        "relocate_binaries": list(found.binaries),
        "relocate_links": list(found.links),
        "prefix_to_hash": {path: key for key, path in self.hash_to_prefix.items()},
    }
    return json.dumps(document).encode() + b"\n"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    monkeypatch.setattr(Distribution, "to_bytes", as_spack_did)
    made = spack_tree(tmp_path / "tree", SKETCHES)
    deeper = made.root / "linux-debian12-x86_64/gcc-12.2.0/zlib-1.0-abcdefg"
    deeper.parent.mkdir(parents=True)
    made.prefix("zlib").rename(deeper)
    path = made.root / ".spack-db/index.json"
    document = json.loads(path.read_text())
    document["database"]["installs"][made.hashes["zlib"]]["path"] = str(deeper)
    path.write_text(json.dumps(document))
    return made


def add_program(tree: Tree, name: str, tag: int, rpath: str) -> None:
    """Write a program of `app`; `{zlib}` in its search path is where zlib is, seen from the program."""
    path = tree.prefix("app") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    zlib = os.path.relpath(tree.root / "linux-debian12-x86_64/gcc-12.2.0/zlib-1.0-abcdefg", path.parent)
    path.write_bytes(ElfFile(names=[(tag, rpath.format(zlib=zlib).encode())]).build())
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("name", "tag", "rpath", "kept"),
    [
        ("bin/tool", RPATH, "$ORIGIN/{zlib}/lib", ""),
        ("bin/tool", RUNPATH, "$ORIGIN/../lib:$ORIGIN/{zlib}/lib:$ORIGIN/../lib64", "$ORIGIN/../lib"),
        ("libexec/deep/er/tool", RUNPATH, "${{ORIGIN}}/{zlib}/lib", ""),
        ("lib/libapp.so", RPATH, "$ORIGIN:$ORIGIN/{zlib}/lib", "$ORIGIN"),
    ],
)
def test_relative_search_paths_lead_to_the_packages_as_placed(
    tree: Tree, tmp_path: Path, name: str, tag: int, rpath: str, kept: str
) -> None:
    add_program(tree, name, tag, rpath)
    cache, store = f"oci-layout:{tmp_path}/cache", tmp_path / "store"
    assert binpkg("push", cache, "--store", tree.root, "--update-index").code == 0

    ended = binpkg("install", "app", "--from", cache, "--store", store)

    assert ended.code == 0, ended.err
    assert "relative rpaths" in ended.out + ended.err
    (app,), (zlib,) = store.glob("*/app-*"), store.glob("*/zlib-*")
    (found,) = load((app / name).read_bytes()).texts(tag)
    paths = found.decode().split(":")
    places = [
        os.path.normpath(each.replace("${ORIGIN}", "$ORIGIN").replace("$ORIGIN", str(app / name / "..")))
        for each in paths
    ]
    assert str(zlib / "lib") in places
    assert len(paths) == rpath.count(":") + 1
    assert not kept or paths[0] == kept
    assert all(each.startswith(("$ORIGIN", "${ORIGIN}")) for each in paths)
