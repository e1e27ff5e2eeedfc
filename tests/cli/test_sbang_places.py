"""The script that long interpreter lines need is where scripts look for it: in padded trees, in the same root, in images."""

import json
import shutil
import subprocess
import tarfile
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


def layers_of(path: Path, tag: str) -> list[dict[str, bytes]]:
    """The files of each layer of an image, by name."""
    entries = json.loads((path / "index.json").read_bytes())["manifests"]
    (entry,) = (e for e in entries if e["annotations"]["org.opencontainers.image.ref.name"] == tag)
    manifest = json.loads((path / "blobs" / entry["digest"].replace(":", "/")).read_bytes())
    found = []
    for layer in manifest["layers"]:
        with tarfile.open(path / "blobs" / layer["digest"].replace(":", "/")) as tar:
            found.append({m.name: tar.extractfile(m).read() for m in tar if m.isfile()})
    return found


def with_sbang(root: Path, *others: Sketch) -> Tree:
    (root / "bin").mkdir(parents=True)
    (root / "bin/sbang").write_text("#!/bin/sh\n# that of the tree\n")
    tree = spack_tree(root, [*tool(root / "bin/sbang"), *others])
    for script in tree.prefix("tool").glob("bin/*"):
        script.chmod(0o755)
    return tree


@pytest.mark.covers("P18")
@pytest.mark.parametrize("query", ["tool", "app"])
def test_scripts_of_an_image_find_their_sbang_in_it(query, tmp_path):
    root = tmp_path / "root"
    with_sbang(root, Sketch("app", files={"bin/app": "x"}, depends=["tool"]))
    ended = binpkg("push", f"oci-layout:{tmp_path}/c", query, "--store", root, "--tag", "mine")
    assert ended.code == 0, ended.err
    first, *others = layers_of(tmp_path / "c", "mine")
    assert list(first) == [f"{root}/bin/sbang".lstrip("/")]
    assert len(others) == (2 if query == "app" else 1)
    place = tmp_path / "unpacked"
    for layer in (first, *others):
        for name, data in layer.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(data)
    script = next(place.rglob("bin/tool"))
    line = script.read_text().splitlines()[0].removeprefix("#!/bin/sh ")
    (interp,) = place.rglob("bin/interp")
    interp.chmod(0o755)
    script.write_text(script.read_text().replace(str(root), f"{place}{root}"))
    started = subprocess.run(["/bin/sh", f"{place}{line}", script], capture_output=True, text=True, check=True)
    assert started.stdout.startswith("ran -x ")


@pytest.mark.covers("P18")
def test_the_layer_is_the_same_when_everything_was_there_and_the_image_can_be_installed(tmp_path):
    root, cache = tmp_path / "root", f"oci-layout:{tmp_path}/c"
    with_sbang(root)
    assert binpkg("push", cache, "tool", "--store", root, "--tag", "one", "--update-index").code == 0
    assert binpkg("image", cache, "tool", "--store", root, "--tag", "two").code == 0
    assert layers_of(tmp_path / "c", "one") == layers_of(tmp_path / "c", "two")
    ended = binpkg("install-image", f"{cache}:two", "--store", tmp_path / "s")
    assert ended.code == 0, ended.err
    (prefix,) = (tmp_path / "s").glob("linux-x86_64/tool-*")
    assert output(prefix).startswith("ran -x ")


@pytest.mark.covers("P18")
def test_an_image_without_such_scripts_has_no_layer_of_it(tmp_path):
    root = tmp_path / "root"
    tree = with_sbang(root, Sketch("plain", files={"bin/plain": "#!/bin/sh\necho {root}/bin/sbang\n"}))
    (tree.prefix("plain") / "bin/plain").chmod(0o755)
    assert binpkg("push", f"oci-layout:{tmp_path}/c", "plain", "--store", root, "--tag", "mine").code == 0
    assert len(layers_of(tmp_path / "c", "mine")) == 1
