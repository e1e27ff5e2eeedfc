"""The script that long interpreter lines need is where scripts look for it: in padded trees, in the same root, in images."""

import shutil
import subprocess
from pathlib import Path

import pytest

from oci_binpkg.archive.binary_distribution import Distribution
from tests.support.command_line import binpkg
from tests.support.spack_trees import Sketch, Tree, spack_tree

PADDING = "__spack_path_placeholder__/" * 3 + "__spack_path_pl"


def tool(sbang: Path) -> list[Sketch]:
    script = f"#!/bin/sh {sbang}\n#!{{prefix}}/bin/interp -x\nbody\n"
    return [Sketch("tool", files={"bin/interp": '#!/bin/sh\necho ran "$@"\n', "bin/tool": script})]


def pushed(root: Path, sketches: list[Sketch], cache: str) -> Tree:
    tree = spack_tree(root, sketches)
    for script in tree.prefix("tool").glob("bin/*"):
        script.chmod(0o755)
    ended = binpkg("push", cache, "--store", root, "--update-index")
    assert ended.code == 0, ended.err
    return tree


def output(prefix: Path) -> str:
    return subprocess.run([prefix / "bin/tool"], capture_output=True, text=True, check=True).stdout


@pytest.mark.covers("P23")
def test_a_padded_tree_records_the_sbang_of_its_unpadded_root_and_scripts_find_the_new_one(tmp_path):
    base, cache = tmp_path / "base", f"oci-layout:{tmp_path}/c"
    pushed(base / PADDING, tool(base / "bin/sbang"), cache)
    ended = binpkg("install", "tool", "--from", cache, "--store", tmp_path / "s", "--allow-stale")
    assert ended.code == 0, ended.err
    (prefix,) = (tmp_path / "s").glob("linux-x86_64/tool-*")
    head = (prefix / "bin/tool").read_text().splitlines()[0]
    assert head == f"#!/bin/sh {tmp_path / 's'}/bin/sbang"
    assert output(prefix).startswith("ran -x ")
    layers = [path.read_bytes() for path in (tmp_path / "c/blobs/sha256").iterdir()]
    assert layers
    said = Distribution.parse((prefix / ".spack/binary_distribution").read_bytes(), "tool")
    assert said.sbang_install_path == f"{base}/bin/sbang"


@pytest.mark.covers("P23")
def test_an_install_into_a_padded_tree_puts_sbang_where_spack_does(tmp_path):
    cache = f"oci-layout:{tmp_path}/c"
    pushed(tmp_path / "old", tool(tmp_path / "old/bin/sbang"), cache)
    ended = binpkg("install", "tool", "--from", cache, "--store", tmp_path / "new" / PADDING)
    assert ended.code == 0, ended.err
    (prefix,) = (tmp_path / "new" / PADDING).glob("linux-x86_64/tool-*")
    assert (tmp_path / "new/bin/sbang").is_file()
    assert output(prefix).startswith("ran -x ")


@pytest.mark.covers("P23")
@pytest.mark.parametrize("padding", ["", PADDING])
def test_an_install_into_the_same_root_brings_sbang_when_a_script_needs_it(padding, tmp_path):
    root, cache = tmp_path / "root", f"oci-layout:{tmp_path}/c"
    tree = pushed(root / padding, tool(root / "bin/sbang"), cache)
    prefix = tree.prefix("tool")
    shutil.rmtree(root)
    ended = binpkg("install", "tool", "--from", cache, "--store", root / padding)
    assert ended.code == 0, ended.err
    assert output(prefix).startswith("ran -x ")


@pytest.mark.covers("P23")
def test_an_install_into_the_same_root_brings_none_where_no_script_needs_it(tmp_path):
    root, cache = tmp_path / "root", f"oci-layout:{tmp_path}/c"
    pushed(root, [Sketch("tool", files={"bin/tool": "#!/bin/sh\necho {prefix}\n"})], cache)
    shutil.rmtree(root)
    assert binpkg("install", "tool", "--from", cache, "--store", root).code == 0
    assert not (root / "bin").exists()
