"""A folder with a packages.toml may name prefixes outside of it, and links: they are packed and stacked as what they are."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from oci_binpkg.archive.binary_distribution import Distribution
from tests.support.command_line import binpkg

ARCH = '[defaults]\narch = {platform = "linux", os = "debian12", target = "x86_64"}\n'
PLACES = {
    "absolute": ("{out}/lib", "{out}/app"),
    "links": ("lib-link", "app-link"),
    "beside a root that begins it": ("{root}-2/lib", "{root}-2/app"),
    "relative, above": ("../out/lib", "../out/app"),
}


@pytest.fixture(params=PLACES)
def tree(request, tmp_path):
    root, out = tmp_path / "tree", tmp_path / "out"
    root.mkdir()
    lib, app = (text.format(out=out, root=root) for text in PLACES[request.param])
    for name, text in (("lib", lib), ("app", app)):
        place = Path(os.path.normpath(root / text))
        real = out / f"real-{name}" if request.param == "links" else place
        (real / "bin").mkdir(parents=True)
        if real != place:
            place.symlink_to(real)
        script = real / f"bin/{name}"
        script.write_text(f"#!/bin/sh\ncat {os.path.normpath(root / lib)}/bin/lib | wc -l\n")
        script.chmod(0o755)
    (root / "packages.toml").write_text(
        f'{ARCH}[[package]]\nname="lib"\nversion="1"\nprefix="{lib}"\n'
        f'[[package]]\nname="app"\nversion="1"\nprefix="{app}"\ndepends=["lib"]\n'
    )
    return root, os.path.normpath(root / lib), os.path.normpath(root / app)


def config_of(path: Path, tag: str) -> dict:
    entries = json.loads((path / "index.json").read_bytes())["manifests"]
    (entry,) = (e for e in entries if e["annotations"]["org.opencontainers.image.ref.name"] == tag)
    manifest = json.loads((path / "blobs" / entry["digest"].replace(":", "/")).read_bytes())
    return json.loads((path / "blobs" / manifest["config"]["digest"].replace(":", "/")).read_bytes())["config"]


@pytest.mark.covers("P03")
@pytest.mark.parametrize("again", [False, True])
def test_path_leads_to_the_prefixes_and_nothing_is_lacking(tree, again, tmp_path):
    root, lib, app = tree
    if again:  # the layers are found in the cache, and no longer made
        assert binpkg("push", f"oci-layout:{tmp_path}/c", "--store", root).code == 0
    ended = binpkg("push", f"oci-layout:{tmp_path}/c", "app", "--store", root, "--tag", "mine")
    assert (ended.code, "cannot be stacked" in ended.err) == (0, False), ended.err
    made = config_of(tmp_path / "c", "mine")
    assert made["Env"][0] == f"PATH={app}/bin:{lib}/bin:/bin:/usr/bin"
    assert "io.oci-binpkg.missing" not in made.get("Labels", {})


@pytest.mark.covers("P03")
def test_the_relative_prefix_is_the_one_that_spack_records(tree, tmp_path):
    root, _, app = tree
    assert binpkg("push", f"oci-layout:{tmp_path}/c", "--store", root, "--update-index").code == 0
    ended = binpkg("install", "app", "--from", f"oci-layout:{tmp_path}/c", "--store", tmp_path / "store")
    assert ended.code == 0, ended.err
    assert "not used" not in ended.out
    (prefix,) = (tmp_path / "store").glob("linux-x86_64/app-*")
    said = Distribution.parse((prefix / ".spack/binary_distribution").read_bytes(), "app")
    assert said.relative_prefix == os.path.relpath(app, root)
    assert said.recorded_prefix == app
    assert subprocess.run([prefix / "bin/app"], capture_output=True, text=True, check=True).stdout.strip() == "2"
