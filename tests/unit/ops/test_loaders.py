"""Programs whose loader no layer of an image has."""

import shutil
from pathlib import Path

import pytest

from oci_binpkg.ops.loaders import without_loader
from tests.support.spack_trees import Sketch, spack_tree

PROGRAM = next(path for path in ("/bin/true", "/usr/bin/true", "/bin/ls") if Path(path).is_file())


@pytest.fixture
def records(tmp_path):
    tree = spack_tree(
        tmp_path / "store", [Sketch("tool", files={"bin/script": "#!/bin/sh\n", "lib/x": b"x"}), Sketch("none")]
    )
    for name in ("one", "two"):
        shutil.copy(PROGRAM, tree.prefix("tool") / "bin" / name)
    (tree.prefix("tool") / "bin" / "cut").write_bytes(Path(PROGRAM).read_bytes()[:100])
    (tree.prefix("tool") / "bin" / "loop").symlink_to("loop")
    return list(tree.installs().records())


def test_programs_of_a_missing_loader_are_named_together(records):
    (text,) = without_loader(records, lambda _path: False)
    assert text.startswith("no layer of the image has the interpreter '/lib")
    assert "bin/one of tool@1.0/" in text
    assert text.endswith("and 1 more cannot start")


def test_a_loader_in_the_base_or_in_a_package_is_there(records):
    asked: list[str] = []
    assert without_loader(records, lambda path: not asked.append(path)) == []
    assert len(asked) == 1


def test_what_is_no_program_of_this_kind_needs_none(tmp_path):
    tree = spack_tree(tmp_path / "store", [Sketch("tool", files={"bin/script": "#!/bin/sh\n", "sbin/x": b"\x7fELF"})])
    assert without_loader(list(tree.installs().records()), lambda _path: False) == []
