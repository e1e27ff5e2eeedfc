"""Opening a directory: its kind is found out, padding is walked through, anything else is explained."""

from pathlib import Path

import pytest

from oci_binpkg.errors import InstallsError
from oci_binpkg.installs.open import open_installs
from oci_binpkg.installs.packages_toml import PrefixInstalls
from oci_binpkg.installs.protocol import without_padding
from oci_binpkg.installs.spack import SpackInstalls
from tests.support.spack_trees import Sketch, spack_tree

PACKAGES = (
    '[[package]]\nname = "a"\nversion = "1"\nprefix = "."\narch = {platform = "linux", os = "x", target = "x86_64"}\n'
)


def test_a_spack_tree(tmp_path: Path) -> None:
    spack_tree(tmp_path, [Sketch("a")])
    installs = open_installs(str(tmp_path), spack_prefix="/opt/spack")
    assert isinstance(installs, SpackInstalls)
    assert (installs.root, installs.spack_prefix) == (str(tmp_path), "/opt/spack")


def test_a_folder_with_a_packages_file(tmp_path: Path) -> None:
    (tmp_path / "packages.toml").write_text(PACKAGES)
    installs = open_installs(str(tmp_path))
    assert isinstance(installs, PrefixInstalls)
    assert [record.spec.name for record in installs.records()] == ["a"]


def test_a_relative_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spack_tree(tmp_path / "store", [])
    monkeypatch.chdir(tmp_path)
    assert open_installs("store").root == str(tmp_path / "store")


def test_a_padded_root_is_found_from_above(tmp_path: Path) -> None:
    padded = tmp_path / "__spack_path_placeholder__" / "__spack_path_placeholder__" / "__spack_path_pl"
    spack_tree(padded, [Sketch("a")])
    assert open_installs(str(tmp_path)).root == str(padded)
    assert open_installs(str(padded)).root == str(padded)


def test_neither_kind(tmp_path: Path) -> None:
    with pytest.raises(InstallsError, match="holds no packages") as caught:
        open_installs(str(tmp_path))
    assert ".spack-db/index.json" in caught.value.hint
    assert "packages.toml" in caught.value.hint


def test_no_directory(tmp_path: Path) -> None:
    with pytest.raises(InstallsError, match="none: is not a directory"):
        open_installs(str(tmp_path / "none"))


def test_both_kinds(tmp_path: Path) -> None:
    spack_tree(tmp_path, [])
    (tmp_path / "packages.toml").write_text(PACKAGES)
    with pytest.raises(InstallsError, match="in one directory"):
        open_installs(str(tmp_path))


@pytest.mark.parametrize(
    ("root", "expected"),
    [
        ("/opt/s", "/opt/s"),
        ("/opt/s/__spack_path_placeholder__", "/opt/s"),
        ("/opt/s/__spack_path_placeholder__/__spack_path_placeholder__/_", "/opt/s"),
        ("/opt/s/__spack_path_pl", "/opt/s"),
        ("/opt/__spack", "/opt/__spack"),
        ("/opt/_", "/opt/_"),
        ("/__spack_path_placeholder__", "/__spack_path_placeholder__"),
    ],
)
def test_padding_is_known_by_its_whole_components(root, expected):
    assert without_padding(root) == expected
