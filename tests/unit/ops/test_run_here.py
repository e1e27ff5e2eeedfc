"""What an image says of its surroundings leads nowhere else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from oci_binpkg.errors import ContentError
from oci_binpkg.model.content import Digest
from oci_binpkg.model.manifest import ImageConfig
from oci_binpkg.namespaces.sandbox import Sandbox
from oci_binpkg.ops import run_here
from oci_binpkg.ops.run_options import RunOptions


def sandbox(config: dict[str, object], env: tuple[str, ...] = ()) -> Sandbox:
    described = ImageConfig("amd64", "linux", "", (Digest.of(b""),), (), env, {}, {"config": config})
    return run_here._sandbox(described, RunOptions(["x"]), [], "/scratch", "the image")


@pytest.mark.parametrize("said", ["/../../../tmp/evil", "../../tmp/evil", "/a/../../tmp/evil", "//tmp/evil/."])
def test_the_directory_of_an_image_stays_inside(said: str, tmp_path: Path) -> None:
    assert sandbox({"WorkingDir": said}).directory == "/tmp/evil"
    root = tmp_path / "a/b/root"
    root.mkdir(parents=True)
    run_here._make_place(str(root), said, is_directory=True)
    assert (root / "tmp/evil").is_dir()
    assert os.listdir(tmp_path / "a/b") == ["root"]
    assert os.listdir(tmp_path) == ["a"]


def test_without_one_it_is_the_root() -> None:
    assert sandbox({}).directory == "/"


def test_a_variable_with_a_nul_is_refused() -> None:
    with pytest.raises(ContentError, match="NUL"):
        sandbox({}, ("A=b\0c",))
