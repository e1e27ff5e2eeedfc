"""Names that are bytes and no text travel like any other, and are shown escaped; what no install takes is not pushed."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from oci_binpkg.archive import tar_writer
from tests.support.command_line import Ended, binpkg
from tests.support.elf_files import RUNPATH, ElfFile
from tests.support.spack_trees import Sketch, Tree, spack_tree

LATIN = b"caf\xe9"
CUT = b"caf\xc3"
EUC = b"\xc6\xfc\xcb\xdc%.txt"
CESU = b"\xed\xb3\xa9"
RAW = (LATIN, CUT, EUC, CESU, b"\xff" * 250)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    made = spack_tree(tmp_path / "tree", [Sketch("app", files={"etc/conf": "{prefix}\n"})])
    prefix = os.fsencode(made.prefix("app"))
    for name in RAW:
        with open(prefix + b"/etc/" + name, "wb") as file:
            file.write(b"see " + prefix + b"/etc/" + name + b"\n")
    os.mkdir(prefix + b"/" + LATIN)
    with open(prefix + b"/" + LATIN + b"/prog", "wb") as file:
        file.write(ElfFile(names=[(RUNPATH, prefix + b"/lib")]).build())
    os.link(prefix + b"/" + LATIN + b"/prog", prefix + b"/" + CUT)
    os.symlink(prefix + b"/" + LATIN, prefix + b"/to-" + LATIN)
    os.symlink(LATIN + b"/prog", prefix + b"/beside-" + EUC)
    return made


def pushed(tree: Tree, cache: str, *more: object) -> Ended:
    return binpkg("push", cache, "--store", tree.root, "--update-index", "--json", *more)


def installed(cache: str, root: Path, *more: str) -> bytes:
    ended = binpkg("install", "app", "--from", cache, "--store", root, *more)
    assert ended.code == 0, ended.err
    (found,) = root.glob("*/app-*")
    return os.fsencode(found)


def check(prefix: bytes) -> None:
    for name in RAW:
        with open(prefix + b"/etc/" + name, "rb") as file:
            assert file.read() == b"see " + prefix + b"/etc/" + name + b"\n"
    with open(prefix + b"/" + LATIN + b"/prog", "rb") as file:
        assert prefix + b"/lib" in file.read()
    assert os.path.samefile(prefix + b"/" + LATIN + b"/prog", prefix + b"/" + CUT)
    assert os.readlink(prefix + b"/to-" + LATIN) == prefix + b"/" + LATIN
    assert os.readlink(prefix + b"/beside-" + EUC) == LATIN + b"/prog"


@pytest.mark.parametrize("place", ["oci-layout:{0}/cache", "file://{0}/mirror"])
def test_names_travel_as_the_bytes_they_are(tree: Tree, tmp_path: Path, place: str) -> None:
    cache = place.format(tmp_path)
    is_mirror = place.startswith("file")
    assert pushed(tree, cache, *(["--unsigned"] if is_mirror else [])).code == 0
    prefix = installed(cache, tmp_path / "s", *(["--no-check-signature"] if is_mirror else []))
    check(prefix)
    verified = binpkg("verify-store", tmp_path / "s")
    assert verified.code == 0, verified.out
    again = f"oci-layout:{tmp_path}/again"
    assert binpkg("push", again, "--store", tmp_path / "s", "--update-index").code == 0
    check(installed(again, tmp_path / "another-root-that-is-longer"))


def test_a_second_push_takes_the_layer_that_is_there(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = pushed(tree, f"oci-layout:{tmp_path}/one").json["packages"]
    monkeypatch.setattr(tar_writer, "write_tar", None)  # nothing is packed again
    second = pushed(tree, f"oci-layout:{tmp_path}/two").json["packages"]
    assert [each["digest"] for each in first] == [each["digest"] for each in second]


def test_what_is_wrong_with_such_a_file_is_said_escaped(tree: Tree, tmp_path: Path) -> None:
    cache = f"oci-layout:{tmp_path}/cache"
    assert pushed(tree, cache).code == 0
    prefix = installed(cache, tmp_path / "s")
    os.unlink(prefix + b"/etc/" + LATIN)
    text, document = binpkg("verify-store", tmp_path / "s"), binpkg("verify-store", tmp_path / "s", "--json")
    assert (text.code, document.code) == (10, 10)
    assert r"etc/caf\xe9" in text.out
    (finding,) = document.json[0]["findings"]
    assert "caf" in finding["path"]


def test_others_read_the_same_names(tree: Tree, tmp_path: Path) -> None:
    assert pushed(tree, f"oci-layout:{tmp_path}/cache").code == 0
    blobs = [path for path in (tmp_path / "cache/blobs/sha256").iterdir() if tarfile.is_tarfile(path)]
    (layer,) = blobs
    with tarfile.open(layer) as archive:
        names = {os.fsencode(name).rpartition(b"/")[2] for name in archive.getnames()}
    assert set(RAW) <= names
    out = subprocess.run(["tar", "-tf", layer, "--quoting-style=literal"], check=True, capture_output=True).stdout
    assert set(RAW) <= {line.rpartition(b"/")[2] for line in out.split(b"\n")}


@pytest.mark.parametrize("name", [".wh.", ".wh..wh..opq", ".wh.caf\udce9"])
def test_names_that_delete_in_images_are_refused_at_push(tree: Tree, tmp_path: Path, name: str) -> None:
    (tree.prefix("app") / "etc" / name).write_text("")
    ended = pushed(tree, f"oci-layout:{tmp_path}/cache")
    assert ended.code != 0
    assert "etc/.wh." in ended.err
    assert "\udce9" not in ended.err


def test_a_prefix_below_such_a_name_is_refused_at_push(tmp_path: Path) -> None:
    tree = spack_tree(tmp_path / ".wh.store", [Sketch("app", files={"f": "1"})])
    ended = pushed(tree, f"oci-layout:{tmp_path}/cache")
    assert ended.code != 0
    assert "deletes another file" in ended.err


def test_names_that_differ_only_by_case_are_fine(tmp_path: Path) -> None:
    tree = spack_tree(tmp_path / "tree", [Sketch("app", files={"a/README": "1", "a/readme": "2", "A/ReadMe": "3"})])
    assert pushed(tree, f"oci-layout:{tmp_path}/cache").code == 0
    prefix = installed(f"oci-layout:{tmp_path}/cache", tmp_path / "s")
    found = {name: Path(os.fsdecode(prefix), name).read_text() for name in ("a/README", "a/readme", "A/ReadMe")}
    assert found == {"a/README": "1", "a/readme": "2", "A/ReadMe": "3"}
